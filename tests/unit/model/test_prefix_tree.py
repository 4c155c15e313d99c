"""Losses over a tree of common beginnings are those of every sequence alone, and what is common is read once."""

import numpy as np
import pytest
import torch

from tokenmill.model.config import InternLM2Config
from tokenmill.model.modeling import InternLM2ForCausalLM
from tokenmill.model.prefix_tree import LEAST, PrefixTree

DRAW = np.random.default_rng(0)


@pytest.fixture(scope="module")
def model():
    made = InternLM2ForCausalLM(InternLM2Config.preset("pico"), seed=1).eval()
    with torch.no_grad():
        made.output.weight.mul_(20)  # an untrained model's losses are all alike
    return made


def drawn(n):
    return DRAW.integers(0, 512, n)


def exam(questions=6):
    """Examples, questions after them, four options after each; a twin, an empty option, a stranger and a single token."""
    shots = drawn(60)
    found = []
    for _ in range(questions):
        question = np.concatenate([shots, drawn(int(DRAW.integers(5, 30)))])
        found += [np.concatenate([question, drawn(int(DRAW.integers(1, 12)))]) for _ in range(4)]
        found.append(question)
    return [*found, found[3], drawn(20), drawn(1)]


def alone(model, ids, counted):
    """-log p of the counted tokens, from the logits of the sequence by itself."""
    with torch.no_grad():
        logprobs = model(torch.from_numpy(ids)).double().log_softmax(-1)
    return [-float(logprobs[i - 1, ids[i]]) for i in range(1, len(ids)) if counted[i]]


@pytest.mark.parametrize("share", [1.0, 0.6])
def test_losses_are_those_of_every_sequence_alone(model, share):
    sequences = exam()
    counted = [DRAW.random(len(sequence)) < share for sequence in sequences]
    found = PrefixTree.of(sequences).losses(model, counted)
    for sequence, mask, losses in zip(sequences, counted, found, strict=True):
        assert losses.tolist() == pytest.approx(alone(model, sequence, mask), rel=1e-4, abs=1e-4)


def test_many_siblings_and_long_passes_change_nothing(model):
    """More options than attend in one call, and rows enough to be filled up for the matrix product."""
    stem = drawn(40)
    sequences = [np.concatenate([stem, drawn(20)]) for _ in range(40)]
    whole = [np.ones(len(sequence), dtype=bool) for sequence in sequences]
    for sequence, losses in zip(sequences, PrefixTree.of(sequences).losses(model, whole), strict=True):
        assert losses.tolist() == pytest.approx(alone(model, sequence, whole[0]), rel=1e-4, abs=1e-4)


def test_a_common_beginning_is_read_once():
    shots, questions = drawn(100), [drawn(30) for _ in range(5)]
    sequences = [np.concatenate([shots, question, drawn(3)]) for question in questions for _ in range(4)]
    tree = PrefixTree.of(sequences)
    assert len(tree.ids) == 100 + 5 * 30 + 20 * 3
    for sequence, end in zip(sequences, tree.ends, strict=True):
        way = [(s.start, s.end) for s in end.way]
        assert np.array_equal(np.concatenate([tree.ids[a:b] for a, b in way]), sequence)
        assert np.array_equal(np.concatenate([tree.positions[a:b] for a, b in way]), np.arange(len(sequence)))


def test_a_beginning_shorter_than_a_segment_is_worth_is_read_again():
    stem = drawn(LEAST - 1)
    assert len(PrefixTree.of([np.append(stem, 1), np.append(stem, 2)]).ids) == 2 * LEAST
