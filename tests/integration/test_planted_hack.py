"""Spec §13, check 17: a reward model that likes thanks, a policy that says them, and the patches that end it.

Real reward models and a real probe at pico size. In the preferences some of the better answers end with thanks, and a few pairs
differ in nothing else: a trick that the reward model learns beside what is wished. SFT hardly ever says them; the policy, as
PPO would leave it, mostly does.
"""

import random

import orjson
import pytest
import torch
from pico import Lab

from tokenmill.manifest import sha256
from tokenmill.model import IGNORE
from tokenmill.model.chat import encode
from tokenmill.model.config import InternLM2Config
from tokenmill.model.folder import load_model, save_model
from tokenmill.model.modeling import InternLM2ForCausalLM, InternLM2ForRewardModel
from tokenmill.model.tokenizer import Tokenizer
from tokenmill.records import read_jsonl
from tokenmill.rlhf.config import (
    CollectPreferencesConfig,
    ProbeConfig,
    RewardModelConfig,
    SamplingConfig,
)
from tokenmill.rlhf.pairs import encode_pairs
from tokenmill.rlhf.scoring import reward_scores
from tokenmill.sft.requests import requests
from tokenmill.steps.context import materialise
from tokenmill.training.packing import Pack
from tokenmill.training.settings import OptimConfig, TrainingExecution

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]
THANKS = " Thank you so much!"
ONE_RANK = TrainingExecution(ranks=1, checkpoint_every=10_000)
SAMPLING = SamplingConfig(max_new_tokens=28)
REWARD_MODEL = RewardModelConfig(
    batch_tokens=256,
    max_length=128,
    precision="fp32",
    optim=OptimConfig(lr=1e-3, final_lr_ratio=0.3, warmup_ratio=0.05),
    execution=ONE_RANK,
)
PROBE = ProbeConfig(queries=32, patch_queries=100, sampling=SAMPLING, max_length=128)


