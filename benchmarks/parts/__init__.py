"""The parts: each is a module with `run(settings)`, which yields records, and a docstring that says what it does."""

from collections.abc import Callable, Iterator, Sequence
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

MEASURED_BY: dict[str, tuple[str, ...]] = {
    "C1": ("step",),
    "C2": ("step", "convergence"),
    "C3": ("loss",),
    "C4": ("sampled",),
    "C5": (),
    "C6": ("recurrence",),
    "C7": ("generation",),
    "C8": ("data",),
    "C9": ("ngram",),
    "G1": ("cuda",),
}
"""The parts behind each line of the goals; C5 has a program of its own."""

ELSEWHERE = "C5: `python -m benchmarks.quality` measures it"


def chosen(names: Sequence[str]) -> list[str]:
    """The parts of names, which may be those of goals; each once."""
    return list(dict.fromkeys(part for name in names for part in MEASURED_BY.get(name, (name,))))


def load(name: str) -> Callable[[Settings], Iterator[Record]]:
    """The function of a part; its optional packages are imported when it runs."""
    run: Callable[[Settings], Iterator[Record]] = import_module(f"benchmarks.parts.{name}").run
    return run


def summary(name: str) -> str:
    """The first line of its docstring."""
    return (import_module(f"benchmarks.parts.{name}").__doc__ or "").splitlines()[0]
