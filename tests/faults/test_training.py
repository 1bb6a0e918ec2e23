"""A training is stopped, starved, poisoned, moved and taken up again with other settings; nothing of it is lost."""

import errno
import io
import json
import os
import re
import resource
import shlex
import shutil
import signal
import sys
import time
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import torch

from elman.data.prepare import prepare
from elman.errors import InputError
from elman.models.base import map_state
from elman.ranks import Ranks
from elman.settings import from_toml
from elman.train.checkpoint import POINTS, Checkpoints
from elman.train.fit import make_loader
from elman.train.lock import run_lock
from elman.train.machine import seed_rank
from elman.train.metrics import read_metrics
from tests.faults.child import at_call, at_step, both, on, part, send
from tests.faults.disks import FailingDisk, KillingDisk, WatchedDisk
from tests.faults.small_training import outcome, small
from tests.faults.sweep import cases
from tests.small_run import TEXT
from tests.switches import torch_as_before  # noqa: F401 - autouse

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork, and no signals, on this system")

kill = partial(send, signal.SIGKILL)


@pytest.fixture(scope="module")
def alone(nursery, tmp_path_factory):
    """What a training that is left alone comes to."""
    run = Run(nursery, tmp_path_factory.mktemp("alone"))
    run.train()
    return run.outcome


class Run:
    """The small training in a folder of its own.

    Args:
        nursery: Where its processes come from.
        folder: Where they work; the run itself is in `run`.
        given: Other settings.
    """

    def __init__(self, nursery, folder: Path, **given) -> None:
        self.nursery, self.base, self.folder = nursery, folder, folder / "run"
        self.settings = small(**given)
        (folder / "text.txt").write_text(TEXT)

    def train(self, *, code: int = 0, **how):
        """Begin it."""
        return self.call(["train", "text.txt", "--out", "run", *self.settings], code=code, **how)

    def resume(self, *given, code: int = 0, **how):
        """Go on with it."""
        return self.call(["train", "--resume", "run", *given], code=code, **how)

    def call(self, arguments, *, code: int = 0, **how):
        ended = self.nursery.run(arguments, folder=self.base, **how)
        assert ended.code == code, ended.err
        if code > 0:
            assert "Traceback" not in ended.err
            assert ended.err.count("\nelman: ") + ended.err.startswith("elman: ") == 1, ended.err
        return ended

    @property
    def outcome(self) -> dict[str, object]:
        return outcome(self.folder)

    @property
    def newest(self):
        return Checkpoints(self.folder / "checkpoints", warn=pytest.fail).newest()

    @property
    def records(self) -> list[dict[str, object]]:
        return read_metrics(self.folder / "metrics.jsonl")

    @property
    def events(self) -> list[dict[str, object]]:
        return read_metrics(self.folder / "events.jsonl")

    def named(self, event: str) -> list[dict[str, object]]:
        return [found for found in self.events if found["event"] == event]

    @property
    def files(self) -> dict[str, bytes]:
        return {
            str(path.relative_to(self.folder)): path.read_bytes()
            for path in sorted(self.folder.rglob("*"))
            if path.is_file()
        }


@pytest.fixture
def run(nursery, tmp_path):
    return Run(nursery, tmp_path)


# ---- somebody stops it ------------------------------------------------------------------------------------


@cases("step", [1, 18, 20, 40], 18)
def test_t04_sigterm(run, alone, step):
    ended = run.train(fault=partial(at_step, step, partial(send, signal.SIGTERM)), code=143)
    assert ended.error == f"elman: stopped by SIGTERM after step {step}; go on with: elman train --resume run"
    assert run.newest.step == step
    assert not (run.folder / "result.json").exists()
    run.resume()
    assert run.outcome == alone


def test_t05_ctrl_c_once(run, alone):
    ended = run.train(fault=partial(at_step, 18, partial(send, signal.SIGINT)), code=130)
    assert "SIGINT: finishing the step and saving (Ctrl-C again stops at once)" in ended.err
    assert run.newest.step == 18
    printed = ended.error.partition("go on with: elman ")[2]
    run.call(shlex.split(printed))
    assert run.outcome == alone


def test_t05_ctrl_c_twice(run, alone):
    ended = run.train(fault=partial(at_step, 18, partial(send, signal.SIGINT, signal.SIGINT)), code=130)
    assert ended.error == "elman: interrupted"
    assert run.newest.step == 15
    run.resume()
    assert run.outcome == alone


class ImpatientDisk(KillingDisk):
    """Ctrl-C twice."""

    def _count(self) -> None:
        super()._count()
        if self._left == 0:
            send(self._number)


def test_t05_ctrl_c_twice_amid_a_save(run, alone):
    disk = ImpatientDisk("checkpoint.file-written", time=20, number=signal.SIGINT)
    assert run.train(fault=on(disk), code=130).error == "elman: interrupted"
    assert run.newest.step == 10
    assert not list(run.folder.rglob(".*"))
    run.resume()
    assert run.outcome == alone


