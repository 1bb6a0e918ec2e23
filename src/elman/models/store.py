"""A model on disk: `config.json` says what it is, `model.safetensors` holds its numbers. No pickle.

Nothing in the folder is trusted: sizes are compared with the settings before memory is taken, no file leads out of the
folder, and a missing, truncated or foreign file is one clear error. Each file is read once, and what is checked is what
was read, so that one that is swapped meanwhile changes nothing.

    sha256             of all other settings; among them are
    weights_sha256     of model.safetensors, and
    tokenizer_sha256   of the tokenizer, so that one number stands for the whole model

A folder without sums, from an earlier version or another tool, is read as well.

The two files are replaced one after the other. Whoever opens a model while its run saves a better one may find the new
weights beside the old settings; that is seen by the sums, and read again (`read_settled`).
"""

import hashlib
import json
import reprlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from elman.errors import ElmanError, InputError, ModelError
from elman.files import read_at_most, replacing, write_atomically
from elman.sealed import seal, sum_of

CONFIG, WEIGHTS = "config.json", "model.safetensors"

SCHEMA = "elman.model/1"

LARGEST_CONFIG = 1 << 20
"""Bytes; a thousandth of it is usual."""

LARGEST_HEADER = 1 << 23
"""Bytes of the header of a safetensors file; that of 10,000 tensors has an eighth of it."""

READINGS = 20
"""How often a model is read anew that is being saved, at most."""

PAUSE_SECONDS = 0.05
"""Between two of them, until both files are replaced."""

PICKLES = (".bin", ".ckpt", ".joblib", ".pickle", ".pkl", ".pt", ".pth")
"""Suffixes of files that Python's pickle wrote, alone or in a zip archive."""


