"""What this machine can do, measured by itself: the seconds that a piece of work takes at least.

    limit = FLOP / (FLOP/s of a matrix product in its dtype) + bytes / (bytes/s of a copy)

A product counts 2 M N K operations; a copy counts what is read and what is written. Both rates are the best of many
tries: noise only ever slows. The sum, not the larger, because the two phases of a step, products and the
optimizer's pass over memory, follow each other.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

PRODUCT_SHAPES = ((1024, 1024, 1024), (2048, 2048, 2048), (4096, 1024, 1024), (512, 4096, 512))
"""M, N, K: the machine's rate is that of the shape that suits it best."""

COPIED_FLOATS = 1 << 25
"""128 MB read and as many written: far more than a cache holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Rates of one device."""

    flops: dict[str, float]
    """FLOP/s of a matrix product, by dtype: "float32", "bfloat16"."""
    bytes_per_second: float
    """Read plus written by a copy."""

    def seconds(self, dtype: str, flop: float, moved: float = 0.0) -> float:
        """The least time for `flop` operations in products of `dtype` and `moved` bytes of traffic."""
        return flop / self.flops[dtype] + moved / self.bytes_per_second

    def describe(self) -> str:
        """One line for people."""
        products = ", ".join(f"{rate / 1e9:,.0f} GFLOP/s {dtype}" for dtype, rate in self.flops.items())
        return f"products {products}; copy {self.bytes_per_second / 1e9:,.1f} GB/s"


def measure_limits(seconds: float = 1.0, device: str = "cpu", *, small: bool = False) -> Limits:
    """Try each dtype and the copy for `seconds`; `small` takes little shapes, for tests."""
    shapes = ((64, 64, 64),) if small else PRODUCT_SHAPES
    flops = {}
    for dtype in (torch.float32, torch.bfloat16):
        rates = [_product_rate(shape, dtype, device, seconds / len(shapes)) for shape in shapes]
        flops[str(dtype).removeprefix("torch.")] = max(rates)
    source = torch.ones(1 << 16 if small else COPIED_FLOATS, device=device)
    target = torch.empty_like(source)
    best = _best_seconds(lambda: target.copy_(source), device, seconds)
    return Limits(flops=flops, bytes_per_second=2 * source.nbytes / best)


def _product_rate(shape: tuple[int, int, int], dtype: torch.dtype, device: str, seconds: float) -> float:
    rows, columns, inner = shape
    left = torch.randn(rows, inner, device=device).to(dtype)
    right = torch.randn(inner, columns, device=device).to(dtype)
    out = torch.empty(rows, columns, dtype=dtype, device=device)
    best = _best_seconds(lambda: torch.mm(left, right, out=out), device, seconds)
    return 2 * rows * columns * inner / best


def _best_seconds(call: Callable[[], object], device: str, seconds: float) -> float:
    best, begun = float("inf"), time.perf_counter()
    call()
    tries = 0
    while tries < 3 or time.perf_counter() - begun < seconds:
        if device != "cpu":
            torch.cuda.synchronize(device)
        started = time.perf_counter()
        call()
        if device != "cpu":
            torch.cuda.synchronize(device)
        best, tries = min(best, time.perf_counter() - started), tries + 1
    return best
