"""AdamW (Loshchilov & Hutter 2019) whose update of a matrix touches only the rows that got a gradient.

A step reaches few rows of an embedding, and of an output layer under a sampled softmax: their gradients are
sparse. A row that gets one at step t, and was up to date at step s, is first aged by the k = t - 1 - s steps
that passed it by,

    w <- (1 - lr wd)^k w  -  lr (1 + r + ... + r^(k-1)) beta1 m / (1 - beta1^(s+1))
                                / (sqrt(beta2 v / (1 - beta2^(s+1))) + eps)              r = beta1 / sqrt(beta2)
    m <- beta1^k m
    v <- beta2^k v

and then takes AdamW's ordinary step t. The moments and the decay are those of dense AdamW at the present
learning rate. The sum is what its momentum goes on to move a row that gets no further gradient: the first of
the k moves is exact, and the next ones shrink by r, as they do once the corrections of the bias have settled
(Kingma & Ba 2015, section 3). They are most of a rare row's learning: at the usual betas the step that sees the
gradient makes a tenth of its moves. Only their time differs from dense AdamW, which makes them before the row
is read again.

A dense gradient ages every row that is behind; the step is then torch's own.

Axes: V rows, n rows touched.
"""

import math
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from elman.errors import ConfigError

ROWS_AT_ONCE = 4096
"""Rows brought up to date at a time, in memory that is kept: fresh memory costs more than the arithmetic."""


