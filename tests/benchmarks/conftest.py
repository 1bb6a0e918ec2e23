"""Tiny runs: as `--quick` has them, with limits that are made up."""

import pytest
import torch

from benchmarks.limits import Limits
from benchmarks.settings import Settings


@pytest.fixture(scope="session")
def settings():
    limits = Limits(flops={"float32": 1e9, "bfloat16": 2e9}, bytes_per_second=1e9)
    return Settings(limits=limits, seconds=0.0, quick=True)


@pytest.fixture(autouse=True)
def threads_as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
    torch.set_flush_denormal(False)
