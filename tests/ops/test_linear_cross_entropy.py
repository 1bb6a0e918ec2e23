"""Chunked linear cross-entropy against its definition: values, gradients, arithmetic, and how much it holds."""

import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from elman.ops import linear_cross_entropy, reference
from elman.ops.chunks import Chunks
from tests.compare import assert_equal_to, assert_errs_no_more, pull_back

# Axes: N rows, D width, V vocabulary.
SHAPES = [(1, 1, 1), (1, 4, 7), (5, 1, 3), (40, 3, 2), (50, 8, 31)]

every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
every_reduction = pytest.mark.parametrize("reduction", ["sum", "mean", "none"])
every_bias = pytest.mark.parametrize("biased", [True, False], ids=["bias", "no bias"])

MODULE = sys.modules["elman.ops.linear_cross_entropy"]  # the package shows the function under this name


@pytest.fixture(autouse=True)
def _sixteen_rows_and_three_words_at_a_time(monkeypatch):
    """Small shapes must be cut too, and unevenly."""
    cut_to(monkeypatch, Chunks(rows=16, words=3))


def cut_to(monkeypatch, chunks):
    monkeypatch.setattr(MODULE, "choose_chunks", lambda rows, vocab_size, width, dtype, device: chunks)


def make(shape, biased=True, dtype=torch.float64):
    rows, width, vocab_size = shape
    inputs = [torch.randn(rows, width, dtype=dtype), torch.randn(vocab_size, width, dtype=dtype)]
    if biased:
        inputs.append(torch.randn(vocab_size, dtype=dtype))
    return inputs, torch.randint(vocab_size, (rows,))


def call(function, targets, reduction):
    """`function` of hidden, weight and, if there is one, bias."""
    return lambda hidden, weight, bias=None: function(hidden, weight, bias, targets, reduction=reduction)


@every_shape
@every_bias
@every_reduction
def test_the_fast_path_equals_the_definition(shape, biased, reduction):
    inputs, targets = make(shape, biased)
    expected, gradients, cotangents = pull_back(
        call(reference.linear_cross_entropy, targets, reduction), inputs
    )
    found, fast, _ = pull_back(call(linear_cross_entropy, targets, reduction), inputs, cotangents)
    assert_equal_to(found, expected, 1e-10)
    assert_equal_to(fast, gradients, 1e-10)


@every_reduction
def test_no_rows_cost_nothing(reduction):
    inputs, targets = make((0, 3, 5))
    found, gradients, _ = pull_back(call(linear_cross_entropy, targets, reduction), inputs)
    assert found[0].shape == (() if reduction != "none" else (0,))
    assert found[0].sum() == 0
    assert [gradient.shape for gradient in gradients] == [tensor.shape for tensor in inputs]
    assert not any(gradient.any() for gradient in gradients)


@every_shape
@every_bias
@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_in_float32_the_fast_path_errs_no_more_than_the_definition(shape, biased, reduction):
    inputs, targets = make(shape, biased, torch.float32)
    definition = call(reference.linear_cross_entropy, targets, reduction)
    names = ["nats", "d hidden", "d weight", "d bias"][: 1 + len(inputs)]
    assert_errs_no_more(call(linear_cross_entropy, targets, reduction), definition, inputs, names)


@every_bias
@every_reduction
def test_gradients_equal_finite_differences(biased, reduction):
    inputs, targets = make((19, 2, 5), biased)
    leaves = [tensor.requires_grad_() for tensor in inputs]
    assert torch.autograd.gradcheck(call(linear_cross_entropy, targets, reduction), leaves)


@every_reduction
def test_gradients_scale_with_what_comes_from_above_and_add_up(reduction):
    inputs, targets = make((40, 3, 7))
    leaves = [tensor.requires_grad_() for tensor in inputs]
    function = call(linear_cross_entropy, targets, reduction)
    once = torch.autograd.grad(function(*leaves).sum(), leaves)
    nats = function(*leaves).sum()
    scaled = torch.autograd.grad(2.5 * nats + function(*leaves).sum(), leaves)
    assert_equal_to(scaled, [3.5 * gradient for gradient in once])


@every_reduction
def test_a_second_backward_pass_gives_the_same_gradients(reduction):
    inputs, targets = make((40, 3, 7))
    leaves = [tensor.requires_grad_() for tensor in inputs]
    nats = call(linear_cross_entropy, targets, reduction)(*leaves).sum()
    first = torch.autograd.grad(nats, leaves, retain_graph=True)
    assert_equal_to(torch.autograd.grad(nats, leaves), first, tolerance=0)


@every_reduction
def test_a_matrix_that_is_also_the_input_gets_both_gradients(reduction):
    (weight,), targets = [make((1, 3, 7))[0][1]], torch.randint(7, (40,))
    rows = torch.randint(7, (40,))

    def tied(function):
        return lambda weight: function(weight[rows], weight, None, targets, reduction=reduction)

    expected, gradients, cotangents = pull_back(tied(reference.linear_cross_entropy), [weight])
    found, fast, _ = pull_back(tied(linear_cross_entropy), [weight], cotangents)
    assert_equal_to((found, fast), (expected, gradients), 1e-10)


