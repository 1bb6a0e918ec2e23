"""What a model costs, measured the same way for every family, and where in a document it errs.

    FLOPs of a token      2 m k n for every product of [m, k] by [k, n] in predicting one token
    bytes of the state    what has to be kept of a text to go on with it
    tokens a second       of generation, one stream
    peak memory           highest resident memory while something ran, less what was resident before
    loss by position      mean nats of the targets at places 1, 2 to 3, 4 to 7, ... of their documents

Axes: N tokens, D documents.
"""

import ctypes
import gc
import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from elman.generate.engine import Generation
from elman.generate.sampling import Sampling
from elman.models.base import LanguageModel, State

WARM_UP_TOKENS = 10
"""Generated before the clock starts: the first steps allocate, and start threads."""


def flops_per_token(model: LanguageModel, tokens: int = 64) -> int:
    """Floating-point operations of the matrix products in predicting one next token; 0 for a count model.

    Counted while one stream of `tokens` is read, and divided by them. Element-wise work is left out: it is
    of lower order in the width. Attention counts every score it computes, those of a causal mask too.

    Args:
        model: In evaluation mode.
        tokens: Length of the window, which matters only where the cost of a token grows with its context.
    """
    if not isinstance(model, torch.nn.Module):
        return 0
    ids = torch.zeros(1, tokens, dtype=torch.int64, device=model.device)
    every = torch.ones_like(ids, dtype=torch.bool)  # libraries, whose products are not seen, know no resets
    # Fused attention on the CPU is one operation without a formula in the counter; as products it is seen.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        model(ids, model.initial_state(1), every)
    total: int = counter.get_total_flops()
    return round(total / tokens)


def state_bytes(model: LanguageModel) -> int:
    """Bytes of the state of one stream."""
    return _bytes(model.initial_state(1))


def generation_speed(
    model: LanguageModel, *, start_id: int, end_id: int, tokens: int = 200, seed: int = 0
) -> float:
    """Tokens a second of generation for one stream, from the model's own distribution.

    Args:
        model: In evaluation mode.
        start_id: The prompt, and never drawn.
        end_id: Never drawn either, so that there are `tokens` of them.
        tokens: To generate under the clock.
        seed: Of the draws.
    """
    steps = Generation(
        model,
        [[start_id]],
        sampling=Sampling(),
        max_tokens=WARM_UP_TOKENS + tokens,
        end_id=end_id,
        banned=(start_id, end_id),
        seed=seed,
    )
    for _ in itertools.islice(steps, WARM_UP_TOKENS):
        pass
    begun = time.perf_counter()
    for _ in steps:  # a step ends with its token on the CPU, so nothing is left running
        pass
    return tokens / (time.perf_counter() - begun)


class PeakMemory:
    """A context that measures the highest memory while inside, less what was in use at entry.

    On a CUDA device it is that device's allocated memory. Elsewhere it is the resident memory of this process,
    which Linux keeps the highest value of and lets be forgotten; on other systems there is no measure.

    Example:
        with PeakMemory(model.device) as memory:
            train(...)
        print(memory.bytes)
    """

    bytes: int | None = None
    """The measure, from the end of the context on; None where there is none."""

    def __init__(self, device: torch.device | None = None) -> None:
        self._cuda = device if device is not None and device.type == "cuda" else None
        self._before: int | None = None

    def __enter__(self) -> Self:
        """Give back what is free, so that it is not taken again unseen; forget the highest value so far."""
        gc.collect()
        if self._cuda is not None:
            torch.cuda.reset_peak_memory_stats(self._cuda)
            self._before = torch.cuda.memory_allocated(self._cuda)
        else:
            _trim_heap()
            self._before = _resident("VmRSS") if _forget_peak() else None
        return self

    def __exit__(self, *_: object) -> None:
        """Read the highest value."""
        if self._cuda is not None:
            peak: int | None = torch.cuda.max_memory_allocated(self._cuda)
        else:
            peak = _resident("VmHWM")
        if self._before is not None and peak is not None:
            self.bytes = max(0, peak - self._before)


class PositionLoss(NamedTuple):
    """The targets from one place of their documents up to the next edge."""

    position: int
    """The first of the places; a document's first target has place 1."""
    nats: float
    """Mean over the targets."""
    targets: int
    """How many there are."""


def loss_by_position(
    nats: NDArray[np.floating], starts: NDArray[np.integer], edges: Sequence[int] | None = None
) -> list[PositionLoss]:
    """How well a model predicts near the beginning of a document, and far into it.

    Args:
        nats: [N], of every target, in the order of the store.
        starts: [D + 1], where each document begins, and N.
        edges: The first place of every bin, ascending from 1; the powers of two by default. The last bin has
            no end.

    Returns:
        The bins that hold a target.
    """
    lengths = np.diff(starts)
    places = np.arange(1, len(nats) + 1) - np.repeat(starts[:-1], lengths)
    if edges is None:
        edges = [1 << k for k in range(int(lengths.max(initial=1)).bit_length())]
    bins = np.searchsorted(edges, places, side="right") - 1
    counts = np.bincount(bins, minlength=len(edges))
    sums = np.bincount(bins, weights=nats, minlength=len(edges))
    return [
        PositionLoss(edge, float(total / count), int(count))
        for edge, total, count in zip(edges, sums, counts, strict=True)
        if count
    ]


def _bytes(state: State) -> int:
    """Bytes of every tensor of a state."""
    return state.nbytes if isinstance(state, Tensor) else sum(map(_bytes, state))


def _trim_heap() -> None:
    """Return the free memory of the C library to the system; glibc can, others need not."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):  # TypeError: Windows has no library without a name
        return


def _forget_peak() -> bool:
    """Set VmHWM to the memory resident now (proc(5), clear_refs); whether that was possible."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def _resident(field: str) -> int | None:
    """VmRSS (resident now) or VmHWM (the highest) in bytes, where the system has /proc."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:")), None)
