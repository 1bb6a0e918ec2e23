"""What every cell promises: cutting changes nothing, resets are exact, rows and times do not leak.

Axes: B batch, T time, D input width, H hidden width.
"""

from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from elman.models.base import map_state
from tests.compare import assert_equal_to, pull_back
from tests.contract.families import CELL_NAMES, make_cell, random_state

B, T, D, H = 3, 7, 3, 4
CUTS = [*([cut] for cut in range(1, T)), [2, 3], [1, 4, 6], list(range(1, T))]

every_cell = pytest.mark.parametrize("name", CELL_NAMES)
every_dtype = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)


def make(name: str, dtype: torch.dtype = torch.float64):
    """A cell, an input, a state that is not zero, and resets of which some are true."""
    cell = make_cell(name, dtype, D, H)
    reset = torch.rand(B, T) < 0.3
    assert reset.any()
    assert not reset.all()
    return cell, torch.randn(B, T, D, dtype=dtype), random_state(cell, B), reset


def run(cell, x, state, reset=None, cuts=()):
    """Outputs and last state of a sequence read in pieces, cut before each step in `cuts`."""
    outputs = []
    for start, end in pairwise([0, *cuts, x.shape[1]]):
        y, state = cell(x[:, start:end], state, None if reset is None else reset[:, start:end])
        outputs.append(y)
    return torch.cat(outputs, dim=1), state


def as_function(cell, kind, reset=None, cuts=()):
    """A function of input, parameters and state: output first, then the parts of the last state."""
    names = [name for name, _ in cell.named_parameters()]

    def function(x, *rest):
        parameters = dict(zip(names, rest[: len(names)], strict=True))

        def call(*arguments):
            return functional_call(cell, parameters, arguments)

        y, state = run(call, x, kind(*rest[len(names) :]), reset, cuts)
        return y, *state

    return function


@every_cell
def test_a_state_is_a_named_tuple_of_one_row_for_every_stream(name):
    cell, x, state, _ = make(name)
    for batch in (1, 5):
        start = cell.initial_state(batch)
        assert isinstance(start, tuple)
        assert type(start)._fields
        assert all(isinstance(part, Tensor) and len(part) == batch for part in start)
    after = cell(x, state)[1]
    assert type(after) is type(state)
    assert [part.shape for part in after] == [part.shape for part in state]


@every_cell
@every_dtype
def test_outputs_and_states_are_in_the_dtype_of_the_parameters(name, dtype):
    cell, x, _, reset = make(name, dtype)
    start = cell.initial_state(B)
    y, after = cell(x, start, reset)
    assert y.shape == (B, T, H)
    assert {part.dtype for part in (*start, y, *after)} == {dtype}


@every_cell
def test_a_fresh_state_holds_no_memory_of_another_call(name):
    cell = make_cell(name)
    first, second = cell.initial_state(2), cell.initial_state(2)
    for part in (*first,):
        part.fill_(7.0)
    assert all((part != 7.0).all() for part in second)
    parts = [part.untyped_storage().data_ptr() for part in (*first, *second)]
    assert len(set(parts)) == len(parts), "two parts of a state share their memory"


@every_cell
def test_a_state_keeps_only_its_own_memory_alive(name):
    cell, x, state, _ = make(name)
    y, after = cell(x, state)
    for part in after:
        assert part.untyped_storage().nbytes() == part.numel() * part.element_size()
        assert part.untyped_storage().data_ptr() != y.untyped_storage().data_ptr()


@every_cell
def test_everything_that_goes_in_has_an_influence(name):
    cell, x, state, _ = make(name)
    inputs = [x, *cell.parameters(), *state]
    _, gradients, _ = pull_back(as_function(cell, type(state)), inputs)
    for gradient in gradients:
        assert (gradient != 0).all()


@every_cell
@every_dtype
@pytest.mark.parametrize("resets", [False, True], ids=["carried", "resets"])
@pytest.mark.parametrize("cuts", CUTS, ids=str)
def test_cutting_a_sequence_changes_nothing(name, dtype, resets, cuts):
    cell, x, state, reset = make(name, dtype)
    reset = reset if resets else None
    inputs = [x, *cell.parameters(), *state]
    whole, gradients, cotangents = pull_back(as_function(cell, type(state), reset), inputs)
    pieces, found, _ = pull_back(as_function(cell, type(state), reset, cuts), inputs, cotangents)
    assert_equal_to(pieces, whole, what="output")
    assert_equal_to(found, gradients, what="gradient")


@every_cell
@every_dtype
def test_a_long_sequence_one_token_at_a_time_equals_the_whole(name, dtype):
    cell = make_cell(name, dtype, D, H)
    x, state = torch.randn(2, 100, D, dtype=dtype), random_state(cell, 2)
    with torch.no_grad():
        assert_equal_to(run(cell, x, state, cuts=range(1, 100)), run(cell, x, state))