@cases("point", POINTS, *POINTS[4::9])
def test_t06_sigterm_during_a_save(run, alone, point):
    ended = run.train(fault=on(KillingDisk(point, time=3, number=signal.SIGTERM)), code=143)
    assert "SIGTERM: finishing the step and saving" in ended.err
    saved = run.newest.step
    assert f"after step {saved};" in ended.error
    assert len(list((run.folder / "checkpoints").iterdir())) == min(2, 1 + saved // 5 + bool(saved % 5))
    run.resume()
    assert run.outcome == alone


def test_t06_sigterm_during_the_last_save(run, alone):
    last = KillingDisk("checkpoint.start", time=10, number=signal.SIGTERM)
    assert "after step 40;" in run.train(fault=on(last), code=143).error
    run.resume()
    assert run.outcome == alone


def lose_terminal(step: int, *, ignored: bool = False):
    """A terminal of its own for this process, which is gone at that step.

    Args:
        step: When.
        ignored: The signal that tells of it is, and what is printed goes to files, as under `nohup`.
    """
    import fcntl
    import pty
    import termios

    screen, terminal = pty.openpty()
    watcher = os.fork()
    if watcher == 0:  # the terminal's program: it shows what is written, until it is killed
        os.close(terminal)
        while os.read(screen, 4096):
            pass
    os.close(screen)
    os.setsid()
    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
    for stream in (0,) if ignored else (0, 1, 2):
        os.dup2(terminal, stream)
    os.close(terminal)
    if ignored:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def close() -> None:
        os.kill(watcher, signal.SIGKILL)
        os.waitpid(watcher, 0)

    return at_step(step, close)


def test_t07_the_terminal_is_closed(run, alone):
    arguments = ["train", "text.txt", "--out", "run", *run.settings]
    ended = run.nursery.run(arguments, folder=run.base, fault=partial(lose_terminal, 18))
    assert ended.code == 129
    assert run.newest.step == 18
    run.resume()
    assert run.outcome == alone


def test_t07_the_terminal_is_closed_under_nohup(run, alone):
    run.train(fault=partial(lose_terminal, 18, ignored=True))
    assert run.outcome == alone


def break_stderr(step: int):
    """From that step on, nobody reads it."""
    reading, writing = os.pipe()
    os.dup2(writing, 2)
    os.close(writing)
    return at_step(step, partial(os.close, reading))


@cases("step", [1, 18], 18)
def test_t07_stderr_is_closed(run, alone, step):
    run.train(fault=partial(break_stderr, step))
    assert run.outcome == alone


@contextmanager
def sleep_at(step: int, run: Path):
    """Stopped at that step; a guard continues it when it has seen that nobody else can have the run."""
    pid = os.fork()
    if pid:
        _, status = os.waitpid(pid, os.WUNTRACED)
        held = False
        try:
            with run_lock(run):
                pass
        except InputError:
            held = os.WIFSTOPPED(status)
        os.kill(pid, signal.SIGCONT)
        _, status = os.waitpid(pid, 0)
        os._exit(os.waitstatus_to_exitcode(status) if held else 98)
    with at_step(step, partial(send, signal.SIGSTOP)):
        yield


def test_t08_stopped_and_continued(run, alone):
    run.train(fault=partial(sleep_at, 18, run.folder))
    assert run.outcome == alone


# ---- numbers that are none --------------------------------------------------------------------------------


@contextmanager
def in_forward(steps: list[int], change):
    """Change the nats of those forward passes, counted from 1 in this process."""
    module = part("train.step").LossModule
    forward, passes = module.forward, 0

    def changed(self, *arguments):
        nonlocal passes
        passes += 1
        nats, state = forward(self, *arguments)
        return (change(nats) if passes in steps else nats), state

    with mock.patch.object(module, "forward", changed):
        yield


def times(number: float, nats: torch.Tensor) -> torch.Tensor:
    """So many times as much."""
    return nats * number


def infinite_gradient(nats: torch.Tensor) -> torch.Tensor:
    """The same, with an infinite gradient."""
    nats.register_hook(lambda gradient: gradient * float("inf"))
    return nats


ILL = {"not a number": partial(times, float("nan")), "infinite gradient": infinite_gradient}


def no_update(nursery, folder: Path, ill, given: dict[str, str]) -> None:
    """The step of which nothing came leaves weights and moments as they were, to the bit."""
    (folder / "short").mkdir()
    (folder / "long").mkdir()
    same = {"schedule": "constant", "warmup": 0, "validations": 1} | given
    short = Run(nursery, folder / "short", max_steps=10, **same)
    long = Run(nursery, folder / "long", max_steps=11, **same)
    short.train()
    long.train(fault=partial(in_forward, [11], ill))
    assert long.newest.step == 11
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert long.newest.files[name] == short.newest.files[name], name
    (event,) = long.events
    assert (event["step"], event["event"]) == (11, "step is not finite")


KINDS = cases("given", [{}, {"row_sparse": "true"}], {"row_sparse": "true"}, ids=["dense", "rows"])


@KINDS
def test_t09_a_loss_that_is_not_a_number_changes_nothing(nursery, tmp_path, given):
    no_update(nursery, tmp_path, ILL["not a number"], given)


@KINDS
def test_t10_an_infinite_gradient_changes_nothing(nursery, tmp_path, given):
    no_update(nursery, tmp_path, ILL["infinite gradient"], given)


@cases("ill", ILL.values(), next(iter(ILL.values())), ids=list(ILL))
def test_t09_many_bad_steps_go_back_once(run, ill):
    ended = run.train(fault=partial(in_forward, range(17, 21), ill))
    assert "going back to step 15, with 0.5 of the learning rate" in ended.err
    (event,) = run.named("went back")
    assert (event["step"], event["to"]) == (20, 15)
    assert run.outcome["step"] == 40
    assert run.outcome["trainer.json"]["ease"] == 0.5
    steps = [record["step"] for record in run.records if "loss" in record]
    assert steps == sorted(set(steps))


def test_t09_what_stays_bad_ends_with_a_diagnosis(run):
    ended = run.train(fault=partial(in_forward, range(17, 999), ILL["not a number"]), code=7)
    assert re.search(
        r"step \d+: 4 of the last \d+ steps were not finite .*; lower learning_rate", ended.error
    )
    found = json.loads((run.folder / "diverged.json").read_bytes())
    assert {"step", "error", "next_batch", "weights", "bad"} <= set(found)
    assert not any(weight["not_finite"] for weight in found["weights"].values())
    assert run.newest.step < 20
    run.resume()
    assert run.outcome["step"] == 40


@contextmanager
def poke(step: int, stream: int, *, whole: bool):
    """Make the carried state of a stream not a number; if `whole`, that of no text instead."""
    module = part("train.loop")
    real = module.Guard.__call__

    def poked(self, at, outcome, cursor):
        loss, norm, state = outcome
        if at == step:
            fresh = self._model.initial_state(3)
            ill = map_state(lambda tensor: torch.full_like(tensor, float("nan")), fresh)
            rows = torch.arange(3) == stream
            state = map_state(
                lambda now, new: torch.where(rows.view(-1, *[1] * (now.dim() - 1)), new, now),
                state,
                fresh if whole else ill,
            )
        return real(self, at, type(outcome)(loss, norm, state), cursor)

    with mock.patch.object(module.Guard, "__call__", poked):
        yield


@cases("cell", ["lstm", "slstm", "mingru"], "lstm")
def test_t11_a_stream_that_is_not_a_number_begins_afresh(nursery, tmp_path, cell):
    outcomes = []
    for whole in (False, True):
        folder = tmp_path / str(whole)
        folder.mkdir()
        run = Run(nursery, folder, cell=cell)
        run.train(fault=partial(poke, 18, 1, whole=whole))
        lost = [{"step": 18, "event": "state is not finite", "streams": [1]}]
        assert run.named("state is not finite") == ([] if whole else lost)
        outcomes.append(run.outcome)
    assert outcomes[0] == outcomes[1]


@contextmanager
def remember(step: int, change, to: Path):
    """Change the nats of a step and write what it was given, as JSON."""
    module = part("train.step").EagerStep
    real, steps = module.__call__, 0

    def remembering(self, inputs, state):
        nonlocal steps
        steps += 1
        if steps == step:
            to.write_text(json.dumps([inputs.tokens.tolist(), inputs.targets.tolist()]))
        return real(self, inputs, state)

    with mock.patch.object(module, "__call__", remembering), in_forward([step], change):
        yield


def test_t12_a_loss_that_jumps_names_its_batch(nursery, tmp_path):
    run = Run(nursery, tmp_path, max_steps=90)
    run.train(fault=partial(remember, 70, partial(times, 30.0), tmp_path / "batch"))
    (event,) = run.named("loss spike")
    assert event["step"] == 70
    assert event["loss"] > event["mean"] + 6 * event["deviation"]
    config = from_toml(run.folder / "config.toml")
    loader = make_loader(config, prepare(replace(config.data, corpus=str(tmp_path / "text.txt"))))
    loader.load_state_dict(event["batch"])
    batch = next(iter(loader))
    assert [batch.inputs.tolist(), batch.targets.tolist()] == json.loads((tmp_path / "batch").read_text())


# ---- memory -----------------------------------------------------------------------------------------------


@contextmanager
def out_of_memory(passes: list[int], kind: type[Exception], message: str):
    """In those forward passes."""
    module = part("train.step").LossModule
    forward, done = module.forward, 0

    def fail(self, *arguments):
        nonlocal done
        done += 1
        if done in passes:
            raise kind(message)
        return forward(self, *arguments)

    with mock.patch.object(module, "forward", fail):
        yield


KINDS_OF_MEMORY = {
    "accelerator": (torch.OutOfMemoryError, "CUDA out of memory. Tried to allocate 2.00 GiB"),
    "python": (MemoryError, ""),
    "processor": (
        RuntimeError,
        "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory",
    ),
}


@cases("kind", KINDS_OF_MEMORY, "accelerator")
def test_t13_out_of_memory_once(run, alone, kind):
    ended = run.train(fault=partial(out_of_memory, [18], *KINDS_OF_MEMORY[kind]))
    assert "out of memory: batches are learnt from in 2 parts from here on" in ended.err
    nats, expected = (found["result"]["valid"]["nats"] for found in (run.outcome, alone))
    assert nats == pytest.approx(expected, rel=1e-3)
    assert run.outcome["files"]["model.safetensors"] != alone["files"]["model.safetensors"]


@cases("kind", KINDS_OF_MEMORY, "processor")
def test_t13_out_of_memory_for_good(run, alone, kind):
    ended = run.train(fault=partial(out_of_memory, range(18, 99), *KINDS_OF_MEMORY[kind]), code=6)
    assert ended.error == "elman: out of memory in a step; give a smaller batch_size, bptt or hidden_size"
    assert run.newest.step == 15
    run.resume()
    assert run.outcome == alone


def little_memory(step: int):
    """From that step on this process may have 32 MB more than it has."""

    def limit() -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + 2**25
        resource.setrlimit(resource.RLIMIT_AS, (most, most))

    return at_step(step, limit)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the size of a process is not told here")
def test_t13_a_real_limit_of_memory(nursery, tmp_path):
    large = {"batch_size": 256, "bptt": 64, "hidden_size": 256, "max_steps": 3}
    run = Run(nursery, tmp_path, **large)
    (tmp_path / "text.txt").write_text(TEXT * 30)
    ended = run.train(fault=partial(little_memory, 1), code=6)
    assert ended.error == "elman: out of memory in a step; give a smaller batch_size, bptt or hidden_size"
    assert run.newest.step == 0


def test_t14_the_step_after_a_killed_save_is_as_for_any_kill(run, alone):
    """The kernel's killer sends SIGKILL, and mostly when memory is asked for, as it is to pack a checkpoint."""
    run.train(fault=partial(at_call, "train.snapshot", "_pack", 17, kill), code=-signal.SIGKILL)
    assert run.newest.step == 10
    run.resume()
    assert run.outcome == alone


# ---- records ----------------------------------------------------------------------------------------------


@cases(
    "torn",
    [b'{"step": 19, "lo', b'{"step": 16}\n{"step": 17}\n{"st', b"\x00" * 40],
    b'{"step": 19, "lo',
    ids=["half", "more", "zeros"],
)
def test_t18_metrics_with_a_torn_end(run, alone, torn):
    run.train(fault=partial(at_step, 18, kill), code=-signal.SIGKILL)
    with (run.folder / "metrics.jsonl").open("ab") as file:
        file.write(torn)
    run.resume()
    assert run.outcome == alone


def test_t18_metrics_that_were_cut(run, alone):
    run.train(fault=partial(at_step, 38, kill), code=-signal.SIGKILL)
    path = run.folder / "metrics.jsonl"
    os.truncate(path, path.stat().st_size // 2)
    run.resume()
    found, expected = run.outcome, alone
    assert found["files"] == expected["files"]
    assert all(record in expected["metrics"] for record in found["metrics"])


class FullFile(io.FileIO):
    """Half of what is written to it finds room."""

    def write(self, content) -> int:
        super().write(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def full_for(name: str):
    """The disk is full for the records in that file."""

    def open_it(path, mode, **how):
        return FullFile(path, "ab+") if path.name == name else open(path, mode, **how)

    return mock.patch.object(part("train.metrics"), "open", open_it, create=True)


@cases("name", ["metrics.jsonl", "events.jsonl"], "metrics.jsonl")
def test_s02_training_the_disk_is_full_for_records_only(run, alone, name):
    run.train(fault=partial(at_step, 18, kill), code=-signal.SIGKILL)
    ended = run.resume(fault=partial(full_for, name))
    assert ended.err.count("metrics are being lost, training goes on: No space left on device") == 1
    assert "Warning" not in ended.err
    assert run.outcome["files"] == alone["files"]
    assert all(record in alone["metrics"] for record in run.outcome["metrics"])


def broken_tensorboard(error: Exception):
    """A package that can be imported and cannot be used."""

    class SummaryWriter:
        def __init__(self, folder: str) -> None:
            pass

        def add_scalar(self, *_: object) -> None:
            raise error

        def close(self) -> None:
            raise error

    package = SimpleNamespace(SummaryWriter=SummaryWriter)
    return mock.patch.dict(sys.modules, {"torch.utils.tensorboard": package})


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), ValueError("odd")], ids=["disk", "other"]
)
def test_t17_a_sink_that_raises(nursery, alone, tmp_path, error):
    run = Run(nursery, tmp_path, tensorboard="true")
    ended = run.train(fault=partial(broken_tensorboard, error))
    assert ended.err.count("TensorBoard events are being lost, training goes on") == 1
    assert run.outcome["files"] == alone["files"]
    assert run.outcome["metrics"] == alone["metrics"]


