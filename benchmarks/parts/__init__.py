"""The parts: each is a module with `run(settings)`, which yields records, and a docstring that says what it does."""

from collections.abc import Callable, Iterator
from importlib import import_module

from benchmarks.record import Record
from benchmarks.settings import Settings

PARTS: dict[str, bool] = {
    "loss": True,
    "step": True,
    "sampled": True,
    "recurrence": True,
    "generation": True,
    "data": True,
    "ngram": True,
    "cuda": True,
    "convergence": False,
}
"""By name, in the order of a run; whether the default run has it."""


def load(name: str) -> Callable[[Settings], Iterator[Record]]:
    """The function of a part; its optional packages are imported when it runs."""
    run: Callable[[Settings], Iterator[Record]] = import_module(f"benchmarks.parts.{name}").run
    return run


def summary(name: str) -> str:
    """The first line of its docstring."""
    return (import_module(f"benchmarks.parts.{name}").__doc__ or "").splitlines()[0]
