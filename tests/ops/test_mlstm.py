"""The mLSTM recurrence: three forms of one function, and that against the recurrence without a stabiliser."""

import importlib
from itertools import pairwise

import pytest
import torch

from elman import ops
from elman.errors import ConfigError
from elman.ops import reference
from tests.compare import assert_equal_to, pull_back
from tests.largest_tensor import LargestTensor
from tests.ops.resets import every_reset, make_resets

# Axes: B batch, T time, N heads, D width of a head.
SHAPES = [(1, 1, 1, 1), (1, 6, 1, 3), (4, 1, 2, 2), (3, 7, 1, 5), (2, 9, 3, 4), (2, 33, 2, 7)]
FORMS = ["parallel", "chunkwise", "recurrent"]

every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
every_form = pytest.mark.parametrize("form", FORMS)


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of four steps, so that short sequences have several."""
    monkeypatch.setattr(importlib.import_module("elman.ops.mlstm"), "CHUNK", 4)


def make(shape, dtype=torch.float64):
    """q, k, v, i, f and a state; n is what C would have stored for the value 1 beside others."""
    batch, steps, heads, width = shape
    return [
        *(torch.randn(batch, steps, heads, width, dtype=dtype) for _ in range(3)),
        *(2 * torch.randn(batch, steps, heads, dtype=dtype) for _ in range(2)),
        torch.randn(batch, heads, width, width, dtype=dtype),
        torch.randn(batch, heads, width, dtype=dtype),
        torch.randn(batch, heads, dtype=dtype),
    ]


def fresh(shape, dtype=torch.float64):
    batch, _, heads, width = shape
    sizes = [(batch, heads, width, width), (batch, heads, width), (batch, heads)]
    return [torch.zeros(size, dtype=dtype) for size in sizes]


def without_stabiliser(q, k, v, i, f, c, n, reset=None):
    """The paper's equations as they stand: every output, and the last C and n, nothing taken out."""
    outputs = []
    for t in range(q.shape[1]):
        if reset is not None:
            c = c.masked_fill(reset[:, t, None, None, None], 0.0)
            n = n.masked_fill(reset[:, t, None, None], 0.0)
        gate_f, gate_i = f[:, t].sigmoid()[..., None], i[:, t].exp()[..., None]
        c = gate_f[..., None] * c + gate_i[..., None] * torch.einsum("bnv,bnk->bnvk", v[:, t], k[:, t])
        n = gate_f * n + gate_i * k[:, t]
        found = torch.einsum("bnvk,bnk->bnv", c, q[:, t])
        outputs.append(found / (n * q[:, t]).sum(dim=-1, keepdim=True).abs().clamp(min=1.0))
    return torch.stack(outputs, dim=1), c, n


@pytest.mark.parametrize("size", [1.0, 10.0, 50.0])
@pytest.mark.parametrize("start", ["fresh", "carried"])
@every_reset
@every_form
def test_every_form_is_the_recurrence_of_the_paper(size, start, resets, form, small_chunks):
    shape = (3, 9, 2, 4)
    *inputs, i, f, c, n, m = make(shape)
    i, f = size * i.clamp(-2, 2), size * f.clamp(-2, 2)  # up to 100
    if start == "fresh":
        c, n, m = fresh(shape)
    scale, reset = m.exp()[..., None], make_resets(resets, 3, 9)
    expected, true_c, true_n = without_stabiliser(*inputs, i, f, c * scale[..., None], n * scale, reset)
    found, c, n, m = ops.mlstm(*inputs, i, f, c, n, m, reset, form=form)
    assert expected.isfinite().all()
    assert (m >= 0).all()
    assert_equal_to(found, expected, 1e-9)  # a small n q is a difference of large numbers in either
    assert_equal_to(c, true_c * torch.exp(-m)[..., None, None], 1e-11)
    assert_equal_to(n, true_n * torch.exp(-m)[..., None], 1e-11)


