"""A tiny trained run for the verbs that want one, and a way to call a verb and look at all it said."""

import contextlib
import io
import json
import os
import random
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from elman.cli import run
from tests.switches import torch_as_before  # noqa: F401 - autouse

SMALL = [
    *("--max-steps", "4", "--hidden-size", "16", "--embedding-dim", "8", "--num-layers", "1"),
    *("--batch-size", "4", "--bptt", "16", "--tokenizer", "byte", "--device", "cpu"),
]
"""Options of a training that takes a moment."""

WORDS = ["the", "a", "cat", "of", "and", "return", "value", "when", "12", "345", "walked", ".", ",", "née"]


def make_text(lines: int, seed: int = 0) -> str:
    """Lines of words, some of them with characters of more than a byte."""
    draw = random.Random(seed)
    return "".join(" ".join(draw.choices(WORDS, k=draw.randint(3, 14))) + "\n" for _ in range(lines))


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


Call = Callable[..., Outcome]


@pytest.fixture
def elman(monkeypatch) -> Call:
    """Call a verb in this process; `stdin` is what it reads there."""

    def call(*arguments: object, stdin: bytes = b"") -> Outcome:
        out, err = io.StringIO(), io.StringIO()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run([str(argument) for argument in arguments])
        return Outcome(code, out.getvalue(), err.getvalue())

    return call


@pytest.fixture(autouse=True)
def plain_surroundings(monkeypatch, tmp_path):
    """An empty working folder, a terminal of 80 columns, and no settings from outside."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    for name in [name for name in os.environ if name.startswith("ELMAN_") and name != "ELMAN_CACHE"]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def desk(tmp_path_factory) -> Path:
    """A folder with texts, and with `run`, trained on `novel.txt`."""
    folder = tmp_path_factory.mktemp("desk")
    (folder / "novel.txt").write_text(make_text(200), encoding="utf-8")
    (folder / "lines.txt").write_text(make_text(60, seed=1), encoding="utf-8")
    before = Path.cwd()
    os.chdir(folder)
    try:
        assert run(["train", str(folder / "novel.txt"), *SMALL, "--out", str(folder / "run"), "--quiet"]) == 0
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def copy_of_run(desk, tmp_path) -> Path:
    """The run, for a test to spoil."""
    return shutil.copytree(desk / "run", tmp_path / "spoilt")


@pytest.fixture
def texts(tmp_path) -> dict[str, Path]:
    """Good and bad texts by name, in the working folder."""
    novel = make_text(60).encode()
    contents = {
        "good.txt": novel,
        "empty.txt": b"",
        "blank.txt": b"  \n\n \n",
        "short.txt": b"ab",
        "latin1.txt": novel + "na\xefve".encode("latin1") + novel,
        "binary.txt": b"\x7fELF" + bytes(range(256)) * 20,
        "nuls.txt": bytes(400) + novel,
        "bom.txt": b"\xef\xbb\xbf" + novel,
        "crlf.txt": novel.replace(b"\n", b"\r\n"),
        "one_line.txt": novel.replace(b"\n", b" ") * 40,
        "broken.jsonl": b'{"text": "a b c"}\n{"text": oops}\n',
        "field.jsonl": b'{"body": "a b c"}\n',
        "number.jsonl": b'{"text": 3}\n',
        "sp ace ünï.txt": novel,
        "new\nline.txt": novel,
        "\x1b[31mred.txt": novel,
    }
    paths = {name: tmp_path / name for name in contents}
    for name, content in contents.items():
        paths[name].write_bytes(content)
    return paths
