"""A folder is put together once, whoever else is at work on it, and at whatever instant."""

import threading
from pathlib import Path

import pytest

import elman.files
from elman.config import DataConfig
from elman.data.prepare import Prepared, prepare
from tests.faults.disks import WatchedDisk

PATIENCE = 60.0
"""Seconds in which a thread that is not stuck goes on."""


class Meeting(WatchedDisk):
    """A disk on which a second process comes to put the folder together, and goes on at an instant of the first one.

    The second is started when the first is about to move its folder, and held where it opens the lock. It goes on when
    the first removes what is half-done, and the first when the second has seen whether it may put together as well.
    """

    def __init__(self, second: threading.Thread) -> None:
        super().__init__()
        self._second = second
        self._at_the_lock, self._may_go_on, self._knows = (threading.Event() for _ in range(3))
        self.moved: list[Path] = []

    @property
    def _is_second(self) -> bool:
        return threading.current_thread() is self._second

    def before(self, call, path):
        super().before(call, path)
        if (
            self._is_second
            and call == "open"
            and path.name == "whole.lock"
            and not self._at_the_lock.is_set()
        ):
            self._at_the_lock.set()
            assert self._may_go_on.wait(PATIENCE)
        if not self._is_second and call == "rename" and path.suffix == ".part" and self._second.is_alive():
            self._may_go_on.set()
            assert self._knows.wait(PATIENCE)

    def lock(self, file):
        try:
            super().lock(file)
        except BlockingIOError:
            if self._is_second:
                self._knows.set()
            raise

    def rename(self, old, new):
        super().rename(old, new)
        if old.name == "whole":
            self.moved.append(new)

    def reach(self, point):
        super().reach(point)
        if point == "prepare.before_move":
            if self._is_second:
                self._knows.set()
            else:
                self._second.start()
                assert self._at_the_lock.wait(PATIENCE)


@pytest.fixture
def config(tmp_path) -> DataConfig:
    (tmp_path / "text.txt").write_text("".join(f"line {number}\n" for number in range(100)))
    return DataConfig(corpus=str(tmp_path / "text.txt"), documents="line", tokenizer="byte")


def files_of(folder: Path) -> dict[Path, int]:
    """The files of a folder, each by its place on the disk."""
    return {path: path.stat().st_ino for path in folder.iterdir()}


@pytest.mark.parametrize("damaged", [False, True], ids=["anew", "in the place of a damaged one"])
def test_who_comes_to_put_together_what_has_just_been_put_together_does_not(
    config, own_cache, monkeypatch, damaged
):
    if damaged:
        Path(prepare(config).manifest["folder"], "train.tokens").write_bytes(b"")
    found: dict[str, Prepared] = {}
    second = threading.Thread(target=lambda: found.update(second=prepare(config)))
    monkeypatch.setattr(elman.files, "disk", disk := Meeting(second))
    found["first"] = prepare(config)
    folder = Path(found["first"].manifest["folder"])
    after_the_first = files_of(folder)
    second.join(PATIENCE)
    assert disk.points.count("prepare.before_move") == len(disk.moved) == 1
    assert files_of(folder) == after_the_first
    assert found["second"].manifest["content_sha256"] == found["first"].manifest["content_sha256"]
    assert found["second"].valid.tokens.tolist() == found["first"].valid.tokens.tolist()
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_who_begins_when_it_is_just_finished_does_nothing_again(config, own_cache, monkeypatch):
    """The first one finishes between two looks of the second: at what is finished, and at what is half-done."""

    class Late(WatchedDisk):
        def make_folder(self, path):
            if path.suffix == ".part":
                monkeypatch.setattr(elman.files, "disk", others := WatchedDisk())
                prepare(config)
                assert "prepare.after_move" in others.points
                monkeypatch.setattr(elman.files, "disk", self)
            super().make_folder(path)

    monkeypatch.setattr(elman.files, "disk", disk := Late())
    folder = Path(prepare(config).manifest["folder"])
    assert not disk.points
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