@every_cell
@pytest.mark.parametrize("t", range(T))
def test_a_reset_equals_a_fresh_sequence(name, t):
    cell, x, state, _ = make(name)
    reset = torch.zeros(B, T, dtype=torch.bool)
    reset[1, t] = True
    y, after = cell(x, state, reset)
    untouched, after_untouched = cell(x, state)
    fresh, after_fresh = cell(x[:, t:], cell.initial_state(B))
    assert_equal_to(y[1, t:], fresh[1])
    assert_equal_to([part[1] for part in after], [part[1] for part in after_fresh])
    assert_equal_to(y[1, :t], untouched[1, :t])
    for other in (0, 2):
        assert_equal_to(y[other], untouched[other])
        assert_equal_to([part[other] for part in after], [part[other] for part in after_untouched])
    assert not torch.allclose(y[1, t:], untouched[1, t:])


@every_cell
@pytest.mark.parametrize("t", range(T))
def test_no_gradient_flows_across_a_reset(name, t):
    cell, x, state, _ = make(name)
    reset = torch.zeros(B, T, dtype=torch.bool)
    reset[1, t] = True

    def function(x, *state):
        y, after = cell(x, type(after_state)(*state), reset)
        return y[:, t:], *after

    after_state = state
    _, (d_x, *d_state), _ = pull_back(function, [x, *state])
    assert not d_x[1, :t].any()
    assert all(not part[1].any() for part in d_state)
    assert (d_x[1, t:] != 0).all()
    assert (d_x[[0, 2]] != 0).all()
    assert all((part[[0, 2]] != 0).all() for part in d_state)


@every_cell
@pytest.mark.parametrize("poison", [torch.nan, torch.inf, -torch.inf])
def test_a_reset_drops_even_a_poisoned_state(name, poison):
    cell, x, state, _ = make(name)
    reset = torch.zeros(B, T, dtype=torch.bool)
    reset[:, 0] = True
    poisoned = map_state(lambda part: torch.full_like(part, poison), state)
    inputs = [x, *cell.parameters()]
    clean, gradients, cotangents = pull_back(
        as_function(cell, type(state), reset), [*inputs, *cell.initial_state(B)]
    )
    found, from_poison, _ = pull_back(as_function(cell, type(state), reset), [*inputs, *poisoned], cotangents)
    assert_equal_to(found, clean)
    assert_equal_to(from_poison, gradients)


@every_cell
def test_a_poisoned_row_does_not_reach_the_others(name):
    cell, x, state, reset = make(name)
    expected, _ = run(cell, x, state, reset)
    spoilt = x.clone()
    spoilt[1] = torch.nan
    found, _ = run(cell, spoilt, state, reset)
    assert_equal_to(found[[0, 2]], expected[[0, 2]])


@every_cell
@every_dtype
def test_permuting_the_rows_permutes_the_results(name, dtype):
    cell, x, state, reset = make(name, dtype)
    order = torch.tensor([2, 0, 1])
    y, after = cell(x, state, reset)
    found, found_after = cell(x[order], map_state(lambda part: part[order], state), reset[order])
    assert_equal_to(found, y[order])
    assert_equal_to(found_after, [part[order] for part in after])


@every_cell
@every_dtype
@pytest.mark.parametrize("row", range(B))
def test_rows_do_not_influence_each_other(name, dtype, row):
    cell, x, state, reset = make(name, dtype)
    y, after = cell(x, state, reset)
    others = [other for other in range(B) if other != row]

    alone, alone_after = cell(
        x[row : row + 1], map_state(lambda part: part[row : row + 1], state), reset[row : row + 1]
    )
    assert_equal_to(alone[0], y[row])
    assert_equal_to([part[0] for part in alone_after], [part[row] for part in after])

    changed, changed_state, changed_reset = x.clone(), map_state(Tensor.clone, state), reset.clone()
    changed[row] += 1
    changed_reset[row] = ~changed_reset[row]
    for part in changed_state:
        part[row] -= 1
    found, found_after = cell(changed, changed_state, changed_reset)
    assert_equal_to(found[others], y[others])
    assert_equal_to([part[others] for part in found_after], [part[others] for part in after])
    assert not torch.allclose(found[row], y[row])

    _, (d_x, *d_state), _ = pull_back(
        lambda x, *parts: cell(x, type(state)(*parts), reset)[0][row], [x, *state]
    )
    assert not d_x[others].any()
    assert all(not part[others].any() for part in d_state)
    assert d_x[row].all()


@every_cell
@every_dtype
@pytest.mark.parametrize("t", range(1, T))
def test_the_future_does_not_change_the_past(name, dtype, t):
    cell, x, state, reset = make(name, dtype)
    y, _ = cell(x, state, reset)
    later, later_reset = x.clone(), reset.clone()
    later[:, t:] += torch.randn(B, T - t, D, dtype=dtype)
    later_reset[:, t:] = ~later_reset[:, t:]
    found, _ = cell(later, state, later_reset)
    assert_equal_to(found[:, :t], y[:, :t])
    assert not torch.allclose(found[:, t:], y[:, t:])


