"""`elman eval --mix`: weights from one text, the score of another, and a folder that is a model."""

import json
import os
import shutil
from pathlib import Path

import pytest

from elman.cli import run
from elman.cli.evaluate import held_out
from elman.text_model import MixedTextModel, load
from tests.cli.test_evaluate import KEYS
from tests.command_line import make_text, options, small


@pytest.fixture(scope="session")
def shelf(tmp_path_factory) -> Path:
    """A folder with models of the lines of `novel.txt`, `words` of another tokenizer, and texts."""
    folder = tmp_path_factory.mktemp("shelf")
    (folder / "novel.txt").write_text(make_text(200), encoding="utf-8")
    (folder / "few.txt").write_text(make_text(4, seed=3), encoding="utf-8")
    (folder / "lines.txt").write_text(make_text(40, seed=1), encoding="utf-8")
    (folder / "other.txt").write_text(make_text(40, seed=2), encoding="utf-8")
    before = Path.cwd()
    os.chdir(folder)
    try:
        for name, given in {
            "lstm": small(max_steps=200, batch_size=16),
            "ngram": small(model="ngram", valid="other.txt"),
            "window": small(model="window", max_steps=20),
            "words": options(model="ngram", order=2, tokenizer="word"),
        }.items():
            # The counts are sharp, but wrong where the other is right.
            corpus = "few.txt" if name == "ngram" else "novel.txt"
            command = ["train", corpus, "--documents", "line", *given, "--out", name, "-q"]
            assert run(command) == 0
    finally:
        os.chdir(before)
    return folder


@pytest.fixture(autouse=True)
def on_the_shelf(shelf, monkeypatch):
    monkeypatch.chdir(shelf)


LINES = ["--documents", "line"]
MIX = ["eval", "lstm", "ngram", "lines.txt", *LINES, "--mix"]


def test_json_holds_the_mixture_its_weights_and_its_parts(elman):
    document = elman(*MIX, "--json").document
    assert set(document) == {*KEYS, "weights", "parts"}
    assert document["schema"] == "elman.eval/1"
    assert list(document["weights"]) == list(document["parts"]) == ["lstm", "ngram"]
    assert sum(document["weights"].values()) == pytest.approx(1)
    assert all(weight > 0.01 for weight in document["weights"].values())  # else the other tests see nothing
    for name, part in document["parts"].items():
        alone = elman("eval", name, "lines.txt", *LINES, "--json").document
        assert part == {key: alone[key] for key in part}
        assert (part["targets"], part["documents"]) == (document["targets"], 40)


def test_the_table_has_a_line_for_each_and_the_weights(elman):
    outcome = elman(*MIX)
    assert outcome.code == 0
    document = elman(*MIX, "--json").document
    for name, weight in document["weights"].items():
        assert f"{name} {weight:.3f}" in outcome.out.splitlines()[-1]
    assert [line.split()[0] for line in outcome.out.splitlines() if "40" in line] == [
        "lstm",
        "ngram",
        "mixture",
    ]


def test_on_the_text_of_its_weights_a_mixture_beats_its_parts(elman):
    document = elman(*MIX, "--valid", "lines.txt", "--json").document
    assert document["nats"] < min(part["nats"] for part in document["parts"].values())
    elsewhere = elman(*MIX, "--valid", "other.txt", "--json").document
    assert elsewhere["targets"] == document["targets"]
    assert document["nats"] <= elsewhere["nats"] != document["nats"]


def test_the_weights_come_from_the_held_out_text_of_the_first_run(elman):
    parts = [load("lstm"), load("ngram")]
    fitted = MixedTextModel.fit(parts, held_out(Path("lstm"), parts[0]))
    weights = elman(*MIX, "--json").document["weights"]
    assert list(weights.values()) == pytest.approx(list(fitted.weights), abs=1e-9)


def test_without_a_text_half_the_held_out_documents_find_the_weights_and_half_are_scored(elman):
    outcome = elman("eval", "lstm", "ngram", "--mix", "--json")
    parts = [load("lstm"), load("ngram")]
    store = held_out(Path("lstm"), parts[0])
    numbers = range(store.documents)
    assert len(numbers) > 4
    assert outcome.document["documents"] == len(numbers[::2])
    fitted = MixedTextModel.fit(parts, store.select(numbers[1::2]))
    assert list(outcome.document["weights"].values()) == pytest.approx(list(fitted.weights), abs=1e-9)
    score = fitted.score_store(store.select(numbers[::2]))
    assert outcome.document["nats"] == pytest.approx(score.nats, rel=1e-6)


def test_a_held_out_text_of_one_document_is_not_halved(elman, desk):
    elman("eval", desk / "run", "lstm", "--mix").refuses(4, "is one document", "give a TEXT")


