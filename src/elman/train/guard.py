"""What becomes of a step whose numbers are not finite, and which steps are worth a remark.

    not finite    the update was left out by the step itself; a stream whose state is not finite begins afresh, as a
                  NaN in a recurrent state would live for ever; with more than MOST_BAD of the last RECENT steps the
                  training has diverged
    a spike       the loss is more than SPIKE deviations above the mean of the last RECENT

Both are events, with the place in the data from which the batch can be had again. What loss and gradient are, all ranks
know; which of its streams began afresh, each tells the first one now and then.
"""

import math
import statistics
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from elman.errors import DivergedError
from elman.models.base import State, map_state, tensors_in
from elman.models.neural import NeuralLanguageModel
from elman.ranks import ALONE, Ranks
from elman.train.step import Outcome

# Axes: B streams.

RECENT = 100
"""Steps that are remembered."""

MOST_BAD = 3
"""With more steps than this that are not finite, among the last RECENT, the training has diverged."""

SPIKE = 6.0
"""Standard deviations above the mean of the recent losses."""

KNOWN = 30
"""Losses that are needed before a spike can be told."""

LOOK_EVERY = 64
"""Steps after which an accelerator is asked for its losses; a processor is asked at each."""

Log = Callable[[Mapping[str, Any]], object]


class Guard:
    """Sees the outcome of every step.

    Args:
        model: The one that learns.
        log: Told of every event.
        ranks: The processes of the job.
    """

    def __init__(
        self, model: NeuralLanguageModel, log: Log = lambda event: None, ranks: Ranks = ALONE
    ) -> None:
        self._model, self._log, self._ranks = model, log, ranks
        self._look_every = 1 if model.device.type == "cpu" else LOOK_EVERY
        self._waiting: list[tuple[int, Tensor, Tensor, Mapping[str, int]]] = []
        self._bad: deque[int] = deque()
        self._losses: deque[float] = deque(maxlen=RECENT)
        self._revived: list[tuple[int, list[int]]] = []

    def __call__(self, step: int, outcome: Outcome, cursor: Mapping[str, int]) -> State:
        """The state to go on from, when `step` steps are done; `cursor` is where the loader was before the last.

        Raises:
            DivergedError: Too many of the last steps were not finite. An accelerator is asked now and then, so
                that the step that is named may be a later one.
        """
        loss, norm, state = outcome
        self._waiting.append((step, loss, norm, cursor))
        on_processor = self._look_every == 1
        if on_processor and bool(_all_finite(loss, norm, state)):
            self.look()
            return state
        streams = len(tensors_in(state)[0])
        state, lost = revive(state, self._model.initial_state(streams))
        if on_processor and lost.any():
            mine = self._ranks.share(streams * self._ranks.size)
            self._revived.append((step, (mine.start + lost.nonzero()[:, 0]).tolist()))
            if self._ranks.size == 1:
                self.tell_revived()
        if len(self._waiting) >= self._look_every:
            self.look()
        return state

    def tell_revived(self) -> None:
        """Log which streams began afresh since this was last called, on whatever rank they are; all ranks call it."""
        streams: dict[int, list[int]] = {}
        for of_rank in self._ranks.gather(self._revived):
            for step, numbers in of_rank:
                streams.setdefault(step, []).extend(numbers)
        for step in sorted(streams):
            self._log({"step": step, "event": "state is not finite", "streams": streams[step]})
        self._revived = []

    def look(self) -> None:
        """Judge the steps that wait for it. Raises what calling the guard raises."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        values = torch.stack([torch.stack((loss.float(), norm.float())) for _, loss, norm, _ in waiting])
        for (step, _, _, cursor), (loss, norm) in zip(waiting, values.tolist(), strict=True):
            if math.isfinite(loss) and math.isfinite(norm):
                self._remark(step, loss, cursor)
            else:
                self._count(step, loss, norm, cursor)

    def _count(self, step: int, loss: float, norm: float, cursor: Mapping[str, int]) -> None:
        event = {"step": step, "event": "step is not finite", "loss": str(loss), "gradient_norm": str(norm)}
        self._log(event | {"batch": dict(cursor)})
        self._bad.append(step)
        while self._bad[0] <= step - RECENT:
            self._bad.popleft()
        if len(self._bad) > MOST_BAD:
            raise DivergedError(
                f"step {step}: {len(self._bad)} of the last {min(step, RECENT)} steps were not finite"
                f" (loss {loss:g} nats, gradient {norm:g}); lower learning_rate, or set clip_norm"
            )

    def _remark(self, step: int, loss: float, cursor: Mapping[str, int]) -> None:
        if len(self._losses) >= KNOWN:
            mean, deviation = statistics.fmean(self._losses), statistics.pstdev(self._losses)
            if deviation > 0 and loss > mean + SPIKE * deviation:
                event = {
                    "step": step,
                    "event": "loss spike",
                    "loss": loss,
                    "mean": mean,
                    "deviation": deviation,
                }
                self._log(event | {"batch": dict(cursor)})
        self._losses.append(loss)

    def state_dict(self) -> dict[str, Any]:
        """What is remembered of the recent steps, those that wait included; raises what `look` raises."""
        self.look()
        return {"bad": list(self._bad), "losses": list(self._losses)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Remember that."""
        self._bad, self._losses = deque(state["bad"]), deque(state["losses"], maxlen=RECENT)
        self._waiting = []


def revive(state: State, initial: State) -> tuple[State, Tensor]:
    """`state` with those streams as they begin in which a number is not finite; and which they are, Bool [B].

    Without waiting for the device. A number that is not finite from the beginning is meant so.
    """
    lost = [
        (now.isnan() | (~now.isfinite() & first.isfinite())).flatten(1).any(dim=1)
        for now, first in zip(tensors_in(state), tensors_in(initial), strict=True)
    ]
    lost_B = torch.stack(lost).any(dim=0)

    def choose(now: Tensor, first: Tensor) -> Tensor:
        return torch.where(lost_B.view(-1, *[1] * (now.dim() - 1)), first, now)

    return map_state(choose, state, initial), lost_B


def _all_finite(loss: Tensor, norm: Tensor, state: State) -> Tensor:
    parts = [loss.isfinite(), norm.isfinite(), *(leaf.isfinite().all() for leaf in tensors_in(state))]
    return torch.stack(parts).all()
