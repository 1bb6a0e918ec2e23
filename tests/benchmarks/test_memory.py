"""A peak is that of the call: neither what its process had before, nor what its parent has."""

import numpy as np
import torch

from benchmarks import memory
from benchmarks.memory import peak_bytes

MB = 1 << 20


def allocate(before: int, during: int):
    """For `peak_bytes`: `before` MB that stay, and a call that takes `during` MB and gives them back."""
    kept = np.ones(before * MB, dtype=np.uint8)
    assert np.ones(300 * MB, dtype=np.uint8)[0] == 1  # given back before the call: it must not count

    def call():
        assert kept[0] + np.ones(during * MB + 1, dtype=np.uint8)[-1] == 2

    return call


def test_the_peak_is_what_the_call_takes():
    of_the_parent = np.ones(300 * MB, dtype=np.uint8)
    assert 98 * MB < peak_bytes(allocate, 150, 100) < 112 * MB
    assert of_the_parent[0] == 1


def test_a_call_that_takes_nothing_has_no_peak():
    assert peak_bytes(allocate, 100, 0) < 8 * MB


def test_without_a_peak_that_can_be_forgotten_nothing_is_measured(monkeypatch):
    monkeypatch.setattr(memory, "PeakMemory", Unmeasurable)
    assert memory.measure(torch.get_num_threads(), allocate, (1, 1)) is None


class Unmeasurable(memory.PeakMemory):
    """As on a system whose `clear_refs` cannot be written."""

    def __enter__(self):
        return self
