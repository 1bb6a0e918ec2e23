"""What the processes of `test_ranks` do; a module of its own, as each of them imports it."""

import ctypes
import hashlib
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed

from elman.errors import ConfigError, DivergedError, ElmanError, MissingExtraError, StoppedError
from elman.ranks import Ranks, join, last_words, link, pulse, roll
from elman.train.step import EagerStep
from tests.train.trainee import given, streams, trainee

Program = Callable[[Ranks], Any]

SHORT_VALUES = [0.1, [0.1, float("inf"), 3, True, None], {"a": "ä"}, "", "x" * (link.SHORT - 10), []]
LONG_VALUES = ["x" * size for size in (link.SHORT - 9, link.SHORT, 10_000)]


def run(
    program: Program, place: Mapping[str, str], timeout: float, path: Path, joined: Barrier | None
) -> None:
    """Be one rank, and leave in `path` what came of it; `ARGV` in `place` is its command line.

    With `TERMINATED` in `place` it gets SIGTERM while it waits for the others.
    """
    roll.ROLL_CALL, roll.SILENT, pulse.BEAT, pulse.PATIENCE = 4.0, 2.0, 0.1, 0.5  # type: ignore[misc]
    last_words.SILENT = 2.0  # type: ignore[misc]
    os.environ.update(place)
    sys.argv[1:] = place.get("ARGV", "").split()
    os.dup2(os.open(f"{path}.err", os.O_WRONLY | os.O_CREAT), sys.stderr.fileno())
    if "TERMINATED" in place:
        threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()
    try:
        with join(timeout) as ranks:
            if joined is not None:
                joined.wait()
            outcome = repr(program(ranks))
    except ElmanError as error:
        outcome = f"{type(error).__name__} {error.exit_code}: {error}"
    except SystemExit as end:
        outcome = f"exit {end.code}"
    path.write_text(outcome)


def agree(ranks: Ranks) -> list[bool]:
    values = [*SHORT_VALUES, *LONG_VALUES]
    return [ranks.agree(value if ranks.is_first else "mine") == value for value in values]


def gather(ranks: Ranks) -> tuple[list[Any], list[list[str]]]:
    array = np.array([0.1, -0.0, np.nan, np.inf, 5e-324])[: 2 * ranks.rank]
    arrays = ranks.gather(array)
    return ranks.gather({"rank": ranks.rank, "size": ranks.size}), [[x.hex() for x in one] for one in arrays]


def first_does(ranks: Ranks) -> list[Any]:
    """Who has worked, and a result too long for the store."""
    pids = ranks.gather(os.getpid())
    long = ranks.first_does(lambda: "y" * (link.LONGEST_KEPT + 1))
    return [pids.index(ranks.first_does(os.getpid)), len(long), ranks.first_does(lambda: None)]


def after_first(ranks: Ranks) -> list[list[int]]:
    begin, end = ranks.after_first(lambda: (time.monotonic_ns(), time.monotonic_ns()))
    return ranks.gather([begin, end])


def deal(ranks: Ranks) -> list[list[int]]:
    return ranks.gather(list(ranks.deal(100)))


def first_fails(ranks: Ranks) -> None:
    def fail() -> None:
        raise MissingExtraError("this", "that", "those")

    try:
        ranks.first_does(fail)
    except MissingExtraError:
        ranks.barrier()
        raise


def differ(ranks: Ranks) -> None:
    ranks.handshake({"same": "a", "the version": "1" if ranks.rank == 1 else "2"})


def ddp(ranks: Ranks) -> list[float]:
    """Gradients averaged by torch over the group that `join` has made."""
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.ones_(model.weight)
    parallel = torch.nn.parallel.DistributedDataParallel(model)
    parallel(torch.tensor([[float(ranks.rank)]])).sum().backward()
    assert model.weight.grad is not None
    return ranks.gather(float(model.weight.grad))


def in_collective(ranks: Ranks) -> None:
    for _ in range(10):
        distributed.all_reduce(torch.zeros(3))


def in_agree(ranks: Ranks) -> None:
    for _ in range(10):
        ranks.agree(1.0)


