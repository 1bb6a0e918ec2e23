"""How many rows and words of an output layer to take at a time, from their number and from the processor's cache.

A chunk of R rows reads the output matrix and reads and writes its gradient, so R wants to be several times the
width D; it holds R x V exponentials, so R is bounded by memory. Within a chunk, the logits of a tile of words
are made, put through exp, summed and multiplied while they are still in the cache that the cores share out.
"""

import os
from functools import cache
from typing import NamedTuple

import torch

HELD_BYTES = 40 << 20
"""Exponentials held at a time: more gains nothing that can be measured on a processor."""

HELD_BYTES_ON_GPU = 256 << 20
"""The same where the memory is many times as fast, and a launch costs as much as many rows."""

LEAST_ROWS = 32
"""However large the vocabulary: fewer make the products as slow as sums. More are a multiple of it, for alignment."""

ROWS_PER_WIDTH = 4
"""Rows for each column of the matrix: the chunk's traffic in R x V is then well above that in V x D."""

CACHES_A_TILE = 4
"""Second-level caches of all cores that a tile fills: beyond them the third level is near, and a tile has a cost."""


class Chunks(NamedTuple):
    """A way to cut N x V."""

    rows: int
    words: int


def choose_chunks(rows: int, vocab_size: int, width: int, dtype: torch.dtype, device: torch.device) -> Chunks:
    """The cut for `rows` rows of `width` and `vocab_size` words, of which products are computed in `dtype`."""
    element = dtype.itemsize
    if device.type != "cpu":
        return Chunks(_within(HELD_BYTES_ON_GPU // (vocab_size * element), LEAST_ROWS, rows), vocab_size)
    wanted = min(ROWS_PER_WIDTH * width, HELD_BYTES // (vocab_size * element))
    chunk = _within(wanted, LEAST_ROWS, rows)
    tile = CACHES_A_TILE * second_level_cache() * torch.get_num_threads()
    return Chunks(chunk, _within(tile // (chunk * element), 1, vocab_size))


def _within(wanted: int, least: int, most: int) -> int:
    return max(1, min(max(wanted // LEAST_ROWS * LEAST_ROWS, least), most))


@cache
def second_level_cache() -> int:
    """Bytes of the cache of one core; 1 MB where the system does not say."""
    try:
        size = os.sysconf("SC_LEVEL2_CACHE_SIZE")
    except (AttributeError, OSError, ValueError):
        size = 0
    return size if size > 0 else 1 << 20
