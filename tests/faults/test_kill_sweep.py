"""A training is killed, at every point of a save and at any instant, and resumed; it ends as if nothing had happened."""

import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path

import pytest

from elman.train.checkpoint import POINTS, Checkpoints
from tests.faults.child import ONE_THREAD, Ended, Nursery, count_events, kill_at_event, on
from tests.faults.disks import KillingDisk
from tests.faults.small_training import outcome, small
from tests.faults.sweep import LATER, cases
from tests.small_run import TEXT

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork, and no kill, on this system")

FAMILIES: dict[str, dict[str, object]] = {
    "lstm, streams": {},
    "gru, documents": {"cell": "gru", "batches": "documents", "max_length": 20, "bucket": "true"},
    "minlstm, sampled loss, rows, dropout": {
        "cell": "minlstm",
        "tokenizer": "word",
        "loss": "sampled",
        "negatives": 16,
        "row_sparse": "true",
        "dropout": 0.1,
    },
    "slstm and its blocks, weight dropout": {"cell": "slstm", "weight_dropout": 0.1},
    "transformer": {"model": "transformer", "num_layers": 2, "context": 16, "dropout": 0.1},
}
QUICK = list(FAMILIES)[:3:2]


@pytest.fixture(scope="module")
def nurseries(tmp_path_factory):
    """Two, for two cores, and where their children work."""
    folders = [tmp_path_factory.mktemp("nursery") for _ in range(2)]
    for folder in folders:
        (folder / "text.txt").write_text(TEXT)
    with Nursery(folders[0]) as first, Nursery(folders[1]) as second:
        yield list(zip((first, second), folders, strict=True))


@pytest.fixture(scope="module")
def left_alone(nurseries, tmp_path_factory):
    """By family: what it comes to when nothing happens, and in how many seconds."""

    @cache
    def train(family: str) -> tuple[dict[str, object], float]:
        run = tmp_path_factory.mktemp("alone") / "run"
        nursery, _ = nurseries[0]
        for _ in range(2):  # the second time, all is warm
            shutil.rmtree(run, ignore_errors=True)
            ended = nursery.run(["train", "text.txt", *small(**FAMILIES[family]), "--out", run])
            assert ended.code == 0, ended.err
        return outcome(run), ended.seconds

    return train


class Trial:
    """One training, run again and again, killed and resumed.

    Args:
        nursery: Where its processes come from.
        folder: Where they work.
        family: Of `FAMILIES`.
        expected: What it must come to.
    """

    def __init__(self, nursery: Nursery, folder: Path, family: str, expected: dict[str, object]) -> None:
        self._nursery, self._family, self._expected = nursery, family, expected
        self._run = Path(tempfile.mkdtemp(dir=folder)) / "run"

    def kill(self, **how: object) -> bool:
        """Begin or go on, and be killed; whether that was before the end. A run that was nearly over is done again."""
        for _ in range(2):
            before, ended = self._reached(), self._do(**how)
            if ended.code == -signal.SIGKILL:
                assert self._reached() >= before, "a checkpoint is lost"
                return True
            assert ended.code == 0, ended.err
            self._come_to_the_end()
        return False

    def count_events(self) -> int:
        """Functions called and left in a training that is left alone."""
        counted = self._run.with_name("events")
        assert self._do(fault=partial(count_events, counted)).code == 0
        self._come_to_the_end()
        return int(counted.read_text())

    def finish(self) -> None:
        """Go on to the end."""
        ended = self._do()
        assert ended.code == 0, ended.err
        self._come_to_the_end()

    def _do(self, **how: object) -> Ended:
        if (self._run / "config.toml").exists():
            return self._nursery.run(["train", "--resume", self._run], **how)
        shutil.rmtree(self._run, ignore_errors=True)  # killed before anything was in it
        return self._nursery.run(
            ["train", "text.txt", *small(**FAMILIES[self._family]), "--out", self._run], **how
        )

    def _reached(self) -> int:
        """Step of the newest checkpoint, -1 if there is none; whatever has the name of one is sound."""
        found = [Checkpoints.read(path) for path in (self._run / "checkpoints").glob("step-*")]
        return max((checkpoint.step for checkpoint in found), default=-1)

    def _come_to_the_end(self) -> None:
        """It is as it would be had it been left alone, and nothing lies about."""
        assert outcome(self._run) == self._expected
        assert not list(self._run.rglob(".*"))
        shutil.rmtree(self._run)


