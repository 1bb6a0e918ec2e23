"""Checkpoints outlive a disk that is full, failing, spoilt or cut off, and a process that is killed at any instant."""

import errno
import hashlib
import itertools
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import elman.files
from elman.errors import ElmanError, InputError, ModelError, ResourceError
from elman.files import make_folder, replacing, write_atomically
from elman.train.checkpoint import POINTS, Checkpoints
from elman.train.lock import LOCK, run_lock
from elman.train.manifest import FORMAT, MANIFEST, seal
from tests.faults.cuts import RecordingDisk
from tests.faults.damage import damages
from tests.faults.disks import FAILURES, READS, FailingDisk, WatchedDisk

FULL = (errno.ENOSPC, errno.EDQUOT)


def contents(step: int) -> dict[str, bytes]:
    """What the checkpoint of a step holds."""
    return {
        "weights": bytes([step % 256, 255 - step % 256]) * 24,
        "trainer.json": b'{"step": %d}\n' % step,
        "empty": b"",
    }


def make_run(folder: Path, *steps: int) -> Path:
    """A run folder with these checkpoints."""
    folder.mkdir()
    store = Checkpoints(folder / "checkpoints", keep=len(steps) or 1)
    for step in steps:
        store.write(step, contents(step), {"step": step})
    return folder


class Run:
    """The checkpoints of a run folder, and what was said of them."""

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.warned: list[str] = []
        self.folder = folder / "checkpoints"
        self.store = Checkpoints(self.folder, keep=keep, warn=self.warned.append)

    def write(self, step: int) -> Path:
        return self.store.write(step, contents(step), {"step": step})

    def newest(self) -> int | None:
        """The step of the newest sound checkpoint; it holds what it should."""
        found = self.store.newest()
        assert found is None or (found.files, found.facts) == (contents(found.step), {"step": found.step})
        return found.step if found else None

    @property
    def names(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())


def names_of(*steps: int) -> list[str]:
    return [f"step-{step:08d}" for step in steps]


def cause_of(error: BaseException) -> OSError:
    """What the system said."""
    while error.__cause__:
        error = error.__cause__
    return error


# ---- a disk that fails ----------------------------------------------------------------------------------


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "lasting"])
@pytest.mark.parametrize("number", FAILURES, ids=errno.errorcode.get)
def test_s01_any_call_of_a_save_fails(tmp_path, monkeypatch, full, count, number, lasting):
    base = make_run(tmp_path / "base", 1, 2)
    first, stride = (1, 1) if full else (1 + FAILURES.index(number), 4)
    for tried in itertools.count():
        call = first + stride * tried
        run = Run(shutil.copytree(base, tmp_path / str(call)))
        failing = FailingDisk(number, call=call, lasting=lasting)
        with monkeypatch.context() as patch:
            patch.setattr(elman.files, "disk", failing)
            try:
                written = run.write(3)
            except ElmanError as error:
                written = None
                assert error.exit_code in (4, 6)
                assert cause_of(error).errno == number
                if number in FULL and failing.failed[0][0] not in READS:
                    assert isinstance(error, ResourceError)
        assert run.newest() in ((3,) if written else (2, 3)), failing.failed
        assert written or not any(name.startswith(".tmp-") for name in run.names) or lasting, failing.failed
        assert written is None or not failing.failed or run.warned
        run.store.clean()
        assert not [name for name in run.names if name.startswith((".tmp-", ".trash-"))]
        if not failing.failed:
            break
        assert run.write(4)
        assert run.newest() == 4
    assert call > 25
    count(tried)


def test_s01_too_little_room_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    size = sum(map(len, contents(3).values()))

    class Small(WatchedDisk):
        def free(self, path):
            return free

    for free, enough in ((int(2 * size * 1.05) - 1, False), (int(2 * size * 1.05), True)):
        run = Run(make_run(tmp_path / str(free), 1, 2))
        small = Small()
        monkeypatch.setattr(elman.files, "disk", small)
        if enough:
            run.write(3)
        else:
            with pytest.raises(ResourceError, match=f"{free:,} bytes are free.*free some space"):
                run.write(3)
            assert not {call for call, _ in small.calls} - READS
        assert run.newest() == (3 if enough else 2)


