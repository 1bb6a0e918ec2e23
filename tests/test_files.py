"""A file is the old one or the new one, and a folder that exists is left alone."""

import errno
import os
import stat
from collections import Counter

import pytest

import elman.files
from elman.errors import InputError, ResourceError
from elman.files import make_folder, new_folder, remove_scratch, replacing, write_atomically
from tests.faults.cuts import RecordingDisk
from tests.faults.disks import FailingDisk


@pytest.mark.parametrize("payload", ["text, é\n", b"\x00\xff"])
def test_what_is_written_is_there_and_nothing_beside_it(tmp_path, payload):
    for _ in range(2):  # a new file, and over an old one
        write_atomically(tmp_path / "file", payload)
        assert (tmp_path / "file").read_bytes() == (payload.encode() if isinstance(payload, str) else payload)
        assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("call", ["open", "write", "sync", "rename"])
@pytest.mark.parametrize(
    ("number", "error", "message"),
    [
        (errno.ENOSPC, ResourceError, "the disk is full; free some space"),
        (errno.EDQUOT, ResourceError, "the disk is full; free some space"),
        (errno.EACCES, InputError, "cannot write: Permission denied; choose another folder"),
    ],
)
def test_a_failure_leaves_the_old_file_alone(tmp_path, monkeypatch, call, number, error, message):
    path = tmp_path / "file"
    path.write_text("old")
    failing = FailingDisk(number, where=lambda made, _: made == call)
    monkeypatch.setattr(elman.files, "disk", failing)
    with pytest.raises(error, match=message) as caught:
        write_atomically(path, "new")
    assert failing.failed
    assert caught.type is error
    assert str(path) in str(caught.value)
    assert path.read_text() == "old"
    assert [found.name for found in tmp_path.iterdir()] == ["file"]


def test_a_power_cut_leaves_the_old_file_or_the_new_one(tmp_path, monkeypatch):
    disk_folder = tmp_path / "disk"
    disk_folder.mkdir()
    (disk_folder / "file").write_bytes(b"the old one")
    recording = RecordingDisk(disk_folder)
    monkeypatch.setattr(elman.files, "disk", recording)
    write_atomically(disk_folder / "file", b"the new one, longer")
    found = Counter()
    for number, (told, build) in enumerate(recording.states):
        build(tmp_path / str(number))
        content = (tmp_path / str(number) / "file").read_bytes()
        assert content in (b"the old one", b"the new one, longer"), told
        found[content] += 1
    assert content == b"the new one, longer"  # whatever a cut did after the last call
    assert len(found) == 2


def test_a_power_cut_leaves_a_new_folder_whole_or_none(tmp_path, monkeypatch):
    (tmp_path / "disk").mkdir()
    recording = RecordingDisk(tmp_path / "disk")
    monkeypatch.setattr(elman.files, "disk", recording)
    with new_folder(tmp_path / "disk" / "made") as folder:
        write_atomically(folder / "a", "first")
        with recording.open(folder / "b", "wb") as file:
            file.write(b"second")
            recording.sync(file)
    for number, (told, build) in enumerate(recording.states):
        build(tmp_path / str(number))
        made = tmp_path / str(number) / "made"
        if made.exists():
            assert {path.name: path.read_text() for path in made.iterdir()} == {
                "a": "first",
                "b": "second",
            }, told
    assert made.exists()


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o027, 0o077])
def test_what_is_made_has_the_permissions_of_the_user_and_is_not_for_the_world_to_write(tmp_path, mask):
    before = os.umask(mask)
    try:
        make_folder(tmp_path / "parent" / "folder")
        write_atomically(tmp_path / "parent" / "folder" / "file", "text")
    finally:
        os.umask(before)
    for made, mode in (("parent", 0o775), ("parent/folder", 0o775), ("parent/folder/file", 0o664)):
        assert stat.S_IMODE((tmp_path / made).stat().st_mode) == mode & ~mask


def test_a_folder_whose_names_cannot_be_synced_is_no_error(tmp_path, monkeypatch):
    def fsync(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    number = errno.EINVAL  # as on some network file systems
    write_atomically(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "new"
    number = errno.EIO
    with pytest.raises(InputError, match="Input/output error"):
        write_atomically(tmp_path / "file", "newer")


def test_removing_a_link_leaves_what_it_points_to(tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "kept", target_is_directory=True)
    elman.files.disk.remove(tmp_path / "link")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept" / "file").read_text() == "mine"


def test_what_fails_while_it_is_written_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    for error, raised in ((OSError(errno.ENOSPC, "full"), ResourceError), (KeyError("mine"), KeyError)):
        with pytest.raises(raised), replacing(path) as file:
            file.write(b"new")
            raise error
        assert path.read_text() == "old"
        assert [found.name for found in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("folder", ["missing", "a-file"])
def test_a_folder_that_cannot_be_written_is_told(tmp_path, folder):
    (tmp_path / "a-file").write_text("")
    with pytest.raises(InputError, match="cannot write: .*; choose another folder"):
        write_atomically(tmp_path / folder / "file", "new")


def test_a_folder_is_made_with_its_parents(tmp_path):
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_exists_is_refused(tmp_path, kind):
    path = tmp_path / "there"
    path.write_text("") if kind == "file" else path.mkdir()
    with pytest.raises(InputError, match="there: exists already; give another --out, or remove it"):
        make_folder(path)


def test_a_folder_inside_a_file_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot make this folder: Not a directory; give another --out"):
        make_folder(tmp_path / "file" / "run")


def test_a_new_folder_is_whole_or_not_there(tmp_path):
    for error in (OSError(errno.ENOSPC, "full"), KeyboardInterrupt()):
        with pytest.raises(type(error)), new_folder(tmp_path / "made") as folder:
            (folder / "part").write_text("half")
            raise error
        assert not list(tmp_path.iterdir())
    with new_folder(tmp_path / "made") as folder:
        (folder / "part").write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
    assert (tmp_path / "made" / "part").read_text() == "whole"
    with pytest.raises(InputError, match="exists already"), new_folder(tmp_path / "made"):
        pass


def test_what_a_killed_process_left_is_swept_and_nothing_else(tmp_path):
    left = [".config.toml.4711", ".model.safetensors.1"]
    kept = ["config.toml", ".hidden", ".config.toml.x", "a.1", "run.lock"]
    for name in left + kept:
        (tmp_path / name).write_text("x")
    remove_scratch(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(kept)