@every_shape
@every_reset
@pytest.mark.parametrize("form", ["parallel", "chunkwise"])
def test_the_forms_agree_from_any_state(shape, resets, form, small_chunks):
    inputs, reset = make(shape), make_resets(resets, *shape[:2])
    expected, gradients, cotangents = pull_back(lambda *given: reference.mlstm(*given, reset), inputs)
    found, fast, _ = pull_back(lambda *given: ops.mlstm(*given, reset, form=form), inputs, cotangents)
    assert_equal_to(found, expected)
    largest = max(float(gradient.abs().max()) for gradient in gradients)
    assert_equal_to(fast, gradients, 1e-12 * max(1.0, largest))


def test_chunks_of_the_usual_size_agree_with_the_definition():
    shape = (2, 150, 2, 3)
    inputs, reset = make(shape), torch.rand(2, 150) < 0.03
    expected = reference.mlstm(*inputs, reset)
    assert_equal_to(ops.mlstm(*inputs, reset), expected)
    assert_equal_to(ops.mlstm(*inputs), reference.mlstm(*inputs))


@pytest.mark.parametrize("size", [1.0, 50.0])
@pytest.mark.parametrize("form", ["parallel", "chunkwise"])
def test_in_float32_no_form_errs_much_more_than_the_definition(size, form):
    """Also where gates are shut for a hundred steps: differences of long sums would have lost five digits."""
    inputs = make((2, 100, 2, 8), torch.float32)
    inputs[4] = inputs[4] * size
    exact = reference.mlstm(*(tensor.double() for tensor in inputs))
    eager, found = reference.mlstm(*inputs), ops.mlstm(*inputs, form=form)
    for part, plain, precise in zip(found, eager, exact, strict=True):
        error, allowed = (part - precise).norm(), (plain - precise).norm()
        assert error <= 4 * allowed + 1e-6 * precise.norm()


@every_form
@pytest.mark.parametrize("shift", [-20.0, -1.0, 2.0, 20.0])
def test_outputs_do_not_depend_on_the_choice_of_the_stabiliser(form, shift, small_chunks):
    *inputs, c, n, m = make((3, 9, 2, 4))
    smaller = torch.exp(torch.tensor(-shift, dtype=torch.float64))
    outputs, last_c, last_n, last_m = ops.mlstm(*inputs, c, n, m, form=form)
    found, c, n, m = ops.mlstm(*inputs, c * smaller, n * smaller, m + shift, form=form)
    assert_equal_to(found, outputs, 1e-11)
    scale = torch.exp(m - last_m)[..., None]
    assert_equal_to((c * scale[..., None], n * scale), (last_c, last_n), 1e-11)


@every_form
@every_reset
def test_gradients_equal_finite_differences(form, resets, small_chunks):
    inputs = [tensor.requires_grad_() for tensor in make((2, 5, 1, 2))]
    reset = make_resets(resets, 2, 5)
    assert torch.autograd.gradcheck(lambda *given: ops.mlstm(*given, reset, form=form), inputs)


@every_form
@every_reset
@pytest.mark.parametrize("size", [100.0, 1e4, 1e30])
def test_extreme_gates_stay_finite(form, resets, size, small_chunks):
    shape = (2, 9, 2, 3)
    q, k, v, i, f, *_ = make(shape, torch.float32)
    reset = make_resets(resets, 2, 9)
    inputs = [q, k, v, i.sign() * size, f.sign() * size, *fresh(shape, torch.float32)]
    outputs, gradients, _ = pull_back(lambda *given: ops.mlstm(*given, reset, form=form), inputs)
    assert all(tensor.isfinite().all() for tensor in (*outputs, *gradients))


@every_form
@pytest.mark.parametrize("i", [-100.0, 0.0, 100.0])
def test_a_question_of_zeros_is_answered_by_zeros(form, i):
    """n q = 0 exactly: the normaliser is the 1, even where exp(-m) has vanished."""
    shape = (2, 5, 1, 3)
    _, k, v, *_ = make(shape, torch.float32)
    gate = torch.full((2, 5, 1), i)
    inputs = [torch.zeros_like(k), k, v, gate, gate, *fresh(shape, torch.float32)]
    outputs, gradients, _ = pull_back(lambda *given: ops.mlstm(*given, form=form), inputs)
    assert not outputs[0].any()
    assert all(gradient.isfinite().all() for gradient in gradients)


