"""A file is the old one or the new one, and a folder that exists is left alone."""

import errno
import os

import pytest

from elman.errors import InputError, ResourceError
from elman.files import make_folder, new_folder, replacing, write_atomically


@pytest.mark.parametrize("payload", ["text, é\n", b"\x00\xff"])
def test_what_is_written_is_there_and_nothing_beside_it(tmp_path, payload):
    for _ in range(2):  # a new file, and over an old one
        write_atomically(tmp_path / "file", payload)
        assert (tmp_path / "file").read_bytes() == (payload.encode() if isinstance(payload, str) else payload)
        assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("step", ["open", "replace"])
@pytest.mark.parametrize(
    ("number", "error", "message"),
    [
        (errno.ENOSPC, ResourceError, "the disk is full; free some space"),
        (errno.EDQUOT, ResourceError, "the disk is full; free some space"),
        (errno.EACCES, InputError, "cannot write: Permission denied; choose another folder"),
    ],
)
def test_a_failure_leaves_the_old_file_alone(tmp_path, monkeypatch, step, number, error, message):
    def fail(*arguments):
        raise OSError(number, os.strerror(number))

    path = tmp_path / "file"
    path.write_text("old")
    with monkeypatch.context() as patch:
        patch.setattr(os if step == "replace" else type(path), step, fail)
        with pytest.raises(error, match=message) as caught:
            write_atomically(path, "new")
    assert caught.type is error
    assert str(path) in str(caught.value)
    assert path.read_text() == "old"
    assert [found.name for found in tmp_path.iterdir()] == ["file"]


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