class RowAdamW(torch.optim.AdamW):
    """torch's fused AdamW, which also takes sparse gradients of rows (COO, one sparse dimension).

    The state is that of torch.optim.AdamW, and `last_step`, Int64 [V], the step at which each row was last
    brought up to date; it is there only while rows may be behind. Until `catch_up`, rows without a recent
    gradient are not what they should be: call it before weights are scored or saved, and now and then in a
    long training, because what a row has missed is made up for at the learning rate of the present.

    Args:
        params: Parameters or groups of them.
        lr: Learning rate.
        betas: Decay of the two moments.
        eps: Added to the root of the second.
        weight_decay: Decay of the weights, in units of `lr`.

    Example:
        >>> table = torch.nn.Embedding(1000, 8, sparse=True)
        >>> optimizer = RowAdamW(table.parameters())
        >>> table(torch.tensor([3, 5, 3])).sum().backward()
        >>> optimizer.step()      # reads and writes rows 3 and 5
        >>> optimizer.catch_up()  # the others
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=True)
        self._scratch: dict[tuple[torch.device, torch.dtype, torch.Size], Tensor] = {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A copy of an optimizer has memory of its own to work in."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._scratch = {}

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step; a parameter without a gradient is left alone, momentum and decay included.

        Raises:
            ConfigError: A gradient is sparse, and beta1 is so large for beta2 that moves would grow.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        sparse: list[tuple[Tensor, Tensor]] = []
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                if parameter.grad.is_sparse:
                    self._step_rows(parameter, parameter.grad.coalesce(), group)
                    sparse.append((parameter, parameter.grad))
                    parameter.grad = None  # out of the way of torch's step, which takes dense ones only
                else:
                    self._catch_up(parameter, group)
        super().step()
        for parameter, gradient in sparse:
            parameter.grad = gradient
        return loss

    @torch.no_grad()
    def catch_up(self) -> None:
        """Bring every row up to the last step, at the present learning rate; the others are not read."""
        for group in self.param_groups:
            for parameter in group["params"]:
                self._catch_up(parameter, group)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go to where `state_dict` was taken, to the bit. Takes that of a torch.optim.AdamW(fused=True) too."""
        super().load_state_dict(state_dict)
        numbers = chain.from_iterable(group["params"] for group in state_dict["param_groups"])
        parameters = chain.from_iterable(group["params"] for group in self.param_groups)
        for number, parameter in zip(numbers, parameters, strict=True):
            saved = state_dict["state"].get(number, {})
            if "last_step" in saved:  # torch has made it a number of the parameter's type
                self.state[parameter]["last_step"] = saved["last_step"].to(parameter.device, copy=True)

    def _step_rows(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        beta1, beta2 = group["betas"]
        if beta1**2 >= beta2:
            raise ConfigError(
                f"beta1 ({beta1:g}) must be below the root of beta2 ({beta2:g}): only then do rows without a"
                " gradient come to rest; lower beta1, or train with dense gradients"
            )
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        if "last_step" not in state:
            state["last_step"] = state["step"].long().repeat(len(parameter))
        before = state["step"].clone()
        (index,) = gradient.indices()
        for index_n, gradient_n in zip(
            index.split(ROWS_AT_ONCE), gradient.values().split(ROWS_AT_ONCE), strict=True
        ):
            weight, exp_avg, exp_avg_sq = self._aged(parameter, index_n, before, group)
            adamw(
                [weight],
                [gradient_n],
                [exp_avg],
                [exp_avg_sq],
                [],
                [before.clone()],  # which it counts up
                fused=True,
                amsgrad=False,
                maximize=False,
                beta1=beta1,
                beta2=beta2,
                lr=group["lr"],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
            )
            self._write(parameter, index_n, before + 1, weight, exp_avg, exp_avg_sq)
        state["step"] += 1

    def _catch_up(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state = self.state.get(parameter, {})
        if "last_step" not in state:
            return
        (behind,) = (state["last_step"] < state["step"]).nonzero(as_tuple=True)
        for index_n in behind.split(ROWS_AT_ONCE):
            self._write(
                parameter, index_n, state["step"], *self._aged(parameter, index_n, state["step"], group)
            )
        del state["last_step"]

    def _aged(
        self, parameter: Tensor, index_n: Tensor, now: Tensor, group: dict[str, Any]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Copies of some rows of the weights and both moments, as they are after step `now`."""
        state, (beta1, beta2), rate = self.state[parameter], group["betas"], group["lr"]
        buffers = self._buffers(parameter, len(index_n))
        weight, exp_avg, exp_avg_sq, root = buffers
        for source, copy in zip((parameter, state["exp_avg"], state["exp_avg_sq"]), buffers, strict=False):
            torch.index_select(source, 0, index_n, out=copy)
        since = (
            state["last_step"]
            .index_select(0, index_n)
            .to(torch.promote_types(parameter.dtype, torch.float32))
        )
        since = since.view(-1, *[1] * (parameter.dim() - 1))  # one number a row
        missed, first = now - since, since + 1
        ratio = beta1 / math.sqrt(beta2)
        weight.mul_((1 - rate * group["weight_decay"]) ** missed)
        torch.sqrt(exp_avg_sq, out=root).mul_((beta2 / (1 - beta2**first)).sqrt_()).add_(group["eps"])
        exp_avg_sq.mul_(beta2**missed)
        moves = rate * beta1 / (1 - ratio) * (1 - ratio**missed) / (1 - beta1**first)
        weight.sub_(torch.div(exp_avg, root, out=root).mul_(moves))
        exp_avg.mul_(beta1**missed)
        return weight, exp_avg, exp_avg_sq

    def _write(
        self,
        parameter: Tensor,
        index_n: Tensor,
        step: Tensor,
        weight: Tensor,
        exp_avg: Tensor,
        exp_avg_sq: Tensor,
    ) -> None:
        state = self.state[parameter]
        parameter.index_copy_(0, index_n, weight)
        state["exp_avg"].index_copy_(0, index_n, exp_avg)
        state["exp_avg_sq"].index_copy_(0, index_n, exp_avg_sq)
        state["last_step"].index_fill_(0, index_n, step.long())

    def _buffers(self, parameter: Tensor, rows: int) -> tuple[Tensor, ...]:
        """Four times [rows, ...], the same memory every time."""
        key = (parameter.device, parameter.dtype, parameter.shape[1:])
        if key not in self._scratch:
            self._scratch[key] = parameter.new_empty(4, ROWS_AT_ONCE, *parameter.shape[1:])
        return self._scratch[key][:, :rows].unbind()
