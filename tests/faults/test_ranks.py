"""Jobs of several processes: they are the training of one, and what happens to one of them is known to all."""

import json
import random
import signal
from pathlib import Path

import pytest
import torch

from elman.cli import run
from elman.data.batches import DocumentLoader, StreamLoader, deal
from elman.data.store import store_from_ids
from elman.ranks import Ranks
from elman.text_model import load
from elman.train.machine import seed_rank
from elman.train.metrics import read_metrics
from tests.command_line import options
from tests.faults.sweep import LATER
from tests.small_run import SMALL
from tests.switches import torch_as_before  # noqa: F401 - autouse
from tests.torchrun import run_ranks, started

STEPS = 24
SETTINGS = SMALL | {
    "max_steps": STEPS,
    "hidden_size": 12,
    "embedding_dim": 8,
    "batch_size": 4,
    "bptt": 8,
    "yardstick_order": "none",
    "valid_tokens": 300,
    "validations": 3,
}


def training(text: Path, folder: Path, **settings: object) -> list[str]:
    """`elman train` of a small model."""
    return ["train", str(text), "--out", str(folder), "--quiet", *options(**SETTINGS | settings)]


PROGRAM = """
import contextlib, os, signal, sys, time
from tests.faults import child

with child.saving_by_steps(), child.at_step(int(sys.argv[1]), lambda: os.environ["RANK"] == sys.argv[2] and ({act})):
    from elman.cli import main
    main(sys.argv[3:])
"""
"""The command line, and something that one rank does at one step."""


def with_fault(act: str, arguments, *, step: int = 13, rank: int = 1) -> list[object]:
    return ["-c", PROGRAM.format(act=act), step, rank, *arguments]


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    draw = random.Random(0)
    words = ["road", "river", "under", "the", "a", "stone", "and", "sky", "went", "saw"]
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("".join(" ".join(draw.choices(words, k=draw.randint(2, 9))) + "\n" for _ in range(300)))
    return path