@contextmanager
def no_other_process():
    """An error where this process is forked, or starts one that shares its work."""

    def look(event: str, arguments: tuple[object, ...]) -> None:
        if event in ("os.fork", "os.forkpty"):
            raise RuntimeError(event)

    sys.addaudithook(look)
    with mock.patch.object(BaseProcess, "start", side_effect=RuntimeError):
        yield


def test_t15_no_worker_loads_batches(run, alone):
    """They are made in the process that learns from them: there is no other one that could die or hang."""
    run.train(fault=no_other_process)
    assert run.outcome == alone


def test_t16_nothing_is_forked_beside_the_threads_of_a_tokenizer(nursery, tmp_path):
    run = Run(nursery, tmp_path, tokenizer="bpe", vocab_size=300)
    run.train(fault=no_other_process, TOKENIZERS_PARALLELISM="true", RAYON_NUM_THREADS=2)
    assert run.newest.step == 40


# ---- taken up again, with other settings -------------------------------------------------------------------


REFUSED = {
    "model.cell": ("--cell", "gru"),
    "model.hidden_size": ("--hidden-size", 16),
    "model.num_layers": ("--num-layers", 2),
    "model.family": ("--model", "transformer"),
    "model.dropout": ("--dropout", 0.5),
    "data.tokenizer": ("--tokenizer", "char"),
    "data.documents": ("--documents", "file"),
    "training.batch_size": ("--batch-size", 4),
    "training.bptt": ("--bptt", 16),
    "training.batches": ("--batches", "documents"),
    "training.seed": ("--seed", 1),
    "training.loss": ("--loss", "sampled"),
    "optimizer.beta1": ("--beta1", 0.8),
    "optimizer.row_sparse": ("--row-sparse", "true"),
}

