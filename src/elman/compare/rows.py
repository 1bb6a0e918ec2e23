"""From what the trainings came to, to the rows of the table: means over seeds, and differences to the best.

A training that diverged is left out. Seeds are compared in pairs, so where two models are left with different
seeds, the interval of their difference is over the documents alone.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from elman.compare.bootstrap import paired_difference
from elman.compare.job import Measures, Result
from elman.compare.table import Row, ranked
from elman.errors import DivergedError

LEAST_TARGETS = 200
"""Of a place in the documents, for it to be in the picture."""


def sound_trainings(results: Mapping[str, Sequence[Result]]) -> dict[str, list[Measures]]:
    """The trainings of each model that did not diverge; models without any are left out.

    Raises:
        DivergedError: There is none at all.
    """
    found = {name: [one.measures for one in trainings if one.measures] for name, trainings in results.items()}
    if not any(found.values()):
        raise DivergedError("every training diverged; give a lower --learning-rate, and another --out")
    return {name: trainings for name, trainings in found.items() if trainings}


def make_rows(
    trainings: Mapping[str, Sequence[Measures]],
    rates: Mapping[str, float | None],
    document_bytes: NDArray[np.int64],
) -> list[Row]:
    """The table, best first.

    Args:
        trainings: Of each model, at least one.
        rates: Learning rate of each; None for a model that is counted.
        document_bytes: [D], of the held-out documents.
    """
    best = min(trainings.values(), key=_bits_per_byte)
    return ranked([_row(name, found, rates[name], best, document_bytes) for name, found in trainings.items()])


def mean_by_position(found: Sequence[Measures]) -> list[tuple[int, float]]:
    """Place in a document and mean nats over the seeds, where enough targets stand."""
    kept: dict[int, list[float]] = {}
    for one in found:
        for position, nats, targets in one.by_position:
            if targets >= LEAST_TARGETS:
                kept.setdefault(position, []).append(nats)
    return [(position, statistics.fmean(nats)) for position, nats in sorted(kept.items())]


def _row(
    name: str,
    found: Sequence[Measures],
    learning_rate: float | None,
    best: Sequence[Measures],
    document_bytes: NDArray[np.int64],
) -> Row:
    seeds, others = ({one.seed for one in of} for of in (found, best))
    paired = seeds == others or None in seeds | others
    nats, reference = (np.array([one.document_nats for one in of]) for of in (found, best))
    if not paired:
        nats, reference = nats.mean(axis=0), reference.mean(axis=0)
    difference = paired_difference(nats, reference, document_bytes)
    bits = [one.score.bits_per_byte for one in found]
    score = replace(found[0].score, nats=statistics.fmean(one.score.nats for one in found))
    memory = [one.peak_memory_bytes for one in found if one.peak_memory_bytes is not None]
    tokens, seconds = (
        statistics.fmean(each) for each in zip(*((one.tokens, one.seconds) for one in found), strict=True)
    )
    return Row(
        model=name,
        parameters=found[0].parameters,
        seeds=len(found),
        learning_rate=learning_rate,
        flops_per_token=found[0].flops_per_token,
        tokens=round(tokens),
        seconds=seconds,
        tokens_per_second=tokens / seconds if seconds else math.nan,
        peak_memory_bytes=max(memory) if memory else None,
        perplexity=score.perplexity,
        word_perplexity=score.word_perplexity,
        bits_per_byte=score.bits_per_byte,
        bits_per_byte_sd=statistics.stdev(bits) if len(bits) > 1 else math.nan,
        difference=difference.value,
        interval=(difference.low, difference.high),
        generation_tokens_per_second=statistics.fmean(one.generation_tokens_per_second for one in found),
        state_bytes=found[0].state_bytes,
    )


def _bits_per_byte(found: Sequence[Measures]) -> float:
    return statistics.fmean(one.score.bits_per_byte for one in found)
