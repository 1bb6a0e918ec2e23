"""C4: a training step with sampled softmax, in tokens a second, beside the chapter's loop at W1's vocabulary.

512 negatives that the batch shares, drawn afresh for each step; gradients of the embedding and of the output layer as
rows, and an AdamW that touches only those. The loss is another one than the chapter's, so that what must agree is
this, before the race: with every word among the negatives it is the exact loss, with its gradients, and three steps
learn what three exact ones do.
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from benchmarks.agreement import require_agreement
from benchmarks.goals import CHAPTER
from benchmarks.parts.step import LOSS_TOLERANCE
from benchmarks.race import FLOAT32_TOLERANCE, Side, race
from benchmarks.record import Record, versus
from benchmarks.settings import Settings
from benchmarks.shapes import TINY, W1, ModelShape, token_batches
from benchmarks.steppers import (
    Batches,
    Step,
    chapter_model,
    chapter_step,
    production_model,
    production_step,
)
from elman import ops
from elman.models.neural import NeuralLanguageModel
from elman.ops.proposal import Proposal
from elman.ops.sampled_softmax import Negatives, sampled_softmax

NEGATIVES = 512

STEPS = 10
"""Of ours in a round: a single one after the chapter's would find all caches cold."""

Loss = Callable[[Tensor, Tensor, Tensor, Tensor, Negatives], Tensor]
"""From H, W, b, targets and negatives to the sum of nats."""


def run(settings: Settings) -> Iterator[Record]:
    """Both checks, then one race."""
    shape = TINY if settings.quick else W1
    check(TINY)
    check_steps(TINY)
    yield from times(settings, shape, 8 if settings.quick else NEGATIVES)


def check(shape: ModelShape, loss: Loss = sampled_softmax) -> None:
    """Refuse a sampled softmax that is not the exact one when it samples everything.

    Raises:
        DisagreementError: Its value or a gradient differs.
    """
    generator = torch.Generator().manual_seed(0)
    leaves = [
        torch.randn(size, generator=generator, dtype=torch.float64, requires_grad=True)
        for size in ((shape.positions, shape.width), (shape.vocab, shape.width), (shape.vocab,))
    ]
    _, targets = token_batches(shape, 1)[0]
    counts = torch.bincount(targets.flatten(), minlength=shape.vocab)
    everything = Proposal(counts, shape.vocab).draw(generator)
    found = loss(*leaves, targets.flatten(), everything)
    expected = ops.linear_cross_entropy(*leaves, targets.flatten())
    require_agreement(
        "sampled softmax of all words",
        [found, *torch.autograd.grad(found, leaves)],
        "exact softmax",
        [expected, *torch.autograd.grad(expected, leaves)],
        FLOAT32_TOLERANCE,
    )


def check_steps(
    shape: ModelShape,
    make: Callable[[NeuralLanguageModel, Batches, int, torch.dtype], Step] | None = None,
) -> None:
    """Refuse a sampled step, rows and all, that does not learn what the exact one learns; `make` makes it.

    One batch serves all steps: a row that a batch leaves out gets its momentum later than from dense AdamW.

    Raises:
        DisagreementError: The losses of the first three steps differ, in either precision.
    """
    batches = token_batches(shape, 1)
    for name, tolerance in LOSS_TOLERANCE.items():
        dtype = getattr(torch, name)
        ours, exact = (production_model(chapter_model(shape), shape) for _ in range(2))
        step = (make or sampled_step)(ours, batches, shape.vocab, dtype)
        expected = production_step(exact, batches, dtype)
        require_agreement(
            f"sampled steps of all words, {name}",
            [step() for _ in range(3)],
            "exact steps",
            [expected() for _ in range(3)],
            tolerance,
        )


def times(settings: Settings, shape: ModelShape, negatives: int) -> Iterator[Record]:
    """Both precisions beside the chapter."""
    batches = token_batches(shape, 8)
    steps = {
        dtype: sampled_step(
            production_model(chapter_model(shape), shape), batches, negatives, getattr(torch, dtype)
        )
        for dtype in ("float32", "bfloat16")
    }
    reference = Side(CHAPTER, partial(_repeat, chapter_step(chapter_model(shape), batches), 1))
    sides = [Side(dtype, partial(_repeat, step, STEPS)) for dtype, step in steps.items()]
    taken = race(reference, *sides, seconds=settings.seconds, least=4)
    exact = ModelShape(shape.batch, shape.time, shape.width, vocab=negatives + 1, layers=shape.layers)
    for dtype in steps:
        yield versus(
            "C4",
            f"sampled softmax step, {dtype}{'' if dtype == 'float32' else ' products'}",
            taken[dtype].divided(STEPS),
            taken[CHAPTER],
            shape=f"{shape}, {negatives} negatives",
            dtype=dtype,
            limit=settings.limits.seconds(dtype, exact.step_flop),
            peer_limit=settings.limits.seconds("float32", shape.step_flop, shape.step_bytes),
            note="" if dtype == "float32" else "the peer's products are in float32",
        )


def sampled_step(
    model: NeuralLanguageModel, batches: Batches, negatives: int, product_dtype: torch.dtype
) -> Step:
    """A step whose cost does not grow with the vocabulary."""
    tokens = torch.stack([targets for _, targets in batches])
    proposal = Proposal(torch.bincount(tokens.flatten(), minlength=model.vocab_size), negatives)
    generator = torch.Generator().manual_seed(0)
    return production_step(
        model, batches, product_dtype, negatives=lambda: proposal.draw(generator), row_sparse=True
    )


def _repeat(step: Callable[[], float], times: int) -> tuple[()]:
    """Some steps; their losses are of different kinds, and nothing is to be compared."""
    for _ in range(times):
        step()
    return ()
