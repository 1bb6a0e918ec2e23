"""Power cuts: a disk that remembers what was done, and every state that a cut could leave of it."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.disks import WatchedDisk


@dataclass(eq=False, slots=True)
class _File:
    content: bytes = b""
    synced: bytes = b""


@dataclass(eq=False, slots=True)
class _Folder:
    entries: dict[str, "_File | _Folder"] = field(default_factory=dict)
    synced: dict[str, "_File | _Folder"] = field(default_factory=dict)


DATA = ("kept", "dropped", "torn", "zeroed")
"""What a power cut makes of bytes that were written and not synced."""

NAMES = ("kept", "dropped")
"""What it makes of names that were made, moved or removed in a folder that was not synced since."""


class RecordingDisk(WatchedDisk):
    """Remembers all that is done under `root`, and what of it a power cut could leave after each call.

    The model is as bad as POSIX allows: bytes are safe once their file is synced, names once their folder is.
    """

    def __init__(self, root: Path) -> None:
        super().__init__()
        self._root = root
        self._top = self._scan(root)
        self.states: list[tuple[str, Callable[[Path], None]]] = []
        """After each call that changes something: what it was, and for every outcome of a cut a way to build it."""
        self._remember("nothing")

    def _scan(self, path: Path) -> _Folder:
        """What is there at the start is safe."""
        entries: dict[str, _File | _Folder] = {
            found.name: self._scan(found) if found.is_dir() else _File(*[found.read_bytes()] * 2)
            for found in path.iterdir()
        }
        return _Folder(dict(entries), dict(entries))

    def _folder(self, path: Path) -> _Folder:
        folder = self._top
        for part in path.relative_to(self._root).parts:
            folder = folder.entries[part]
        return folder

    def _file(self, path: Path) -> _File:
        return self._folder(path.parent).entries[path.name]

    def _remember(self, call: str) -> None:
        outcomes: dict[tuple, tuple[str, dict]] = {}
        for data in DATA:
            for names in NAMES:
                tree = _after_cut(self._top, data, names)
                outcomes.setdefault(_key(tree), (f"{call}; data {data}, names {names}", tree))
        self.states += [(told, lambda to, tree=tree: _build(tree, to)) for told, tree in outcomes.values()]

    def open(self, path, mode):
        file = super().open(path, mode)
        entries = self._folder(path.parent).entries
        if mode != "rb" and (mode != "ab" or path.name not in entries):
            entries[path.name] = _File()
            self._remember(f"open {path.name}")
        recorded, write = self, file.write

        def recording_write(content):
            written = write(content)
            recorded._file(path).content += bytes(content)
            recorded._remember(f"write {path.name}")
            return written

        file.write = recording_write
        return file

    def sync(self, file):
        super().sync(file)
        found = self._file(Path(file.name))
        found.synced = found.content
        self._remember(f"sync {Path(file.name).name}")

    def sync_folder(self, path):
        super().sync_folder(path)
        folder = self._folder(path)
        folder.synced = dict(folder.entries)
        self._remember(f"sync_folder {path.name}")

    def rename(self, old, new):
        super().rename(old, new)
        self._folder(new.parent).entries[new.name] = self._folder(old.parent).entries.pop(old.name)
        self._remember(f"rename {old.name} {new.name}")

    def remove(self, path):
        super().remove(path)
        found = self._folder(path.parent).entries[path.name]
        if isinstance(found, _Folder) and found.entries:
            # A cut comes amid it: some files are gone, and safely so.
            gone = sorted(found.entries)[: (len(found.entries) + 1) // 2]
            for name in gone:
                del found.entries[name]
                found.synced.pop(name, None)
            self._remember(f"half of remove {path.name}")
        del self._folder(path.parent).entries[path.name]
        self._remember(f"remove {path.name}")

    def make_folder(self, path):
        super().make_folder(path)
        self._folder(path.parent).entries[path.name] = _Folder()
        self._remember(f"make_folder {path.name}")


def _after_cut(folder: _Folder, data: str, names: str) -> dict:
    """The tree that is found after the power is back."""
    entries = folder.entries if names == "kept" else folder.synced
    return {
        name: _after_cut(entry, data, names) if isinstance(entry, _Folder) else _bytes_after_cut(entry, data)
        for name, entry in entries.items()
    }


def _bytes_after_cut(file: _File, data: str) -> bytes:
    if file.content == file.synced or data == "kept":
        return file.content
    if data == "dropped":
        return file.synced
    lost = len(file.content) - len(file.synced)
    if data == "torn":
        return file.content[: len(file.content) - (lost + 1) // 2]
    return file.synced + bytes(lost)


def _key(tree: dict) -> tuple:
    return tuple(
        (name, _key(entry) if isinstance(entry, dict) else hashlib.sha256(entry).digest())
        for name, entry in sorted(tree.items())
    )


def _build(tree: dict, to: Path) -> None:
    to.mkdir(exist_ok=True)
    for name, entry in tree.items():
        if isinstance(entry, dict):
            _build(entry, to / name)
        else:
            (to / name).write_bytes(entry)
