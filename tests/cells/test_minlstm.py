"""minLSTM: its gates. That its two forms agree is tested beside those of minGRU."""

import pytest
import torch
import torch.nn.functional as F

from elman.cells.mingru import positive
from elman.cells.minlstm import MinLSTMCell, MinLSTMState
from tests.cells.test_mingru import every_form, in_log_space, log_g, make
from tests.compare import assert_equal_to


@every_form
@pytest.mark.parametrize("start", ["g(0)", "zero", "any above zero"])
def test_both_forms_are_the_papers(form, start):
    cell, x = make("minlstm", torch.float64, form=form), torch.randn(3, 40, 4).double()
    h = {"g(0)": positive(torch.zeros(3, 5)), "zero": torch.zeros(3, 5), "any above zero": torch.rand(3, 5)}[
        start
    ].double()
    f, i, v = F.linear(x, cell.weight_ih, cell.bias).chunk(3, dim=-1)
    difference = F.softplus(-f) - F.softplus(-i)
    wanted = in_log_space(-F.softplus(difference), -F.softplus(-difference) + log_g(v), h.log())
    outputs, after = cell(x, MinLSTMState(h))
    assert_equal_to((outputs, after.h), (wanted, wanted[:, -1]), 1e-9)  # as far as softplus is exact


@every_form
def test_the_gates_share_one(form):
    """What is kept and what is added are a weighted mean, so a constant stays what it is."""
    cell, x = make("minlstm", torch.float64, size=3.0, form=form), torch.randn(2, 9, 4).double()
    with torch.no_grad():
        cell.weight_ih[-5:] = 0
        cell.bias[-5:] = 0.25
    outputs, _ = cell(x, MinLSTMState(torch.full((2, 5), 0.75).double()))
    assert_equal_to(outputs, torch.full_like(outputs, 0.75))


@every_form
@pytest.mark.parametrize("shut", [-30.0, -800.0, -1e6])
def test_the_gates_survive_when_both_are_shut(form, shut):
    cell = MinLSTMCell(1, 1, form=form).double()
    with torch.no_grad():
        cell.weight_ih.copy_(torch.tensor([[shut], [shut - 1], [0.0]]))
    outputs, _ = cell(torch.ones(1, 1, 1).double(), MinLSTMState(torch.ones(1, 1).double()))
    kept = torch.tensor(1.0).double().sigmoid()  # sigmoid(f) / sigmoid(i) is e
    assert_equal_to(outputs.flatten(), (kept + (1 - kept) * 0.5).flatten(), 1e-10)