@pytest.mark.parametrize("chunks", [Chunks(1, 1), Chunks(7, 7), Chunks(64, 2), Chunks(1000, 1000)], ids=str)
@every_reduction
def test_the_size_of_a_chunk_changes_nothing(chunks, reduction, monkeypatch):
    inputs, targets = make((90, 4, 7))
    cut_to(monkeypatch, Chunks(90, 7))
    whole, gradients, cotangents = pull_back(call(linear_cross_entropy, targets, reduction), inputs)
    cut_to(monkeypatch, chunks)
    found, fast, _ = pull_back(call(linear_cross_entropy, targets, reduction), inputs, cotangents)
    assert_equal_to(found, whole)
    assert_equal_to(fast, gradients)


@every_reduction
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("sign", [1, -1])
def test_extreme_logits_stay_finite_and_exact(reduction, dtype, sign):
    inputs, targets = make((40, 3, 7), dtype=dtype)
    inputs[0] = sign * 1e4 * inputs[0]
    expected, gradients, cotangents = pull_back(
        call(reference.linear_cross_entropy, targets, reduction), inputs
    )
    found, fast, _ = pull_back(call(linear_cross_entropy, targets, reduction), inputs, cotangents)
    assert expected[0].max() > 1e3
    for value, wanted in zip([*found, *fast], [*expected, *gradients], strict=True):
        assert value.isfinite().all()
        relative = 1e-10 if dtype == torch.float64 else 1e-4
        torch.testing.assert_close(value, wanted, rtol=relative, atol=relative * float(wanted.abs().max()))


def test_the_likelihoods_of_all_targets_sum_to_one():
    (hidden, weight, bias), _ = make((1, 4, 7))
    nats = linear_cross_entropy(hidden.expand(7, 4), weight, bias, torch.arange(7), reduction="none")
    assert_equal_to((-nats).exp().sum(), torch.tensor(1.0, dtype=torch.float64))


def test_reductions_agree():
    inputs, targets = make((40, 3, 7))
    each, total, average = (
        call(linear_cross_entropy, targets, reduction)(*inputs) for reduction in ("none", "sum", "mean")
    )
    assert each.shape == (40,)
    assert_equal_to((total, average), (each.sum(), each.mean()))
    assert linear_cross_entropy(*inputs, targets) == total


@every_reduction
def test_only_what_asks_for_a_gradient_decides_nothing(reduction):
    inputs, targets = make((40, 3, 7))
    _, gradients, cotangents = pull_back(call(linear_cross_entropy, targets, reduction), inputs)
    for index, wanted in enumerate(gradients):
        some = [tensor.clone().requires_grad_(at == index) for at, tensor in enumerate(inputs)]
        nats = call(linear_cross_entropy, targets, reduction)(*some)
        (found,) = torch.autograd.grad(nats, [some[index]], cotangents)
        assert_equal_to(found, wanted, tolerance=0)
    with torch.no_grad():
        assert not call(linear_cross_entropy, targets, reduction)(*inputs).requires_grad


@every_reduction
def test_nothing_that_goes_in_is_changed_and_any_layout_works(reduction):
    inputs, targets = make((40, 3, 7))
    scattered = [
        torch.stack([inputs[0], inputs[0]], dim=-1)[..., 0],
        inputs[1].T.contiguous().T,
        torch.stack([inputs[2], inputs[2]], dim=-1)[..., 0],
    ]
    assert not any(tensor.is_contiguous() for tensor in scattered)
    before = [tensor.clone() for tensor in (*inputs, targets)]
    function = call(linear_cross_entropy, targets, reduction)
    expected, gradients, cotangents = pull_back(function, inputs)
    assert all(map(torch.equal, (*inputs, targets), before))
    leaves = [tensor.requires_grad_() for tensor in scattered]
    found = function(*leaves)
    assert_equal_to(found, expected[0])
    assert_equal_to(torch.autograd.grad(found, leaves, cotangents), gradients)


