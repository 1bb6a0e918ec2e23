"""`import elman`: a handful of names, each from its home, which stay what they are whatever is imported."""

import math
import subprocess
import sys
from pathlib import Path

import pytest

import elman
from elman.cli import run
from elman.errors import ConfigError, ElmanError, InputError, ModelError
from tests.small_run import SMALL, TEXT
from tests.switches import torch_as_before  # noqa: F401 - autouse

SETTINGS = SMALL | {"num_layers": 1, "max_steps": 3}

PUBLIC = {"ElmanError", "Sample", "Score", "TextModel", "compare", "evaluate", "load", "resume", "train"}


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A text, and a run on it."""
    folder = tmp_path_factory.mktemp("api")
    (folder / "novel.txt").write_text(TEXT)
    elman.train(folder / "novel.txt", out=folder / "run", **SETTINGS)
    return folder


def test_the_public_names():
    assert set(elman.__all__) == PUBLIC
    assert {*PUBLIC, "__version__"} <= set(dir(elman))
    names: dict[str, object] = {}
    exec("from elman import *", names)
    assert set(names) - {"__builtins__"} == PUBLIC
    for name in PUBLIC:
        assert names[name] is getattr(elman, name)
        assert callable(names[name])
        assert names[name].__doc__


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'elman' has no attribute 'tran'"):
        elman.tran  # noqa: B018


def test_the_version_is_that_of_the_package():
    pyproject = (Path(__file__).parents[1] / "pyproject.toml").read_text()
    assert f'version = "{elman.__version__}"' in pyproject


@pytest.mark.parametrize("first", ["train.run", "evaluate.score", "api", "text_model", "cli.train"])
def test_a_room_does_not_hide_the_function_of_its_name(first):
    """`elman.train` and `elman.evaluate` are folders too, which the import system would put in their place."""
    program = f"""
import elman, sys
from elman.{first} import __name__ as loaded
assert "torch" in sys.modules or loaded.startswith("elman.cli")
for _ in range(2):
    assert elman.train.__module__ == elman.evaluate.__module__ == "elman.api", elman.train
from elman.train import run
from elman.evaluate import score
import elman.train.run
assert run is sys.modules["elman.train.run"] and score is sys.modules["elman.evaluate.score"]
from elman import train, evaluate
assert train is elman.train and evaluate is elman.evaluate
"""
    if first in ("train.run", "cli.train"):  # a process takes seconds; two ways in cover both folders
        subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, timeout=60)
    else:
        exec(program, {})


def test_importing_costs_nothing():
    program = (
        "import elman, sys; assert not {'torch', 'numpy', 'cyclopts'} & set(sys.modules); print(dir(elman))"
    )
    subprocess.run(
        [sys.executable, "-W", "error", "-c", program], check=True, timeout=60, capture_output=True
    )


def test_train_returns_what_it_wrote(desk, capfd):
    result = elman.train(str(desk / "novel.txt"), out=str(desk / "again"), **SETTINGS)
    assert capfd.readouterr() == ("", "")
    assert result.run == desk / "again"
    assert result.steps == 3
    assert isinstance(result.valid, elman.Score)
    assert math.isfinite(result.valid.bits_per_byte)
    assert elman.load(result.run).generate(max_tokens=9) == elman.load(result.model).generate(max_tokens=9)
    assert elman.load(result.run).generate(max_tokens=9) == elman.load(desk / "run").generate(max_tokens=9)


def test_settings_come_from_preset_and_file_and_arguments_but_not_from_the_environment(
    desk, tmp_path, monkeypatch
):
    monkeypatch.setenv("ELMAN_HIDDEN_SIZE", "5")
    (tmp_path / "my.toml").write_text('preset = "chapter"\n[model]\nembedding_dim = 4\nhidden_size = 7\n')
    options = dict(SETTINGS)
    del options["embedding_dim"]
    result = elman.train(desk / "novel.txt", config=tmp_path / "my.toml", out=tmp_path / "run", **options)
    config = elman.load(result.run).config
    assert result.preset == "chapter"
    assert (config.cell, config.embedding_dim, config.hidden_size) == ("elman", 4, 8)


def test_evaluate_takes_a_model_or_its_folder(desk):
    by_folder = elman.evaluate(desk / "run", desk / "novel.txt", documents="line")
    by_name = elman.evaluate(str(desk / "run"), str(desk / "novel.txt"), documents="line", batch_size=7)
    by_model = elman.evaluate(elman.load(desk / "run"), desk / "novel.txt", documents="line")
    assert by_folder == by_model
    assert by_folder.documents == TEXT.count("\n")
    assert by_folder.targets == by_folder.bytes + by_folder.documents
    assert by_name.nats == pytest.approx(by_folder.nats, rel=1e-6)
    whole = elman.evaluate(desk / "run", desk / "novel.txt")
    assert (by_folder + whole).targets == by_folder.targets + whole.targets


def test_it_is_what_the_command_line_does(desk, capsys):
    assert run(["generate", str(desk / "run"), "line", "--max-tokens", "12"]) == 0
    (sample,) = elman.load(desk / "run").generate("line", max_tokens=12)
    assert isinstance(sample, elman.Sample)
    assert capsys.readouterr().out == f"line{sample.text}\n"


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda desk: elman.train(desk / "missing.txt", out=desk / "no"), InputError),
        (lambda desk: elman.train(desk / "novel.txt", out=desk / "no", hiden_size=3), ConfigError),
        (lambda desk: elman.train(desk / "novel.txt", out=desk / "no", hidden_size=0), ConfigError),
        (lambda desk: elman.train(desk / "novel.txt", out=desk / "no", preset="chaptr"), ConfigError),
        (lambda desk: elman.train(desk / "novel.txt", out=desk / "run", **SETTINGS), InputError),
        (lambda desk: elman.load(desk / "missing"), ModelError),
        (lambda desk: elman.evaluate(desk / "run", desk / "missing.txt"), InputError),
        (lambda desk: elman.load(desk / "run").generate(temperature=-1.0), ConfigError),
    ],
)
def test_errors_are_those_of_the_tree(desk, call, error):
    with pytest.raises(error) as caught:
        call(desk)
    assert isinstance(caught.value, elman.ElmanError)
    assert elman.ElmanError is ElmanError
    assert "\n" not in str(caught.value)
    assert not (desk / "no").exists()
