"""Rows without a gradient cost nothing, and are in the end what the rule says; dense gradients are torch's AdamW."""

import copy
import math

import pytest
import torch

from elman.errors import ConfigError
from elman.train import row_adamw
from elman.train.row_adamw import RowAdamW

V, D = 11, 3
SETTINGS = {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.3}


def table(*shape: int, dtype=torch.float64, seed: int = 0) -> torch.nn.Parameter:
    rng = torch.Generator().manual_seed(seed)
    return torch.nn.Parameter(torch.randn(*(shape or (V, D)), dtype=dtype, generator=rng))


def sparse(rows: list[int], parameter: torch.Tensor, seed: int) -> torch.Tensor:
    """A gradient of these rows, uncoalesced where one stands there twice."""
    rng = torch.Generator().manual_seed(seed)
    values = torch.randn(len(rows), *parameter.shape[1:], dtype=parameter.dtype, generator=rng)
    return torch.sparse_coo_tensor(
        torch.tensor([rows]), values, parameter.shape, check_invariants=True, is_coalesced=False
    )


TOUCHED = [[1, 4, 4, 7], [0, 4], [9], [9], [1, 9, 7], [4, 2], [0], [0, 1], [5, 5], [7, 0]]
"""Rows that get a gradient at each step; 3, 6, 8 and 10 never do."""


class Slow:
    """The rule row by row, in Python's own numbers."""

    def __init__(self, weight: torch.Tensor, lr, betas, eps, weight_decay) -> None:
        self.w = weight.detach().double().flatten(1).tolist()
        self.m = [[0.0] * len(row) for row in self.w]
        self.v = [[0.0] * len(row) for row in self.w]
        self.last = [0] * len(self.w)
        self.lr, (self.b1, self.b2), self.eps, self.wd = lr, betas, eps, weight_decay
        self.step_number = 0

    def age(self, row: int, now: int) -> None:
        s, k = self.last[row], now - self.last[row]
        r = self.b1 / math.sqrt(self.b2)
        for j in range(len(self.w[row])):
            m, v = self.m[row][j], self.v[row][j]
            mean = self.b1 * m / (1 - self.b1 ** (s + 1))
            spread = math.sqrt(self.b2 * v / (1 - self.b2 ** (s + 1))) + self.eps
            self.w[row][j] *= (1 - self.lr * self.wd) ** k
            self.w[row][j] -= self.lr * sum(r**i for i in range(k)) * mean / spread
            self.m[row][j] = m * self.b1**k
            self.v[row][j] = v * self.b2**k
        self.last[row] = now

    def step(self, gradient: torch.Tensor) -> None:
        dense = gradient.to_dense().flatten(1).tolist()
        touched = set(gradient.coalesce().indices()[0].tolist()) if gradient.is_sparse else range(len(dense))
        t = self.step_number = self.step_number + 1
        for row in touched:
            self.age(row, t - 1)
            for j, g in enumerate(dense[row]):
                self.w[row][j] *= 1 - self.lr * self.wd
                m = self.m[row][j] = self.b1 * self.m[row][j] + (1 - self.b1) * g
                v = self.v[row][j] = self.b2 * self.v[row][j] + (1 - self.b2) * g * g
                moved = m / (1 - self.b1**t) / (math.sqrt(v / (1 - self.b2**t)) + self.eps)
                self.w[row][j] -= self.lr * moved
            self.last[row] = t

    def catch_up(self) -> None:
        for row in range(len(self.w)):
            self.age(row, self.step_number)


