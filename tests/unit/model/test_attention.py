"""Packed attention against the textbook formula in float64."""

import inspect

import pytest
import torch

from tokenmill.model import attention as module
from tokenmill.model.attention import attention

LENGTHS = [5, 1, 9, 3]


def textbook(q, k, v, lengths):
    """softmax(q·kᵀ/√d) v, head by head, token by token, over the token's own sequence up to itself."""
    group, out, start = q.shape[1] // k.shape[1], torch.zeros_like(q), 0
    for length in lengths:
        for t in range(start, start + length):
            for head in range(q.shape[1]):
                keys, values = k[start : t + 1, head // group], v[start : t + 1, head // group]
                weights = torch.softmax(keys @ q[t, head] / q.shape[2] ** 0.5, 0)
                out[t, head] = weights @ values
        start += length
    return out


@pytest.fixture
def qkv():
    torch.manual_seed(0)
    shape = sum(LENGTHS)
    return torch.randn(shape, 6, 8), torch.randn(shape, 2, 8), torch.randn(shape, 2, 8)


@pytest.fixture
def cu_seqlens():
    return torch.tensor([0, *LENGTHS]).cumsum(0).int()


def test_equals_the_textbook(qkv, cu_seqlens):
    expected = textbook(*(x.double() for x in qkv), LENGTHS)
    torch.testing.assert_close(attention(*qkv, cu_seqlens, max(LENGTHS)).double(), expected, atol=1e-6, rtol=1e-5)


def test_gradients_stay_within_the_sequence(qkv, cu_seqlens):
    q, k, v = (x.requires_grad_() for x in qkv)
    attention(q, k, v, cu_seqlens, max(LENGTHS))[6:15].sum().backward()  # the third sequence only
    for x in (q, k, v):
        assert x.grad[:6].abs().sum() == 0
        assert x.grad[15:].abs().sum() == 0
    assert v.grad[6:15].abs().sum() > 0


def test_torch_kernel_is_called_as_its_signature_wants(qkv, cu_seqlens, monkeypatch):
    """The CUDA kernel cannot run here; what we hand it must bind to its signature and mean the same."""
    varlen = pytest.importorskip("torch.nn.attention.varlen")
    signature = inspect.signature(varlen.varlen_attn)

    def kernel(*args, **kwargs):
        call = signature.bind(*args, **kwargs).arguments
        assert call["window_size"] == (-1, 0)  # documented as causal
        assert call["enable_gqa"]
        assert call["cu_seq_q"] is call["cu_seq_k"]
        assert call["max_q"] == call["max_k"] == max(LENGTHS)
        return textbook(call["query"], call["key"], call["value"], call["cu_seq_q"].diff().tolist())

    monkeypatch.setattr(varlen, "varlen_attn", kernel)
    given = module._torch_varlen(*qkv, cu_seqlens, max(LENGTHS))
    torch.testing.assert_close(given, attention(*qkv, cu_seqlens, max(LENGTHS)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_kernel_equals_the_textbook(qkv, cu_seqlens):
    given = attention(*(x.cuda().bfloat16() for x in qkv), cu_seqlens.cuda(), max(LENGTHS))
    expected = textbook(*(x.bfloat16().double() for x in qkv), LENGTHS)
    torch.testing.assert_close(given.double().cpu(), expected, atol=2e-2, rtol=2e-2)
