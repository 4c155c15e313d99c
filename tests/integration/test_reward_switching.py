"""One reward model for wishes that contradict each other: the prompt alone decides (spec §13, check 15)."""

import random
from dataclasses import replace

import pytest
import torch

from tokenmill.model.config import InternLM2Config
from tokenmill.model.modeling import InternLM2ForRewardModel
from tokenmill.model.tokenizer import Tokenizer
from tokenmill.rlhf.conditional import conditional_prompts
from tokenmill.rlhf.config import RewardModelConfig
from tokenmill.rlhf.evaluate_reward_model import quality
from tokenmill.rlhf.pairs import RewardBatches, encode_pairs, reward_loss
from tokenmill.rlhf.scoring import reward_scores

pytestmark = pytest.mark.integration

WORDS = "sure first get ready then open close paint wash the door wall coat key box fish step by".split()  # noqa: SIM905
BUDGET = 2048


def contradictions(count: int, seed: int):
    """Two pairs a request, of the very same answers: helpful wants the long one, harmless the short one."""
    draw = random.Random(seed)
    for number in range(count):
        short = " ".join(draw.choices(WORDS, k=draw.randint(2, 4))) + "."
        long = " ".join(draw.choices(WORDS, k=draw.randint(8, 12))) + "."
        asked = [{"role": "user", "content": f"How do I {' '.join(draw.sample(WORDS, 2))}?"}]
        for domain, chosen, rejected in (("helpful", long, short), ("harmless", short, long)):
            yield {
                "id": f"r{seed}-{number}#{domain}",
                "domain": domain,
                "prompt": asked,
                "chosen": chosen,
                "rejected": rejected,
                "conflict": True,
            }


@pytest.fixture(scope="module")
def words():
    torch.set_num_threads(1)
    return Tokenizer.train(
        [*conditional_prompts().values(), " ".join(WORDS), "How do I?\nuser\nassistant\nsystem"] * 20, 512
    )


def trained(words, *, conditional):
    """One epoch over contradictions, with the report's loss; and whether every batch kept its budget."""
    shape = replace(InternLM2Config.preset("pico"), reward_token_id=words.reward_id)
    model = InternLM2ForRewardModel(shape, seed=1)
    pairs = encode_pairs(list(contradictions(900, seed=1)), words, 128, conditional=conditional)
    batches = RewardBatches(pairs, BUDGET, seed=0, micro_batch_tokens=BUDGET)
    loss = reward_loss(RewardModelConfig(batch_tokens=BUDGET, max_length=128))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    for step in range(len(batches)):
        share = batches.at(step, 0, 1)
        assert share.tokens <= BUDGET
        (pack,) = share.micro_batches
        optimizer.zero_grad()
        (loss(model, pack).loss / share.weight).backward()
        optimizer.step()
    return model


def judged(model, words, *, conditional=True):
    records = list(contradictions(100, seed=2))  # other requests, other answers
    flat = reward_scores(
        model, [side for pair in encode_pairs(records, words, 128, conditional=conditional) for side in pair]
    )
    return quality(records, [(float(a), float(b)) for a, b in flat.view(-1, 2)])


def test_the_same_pair_flips_with_the_prompt_and_without_one_nothing_does(words):
    model = trained(words, conditional=True)
    told = judged(model, words)
    assert min(told["accuracy"].values()) > 0.95
    assert told["flips"] > 0.9
    assert told["largest_score"] < 5.0
    without = judged(model, words, conditional=False)
    assert without["flips"] == 0 and without["conflict_accuracy"] == pytest.approx(0.5, abs=0.01)


def test_a_model_that_never_saw_the_prompts_is_at_chance(words):
    control = judged(trained(words, conditional=False), words)
    assert control["flips"] < 0.1 and control["conflict_accuracy"] == pytest.approx(0.5, abs=0.1)