@pytest.fixture(scope="module")
def alone(text, tmp_path_factory) -> Path:
    """The run of one process."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    assert run(training(text, folder)) == 0
    return folder


def losses(folder: Path) -> list[float]:
    """Of training and of validation, in order."""
    return [r.get("loss", r.get("valid_perplexity")) for r in read_metrics(folder / "metrics.jsonl")]


def final_nats(folder: Path) -> float:
    return json.loads((folder / "result.json").read_text())["valid"]["nats"]


def assert_same_training(folder: Path, alone: Path) -> None:
    assert losses(folder) == pytest.approx(losses(alone), rel=1e-6)
    assert final_nats(folder) == pytest.approx(final_nats(alone), rel=1e-6)


# ---- the training of one process ------------------------------------------------------------------------


@LATER
@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"batches": "documents", "max_length": 20, "batch_size": 7},
        {"tie_embeddings": True, "loss": "sampled", "negatives": 40, "accumulate": 2},
        {"cell": "slstm", "block": "xlstm", "learning_rate": 0.001},  # or rounding grows from step to step
    ],
    ids=["streams", "documents", "tied, sampled, in parts", "xlstm"],
)
def test_r06_any_number_of_ranks_is_one_training(text, tmp_path, settings, ranks):
    assert run(training(text, tmp_path / "one", **settings)) == 0
    done = run_ranks(["-m", "elman", *training(text, tmp_path / "many", **settings)], ranks)
    assert [each.returncode for each in done] == [0] * ranks, done[0].stderr
    assert all(each.stdout == "" for each in done[1:])
    assert_same_training(tmp_path / "many", tmp_path / "one")


def test_r06_a_run_goes_on_with_other_numbers_of_ranks(text, alone, tmp_path, full):
    """Two ranks, then one; in the full sweep, then two again."""
    folder = tmp_path / "run"
    stop = "os.kill(os.getpid(), signal.SIGTERM)"
    done = run_ranks(with_fault(stop, training(text, folder), step=7, rank=0))
    assert done[0].returncode == 143, done[0].stderr
    said = "".join(each.stderr for each in done)  # one of them speaks for both
    assert said.count("stopped by SIGTERM after step 7; go on with: elman train --resume") == 1
    if full:
        (done,) = run_ranks(with_fault(stop, ["train", "--resume", folder, "-q"], step=15, rank=0), 1)
        assert done.returncode == 143, done.stderr
        for each in run_ranks(["-m", "elman", "train", "--resume", folder, "-q"], 2):
            assert each.returncode == 0, each.stderr
    else:
        assert run(["train", "--resume", str(folder), "-q"]) == 0
    assert_same_training(folder, alone)


def test_r05_the_ranks_have_every_token_of_an_epoch_once():
    store = store_from_ids([[3 + i % 5] * (i % 17) for i in range(40)], start_id=1, end_id=2)
    for make in (
        lambda: StreamLoader(store, 12, 5, pad_id=0, seed=3),
        lambda: DocumentLoader(store, 7, None, pad_id=0, seed=3),
    ):
        for size in (1, 2, 3, 4):
            places: list[int] = []
            for rank in range(size):
                loader = make()
                for _, batch in zip(range(loader.steps_per_epoch), loader, strict=False):
                    mine = deal(batch, Ranks(rank, size))
                    places += mine.places[mine.counted].tolist()
            assert sorted(places) == list(range(len(store)))


def test_t26_ranks_have_random_numbers_of_their_own_and_the_same_again():
    def draw(seed: int, rank: int) -> list[float]:
        torch.manual_seed(seed)
        seed_rank(seed, Ranks(rank, 8))
        return torch.rand(4).tolist()

    drawn = {(seed, rank): tuple(draw(seed, rank)) for seed in range(4) for rank in range(8)}
    assert len(set(drawn.values())) == len(drawn)
    assert all(tuple(draw(*key)) == value for key, value in drawn.items())


@LATER
def test_r06_three_ranks_go_on_to_the_bit(text, tmp_path):
    """Of two, a sum is the same in any order."""
    small = {"batch_size": 6, "max_steps": 10}
    assert all(
        not each.returncode
        for each in run_ranks(["-m", "elman", *training(text, tmp_path / "whole", **small)], 3)
    )
    stop = "os.kill(os.getpid(), signal.SIGTERM)"
    done = run_ranks(with_fault(stop, training(text, tmp_path / "run", **small), step=4, rank=0), 3)
    assert [each.returncode for each in done] == [143] * 3
    done = run_ranks(["-m", "elman", "train", "--resume", tmp_path / "run", "-q"], 3)
    assert [each.returncode for each in done] == [0] * 3, done[0].stderr
    for name in ("model", "optimizer", "lanes"):
        whole, resumed = (
            tmp_path / folder / "checkpoints" / "step-00000010" / f"{name}.safetensors"
            for folder in ("whole", "run")
        )
        assert whole.read_bytes() == resumed.read_bytes(), name


@LATER
def test_t04_a_signal_at_any_rank_stops_all(text, alone, tmp_path):
    folder = tmp_path / "run"
    stop = "os.kill(os.getpid(), signal.SIGTERM)"
    done = run_ranks(with_fault(stop, training(text, folder), step=7, rank=1))
    assert [each.returncode for each in done] == [143, 143]
    assert run(["train", "--resume", str(folder), "-q"]) == 0
    assert_same_training(folder, alone)


# ---- a rank that is lost --------------------------------------------------------------------------------


@LATER
@pytest.mark.parametrize("lost", [1, 0])
def test_r01_a_rank_that_is_killed_is_named_and_the_run_goes_on(text, alone, tmp_path, lost):
    folder = tmp_path / "run"
    kill = "os.kill(os.getpid(), signal.SIGKILL)"
    done = run_ranks(with_fault(kill, training(text, folder), rank=lost))
    assert done[lost].returncode == -signal.SIGKILL
    other = done[1 - lost]
    assert other.returncode == 1
    assert f"rank {lost}" in other.stderr.splitlines()[-1]
    assert "Traceback" not in other.stderr
    assert run(["train", "--resume", str(folder), "-q"]) == 0
    assert_same_training(folder, alone)


@LATER
def test_r02_a_rank_that_hangs_is_named(text, alone, tmp_path):
    folder = tmp_path / "run"
    stop = "os.kill(os.getpid(), signal.SIGSTOP)"
    with started(with_fault(stop, training(text, folder))) as job:
        _, err = job.processes[0].communicate(timeout=60)
        assert job.processes[0].returncode == 1
        assert "rank 1" in err.splitlines()[-1]
        job.processes[1].kill()
    assert run(["train", "--resume", str(folder), "-q"]) == 0
    assert_same_training(folder, alone)


@LATER
def test_r02_a_rank_that_hangs_with_a_piece_of_the_preparation_is_named(text, tmp_path):
    program = """
import os, signal, sys
from unittest import mock
from elman.data.build import _Builder

def hang(*_):
    os.kill(os.getpid(), signal.SIGSTOP)

with mock.patch.object(_Builder, "_tokenize", hang) if os.environ["RANK"] == "1" else mock.MagicMock():
    if os.environ["RANK"] == "0":
        real = _Builder._take
        def wait(self, number, stack):
            while (lock := self._work.take(f"{number}")) is not None:  # until the other one has it
                lock.close()
            return real(self, number, stack)
        _Builder._take = wait
    from elman.cli import main
    main(sys.argv[1:])
"""
    cache = {"ELMAN_CACHE": str(tmp_path / "cache")}
    with started(["-c", program, *training(text, tmp_path / "run")], env=cache) as job:
        _, err = job.processes[0].communicate(timeout=90)
        assert job.processes[0].returncode == 1
        assert err.splitlines()[-1].startswith("elman: rank 1 did nothing for 40 s while the others waited")
        job.processes[1].kill()


@pytest.mark.parametrize(
    ("point", "time"), [pytest.param("checkpoint.file-written", 8, marks=LATER), ("checkpoint.renamed", 3)]
)
def test_r03_the_first_rank_is_killed_amid_a_save(text, alone, tmp_path, point, time):
    folder = tmp_path / "run"
    program = f"""