ALLOWED = {
    "optimizer.learning_rate": ("--learning-rate", 0.001),
    "optimizer.schedule": ("--schedule", "constant"),
    "optimizer.clip_norm": ("--clip-norm", 0.5),
    "training.max_steps": ("--max-steps", 30),
    "training.accumulate": ("--accumulate", 2),
    "training.checkpoints_kept": ("--checkpoints-kept", 4),
    "training.validations": ("--validations", 2),
    "training.yardstick_order": ("--yardstick-order", 2),
}


@pytest.fixture(scope="module")
def killed(nursery, tmp_path_factory):
    """A run that was killed, to be copied."""
    run = Run(nursery, tmp_path_factory.mktemp("killed"))
    run.train(fault=partial(at_step, 18, kill), code=-signal.SIGKILL)
    return run.base


@pytest.fixture
def left(nursery, killed, tmp_path):
    """A run that was killed after step 18."""
    shutil.copytree(killed, tmp_path / "left")
    return Run(nursery, tmp_path / "left")


def test_t19_another_model_or_text_is_refused(left, count):
    before = left.files
    for name, words in REFUSED.items():
        error = left.resume(*words, code=4).error
        assert f"cannot be changed in a run: {name} (" in error, error
        assert f"{words[1]} given".lower() in error.lower()
        assert error.endswith("; leave it out, or start a new run")
    error = left.resume(*REFUSED["model.cell"], *REFUSED["training.seed"], code=4).error
    assert "model.cell (lstm in the run, gru given), training.seed (0 in the run, 1 given)" in error
    assert left.files == before
    count(len(REFUSED) + 1)