def bfloat16_bound(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """How far nats [N] may move when the logits are computed in bfloat16.

    Rounding to bfloat16 errs by u = 2^-8 at most: once in each factor of a product, once in the bias and once
    in the logit. Nats are a difference of two quantities of which each moves by the largest error of a logit.
    """
    u = 2**-8
    logit_error = u * (3 * (hidden.abs() @ weight.abs().T) + 2 * bias.abs())
    return 2 * logit_error.amax(dim=1)


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_under_autocast_only_products_are_bfloat16(reduction):
    inputs, targets = make((60, 32, 50), dtype=torch.float32)
    exact, wanted, cotangents = pull_back(call(linear_cross_entropy, targets, reduction), inputs)

    def low(*given):
        with torch.autocast("cpu", torch.bfloat16):
            return call(linear_cross_entropy, targets, reduction)(*given)

    found, gradients, _ = pull_back(low, inputs, cotangents)
    bound = bfloat16_bound(*inputs)
    error = (found[0] - exact[0]).abs()
    assert error.max() > 0
    assert (error <= (bound.sum() if reduction == "sum" else bound)).all()
    assert (error <= 0.02 * exact[0].abs().mean()).all()
    for gradient, precise in zip(gradients, wanted, strict=True):
        assert gradient.dtype == torch.float32
        assert (gradient - precise).norm() < 2**-4 * precise.norm()


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_under_autocast_sums_stay_float32(reduction):
    """Of equal logits every exponential is 1, so that nothing but a sum in bfloat16 could lose more than 2^-8."""
    rows, vocab_size = 600, 1001
    inputs = [torch.zeros(rows, 4), torch.zeros(vocab_size, 4), torch.zeros(vocab_size)]
    targets = torch.zeros(rows, dtype=torch.int64)
    exact, (*_, wanted), cotangents = pull_back(call(linear_cross_entropy, targets, reduction), inputs)

    def low(*given):
        with torch.autocast("cpu", torch.bfloat16):
            return call(linear_cross_entropy, targets, reduction)(*given)

    found, (*_, d_bias), _ = pull_back(low, inputs, cotangents)
    assert_equal_to(found, exact)
    assert ((d_bias - wanted)[1:].abs() < 2**-8 * wanted[1:].abs()).all()


@pytest.mark.parametrize("shift", [-300.0, -50.0, 50.0, 300.0])
@pytest.mark.parametrize("low", [False, True], ids=["float32", "bfloat16"])
def test_a_shift_of_all_logits_changes_nothing(shift, low):
    """Totals of exponentials that would overflow, underflow or lose their digits are computed with a shift."""
    (hidden, weight, bias), targets = make((40, 3, 7), dtype=torch.float32)

    def shifted(by):
        def function(hidden, weight, bias):
            with torch.autocast("cpu", torch.bfloat16, enabled=low):
                return linear_cross_entropy(hidden, weight, bias + by, targets, reduction="none")

        return pull_back(function, [hidden, weight, bias], [torch.ones(40)])

    (expected, gradients, _), (found, moved, _) = shifted(0.0), shifted(shift)
    tolerance = 1e-4 if not low else 2**-8 * max(8.0, abs(shift))  # as a logit of that size is rounded
    assert_equal_to(found, expected, tolerance)
    if not low:
        assert_equal_to(moved, gradients, 1e-3)
    assert all(gradient.isfinite().all() for gradient in moved)


@pytest.mark.parametrize("strange", [300.0, -300.0])
def test_one_row_that_needs_a_shift_spoils_no_other(strange):
    (hidden, weight, bias), targets = make((40, 3, 7), dtype=torch.float32)
    hidden[5] = 0.0
    hidden[5, 0] = strange  # a row of logits far from zero, in a chunk of ordinary ones
    weight[:, 0] = 1.0
    expected, gradients, cotangents = pull_back(
        call(reference.linear_cross_entropy, targets, "none"), [hidden, weight, bias]
    )
    found, fast, _ = pull_back(
        call(linear_cross_entropy, targets, "none"), [hidden, weight, bias], cotangents
    )
    ordinary = torch.arange(40) != 5
    assert_equal_to(found[0][ordinary], expected[0][ordinary], 1e-5)
    assert_equal_to(found[0][5], expected[0][5], 1e-3)
    assert_equal_to(fast[0], gradients[0], 1e-4)


@pytest.mark.parametrize("vocab_size", [1, 2, 7])
def test_in_bfloat16_nats_are_not_negative_even_of_a_model_that_is_sure(vocab_size):
    (hidden, weight, bias), _ = make((300, 3, vocab_size), dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        targets = (6 * hidden @ weight.T + bias).argmax(dim=1)
        nats = linear_cross_entropy(6 * hidden, weight, bias, targets, reduction="none")
    assert nats.min() > -1e-5
    assert vocab_size > 1 or nats.abs().max() < 1e-5


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_gradients_are_only_computed_where_they_are_asked_for(reduction, monkeypatch):
    made = []
    real = MODULE._Gradients
    monkeypatch.setattr(MODULE, "_Gradients", lambda *shapes: made.append(1) or real(*shapes))
    inputs, targets = make((40, 3, 7))
    function = call(linear_cross_entropy, targets, reduction)
    function(*inputs)
    leaves = [tensor.requires_grad_() for tensor in inputs]
    with torch.no_grad():
        function(*leaves)
    assert not made
    function(*leaves)
    assert made


def test_hidden_rows_in_bfloat16_are_widened_first():
    (hidden, weight, bias), targets = make((20, 8, 7), dtype=torch.float32)
    hidden = hidden.bfloat16()
    nats = linear_cross_entropy(hidden, weight, bias, targets, reduction="none")
    assert nats.dtype == torch.float32
    expected = F.cross_entropy(F.linear(hidden.float(), weight, bias), targets, reduction="none")
    assert_equal_to(nats, expected)


@pytest.mark.parametrize("target", [-1, 7, -100])
def test_a_target_outside_the_vocabulary_is_refused(target):
    inputs, targets = make((20, 3, 7))
    targets[11] = target
    with pytest.raises(IndexError, match="out of range"):
        linear_cross_entropy(*inputs, targets)
