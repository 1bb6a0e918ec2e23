"""The product for a handful of rows is the ordinary product."""

import pytest
import torch
import torch.nn.functional as F

from elman.ops.few_rows import BLOCKS, FEW, LEAST_WEIGHTS, linear_few_rows

WIDTH = 33
VOCAB = LEAST_WEIGHTS // WIDTH + BLOCKS + 5  # not a multiple of the blocks


@pytest.mark.parametrize("shape", [(1,), (1, 1), (2, 1), (3, 5), (FEW, 1), (FEW + 1, 1)])
@pytest.mark.parametrize("vocab_size", [7, VOCAB, -(-VOCAB // BLOCKS) * BLOCKS])
def test_it_is_the_linear_product(shape, vocab_size):
    weight, bias = torch.randn(vocab_size, WIDTH).double(), torch.randn(vocab_size).double()
    x = torch.randn(*shape, WIDTH).double()
    y = linear_few_rows(x, weight, bias)
    assert y.shape == (*shape, vocab_size)
    assert y.is_contiguous()
    torch.testing.assert_close(y, F.linear(x, weight, bias))


def test_a_matrix_that_is_trained_and_one_that_is_a_view_will_do():
    parameter = torch.nn.Parameter(torch.randn(VOCAB, WIDTH))
    x, bias = torch.randn(1, WIDTH), torch.randn(VOCAB)
    assert not linear_few_rows(x, parameter, bias).requires_grad
    torch.testing.assert_close(linear_few_rows(x, parameter, bias), F.linear(x, parameter, bias).detach())
    turned = torch.randn(WIDTH, VOCAB).T
    torch.testing.assert_close(linear_few_rows(x, turned, bias), F.linear(x, turned, bias))


def test_autocast_decides_the_products():
    weight, bias, x = torch.randn(VOCAB, WIDTH), torch.randn(VOCAB), torch.randn(1, WIDTH)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(linear_few_rows(x, weight, bias), F.linear(x, weight, bias))
