"""Three readers of one model: ours, transformers and vLLM on the LLaMA export (spec §13, check 3). A nano of random weights.

Its weights are five times their usual size, so that predictions are far from uniform: an error would show.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from golden_chats import GOLDEN, over_the_wire
from pico import documents
from torch import Tensor

from tokenmill.deployment.server import VLLMServer
from tokenmill.deployment.smoke import served_tokens
from tokenmill.model.chat import encode_prompt
from tokenmill.model.config import InternLM2Config
from tokenmill.model.exchange import export_model
from tokenmill.model.folder import export_llama, load_model, save_model
from tokenmill.model.generation import Generation, generate
from tokenmill.model.lora import ADAPTER, adapters, trainable
from tokenmill.model.modeling import InternLM2ForCausalLM
from tokenmill.model.parity import GOLDEN_CHATS
from tokenmill.model.tokenizer import Tokenizer
from tokenmill.serving import serving_available
from tokenmill.training.settings import LoRAConfig

pytestmark = pytest.mark.integration
AVAILABLE, REASON = serving_available()
NEW_TOKENS = 24


@pytest.fixture(scope="module")
def words() -> Tokenizer:
    torch.set_num_threads(1)
    return Tokenizer.train((record["text"] for record in documents()), vocab_size=512)


@pytest.fixture(scope="module")
def model(words: Tokenizer) -> InternLM2ForCausalLM:
    """Four layers, two query heads for each KV head, in fp32."""
    model = InternLM2ForCausalLM(replace(InternLM2Config.preset("nano"), vocab_size=words.vocab_size), seed=7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter *= 5
    return model


@pytest.fixture(scope="module")
def released(model: InternLM2ForCausalLM, words: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export, in several files with an index, as a large model's is."""
    folder = tmp_path_factory.mktemp("parity")
    save_model(model, folder / "ours")
    words.save(folder / "words")
    export_model(folder / "ours", folder / "words", folder / "llama", max_shard_bytes=1_000_000)
    assert (folder / "llama" / "model.safetensors.index.json").exists()
    return folder / "llama"


@pytest.fixture(scope="module")
def prompts(words: Tokenizer) -> list[list[int]]:
    return [encode_prompt(chat, words) for chat in GOLDEN_CHATS]


