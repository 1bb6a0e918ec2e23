"""One step of training: predict, learn. The same step, recorded once and replayed, where there is CUDA.

    nats, state = model.loss(...)
    gradient of nats / targets, clipped by its global norm
    AdamW, unless the gradient is not finite

Where it is recorded nothing in it waits for the accelerator: how many targets there are is known before, and whether
the gradient is finite is asked there (`found_inf`, as a gradient scaler has it).
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from elman.data.batches import Batch
from elman.models.base import State, detach, map_state
from elman.models.neural import NeuralLanguageModel
from elman.ops.sampled_softmax import Negatives
from elman.train.clip import clip_grad_norm

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
    """How many count; a float32 scalar."""
    negatives: Negatives | None
    """For a sampled loss; None for the exact one."""


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


def to_inputs(
    batch: Batch, negatives: Negatives | None, device: torch.device, *, fresh: bool = False
) -> Inputs:
    """A batch from the loader as a step wants it; masks that say nothing are left out, which is quicker.

    Args:
        batch: On the CPU.
        negatives: For a sampled loss, on the CPU.
        device: Of the model.
        fresh: Whether the state before the batch is that of no text, so that dropping it first changes nothing.
    """
    resets, counted = bool(batch.reset[:, int(fresh) :].any()), int(batch.counted.sum())

    def move(tensor: Tensor) -> Tensor:
        return tensor.to(device, non_blocking=True)

    return Inputs(
        tokens=move(batch.inputs),
        targets=move(batch.targets),
        reset=move(batch.reset) if resets else None,
        counted=move(batch.counted) if counted < batch.counted.numel() else None,
        targets_counted=move(torch.tensor(float(counted))),
        negatives=negatives and Negatives(move(negatives.ids), move(negatives.log_weights.float())),
    )


class EagerStep:
    """The step as it is written; large products are computed in `product_dtype`."""

    def __init__(
        self,
        model: NeuralLanguageModel,
        optimizer: torch.optim.Optimizer,
        clip_norm: float | None = None,
        product_dtype: torch.dtype = torch.float32,
    ) -> None:
        self._model, self._optimizer = model, optimizer
        self._clip_norm, self._product_dtype = clip_norm or math.inf, product_dtype
        self._recordable = is_recordable(model, optimizer)

    def __call__(self, inputs: Inputs, state: State) -> Outcome:
        """See `Step`; a gradient that is not finite changes nothing."""
        tokens, targets, reset, counted, targets_counted, negatives = inputs
        low = self._product_dtype != torch.float32
        with torch.autocast(tokens.device.type, self._product_dtype, enabled=low):
            nats, state = self._model.loss(tokens, targets, state, reset, counted, negatives)
        loss = nats / targets_counted
        loss.backward()
        norm = clip_grad_norm(self._model.parameters(), self._clip_norm)
        if self._recordable:
            self._optimizer.found_inf = 1 - torch.isfinite(norm).float()  # type: ignore[attr-defined]
            self._optimizer.step()
        elif torch.isfinite(norm):
            self._optimizer.step()
        self._optimizer.zero_grad()
        return Outcome(loss.detach(), norm, detach(state))


MOST_RECORDINGS = 8
"""Shapes of batches that are recorded; each recording keeps the memory of a step."""

WARM_UP = 3
"""Batches of a shape that are learnt from eagerly before the step is recorded, so that all libraries are awake."""

Replay = Callable[[], None]
T = TypeVar("T")


def record_cuda_graph(function: Callable[[], T]) -> tuple[Replay, T]:
    """Record what `function` launches, without running it: how to run it, and the tensors it will fill."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = function()
    return graph.replay, result


class RecordedStep:
    """A step that is recorded once for each shape of its inputs and then replayed with one launch.

    Inputs are copied to where the recording reads them, and the state after a batch is left where the next one
    finds it. Batches with a mask of targets are never recorded.

    Not measured: the tests replace `record` and run on a CPU.
    """

    def __init__(
        self,
        step: Step,
        record: Callable[[Callable[[], Outcome]], tuple[Replay, Outcome]] = record_cuda_graph,
    ) -> None:
        self._step, self._record = step, record
        self._seen: dict[tuple[Any, ...], int] = {}
        self._recordings: dict[tuple[Any, ...], tuple[Inputs, State, Replay, Outcome]] = {}

    def __call__(self, inputs: Inputs, state: State) -> Outcome:
        """See `Step`. The state is only good until the next call."""
        if inputs.counted is not None:
            return self._step(inputs, state)  # it has as many rows as its mask says
        key = tuple(None if tensor is None else tensor.shape for tensor in _tensors(inputs))
        if key not in self._recordings:
            self._seen[key] = self._seen.get(key, 0) + 1
            if self._seen[key] <= WARM_UP or len(self._recordings) == MOST_RECORDINGS:
                return self._step(inputs, state)
            held = _copy(inputs), map_state(Tensor.clone, state)
            self._recordings[key] = *held, *self._record(lambda: self._step(*held))
        held_inputs, held_state, replay, outcome = self._recordings[key]
        for held_tensor, tensor in zip(_tensors(held_inputs), _tensors(inputs), strict=True):
            if held_tensor is not None and tensor is not None:
                held_tensor.copy_(tensor)
        map_state(Tensor.copy_, held_state, state)
        replay()
        return Outcome(outcome.loss.clone(), outcome.gradient_norm.clone(), outcome.state)


def _tensors(inputs: Inputs) -> list[Tensor | None]:
    """All that is in it, in order."""
    ids, log_weights = inputs.negatives or (None, None)
    masks = [inputs.reset, inputs.counted]
    return [inputs.tokens, inputs.targets, *masks, inputs.targets_counted, ids, log_weights]


def _copy(inputs: Inputs) -> Inputs:
    tokens, targets, reset, counted, number, *negatives = (
        None if tensor is None else tensor.clone() for tensor in _tensors(inputs)
    )
    assert tokens is not None
    assert targets is not None
    assert number is not None
    ids, log_weights = negatives
    drawn = None if ids is None or log_weights is None else Negatives(ids, log_weights)
    return Inputs(tokens, targets, reset, counted, number, drawn)


def make_step(
    model: NeuralLanguageModel,
    optimizer: torch.optim.Optimizer,
    clip_norm: float | None,
    product_dtype: torch.dtype,
) -> Step:
    """The quickest step for this model and this optimizer."""
    step = EagerStep(model, optimizer, clip_norm, product_dtype)
    return RecordedStep(step) if is_recordable(model, optimizer) else step


def is_recordable(model: NeuralLanguageModel, optimizer: torch.optim.Optimizer) -> bool:
    """Whether a step needs nothing of the host: on CUDA, without sparse gradients, and with a rate on the device."""
    groups = optimizer.param_groups
    on_device = all(group.get("capturable") and isinstance(group["lr"], Tensor) for group in groups)
    return model.device.type == "cuda" and not model.embedding.sparse and on_device
