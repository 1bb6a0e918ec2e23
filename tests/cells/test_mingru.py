"""minGRU and what it shares with minLSTM: two forms of one recurrence, g, and the choice of a form.

`in_log_space` is the parallel form as Feng et al. (2024) print it, and `log_g` theirs.
"""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.func import functional_call

from elman import ops
from elman.cells.mingru import MinGRUCell, MinGRUState, positive, resolve_form
from elman.cells.minlstm import MinLSTMCell, MinLSTMState
from elman.errors import ConfigError
from tests.compare import assert_equal_to, pull_back
from tests.ops.resets import every_reset, make_resets

CELLS = {"mingru": (MinGRUCell, MinGRUState), "minlstm": (MinLSTMCell, MinLSTMState)}
STARTS = {
    "zero": torch.zeros,
    "above zero": torch.rand,
    "below zero": lambda *shape: -torch.rand(*shape),
    "any": torch.randn,
}

every_cell = pytest.mark.parametrize("name", CELLS)
every_start = pytest.mark.parametrize("start", STARTS)
every_form = pytest.mark.parametrize("form", ["sequential", "parallel"])


def log_g(v):
    return torch.where(v >= 0, (F.relu(v) + 0.5).log(), -F.softplus(-v))


def in_log_space(log_a, log_b, log_h):
    """All h_t at once, from the logarithms of the decays, of what is added, and of the state itself."""
    sums = F.pad(log_a.cumsum(1), (0, 0, 1, 0))
    values = torch.cat([log_h[:, None], log_b], dim=1)
    return (sums + torch.logcumsumexp(values - sums, dim=1)).exp()[:, 1:]


def make(name, dtype, size=1.0, **settings):
    """A cell of random parameters, whose gates reach the further the larger `size` is."""
    cell = CELLS[name][0](4, 5, **settings).to(dtype)
    for parameter in cell.parameters():
        torch.nn.init.normal_(parameter, std=size)
    return cell


def of_form(cell, form, reset):
    """The cell as a function of input, state and parameters; its output, and the state after."""
    cell.form = form
    kind, names = CELLS[type(cell).__name__.removesuffix("Cell").lower()][1], dict(cell.named_parameters())

    def function(x, h, *parameters):
        y, after = functional_call(
            cell, dict(zip(names, parameters, strict=True)), (x, kind(h), reset), strict=True
        )
        return y, after.h

    return function


@every_cell
@every_start
@every_reset
@pytest.mark.parametrize("size", [1.0, 20.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_both_forms_agree_from_any_state(name, start, resets, size, dtype):
    cell, reset = make(name, dtype, size), make_resets(resets, 3, 37)
    inputs = [torch.randn(3, 37, 4).to(dtype), STARTS[start](3, 5).to(dtype), *cell.parameters()]
    expected, gradients, cotangents = pull_back(of_form(cell, "sequential", reset), inputs)
    found, fast, _ = pull_back(of_form(cell, "parallel", reset), inputs, cotangents)
    assert_equal_to(found, expected)
    for ours, theirs in zip(fast, gradients, strict=True):  # sums over steps, so their scale is the measure
        assert_equal_to(ours / theirs.abs().max().clamp(min=1), theirs / theirs.abs().max().clamp(min=1))


@every_cell
@every_start
def test_both_forms_agree_in_float32_over_a_thousand_steps(name, start):
    cell, reset = make(name, torch.float32), torch.rand(2, 1000) < 0.002
    assert reset.any()
    inputs = [torch.randn(2, 1000, 4), STARTS[start](2, 5), *cell.parameters()]
    expected, gradients, cotangents = pull_back(of_form(cell, "sequential", reset), inputs)
    found, fast, _ = pull_back(of_form(cell, "parallel", reset), inputs, cotangents)
    for ours, theirs in zip([*found, *fast], [*expected, *gradients], strict=True):
        assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()


@every_form
@pytest.mark.parametrize("start", ["g(0)", "zero", "any above zero"])
def test_both_forms_are_the_papers(form, start):
    cell, x = make("mingru", torch.float64, form=form), torch.randn(3, 40, 4).double()
    h = {"g(0)": positive(torch.zeros(3, 5)), "zero": torch.zeros(3, 5), "any above zero": torch.rand(3, 5)}[
        start
    ].double()
    z, v = F.linear(x, cell.weight_ih, cell.bias).chunk(2, dim=-1)
    wanted = in_log_space(-F.softplus(z), -F.softplus(-z) + log_g(v), h.log())
    outputs, after = cell(x, MinGRUState(h))
    assert_equal_to((outputs, after.h), (wanted, wanted[:, -1]), 1e-9)  # as far as softplus is exact

    # The form in circulation that activates the state once more is another recurrence.
    trap = in_log_space(-F.softplus(z), -F.softplus(-z) + log_g(v), log_g(h))
    assert (trap - outputs)[:, 0].abs().max() > 0.01


@every_cell
def test_the_form_asked_for_is_the_form_that_runs(name, monkeypatch):
    ran = []
    for scan in (name, "parallel_scan"):
        op = getattr(ops, scan)
        monkeypatch.setattr(ops, scan, lambda *given, scan=scan, op=op: (ran.append(scan), op(*given))[1])
    cell, x = make(name, torch.float32), torch.randn(1, 3, 4)
    assert cell.form == "auto"
    assert "form='auto'" in repr(cell)
    for cell.form, scan in [
        ("auto", name),
        ("sequential", name),
        ("parallel", "parallel_scan"),
    ]:
        ran.clear()
        cell(x, cell.initial_state(1))
        assert ran == [scan]
    assert CELLS[name][0](4, 5, form="parallel").form == "parallel"


@pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:1", "mps", "xpu"])
def test_a_form_left_open_follows_the_device(device):
    wanted = "sequential" if device == "cpu" else "parallel"
    assert resolve_form("auto", torch.device(device)) == wanted
    for form in ("sequential", "parallel"):
        assert resolve_form(form, torch.device(device)) == form


@every_cell
def test_an_unknown_form_is_refused_when_it_is_given_and_when_it_is_used(name):
    with pytest.raises(ConfigError, match=r"form \('fast'\) must be one of auto, sequential, parallel"):
        CELLS[name][0](4, 5, form="fast")
    cell = CELLS[name][0](4, 5)
    cell.form = "paralel"
    with pytest.raises(ConfigError, match="'paralel'"):
        cell(torch.zeros(1, 1, 4), cell.initial_state(1))


@given(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4))
def test_g_is_positive_and_increasing(first, second):
    low, high = positive(torch.tensor(sorted([first, second]), dtype=torch.float64))
    assert 0 <= low <= high


@given(st.floats(-600, 1e6))
def test_g_is_that_of_the_paper(v):
    given = torch.tensor([v], dtype=torch.float64)
    assert_equal_to(positive(given), log_g(given).exp(), 1e-8)
