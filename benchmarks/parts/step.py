"""C1, C2: a whole training step of the chapter's model at W1, in time and in memory.

The chapter's loop (`chapter.train`: plain modules, torch's default AdamW), ours (`train.loop.train` with the chapter
preset) with products in float32 and in bfloat16, and stock torch at its best (nn.RNN, F.linear_cross_entropy with a
hand-picked chunk, fused AdamW) in both precisions. All begin with the same weights and read the same batches, so all
losses must agree, step by step.
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch

from benchmarks.goals import CHAPTER, STOCK, STOCK_BFLOAT16
from benchmarks.memory import peak_bytes
from benchmarks.parts.loss import onednn_bfloat16
from benchmarks.race import Side, race
from benchmarks.record import Record, versus, versus_bytes
from benchmarks.settings import Settings
from benchmarks.shapes import TINY, W1, ModelShape, token_batches
from benchmarks.steppers import (
    Batches,
    Step,
    chapter_model,
    chapter_step,
    production_model,
    production_step,
    stock_model,
    stock_step,
)

BATCHES = 8
"""Different ones, read in turns."""

STOCK_CHUNK = 256
"""Rows; the part `loss` finds it within a few percent of the best."""

LOSS_TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-3}
"""Of the loss, over the steps of a race."""

PAIRS = (
    ("C1", "float32", CHAPTER, "float32"),
    ("C1", "float32", STOCK, "float32"),
    ("C2", "bfloat16", CHAPTER, "float32"),
    ("C2", "bfloat16", STOCK_BFLOAT16, "bfloat16"),
)
"""Part, dtype of our products, peer, dtype of its products."""


def run(settings: Settings) -> Iterator[Record]:
    """Time in one race of five, then memory."""
    shape = TINY if settings.quick else W1
    yield from times(settings, shape)
    yield from memory(shape)


def times(
    settings: Settings,
    shape: ModelShape,
    ours: Callable[[ModelShape, Batches, torch.dtype], Step] | None = None,
) -> Iterator[Record]:
    """The race; `ours` makes our step."""
    make = ours or production
    batches = token_batches(shape, BATCHES)
    sides = [
        Side(dtype, make(shape, batches, getattr(torch, dtype)), LOSS_TOLERANCE[dtype])
        for dtype in ("float32", "bfloat16")
    ]
    stock, low_stock = (stock_model(chapter_model(shape)) for _ in range(2))
    sides += [
        Side(STOCK, stock_step(stock, batches, STOCK_CHUNK)),
        Side(
            STOCK_BFLOAT16,
            stock_step(low_stock, batches, STOCK_CHUNK, onednn_bfloat16),
            LOSS_TOLERANCE["bfloat16"],
        ),
    ]
    reference = Side(CHAPTER, chapter_step(chapter_model(shape), batches))
    taken = race(reference, *sides, seconds=2 * settings.seconds, least=4)
    for part, dtype, peer, peer_dtype in PAIRS:
        yield versus(
            part,
            f"training step, {dtype}{'' if dtype == 'float32' else ' products'}",
            taken[dtype],
            taken[peer],
            shape=str(shape),
            dtype=dtype,
            limit=settings.limits.seconds(dtype, shape.step_flop, shape.step_bytes),
            peer_limit=settings.limits.seconds(peer_dtype, shape.step_flop, shape.step_bytes),
            note="" if peer_dtype == dtype else f"the peer's products are in {peer_dtype}",
        )


def production(shape: ModelShape, batches: Batches, dtype: torch.dtype) -> Step:
    """Our step, from the weights of the chapter's model."""
    return production_step(production_model(chapter_model(shape), shape), batches, dtype)


def memory(shape: ModelShape) -> Iterator[Record]:
    """The peak of two steps: weights, moments, gradients and all that is held on the way."""
    ours, theirs = (peak_bytes(prepare, shape, way) for way in ("elman", "chapter"))
    facts = {"shape": str(shape), "dtype": "float32"}
    yield versus_bytes("C1", "memory of a training step", ours, CHAPTER, theirs, **facts)


def prepare(shape: ModelShape, way: str) -> Callable[[], None]:
    """For `peak_bytes`."""
    measured = {"elman": _own_steps, "chapter": _chapter_steps}[way]
    measured(TINY)  # what torch loads on its first calls is not the step's
    return partial(measured, shape)


def _own_steps(shape: ModelShape) -> None:
    step = production(shape, token_batches(shape, 1), torch.float32)
    step()
    step()


def _chapter_steps(shape: ModelShape) -> None:
    step = chapter_step(chapter_model(shape), token_batches(shape, 1))
    step()
    step()
