"""One run at a time in a folder, and no file of a dead process in the way. See also tests/faults/test_storage.py."""

import errno
import json
import os
import socket
import subprocess
import sys

import pytest

import elman.files
from elman.errors import InputError, ResourceError
from elman.train.lock import LOCK, MADE, run_lock
from tests.faults.disks import FailingDisk, WatchedDisk


@pytest.fixture
def dead():
    """The id of a process that is no more."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


@pytest.fixture
def no_flock(monkeypatch):
    def fails(call, path):
        return call == "lock"

    monkeypatch.setattr(elman.files, "disk", FailingDisk(errno.ENOLCK, lasting=True, where=fails))


def sign(path, **holder):
    path.write_text(json.dumps({"pid": 1, "host": socket.gethostname(), "started": "2001-01-01"} | holder))


def test_the_second_is_refused_and_the_lock_is_given_back(tmp_path):
    for _ in range(2):
        with run_lock(tmp_path):
            for _ in range(2):
                with pytest.raises(InputError) as caught:
                    run_lock(tmp_path).__enter__()
                message = str(caught.value)
                assert f"{tmp_path}: another run writes here: process {os.getpid()}" in message
                assert socket.gethostname() in message
        assert not list(tmp_path.iterdir())


def test_it_is_given_back_after_an_error(tmp_path):
    with pytest.raises(KeyboardInterrupt), run_lock(tmp_path):
        raise KeyboardInterrupt
    with run_lock(tmp_path):
        pass


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff", b'{"pid": 1, "host": "elsewhere"}', b"[" * 10**5]
)
def test_a_file_that_nobody_holds_is_no_lock(tmp_path, content):
    (tmp_path / LOCK).write_bytes(content)
    with run_lock(tmp_path):
        assert json.loads((tmp_path / LOCK).read_bytes())["pid"] == os.getpid()


@pytest.mark.parametrize("content", ["", "{", "[]", "x" * 100])
def test_a_holder_that_says_nothing_of_itself_still_holds(tmp_path, content):
    with run_lock(tmp_path):
        (tmp_path / LOCK).write_text(content)
        with pytest.raises(InputError, match="process unknown on unknown"):
            run_lock(tmp_path).__enter__()


def test_a_file_removed_by_its_holder_at_the_last_moment_is_not_held(tmp_path, monkeypatch):
    """The other way round, two would hold two different files."""

    class Racing(WatchedDisk):
        def lock(self, file):
            super().lock(file)
            if len([call for call, _ in self.calls if call == "lock"]) == 1:
                (tmp_path / LOCK).unlink()

    racing = Racing()
    monkeypatch.setattr(elman.files, "disk", racing)
    with run_lock(tmp_path):
        assert (tmp_path / LOCK).exists()
        with pytest.raises(InputError, match="another run"):
            run_lock(tmp_path).__enter__()
    assert [call for call, _ in racing.calls].count("lock") == 3


def test_the_lock_of_another_is_not_removed_on_the_way_out(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    with run_lock(folder):
        folder.rename(tmp_path / "moved")
        folder.mkdir()
        sign(folder / LOCK)
    assert (folder / LOCK).exists()


def test_a_moved_folder_is_no_error(tmp_path):
    (tmp_path / "run").mkdir()
    with run_lock(tmp_path / "run"):
        (tmp_path / "run").rename(tmp_path / "moved")
    with run_lock(tmp_path / "moved"):
        pass


def test_no_folder_is_told(tmp_path):
    with pytest.raises(InputError, match="cannot lock it: No such file"):
        run_lock(tmp_path / "none").__enter__()


@pytest.mark.parametrize("call", ["open", "write"])
@pytest.mark.parametrize("flock", [True, False])
def test_a_full_disk_is_told_and_locks_nothing(tmp_path, monkeypatch, flock, call):
    class Full(WatchedDisk):
        def before(self, made, path):
            if made == "lock" and not flock:
                raise OSError(errno.ENOLCK, "no locks")
            if made == call and (path.name == MADE or flock):
                raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(elman.files, "disk", Full())
        with pytest.raises(ResourceError, match="the disk is full"):
            run_lock(tmp_path, warn=print).__enter__()
    with run_lock(tmp_path):
        pass


# ---- without flock --------------------------------------------------------------------------------------


def test_a_file_of_a_dead_process_is_taken_over(tmp_path, no_flock, dead):
    for name in (LOCK, MADE):
        sign(tmp_path / name, pid=dead)
        with run_lock(tmp_path, warn=print):
            assert json.loads((tmp_path / MADE).read_bytes())["pid"] == os.getpid()
        assert not (tmp_path / MADE).exists()


@pytest.mark.parametrize("name", [LOCK, MADE])
@pytest.mark.parametrize("who", ["alive", "elsewhere", "odd"])
def test_a_file_of_a_process_that_may_live_is_respected(tmp_path, no_flock, dead, name, who):
    holder = {
        "alive": {"pid": os.getpid()},
        "elsewhere": {"pid": dead, "host": "elsewhere"},
        "odd": {"pid": 10**30},
    }
    sign(tmp_path / name, **holder[who])
    with pytest.raises(InputError, match=f"if no run is going there, remove .*{name}"):
        run_lock(tmp_path, warn=print).__enter__()
    assert (tmp_path / name).exists()


def test_a_torn_file_is_respected_too(tmp_path, no_flock):
    (tmp_path / MADE).write_text('{"pid"')
    with pytest.raises(InputError, match="process unknown"):
        run_lock(tmp_path, warn=print).__enter__()
