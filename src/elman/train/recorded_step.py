"""A step that is recorded once and replayed with one launch, and which step is the quickest."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from elman.models.base import State, map_state
from elman.models.neural import NeuralLanguageModel
from elman.ops.sampled_softmax import Negatives
from elman.ranks import ALONE, Ranks
from elman.train.say import Say
from elman.train.step import EagerStep, Inputs, Outcome, Step, is_recordable

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

    def state_dict(self) -> dict[str, Any]:
        """That of the step that is recorded."""
        return self._step.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Forget the recordings: they replay on the tensors that they were made with."""
        self._step.load_state_dict(state)
        self._recordings.clear()
        self._seen.clear()

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
    *,
    parts: int = 1,
    ranks: Ranks = ALONE,
    say: Say = lambda line: None,
) -> Step:
    """The quickest step for this model and this optimizer; arguments as for `EagerStep`."""
    step = EagerStep(model, optimizer, clip_norm, product_dtype, parts=parts, ranks=ranks, say=say)
    return RecordedStep(step) if is_recordable(model, optimizer) and ranks.size == 1 else step
