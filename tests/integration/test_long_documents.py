"""Long documents, judged by a small model that was trained here for seconds (spec check 9), with its negative control.

A tale is about one house of eight; most of the people in it are of that house. A few lines show which house it may be,
many lines which it is: so in a tale the far context helps, and in a text that is joined from pieces of many tales it
suggests the wrong people.
"""

import math
import random
import re
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import orjson
import pytest
from pico import Lab

from tokenmill.curation.config import SelectLongConfig
from tokenmill.curation.long_context import perplexity_difference, window_perplexities
from tokenmill.records import JSONL, read_jsonl

pytestmark = pytest.mark.integration

WINDOW, TAIL, STEPS, ROWS, VOCABULARY = 256, 16, 160, 8, 512
SYLLABLES = ("ba", "de", "gi", "ko", "lu", "ma", "ne", "pi")
NAMES = [f"{a}{b}".capitalize() for a in SYLLABLES for b in SYLLABLES]
HOUSES = [NAMES[i::8] for i in range(8)]
TEMPLATES = (
    "{} met {} and {} because {} knew {}",
    "then {} said that {} saw {} and {}",
    "but {} gave {} to {} and {}",
    "so {} and {} and {} slept although {} came",
)


def sentence(draw: random.Random, house: int) -> str:
    template = draw.choice(TEMPLATES)
    people = [draw.choice(HOUSES[house] if draw.random() < 0.6 else NAMES) for _ in range(template.count("{}"))]
    return template.format(*people) + ".\n"


def tale(seed: int, sentences: int) -> str:
    draw = random.Random(seed)
    house = draw.randrange(8)
    return "".join(sentence(draw, house) for _ in range(sentences))


def joined(seed: int, sentences: int, piece: int = 5) -> str:
    """Pieces of as many tales, one after the other, each of another house than the last: a badly joined text."""
    draw = random.Random(seed)
    houses = [draw.randrange(8)]
    while len(houses) * piece < sentences:
        houses.append((houses[-1] + draw.randrange(1, 8)) % 8)
    return "".join("".join(sentence(draw, house) for _ in range(piece)) for house in houses)


@dataclass(frozen=True)
class Judge:
    model: Any
    untrained: Any
    tokenizer: Any

    def differences(self, texts: list[str], model: Any = None) -> list[float]:
        ids = map(self.tokenizer.encode, texts)
        return [perplexity_difference(model or self.model, list(one), WINDOW, TAIL) for one in ids]


