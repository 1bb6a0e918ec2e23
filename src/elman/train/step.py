"""One step of training: predict, learn.

    nats, state = model.loss(...)
    gradient of nats / targets, clipped by its global norm
    AdamW, unless the loss or the gradient is not finite

On CUDA nothing in it waits for the accelerator, so that it can be recorded (`recorded_step`): how many targets there
are is known before, and whether the loss and the gradient are finite is asked there (`found_inf`, as a gradient scaler
has it).
"""

import contextlib
import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from elman.data.batches import Batch
from elman.errors import ResourceError, is_out_of_memory
from elman.models.base import State, detach, map_state, select_rows
from elman.models.neural import NeuralLanguageModel
from elman.ops.sampled_softmax import Negatives
from elman.ranks import ALONE, Ranks
from elman.train.clip import clip_grad_norm
from elman.train.say import Say

# Axes: B batch, T time, S negatives.


class Inputs(NamedTuple):
    """What a step is given, on the device of the model."""

    tokens: Tensor
    """Int64 [B, T]."""
    targets: Tensor
    """Int64 [B, T]."""
    reset: Tensor | None
    """Bool [B, T], or None where no state is dropped."""
    counted: Tensor | None
    """Bool [B, T], or None where every target counts."""
    targets_counted: Tensor
    """How many count, of all ranks; a float32 scalar."""
    negatives: Negatives | None
    """For a sampled loss; None for the exact one."""

    def select(self, rows: slice) -> "Inputs":
        """Some rows of the batch; how many targets count, and the negatives, are those of all of it."""
        return self._replace(
            tokens=self.tokens[rows],
            targets=self.targets[rows],
            reset=None if self.reset is None else self.reset[rows],
            counted=None if self.counted is None else self.counted[rows],
        )


class Outcome(NamedTuple):
    """What a step came to."""

    loss: Tensor
    """Mean nats a target, before the update; a scalar."""
    gradient_norm: Tensor
    """Global L2 norm before clipping; a scalar."""
    state: State
    """After the last token, without gradients."""


class Step(Protocol):
    """Learn from one batch."""

    def __call__(self, inputs: Inputs, state: State) -> Outcome:
        """Update the model in place."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What it has learnt of the machine, fit for JSON."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Remember that; the tensors of the model and of the optimizer may have been replaced."""
        ...


def to_inputs(
    batch: Batch, targets: int, negatives: Negatives | None, device: torch.device, *, fresh: bool = False
) -> Inputs:
    """A batch from the loader as a step wants it; masks that say nothing are left out, which is quicker.

    Args:
        batch: On the CPU; the rows of this rank.
        targets: How many count, of all ranks.
        negatives: For a sampled loss, on the CPU.
        device: Of the model.
        fresh: Whether the state before the batch is that of no text, so that dropping it first changes nothing.
    """
    resets, all_count = bool(batch.reset[:, int(fresh) :].any()), bool(batch.counted.all())

    def move(tensor: Tensor) -> Tensor:
        return tensor.to(device, non_blocking=True)

    return Inputs(
        tokens=move(batch.inputs),
        targets=move(batch.targets),
        reset=move(batch.reset) if resets else None,
        counted=None if all_count else move(batch.counted),
        targets_counted=move(torch.tensor(float(targets))),
        negatives=negatives and Negatives(move(negatives.ids), move(negatives.log_weights.float())),
    )


