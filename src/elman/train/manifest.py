"""What makes a checkpoint sound: MANIFEST.json, which holds the size and SHA-256 of every file, and its own.

    {"format": 1, "step": 1000, "files": {NAME: {"size": ..., "sha256": ...}}, "facts": {...}, "sha256": ...}

The last entry is the SHA-256 of every byte before its own first digit, so a flipped bit in a step or a fact is found
as surely as one in a file. Nothing that is read is trusted: a name has no folder in it, what is opened is a plain
file and no link, it is no longer than the manifest says, and its hash is that of the bytes that are handed on.
"""

import errno
import hashlib
import json
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import elman.files
from elman.errors import InputError, ModelError

MANIFEST = "MANIFEST.json"

FORMAT = 1
"""Whatever changes, a manifest ends with its seal: so damage never looks like a newer format."""

LONGEST = 2**24
"""Bytes of a manifest; a longer one is not read."""

FOLDER_NAME = re.compile(r"step-([0-9]{8,18})(?:-([0-9]{1,9}))?")
"""Of a checkpoint: its step, and a number from 2 on where it was written again."""

FILE_NAME = re.compile(rf"(?!{re.escape(MANIFEST)}$)[A-Za-z0-9_][A-Za-z0-9._-]{{0,127}}")

DAMAGE = {
    *(errno.EIO, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EBADMSG),
    getattr(errno, "EUCLEAN", errno.EIO),  # "structure needs cleaning", on Linux
}
"""Of an error in reading: no later attempt will mend it. Others, such as a missing permission, are no damage."""

_SEAL_END = b'"\n}\n'
_SEAL_BYTES = 64 + len(_SEAL_END)


class Damaged(ModelError):
    """A checkpoint is not what it was when it was written, or never was one."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{path}: damaged: {why}; resume from another checkpoint")
        self.why = why


def describe(step: int, contents: Mapping[str, bytes], facts: Mapping[str, Any]) -> bytes:
    """The manifest of these files."""
    entries = {
        name: {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in contents.items()
    }
    return seal({"format": FORMAT, "step": step, "files": entries, "facts": dict(facts)})


def seal(manifest: Mapping[str, Any]) -> bytes:
    """As JSON, with the SHA-256 of itself for its last entry."""
    body = (json.dumps(manifest, indent=2, allow_nan=False).removesuffix("\n}") + ',\n  "sha256": "').encode()
    return body + hashlib.sha256(body).hexdigest().encode() + _SEAL_END


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of the checkpoint at `path`; its entries have the right types and its names are plain.

    Raises:
        Damaged: It is missing, not as it was written, of another step than the folder, or crafted.
        ModelError: A newer version wrote it.
        InputError: It cannot be read.
    """
    raw = _read(path / MANIFEST, LONGEST)
    body, digest = raw[:-_SEAL_BYTES], raw[-_SEAL_BYTES:]
    if digest != hashlib.sha256(body).hexdigest().encode() + _SEAL_END:
        raise Damaged(path, f"{MANIFEST} is not as it was written")
    try:
        manifest = json.loads(raw)
        if manifest["format"] > FORMAT:
            raise ModelError(
                f"{path}: written by a newer elman (format {manifest['format']}, and this version reads {FORMAT}); "
                "upgrade with: pip install --upgrade elman"
            )
        sound = (
            manifest["format"] == FORMAT
            and type(manifest["step"]) is int
            and isinstance(manifest["facts"], dict)
            and all(
                FILE_NAME.fullmatch(name)
                and type(entry["size"]) is int
                and entry["size"] >= 0
                and type(entry["sha256"]) is str
                for name, entry in manifest["files"].items()
            )
        )
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(path, f"{MANIFEST} cannot be understood ({type(error).__name__})") from error
    if not sound:
        raise Damaged(path, f"{MANIFEST} holds what no checkpoint has")
    named = FOLDER_NAME.fullmatch(path.name)
    if named and int(named[1]) != manifest["step"]:
        raise Damaged(path, f"{MANIFEST} is of step {manifest['step']}")
    return dict(manifest)


def read_file(path: Path, entry: Mapping[str, Any]) -> bytes:
    """The content of one file, which is what its entry in the manifest says.

    Raises:
        Damaged: It is not.
        InputError: It cannot be read.
    """
    content = _read(path, entry["size"])
    if len(content) != entry["size"]:
        raise Damaged(path.parent, f"{path.name} has {len(content):,} of {entry['size']:,} bytes")
    if hashlib.sha256(content).hexdigest() != entry["sha256"]:
        raise Damaged(path.parent, f"{path.name} is not as it was written (another SHA-256)")
    return content


def _read(path: Path, most: int) -> bytes:
    """A plain file of at most so many bytes."""
    try:
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode):
            raise Damaged(path.parent, f"{path.name} is not a plain file")
        if found.st_size > most:
            raise Damaged(
                path.parent, f"{path.name} has {found.st_size:,} bytes, more than the {most:,} it may"
            )
        return elman.files.disk.read(path)
    except OSError as error:
        if error.errno in DAMAGE:
            raise Damaged(path.parent, f"{path.name}: {error.strerror}") from error
        raise InputError(
            f"{path}: cannot read: {error.strerror}; make it readable, or resume from another checkpoint"
        ) from error