@pytest.mark.skipif(sys.platform == "win32", reason="no limit to the size of a file")
def test_s01_a_real_limit_of_the_system(tmp_path):
    """A file that may not grow beyond 64 KiB: the kernel itself refuses the write."""
    base = make_run(tmp_path / "run", 1)
    child = f"""
import resource
from pathlib import Path
from elman.errors import ResourceError
from elman.train.checkpoint import Checkpoints
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
try:
    Checkpoints(Path({str(base / "checkpoints")!r})).write(2, {{"small": b"s", "weights": bytes(100_000)}}, {{}})
except ResourceError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", child], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "File too large; raise the limit on the size of files (ulimit -f)" in done.stdout
    assert Run(base).newest() == 1
    assert Run(base).names == names_of(1)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS], ids=errno.errorcode.get)
def test_s03_a_folder_that_cannot_be_written(tmp_path, monkeypatch, number):
    run = Run(make_run(tmp_path / "run"))
    monkeypatch.setattr(elman.files, "disk", FailingDisk(number, lasting=True))
    for attempt in (
        lambda: run.write(1),
        lambda: make_folder(tmp_path / "other"),
        lambda: write_atomically(tmp_path / "file", "text"),
        lambda: run_lock(tmp_path / "run").__enter__(),
    ):
        with pytest.raises(InputError, match=os.strerror(number)) as caught:
            attempt()
        assert caught.value.exit_code == 4
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert not list((tmp_path / "run").iterdir())


def test_s03_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "run").write_text("mine")
    run = Run(tmp_path / "run")
    for attempt in (lambda: run.write(1), lambda: run_lock(tmp_path / "run").__enter__(), run.newest):
        with pytest.raises(InputError, match="Not a directory"):
            attempt()
    assert (tmp_path / "run").read_text() == "mine"


@pytest.mark.parametrize("call", range(1, 5))
def test_s04_the_newest_cannot_be_read(tmp_path, monkeypatch, call):
    run = Run(make_run(tmp_path / "run", 1, 2))
    failing = FailingDisk(errno.EIO, call=call, where=lambda made, path: made == "read")
    monkeypatch.setattr(elman.files, "disk", failing)
    assert run.newest() == 1
    assert failing.failed[0][1].parent.name == "step-00000002"
    assert run.names == [".corrupt-step-00000002", "step-00000001"]
    assert len(run.warned) == 1
    assert "Input/output error; set aside as .corrupt-step-00000002" in run.warned[0]


def test_s04_nor_set_aside(tmp_path, monkeypatch):
    run = Run(make_run(tmp_path / "run", 1, 2))
    unreadable = FailingDisk(
        errno.EIO, lasting=True, where=lambda call, path: call == "rename" or "00000002" in str(path)
    )
    monkeypatch.setattr(elman.files, "disk", unreadable)
    assert run.newest() == 1
    assert run.names == names_of(1, 2)
    assert "cannot be set aside" in run.warned[0]


@pytest.mark.parametrize("number", [errno.EACCES, errno.EMFILE, errno.ESTALE], ids=errno.errorcode.get)
def test_s04_what_another_attempt_may_read_is_not_given_up(tmp_path, monkeypatch, number):
    run = Run(make_run(tmp_path / "run", 1, 2))
    with monkeypatch.context() as patch:
        patch.setattr(elman.files, "disk", FailingDisk(number, where=lambda made, _: made == "read"))
        with pytest.raises(InputError, match=os.strerror(number)):
            run.newest()
    assert run.newest() == 2
    assert not run.warned


# ---- spoilt files ---------------------------------------------------------------------------------------


def require_found(run_folder: Path, cases) -> int:
    """Spoil the newest checkpoint in each way, look, and mend it; the number of ways."""
    run = Run(run_folder)
    newest = run.folder / "step-00000002"
    sound = {path.name: path.read_bytes() for path in newest.iterdir()}
    number = 0
    for damage in cases:
        damage(newest)
        with pytest.raises(ModelError) as caught:
            Checkpoints.read(newest)
        assert caught.value.exit_code == 5, damage
        assert str(newest) in str(caught.value), damage
        assert "\n" not in str(caught.value), damage
        assert run.newest() == 1, damage
        assert run.names == [".corrupt-step-00000002", "step-00000001"], damage
        assert len(run.warned) == 1, damage
        run.warned.clear()
        (run.folder / ".corrupt-step-00000002").rename(newest)
        (newest / damage.file).write_bytes(sound[damage.file])
        number += 1
    assert run.newest() == 2
    return number


def test_s05_a_file_that_was_cut(tmp_path, full, count):
    base = make_run(tmp_path / "run", 1, 2)
    cuts = [d for d in damages(base / "checkpoints" / "step-00000002", flips=0) if d.kind.startswith("cut")]
    assert {damage.file for damage in cuts} == {"weights", "trainer.json", MANIFEST}
    found = require_found(base, cuts if full else cuts[::3])
    assert found >= (40 if full else 12)
    count(found)


def test_s06_flipped_zeroed_swapped_or_gone(tmp_path, full, count):
    base = make_run(tmp_path / "run", 1, 2)
    flips = 10**6 if full else 12  # every bit, or a dozen a file
    every = [d for d in damages(base / "checkpoints" / "step-00000002", flips=flips) if "cut" not in d.kind]
    assert {damage.file for damage in every} == {*contents(2), MANIFEST}
    for kind in ("flipped", "zeros", "holds what", "gone", "too many"):
        assert any(kind in damage.kind for damage in every)
    found = require_found(base, every)
    assert found >= (2000 if full else 60)
    count(found)


def test_s06_a_file_of_another_checkpoint(tmp_path):
    base = make_run(tmp_path / "run", 1, 2)
    newest, before = (base / "checkpoints" / name for name in names_of(2, 1))
    for name in (*contents(2), MANIFEST):
        if (before / name).read_bytes() == (newest / name).read_bytes():
            continue
        sound = (newest / name).read_bytes()
        shutil.copy(before / name, newest / name)
        with pytest.raises(ModelError, match="damaged"):
            Checkpoints.read(newest)
        (newest / name).write_bytes(sound)
    assert Run(base).newest() == 2


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda folder: (folder / MANIFEST).unlink(), f"{MANIFEST}: No such file"),
        (lambda folder: [path.unlink() for path in folder.iterdir()], f"{MANIFEST}: No such file"),
        (lambda folder: shutil.copy(folder.parent / "step-00000001" / MANIFEST, folder), "is of step 1"),
        (lambda folder: (folder / MANIFEST).write_bytes(b""), "is not as it was written"),
        (lambda folder: (folder / MANIFEST).write_bytes(b"{}"), "is not as it was written"),
        (lambda folder: (folder / MANIFEST).write_bytes(bytes(2**24 + 1)), "more than"),
        (lambda folder: (shutil.rmtree(folder), folder.write_text("a file")), "Not a directory"),
    ],
    ids=["missing", "all-missing", "another-step", "empty", "foreign", "huge", "no-folder"],
)
def test_s07_a_manifest_that_is_none(tmp_path, spoil, why):
    run = Run(make_run(tmp_path / "run", 1, 2))
    spoil(run.folder / "step-00000002")
    assert run.newest() == 1
    assert why in run.warned[0]
    assert run.names == [".corrupt-step-00000002", "step-00000001"]


def test_s07_a_newer_format_is_left_alone(tmp_path):
    run = Run(make_run(tmp_path / "run", 1, 2))
    path = run.folder / "step-00000002" / MANIFEST
    manifest = json.loads(path.read_bytes())
    del manifest["sha256"]
    path.write_bytes(seal(manifest | {"format": FORMAT + 1, "files": ["of a shape not known today"]}))
    for attempt in (run.newest, lambda: Checkpoints.read(path.parent)):
        with pytest.raises(ModelError, match="newer elman.*pip install --upgrade elman"):
            attempt()
    assert run.names == names_of(1, 2)
    assert not run.warned


CRAFTED = {
    "a path that leads out": {"files": {"../weights": {"size": 48, "sha256": "0" * 64}}},
    "an absolute path": {"files": {"/etc/passwd": {"size": 48, "sha256": "0" * 64}}},
    "a hidden name": {"files": {".weights": {"size": 48, "sha256": "0" * 64}}},
    "the folder": {"files": {".": {"size": 48, "sha256": "0" * 64}}},
    "a line break in a name": {"files": {"weights\n": {"size": 48, "sha256": "0" * 64}}},
    "itself": {"files": {MANIFEST: {"size": 48, "sha256": "0" * 64}}},
    "a negative size": {"files": {"weights": {"size": -1, "sha256": "0" * 64}}},
    "a size that is no number": {"files": {"weights": {"size": True, "sha256": "0" * 64}}},
    "no hash": {"files": {"weights": {"size": 48}}},
    "a hash that is none": {"files": {"weights": {"size": 48, "sha256": None}}},
    "files that are a list": {"files": ["weights"]},
    "facts that are a list": {"facts": []},
    "no facts": {"facts": None},
    "a step that is a text": {"step": "2"},
    "a step that is true": {"step": True},
    "a format that is a text": {"format": "1"},
    "a format of before the first": {"format": 0},
}


@pytest.mark.parametrize("what", CRAFTED)
def test_a05_a_crafted_manifest(tmp_path, what):
    run = Run(make_run(tmp_path / "run", 1, 2))
    path = run.folder / "step-00000002" / MANIFEST
    manifest = json.loads(path.read_bytes())
    del manifest["sha256"]
    path.write_bytes(seal(manifest))
    assert Checkpoints.read(path.parent).step == 2  # only what is crafted is refused
    path.write_bytes(seal(manifest | CRAFTED[what]))
    with pytest.raises(ModelError, match=f"damaged: {MANIFEST} (holds|cannot)"):  # no file was looked at
        Checkpoints.read(path.parent)
    assert run.newest() == 1


def test_a05_a_manifest_that_is_deep(tmp_path):
    folder = make_run(tmp_path / "run", 1, 2) / "checkpoints" / "step-00000002"
    deep = seal({"facts": "HERE"}).split(b'",\n  "sha256')[0].replace(b'"HERE', b"[" * 10**6)
    (folder / MANIFEST).write_bytes(_sealed(deep))
    with pytest.raises(ModelError, match="cannot be understood"):
        Checkpoints.read(folder)


def _sealed(body: bytes) -> bytes:
    """`body`, with a seal that holds."""
    body += b',\n  "sha256": "'
    return body + hashlib.sha256(body).hexdigest().encode() + b'"\n}\n'


def test_a09_what_is_used_is_what_was_checked(tmp_path, monkeypatch):
    base = make_run(tmp_path / "run", 1, 2)

    class Swapping(WatchedDisk):
        """Somebody changes each file right after it was read; or right before, when its size was looked at."""

        def read(self, path):
            if early and path.name == "weights":
                path.write_bytes(bytes(48))
            content = super().read(path)
            path.write_bytes(bytes(len(content)))
            return content

    monkeypatch.setattr(elman.files, "disk", Swapping())
    early = False
    assert Checkpoints.read(base / "checkpoints" / "step-00000002").files == contents(2)
    early = True
    with pytest.raises(ModelError, match="weights is not as it was written"):
        Checkpoints.read(base / "checkpoints" / "step-00000001")


# ---- power cuts and kills -------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [(), (1,), (1, 2)], ids=["first", "second", "third"])
def test_s08_the_power_is_cut(tmp_path, monkeypatch, count, steps):
    base = make_run(tmp_path / "run", *steps)
    recording = RecordingDisk(base)
    with monkeypatch.context() as patch:
        patch.setattr(elman.files, "disk", recording)
        Run(base).write(3)
    seen = []
    for number, (told, build) in enumerate(recording.states):
        build(tmp_path / str(number))
        run = Run(tmp_path / str(number))
        run.store.clean()
        seen.append(run.newest())
        assert seen[-1] in ({max(steps), 3} if steps else {None, 3}), told
        assert not run.warned, told  # nothing that is called a checkpoint was ever less
        for name in run.names if run.folder.exists() else []:
            assert name.startswith("step-"), told
            assert Checkpoints.read(run.folder / name).files == contents(int(name[5:])), told
    assert seen[-1] == 3
    assert set(seen) == {max(steps, default=None), 3}
    assert len(seen) > 30
    count(len(seen))


CHILD = """
import json, os, sys
from pathlib import Path
import elman.files
from elman.train.checkpoint import Checkpoints
from tests.faults.disks import KillingDisk
from tests.faults.test_storage import contents