import os, signal, sys
from unittest import mock
from tests.faults import child, disks
rank = os.environ["RANK"]
disk = disks.KillingDisk({point!r}, time={time}) if rank == "0" else disks.WatchedDisk()
with child.saving_by_steps(), mock.patch("elman.files.disk", disk):
    from elman.cli import main
    main(sys.argv[1:])
"""
    done = run_ranks(["-c", program, *training(text, folder)])
    assert done[0].returncode == -signal.SIGKILL, done[0].stderr
    assert done[1].returncode == 1
    assert "rank 0" in done[1].stderr.splitlines()[-1]
    assert run(["train", "--resume", str(folder), "-q"]) == 0
    assert_same_training(folder, alone)


# ---- ranks that do not fit ------------------------------------------------------------------------------


def test_r04_ranks_with_other_settings_are_refused(text, tmp_path):
    own = [{"ELMAN_LOCKED_DROPOUT": "true"}, {"ELMAN_LOCKED_DROPOUT": "false"}]
    done = run_ranks(["-m", "elman", *training(text, tmp_path / "run")], 2, own)
    assert [each.returncode for each in done] == [4, 4]
    said = "".join(each.stderr for each in done)
    assert "the ranks differ in settings" in said
    assert "Traceback" not in said


def test_r04_ranks_with_other_commands_are_refused(text, alone, tmp_path):
    program = """
import os, sys
sys.argv[1:] = sys.argv[1:3] if os.environ["RANK"] == "0" else sys.argv[3:]
from elman.cli import main
main()
"""
    done = run_ranks(["-c", program, "eval", alone, *training(text, tmp_path / "run")])
    assert [each.returncode for each in done] == [4, 4]
    (said,) = "".join(each.stderr for each in done).splitlines()
    assert said.startswith(f"elman: the ranks differ in the command: eval {alone} on rank 0, train {text}")
    assert not (tmp_path / "run").exists()


@LATER
def test_r04_what_is_for_one_process_is_refused(text, tmp_path):
    done = run_ranks(["-m", "elman", *training(text, tmp_path / "run", row_sparse=True)])
    assert [each.returncode for each in done] == [4, 4]
    assert "row_sparse is for one process, and these are 2" in "".join(each.stderr for each in done)


@LATER
def test_r04_streams_that_cannot_be_dealt_are_refused(text, tmp_path):
    done = run_ranks(["-m", "elman", *training(text, tmp_path / "run", batch_size=5)])
    assert [each.returncode for each in done] == [4, 4]
    assert "batch_size (5) streams cannot be dealt to 2 ranks" in "".join(each.stderr for each in done)
    assert not (tmp_path / "run").exists()


# ---- numbers that are not finite on one rank --------------------------------------------------------------


def test_r07_a_nan_on_one_rank_is_left_out_by_all(text, tmp_path):
    folder = tmp_path / "run"
    program = """
import os, sys
from unittest import mock
import torch
from tests.faults import child
loop = child.part("train.loop")
real, calls = loop.to_inputs, []

def spoil(*given, **named):
    inputs = real(*given, **named)
    calls.append(1)
    bad = os.environ["RANK"] == "1" and len(calls) == 9
    return inputs._replace(targets_counted=inputs.targets_counted * float("nan")) if bad else inputs

step = child.part("train.step")
take_step, map_state = step.EagerStep.__call__, child.part("models.base").map_state

def spoil_state(self, inputs, state):
    outcome = take_step(self, inputs, state)
    if os.environ["RANK"] == "1" and len(calls) == 12:
        second = torch.tensor([1])
        spoilt = map_state(lambda leaf: leaf.index_fill(0, second, float("nan")), outcome.state)
        return outcome._replace(state=spoilt)
    return outcome

with (
    child.saving_by_steps(),
    mock.patch.object(loop, "to_inputs", spoil),
    mock.patch.object(step.EagerStep, "__call__", spoil_state),
):
    from elman.cli import main
    main(sys.argv[1:])
"""
    done = run_ranks(["-c", program, *training(text, folder)])
    assert [each.returncode for each in done] == [0, 0], done[0].stderr
    events = read_metrics(folder / "events.jsonl")
    assert [(event["step"], event["event"]) for event in events] == [
        (9, "step is not finite"),
        (12, "state is not finite"),
    ]
    assert events[1]["streams"] == [3]  # of the whole job: the second of the second rank
    assert load(folder).generate(max_tokens=3)
    assert final_nats(folder) < float("inf")


@LATER
def test_r06_scores_are_those_of_one_process_whatever_the_ranks(text, alone, capfd):
    assert run(["eval", str(alone), str(text), "--json"]) == 0
    one = capfd.readouterr().out
    for ranks in (2, 3):
        done = run_ranks(["-m", "elman", "eval", alone, text, "--json"], ranks)
        assert [each.returncode for each in done] == [0] * ranks, done[0].stderr
        assert done[0].stdout == one
        assert all(each.stdout == "" for each in done[1:])