def weights(slow: Slow, like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(slow.w, dtype=torch.float64).view(like.shape)


@pytest.mark.parametrize("shape", [(V, D), (V,), (V, 2, 2)])
@pytest.mark.parametrize("at_once", [2, 4096])
def test_rows_follow_the_rule(shape, at_once, monkeypatch):
    monkeypatch.setattr(row_adamw, "ROWS_AT_ONCE", at_once)
    fast = table(*shape)
    slow = Slow(fast.view(V, -1), **SETTINGS)
    optimizer = RowAdamW([fast], **SETTINGS)
    for seed, rows in enumerate(TOUCHED):
        if seed == 6:  # the exact loss, once in between
            fast.grad = torch.randn_like(fast)
        else:
            fast.grad = sparse(rows, fast, seed)
        slow.step(fast.grad.view(V, -1) if seed == 6 else _flat(fast.grad))
        optimizer.step()
        if seed == 3:  # the learning rate may change, and the weights may be looked at
            optimizer.param_groups[0]["lr"] = slow.lr = 0.01
            optimizer.catch_up()
            slow.catch_up()
            torch.testing.assert_close(fast.detach(), weights(slow, fast))
    before = fast.detach().clone()
    optimizer.catch_up()
    slow.catch_up()
    assert not torch.equal(fast, before)
    torch.testing.assert_close(fast.detach(), weights(slow, fast))


def _flat(gradient: torch.Tensor) -> torch.Tensor:
    values = gradient._values().flatten(1) if gradient.dim() > 1 else gradient._values()[:, None]
    return torch.sparse_coo_tensor(gradient._indices(), values, (V, values.shape[1]), check_invariants=True)


def test_dense_gradients_are_torchs_adamw_to_the_bit():
    ours = [table(dtype=torch.float32), table(4, dtype=torch.float32)]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    optimizers = RowAdamW(ours, **SETTINGS), torch.optim.AdamW(theirs, fused=True, **SETTINGS)
    for _ in range(4):
        for mine, other in zip(ours, theirs, strict=True):
            mine.grad = torch.randn_like(mine)
            other.grad = mine.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.equal(mine, other)
        state = optimizers[0].state[mine]
        assert state.keys() == optimizers[1].state[other].keys()
        assert all(torch.equal(state[name], optimizers[1].state[other][name]) for name in state)


def test_rows_that_are_touched_at_every_step_are_torchs_adamw_to_the_bit():
    ours, theirs = table(dtype=torch.float32), table(dtype=torch.float32)
    optimizers = RowAdamW([ours], **SETTINGS), torch.optim.AdamW([theirs], fused=True, **SETTINGS)
    for seed in range(5):
        ours.grad = sparse([*range(V)][:: (-1) ** seed], ours, seed)
        theirs.grad = ours.grad.to_dense()
        for optimizer in optimizers:
            optimizer.step()
        if seed == 2:
            optimizers[0].catch_up()
    assert torch.equal(ours, theirs)


def test_an_embedding_and_an_output_layer_that_share_a_table_learn_from_both():
    ours, theirs = table(), table()
    optimizers = RowAdamW([ours], **SETTINGS), torch.optim.AdamW([theirs], fused=True, **SETTINGS)
    rows = torch.arange(V)
    for is_sparse, weight, optimizer in ((True, ours, optimizers[0]), (False, theirs, optimizers[1])):
        for _ in range(3):
            optimizer.zero_grad()
            read = torch.nn.functional.embedding(rows, weight, sparse=is_sparse)
            scored = torch.nn.functional.embedding(rows.flip(0)[:7], weight, sparse=is_sparse)
            (read.pow(3).sum() + scored.exp().sum()).backward()
            assert weight.grad.is_sparse == is_sparse
            optimizer.step()
    torch.testing.assert_close(ours, theirs)


def test_a_row_left_alone_moves_as_under_dense_adamw():
    # The rule's only approximation, late enough in a training: how the moves shrink.
    settings = {"lr": 0.01, "weight_decay": 0.01}
    ours, theirs, without = table(), table(), table()
    optimizers = RowAdamW([ours], **settings), torch.optim.AdamW([theirs], fused=True, **settings)
    for seed in range(240):
        rows = [*range(V)] if seed < 200 else [0]
        ours.grad = sparse(rows, ours, seed)
        theirs.grad = ours.grad.to_dense()
        for optimizer in optimizers:
            optimizer.step()
        if seed == 199:
            without = theirs.detach().clone()
    optimizers[0].catch_up()
    moved = (theirs - without)[1:].abs().max()
    assert moved > 0.005
    assert (ours - theirs).abs().max() < 0.02 * moved


def test_a_sparse_step_leaves_every_other_row_as_it_is():
    weight = table()
    optimizer = RowAdamW([weight], **SETTINGS)
    weight.grad = sparse([*range(V)], weight, 0)
    optimizer.step()
    everything = [weight.detach(), optimizer.state[weight]["exp_avg"], optimizer.state[weight]["exp_avg_sq"]]
    poisoned = [0, 2, 3, 6, 8]  # what is read shows
    for tensor in everything:
        tensor[poisoned] = math.nan
    before = [tensor.clone() for tensor in everything]
    for seed in (1, 2):
        weight.grad = sparse([1, 4, 4], weight, seed)
        optimizer.step()
    others = [row for row in range(V) if row not in (1, 4)]
    for tensor, old in zip(everything, before, strict=True):
        torch.testing.assert_close(tensor[others], old[others], rtol=0, atol=0, equal_nan=True)
        assert tensor[[1, 4]].isfinite().all()
        assert (tensor[[1, 4]] != old[[1, 4]]).all()
    assert optimizer.state[weight]["last_step"].tolist() == [3 if row in (1, 4) else 1 for row in range(V)]


def test_the_gradients_are_still_there_after_the_step():
    one, other = table(), table(2, 2)
    one.grad, other.grad = sparse([1], one, 0), torch.ones_like(other)
    expected = one.grad
    RowAdamW([one, other]).step()
    assert one.grad is expected
    assert torch.equal(other.grad, torch.ones_like(other))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("stop", [1, 4, 7])
def test_a_training_goes_on_from_its_state_to_the_bit(dtype, stop, tmp_path):
    def train(weight, optimizer, steps):
        for seed in steps:
            weight.grad = torch.ones_like(weight) if seed == 5 else sparse(TOUCHED[seed], weight, seed)
            optimizer.step()

    whole = table(dtype=dtype)
    uninterrupted = RowAdamW([whole], **SETTINGS)
    train(whole, uninterrupted, range(10))

    first = table(dtype=dtype)
    optimizer = RowAdamW([first], **SETTINGS)
    train(first, optimizer, range(stop))
    torch.save(optimizer.state_dict(), tmp_path / "state")
    second = torch.nn.Parameter(first.detach().clone())
    resumed = RowAdamW([second], lr=1.0)
    resumed.load_state_dict(torch.load(tmp_path / "state"))
    train(second, resumed, range(stop, 10))
    assert torch.equal(second, whole)
    for name, value in uninterrupted.state[whole].items():
        assert torch.equal(resumed.state[second][name], value)
        assert resumed.state[second][name].dtype == value.dtype
    for run in (uninterrupted, resumed):
        run.catch_up()
    assert torch.equal(second, whole)


def test_a_copy_goes_on_by_itself():
    weight = table()
    optimizer = RowAdamW([weight], **SETTINGS)
    weight.grad = sparse([1, 2], weight, 0)
    optimizer.step()
    twin = copy.deepcopy(optimizer)
    (other,) = twin.param_groups[0]["params"]
    before = weight.detach().clone()
    other.grad = sparse([1, 3], weight, 1)
    twin.step()
    assert torch.equal(weight, before)
    assert not torch.equal(other, before)


def test_moves_that_would_grow_are_refused():
    weight = table()
    optimizer = RowAdamW([weight], betas=(0.9, 0.8))
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    weight.grad = sparse([1], weight, 0)
    with pytest.raises(ConfigError, match=r"beta1 \(0\.9\) must be below the root of beta2 \(0\.8\)"):
        optimizer.step()


def test_groups_have_settings_of_their_own():
    decayed, kept = table(), table()
    optimizer = RowAdamW([{"params": [decayed], "weight_decay": 0.5}, {"params": [kept]}], weight_decay=0.0)
    for weight in (decayed, kept):
        weight.grad = sparse([1], weight, 0)
    start = kept.detach().clone()
    optimizer.step()
    for weight in (decayed, kept):
        weight.grad = sparse([2], weight, 0)
    optimizer.step()
    optimizer.catch_up()
    assert torch.equal(kept[3], start[3])
    torch.testing.assert_close(decayed[3], start[3] * (1 - 0.5e-3) ** 2)