def test_t19_a_text_that_changed_is_refused(left):
    before = left.files
    (left.base / "text.txt").write_text(TEXT.replace("small", "large"))
    error = left.resume(code=4).error
    assert re.search(
        r"the text is not that of the run: SHA-256 [0-9a-f]{16}... here, [0-9a-f]{16}... there", error
    )
    assert {name: data for name, data in left.files.items() if name != "run.lock"} == {
        name: data for name, data in before.items() if name != "run.lock"
    }


def test_t19_a_tokenizer_that_changed_is_refused(nursery, alone, tmp_path):
    first = Run(nursery, tmp_path)
    first.train()
    tokenizer = tmp_path / "tokenizer.json"
    shutil.copy(first.folder / "model" / "tokenizer.json", tokenizer)
    shutil.rmtree(first.folder)
    run = Run(nursery, tmp_path, tokenizer=tokenizer)
    run.train(fault=partial(at_step, 18, kill), code=-signal.SIGKILL)
    run.call(["train", "text.txt", "--out", "other", *small(tokenizer="char")])
    shutil.copy(tmp_path / "other" / "model" / "tokenizer.json", tokenizer)
    assert "the tokenizer is not that of the run" in run.resume(code=4).error


@cases("name", ALLOWED, "optimizer.learning_rate", "training.max_steps")
def test_t20_what_may_change_is_taken_and_said(left, alone, name):
    ended = left.resume(*ALLOWED[name])
    before = {found: value for _, found, value in changes_said(ended.err)}
    assert before.keys() == {name}
    (event,) = left.named("resumed")
    assert event["step"] == 15
    assert event["changes"].keys() == {name}
    assert left.outcome["config"] != alone["config"]
    assert left.newest.step == (30 if name == "training.max_steps" else 40)


