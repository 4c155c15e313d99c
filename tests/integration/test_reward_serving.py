"""A reward model behind the real vLLM: its pooling runner gives our scores, without code of ours (spec §7.5)."""

from dataclasses import replace

import pytest
import torch

from tokenmill.deployment.server import VLLMServer
from tokenmill.model.chat import answer_ids
from tokenmill.model.config import InternLM2Config
from tokenmill.model.exchange import export_model
from tokenmill.model.folder import save_model
from tokenmill.model.modeling import InternLM2ForRewardModel
from tokenmill.model.tokenizer import Tokenizer
from tokenmill.rlhf.conditional import Query, conditional_prompts, reward_input
from tokenmill.rlhf.scoring import reward_scores
from tokenmill.serving import serving_available

AVAILABLE, REASON = serving_available()
pytestmark = [pytest.mark.integration, pytest.mark.skipif(not AVAILABLE, reason=REASON)]


def test_served_scores_are_ours_at_the_reward_token(tmp_path):
    torch.set_num_threads(1)
    texts = [*conditional_prompts().values(), "How do I paint the wall? First get ready, then paint it."]
    words = Tokenizer.train(texts * 20, vocab_size=512)
    shape = replace(InternLM2Config.preset("pico"), reward_token_id=words.reward_id, max_position_embeddings=256)
    judge = InternLM2ForRewardModel(shape, seed=2)
    with torch.no_grad():
        judge.v_head.weight *= 100  # scores far apart, and beyond what a sigmoid leaves
    save_model(judge, tmp_path / "ours")
    words.save(tmp_path / "words")
    export_model(tmp_path / "ours", tmp_path / "words", tmp_path / "served")

    asked = ({"role": "user", "content": "How do I paint the wall?"},)
    answers = [answer_ids(text, words) for text in ("First get ready.", "Then paint it, and get ready first.")]
    inputs = [
        reward_input(Query("q", domain, asked), answer, words, max_length=256)
        for domain in ("helpful", "harmless")
        for answer in answers
    ]
    with VLLMServer(tmp_path / "served", log=tmp_path / "vllm.log", flags=["--runner", "pooling"]) as server:
        served = [one["data"] for one in server.post("/pooling", {"input": inputs, "task": "classify"})["data"]]
    expected = reward_scores(judge, inputs)
    assert float(expected.std()) > 0.1
    torch.testing.assert_close(torch.tensor(served).flatten(), expected, atol=1e-3, rtol=1e-3)