def test_different_tokenizers_are_refused_and_the_way_out_works(elman, tmp_path):
    for models in (["lstm", "words"], ["lstm", "ngram", "words"]):
        refused = elman("eval", *models, "lines.txt", "--mix").refuses(4, "one tokenizer")
        assert "--tokenizer FIRST/model/tokenizer.json" in refused
    advised = ["--model", "ngram", "--tokenizer", "words/model/tokenizer.json", "--order", "3", *LINES]
    assert elman("train", "novel.txt", *advised, "--out", tmp_path / "third", "-q").code == 0
    document = elman("eval", "words", tmp_path / "third", "lines.txt", *LINES, "--mix", "--json").document
    assert list(document["weights"]) == ["words", str(tmp_path / "third")]


def test_a_mixture_needs_two_models(elman):
    for arguments in (["lstm"], ["lstm", "lines.txt"]):
        elman("eval", *arguments, "--mix").refuses(2, "two models or more", "elman eval A B [TEXT] --mix")
    elman("eval", "lstm", "ngram", "lines.txt").refuses(2, "unexpected argument 'ngram'", "--mix")
    elman("eval", "lstm", "nowhere", "lines.txt", "--mix").refuses(5, "nowhere: no such model")


@pytest.mark.parametrize("option", [["--out", "mixed"], ["--valid", "other.txt"]])
def test_what_is_for_a_mixture_is_refused_without_one(elman, option):
    elman("eval", "lstm", "lines.txt", *option).refuses(2, option[0], "add --mix")
    assert not Path("mixed").exists()


def test_the_folder_of_a_mixture_is_a_model(elman, tmp_path):
    mixed = tmp_path / "mixed"
    document = elman(*MIX, "--out", mixed, "--json").document
    assert {path.name for path in mixed.iterdir()} == {
        *("config.json", "model.safetensors", "tokenizer.json", "README.md", "parts")
    }
    shutil.move(mixed, tmp_path / "elsewhere")  # and needs nothing else
    mixed = tmp_path / "elsewhere"
    scored = elman("eval", mixed, "lines.txt", *LINES, "--json").document
    assert scored["nats"] == pytest.approx(document["nats"], rel=1e-6)
    (sample,) = elman("generate", mixed, "the", "--max-tokens", 9, "--json").document["samples"]
    assert 0 < sample["tokens"] <= 9
    checks = elman("doctor", mixed, "--json").document["checks"]
    assert {"sums to one", "cutting", "save and load"} < {check["name"] for check in checks}
    assert [check["name"] for check in checks if not check["pass"]] == []
    again = ["eval", mixed, "window", "lines.txt", *LINES, "--mix", "--json"]
    elman(*again).refuses(4, "without its run has no held-out text", "give --valid TEXT")
    assert list(elman(*again, "--valid", "other.txt").document["weights"]) == [str(mixed), "window"]


def test_a_folder_that_exists_stays_as_it_is(elman, tmp_path):
    (tmp_path / "precious").write_text("data")
    for out in (tmp_path, tmp_path / "precious"):
        elman(*MIX, "--out", out).refuses(4, f"{out}: exists already", "--out")
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


def test_three_models(elman):
    document = elman("eval", "lstm", "ngram", "window", "lines.txt", *LINES, "--mix", "--json").document
    assert list(document["weights"]) == ["lstm", "ngram", "window"]
    assert sum(document["weights"].values()) == pytest.approx(1)


def test_the_same_model_twice_is_refused(elman):
    elman("eval", "lstm", "ngram", "lstm", "lines.txt", "--mix").refuses(2, "given twice")


@pytest.mark.parametrize(
    ("weights", "parts"),
    [
        ([0.5, 0.6], ["config.json", "sum one"]),
        ([1.0, 0.0], ["config.json", "sum one"]),
        ([0.5, float("nan")], ["config.json", "sum one"]),
        ([], ["config.json", "sum one"]),
        ("even", ["config.json", "sum one"]),
        ([0.5, 0.25, 0.25], ["parts/3: no such model"]),
    ],
)
def test_a_damaged_mixture_is_one_line(elman, tmp_path, weights, parts):
    assert elman(*MIX, "--out", tmp_path / "mixed").code == 0
    path = tmp_path / "mixed/config.json"
    settings = json.loads(path.read_text())
    assert settings.pop("sha256")  # which would be reason enough
    path.write_text(json.dumps(settings | {"weights": weights}))
    elman("eval", tmp_path / "mixed", "lines.txt").refuses(5, *parts)


def test_a_part_that_is_missing_is_named(elman, tmp_path):
    assert elman(*MIX, "--out", tmp_path / "mixed").code == 0
    shutil.rmtree(tmp_path / "mixed/parts/2")
    elman("eval", tmp_path / "mixed", "lines.txt").refuses(5, "parts/2: no such model")