@every_form
@pytest.mark.parametrize("cuts", [[1], [3], [8], [4, 5], list(range(1, 9))], ids=str)
def test_cutting_anywhere_changes_nothing(form, cuts, small_chunks):
    *inputs, c, n, m = make((3, 9, 2, 3))
    reset = make_resets("some", 3, 9)
    expected = ops.mlstm(*inputs, c, n, m, reset, form=form)
    pieces, state = [], (c, n, m)
    for start, end in pairwise([0, *cuts, 9]):
        piece = slice(start, end)
        y, *state = ops.mlstm(*(x[:, piece] for x in inputs), *state, reset[:, piece], form=form)
        pieces.append(y)
    assert_equal_to((torch.cat(pieces, dim=1), *state), expected)


@every_form
@pytest.mark.parametrize("t", [0, 2, 4, 6])
def test_a_reset_drops_even_nan(form, t, small_chunks):
    shape = (2, 9, 2, 3)
    *inputs, c, n, m = make(shape)
    reset = torch.zeros(2, 9, dtype=torch.bool)
    reset[1, t] = True
    poisoned = [
        torch.where(torch.tensor([False, True]).view(2, *[1] * (p.dim() - 1)), torch.nan, p)
        for p in (c, n, m)
    ]
    outputs, *after = ops.mlstm(*inputs, *poisoned, reset, form=form)
    clean = ops.mlstm(*(x[:, t:] for x in inputs), *fresh(shape), form=form)
    assert outputs[1, :t].isnan().all()
    assert_equal_to([outputs[1, t:], *(part[1] for part in after)], [part[1] for part in clean])
    untouched = ops.mlstm(*inputs, c, n, m, form=form)
    assert_equal_to([outputs[0], *(part[0] for part in after)], [part[0] for part in untouched])


@every_form
def test_a_state_dropped_at_once_leaves_no_trace_in_gradients(form):
    shape = (2, 5, 1, 3)
    *inputs, c, n, m = make(shape)
    reset = make_resets("first", 2, 5)
    poisoned = [torch.full_like(part, torch.inf) for part in (c, n, m)]
    clean, gradients, cotangents = pull_back(
        lambda *given: ops.mlstm(*given, reset, form=form), [*inputs, *fresh(shape)]
    )
    found, others, _ = pull_back(
        lambda *given: ops.mlstm(*given, reset, form=form), [*inputs, *poisoned], cotangents
    )
    assert_equal_to(found, clean, tolerance=0)
    assert_equal_to(others, gradients, tolerance=0)


@pytest.mark.parametrize(("form", "bounded"), [("chunkwise", True), ("parallel", False)])
def test_chunks_bound_the_memory(form, bounded):
    steps = 512
    inputs = [x.requires_grad_() for x in make((1, steps, 1, 2))]
    with LargestTensor() as largest:
        outputs, *_ = ops.mlstm(*inputs, form=form)
        outputs.sum().backward()
    assert (largest.elements < steps * steps / 4) is bounded


def test_an_unknown_form_is_refused():
    with pytest.raises(ConfigError, match="sideways"):
        ops.mlstm(*make((1, 2, 1, 1)), form="sideways")


@every_form
def test_under_autocast_only_products_are_bfloat16(form):
    inputs, reset = make((3, 9, 2, 16), torch.float32), make_resets("one row", 3, 9)
    exact, wanted, cotangents = pull_back(lambda *given: ops.mlstm(*given, reset, form=form), inputs)

    def low(*given):
        with torch.autocast("cpu", torch.bfloat16):
            return ops.mlstm(*given, reset, form=form)

    found, gradients, _ = pull_back(low, inputs, cotangents)
    for value, precise in zip([*found, *gradients], [*exact, *wanted], strict=True):
        assert value.dtype == torch.float32
        error = (value - precise).norm() / precise.norm()
        assert error < 2**-4
    changed = not torch.equal(found[0], exact[0])
    assert changed is (form != "recurrent")