folder, keep, cases = Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
for name, point, time in cases:  # each in a process of its own
    child = os.fork()
    if child == 0:
        elman.files.disk = KillingDisk(point, time=time)
        Checkpoints(folder / name / "checkpoints", keep=keep).write(3, contents(3), {"step": 3})
        os._exit(0)
    print(os.waitpid(child, 0)[1])
"""


def kill(
    folder: Path, base: Path, cases: list[tuple[str | None, int]], keep: int = 2
) -> list[tuple[Run, bool]]:
    """Copies of the run `base`, in each of which a save was killed: at a point or call, for the n-th time."""
    named = [(str(number), *case) for number, case in enumerate(cases)]
    for name, *_ in named:
        shutil.copytree(base, folder / name)
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(folder), str(keep), json.dumps(named)],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    statuses = list(map(int, done.stdout.split()))
    assert set(statuses) <= {0, 9}
    return [
        (Run(folder / name, keep), status == 9) for (name, *_), status in zip(named, statuses, strict=True)
    ]


def calls_of_a_save(base: Path, copy: Path) -> tuple[int, list[str]]:
    """How many calls change something, and the points that are reached."""
    watched = WatchedDisk()
    shutil.copytree(base, copy)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(elman.files, "disk", watched)
        Run(copy).write(3)
    return sum(call not in READS for call, _ in watched.calls), watched.points


def require_survived(run: Run, allowed: set[int]) -> None:
    """After a kill: the next start finds a sound checkpoint, tidies, and saves."""
    assert run.newest() in allowed
    run.store.clean()
    assert all(name.startswith("step-") for name in run.names)
    assert run.newest() in allowed
    assert not run.warned
    run.write(4)
    assert run.newest() == 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a kill needs a process that can be killed")
def test_t02_killed_at_any_point_of_a_save(tmp_path, count):
    base = make_run(tmp_path / "base", 1, 2)
    calls, points = calls_of_a_save(base, tmp_path / "whole")
    assert list(dict.fromkeys(points)) == list(POINTS)
    cases = [(point, points[: at + 1].count(point)) for at, point in enumerate(points)]
    cases += [(None, call) for call in range(1, calls + 1)]
    (tmp_path / "killed").mkdir()
    survivors = kill(tmp_path / "killed", base, cases)
    published = points.index("checkpoint.renamed")
    for at, (run, killed) in enumerate(survivors):
        assert killed, cases[at]
        if at < len(points):
            require_survived(run, {2} if at < published else {3})
        else:
            require_survived(run, {2, 3})
    assert len(cases) > 45
    count(len(cases))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a kill needs a process that can be killed")
def test_t03_killed_while_old_checkpoints_go(tmp_path, count):
    base = make_run(tmp_path / "base", 0, 1, 2)
    cases = [
        (f"checkpoint.{point}", time)
        for point in ("trashed", "trash-synced", "trash-removed")
        for time in (1, 2, 3)
    ]
    (tmp_path / "killed").mkdir()
    hit = 0
    for run, killed in kill(tmp_path / "killed", base, cases, keep=1):
        require_survived(run, {3})
        hit += killed
    assert hit == 7  # three are removed, after one sync
    count(hit)


def test_t23_the_newest_is_that_of_the_highest_step(tmp_path):
    base = make_run(tmp_path / "run", 9, 10, 11)
    for age, name in enumerate(names_of(9, 10, 11)):
        for path in (base / "checkpoints" / name, *(base / "checkpoints" / name).iterdir()):
            os.utime(path, (10**9 - age * 86400, 10**9 - age * 86400))
    run = Run(base)
    assert run.newest() == 11
    run.write(12)
    assert run.names == names_of(11, 12)


HOLDER = """
import sys
from pathlib import Path
from elman.train.lock import run_lock
with run_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_t24_two_runs_in_one_folder(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with holder:
        try:
            assert holder.stdout.readline() == "held\n"
            with pytest.raises(
                InputError, match=rf"another run writes here: process {holder.pid} on \S+, since 2"
            ):
                run_lock(tmp_path).__enter__()
        finally:
            holder.kill()
    assert (tmp_path / LOCK).exists()  # of a dead process
    with run_lock(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
    assert not (tmp_path / LOCK).exists()


@pytest.mark.parametrize("how", ["moved", "removed"])
def test_t25_the_run_folder_is_gone(tmp_path, how):
    folder = make_run(tmp_path / "run", 1)
    run = Run(folder)
    shutil.rmtree(folder) if how == "removed" else folder.rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="moved or removed") as caught:
        run.write(2)
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    assert not folder.exists()  # it is not made again behind the user's back
    if how == "moved":
        assert Run(tmp_path / "elsewhere").newest() == 1


# ---- places ---------------------------------------------------------------------------------------------


def test_s09_a_rename_between_two_devices(tmp_path, monkeypatch):
    run = Run(make_run(tmp_path / "run", 1, 2))
    failing = FailingDisk(errno.EXDEV, where=lambda call, _: call == "rename")
    with monkeypatch.context() as patch:
        patch.setattr(elman.files, "disk", failing)
        with pytest.raises(InputError, match="cross-device"):
            run.write(3)
    assert failing.failed
    assert run.names == names_of(1, 2)


def test_s09_no_rename_leaves_its_folder(tmp_path, monkeypatch):
    renamed = []

    class Watching(WatchedDisk):
        def rename(self, old, new):
            renamed.append((old.parent, new.parent))
            super().rename(old, new)

    run = Run(make_run(tmp_path / "run", 1, 2))
    monkeypatch.setattr(elman.files, "disk", Watching())
    run.write(3)
    with replacing(tmp_path / "file") as file:
        file.write(b"text")
    assert len(renamed) == 3
    assert all(old == new for old, new in renamed)


NAMES = {
    "spaces": " a run  of mine ",
    "unicode": "прогон-é-走-🜁",
    "decomposed": "e\u0301",
    "newline": "a\nb",
    "escape": "\x1b[31mred",
    "tilde": "~",
    "dollar": "$HOME",
    "dashes": "--out",
    "255-bytes": "n" * 255,
    "looks-like-a-checkpoint": "step-00000009",
    "hidden": ".tmp-1",
}


@pytest.mark.parametrize("name", NAMES)
def test_s10_strange_names_work(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    for folder in (Path(NAMES[name]), tmp_path / NAMES[name], Path(f"{tmp_path}/{NAMES[name]}/")):
        make_folder(folder)
        run = Run(folder)
        with run_lock(folder):
            for step in (1, 2, 3):
                run.write(step)
            write_atomically(folder / "config.toml", "text")
        assert run.newest() == 3
        assert run.names == names_of(2, 3)
        assert sorted(path.name for path in folder.iterdir()) == ["checkpoints", "config.toml"]
        shutil.rmtree(tmp_path / NAMES[name])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["n" * 256, "é" * 128], ids=["characters", "bytes"])
def test_s10_names_that_no_disk_takes_are_refused(tmp_path, name):
    with pytest.raises(InputError, match="cannot make this folder"):
        make_folder(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_s11_a_run_folder_that_is_a_link(tmp_path):
    make_run(tmp_path / "real", 1, 2)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    run = Run(tmp_path / "link")
    with run_lock(tmp_path / "link"), pytest.raises(InputError, match="another run"):
        run_lock(tmp_path / "real").__enter__()
    assert run.newest() == 2
    run.write(3)
    assert Run(tmp_path / "real").names == names_of(2, 3)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "checkpoints").symlink_to(tmp_path / "real" / "checkpoints")
    assert Run(tmp_path / "other").newest() == 3


def test_s11_links_inside_are_not_followed(tmp_path):
    outside = make_run(tmp_path / "outside", 1) / "checkpoints" / "step-00000001"
    run = Run(make_run(tmp_path / "run", 2, 3))
    weights = run.folder / "step-00000003" / "weights"
    weights.rename(tmp_path / "weights")
    weights.symlink_to(tmp_path / "weights")  # with the right content
    assert run.newest() == 2
    assert "weights is not a plain file" in run.warned.pop()
    for name in ("step-00000001", ".tmp-1-1-1", ".trash-step-00000001"):
        (run.folder / name).symlink_to(outside)
    (run.folder / ".trash-file").write_text("")
    run.store.clean()
    run.write(4)  # removes the first
    assert run.names == [".corrupt-step-00000003", *names_of(2, 4)]
    assert Checkpoints.read(outside).files == contents(1)
    assert (tmp_path / "weights").read_bytes() == contents(3)["weights"]


def test_s11_a_lock_that_is_a_link(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "mine").write_text("precious")
    (tmp_path / "run" / LOCK).symlink_to(tmp_path / "mine")
    with pytest.raises(InputError, match="remove it"):
        run_lock(tmp_path / "run").__enter__()
    assert (tmp_path / "mine").read_text() == "precious"


def test_s11_a_loop_of_links(tmp_path):
    (tmp_path / "run").symlink_to(tmp_path / "run")
    run = Run(tmp_path / "run")
    for attempt in (run.newest, lambda: run.write(1), lambda: run_lock(tmp_path / "run").__enter__()):
        with pytest.raises(InputError):
            attempt()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP], ids=errno.errorcode.get)
