"""Sampled softmax against its definition, and against the exact loss where every word is a negative."""

import pytest
import torch
from torch import Tensor

from elman.ops import linear_cross_entropy, reference, sampled_softmax
from elman.ops.proposal import Proposal
from elman.ops.sampled_softmax import Negatives
from tests.compare import assert_equal_to, assert_errs_no_more, pull_back

# Axes: N rows, D width, V vocabulary, S negatives.
SHAPES = [(1, 1, 1, 1), (1, 4, 7, 3), (5, 1, 3, 3), (40, 3, 2, 1), (50, 8, 31, 11)]

every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
every_reduction = pytest.mark.parametrize("reduction", ["sum", "mean", "none"])
every_bias = pytest.mark.parametrize("biased", [True, False], ids=["bias", "no bias"])
dense_and_sparse = pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])


def make(shape, biased=True, dtype=torch.float64):
    """Inputs, targets that occur more than once where rows outnumber words, and negatives in no order."""
    rows, width, vocab_size, size = shape
    inputs = [torch.randn(rows, width, dtype=dtype), torch.randn(vocab_size, width, dtype=dtype)]
    if biased:
        inputs.append(torch.randn(vocab_size, dtype=dtype))
    negatives = Negatives(torch.randperm(vocab_size)[:size], 3 * torch.rand(size, dtype=dtype))
    return inputs, torch.randint(vocab_size, (rows,)), negatives


def call(function, targets, negatives, reduction="sum", **settings):
    """`function` of hidden, weight and, if there is one, bias."""
    return lambda hidden, weight, bias=None: function(
        hidden, weight, bias, targets, negatives, reduction=reduction, **settings
    )


def densely(gradients):
    return [gradient.to_dense() for gradient in gradients]


@every_shape
@every_bias
@every_reduction
@dense_and_sparse
def test_the_fast_path_equals_the_definition(shape, biased, reduction, sparse):
    inputs, targets, negatives = make(shape, biased)
    expected, gradients, cotangents = pull_back(
        call(reference.sampled_softmax, targets, negatives, reduction), inputs
    )
    fast = call(sampled_softmax, targets, negatives, reduction, sparse=sparse)
    found, slopes, _ = pull_back(fast, inputs, cotangents)
    assert_equal_to(found, expected)
    assert_equal_to(densely(slopes), gradients)


def test_the_shapes_hold_repeated_targets_hits_and_misses():
    """What the tests above are about must occur in them."""
    _, targets, negatives = make(SHAPES[-1])
    hits = torch.isin(targets, negatives.ids)
    assert hits.any()
    assert not hits.all()
    assert targets.unique().numel() < len(targets)


@every_bias
@every_reduction
def test_with_every_word_and_weights_of_one_it_is_the_exact_loss(biased, reduction):
    inputs, targets, _ = make((50, 4, 17, 1), biased)
    everything = Proposal(torch.arange(17), 17).draw(torch.Generator())
    expected, gradients, cotangents = pull_back(
        lambda hidden, weight, bias=None: linear_cross_entropy(
            hidden, weight, bias, targets, reduction=reduction
        ),
        inputs,
    )
    found, fast, _ = pull_back(call(sampled_softmax, targets, everything, reduction), inputs, cotangents)
    assert_equal_to(found, expected)
    assert_equal_to(fast, gradients)


def test_a_target_among_the_negatives_counts_once():
    inputs, targets, _ = make((6, 3, 9, 1))
    targets[:] = 4
    with_hit = Negatives(torch.tensor([2, 4, 7]), torch.tensor([0.5, 2.0, 1.0]).double())
    without = Negatives(torch.tensor([2, 7]), torch.tensor([0.5, 1.0]).double())
    expected, gradients, cotangents = pull_back(call(sampled_softmax, targets, without, "none"), inputs)
    found, fast, _ = pull_back(call(sampled_softmax, targets, with_hit, "none"), inputs, cotangents)
    assert_equal_to((found, fast), (expected, gradients))


@pytest.mark.parametrize("word", [0, 5])
def test_a_row_whose_only_negative_is_its_target_costs_nothing(word):
    inputs, targets, _ = make((4, 3, 6, 1))
    targets[:] = word
    alone = Negatives(torch.tensor([word]), torch.tensor([9.0]).double())
    (nats,), gradients, _ = pull_back(call(sampled_softmax, targets, alone, "none"), inputs)
    assert_equal_to(nats, torch.zeros_like(nats))
    assert_equal_to(gradients, [torch.zeros_like(gradient) for gradient in gradients])


@every_reduction
@dense_and_sparse
def test_no_rows_cost_nothing(reduction, sparse):
    inputs, targets, negatives = make((0, 3, 5, 2))
    found, gradients, _ = pull_back(
        call(sampled_softmax, targets, negatives, reduction, sparse=sparse), inputs
    )
    assert found[0].shape == (() if reduction != "none" else (0,))
    assert found[0].sum() == 0
    assert [gradient.shape for gradient in gradients] == [tensor.shape for tensor in inputs]
    assert not any(gradient.any() for gradient in densely(gradients))


