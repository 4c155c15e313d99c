"""Generation against the uncached forward pass, and its randomness."""

import pytest
import torch

from tokenmill.errors import InputError
from tokenmill.model.generation import generate, sample
from tokenmill.model.kv_cache import KVCache

PROMPTS = [[5, 9, 200], [31], [77, 3, 8, 8, 1, 250, 12, 40], [60, 61]]


def greedy_without_cache(model, prompt, steps):
    ids = list(prompt)
    for _ in range(steps):
        ids.append(int(model(torch.tensor(ids))[-1].argmax()))
    return ids[len(prompt) :]


def test_cached_greedy_equals_uncached(model):
    generated = generate(model, PROMPTS, max_new_tokens=12, temperature=0, stop_ids=())
    assert [g.tokens for g in generated] == [greedy_without_cache(model, prompt, 12) for prompt in PROMPTS]
    assert {g.finish for g in generated} == {"length"}


def test_every_cached_logit_equals_the_packed_pass(model):
    ids = torch.tensor(PROMPTS[2])
    cache = KVCache(model, rows=1, capacity=8)
    rows = [cache.read([PROMPTS[2][:3]])] + [cache.step(ids[t : t + 1]) for t in range(3, 8)]
    torch.testing.assert_close(model.output(torch.cat(rows)), model(ids)[2:], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 0.9), (1.3, 0.5)])
def test_logprobs_are_those_of_the_model_and_of_the_sampler(model, temperature, top_p):
    for prompt, g in zip(
        PROMPTS, generate(model, PROMPTS, max_new_tokens=8, temperature=temperature, top_p=top_p, seed=1), strict=True
    ):
        logits = model(torch.tensor(prompt + g.tokens))[len(prompt) - 1 : -1].double()
        own = logits.log_softmax(-1)
        sampled = (logits / temperature).softmax(-1)
        for step, token in enumerate(g.tokens):
            assert g.logprobs[step] == pytest.approx(own[step, token].item(), abs=1e-3)
            ranked = sampled[step].sort(descending=True).values
            kept = ranked[: int((ranked.cumsum(0) < top_p - 1e-9).sum()) + 1]
            assert sampled[step, token] >= kept[-1] - 1e-6
            expected = (sampled[step, token] / kept.sum()).log().item()
            assert g.sampling_logprobs[step] == pytest.approx(expected, abs=1e-3)


def test_seeds(model):
    def tokens(**options):
        return [g.tokens for g in generate(model, PROMPTS, max_new_tokens=10, stop_ids=(), **options)]

    assert tokens(seed=1) == tokens(seed=1)
    assert tokens(seed=1) != tokens(seed=2)
    assert tokens(seed=1) == tokens(seed=1, batch_size=2)  # how prompts are batched does not matter
    torch.manual_seed(99)
    assert tokens(seed=1) == tokens(seed=1)


def test_a_stop_id_ends_its_own_row_only(model):
    free = [g.tokens for g in generate(model, PROMPTS, max_new_tokens=20, stop_ids=(), seed=3)]
    stop = {free[0][4], free[1][1], free[3][2]}
    for whole, g in zip(free, generate(model, PROMPTS, max_new_tokens=20, stop_ids=stop, seed=3), strict=True):
        end = next((i + 1 for i, token in enumerate(whole) if token in stop), None)
        assert g.tokens == whole[:end]  # with the stop token, and unmoved by rows that left the batch earlier
        assert g.finish == ("length" if end is None else "stop")
        assert len(g.logprobs) == len(g.sampling_logprobs) == len(g.tokens)


def test_the_context_is_never_passed(model):
    prompt = list(range(3, 63))  # 60 of 64
    long, short = generate(model, [prompt, [5]], max_new_tokens=10, stop_ids=(), temperature=0)
    assert (len(long.tokens), len(short.tokens)) == (4, 10)
    for bad in ([], list(range(64))):
        with pytest.raises(InputError, match="prompt 1 has"):
            generate(model, [[5], bad], max_new_tokens=1)


def test_sampling_follows_the_distribution():
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, -30.0])
    noise = torch.rand(40_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows = logits.expand(len(noise), -1)

    def shares(temperature, top_p):
        return torch.bincount(sample(rows, noise, temperature, top_p)[0], minlength=5) / len(noise)

    torch.testing.assert_close(shares(1.0, 1.0), logits.softmax(0), atol=0.01, rtol=0)
    torch.testing.assert_close(shares(2.0, 1.0), (logits / 2).softmax(0), atol=0.01, rtol=0)
    first_two = logits.softmax(0) * torch.tensor([1, 1, 0, 0, 0])  # 0.64 + 0.24 reach 0.8
    torch.testing.assert_close(shares(1.0, 0.8), first_two / first_two.sum(), atol=0.01, rtol=0)
    assert shares(1.0, 0.01).tolist() == [1, 0, 0, 0, 0]


def test_no_noise_can_draw_an_excluded_token():
    logits = torch.tensor([[-1e9, 3.0, 2.0, -1e9]])
    for noise in (0.0, 1 - 2**-53):
        token, _, logprob, _ = sample(logits, torch.tensor([noise], dtype=torch.float64), 1.0, 0.99)
        assert token.item() in (1, 2)
        assert logprob.isfinite().all()


def test_entropies_are_the_models_own_whatever_is_sampled(model):
    (said,) = generate(model, [PROMPTS[0]], max_new_tokens=5, stop_ids=(), temperature=0.7, top_p=0.5, seed=1)
    ids = torch.tensor([*PROMPTS[0], *said.tokens])
    rows = model(ids).detach()[len(PROMPTS[0]) - 1 : -1]
    torch.testing.assert_close(
        torch.tensor(said.entropies), torch.distributions.Categorical(logits=rows).entropy(), atol=1e-5, rtol=1e-5
    )
