"""A training is killed, at every point of a save and at any instant, and resumed; it ends as if nothing had happened."""

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from hashlib import sha256
from pathlib import Path

import pytest

from elman.train.checkpoint import POINTS, Checkpoints
from elman.train.metrics import read_metrics
from tests.faults.child import ONE_THREAD, Ended, Nursery, count_events, kill_at_event, on
from tests.faults.disks import KillingDisk

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork, and no kill, on this system")

TEXT = "".join(f"line {i} of a small text, {i * i} and so on\n" for i in range(120))

SMALL = {
    "hidden-size": 8,
    "embedding-dim": 8,
    "num-heads": 2,
    "batch-size": 3,
    "bptt": 8,
    "max-steps": 40,
    "validations": 4,
    "valid-tokens": 200,
    "tokenizer": "byte",
    "documents": "line",
    "device": "cpu",
    "precision": "float32",
    "yardstick-order": "none",
}

FAMILIES: dict[str, dict[str, object]] = {
    "lstm, streams": {},
    "gru, documents": {"cell": "gru", "batches": "documents", "max-length": 20, "bucket": "true"},
    "minlstm, sampled loss, rows, dropout": {
        "cell": "minlstm",
        "tokenizer": "word",
        "loss": "sampled",
        "negatives": 16,
        "row-sparse": "true",
        "dropout": 0.1,
    },
    "slstm and its blocks, weight dropout": {"cell": "slstm", "weight-dropout": 0.1},
    "transformer": {"model": "transformer", "num-layers": 2, "context": 16, "dropout": 0.1},
}
QUICK = list(FAMILIES)[:3:2]

KILLS = 200
"""At random times, for each family."""

TIMES = ("seconds", "tokens_per_second")
"""What is never the same twice."""


def options(**given: object) -> list[str]:
    """Of a small training."""
    settings = SMALL | {name.replace("_", "-"): value for name, value in given.items()}
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))]


def digest(content: bytes) -> str:
    return sha256(content).hexdigest()


def outcome(run: Path) -> dict[str, object]:
    """All that a finished run has come to, but for the time that it took."""
    newest = Checkpoints(run / "checkpoints", warn=pytest.fail).newest()
    values = json.loads(newest.files["trainer.json"])
    del values["parts"]["budget"], values["parts"]["metrics"], values["parts"]["events"]
    del values["parts"]["watcher"]["recorded"]
    result = json.loads((run / "result.json").read_bytes())
    return {
        "step": newest.step,
        "trainer.json": values,
        "metrics": [without_times(record) for record in read_metrics(run / "metrics.jsonl")],
        "result": {
            name: value for name, value in without_times(result).items() if name not in ("run", "model")
        },
        "config": digest((run / "config.toml").read_bytes()),
        "files": {name: digest(content) for name, content in newest.files.items() if name != "trainer.json"},
        "model": {
            name: digest((run / "model" / name).read_bytes())
            for name in ("model.safetensors", "config.json", "tokenizer.json")
        },
    }


def without_times(record: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in record.items() if name not in TIMES}


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
            ended = nursery.run(["train", "text.txt", *options(**FAMILIES[family]), "--out", run])
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
            ["train", "text.txt", *options(**FAMILIES[self._family]), "--out", self._run], **how
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


def test_t01_a_fork_trains_as_a_fresh_process_does(left_alone, tmp_path, full):
    if not full:
        pytest.skip("in the full sweep")
    family = QUICK[-1]
    (tmp_path / "text.txt").write_text(TEXT)
    arguments = ["train", "text.txt", *options(**FAMILIES[family]), "--out", "run"]
    order = f"Order({arguments}, nullcontext, None, Path({str(tmp_path)!r}), {{}})"
    program = f"from tests.faults.child import *; be_child({order}, [])"
    fresh = subprocess.run([sys.executable, "-c", program], env=os.environ | ONE_THREAD, capture_output=True)
    assert fresh.returncode == 0, fresh.stderr
    expected, _ = left_alone(family)
    assert outcome(tmp_path / "run") == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_t01_killed_at_random_times(sweep, left_alone, full, count, family):
    if not full and family != QUICK[0]:
        pytest.skip("with --full")
    wanted = KILLS if full else 6
    _, seconds = left_alone(family)

    def work(trial: Trial, number: int) -> int:
        rng, hits = random.Random(f"{family} {number}"), 0
        while hits < wanted // 2:
            hits += trial.kill(kill_after=rng.uniform(0, seconds))
        return hits

    hits = sweep(family, work)
    assert hits == wanted
    count(hits)


@pytest.mark.parametrize("family", FAMILIES)
def test_t01_killed_at_random_events(sweep, full, count, family):
    """As above, but the instant is counted in calls of functions: where it falls does not hang on the machine."""
    if not full and family != QUICK[0]:
        pytest.skip("with --full")
    wanted = 40 if full else 4

    def work(trial: Trial, number: int) -> int:
        events, rng, hits = trial.count_events(), random.Random(f"{family} {number}"), 0
        while hits < wanted // 2:
            hits += trial.kill(fault=partial(kill_at_event, rng.randint(1, events)))
        return hits

    hits = sweep(family, work)
    assert hits == wanted
    count(hits)


@pytest.mark.parametrize("family", QUICK)
def test_t02_killed_at_every_point_of_a_save(sweep, full, count, family):
    if not full and family != QUICK[0]:
        pytest.skip("with --full")
    times = range(1, 9) if full else [2]
    points = [(point, time) for time in times for point in POINTS]

    def work(trial: Trial, number: int) -> int:
        for point, time in points[number::2]:
            assert trial.kill(fault=on(KillingDisk(point, time=time))), (
                f"{point} was not reached {time} times"
            )
        return len(points[number::2])

    assert sweep(family, work) == len(points) >= len(POINTS)
    count(len(points))


def test_t02_killed_at_every_call_to_the_disk(sweep, full, count):
    every = 1 if full else 80

    def work(trial: Trial, number: int) -> int:
        calls = itertools.count(1 + number * every, 2 * every)
        return sum(
            1 for _ in itertools.takewhile(lambda call: trial.kill(fault=on(KillingDisk(time=call))), calls)
        )

    hits = sweep(QUICK[0], work)
    assert hits > 250 // every
    count(hits)


def test_t03_killed_while_old_checkpoints_are_removed(sweep, count):
    points = [point for point in POINTS if "trash" in point]

    def work(trial: Trial, number: int) -> int:
        return sum(trial.kill(fault=on(KillingDisk(point, time=1 + number))) for point in points)

    assert sweep(QUICK[0], work) == 2 * len(points) == 6
    count(2 * len(points))
