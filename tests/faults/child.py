"""Trainings in processes of their own, to which something happens: a nursery of children that are forked.

    with Nursery(folder) as nursery:
        ended = nursery.run(["train", ...], fault=partial(at_step, 18, partial(send, signal.SIGKILL)))
        assert ended.code == -signal.SIGKILL

The nursery is one process that has imported everything and has a single thread, so that a child of it costs
milliseconds where a fresh Python costs seconds. A child has its own files, locks and random numbers, and dies of a
signal as any process does. A fault is a context around its command line, made in the child.
"""

import contextlib
import importlib
import os
import pickle
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self
from unittest import mock

from elman.files import Disk

EVERY = 5
"""Steps between two checkpoints of a child; a clock is never the same twice."""

DEADLINE = 150.0
"""Seconds after which a child counts as hanging."""

HUNG = 124
"""The code of a child that had to be ended because it hung, as `timeout` has it; never that of a kill."""

START = "import sys; from tests.faults.child import serve; serve(sys.argv[1])"
"""Not run as a script, whose classes would be others than those of the module."""

ONE_THREAD = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
"""A process with several threads cannot be forked safely."""

Fault = Callable[[], AbstractContextManager[object]]


@dataclass(frozen=True, slots=True)
class Order:
    """What a child is to do."""

    arguments: list[str]
    fault: Fault
    kill_after: float | None
    deadline: float
    folder: Path
    variables: dict[str, str]


@dataclass(frozen=True, slots=True)
class Ended:
    """How a child ended."""

    code: int
    """Its exit code, or less the number of the signal that killed it; HUNG if it had to be ended."""
    out: str
    err: str
    seconds: float

    @property
    def error(self) -> str:
        """The last line of stderr."""
        return (self.err.splitlines() or [""])[-1]


class Nursery:
    """Forks a child for every `run`.

    Args:
        folder: In which the children work.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> Self:
        """Itself; it takes a moment to import everything."""
        self._server = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", START, str(self._folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | ONE_THREAD,
            cwd=Path(__file__).parents[2],
        )
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self._server.communicate()

    def run(
        self,
        arguments: list[object],
        *,
        fault: Fault = nullcontext,
        kill_after: float | None = None,
        deadline: float = DEADLINE,
        folder: Path | None = None,
        **variables: object,
    ) -> Ended:
        """Run the command line in a child, to its end.

        Args:
            arguments: As for `elman`.
            fault: Something that pickle can name.
            kill_after: Seconds after which the child is killed, if it has not ended.
            deadline: Without that, seconds after which it counts as hanging.
            folder: In which this child works.
            variables: Added to its environment.
        """
        given = {name: str(value) for name, value in variables.items()}
        order = Order(list(map(str, arguments)), fault, kill_after, deadline, folder or self._folder, given)
        pickle.dump(order, self._server.stdin)
        self._server.stdin.flush()
        return pickle.load(self._server.stdout)


def serve(folder: str) -> None:
    """Answer orders, one after another, until there are no more."""
    for name in ("elman.train.run", "elman.cli.train", "torch._dynamo"):
        importlib.import_module(name)
    import torch

    torch.set_num_threads(1)
    with os.fdopen(os.dup(1), "wb") as answers, contextlib.suppress(EOFError):
        os.dup2(2, 1)  # what is printed here is no answer
        while True:
            pickle.dump(carry_out(pickle.load(sys.stdin.buffer), Path(folder)), answers)
            answers.flush()
    os._exit(0)  # there is nothing to tidy


def carry_out(order: Order, folder: Path) -> Ended:
    """Have a child do it."""
    outputs = [folder / f".{os.getpid()}.{name}" for name in ("out", "err")]
    started = time.monotonic()
    ending, held = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(ending)  # the child's end of the pipe is closed as it ends, however that is
        be_child(order, outputs)
    os.close(held)
    patience = order.deadline if order.kill_after is None else order.kill_after
    late = not select.select([ending], [], [], patience)[0]
    if late:
        os.kill(pid, signal.SIGKILL)
    os.close(ending)
    _, status = os.waitpid(pid, 0)
    seconds = time.monotonic() - started
    code = HUNG if late and order.kill_after is None else os.waitstatus_to_exitcode(status)
    return Ended(code, *(path.read_text(errors="replace") for path in outputs), seconds)


def be_child(order: Order, outputs: list[Path]) -> None:
    """Never comes back."""
    code = 99
    try:
        for number, path in enumerate(outputs, start=1):
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(handle, number)
            os.close(handle)
        os.environ |= order.variables
        os.chdir(order.folder)
        tempfile.tempdir = None  # which was found for the nursery
        with saving_by_steps(), order.fault():
            # The streams of the nursery know what kind of file theirs was.
            sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - lives as long as we
            sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
            part("cli").main(order.arguments)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 99
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()
        os._exit(code)


def part(name: str) -> Any:
    """A module of elman, also where a function of its package has the same name."""
    return importlib.import_module(f"elman.{name}")


def saving_by_steps() -> AbstractContextManager[object]:
    """Save at every EVERY-th step, whatever the clock says."""
    asked = 0

    def due(saver: Any) -> bool:
        nonlocal asked
        asked += 1
        return asked % EVERY == 0

    return mock.patch.object(part("train.saver").Saver, "due", property(due))


# ---- faults: what happens, and when -----------------------------------------------------------------------


def send(*numbers: int) -> None:
    """Signals to this process."""
    for number in numbers:
        os.kill(os.getpid(), number)


def on(disk: Disk) -> Fault:
    """Another disk."""
    return partial(mock.patch, "elman.files.disk", disk)


def at_step(step: int, act: Callable[[], object]) -> AbstractContextManager[object]:
    """Act when a step is done, before anything is recorded or saved of it."""
    watcher = part("train.watcher").Watcher
    watch = watcher.__call__

    def watch_and_act(self: Any, result: Any) -> None:
        if result.step == step:
            act()
        watch(self, result)

    return mock.patch.object(watcher, "__call__", watch_and_act)


@contextlib.contextmanager
def at_call(place: str, name: str, number: int, act: Callable[[], object]) -> Iterator[None]:
    """Act when a function is called for the n-th time, counted from 1, before it does what it does."""
    module, calls = part(place), 0
    real = getattr(module, name)

    def called(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            act()
        return real(*arguments, **named)

    with mock.patch.object(module, name, called):
        yield


@contextlib.contextmanager
def both(first: Fault, second: Fault) -> Iterator[None]:
    """Two faults at once."""
    with first(), second():
        yield


@contextlib.contextmanager
def kill_at_event(number: int) -> Iterator[None]:
    """Kill this process when so many functions have been called or left."""
    left = number

    def count(*_: object) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            send(signal.SIGKILL)

    sys.setprofile(count)
    yield
    sys.setprofile(None)


@contextlib.contextmanager
def count_events(to: Path) -> Iterator[None]:
    """Write how many functions are called and left."""
    counted = 0

    def count(*_: object) -> None:
        nonlocal counted
        counted += 1

    sys.setprofile(count)
    try:
        yield
    finally:
        sys.setprofile(None)
        to.write_text(str(counted))
