"""One step without gradients, as in generation: the same numbers by the definition as by the loop."""

from functools import partial

import pytest
import torch

from elman import ops
from elman.ops import reference
from elman.ops.sequence import FEW_STREAMS, is_plain_step
from tests.compare import assert_equal_to
from tests.ops.resets import make_resets

# Axes: B batch, T time, D input width, H hidden width, G gates side by side.
B, D, H = 3, 7, 5

every_op = pytest.mark.parametrize("name", ["elman", "lstm", "gru", "mingru", "minlstm"])


def make(name, steps=1):
    randn = partial(torch.randn, dtype=torch.float64)
    gates = {"elman": 1, "lstm": 4, "gru": 3, "mingru": 2, "minlstm": 3}[name] * H
    recurrent = [] if name.startswith("min") else [randn(gates, H)]
    biases = [randn(gates), *([randn(H)] if name == "gru" else [])]
    states = [randn(B, H) for _ in range(2 if name == "lstm" else 1)]
    return [randn(B, steps, D), randn(gates, D), *recurrent, *biases, *states]


@every_op
@pytest.mark.parametrize("resets", ["none", "one row", "all"])
@pytest.mark.parametrize("without_gradients", [torch.no_grad, torch.inference_mode])
def test_a_step_without_gradients_is_the_step_of_the_loop(name, resets, without_gradients):
    inputs, reset = make(name), make_resets(resets, B, 1)
    looped = getattr(ops, name)(*inputs, reset)
    with without_gradients():
        found = getattr(ops, name)(*inputs, reset)
        expected = getattr(reference, name)(*inputs, reset)
    assert_equal_to(found, looped, 1e-10)
    assert_equal_to(found, expected, 1e-10)


@every_op
def test_steps_one_by_one_carry_the_state_of_the_whole(name):
    x, *weights = make(name, steps=6)
    carried = 2 if name == "lstm" else 1
    weights, state = weights[:-carried], weights[-carried:]
    whole, *last = getattr(ops, name)(x, *weights, *state)
    with torch.no_grad():
        outputs = []
        for t in range(6):
            output, *state = getattr(ops, name)(x[:, t : t + 1], *weights, *state)
            outputs.append(output)
    assert_equal_to([torch.cat(outputs, dim=1), *state], [whole, *last], 1e-10)


@torch.no_grad()
def test_only_one_step_without_gradients_or_casts_is_plain():
    x, weight, state = torch.randn(B, 1, D), torch.randn(H, D), torch.randn(B, H)
    assert is_plain_step(x, weight, state)
    assert not is_plain_step(torch.randn(B, 2, D), weight, state)
    many = FEW_STREAMS + 1
    assert not is_plain_step(torch.randn(many, 1, D), weight, torch.randn(many, H))
    assert not is_plain_step(x.bfloat16(), weight, state)
    assert not is_plain_step(x, weight.bfloat16(), state)
    assert not is_plain_step(x.to("meta"), weight.to("meta"), state.to("meta"))
    with torch.enable_grad():
        assert not is_plain_step(x, weight, state)
    with torch.autocast("cpu", torch.bfloat16):
        assert not is_plain_step(x, weight, state)


@every_op
def test_a_step_is_plain_only_without_gradients(name, monkeypatch):
    asked = []

    def definition(*given):
        asked.append(name)
        return getattr(kept, name)(*given)

    kept = type("kept", (), {name: staticmethod(getattr(reference, name))})
    monkeypatch.setattr(reference, name, definition)
    inputs = make(name)
    getattr(ops, name)(*inputs)
    assert not asked
    with torch.no_grad():
        getattr(ops, name)(*inputs)
    assert asked == [name]
