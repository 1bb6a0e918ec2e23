"""Tiny models for a hostile user to spoil, and a text to try them on."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from elman.config import ModelConfig
from elman.data.tokenizer import Tokenizer, train_tokenizer
from elman.models.build import build
from elman.models.ngram import estimate
from elman.text_model import TextModel
from tests.command_line import make_text

SHAPE = ModelConfig(cell="lstm", embedding_dim=3, hidden_size=4, num_layers=1)


def write_text(folder: Path) -> Path:
    """A text that anything can be trained on."""
    path = folder / "novel.txt"
    path.write_text(make_text(60), encoding="utf-8")
    return path


def write_network(folder: Path, tokenizer: Tokenizer | None = None, shape: ModelConfig = SHAPE) -> Path:
    """A model folder with random weights, of bytes unless a tokenizer is given."""
    tokenizer = tokenizer or train_tokenizer("byte", [], vocab_size=None)
    torch.manual_seed(0)
    model = build(shape, tokenizer.vocab_size, tokenizer.pad_id).eval()
    TextModel(model, tokenizer, shape).save(folder, "# A card\n")
    return folder


def write_counts(folder: Path) -> Path:
    """The folder of an n-gram model of bytes."""
    tokenizer = train_tokenizer("byte", [], vocab_size=None)
    tokens = np.append(tokenizer.encode(make_text(20)), tokenizer.end_id).astype(np.uint16)
    starts = np.array([0, len(tokens)])
    model = estimate(
        (tokens, starts),
        tokenizer.vocab_size,
        3,
        start_id=tokenizer.start_id,
        excluded_ids=[tokenizer.pad_id],
    )
    TextModel(model, tokenizer, ModelConfig(family="ngram", order=3)).save(folder, "# A card\n")
    return folder


def unseal(folder: Path, **changes: object) -> dict[str, object]:
    """Change config.json as somebody would who takes its sums out, so that all else has to hold; the settings."""
    path = folder / "config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    del settings["sha256"], settings["weights_sha256"]
    for name, value in changes.items():
        (settings["model"] if name in asdict(SHAPE) else settings)[name] = value
    path.write_text(json.dumps(settings), encoding="utf-8")
    return settings


def copy(folder: Path, target: Path) -> Path:
    """For a test to spoil."""
    return shutil.copytree(folder, target)
