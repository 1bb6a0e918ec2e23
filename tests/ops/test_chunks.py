"""How an output layer is cut: within memory, never empty, and from the shape rather than for one shape."""

import pytest
import torch

from elman.ops import chunks
from elman.ops.chunks import choose_chunks

CPU = torch.device("cpu")
SHAPES = [(1, 1, 1), (1024, 2048, 264), (3712, 32_011, 136), (7, 1_000_000, 64), (100_000, 50, 2048)]

every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
every_dtype = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)


@every_shape
@every_dtype
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_cut_is_not_empty_and_no_larger_than_the_whole(shape, dtype, device):
    rows, vocab_size, width = shape
    cut = choose_chunks(rows, vocab_size, width, dtype, torch.device(device))
    assert 1 <= cut.rows <= rows
    assert 1 <= cut.words <= vocab_size


@every_shape
@every_dtype
def test_what_is_held_stays_within_the_limit_wherever_the_vocabulary_allows_it(shape, dtype):
    rows, vocab_size, width = shape
    cut = choose_chunks(rows, vocab_size, width, dtype, CPU)
    assert cut.rows * vocab_size * dtype.itemsize <= chunks.HELD_BYTES or cut.rows <= chunks.LEAST_ROWS


@every_dtype
def test_a_wider_layer_takes_more_rows_at_a_time_and_a_larger_vocabulary_fewer(dtype):
    def rows(vocab_size, width):
        return choose_chunks(1 << 30, vocab_size, width, dtype, CPU).rows

    assert rows(1000, 64) < rows(1000, 128) < rows(1000, 512)
    assert rows(1_000_000, 512) < rows(30_000, 512)


def test_more_rows_or_a_smaller_cache_make_narrower_tiles(monkeypatch):
    def words(rows):
        return choose_chunks(rows, 1 << 20, 1 << 20, torch.float32, CPU).words

    monkeypatch.setattr(chunks, "HELD_BYTES", 1 << 40)
    few, many = words(64), words(1024)
    assert many < few
    monkeypatch.setattr(chunks, "second_level_cache", lambda: 1 << 16)
    assert words(64) < few


def test_the_cache_is_found_or_assumed(monkeypatch):
    assert chunks.second_level_cache.__wrapped__() >= 1 << 16
    for unknown in (0, -1):
        monkeypatch.setattr(chunks.os, "sysconf", lambda name, unknown=unknown: unknown)
        assert chunks.second_level_cache.__wrapped__() == 1 << 20
    monkeypatch.delattr(chunks.os, "sysconf")
    assert chunks.second_level_cache.__wrapped__() == 1 << 20