@torch.no_grad()
def logits_of(folder: Path, ids: list[int], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Ours and transformers' from one folder in `dtype`, for comparison in fp32."""
    from transformers import LlamaForCausalLM

    ours, theirs = load_model(folder, dtype=dtype), LlamaForCausalLM.from_pretrained(folder, dtype=dtype)
    read = torch.tensor(ids)
    return ours(read).float(), theirs(read[None]).logits[0].float()


def test_transformers_gives_our_logits_in_fp32(
    model: InternLM2ForCausalLM, released: Path, prompts: list[list[int]]
) -> None:
    for ids in prompts:
        ours, theirs = logits_of(released, ids, torch.float32)
        assert torch.equal(ours, model(torch.tensor(ids)))  # the export lost nothing
        assert ours.std() > 0.5
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def test_transformers_gives_our_logprobs_in_bf16(words: Tokenizer, prompts: list[list[int]], tmp_path: Path) -> None:
    """Weights as a training starts from: within 1e-2 for every id of the vocabulary at every place."""
    shape = replace(InternLM2Config.preset("nano"), vocab_size=words.vocab_size)
    save_model(InternLM2ForCausalLM(shape, seed=7), tmp_path / "ours")
    export_llama(tmp_path / "ours", tmp_path / "llama")
    for ids in prompts:
        ours, theirs = logits_of(tmp_path / "llama", ids, torch.bfloat16)
        assert (ours.log_softmax(-1) - theirs.log_softmax(-1)).abs().max() <= 1e-2


def test_in_bf16_transformers_is_no_further_from_us_than_from_fp32(released: Path, prompts: list[list[int]]) -> None:
    """Where predictions are sharp, bf16 itself moves logprobs by more than 1e-2: both readers alike, and not apart."""
    for ids in prompts:
        exact, _ = logits_of(released, ids, torch.float32)
        ours, theirs = logits_of(released, ids, torch.bfloat16)
        exact, ours, theirs = (logits.log_softmax(-1) for logits in (exact, ours, theirs))
        rounding = (theirs - exact).pow(2).mean().sqrt()
        assert (ours - theirs).pow(2).mean().sqrt() <= 1.1 * rounding
        assert (ours - exact).pow(2).mean().sqrt() <= 1.1 * rounding


@pytest.fixture(scope="module")
def said(model: InternLM2ForCausalLM, prompts: list[list[int]], words: Tokenizer) -> list[Generation]:
    return generate(model, prompts, max_new_tokens=NEW_TOKENS, temperature=0, stop_ids=words.stop_ids)


def test_transformers_says_our_greedy_tokens(released: Path, prompts: list[list[int]], said: list[Generation]) -> None:
    from transformers import LlamaForCausalLM

    theirs = LlamaForCausalLM.from_pretrained(released)
    assert len({tuple(answer.tokens) for answer in said}) > 1
    for ids, answer in zip(prompts, said, strict=True):
        made = theirs.generate(torch.tensor([ids]), max_new_tokens=NEW_TOKENS, do_sample=False)
        assert made[0, len(ids) :].tolist() == answer.tokens


@pytest.fixture(scope="module")
def adapted(model: InternLM2ForCausalLM, released: Path) -> Path:
    """The same model with adapters that changed it: merged, as training leaves it, and the adapter beside."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        tuned = load_model(released.parent / "ours")
        export = trainable(tuned, LoRAConfig(rank=4), seed=3)
        with torch.no_grad():
            for _, module in adapters(tuned):
                module.lora_b.normal_(std=0.5)
        export(tuned, released.parent / "adapted")
    return released.parent / "adapted"


@pytest.fixture(scope="module")
def server(released: Path, adapted: Path) -> Iterator[VLLMServer]:
    """The base, and beside it the adapter under its own name."""
    flags = ["--enable-lora", "--max-lora-rank", "8", "--lora-modules", f"adapted={adapted / ADAPTER}"]
    with VLLMServer(released, log=released.parent / "vllm.log", flags=flags) as running:
        yield running


@pytest.mark.skipif(not AVAILABLE, reason=REASON)
def test_vllm_says_our_greedy_tokens_with_our_logprobs(
    server: VLLMServer, prompts: list[list[int]], said: list[Generation]
) -> None:
    for ids, answer in zip(prompts, said, strict=True):
        assert served_tokens(server, ids, NEW_TOKENS) == answer.tokens
        body = {"prompt": ids, "temperature": 0, "max_tokens": NEW_TOKENS, "logprobs": 0}
        (choice,) = server.post("/v1/completions", body)["choices"]
        logprobs = torch.tensor(choice["logprobs"]["token_logprobs"])
        torch.testing.assert_close(logprobs, torch.tensor(answer.logprobs), atol=1e-3, rtol=0)


@pytest.mark.skipif(not AVAILABLE, reason=REASON)
@pytest.mark.parametrize("name", GOLDEN)
def test_vllm_reads_a_chat_as_training_does(server: VLLMServer, words: Tokenizer, name: str) -> None:
    """Ids of /tokenize: what is served is what was learned, tools and their calls included."""
    messages, tools = GOLDEN[name]
    assert server.tokenize(over_the_wire(messages), tools) == encode_prompt(messages, words, tools=tools)


@pytest.mark.skipif(not AVAILABLE, reason=REASON)
def test_vllm_serves_an_adapter_beside_its_base(
    server: VLLMServer, adapted: Path, prompts: list[list[int]], said: list[Generation], words: Tokenizer
) -> None:
    """The oracle is our merged model; the base, asked in between, still says what it said."""
    assert set(server.models()) == {server.name, "adapted"}
    merged = load_model(adapted)
    answers = generate(merged, prompts, max_new_tokens=NEW_TOKENS, temperature=0, stop_ids=words.stop_ids)
    assert [a.tokens for a in answers] != [a.tokens for a in said]
    for ids, answer, before in zip(prompts, answers, said, strict=True):
        body = {"prompt": ids, "temperature": 0, "max_tokens": NEW_TOKENS, "logprobs": 0, "return_token_ids": True}
        (choice,) = server.post("/v1/completions", body | {"model": "adapted"})["choices"]
        assert choice["token_ids"] == answer.tokens
        logprobs = torch.tensor(choice["logprobs"]["token_logprobs"])
        torch.testing.assert_close(logprobs, torch.tensor(answer.logprobs), atol=1e-3, rtol=0)
        assert served_tokens(server, ids, NEW_TOKENS) == before.tokens
