"""The vendor's recurrences against the definitions. Torch runs the same functions on a CPU, in float64 too."""

from functools import partial
from itertools import pairwise

import pytest
import torch

from elman import ops
from elman.ops import reference, vendor
from elman.ops.sequence import dropped_rows
from tests.compare import assert_equal_to, assert_errs_no_more, assert_same_function, pull_back
from tests.ops.recurrences import RECURRENCES, every_recurrence, every_shape
from tests.ops.resets import every_reset, make_resets

FLOAT, LOW = torch.float32, torch.bfloat16


def both(name, reset, steps):
    """The vendor's recurrence and the definition."""
    fast = partial(getattr(vendor, name), dropped=dropped_rows(reset, steps))
    return fast, partial(getattr(reference, name), reset_BT=reset)


@every_recurrence
@every_shape
@every_reset
def test_values_gradients_and_carried_state_are_those_of_the_definition(name, shape, resets):
    fast, definition = both(name, make_resets(resets, *shape[:2]), shape[1])
    assert_same_function(fast, definition, RECURRENCES[name].make(shape), 1e-10)


@every_reset
def test_in_float32_the_library_errs_no_more_than_the_definition(resets):
    lstm = RECURRENCES["lstm"]
    fast, definition = both("lstm", make_resets(resets, 3, 40), 40)
    assert_errs_no_more(fast, definition, lstm.make((3, 40, 17), FLOAT), lstm.names)


def test_weights_side_by_side_are_the_same_weights_in_one_block():
    weights = [torch.randn(12, 5), torch.randn(12, 3), torch.randn(12), torch.randn(12)]
    found, gradients, cotangents = pull_back(vendor._side_by_side, weights)
    assert_equal_to(found, weights, 0.0)
    assert_equal_to(gradients, cotangents, 0.0)
    for left, right in pairwise(vendor._side_by_side(*weights)):
        assert left.is_contiguous()
        assert left.data_ptr() + left.nbytes == right.data_ptr()


@every_recurrence
def test_a_sequence_is_cut_only_where_a_row_is_dropped_after_its_first_step(name, monkeypatch):
    kind = {"elman": "rnn_tanh"}.get(name, name)
    lengths, original = [], getattr(torch, kind)
    monkeypatch.setattr(torch, kind, lambda *given: (lengths.append(given[0].shape[1]), original(*given))[1])
    reset = torch.zeros(2, 9, dtype=torch.bool)
    reset[0, 0] = reset[1, 4] = reset[0, 7] = True
    getattr(vendor, name)(*RECURRENCES[name].make((2, 9, 3)), dropped_rows(reset, 9))
    assert lengths == [4, 3, 2]


class State:
    """What the choice looks at."""

    def __init__(self, device, dtype=FLOAT):
        self.device, self.dtype = torch.device(device), dtype


@pytest.mark.parametrize(
    ("name", "state", "products", "steps", "cuts", "wanted"),
    [
        ("elman", State("cuda"), FLOAT, 30, 0, "vendor"),
        ("gru", State("cuda"), FLOAT, 1, 0, "vendor"),
        ("lstm", State("cuda"), FLOAT, 30, 1, "loop"),
        ("lstm", State("cuda"), LOW, 30, 0, "loop"),
        ("lstm", State("cpu"), FLOAT, 8, 0, "vendor"),
        ("lstm", State("cpu"), FLOAT, 7, 0, "loop"),
        ("lstm", State("cpu"), FLOAT, 32, 3, "vendor"),
        ("lstm", State("cpu"), FLOAT, 32, 4, "loop"),
        ("lstm", State("cpu"), LOW, 30, 0, "loop"),
        ("lstm", State("cpu", torch.float64), torch.float64, 30, 0, "loop"),
        ("gru", State("cpu"), FLOAT, 30, 0, "loop"),
        ("elman", State("cpu"), FLOAT, 30, 0, "loop"),
        ("lstm", State("mps"), FLOAT, 30, 0, "loop"),
    ],
)
def test_the_choice(name, state, products, steps, cuts, wanted, monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    rows = torch.ones(1, 1, dtype=torch.bool)
    dropped = [rows, *[rows] * cuts, *[None] * (steps - 1 - cuts)]
    assert vendor.resolve_backend(name, state, products, dropped) == wanted
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    elsewhere = "loop" if state.device.type == "cpu" else wanted
    assert vendor.resolve_backend(name, state, products, dropped) == elsewhere


@every_recurrence
@every_reset
def test_the_backend_that_is_resolved_is_the_one_that_runs(name, resets, monkeypatch):
    inputs, reset = RECURRENCES[name].make((2, 9, 5)), make_resets(resets, 2, 9)
    definition, original, ran = getattr(reference, name), getattr(vendor, name), []
    monkeypatch.setattr(vendor, name, lambda *given: (ran.append(name), original(*given))[1])
    monkeypatch.setattr(vendor, "resolve_backend", lambda *given: "loop")
    assert_equal_to(getattr(ops, name)(*inputs, reset), definition(*inputs, reset), 1e-10)
    assert not ran
    monkeypatch.setattr(vendor, "resolve_backend", lambda *given: "vendor")
    assert_equal_to(getattr(ops, name)(*inputs, reset), definition(*inputs, reset), 1e-10)
    assert ran == [name]
