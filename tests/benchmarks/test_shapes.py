"""The arithmetic of the shapes, and tokens as skewed as words."""

import numpy as np
import pytest

from benchmarks.parts.recurrence import CHAPTER_STACK
from benchmarks.shapes import TINY, W1, token_batches, zipf
from benchmarks.steppers import PAD, chapter_model


def test_w1_is_the_chapter_s():
    assert (W1.positions, W1.parameters) == (3712, 8_292_619)
    assert W1.step_flop == pytest.approx(92.7e9, rel=1e-3)
    assert W1.step_bytes == pytest.approx(232e6, rel=1e-3)


def test_parameters_are_those_of_the_model():
    assert TINY.parameters == sum(parameter.numel() for parameter in chapter_model(TINY).parameters())


def test_the_recurrence_is_the_rest_of_a_step():
    head = 6 * W1.positions * W1.vocab * W1.width
    assert CHAPTER_STACK.flop("elman") == pytest.approx(W1.step_flop - head)


def test_tokens_follow_zipf_and_the_seed():
    tokens = zipf(1000, 100_000, seed=0, first=1)
    counts = np.bincount(tokens, minlength=1000)
    assert counts[0] == 0
    assert tokens.max() < 1000
    # P(rank) ~ 1 / (rank + 2.7): rank 0 against rank 10, and the ten first against the ten after a hundred
    assert counts[1] / counts[11] == pytest.approx(12.7 / 2.7, rel=0.15)
    assert counts[1:11].sum() > 5 * counts[101:111].sum()
    assert (tokens == zipf(1000, 100_000, seed=0, first=1)).all()
    assert (tokens != zipf(1000, 100_000, seed=1, first=1)).any()


def test_targets_are_inputs_one_later_and_never_padding():
    for inputs, targets in token_batches(TINY, 2):
        assert inputs.shape == targets.shape == (TINY.batch, TINY.time)
        assert (inputs[:, 1:] == targets[:, :-1]).all()
        assert (inputs != PAD).all()
        assert (targets != PAD).all()


def test_predicting_a_token_is_a_third_of_learning_from_it():
    own = 2 * TINY.vocab * TINY.width + TINY.layers * 2 * 2 * TINY.width * TINY.width
    assert TINY.token_flop == own == TINY.step_flop / TINY.positions / 3