def test_s12_no_flock(tmp_path, monkeypatch, number):
    monkeypatch.setattr(
        elman.files, "disk", FailingDisk(number, lasting=True, where=lambda call, _: call == "lock")
    )
    warned: list[str] = []
    for _ in range(2):  # it is given back
        with run_lock(tmp_path, warn=warned.append):
            assert "no flock here" in warned.pop()
            with pytest.raises(
                InputError, match=rf"process {os.getpid()} on .*if no run is going there, remove"
            ):
                run_lock(tmp_path, warn=warned.append).__enter__()
            warned.clear()
        assert not list(tmp_path.iterdir())


def test_s12_a_stale_handle(tmp_path, monkeypatch):
    run = Run(make_run(tmp_path / "run", 1, 2))
    with monkeypatch.context() as patch:
        patch.setattr(elman.files, "disk", FailingDisk(errno.ESTALE, where=lambda call, _: call == "sync"))
        with pytest.raises(InputError, match=os.strerror(errno.ESTALE)):
            run.write(3)
    assert run.names == names_of(1, 2)


def test_s13_a_crowded_folder(tmp_path, monkeypatch, full, count):
    """Nothing but names is looked at, so ten thousand files more cost no call more."""
    crowd = 100_000 if full else 2_000

    def calls() -> list[tuple[str, str]]:
        watched = WatchedDisk()
        with monkeypatch.context() as patch:
            patch.setattr(elman.files, "disk", watched)
            assert run.newest() == 2
        return [(call, path.name) for call, path in watched.calls]

    run = Run(make_run(tmp_path / "run", 1, 2))
    alone = calls()
    for number in range(crowd):
        name = ("file-{}", "step-{}", ".corrupt-step-{:08d}", "step-{:08d}.old")[number % 4].format(number)
        os.close(os.open(run.folder / name, os.O_CREAT, 0o644))
    assert calls() == alone
    assert [call for call, _ in alone] == ["names", *["read"] * (1 + len(contents(2)))]
    run.write(3)
    assert [name for name in run.names if name in names_of(1, 2, 3)] == names_of(2, 3)
    assert len(run.names) == crowd + 2
    count(crowd)


def test_s13_many_old_checkpoints(tmp_path, full, count):
    old = 2_000 if full else 100
    base = make_run(tmp_path / "run", 1)
    for step in range(2, old):
        (base / "checkpoints" / f"step-{step:08d}").mkdir()
    run = Run(base, keep=3)
    run.write(old)
    assert run.names == names_of(old - 2, old - 1, old)
    count(old)


@pytest.mark.parametrize("mask", [0o000, 0o002, 0o022, 0o077], ids="{:03o}".format)
def test_s14_any_umask(tmp_path, mask):
    before = os.umask(mask)
    try:
        make_folder(tmp_path / "run")
        for step in (1, 2, 3):
            Run(tmp_path / "run").write(step)
        write_atomically(tmp_path / "run" / "config.toml", "text")
        with run_lock(tmp_path / "run"):
            made = list((tmp_path / "run").rglob("*"))
            modes = {path: stat.S_IMODE(path.stat().st_mode) for path in made}
    finally:
        os.umask(before)
    assert len(made) > 10
    for path, mode in modes.items():
        assert mode == (0o775 if path.is_dir() else 0o664) & ~mask, path
        assert not mode & 0o002