def write_model(folder: Path, settings: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Replace both files, the config last, so that a folder with a config has weights.

    The scratch file of the config is there before the weights are replaced: it tells readers what goes on.

    Args:
        folder: Exists already.
        settings: What `read_settings` is to return, beside the sums.
        tensors: Name to tensor; tied tensors appear once.
    """
    payload = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    weights = safetensors.torch.save(payload, metadata={"schema": SCHEMA})
    described = {"schema": SCHEMA, **settings, "weights_sha256": hashlib.sha256(weights).hexdigest()}
    with replacing(folder / CONFIG) as config:
        config.write(f"{seal(described, indent=2)}\n".encode())
        write_atomically(folder / WEIGHTS, weights)


Read = TypeVar("Read")


def read_settled(folder: Path, read: Callable[[], Read]) -> Read:
    """What `read` makes of a model folder; where that fails while the files are being replaced, it is called again.

    Raises:
        ModelError: As `read` raised it, of files that stay as they are.
    """
    for _ in range(READINGS):
        before = _versions(folder)
        try:
            return read()
        except ModelError:
            if any(folder.glob(f".{CONFIG}.*")):  # as `replacing` calls it
                time.sleep(PAUSE_SECONDS)
            elif _versions(folder) == before:
                raise
    return read()


def _versions(folder: Path) -> list[tuple[int, int, int]]:
    """What tells the files that are there now from others of the same names."""
    found = [path.stat() for path in (folder / CONFIG, folder / WEIGHTS) if path.is_file()]
    return [(stat.st_ino, stat.st_mtime_ns, stat.st_size) for stat in found]


def find_model(path: Path) -> Path:
    """The model folder at `path`, which may also be a run folder.

    Raises:
        ModelError: Neither is there; or there is a pickle.
    """
    try:
        for folder in (path, path / "model"):
            if (folder / CONFIG).is_file():
                refuse_escape(path, folder)
                break
        else:
            folder = path
        pickles = [path] if path.is_file() else sorted(folder.iterdir()) if folder.is_dir() else []
        if not (folder / WEIGHTS).exists():
            for file in pickles:
                if file.suffix in PICKLES:
                    raise ModelError(f"{file}: {_NO_PICKLE}")
        if (folder / CONFIG).is_file():
            return folder
        if path.exists():
            raise ModelError(f"{path}: not a model folder: it has no {CONFIG}, nor has its folder model/")
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    raise ModelError(f"{path}: no such model or run folder")


_NO_PICKLE = "a pickle can run code, so it is never opened; convert it to safetensors where you trust it, and load that"


def refuse_escape(folder: Path, path: Path) -> Path:
    """`path`, after making sure that no symbolic link or `..` in it leads out of `folder`, which may be a link itself.

    Raises:
        ModelError: A link or a `..` leads out, or links go in a circle.
    """
    try:
        inside = path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError) as error:  # either, for a circle, as the version of Python has it
        raise ModelError(f"{path}: cannot be followed: symbolic links in a circle; copy the files") from error
    if not inside:
        raise ModelError(f"{path}: leads out of {folder}, to {path.resolve()}; copy the file into the folder")
    return path


def read_part(folder: Path, name: str, at_most: int) -> bytes:
    """A file of a model folder, at most so many bytes of it, read once.

    Raises:
        ModelError: It is missing, not a file, larger, or not in the folder.
    """
    path = refuse_escape(folder, folder / name)
    if not path.is_file():
        raise ModelError(f"{path}: missing; copy the whole model folder")
    try:
        return read_at_most(path, at_most)
    except InputError as error:
        raise ModelError(str(error)) from error


def read_settings(folder: Path) -> dict[str, Any]:
    """The settings that `write_model` wrote, the sum of the weights among them.

    Raises:
        ModelError: The file is missing, damaged, changed, or of a newer schema.
    """
    path = folder / CONFIG
    try:
        settings = json.loads(read_part(folder, CONFIG, LARGEST_CONFIG))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: cannot be read: {error}") from error
    found = settings.get("schema") if isinstance(settings, dict) else None
    if found != SCHEMA:
        raise ModelError(f"{path}: schema {reprlib.repr(found)}, and this version reads {SCHEMA!r}")
    known = settings.pop("sha256", None)
    if known is not None and known != sum_of(settings):
        raise ModelError(
            f"{path}: damaged, or changed since it was written: its sha256 is another; restore the original file"
        )
    return dict(settings)


def read_tensors(
    folder: Path, expected: dict[str, Tensor] | None, *, sha256: object = None
) -> dict[str, Tensor]:
    """The tensors of a model.

    Args:
        folder: A model folder.
        expected: Names, shapes and types that they must have (it may be on "meta"); None takes what is there.
        sha256: What the settings say that the file has, if anything.

    Raises:
        ModelError: A file or a tensor is missing, truncated, changed, of another shape, or not finite.
    """
    path = folder / WEIGHTS
    wanted = sys.maxsize
    if expected is not None:
        wanted = sum(tensor.numel() * tensor.element_size() for tensor in expected.values()) + LARGEST_HEADER
    content = read_part(folder, WEIGHTS, wanted)
    if sha256 is not None and sha256 != hashlib.sha256(content).hexdigest():
        raise ModelError(
            f"{path}: damaged or truncated: it has another sha256 than {CONFIG} says; copy the whole model folder"
        )
    if int.from_bytes(content[:8], "little") > LARGEST_HEADER and not _is_pickle(content):
        raise ModelError(f"{path}: damaged or truncated: a header of more than {LARGEST_HEADER:,} bytes")
    try:
        tensors = dict(sorted(safetensors.torch.load(content).items()))  # it gives them in any order
        spoilt = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    except ElmanError:  # a signal that asks to stop
        raise
    except Exception as error:
        # Its own errors, and whatever Python and torch raise for impossible sizes and types.
        what = _NO_PICKLE if _is_pickle(content) else f"damaged or truncated: {error}"
        raise ModelError(f"{path}: {what}") from error
    del content
    if expected is not None:
        _require_shapes(path, tensors, expected)
    if spoilt:
        raise ModelError(
            f"{path}: {spoilt[0]} holds numbers that are not finite; train again from a sound state"
        )
    return tensors


def _is_pickle(content: bytes) -> bool:
    """Whether this is a pickle, alone or in a zip archive, and no safetensors file."""
    return content[:4] == b"PK\x03\x04" or (content[:1] == b"\x80" and content[8:9] != b"{")


def _require_shapes(path: Path, found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    if set(found) != set(expected):
        missing, foreign = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
        raise ModelError(
            f"{path}: does not fit {CONFIG}: missing {reprlib.repr(missing)}, not expected {reprlib.repr(foreign)}"
        )
    for name, tensor in expected.items():
        if found[name].shape != tensor.shape:
            raise ModelError(
                f"{path}: {name} is {tuple(found[name].shape)}, and {CONFIG} makes it {tuple(tensor.shape)}"
            )
        if found[name].dtype != tensor.dtype:
            raise ModelError(f"{path}: {name} is {found[name].dtype}, expected {tensor.dtype}")