def changes_said(err: str) -> list[tuple[str, str, str]]:
    """Of `NAME: VALUE (was OLD)`."""
    return re.findall(r"(?m)^((\w+\.\w+): (.*) \(was .*\))$", err)


def threads(number: int):
    """So many."""
    torch.set_num_threads(number)
    return nullcontext()


ELSEWHERE = {
    "threads 2 here and 1 there": partial(threads, 2),
    "torch 9.9.9 here": partial(mock.patch, "torch.__version__", "9.9.9"),
    "instructions abacus here": partial(
        mock.patch, "torch.backends.cpu.get_cpu_capability", return_value="abacus"
    ),
}


@cases("told", ELSEWHERE, "torch 9.9.9 here")
def test_t21_another_machine(left, alone, told):
    before = left.files
    refused = left.resume("--strict-resume", code=4, fault=ELSEWHERE[told])
    assert told in refused.error
    assert refused.error.endswith("; leave --strict-resume out to accept")
    assert {**left.files, "run.lock": b""} == {**before, "run.lock": b""}
    warned = left.resume(fault=ELSEWHERE[told])
    assert re.search(f"warning: the run may not go on to the bit: .*{told}", warned.err)


def test_t21_the_same_machine_is_no_difference(left, alone):
    ended = left.resume("--strict-resume")
    assert "warning" not in ended.err
    assert left.outcome == alone


def test_t22_a_finished_run_is_left_alone(nursery, tmp_path):
    run = Run(nursery, tmp_path, schedule="constant")
    run.train()
    before = run.files
    for given in ([], ["--json"]):
        ended = run.resume(*given)
        assert "run is finished, after 40 steps: nothing to do" in ended.err
        assert run.files == before
    assert json.loads(ended.out)["steps"] == 40
    more = ended.err.strip().partition("more of it: elman ")[2]
    run.call(shlex.split(more))
    assert run.newest.step == 80


def test_t22_a_finished_run_goes_on_with_more_steps(nursery, tmp_path):
    """With a schedule that does not look at the end, as if it had been meant to be so long; also where it is killed."""
    outcomes = []
    for name in ("long", "short"):
        (tmp_path / name).mkdir()
        run = Run(
            nursery, tmp_path / name, schedule="constant", warmup=0, max_steps=60 if name == "long" else 40
        )
        run.train()
        if name == "short":
            kill_it = partial(at_step, 52, kill)
            run.resume("--max-steps", 60, fault=kill_it, code=-signal.SIGKILL)
            assert not (run.folder / "result.json").exists()
            run.resume()
        outcomes.append(run.outcome)
    for name in ("model.safetensors", "optimizer.safetensors", "lanes.safetensors", "rng.safetensors"):
        assert outcomes[0]["files"][name] == outcomes[1]["files"][name], name


# ---- time, place, company ----------------------------------------------------------------------------------


@contextmanager
def jumping_clock():
    """The time of day jumps by days, back and forth; clocks that only go on are not touched."""
    real, calls = time.time, 0

    def jump() -> float:
        nonlocal calls
        calls += 1
        return real() + 86_400 * (-1) ** calls * calls

    with mock.patch("time.time", jump):
        yield


def test_t23_the_clock_jumps(run, alone):
    kill_it = partial(both, jumping_clock, partial(at_step, 18, kill))
    run.train(fault=kill_it, code=-signal.SIGKILL)
    older, newer = sorted((run.folder / "checkpoints").iterdir())
    os.utime(older, (2e9, 2e9))
    os.utime(newer, (1e9, 1e9))
    ended = run.resume(fault=jumping_clock)
    assert "going on from step 15" in ended.err
    assert run.outcome == alone
    assert all(record["seconds"] >= 0 for record in run.records)


def test_t24_two_runs_in_one_folder(left, alone):
    lock = left.folder / "run.lock"
    assert lock.exists(), "the killed one left it"
    before = left.files
    with run_lock(left.folder):
        error = left.resume(code=4).error
    assert f"another run writes here: process {os.getpid()} on " in error
    assert {**left.files, "run.lock": b""} == {**before, "run.lock": b""}
    left.resume()
    assert left.outcome == alone
    assert not lock.exists()


@cases("step", [1, 12, 18, 20, 40], 20)
def test_t25_the_folder_is_moved_away(run, alone, step, tmp_path):
    (tmp_path / "kept here").mkdir()
    move = partial(os.rename, run.folder, tmp_path / "elsewhere")
    ended = run.train(fault=partial(at_step, step, move), code=4, TMPDIR=tmp_path / "kept here")
    assert "was moved or removed under the training; what it learnt is kept" in ended.error
    assert not run.folder.exists()
    run.call(shlex.split(ended.error.partition("is kept: elman ")[2]))
    (kept,) = (tmp_path / "kept here").iterdir()
    found = outcome(kept)
    for name in ("files", "model", "config", "trainer.json"):
        assert found[name] == alone[name], name
    run.call(["train", "--resume", tmp_path / "elsewhere"])
    assert outcome(tmp_path / "elsewhere") == alone