class EagerStep:
    """The step as it is written; large products are computed in `product_dtype`.

    Args:
        model: Learns.
        optimizer: Of its parameters.
        clip_norm: Global L2 norm of the gradient, at most; None leaves it alone.
        product_dtype: Of the large products.
        parts: The batch is learnt from in so many parts, one after another, which takes less memory. Without dropout
            the update is the same. Where memory runs out nevertheless, once, there are twice as many.
        ranks: The processes of the job; gradients are summed over them.
        say: Told when there are more parts.
    """

    def __init__(
        self,
        model: NeuralLanguageModel,
        optimizer: torch.optim.Optimizer,
        clip_norm: float | None = None,
        product_dtype: torch.dtype = torch.float32,
        *,
        parts: int = 1,
        ranks: Ranks = ALONE,
        say: Say = lambda line: None,
    ) -> None:
        self._model, self._optimizer = model, optimizer
        self._clip_norm, self._product_dtype = clip_norm or math.inf, product_dtype
        self._parts, self._ranks, self._say = parts, ranks, say
        self._recordable = is_recordable(model, optimizer)
        self._divided = False
        self._loss: nn.Module = LossModule(model)
        if ranks.size > 1:
            self._loss = DistributedDataParallel(self._loss)
            self._loss.register_comm_hook(None, sum_of_ranks)

    def __call__(self, inputs: Inputs, state: State) -> Outcome:
        """See `Step`; a gradient that is not finite changes nothing.

        Raises:
            ResourceError: Out of memory, and smaller parts did not help.
            RankError: Another rank did not exchange its gradients.
        """
        loss, state = self._gradients_in_memory(inputs, state)
        try:
            norm = clip_grad_norm(self._model.parameters(), self._clip_norm)
            if self._recordable:
                self._optimizer.found_inf = 1 - torch.isfinite(norm + loss).float()  # type: ignore[attr-defined]
                self._optimizer.step()
            elif torch.isfinite(norm) and torch.isfinite(loss):
                self._optimizer.step()
        except (MemoryError, RuntimeError) as error:
            if is_out_of_memory(error):
                raise ResourceError(
                    "out of memory in an update; give a smaller hidden_size or vocab_size"
                ) from error
            raise
        self._optimizer.zero_grad()
        return Outcome(loss, norm, state)

    def state_dict(self) -> dict[str, Any]:
        """Whether batches had to be divided because memory ran out."""
        return {"divided": self._divided}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Divide them if they were."""
        if state["divided"] and not self._divided:
            self._parts, self._divided = 2 * self._parts, True

    def _gradients_in_memory(self, inputs: Inputs, state: State) -> tuple[Tensor, State]:
        try:
            with self._ranks.exchanging():
                return self._gradients(inputs, state)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        self._optimizer.zero_grad()  # here, where the failed pass and its memory are gone
        # Of several ranks, the others would wait for gradients that never come.
        if self._divided or self._ranks.size > 1 or self._parts >= len(inputs.tokens):
            raise ResourceError("out of memory in a step; give a smaller batch_size, bptt or hidden_size")
        self._parts, self._divided = 2 * self._parts, True
        self._say(f"out of memory: batches are learnt from in {self._parts} parts from here on")
        return self._gradients_in_memory(inputs, state)

    def _gradients(self, inputs: Inputs, state: State) -> tuple[Tensor, State]:
        """Leaves the gradients on the parameters; the loss of all ranks and the state after the batch."""
        low = self._product_dtype != torch.float32
        losses, states = [], []
        cuts = _cuts(len(inputs.tokens), self._parts)
        for number, rows in enumerate(cuts, start=1):
            part = inputs if len(cuts) == 1 else inputs.select(rows)
            before = state if len(cuts) == 1 else select_rows(state, rows)
            with (
                self._gradients_stay_here(number < len(cuts)),
                torch.autocast(part.tokens.device.type, self._product_dtype, enabled=low),
            ):
                nats, after = self._loss(*part[:2], before, part.reset, part.counted, part.negatives)
            loss = nats / part.targets_counted
            with self._gradients_stay_here(number < len(cuts)):
                loss.backward()
            losses.append(loss.detach())
            states.append(detach(after))
        total = torch.stack(losses).sum()
        if self._ranks.size > 1:
            torch.distributed.all_reduce(total)
        return total, states[0] if len(cuts) == 1 else map_state(lambda *rows: torch.cat(rows), *states)

    def _gradients_stay_here(self, stay: bool) -> contextlib.AbstractContextManager[None]:
        """A context in which the gradients are not yet exchanged, if `stay`."""
        if stay and isinstance(self._loss, DistributedDataParallel):
            return self._loss.no_sync()
        return contextlib.nullcontext()


class LossModule(nn.Module):
    """`model.loss` as a forward pass, which is what DistributedDataParallel wraps."""

    def __init__(self, model: NeuralLanguageModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, *arguments: Any) -> tuple[Tensor, State]:
        """See `NeuralLanguageModel.loss`."""
        return self.model.loss(*arguments)


def sum_of_ranks(
    _: object,
    bucket: torch.distributed.GradBucket,  # type: ignore[name-defined]  # torch looks at the annotation
) -> torch.futures.Future[Tensor]:
    """What DistributedDataParallel is to do with a bucket of gradients: add those of all ranks.

    On processors in the order of the ranks, whatever the place in the bucket: how gradients are put into buckets
    changes after the first step, and a run that is resumed has to add as the one that was never ended.
    """
    mine: Tensor = bucket.buffer()
    done: torch.futures.Future[Any]
    if mine.device.type != "cpu":
        done = torch.distributed.all_reduce(mine, async_op=True).get_future()
        return done.then(lambda future: future.value()[0])
    of_all = [torch.empty_like(mine) for _ in range(torch.distributed.get_world_size())]
    done = torch.distributed.all_gather(of_all, mine, async_op=True).get_future()

    def add_up(exchanged: torch.futures.Future[Any]) -> Tensor:
        exchanged.value()  # raises what the exchange has met; the tensors would be whatever was in memory
        return functools.reduce(Tensor.add_, of_all)

    return done.then(add_up)


def _cuts(rows: int, parts: int) -> list[slice]:
    """`rows` in `parts` stretches of nearly equal length; none is empty."""
    parts = min(parts, rows)
    return [slice(rows * part // parts, rows * (part + 1) // parts) for part in range(parts)]


def is_recordable(model: NeuralLanguageModel, optimizer: torch.optim.Optimizer) -> bool:
    """Whether a step needs nothing of the host: on CUDA, without sparse gradients, and with a rate on the device."""
    groups = optimizer.param_groups
    on_device = all(group.get("capturable") and isinstance(group["lr"], Tensor) for group in groups)
    return model.device.type == "cuda" and not model.embedding.sparse and on_device
