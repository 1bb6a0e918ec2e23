"""The training loop: take a batch, predict, learn, look up now and then."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch

from elman.config import OptimizerConfig
from elman.data.batches import Batch
from elman.errors import DivergedError
from elman.models.neural import NeuralLanguageModel
from elman.ops.sampled_softmax import Negatives
from elman.train.budget import Budget
from elman.train.optimizer import learning_rate, set_learning_rate
from elman.train.step import make_step, to_inputs


class Loader(Protocol):
    """Batches without end, and whether the state after one is the state before the next."""

    carries_state: bool

    def __iter__(self) -> Iterator[Batch]:
        """The next batches."""
        ...


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one step did."""

    step: int
    used: float
    """Share of the budget gone after the step."""
    loss: torch.Tensor
    """Mean nats a target, before the update; a scalar on the model's device."""
    targets: int
    """Targets counted."""
    gradient_norm: torch.Tensor
    """Global L2 norm before clipping; a scalar on the model's device."""
    learning_rate: float


class Observer(Protocol):
    """Told of every step; asks the loop to stop by returning true."""

    def __call__(self, result: StepResult) -> bool:
        """True to stop."""
        ...


LOOK_EVERY = 64
"""Steps after which an accelerator is asked whether all gradients were finite; a processor is asked at each."""


def train(
    model: NeuralLanguageModel,
    loader: Loader,
    optimizer: torch.optim.Optimizer,
    config: OptimizerConfig,
    budget: Budget,
    observe: Observer,
    product_dtype: torch.dtype = torch.float32,
    negatives: Callable[[float], Negatives | None] = lambda used: None,
) -> int:
    """Train `model` in place until the budget is used or `observe` says stop; returns the steps done.

    Large products are computed in `product_dtype`; see `ops.precision`. `negatives` are those of the next step,
    from the share of the budget that is used; None trains with the exact loss.

    Raises:
        DivergedError: The loss or the gradient is not finite; the update that would follow is not made. An
            accelerator is asked now and then, so that the step that is named may be a later one.
    """
    take_step = make_step(model, optimizer, config.clip_norm, product_dtype)
    look_every = 1 if model.device.type == "cpu" else LOOK_EVERY
    finite = torch.ones((), dtype=torch.bool, device=model.device)
    state = None
    batches = iter(loader)
    step, used = 0, budget.used(0)
    while used < 1:
        batch = next(batches)
        fresh = state is None or not loader.carries_state
        if fresh:
            state = model.initial_state(len(batch.inputs))
        set_learning_rate(optimizer, rate := learning_rate(config, used))
        inputs = to_inputs(batch, negatives(used), model.device, fresh=fresh)
        loss, norm, state = take_step(inputs, state)
        finite &= torch.isfinite(norm) & torch.isfinite(loss)
        step, used = step + 1, budget.used(step + 1)
        if (step % look_every == 0 or used >= 1) and not finite:
            raise DivergedError(
                f"step {step}: the gradient is not finite (loss {loss.item():g} nats);"
                f" lower learning_rate ({config.learning_rate:g}) or set clip_norm"
            )
        if observe(StepResult(step, used, loss, int(batch.counted.sum()), norm, rate)):
            break
    return step