@pytest.fixture
def sweep(nurseries, left_alone):
    """Have `work` done in two trials of a family at a time, numbered 0 and 1; the sum of what it says."""

    def run(family: str, work: Callable[[Trial, int], int]) -> int:
        expected, _ = left_alone(family)

        def one(number: int) -> int:
            trial = Trial(*nurseries[number], family, expected)
            hits = work(trial, number)
            trial.finish()
            return hits

        with ThreadPoolExecutor(2) as threads:
            return sum(threads.map(one, range(2)))

    return run


@LATER
def test_t01_a_fork_trains_as_a_fresh_process_does(left_alone, tmp_path):
    family = QUICK[-1]
    (tmp_path / "text.txt").write_text(TEXT)
    arguments = ["train", "text.txt", *small(**FAMILIES[family]), "--out", "run"]
    order = f"Order({arguments}, nullcontext, None, DEADLINE, Path({str(tmp_path)!r}), {{}})"
    program = f"from tests.faults.child import *; be_child({order}, [])"
    fresh = subprocess.run([sys.executable, "-c", program], env=os.environ | ONE_THREAD, capture_output=True)
    assert fresh.returncode == 0, fresh.stderr
    expected, _ = left_alone(family)
    assert outcome(tmp_path / "run") == expected


def random_times(trial: Trial, seconds: float, rng: random.Random) -> Iterator[dict[str, object]]:
    """Ways to be killed at any time of a training of so many seconds."""
    while True:
        yield {"kill_after": rng.uniform(0, seconds)}


def random_events(trial: Trial, seconds: float, rng: random.Random) -> Iterator[dict[str, object]]:
    """The instant is counted in calls of functions instead: where it falls does not hang on the machine."""
    events = trial.count_events()
    while True:
        yield {"fault": partial(kill_at_event, rng.randint(1, events))}


INSTANTS = {"by time": (random_times, 200, 6), "by event": (random_events, 40, 4)}
"""Ways to draw them; how many with --full and without, for each family."""


@pytest.mark.parametrize("how", INSTANTS)
@cases("family", FAMILIES, QUICK[0])
def test_t01_killed_at_random_instants(sweep, left_alone, full, count, family, how):
    draw, many, few = INSTANTS[how]
    wanted = many if full else few
    _, seconds = left_alone(family)

    def work(trial: Trial, number: int) -> int:
        instants, hits = draw(trial, seconds, random.Random(f"{family} {number}")), 0
        while hits < wanted // 2:
            hits += trial.kill(**next(instants))
        return hits

    hits = sweep(family, work)
    assert hits == wanted
    count(hits)


@cases("family", QUICK, QUICK[0])
def test_t02_killed_at_every_point_of_a_save(sweep, full, count, family):
    times = range(1, 9) if full else [2]
    points = [(point, time) for time in times for point in POINTS]

    def work(trial: Trial, number: int) -> int:
        for point, time in points[number::2]:
            killed = trial.kill(fault=on(KillingDisk(point, time=time)))
            assert killed, f"{point} was not reached {time} times"
        return len(points[number::2])

    assert sweep(family, work) == len(points) >= len(POINTS)
    count(len(points))


def test_t02_killed_at_every_call_to_the_disk(sweep, full, count):
    every = 1 if full else 80

    def work(trial: Trial, number: int) -> int:
        calls = itertools.count(1 + number * every, 2 * every)
        kills = (trial.kill(fault=on(KillingDisk(time=call))) for call in calls)
        return sum(itertools.takewhile(bool, kills))

    hits = sweep(QUICK[0], work)
    assert hits > 250 // every
    count(hits)


def test_t03_killed_while_old_checkpoints_are_removed(sweep, count):
    points = [point for point in POINTS if "trash" in point]

    def work(trial: Trial, number: int) -> int:
        return sum(trial.kill(fault=on(KillingDisk(point, time=1 + number))) for point in points)

    assert sweep(QUICK[0], work) == 2 * len(points) == 6
    count(2 * len(points))
