"""Chance goes on where it stood, from a file that runs no code when it is read."""

import random

import numpy
import torch

from tokenmill.training.rng import restore_rng, rng_state, seed_everything


def draw():
    return random.random(), numpy.random.normal(size=3).tolist(), torch.rand(3).tolist()


def test_it_goes_on_from_a_file_of_numbers_alone(tmp_path):
    seed_everything(7)
    numpy.random.normal()  # one of a pair is drawn: the other waits in the state
    torch.save(rng_state(), tmp_path / "rng.pt")
    expected = draw()
    assert draw() != expected
    restore_rng(torch.load(tmp_path / "rng.pt", weights_only=True))
    assert draw() == expected
