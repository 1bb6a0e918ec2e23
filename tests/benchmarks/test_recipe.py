"""Each row changes what it names and nothing else; what was trained is not trained again."""

import json
from pathlib import Path

import pytest

from benchmarks import recipe
from elman.errors import ConfigError, DivergedError, StoppedError
from elman.settings import resolve, to_dict
from elman.train.metrics import read_metrics
from tests.switches import torch_as_before  # noqa: F401 - autouse

TEXT = "".join(f"line {i} of a small text, {i * i} and so on\n" for i in range(90))

SMALL = {"hidden_size": 8, "embedding_dim": 6, "batch_size": 3, "bptt": 9, "device": "cpu"}


def flat(settings):
    tables = to_dict(resolve(overrides=settings))
    return {
        name: value for table in tables.values() if isinstance(table, dict) for name, value in table.items()
    }


@pytest.mark.parametrize("name", recipe.ROWS)
def test_a_row_changes_what_it_names_alone(name):
    settings = recipe.ROWS[name]
    base, changed = flat(recipe.ROWS[recipe.BASE]), flat(settings)
    different = {field: value for field, value in changed.items() if base[field] != value}
    assert different == {field: value for field, value in settings.items() if base[field] != value}
    assert bool(different) == (name != recipe.BASE)


def test_rows_differ():
    assert len({json.dumps(flat(settings)) for settings in recipe.ROWS.values()}) == len(recipe.ROWS)


@pytest.fixture
def text(tmp_path, monkeypatch):
    """A small text, and small rows."""
    monkeypatch.setattr(
        recipe, "ROWS", {recipe.BASE: SMALL, "Elman cell": {**SMALL, "cell": "elman"}, "other": SMALL}
    )
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


def test_rows_are_trained_once_for_every_seed(text, tmp_path, monkeypatch, capsys):
    work = tmp_path / "work" / "recipe"
    shown = recipe.compare(str(text), 0.05, work, 2, ["Elman cell"])
    results = read_metrics(work / "results.jsonl")
    assert [(result["asked"].get("cell"), result["asked"]["seed"]) for result in results] == [
        (None, 0),
        ("elman", 0),
        (None, 1),
        ("elman", 1),
    ]
    assert sorted(path.name for path in work.iterdir() if path.is_dir()) == [
        *("Elman-cell-0", "Elman-cell-1", "base-0", "base-1")
    ]
    assert [line.split("|")[1].strip() for line in shown.splitlines()[2:]] == ["base", "Elman cell"]

    monkeypatch.setattr(recipe.elman, "train", None)
    arguments = [str(text), "--seconds", "0.05", "--work", str(work), "--seeds", "2", "--rows", "Elman cell"]
    recipe.main(arguments)
    assert capsys.readouterr().out.strip() == shown


def test_other_settings_are_another_training(text, tmp_path):
    results = tmp_path / "results.jsonl"
    asked = {"corpus": str(text), "documents": "line", **SMALL, "yardstick_order": None}
    first = recipe.train_once(results, "run", {**asked, "max_steps": 2})
    second = recipe.train_once(results, "run", {**asked, "max_steps": 3})
    assert (first["steps"], second["steps"]) == (2, 3)
    assert recipe.train_once(results, "run", {**asked, "max_steps": 2}) == first
    assert first["perplexity"] > 1


def test_a_training_that_diverges_is_a_result_and_one_that_is_interrupted_is_none(
    text, tmp_path, monkeypatch
):
    results = tmp_path / "results.jsonl"
    asked = {"corpus": str(text), **SMALL, "max_steps": 1, "yardstick_order": None}

    def diverge(*, out: Path, **_):
        out.mkdir()
        raise DivergedError("the gradient is not finite")

    def stop(*, out: Path, **_):
        out.mkdir()
        raise StoppedError("stopped by SIGINT after step 1", 2)

    monkeypatch.setattr(recipe.elman, "train", stop)
    with pytest.raises(StoppedError):
        recipe.train_once(results, "run", asked)
    assert recipe.read_results(results) == []

    monkeypatch.setattr(recipe.elman, "train", diverge)  # finds no folder of the half run before
    assert recipe.train_once(results, "run", asked)["bits_per_byte"] is None
    assert len(recipe.read_results(results)) == 1


def result(bits, tokens=100, seconds=2.0):
    return {"bits_per_byte": bits, "tokens": tokens, "seconds": seconds}


def test_the_table_shows_means_differences_and_spreads():
    lines = recipe.table(
        {recipe.BASE: [result(2.0), result(2.2)], "wide": [result(1.9, 300), result(1.95, 100)]}
    )
    assert lines.splitlines()[2:] == [
        "| base | 2.100 (2.000 to 2.200) |  | 50 | 100 |",
        "| wide | 1.925 (1.900 to 1.950) | −0.175 | 100 | 200 |",
    ]
    assert "| wide | diverged |" in recipe.table({recipe.BASE: [result(2.0)], "wide": [result(None)]})
    assert recipe.table({recipe.BASE: [result(2.0)]}).endswith("| base | 2.000 |  | 50 | 100 |")


def test_a_row_that_is_not_there_is_named_with_the_nearest_one(tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'width 192'"):
        recipe.compare("python-docs", 1.0, tmp_path, 1, ["width 193"])


def test_what_cannot_be_done_is_one_line_and_4(tmp_path, capsys):
    assert recipe.main(["--work", str(tmp_path), "--rows", "width 193"]) == 4
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert "did you mean 'width 192'" in line
