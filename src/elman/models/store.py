"""A model on disk: `config.json` says what it is, `model.safetensors` holds its numbers. No pickle.

Nothing in the folder is trusted: sizes are compared with the settings before memory is taken, and a missing,
truncated or foreign file is one clear error.
"""

import json
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from elman.errors import ModelError
from elman.files import write_atomically

CONFIG, WEIGHTS = "config.json", "model.safetensors"

SCHEMA = "elman.model/1"


def write_model(folder: Path, settings: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write both files, weights first, so that a folder with a config has them.

    Args:
        folder: Exists already.
        settings: What `read_settings` is to return.
        tensors: Name to tensor; tied tensors appear once.
    """
    payload = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(folder / WEIGHTS, safetensors.torch.save(payload, metadata={"schema": SCHEMA}))
    write_atomically(folder / CONFIG, json.dumps({"schema": SCHEMA, **settings}, indent=2) + "\n")


def find_model(path: Path) -> Path:
    """The model folder at `path`, which may also be a run folder.

    Raises:
        ModelError: Neither is there.
    """
    for folder in (path, path / "model"):
        if (folder / CONFIG).is_file():
            return folder
    if not path.exists():
        raise ModelError(f"{path}: no such model or run folder")
    raise ModelError(f"{path}: not a model folder: it has no {CONFIG}, nor has its folder model/")


def read_settings(folder: Path) -> dict[str, Any]:
    """The settings that `write_model` wrote.

    Raises:
        ModelError: The file is missing, damaged, or of a newer schema.
    """
    path = folder / CONFIG
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path}: missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: cannot be read: {error}") from error
    found = settings.get("schema") if isinstance(settings, dict) else None
    if found != SCHEMA:
        raise ModelError(f"{path}: schema {found!r}, and this version reads {SCHEMA!r}")
    return dict(settings)


def read_tensors(folder: Path, expected: dict[str, Tensor] | None) -> dict[str, Tensor]:
    """The tensors of a model.

    Args:
        folder: A model folder.
        expected: Names, shapes and types that they must have (it may be on "meta"); None takes what is there.

    Raises:
        ModelError: A file or a tensor is missing, truncated, of another shape, or not finite.
    """
    path = folder / WEIGHTS
    if not path.is_file():
        raise ModelError(f"{path}: missing; copy the whole model folder")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            names = set(file.keys())
            if expected is not None:
                _require_shapes(path, {name: file.get_slice(name).get_shape() for name in names}, expected)
            tensors = {name: file.get_tensor(name) for name in names}
    except (safetensors.SafetensorError, OSError) as error:
        raise ModelError(f"{path}: damaged or truncated: {error}") from error
    for name, tensor in tensors.items():
        if expected is not None and tensor.dtype != expected[name].dtype:
            raise ModelError(f"{path}: {name} is {tensor.dtype}, expected {expected[name].dtype}")
        if not torch.isfinite(tensor).all():
            raise ModelError(
                f"{path}: {name} holds numbers that are not finite; train again from a sound state"
            )
    return tensors


def _require_shapes(path: Path, found: dict[str, list[int]], expected: dict[str, Tensor]) -> None:
    if set(found) != set(expected):
        missing, foreign = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
        raise ModelError(f"{path}: does not fit {CONFIG}: missing {missing}, not expected {foreign}")
    for name, tensor in expected.items():
        if tuple(found[name]) != tuple(tensor.shape):
            raise ModelError(
                f"{path}: {name} is {tuple(found[name])}, and {CONFIG} makes it {tuple(tensor.shape)}"
            )
