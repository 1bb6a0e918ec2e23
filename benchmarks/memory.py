"""The peak memory of one call, in a process of its own.

    peak = (largest resident size during the call) - (resident size before it)

How the system is asked, `elman.compare.measure.PeakMemory` says; on one that can not be told to forget the largest
size so far there is no peak of a single call.
"""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import torch

from elman.compare.measure import PeakMemory


def peak_bytes(prepare: Callable[..., Callable[[], Any]], *arguments: Any) -> int | None:
    """Bytes that a call takes beyond what its process had before; None where the system does not say.

    Args:
        prepare: A function of a module, so that another process finds it. It makes the inputs and returns the call
            that is measured; what it does itself is not.
        arguments: For `prepare`.
    """
    # A new interpreter, not a fork: a fork would begin with the parent's memory and half of its threads.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(measure, torch.get_num_threads(), prepare, arguments).result()


def measure(
    threads: int, prepare: Callable[..., Callable[[], Any]], arguments: tuple[Any, ...]
) -> int | None:
    """What the other process does."""
    torch.set_num_threads(threads)
    call = prepare(*arguments)
    with PeakMemory() as memory:
        call()
    return memory.bytes
