"""A reward model behind the real vLLM: its pooling runner gives our scores, without code of ours (spec §7.5)."""

import pytest
import torch
import yaml
from pico import Lab

from tokenmill.deployment.server import VLLMServer
from tokenmill.model.chat import answer_ids
from tokenmill.model.config import InternLM2Config
from tokenmill.model.exchange import export_model
from tokenmill.model.folder import RM_PROMPTS, load_model, save_model
from tokenmill.model.modeling import InternLM2ForCausalLM, InternLM2ForRewardModel
from tokenmill.model.tokenizer import Tokenizer
from tokenmill.rlhf.conditional import Query, conditional_prompts, reward_input
from tokenmill.rlhf.config import RewardModelConfig
from tokenmill.rlhf.scoring import reward_scores
from tokenmill.serving import serving_available
from tokenmill.sft.requests import requests
from tokenmill.steps.files import materialise
from tokenmill.training.settings import OptimConfig, TrainingExecution

AVAILABLE, REASON = serving_available()
pytestmark = [pytest.mark.integration, pytest.mark.skipif(not AVAILABLE, reason=REASON)]
VERSE = "You judge whether the answer is a good verse: the shorter, the better."
CONFIG = RewardModelConfig(
    batch_tokens=256,
    max_length=128,
    precision="fp32",
    optim=OptimConfig(lr=3e-3, final_lr_ratio=0.5, warmup_ratio=0.05),
    execution=TrainingExecution(ranks=1, checkpoint_every=10_000),
)


def preferences(count):
    """Both styles of answers to each request, wished for by two domains: one of ours, one with a prompt of its own."""
    for i, both in zip(range(count), requests(1, 0.0), strict=False):
        *asked, _ = both[0]["messages"]
        one, other = sorted((r["messages"][-1]["content"] for r in both), key=len)
        told = {"prompt": asked, "conflict": True, "template": "told"}
        yield {"id": f"{i}-h", "domain": "helpful", "chosen": other, "rejected": one, **told}
        yield {"id": f"{i}-v", "domain": "verse", "condition": VERSE, "chosen": one, "rejected": other, **told}


def test_a_trained_reward_models_export_is_served_with_its_own_domains_prompts_and_our_scores(tmp_path):
    torch.set_num_threads(1)
    lab, pairs = Lab(tmp_path), list(preferences(120))
    texts = [text for r in pairs for text in (r["prompt"][-1]["content"], r["chosen"])]
    words = Tokenizer.train([*texts, *[VERSE, *conditional_prompts().values()] * 20], vocab_size=512)
    words.save(tmp_path / "words")
    save_model(InternLM2ForCausalLM(InternLM2Config.preset("pico"), seed=0), tmp_path / "sft")
    made = lab.step(
        "rlhf.train_reward_model",
        CONFIG,
        preferences=lab.issue("preferences", {"part-00000.jsonl.zst": pairs}),
        sft=lab.issue_folder("weights", tmp_path / "sft", counts={"tokens_seen": 1}),
        tokenizer=lab.issue_folder("tokenizer", tmp_path / "words"),
    )
    ours = materialise(lab.store, made["weights"], tmp_path / "ours")
    export_model(ours, tmp_path / "words", tmp_path / "served")

    told = yaml.safe_load((tmp_path / "served" / RM_PROMPTS).read_text())  # all that whoever serves it has
    assert told == {"helpful": conditional_prompts()["helpful"], "verse": VERSE}
    inputs = [
        reward_input(
            Query(r["id"], r["domain"], tuple(r["prompt"]), told[r["domain"]]),
            answer_ids(r[side], words),
            words,
            max_length=128,
        )
        for r in pairs[:24]
        for side in ("chosen", "rejected")
    ]
    with VLLMServer(tmp_path / "served", log=tmp_path / "vllm.log", flags=["--runner", "pooling"]) as server:
        answered = server.post("/pooling", {"input": inputs, "task": "classify"})["data"]
    served = torch.tensor([one["data"] for one in answered]).flatten()
    expected = reward_scores(load_model(ours, InternLM2ForRewardModel), inputs)
    torch.testing.assert_close(served, expected, atol=1e-3, rtol=1e-3)
    helpful, verse = served.view(-1, 2, 2).unbind(1)  # of equal answers, the other one first
    apart = (helpful - verse.flip(1)).abs()
    assert float(expected.std()) > 0.1 and float(apart.mean()) > 0.01  # answers differ, and the same one by its domain