def in_meeting(ranks: Ranks) -> None:
    ranks.barrier()


def in_first_does(ranks: Ranks) -> None:
    ranks.first_does(lambda: None)


def in_look(ranks: Ranks) -> None:
    """Waits for what the other one holds."""
    look = ranks.watch()
    while True:
        time.sleep(0.1)
        look()


def all_stopped(ranks: Ranks) -> None:
    """As all ranks are when torchrun is."""
    raise StoppedError("stopped by SIGTERM", signal.SIGTERM)


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def stopped() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def stuck() -> None:
    time.sleep(1000)


def spinning() -> None:
    while True:
        pass


def terminated() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def refusing() -> None:
    raise ConfigError("not with me")


def broken() -> None:
    raise ValueError("a slip")


class Loses:
    """Rank `rank` meets a `fate`, and the others go on to `wait` for it."""

    def __init__(self, rank: int, fate: Callable[[], None], wait: Program) -> None:
        self.rank, self.fate, self.wait = rank, fate, wait

    def __call__(self, ranks: Ranks) -> None:
        ranks.barrier()
        if ranks.rank == self.rank:
            self.fate()
        self.wait(ranks)


class LosesInStep(Loses):
    """Rank `rank` meets a `fate` amid a training, and the others go on to exchange gradients."""

    def __init__(self, rank: int, fate: Callable[[], None]) -> None:
        super().__init__(rank, fate, in_meeting)

    def __call__(self, ranks: Ranks) -> None:
        model, optimizer = trainee()
        step, inputs = EagerStep(model, optimizer, ranks=ranks), given(next(streams()))
        for number in range(6):
            if number == 3 and ranks.rank == self.rank:
                self.fate()
            step(inputs, model.initial_state(3))


def first_comes_late(ranks: Ranks) -> None:
    """After the others have given it up."""
    if ranks.is_first:
        assert ranks._link is not None
        while ranks._link._store.without("left", [1, 2]):
            sum(range(1000))
    in_collective(ranks)


def first_is_stopped(ranks: Ranks) -> None:
    ranks.first_does(lambda: all_stopped(ranks))


def computes_long_in_a_thread(ranks: Ranks) -> float:
    """The main thread of the first rank waits for another thread of its own, as it does for a tokenizer."""

    def work() -> float:
        content = bytes(1 << 24)
        thread = threading.Thread(target=lambda: [hashlib.sha256(content) for _ in iter(in_time, False)])
        end = time.monotonic() + 3.0

        def in_time() -> bool:
            return time.monotonic() < end

        thread.start()
        thread.join()
        return 3.0

    return ranks.first_does(work)


def works_long(ranks: Ranks) -> float:
    """The first rank works for longer than the timeout."""

    def work() -> float:
        end = time.monotonic() + 3.0
        while time.monotonic() < end:
            sum(range(1000))
        return 3.0

    return ranks.first_does(work)


def waits_long_for_a_disk(ranks: Ranks) -> float:
    """The first rank is in uninterruptible sleep for longer than the timeout, as in an fsync that takes long.

    So is who waits for a child that shares its memory (vfork); this one waits in its turn, for a pipe that opens late.
    """

    def work() -> float:
        with tempfile.TemporaryDirectory() as folder:
            pipe, c = os.path.join(folder, "pipe"), ctypes.CDLL(None)
            os.mkfifo(pipe)
            threading.Timer(3.0, lambda: os.close(os.open(pipe, os.O_WRONLY))).start()
            actions, child = (ctypes.c_char * 512)(), ctypes.c_int()
            c.posix_spawn_file_actions_init(actions)
            c.posix_spawn_file_actions_addopen(actions, 0, pipe.encode(), os.O_RDONLY, 0)
            arguments = (ctypes.c_char_p * 2)(b"true", None)
            assert c.posix_spawn(ctypes.byref(child), b"/bin/true", actions, None, arguments, None) == 0
            os.waitpid(child.value, 0)
        return 3.0

    return ranks.first_does(work)


def all_diverge(ranks: Ranks) -> None:
    raise DivergedError("not a number")