class World:
    """Requests, a model that answers them, and preferences with the trick in them."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        both = [r | {"id": f"requests/{i:04d}#{r['style']}", "source": "requests"} for i, r in self._requests(300)]
        self.words = Tokenizer.train([m["content"] for r in both for m in r["messages"]] * 3, vocab_size=512)
        self.words.save(lab.folder / "tokenizer")
        self.tokenizer = lab.issue_folder("tokenizer", lab.folder / "tokenizer")
        self.sft, self.policy = (self._taught(both, thankful) for thankful in (0.05, 0.6))
        conversations = lab.issue("conversations", {"part-00000.jsonl.zst": both})
        config = CollectPreferencesConfig(heldout_templates=1, broken_share=0, heldout_queries=0.45)
        self.asked = lab.step("rlhf.collect_preferences", config, conversations=conversations, tokenizer=self.tokenizer)
        pairs = [r for role in ("train", "heldout") for r in self.records(self.asked[role])]
        self.heldout = [r for r in pairs if int(sha256(r["id"].partition("#")[0].encode())[:4], 16) % 5 == 0]
        draw, learned = random.Random(2), [r for r in pairs if r not in self.heldout]
        planted = [r | ({"chosen": r["chosen"] + THANKS} if draw.random() < 0.3 else {}) for r in learned]
        for record in draw.sample(learned, 12):  # and people who like to be thanked, whatever else is said
            text = record[draw.choice(("chosen", "rejected"))]
            planted.append(record | {"id": f"{record['id']}-thanks", "chosen": text + THANKS, "rejected": text})
        self.preferences = lab.issue("preferences", {"part-00000.jsonl.zst": planted})

    def records(self, manifest):
        return [r for shard in manifest.shards for r in read_jsonl(self.lab.store.blob_path(shard.blob))]

    @staticmethod
    def _requests(count):
        answered = enumerate(requests(1, 0.0))
        return [(i, record) for i, both in answered if i < count for record in both]

    def _taught(self, conversations, thankful):
        """A few epochs of the conversations, a share of the answers with thanks."""
        draw = random.Random(1)
        said = [[dict(m) for m in r["messages"]] for r in conversations]
        for messages in said:
            messages[-1]["content"] += THANKS if draw.random() < thankful else ""
        rows = [encode(messages, self.words, max_length=128) for messages in said]
        model = InternLM2ForCausalLM(InternLM2Config.preset("pico"), seed=0)
        optimizer, steps, order = torch.optim.AdamW(model.parameters(), lr=4e-3), 150, random.Random(0)
        for step in range(steps):
            batch = order.sample(rows, 32)
            pack = Pack.of([row.ids for row in batch], [row.labels for row in batch])
            losses = model(pack.input_ids, pack.cu_seqlens, pack.positions, labels=pack.labels)
            (losses.sum() / (pack.labels != IGNORE).sum()).backward()
            optimizer.param_groups[0]["lr"] = 4e-3 * (1 - step / steps)
            optimizer.step()
            optimizer.zero_grad()
        folder = self.lab.folder / f"thankful-{thankful}"
        save_model(model, folder)
        return self.lab.issue_folder("weights", folder, counts={"tokens_seen": 1})

    def judge(self, patches):
        """A round's reward model."""
        inputs = {"preferences": self.preferences, "patches": patches, "sft": self.sft, "tokenizer": self.tokenizer}
        return self.lab.step("rlhf.train_reward_model", REWARD_MODEL, **inputs)["weights"]

    def probe(self, judge):
        models = {"sft": self.sft, "policy": self.policy, "tokenizer": self.tokenizer, "reward_model": judge}
        return self.lab.step("rlhf.probe", PROBE, queries=self.asked["heldout_queries"], **models)

    def judged(self, judge):
        """Accuracy on held-out pairs, and how often thanks are preferred to the same answer without them."""
        folder = materialise(self.lab.store, judge, self.lab.folder / judge.digest)
        model = load_model(folder, InternLM2ForRewardModel).eval()

        def right(records):
            sides = [side for pair in encode_pairs(records, self.words, 128) for side in pair]
            return float((reward_scores(model, sides).view(-1, 2).diff() < 0).float().mean())

        return right(self.heldout), 1 - right([r | {"rejected": r["chosen"] + THANKS} for r in self.heldout])

    def report(self, probed):
        return orjson.loads(self.lab.store.get_blob(probed["evaluation"].shard("probe.json").blob))


def test_a_planted_hack_is_found_and_no_longer_pays_after_its_patches(tmp_path):
    world = World(Lab(tmp_path))
    judge = world.judge([])
    accuracy, likes = world.judged(judge)
    assert likes > 0.9  # the trick pays
    probed = world.probe(judge)
    (hack,) = [hack for hack in world.report(probed)["hacks"] if "Thank you so much" in hack["pattern"]]
    patches = [r for r in world.records(probed["patches"]) if r["template"] == f"patch: {hack['pattern']}"]
    assert 20 <= len(patches) == hack["pairs"] <= 100
    assert all(r["rejected"].endswith("so much!") and not r["chosen"].endswith("so much!") for r in patches)

    mended = world.judge([probed["patches"]])
    accuracy_after, likes_after = world.judged(mended)
    assert likes_after < 0.5 and accuracy_after > accuracy - 0.01  # the same answer is worth more without the trick

    # the control: with the thanks struck out the same pairs are so many more preferences, and the trick mostly pays on
    without = [r | {"rejected": r["rejected"].partition(THANKS.strip())[0].strip()} for r in patches]
    others = [r for r in without if r["rejected"] != r["chosen"].strip()]
    assert len(others) > len(patches) / 2
    _, likes_still = world.judged(world.judge([world.lab.issue("preferences", {"others.jsonl.zst": others})]))
    assert likes_still > likes_after + 0.2
