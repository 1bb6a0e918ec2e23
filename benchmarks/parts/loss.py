"""C3: the output layer and its loss, forward and backward, in time and in memory.

    sum of nats of N targets under softmax(H W^T + b), and its gradients of H, W and b          N 3,712  V 32,011  D 128

Peers: `F.cross_entropy(F.linear())`, and torch's own fused `F.linear_cross_entropy`, with the chunk that it chooses
and with the best of CHUNKS, chosen here on this machine. In bfloat16 the plain way is under autocast, and the fused
one under oneDNN's `fp32_precision="bf16"`: the fastest that stock torch has.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import steppers
from benchmarks.goals import AUTOMATIC, HAND_PICKED, MEGABYTES_64, PLAIN
from benchmarks.memory import peak_bytes
from benchmarks.race import BFLOAT16_TOLERANCE, FLOAT32_TOLERANCE, Side, race, wall_clock
from benchmarks.record import Record, versus, versus_bytes
from benchmarks.settings import Settings
from benchmarks.shapes import TINY, W1, ModelShape, zipf
from elman import ops

CHUNKS = (64, 128, 256, 512, 1024)
"""Rows, tried by hand."""

Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""From H, W, b and targets to the sum of nats."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """Leaves with gradients: [N, D], [V, D], [V]; Int64 [N]."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor
    targets: Tensor

    def call(
        self, loss: Loss, context: Callable[[], AbstractContextManager[Any]] = nullcontext
    ) -> list[Tensor]:
        """The loss and its three gradients."""
        leaves = (self.hidden, self.weight, self.bias)
        with context():
            nats = loss(*leaves, self.targets)
            gradients = torch.autograd.grad(nats, leaves)
        return [nats.detach(), *gradients]


def make_inputs(shape: ModelShape, rows: int | None = None) -> Inputs:
    """What a model of this shape gives its output layer: states after tanh, small weights."""
    generator = torch.Generator().manual_seed(0)
    rows = shape.positions if rows is None else rows
    hidden = torch.randn(rows, shape.width, generator=generator).tanh_()
    weight = torch.randn(shape.vocab, shape.width, generator=generator).mul_(0.1)
    bias = torch.randn(shape.vocab, generator=generator).mul_(0.1)
    targets = torch.from_numpy(zipf(shape.vocab, rows, seed=0))
    return Inputs(hidden.requires_grad_(), weight.requires_grad_(), bias.requires_grad_(), targets)


def plain(hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    """The way of the chapter and of most programs."""
    return F.cross_entropy(F.linear(hidden, weight, bias), targets, reduction="sum")


def automatic(hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    """Torch's own, as it comes."""
    options = nn.LinearCrossEntropyOptions()
    return F.linear_cross_entropy(hidden, weight, targets, linear_bias=bias, reduction="sum", options=options)


def in_chunks(chunk: int) -> Loss:
    """Torch's own, in chunks of so many rows."""
    return partial(steppers.linear_cross_entropy, chunk=chunk)


@contextmanager
def onednn_bfloat16() -> Iterator[None]:
    """Let oneDNN multiply float32 in bfloat16, everywhere in the process."""
    matmul = torch.backends.mkldnn.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = before


def autocast_bfloat16() -> torch.autocast:
    """Products in bfloat16, the rest by torch's own lists."""
    return torch.autocast("cpu", torch.bfloat16)


def best_chunk(inputs: Inputs, context: Callable[[], AbstractContextManager[Any]]) -> int:
    """The fastest of CHUNKS, each tried twice."""

    def seconds(chunk: int) -> float:
        return min(wall_clock(partial(inputs.call, in_chunks(chunk), context))[0] for _ in range(2))

    return min(CHUNKS, key=seconds)


def run(settings: Settings) -> Iterator[Record]:
    """Time in both precisions, then memory."""
    shape = TINY if settings.quick else W1
    yield from times(settings, shape, "float32")
    yield from times(settings, shape, "bfloat16")
    yield from memory(shape)


def times(
    settings: Settings, shape: ModelShape, dtype: str, ours: Loss = ops.linear_cross_entropy
) -> Iterator[Record]:
    """One race in one precision."""
    inputs = make_inputs(shape)
    low = dtype == "bfloat16"
    tolerance = BFLOAT16_TOLERANCE if low else FLOAT32_TOLERANCE
    fused = onednn_bfloat16 if low else nullcontext
    sides = [
        Side("elman", partial(inputs.call, ours, autocast_bfloat16 if low else nullcontext), tolerance),
        Side(PLAIN, partial(inputs.call, plain, autocast_bfloat16 if low else nullcontext), tolerance),
    ]
    note = "this torch has no F.linear_cross_entropy"
    if hasattr(F, "linear_cross_entropy"):
        chunk = best_chunk(inputs, fused)
        note = f"best chunk: {chunk} rows"
        sides += [
            Side(AUTOMATIC, partial(inputs.call, automatic, fused), tolerance),
            Side(HAND_PICKED, partial(inputs.call, in_chunks(chunk), fused), tolerance),
        ]
    # Everything is judged by the plain way in float32; with bfloat16 that is a side that is not reported.
    reference = Side("float32", partial(inputs.call, plain)) if low else sides.pop(1)
    taken = race(reference, *sides, seconds=settings.seconds)
    products = 6.0 * shape.positions * shape.vocab * shape.width
    for peer in (PLAIN, AUTOMATIC, HAND_PICKED):
        if peer in taken:
            yield versus(
                "C3",
                f"output layer and loss, {dtype}{' products' if low else ''}",
                taken["elman"],
                taken[peer],
                shape=f"N{shape.positions} V{shape.vocab} D{shape.width}",
                dtype=dtype,
                limit=settings.limits.seconds(dtype, products),
                note=note,
            )


def memory(shape: ModelShape) -> Iterator[Record]:
    """The peak beyond the inputs, gradients included."""
    for dtype in ("float32", "bfloat16"):
        facts = {"shape": f"N{shape.positions} V{shape.vocab} D{shape.width}", "dtype": dtype}
        what = f"memory of output layer and loss{'' if dtype == 'float32' else ', bfloat16 products'}"
        ours, theirs = (peak_bytes(prepare, shape, way, dtype) for way in ("elman", "plain"))
        yield versus_bytes("C3", what, ours, MEGABYTES_64, 64_000_000, **facts)
        yield versus_bytes("C3", what, ours, PLAIN, theirs, **facts)


def prepare(shape: ModelShape, way: str, dtype: str) -> Callable[[], list[Tensor]]:
    """For `peak_bytes`."""
    loss: Loss = {"elman": ops.linear_cross_entropy, "plain": plain}[way]
    context = autocast_bfloat16 if dtype == "bfloat16" else nullcontext
    make_inputs(shape, rows=8).call(
        loss, context
    )  # what torch loads and keeps on its first call is not the loss's
    return partial(make_inputs(shape).call, loss, context)