@pytest.fixture(scope="module")
def judge() -> Judge:
    import torch

    from tokenmill.model import IGNORE
    from tokenmill.model.config import InternLM2Config
    from tokenmill.model.modeling import InternLM2ForCausalLM
    from tokenmill.model.tokenizer import Tokenizer

    torch.set_num_threads(1)
    tokenizer = Tokenizer.train([tale(seed, 12) for seed in range(200)], vocab_size=VOCABULARY)
    config = replace(
        InternLM2Config.preset("pico"), num_hidden_layers=1, vocab_size=VOCABULARY, max_position_embeddings=WINDOW
    )
    model, untrained = (InternLM2ForCausalLM(config, seed=1) for _ in range(2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, betas=(0.9, 0.95))
    draw = random.Random(0)
    ends = torch.arange(0, (ROWS + 1) * WINDOW, WINDOW, dtype=torch.int32)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = 1e-2 * min(1, (step + 1) / 20) * (1 - 0.9 * step / STEPS)
        texts = [tale(draw.randrange(10**5, 10**9), 40) for _ in range(ROWS)]
        ids = torch.tensor([tokenizer.encode(text)[:WINDOW] for text in texts])
        labels = torch.cat((ids[:, 1:], torch.full((ROWS, 1), IGNORE)), dim=1)
        loss = model(ids.flatten(), ends, labels=labels.flatten()).sum() / (ROWS * (WINDOW - 1))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return Judge(model.eval(), untrained.eval(), tokenizer)


def test_a_tale_is_kept_and_a_joined_text_is_not_and_an_untrained_model_sees_no_difference(judge):
    tales, splices = [tale(seed, 500) for seed in range(10)], [joined(seed, 500) for seed in range(10)]
    natural, spliced = judge.differences(tales), judge.differences(splices)
    assert fmean(natural) < 0 and max(natural) < min(spliced) and min(spliced) > 0
    # the control: what has learned nothing has no opinion
    gap = fmean(spliced) - fmean(natural)
    control = fmean(judge.differences(splices, judge.untrained)) - fmean(judge.differences(tales, judge.untrained))
    assert abs(control) < gap / 10


def test_the_difference_is_that_of_two_readings_one_by_one(judge):
    """Oracle: log-softmax of the model's logits, one window at a time, without packing."""
    import torch

    ids = judge.tokenizer.encode(tale(3, 70))
    assert len(ids) > 2 * WINDOW
    expected = []
    for start in (0, WINDOW):
        chunk = ids[start : start + WINDOW]
        pair = []
        for context in (chunk, chunk[-2 * TAIL :]):
            with torch.no_grad():
                logs = judge.model(torch.tensor(context)).log_softmax(-1)
            rows = torch.arange(len(context) - TAIL - 1, len(context) - 1)
            pair.append(math.exp(-float(logs[rows, torch.tensor(context[-TAIL:])].mean())))
        expected.append(pair)
    for batch_tokens in (1, 100_000):
        found = window_perplexities(judge.model, ids[: 2 * WINDOW + 30], WINDOW, TAIL, batch_tokens)
        assert found == [pytest.approx(pair, rel=1e-4) for pair in expected]
    difference = perplexity_difference(judge.model, ids[: 2 * WINDOW + 30], WINDOW, TAIL)
    assert difference == pytest.approx(fmean(far - near for far, near in expected), rel=1e-3)


def test_of_many_windows_some_are_read_evenly_spread(judge):
    ids = list(range(3, 3 + 9 * WINDOW))
    ids = [1 + i % 400 for i in ids]
    every = window_perplexities(judge.model, ids, WINDOW, TAIL)
    some = window_perplexities(judge.model, ids, WINDOW, TAIL, most=3)
    assert len(every) == 9 and some == [pytest.approx(every[i], rel=1e-4) for i in (0, 4, 8)]
    assert len(window_perplexities(judge.model, ids, WINDOW, TAIL, most=20)) == 9


def test_the_step_keeps_tales_and_drops_the_rest_each_for_its_reason(judge, tmp_path):
    from tokenmill.model.folder import save_model

    def record(name: str, text: str, kind: str = "book", lang: str = "en") -> dict:
        return {"id": name, "text": text, "type": kind, "lang": lang, "source": "made", "path": name, "scores": {}}

    def code(text: str) -> str:
        """The same people without a conjunction."""
        return re.sub(r"\b(?:and|because|then|but|so|although|that)\b", "", text)

    long, short = 500, 60
    records = [record(f"tale{i}", tale(100 + i, long)) for i in range(4)]
    records += [record(f"joined{i}", joined(100 + i, long)) for i in range(4)]
    records += [record(f"short{i}", tale(200 + i, short)) for i in range(3)]
    records += [record("list", code(tale(300, long))), record("module", code(tale(300, long)), "code", "python")]
    shards = {f"type=book/lang=en/part-00000{JSONL}": [r for r in records if r["type"] == "book"]}
    shards[f"type=code/lang=python/part-00000{JSONL}"] = [r for r in records if r["type"] == "code"]

    lab = Lab(tmp_path)
    save_model(judge.model, tmp_path / "judge")
    judge.tokenizer.save(tmp_path / "words")
    inputs = {
        "corpus": lab.issue("corpus", shards),
        "weights": lab.issue_folder("weights", tmp_path / "judge"),
        "tokenizer": lab.issue_folder("tokenizer", tmp_path / "words"),
    }
    # so few words: the vocabulary of these tales is what the statistics would call poor
    settings = {
        "execution": {"workers": 1},
        "min_bytes": 8_000,
        "window": WINDOW,
        "tail": TAIL,
        "statistics": {"*/*": {"segment_ttr": None}, "code/*": {"segment_ttr": None}},
    }
    config = SelectLongConfig.at("curation.select_long", settings | {"thresholds": {"code/*": 1e6}})
    made = lab.step("curation.select_long", config, **inputs)

    def read(shards) -> list[dict]:
        return [row for shard in shards for row in read_jsonl(lab.store.blob_path(shard.blob))]

    kept, dropped = read(made["corpus"].shards), read(made["corpus"].aside)
    assert {r["id"] for r in kept} == {"tale0", "tale1", "tale2", "tale3", "module"}
    assert made["corpus"].dropped == {"far_context_distracts": 4, "short": 3, "connective_rate": 1}
    assert made["corpus"].counts["in"] == len(kept) + len(dropped) == len(records)
    assert all(r["long"]["ppl_difference"] < 0 and r["long"]["windows"] > 10 for r in kept if r["type"] == "book")
    assert {r["id"] for r in dropped if "text" not in r} == {"short0", "short1", "short2"}
    (poor,) = [r for r in dropped if r["id"] == "list"]
    assert poor["dropped"]["value"] < poor["dropped"]["threshold"] == 0.01

    review = orjson.loads(lab.store.get_blob(made["review"].shard("review.json").blob))
    books = next(domain for domain in review if domain["type"] == "book")
    assert (books["kept"]["documents"], books["dropped"]["documents"], books["threshold"]) == (4, 4, 0.0)
    nearest = [abs(sample["ppl_difference"]) for sample in books["dropped"]["nearest"]]
    assert nearest == sorted(nearest) and len(nearest) == 4
    page = lab.store.get_blob(made["review"].shard("review.html").blob).decode()
    assert "book/en: 4 kept, 4 dropped at 0" in page and "joined2" in page

    # a domain's threshold decides
    strict = SelectLongConfig.at("curation.select_long", settings | {"thresholds": {"book/en": -1e6, "code/*": 1e6}})
    again = lab.step("curation.select_long", strict, **inputs)["corpus"]
    assert again.dropped == {"far_context_distracts": 8, "short": 3, "connective_rate": 1}
