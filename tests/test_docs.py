"""The documentation is true: its commands run, its Python runs, and its list of settings is the settings.

`python -m tests.test_docs` writes the list anew.
"""

import os
import random
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from elman.cli import run
from elman.cli.settings import describe_preset
from elman.data.tokenizer import train_tokenizer
from elman.settings import setting_sections
from tests.switches import torch_as_before  # noqa: F401 - autouse

ROOT = Path(__file__).parents[1]
SETTINGS = ROOT / "docs" / "settings.md"

PAGES = sorted(
    [path for path in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")) if path.exists()],
    key=lambda path: (path.name != "train.md", path),  # it makes runs/novel
)
GUIDES = [path for path in PAGES if path.parent.name == "guide" or path.name == "README.md"]

SMALL = {"hidden_size": 16, "embedding_dim": 8, "num_layers": 1, "batch_size": 4, "bptt": 16}
"""What a command of the documentation leaves open is small here, through the environment."""


def blocks(path: Path, language: str) -> list[str]:
    """The fenced blocks of a page in `language`."""
    return re.findall(
        rf"^ *```{language.strip(' *')}\n(.*?)^ *```$",
        path.read_text(encoding="utf-8"),
        re.DOTALL | re.MULTILINE,
    )


def commands(path: Path) -> list[tuple[str, str]]:
    """The program, elman or torchrun, and what a page types after it; lines that go on are joined."""
    text = "\n".join(re.sub(r"^ +\$", "$", block, flags=re.MULTILINE) for block in blocks(path, "console"))
    lines = re.findall(r"^\$ (elman|torchrun) (.*)$", text.replace("\\\n", " "), re.MULTILINE)
    return [(program, typed) for program, typed in lines]


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A folder with the files that the documentation speaks of, where it is acted out page by page."""
    folder = tmp_path_factory.mktemp("docs")
    draw = random.Random(0)
    words = [
        f"{draw.choice('bcdfgl')}{draw.choice('aeiou')}{draw.choice('mnrst')}{n % 7}" for n in range(400)
    ]
    lines = [" ".join(draw.choices(words, k=draw.randint(4, 12))) for _ in range(1400)]
    novel, small = "The road\n" + "\n".join(lines[:1200]) + "\n", "\n".join(lines[1000:]) + "\n"
    (folder / "novel.txt").write_text(novel)
    (folder / "lines.txt").write_text(small)
    (folder / "tokenizer.json").write_text(train_tokenizer("bpe", [novel], vocab_size=300).to_json())
    before = Path.cwd()
    os.chdir(folder)
    yield folder
    os.chdir(before)


@pytest.fixture
def small_by_default(monkeypatch):
    for name in setting_sections():
        monkeypatch.delenv(f"ELMAN_{name.upper()}", raising=False)
    for name, value in SMALL.items():
        monkeypatch.setenv(f"ELMAN_{name.upper()}", str(value))


def test_there_is_something_to_try():
    assert sum(len(commands(page)) for page in PAGES) > 15
    assert sum(len(blocks(page, "python")) for page in GUIDES) >= 3


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_says_works(page, desk, small_by_default, capsys):
    for program, typed in commands(page):
        arguments = shlex.split(typed, comments=True)
        if "train" in arguments and "--max-steps" not in arguments:
            arguments += ["--max-steps", "3"]
        if program == "elman":
            code, said = run(arguments), capsys.readouterr().err
        else:
            command = [sys.executable, "-m", "torch.distributed.run", *arguments]
            done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
            code, said = done.returncode, done.stderr
        assert code == 0, f"{page}: {program} {typed}: {said}"
    if page in GUIDES:
        for block in blocks(page, "python"):
            exec(compile(block, str(page), "exec"), {})


def test_the_list_of_settings_is_the_settings():
    remedy = "docs/settings.md is not what `elman settings` prints: python -m tests.test_docs"
    assert blocks(SETTINGS, "toml") == [describe_preset("default")], remedy


def write_settings() -> None:
    """Put the settings of the default preset into their page."""
    text = SETTINGS.read_text(encoding="utf-8")
    block = f"```toml\n{describe_preset('default')}```"
    SETTINGS.write_text(re.sub(r"```toml\n.*?```", lambda _: block, text, flags=re.DOTALL), encoding="utf-8")


if __name__ == "__main__":
    write_settings()
