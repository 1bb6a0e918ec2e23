"""The command line called in this process: what it is given, where, and all that it says.

    outcome = call("train", "novel.txt", *options(max_steps=4, tokenizer="byte"), "--out", "run", "--json")
    assert outcome.document["steps"] == 4

A folder whose tests ask for the fixtures `elman` and `plain_surroundings` imports them in its conftest.
"""

import contextlib
import io
import json
import os
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from elman.cli import run

WORDS = ["the", "a", "cat", "of", "and", "return", "value", "when", "12", "345", "walked", ".", ",", "née"]


def make_text(lines: int, seed: int = 0) -> str:
    """Lines of words, some of them with characters of more than a byte."""
    draw = random.Random(seed)
    return "".join(" ".join(draw.choices(WORDS, k=draw.randint(3, 14))) + "\n" for _ in range(lines))


def options(**settings: object) -> list[str]:
    """`--name value` for each of the settings."""
    pairs = ((f"--{name.replace('_', '-')}", str(value)) for name, value in settings.items())
    return [word for pair in pairs for word in pair]


SETTINGS = {
    "max_steps": 4,
    "hidden_size": 16,
    "embedding_dim": 8,
    "num_layers": 1,
    "batch_size": 4,
    "bptt": 16,
    "tokenizer": "byte",
    "device": "cpu",
}


def small(**given: object) -> list[str]:
    """Options of a training that takes a moment, but for those that are given."""
    return options(**SETTINGS | given)


SMALL = small()


@dataclass(frozen=True)
class Outcome:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """stdout as the one JSON document that it is."""
        assert self.code in (0, 1, 130), self.err
        return json.loads(self.out)

    def refuses(self, code: int, *parts: str) -> str:
        """Assert an end with `code` and one line for the user that holds all `parts`; that line."""
        lines = self.err.splitlines()
        assert self.code == code, (self.code, self.err)
        assert [line for line in lines if line.startswith("elman: ")] == lines[-1:], self.err
        assert "Traceback" not in self.err
        assert "fault of elman's" not in self.err
        assert self.out == ""
        for part in parts:
            assert part in lines[-1], lines[-1]
        return lines[-1]


def call(*arguments: object, stdin: bytes = b"") -> Outcome:
    """Call a verb in this process; `stdin` is what it reads there."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run([str(argument) for argument in arguments])
    return Outcome(code, out.getvalue(), err.getvalue())


@pytest.fixture
def elman() -> Callable[..., Outcome]:
    """`call`, for a test that has no other use of the name."""
    return call


@pytest.fixture
def plain_surroundings(monkeypatch, tmp_path):
    """An empty working folder, a terminal of 80 columns, and no settings from outside."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    for name in [name for name in os.environ if name.startswith("ELMAN_") and name != "ELMAN_CACHE"]:
        monkeypatch.delenv(name)
