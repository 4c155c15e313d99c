"""Long documents, judged by a small model that was trained here for seconds (spec check 9), with its negative control.

A tale has a cast of its own, drawn from many names. Near context shows some of the cast, far context all of it: so in a
tale the far context helps, and in a text joined from pieces of many tales it suggests the wrong people.
"""

import random
from dataclasses import replace
from statistics import fmean

import pytest
from pico import Lab

from tokenmill.curation.config import SelectLongConfig
from tokenmill.curation.long_context import perplexity_difference, window_perplexities
from tokenmill.records import JSONL, read_jsonl

pytestmark = pytest.mark.integration

WINDOW, TAIL, STEPS = 256, 48, 260
SYLLABLES = ("ba", "de", "gi", "ko", "lu", "ma", "ne", "pi", "ro", "su", "ta", "ve")
NAMES = [f"{a}{b}".capitalize() for a in SYLLABLES for b in SYLLABLES]
TEMPLATES = (
    "{} met {} and {} because the rain had come",
    "then {} said that {} knew {} although nobody asked",
    "{} gave bread to {} but {} was gone",
    "while {} slept {} and {} went to the river",
)


def sentence(draw: random.Random, cast: list[str]) -> str:
    return draw.choice(TEMPLATES).format(*(draw.choice(cast) for _ in range(3))) + ".\n"


def tale(seed: int, sentences: int) -> str:
    draw = random.Random(seed)
    cast = draw.sample(NAMES, 6)
    return "".join(sentence(draw, cast) for _ in range(sentences))


def joined(seed: int, sentences: int, piece: int = 7) -> str:
    """Pieces of as many tales, one after the other: a badly joined text."""
    draw = random.Random(seed)
    parts = []
    while len(parts) * piece < sentences:
        cast = draw.sample(NAMES, 6)
        parts.append("".join(sentence(draw, cast) for _ in range(piece)))
    return "".join(parts)


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    """(trained model, its tokenizer, the same model untrained)."""
    import torch

    from tokenmill.model import IGNORE
    from tokenmill.model.config import InternLM2Config
    from tokenmill.model.modeling import InternLM2ForCausalLM
    from tokenmill.model.tokenizer import Tokenizer

    torch.set_num_threads(1)
    tokenizer = Tokenizer.train([tale(seed, 12) for seed in range(200)], vocab_size=768)
    config = replace(InternLM2Config.preset("pico"), vocab_size=768, max_position_embeddings=WINDOW)
    model, untrained = (InternLM2ForCausalLM(config, seed=1) for _ in range(2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, betas=(0.9, 0.95))
    draw = random.Random(0)
    rows = 8
    ends = torch.arange(0, (rows + 1) * WINDOW, WINDOW, dtype=torch.int32)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = 4e-3 * min(1, (step + 1) / 20) * (1 - 0.9 * step / STEPS)
        texts = [tale(draw.randrange(10_000, 10**9), 26) for _ in range(rows)]
        ids = torch.tensor([tokenizer.encode(text)[:WINDOW] for text in texts])
        labels = torch.cat((ids[:, 1:], torch.full((rows, 1), IGNORE)), dim=1)
        loss = model(ids.flatten(), ends, labels=labels.flatten()).sum() / (rows * (WINDOW - 1))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval(), tokenizer, untrained.eval()


def differences(model, tokenizer, texts) -> list[float]:
    return [perplexity_difference(model, tokenizer.encode(text), WINDOW, TAIL) for text in texts]


def test_a_tale_is_kept_and_a_joined_text_is_not_and_an_untrained_model_sees_no_difference(judge):
    model, tokenizer, untrained = judge
    tales, splices = [tale(seed, 120) for seed in range(8)], [joined(seed, 120) for seed in range(8)]
    natural, spliced = differences(model, tokenizer, tales), differences(model, tokenizer, splices)
    print(natural, spliced, differences(untrained, tokenizer, tales), differences(untrained, tokenizer, splices))
    assert max(natural) < 0 < min(spliced)
    # the control: what has learned nothing has no opinion
    gap = fmean(spliced) - fmean(natural)
    control = fmean(differences(untrained, tokenizer, splices)) - fmean(differences(untrained, tokenizer, tales))
    assert abs(control) < gap / 10
