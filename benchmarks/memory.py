"""The peak memory of one call, in a process of its own.

    peak = (largest resident size during the call) - (resident size before it)

The system keeps the largest size since the process began (VmHWM of Linux); writing 5 to `clear_refs` sets it back
to the present one. `ru_maxrss`, the fallback elsewhere, can not be set back, and where it is kept across `exec` it
would be that of the parent: so Linux's own file is read where there is one.
"""

import re
import resource
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_bytes(prepare: Callable[..., Callable[[], Any]], *arguments: Any) -> int:
    """Bytes that a call takes beyond what its process had before.

    Args:
        prepare: A function of a module, so that another process finds it. It makes the inputs and returns the call
            that is measured; what it does itself is not.
        arguments: For `prepare`.
    """
    # A new interpreter, not a fork: a fork would begin with the parent's memory and half of its threads.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_measure, torch.get_num_threads(), prepare, arguments).result()


def _measure(threads: int, prepare: Callable[..., Callable[[], Any]], arguments: tuple[Any, ...]) -> int:
    torch.set_num_threads(threads)
    call = prepare(*arguments)
    before = _resident_now()
    call()
    return max(0, _resident_peak() - before)


def _resident_now() -> int:
    """Bytes resident, from here on the peak too where the system can be told so."""
    if not STATUS.exists():
        return _resident_peak()
    RESET.write_text("5")
    return _status("VmRSS")


def _resident_peak() -> int:
    if STATUS.exists():
        return _status("VmHWM")
    kilo = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, the others kilobytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kilo


def _status(key: str) -> int:
    found = re.search(rf"^{key}:\s+(\d+) kB", STATUS.read_text(), re.MULTILINE)
    assert found is not None, f"{STATUS} has no {key}"
    return int(found[1]) * 1024