def test_t25_the_folder_is_removed(run, alone, tmp_path):
    (tmp_path / "kept here").mkdir()
    remove = partial(shutil.rmtree, run.folder)
    ended = run.train(fault=partial(at_step, 18, remove), code=4, TMPDIR=tmp_path / "kept here")
    run.call(shlex.split(ended.error.partition("is kept: elman ")[2]))
    (kept,) = (tmp_path / "kept here").iterdir()
    assert outcome(kept)["model"] == alone["model"]


def test_t26_every_rank_draws_its_own_numbers():
    def draw(seed: int, rank: int) -> bytes:
        torch.manual_seed(seed)  # as for the weights, which all ranks have alike
        seed_rank(seed, Ranks(rank, 8))
        return torch.randn(64).numpy().tobytes()

    drawn = {(seed, rank): draw(seed, rank) for seed in (0, 1, 2**31) for rank in range(8)}
    assert len(set(drawn.values())) == len(drawn)
    assert drawn == {key: draw(*key) for key in drawn}
    torch.manual_seed(1)
    assert drawn[1, 0] == torch.randn(64).numpy().tobytes(), "the first is a process alone"


def fail_unexpectedly() -> None:
    raise KeyError("that nobody has thought of")


def test_t27_an_unexpected_exception_in_a_step(run, alone):
    ended = run.nursery.run(
        ["train", "text.txt", "--out", "run", *run.settings, "--debug"],
        folder=run.base,
        fault=partial(at_step, 18, fail_unexpectedly),
    )
    assert ended.code == 1
    assert "in fail_unexpectedly\n" in ended.err
    assert run.newest.step == 15
    run.resume()
    assert run.outcome == alone


def test_t28_the_time_is_up(nursery, tmp_path):
    run = Run(nursery, tmp_path, max_time="0.3s")
    at = run.settings.index("--max-steps")
    del run.settings[at : at + 2]
    run.train()
    found, last = run.outcome, run.records[-1]
    assert found["step"] == found["result"]["steps"] == last["step"] > 0
    assert last["seconds"] >= 0.3
    run.resume("--max-time", "0.6s")
    assert run.outcome["step"] > found["step"]


# ---- killed outside the training -----------------------------------------------------------------------------

WHERE = {
    "before the text is prepared": partial(at_call, "train.aloud", "prepare", 1, kill),
    "when the text is prepared": partial(at_call, "train.aloud", "_say_what_was_prepared", 1, kill),
    "before the first checkpoint": on(KillingDisk("checkpoint.start")),
    "in the first checkpoint": on(KillingDisk("checkpoint.manifest-written")),
    "before the held-out text is scored": partial(at_call, "train.run", "TextModel", 1, kill),
    "before the model is saved": partial(at_call, "train.run", "model_card", 1, kill),
    "before the report": partial(at_call, "train.run", "render_report", 1, kill),
}


@cases("where", WHERE, "before the text is prepared", "before the first checkpoint", "before the report")
def test_t01_killed_before_and_after_the_training(run, alone, where):
    for start in (run.train, run.resume):
        start(fault=WHERE[where], code=-signal.SIGKILL)
        assert not (run.folder / "result.json").exists()
    run.resume()
    assert run.outcome == alone


def test_t01_killed_between_the_result_and_the_end(run, alone):
    run.train(fault=partial(at_call, "cli.train", "print_table", 1, kill), code=-signal.SIGKILL)
    before = run.files
    assert "nothing to do" in run.resume().err
    assert run.files == before
    assert run.outcome == alone


def test_t01_killed_while_a_run_is_found_by_itself(run, alone, nursery):
    bare = ["train", "--resume"]
    assert run.call(bare, code=4).error.startswith("elman: runs: no unfinished run there; name one")
    begin = ["train", "text.txt", *run.settings]
    run.call(begin, fault=partial(at_step, 18, kill), code=-signal.SIGKILL)
    run.call(begin)
    (first,) = [path for path in (run.base / "runs").iterdir() if not (path / "result.json").exists()]
    second = run.base / "runs" / "another"
    shutil.copytree(first, second)
    error = run.call(bare, code=4).error
    assert "2 runs are unfinished: " in error
    assert f"runs/{first.name}" in error
    run.call(shlex.split(error.partition("name one: elman ")[2]))
    run.call(bare)
    assert outcome(first) == outcome(second) == alone
    assert "no unfinished run there" in run.call(bare, code=4).error


