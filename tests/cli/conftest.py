"""A tiny trained run for the verbs that want one, and good and bad texts."""

import os
import shutil
from pathlib import Path

import pytest

from elman.cli import run
from tests.command_line import SMALL, make_text
from tests.command_line import elman as elman
from tests.command_line import plain_surroundings as plain_surroundings
from tests.switches import torch_as_before  # noqa: F401 - autouse


@pytest.fixture(autouse=True)
def in_plain_surroundings(plain_surroundings):
    """Every test of this folder."""


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
