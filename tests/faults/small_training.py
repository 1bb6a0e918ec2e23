"""A training of a moment, as its options on a command line, and all that it has come to when it is over."""

import json
from hashlib import sha256
from pathlib import Path

import pytest

from elman.train.checkpoint import Checkpoints
from elman.train.metrics import read_metrics
from tests.command_line import options
from tests.small_run import SMALL

SETTINGS = SMALL | {
    "embedding_dim": 8,
    "num_heads": 2,
    "bptt": 8,
    "max_steps": 40,
    "validations": 4,
    "valid_tokens": 200,
    "yardstick_order": "none",
}

TIMES = ("seconds", "tokens_per_second")
"""What is never the same twice."""


def small(**given: object) -> list[str]:
    """The options of it, but for those that are given."""
    return options(**SETTINGS | given)


def outcome(run: Path) -> dict[str, object]:
    """All that a finished run has come to, but for the time that it took."""
    newest = Checkpoints(run / "checkpoints", warn=pytest.fail).newest()
    values = json.loads(newest.files["trainer.json"])
    del values["parts"]["budget"], values["parts"]["metrics"], values["parts"]["events"]
    del values["parts"]["watcher"]["recorded"]
    result = without_times(json.loads((run / "result.json").read_bytes()))
    return {
        "step": newest.step,
        "trainer.json": values,
        "metrics": [without_times(record) for record in read_metrics(run / "metrics.jsonl")],
        "result": {name: value for name, value in result.items() if name not in ("run", "model")},
        "config": digest((run / "config.toml").read_bytes()),
        "files": {name: digest(content) for name, content in newest.files.items() if name != "trainer.json"},
        "model": {
            name: digest((run / "model" / name).read_bytes())
            for name in ("model.safetensors", "config.json", "tokenizer.json")
        },
    }


def without_times(record: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in record.items() if name not in TIMES}


def digest(content: bytes) -> str:
    return sha256(content).hexdigest()