@every_bias
@every_reduction
def test_gradients_equal_finite_differences(biased, reduction):
    inputs, targets, negatives = make((19, 2, 7, 4), biased)
    leaves = [tensor.requires_grad_() for tensor in inputs]
    assert torch.autograd.gradcheck(call(sampled_softmax, targets, negatives, reduction), leaves)


@dense_and_sparse
def test_only_rows_of_negatives_and_targets_are_touched(sparse):
    inputs, targets, negatives = make((5, 3, 50, 4))
    _, (_, d_weight, d_bias), _ = pull_back(call(sampled_softmax, targets, negatives, sparse=sparse), inputs)
    assert d_weight.is_sparse == sparse
    touched = torch.zeros(50, dtype=torch.bool)
    touched[negatives.ids] = touched[targets] = True
    assert d_weight.to_dense()[touched].any(dim=1).all()
    assert not d_weight.to_dense()[~touched].any()
    assert not d_bias[~touched].any()
    if sparse:
        assert d_weight._nnz() == len(targets) + len(negatives.ids)


@dense_and_sparse
def test_a_matrix_that_is_also_the_input_gets_both_gradients(sparse):
    (_, weight), targets, negatives = make((40, 3, 7, 4), biased=False)
    rows = torch.randint(7, (40,))

    def tied(function, **settings):
        return lambda weight: function(weight[rows], weight, None, targets, negatives, **settings)

    expected, gradients, cotangents = pull_back(tied(reference.sampled_softmax), [weight])
    found, fast, _ = pull_back(tied(sampled_softmax, sparse=sparse), [weight], cotangents)
    assert_equal_to((found, densely(fast)), (expected, gradients))


@every_reduction
@dense_and_sparse
def test_gradients_scale_add_up_and_can_be_taken_twice(reduction, sparse):
    inputs, targets, negatives = make((40, 3, 7, 4))
    leaves = [tensor.requires_grad_() for tensor in inputs]
    nats = call(sampled_softmax, targets, negatives, reduction, sparse=sparse)(*leaves).sum()
    once = densely(torch.autograd.grad(nats, leaves, retain_graph=True))
    again = densely(torch.autograd.grad(nats, leaves, retain_graph=True))
    assert_equal_to(again, once, tolerance=0)
    scaled = torch.autograd.grad(2.5 * nats, leaves)
    assert_equal_to(densely(scaled), [2.5 * gradient for gradient in once])


@every_reduction
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("sign", [1, -1])
def test_extreme_logits_stay_finite_and_exact(reduction, dtype, sign):
    inputs, targets, negatives = make((40, 3, 17, 9), dtype=dtype)
    inputs[0] = sign * 1e4 * inputs[0]
    expected, gradients, cotangents = pull_back(
        call(reference.sampled_softmax, targets, negatives, reduction), inputs
    )
    found, fast, _ = pull_back(call(sampled_softmax, targets, negatives, reduction), inputs, cotangents)
    assert expected[0].max() > 1e3
    for value, wanted in zip([*found, *fast], [*expected, *gradients], strict=True):
        assert value.isfinite().all()
        relative = 1e-10 if dtype == torch.float64 else 1e-4
        torch.testing.assert_close(value, wanted, rtol=relative, atol=relative * float(wanted.abs().max()))


def test_the_weight_of_a_rare_hit_drowns_no_other_word():
    """The maximum is taken before hits are cleared: a weight of a billion must leave the others their digits."""
    inputs, targets, _ = make((6, 3, 9, 1), dtype=torch.float32)
    targets[:] = 4
    rare = Negatives(torch.tensor([2, 4, 7]), torch.tensor([0.0, 20.7, 0.0]))
    found = call(sampled_softmax, targets, rare, "none")(*inputs)
    assert_equal_to(found, call(reference.sampled_softmax, targets, rare, "none")(*inputs))


@every_shape
@every_bias
def test_in_float32_the_fast_path_errs_no_more_than_the_definition(shape, biased):
    inputs, targets, negatives = make(shape, biased, torch.float32)
    fast = call(sampled_softmax, targets, negatives, "none")
    definition = call(reference.sampled_softmax, targets, negatives, "none")
    wide = Negatives(negatives.ids, negatives.log_weights.double())
    exact = call(reference.sampled_softmax, targets, wide, "none")
    names = ["nats", "d hidden", "d weight", "d bias"][: 1 + len(inputs)]
    assert_errs_no_more(fast, definition, inputs, names, exact)


def test_log_weights_of_a_proposal_are_narrowed_to_the_dtype_of_the_weights():
    inputs, targets, _ = make((20, 4, 50, 1), dtype=torch.float32)
    negatives = Proposal(torch.arange(50), 9).draw(torch.Generator().manual_seed(0))
    assert negatives.log_weights.dtype == torch.float64
    nats = call(sampled_softmax, targets, negatives, "none")(*inputs)
    assert nats.dtype == torch.float32
    narrow = Negatives(negatives.ids, negatives.log_weights.float())
    assert_equal_to(nats, call(reference.sampled_softmax, targets, narrow, "none")(*inputs))