@every_cell
@pytest.mark.parametrize("resets", [False, True], ids=["carried", "resets"])
def test_gradients_equal_finite_differences(name, resets):
    cell = make_cell(name, input_size=2, hidden_size=3)
    state = random_state(cell, 2)
    reset = torch.tensor([[False, True, False], [True, False, True]]) if resets else None
    inputs = [torch.randn(2, 3, 2, dtype=torch.float64), *cell.parameters(), *state]
    leaves = [tensor.detach().clone().requires_grad_() for tensor in inputs]
    assert torch.autograd.gradcheck(as_function(cell, type(state), reset), leaves)


@every_cell
def test_nothing_that_goes_in_is_changed(name):
    cell, x, state, reset = make(name)
    leaves = [x.requires_grad_(), *(part.requires_grad_() for part in state)]
    given = [x, *state, reset, *cell.parameters()]
    before, fields = [tensor.detach().clone() for tensor in given], dict(vars(cell))
    y, after = cell(x, state, reset)
    outputs = [y, *after]
    produced = [output.detach().clone() for output in outputs]
    cotangents = [torch.randn_like(output) for output in outputs]
    kept = [cotangent.clone() for cotangent in cotangents]
    torch.autograd.grad(outputs, [*leaves, *cell.parameters()], cotangents)
    for tensor, copy in zip([*given, *outputs, *cotangents], [*before, *produced, *kept], strict=True):
        assert torch.equal(tensor, copy)
    assert vars(cell) == fields
    assert not list(cell.buffers())


@every_cell
def test_the_same_state_may_be_used_again(name):
    cell, x, state, reset = make(name)
    first = cell(x, state, reset)
    assert_equal_to(cell(x, state, reset), first, tolerance=0)


@every_cell
def test_a_second_backward_pass_gives_the_same_gradients(name):
    cell, x, state, reset = make(name)
    y, after = cell(x, state, reset)
    outputs = [y, *after]
    cotangents = [torch.randn_like(output) for output in outputs]
    parameters = list(cell.parameters())
    first = torch.autograd.grad(outputs, parameters, cotangents, retain_graph=True)
    assert_equal_to(torch.autograd.grad(outputs, parameters, cotangents), first, tolerance=0)


@every_cell
def test_memory_may_be_laid_out_in_any_way(name):
    cell, x, state, reset = make(name)
    expected = run(cell, x, state, reset)

    def scattered(tensor: Tensor) -> Tensor:
        """The same values, every other element of a larger transposed block."""
        block = torch.full([2 * size for size in reversed(tensor.shape)], 9).to(tensor.dtype)
        view = block[tuple(slice(None, None, 2) for _ in tensor.shape)].permute(
            *reversed(range(tensor.dim()))
        )
        view.copy_(tensor)
        assert not view.is_contiguous()
        return view

    found = run(cell, scattered(x), map_state(scattered, state), scattered(reset))
    assert_equal_to(found, expected)
    spread = [torch.ones(1, 1, dtype=x.dtype).expand_as(part) for part in expected[1]]
    repeated = torch.ones(1, 1, 1, dtype=x.dtype).expand(B, T, D)
    assert_equal_to(
        run(cell, repeated, type(state)(*spread)),
        run(cell, repeated.contiguous(), type(state)(*(part.contiguous() for part in spread))),
    )


@every_cell
@pytest.mark.parametrize(("batch", "steps"), [(1, 1), (1, 5), (4, 1)])
@pytest.mark.parametrize(("inputs", "hidden"), [(1, 1), (5, 1), (1, 5)])
def test_the_smallest_shapes_work(name, batch, steps, inputs, hidden):
    cell = make_cell(name, torch.float64, inputs, hidden)
    x, state = torch.randn(batch, steps, inputs, dtype=torch.float64), random_state(cell, batch)
    reset = torch.rand(batch, steps) < 0.5
    y, after = run(cell, x, state, reset)
    assert y.shape == (batch, steps, hidden)
    tokens, after_tokens = run(cell, x, state, reset, cuts=range(1, steps))
    assert_equal_to((y, after), (tokens, after_tokens))


@every_cell
def test_initialisation_repeats_with_its_seed_and_replaces_every_number(name):
    cell = make_cell(name)

    def reset(seed: int) -> list[Tensor]:
        for parameter in cell.parameters():
            parameter.data.fill_(torch.nan)
        torch.manual_seed(seed)
        cell.reset_parameters()
        return [parameter.detach().clone() for parameter in cell.parameters()]

    first, second = reset(1), reset(2)
    assert all(parameter.isfinite().all() for parameter in first)
    assert_equal_to(reset(1), first, tolerance=0)
    assert any(not torch.equal(one, other) for one, other in zip(first, second, strict=True))