def test_t01_killed_while_n_grams_are_counted(nursery, tmp_path):
    expected = Run(nursery, tmp_path, model="ngram", order=3)
    expected.train()
    whole = expected.files
    shutil.rmtree(expected.folder)
    for place, name in (("train.aloud", "prepare"), ("train.fit", "count"), ("train.run", "render_report")):
        start = expected.resume if expected.folder.exists() else expected.train
        start(fault=partial(at_call, place, name, 1, kill), code=-signal.SIGKILL)
    expected.resume()
    for name in ("config.toml", "model/model.safetensors", "model/config.json", "model/tokenizer.json"):
        assert expected.files[name] == whole[name], name
    assert expected.files.keys() == whole.keys()


# ---- the disk ----------------------------------------------------------------------------------------------

SHORT = {"max_steps": 6, "validations": 2}
"""Checkpoints at 0, 5, 6 and 6 once more."""


@pytest.fixture(scope="module")
def short(nursery, tmp_path_factory):
    """What the short training comes to, and the calls to the disk on the way."""
    run = Run(nursery, tmp_path_factory.mktemp("short"), **SHORT)
    run.train()
    shutil.rmtree(run.folder)
    run.train(fault=partial(count_calls, run.base / "calls"))
    return run.outcome, int((run.base / "calls").read_text())


@contextmanager
def count_calls(to: Path):
    """Write how many there were."""
    disk = WatchedDisk()
    with mock.patch("elman.files.disk", disk):
        try:
            yield
        finally:
            to.write_text(str(len(disk.calls)))


def anywhere(call: str, path: Path) -> bool:
    """Which pickle can name."""
    return True


def any_call_fails(nursery, folder: Path, short, number: int, every: int, *, lasting: bool = False) -> int:
    """Every so many-th call of a training fails: the error is ours, and a resumed run comes to the same; how many."""
    expected, calls = short
    first = number % every + 1
    for call in range(first, calls + 1, every):
        place = folder / f"{call} {lasting}"
        place.mkdir()
        run = Run(nursery, place, **SHORT)
        ended = nursery.run(
            ["train", "text.txt", "--out", "run", *run.settings],
            folder=place,
            fault=on(FailingDisk(number, call=call, lasting=lasting, where=anywhere)),
        )
        told = f"call {call}: {ended.err}"
        assert ended.code in (0, 4, 6), told
        assert "Traceback" not in ended.err, told
        assert ended.code == 0 or ended.error.startswith("elman: "), told
        if ended.code == 0:
            assert run.outcome["model"] == expected["model"], told  # the last checkpoint may be missing
        elif (run.folder / "config.toml").exists():
            run.resume()
            assert run.outcome == expected, told
        else:
            assert not run.folder.exists() or lasting, told
        shutil.rmtree(place)
    return len(range(first, calls + 1, every))


@cases("lasting", [False, True], True, ids=["once", "lasting"])
def test_s01_training_the_disk_is_full_at_any_call(nursery, tmp_path, short, full, count, lasting):
    count(any_call_fails(nursery, tmp_path, short, errno.ENOSPC, 1 if full else 101, lasting=lasting))


def test_s01_training_the_disk_fails_at_any_call(nursery, tmp_path, short, full, count):
    count(any_call_fails(nursery, tmp_path, short, errno.EIO, 1 if full else 61))


def test_s03_training_any_call_is_forbidden(nursery, tmp_path, short, full, count):
    count(any_call_fails(nursery, tmp_path, short, errno.EACCES, 1 if full else 101))


def test_s01_training_goes_on_when_a_save_fails(run, alone):
    ended = run.train(fault=on(FullFor(3)))
    assert ended.err.count("no checkpoint at step") == 2
    assert run.outcome == alone


class FullFor(WatchedDisk):
    """Full for two checkpoints, or for all that come; the first is written.

    Args:
        until: The checkpoint, counted from 1, that finds room again.
    """

    def __init__(self, until: float) -> None:
        super().__init__()
        self._until, self._checkpoint = until + 1, 0

    def reach(self, point):
        self._checkpoint += point == "checkpoint.start"

    def before(self, call, path):
        if call == "write" and "checkpoints" in path.parts and 1 < self._checkpoint < self._until:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def test_s01_training_ends_when_three_saves_fail(run, alone):
    ended = run.train(fault=on(FullFor(99)), code=6)
    assert "No space left on device" in ended.error
    assert "third attempt, and the checkpoints of before are kept" in ended.error
    assert run.newest.step == 0
    assert not list(run.folder.rglob(".*"))
    run.resume()
    assert run.outcome == alone


@pytest.mark.parametrize(
    ("make", "told"), [(Path.touch, "run: is a file"), (Path.mkdir, "config.toml")], ids=["file", "folder"]
)
def test_s03_training_where_something_is_already(run, make, told):
    make(run.folder)
    assert "exists already" in run.train(code=4).error
    assert told in run.resume(code=4).error
    assert run.folder.is_dir() == (make is Path.mkdir)


def test_s03_training_in_a_folder_that_cannot_be_written(run):
    (run.base / "file").touch()
    error = run.call(["train", "text.txt", *run.settings, "--out", "file/run"], code=4).error
    assert "cannot make this folder: Not a directory; give another --out" in error