def test_reductions_agree():
    inputs, targets, negatives = make((40, 3, 7, 4))
    each, total, average = (
        call(sampled_softmax, targets, negatives, reduction)(*inputs) for reduction in ("none", "sum", "mean")
    )
    assert each.shape == (40,)
    assert_equal_to((total, average), (each.sum(), each.mean()))
    assert sampled_softmax(*inputs, targets, negatives) == total


@every_reduction
@dense_and_sparse
def test_only_what_asks_for_a_gradient_decides_nothing(reduction, sparse):
    inputs, targets, negatives = make((40, 3, 7, 4))
    function = call(sampled_softmax, targets, negatives, reduction, sparse=sparse)
    _, gradients, cotangents = pull_back(function, inputs)
    for index, wanted in enumerate(gradients):
        some = [tensor.clone().requires_grad_(at == index) for at, tensor in enumerate(inputs)]
        (found,) = torch.autograd.grad(function(*some), [some[index]], cotangents)
        assert_equal_to(densely([found]), densely([wanted]), tolerance=0)
    with torch.no_grad():
        assert not function(*inputs).requires_grad


@every_reduction
def test_nothing_that_goes_in_is_changed_and_any_layout_works(reduction):
    inputs, targets, negatives = make((40, 3, 7, 4))
    scattered = [
        torch.stack([inputs[0], inputs[0]], dim=-1)[..., 0],
        inputs[1].T.contiguous().T,
        torch.stack([inputs[2], inputs[2]], dim=-1)[..., 0],
    ]
    assert not any(tensor.is_contiguous() for tensor in scattered)
    before = [tensor.clone() for tensor in (*inputs, targets, *negatives)]
    function = call(sampled_softmax, targets, negatives, reduction)
    expected, gradients, cotangents = pull_back(function, inputs)
    assert all(map(torch.equal, (*inputs, targets, *negatives), before))
    leaves = [tensor.requires_grad_() for tensor in scattered]
    found = function(*leaves)
    assert_equal_to(found, expected[0])
    assert_equal_to(torch.autograd.grad(found, leaves, cotangents), gradients)


def bfloat16_bound(hidden: Tensor, weight: Tensor) -> Tensor:
    """How far nats [N] may move when the products are computed in bfloat16.

    Rounding to bfloat16 errs by u = 2^-8 at most: once in each factor of a product and once in the sum of them.
    Log Z moves by the largest error of a logit; the target's own is computed in float32.
    """
    return (3 * 2**-8 * (hidden.abs() @ weight.abs().T)).amax(dim=1)


@every_bias
@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_under_autocast_only_products_are_bfloat16(biased, reduction):
    inputs, targets, negatives = make((60, 32, 50, 20), biased, dtype=torch.float32)
    function = call(sampled_softmax, targets, negatives, reduction)
    exact, wanted, cotangents = pull_back(function, inputs)

    def low(*given):
        with torch.autocast("cpu", torch.bfloat16):
            return function(*given)

    found, gradients, _ = pull_back(low, inputs, cotangents)
    assert found[0].dtype == torch.float32
    error, bound = (found[0] - exact[0]).abs(), bfloat16_bound(*inputs[:2])
    assert error.max() > 0
    assert (error <= (bound.sum() if reduction == "sum" else bound)).all()
    assert (error <= 0.02 * exact[0].abs().mean()).all()
    for gradient, precise in zip(gradients, wanted, strict=True):
        assert gradient.dtype == torch.float32
        assert (gradient - precise).norm() < 2**-5 * precise.norm()


def test_under_autocast_weights_and_sums_stay_float32():
    """Small whole numbers multiply exactly in bfloat16, so nats lose nothing: neither log weight nor bias."""
    inputs, targets, negatives = make((60, 4, 50, 20), dtype=torch.float32)
    inputs[:2] = [torch.randint(-3, 4, tensor.shape).float() for tensor in inputs[:2]]
    function = call(sampled_softmax, targets, negatives, "none")
    with torch.autocast("cpu", torch.bfloat16):
        found = function(*inputs)
    assert_equal_to(found, function(*inputs))


def test_hidden_rows_in_bfloat16_are_widened_first():
    (hidden, weight, bias), targets, negatives = make((20, 8, 17, 6), dtype=torch.float32)
    hidden = hidden.bfloat16()
    nats = sampled_softmax(hidden, weight, bias, targets, negatives, reduction="none")
    assert nats.dtype == torch.float32
    expected = reference.sampled_softmax(hidden.float(), weight, bias, targets, negatives, reduction="none")
    assert_equal_to(nats, expected)


@pytest.mark.parametrize("target", [-1, 7, -100])
def test_a_target_outside_the_vocabulary_is_refused(target):
    inputs, targets, negatives = make((20, 3, 7, 4))
    targets[11] = target
    with pytest.raises(IndexError, match="out of range"):
        sampled_softmax(*inputs, targets, negatives)
