"""Packing: nothing lost, nothing shared, nothing split that fits."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenmill.errors import InputError
from tokenmill.model import IGNORE
from tokenmill.model.config import InternLM2Config
from tokenmill.model.modeling import InternLM2ForCausalLM
from tokenmill.training.packing import Pack, Piece, best_fit_decreasing, in_groups, pack_columns

SAMPLES = [[5, 9, 200, 31], [77, 3], [8, 8, 1, 250, 12, 40]]


def quadratic_best_fit(lengths, capacity):
    """The same rule the slow way: look at every pack for the smallest room that still fits."""
    rooms = []
    for length in sorted((part for n in lengths for part in _cut(n, capacity)), reverse=True):
        fitting = [room for room in rooms if room >= length]
        if fitting:
            rooms.remove(min(fitting))
        rooms.append((min(fitting) if fitting else capacity) - length)
    return sorted(rooms)


def _cut(length, capacity):
    return [capacity] * (length // capacity) + ([length % capacity] if length % capacity else [])


@given(st.lists(st.integers(0, 90), max_size=60), st.integers(1, 40))
@settings(max_examples=150)
def test_packs_hold_every_token_once_and_follow_best_fit(lengths, capacity):
    packs = best_fit_decreasing(lengths, capacity)
    pieces = [piece for pack in packs for piece in pack]
    tokens = sorted((p.document, t) for p in pieces for t in range(p.start, p.start + p.length))
    assert tokens == [(document, t) for document, length in enumerate(lengths) for t in range(length)]
    assert all(0 < sum(p.length for p in pack) <= capacity for pack in packs)
    for document, length in enumerate(lengths):  # only what is longer than a context is split
        assert sum(p.document == document for p in pieces) == -(-length // capacity)
    assert sorted(capacity - sum(p.length for p in pack) for pack in packs) == quadratic_best_fit(lengths, capacity)
    assert packs == best_fit_decreasing(lengths, capacity)


def test_best_fit_by_hand():
    """7 opens a pack, 6 another, 4 fits beside 6 exactly, 3 beside 7 exactly; 23 leaves two whole contexts and a 3."""
    packs = best_fit_decreasing([3, 7, 4, 6], capacity=10)
    assert packs == [[Piece(1, 0, 7), Piece(0, 0, 3)], [Piece(3, 0, 6), Piece(2, 0, 4)]]
    assert best_fit_decreasing([23], capacity=10) == [[Piece(0, 0, 10)], [Piece(0, 10, 20)], [Piece(0, 20, 23)]]


@pytest.mark.parametrize("capacity", [2048, 4096, 32_768])
def test_packs_of_many_documents_are_full(capacity):
    generator = torch.Generator().manual_seed(0)
    lengths = torch.empty(30_000).log_normal_(6, 1, generator=generator).long().add(1).tolist()
    packs = best_fit_decreasing(lengths, capacity)
    assert sum(lengths) / (len(packs) * capacity) > 0.999


def test_many_short_documents_of_few_lengths_follow_best_fit_too():
    """Then a pack takes many of one length in a row, and a stack of packs is worked off at once."""
    generator = torch.Generator().manual_seed(0)
    for capacity in (7, 16, 31):
        for most in (2, 3, 8):
            lengths = torch.randint(1, most, (400,), generator=generator).tolist()
            packs = best_fit_decreasing(lengths, capacity)
            assert sorted(piece.document for pack in packs for piece in pack) == list(range(400))
            rooms = sorted(capacity - sum(piece.length for piece in pack) for pack in packs)
            assert rooms == quadratic_best_fit(lengths, capacity)


def test_columns_say_the_same_as_packs():
    lengths = [3, 7, 4, 6, 23, 0, 10]
    made, packs = pack_columns(lengths, 10), best_fit_decreasing(lengths, 10)
    assert len(made) == len(packs)
    for number, pack in enumerate(packs):
        rows = made.rows([number])
        ends = made.start[rows] + made.length[rows]
        assert [*zip(made.document[rows], made.start[rows], ends, strict=True)] == pack
    assert made.rows([2, 0]).tolist() == [*made.rows([2]), *made.rows([0])]
    assert made.rows([]).tolist() == []


def test_pack_by_hand():
    pack = Pack.of(SAMPLES)
    assert pack.input_ids.tolist() == [5, 9, 200, 31, 77, 3, 8, 8, 1, 250, 12, 40]
    assert pack.labels.tolist() == [9, 200, 31, IGNORE, 3, IGNORE, 8, 1, 250, 12, 40, IGNORE]
    assert pack.positions.tolist() == [0, 1, 2, 3, 0, 1, 0, 1, 2, 3, 4, 5]
    assert pack.cu_seqlens.tolist() == [0, 4, 6, 12]
    assert pack.cu_seqlens.dtype == torch.int32


def test_masked_labels_stay_with_their_tokens():
    pack = Pack.of(SAMPLES[:2], [[IGNORE, IGNORE, 200, 31], [IGNORE, 3]])
    assert pack.labels.tolist() == [IGNORE, 200, 31, IGNORE, 3, IGNORE]


def test_an_empty_sample_is_refused():
    with pytest.raises(InputError, match="sample 1"):
        Pack.of([[5], [], [6]])


def test_groups_keep_the_order_and_hold_as_many_tokens_as_fit():
    samples = ["aaa", "bb", "c", "dddddddd", "ee", "fff"]
    assert list(in_groups(samples, 5, len)) == [["aaa", "bb"], ["c"], ["dddddddd"], ["ee", "fff"]]
    assert list(in_groups([], 5, len)) == []


@pytest.fixture(scope="module")
def model():
    return InternLM2ForCausalLM(InternLM2Config.preset("pico"), seed=1)


def test_loss_of_a_pack_is_the_token_mean_of_its_samples(model):
    pack = Pack.of(SAMPLES)
    packed = model(pack.input_ids, pack.cu_seqlens, pack.positions, pack.labels)
    apart = [Pack.of([sample]) for sample in SAMPLES]
    alone = [model(p.input_ids, labels=p.labels) for p in apart]
    torch.testing.assert_close(packed, torch.cat(alone), atol=1e-5, rtol=1e-5)
    mean = sum(losses.sum() for losses in alone) / sum(len(sample) - 1 for sample in SAMPLES)
    torch.testing.assert_close(packed.sum() / (pack.labels != IGNORE).sum(), mean)


def test_changing_one_sample_leaves_the_others(model):
    changed = Pack.of([SAMPLES[0], [99, 98], SAMPLES[2]])
    before, after = (model(p.input_ids, p.cu_seqlens, p.positions) for p in (Pack.of(SAMPLES), changed))
    assert torch.equal(before[:4], after[:4])
    torch.testing.assert_close(before[6:], after[6:])
    assert not torch.allclose(before[4:6], after[4:6])
