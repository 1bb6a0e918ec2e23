"""What a run computes on, chosen once, printed and recorded: device, precision, threads."""

import contextlib
import math
import os
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from elman import chapter
from elman.config import TrainingConfig
from elman.errors import ConfigError
from elman.ranks import ALONE, Ranks
from elman.version import __version__


@dataclass(frozen=True, slots=True)
class Machine:
    """The choices."""

    device: torch.device
    product_dtype: torch.dtype
    """Arithmetic of the large products in training; scoring is always float32."""
    threads: int

    def describe(self) -> str:
        """One line for people."""
        precision = str(self.product_dtype).removeprefix("torch.")
        return f"{self.device} ({self.threads} threads), {precision} products"


def choose_device(config: TrainingConfig) -> torch.device:
    """Resolve `auto` and refuse what is not there.

    Raises:
        ConfigError: The device asked for is missing.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if config.device == "auto":
        return torch.device(next(name for name, here in available.items() if here))
    device = torch.device(config.device)
    if not available[device.type] or (device.index or 0) >= max(1, torch.cuda.device_count()):
        usable = ", ".join(name for name, here in available.items() if here)
        raise ConfigError(f"device {config.device!r} is not available here; usable: {usable}")
    return device


def choose_machine(config: TrainingConfig) -> Machine:
    """The device, and the arithmetic that is quickest there where it is left open, which takes a moment to find out.

    Raises:
        ConfigError: As for `choose_device`.
    """
    device = choose_device(config)
    if config.precision == "auto":
        product_dtype = torch.bfloat16 if bfloat16_pays(device) else torch.float32
    else:
        product_dtype = getattr(torch, config.precision)
    return Machine(device, product_dtype, torch.get_num_threads())


def bfloat16_pays(device: torch.device) -> bool:
    """Whether products in bfloat16 are clearly faster than in float32 here, by trying.

    Processors with instructions for it are two to three times as fast, the others many times slower, so the
    answer does not hang on a noisy measurement.
    """
    kinds = (torch.bfloat16, torch.float32)
    factors = [
        [torch.ones(shape, dtype=kind, device=device) for shape in ((256, 256), (256, 2048))]
        for kind in kinds
    ]
    best = [math.inf, math.inf]
    for _ in range(60):  # in turns, for a good while, so that other work on the machine hits both
        for kind, (left, right) in enumerate(factors):
            started = time.perf_counter()
            (left @ right)[0, 0].item()
            best[kind] = min(best[kind], time.perf_counter() - started)
    return best[0] * 1.5 < best[1]


def set_up(config: TrainingConfig) -> None:
    """Seeds and process-wide settings of torch for a run."""
    if config.deterministic:
        chapter.set_seed(config.seed)
        # Every element of ours is written before it is read: filling it first costs a sixth of a step.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a property
    else:
        torch.manual_seed(config.seed)
    torch.set_flush_denormal(True)  # denormals slow tanh networks many times over


def seed_rank(seed: int, ranks: Ranks) -> None:
    """Give every rank but the first random numbers of its own; the weights are drawn before, alike on all."""
    if not ranks.is_first:
        torch.manual_seed(int(np.random.SeedSequence([seed, ranks.rank]).generate_state(1, np.uint64)[0]))


def _processor_name() -> str:
    """As the system calls it; where it does not say, the kind of machine."""
    lines: list[str] = []
    with contextlib.suppress(OSError):  # not Linux
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def describe_environment(machine: Machine, ranks: Ranks = ALONE) -> dict[str, Any]:
    """What `environment.json` records: versions, machine and choices, no names of people or hosts."""
    import safetensors
    import tokenizers

    packages = {module.__name__: module.__version__ for module in (torch, np, tokenizers, safetensors)}
    chosen = asdict(machine) | {"device": str(machine.device), "product_dtype": str(machine.product_dtype)}
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor_name(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "elman": __version__,
        "packages": packages,
        "ranks": ranks.size,
        **chosen,
    }


def memory_bytes() -> int:
    """Bytes of memory of this machine, or a number beyond any model where the system does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return 2**63
