"""`elman compare`: what it prints, and what it says to plans and texts that cannot be."""

import csv
import json
import re
import signal
import sys
from pathlib import Path

import pytest

from elman.compare.table import Row
from elman.train.watcher import Watcher
from tests.comparison.tiny import write_text

TINY = [
    *("--tokens", "640", "--params", "20k", "--seeds", "1", "--learning-rate", "0.01"),
    *("--documents", "line", "--vocab-size", "300", "--valid", "0.2"),
    *("--batch-size", "4", "--bptt", "16", "--device", "cpu"),
]
"""One training of each model."""


@pytest.fixture
def text(tmp_path) -> Path:
    return write_text(tmp_path / "good.txt")


def everything_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_a_table_for_a_terminal_and_everything_in_the_files(elman, text, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["elman", "compare", "good.txt"])
    outcome = elman("compare", "good.txt", "--models", "ngram, gru,elman", *TINY)
    assert outcome.code == 0
    lines = outcome.out.splitlines()
    assert lines[0].split() == ["model", "bits/byte", "to", "best", "perpl.", "params", "tok/s"]
    assert len(lines) >= 7
    assert max(map(len, outcome.out.splitlines())) <= 80
    rows = list(csv.DictReader(Path("runs/compare-good/table.csv").read_text().splitlines()))
    assert [line.split()[0] for line in lines[1:4]] == [row["model"] for row in rows]
    assert {row["model"] for row in rows} == {"ngram", "gru", "elman"}
    assert lines[1].split()[2] == "best"
    for line, row in zip(lines[1:4], rows, strict=True):
        assert line.split()[1] == f"{float(row['bits_per_byte']):.3f}"
        assert f" {int(row['parameters']):,} " in line
    assert "report  runs/compare-good/report.html" in lines
    assert "table   runs/compare-good/table.md" in lines
    for name in ("report.html", "table.md"):
        assert "elman compare good.txt" in Path("runs/compare-good", name).read_text(encoding="utf-8")
    assert re.search(r"^3 trainings on cpu .*products$", outcome.err, re.MULTILINE)
    assert re.search(r"^elman-seed-0: \d\.\d{3} bits per byte$", outcome.err, re.MULTILINE)


def test_the_widest_usual_rows_fit_80_columns(elman, monkeypatch):
    """Three seeds, six figures of parameters and of speed: numbers are not broken over lines."""
    from elman import api
    from elman.compare.run import CompareResult

    values = dict.fromkeys(Row.__dataclass_fields__, 1)
    values.update(parameters=9_999_999, perplexity=1234.56, tokens_per_second=654_321.0)
    values.update(bits_per_byte=2.345, bits_per_byte_sd=0.012)
    for own in ("model", "difference", "interval"):
        del values[own]
    rows = [
        Row(**values, model="lstm", difference=0.0, interval=(0.0, 0.0)),
        Row(**values, model="transformer", difference=0.123, interval=(-0.1, 0.346)),
    ]
    note = "slstm, mlstm, transformer: 0.02 is the end of the sweep; a higher rate may be better, who knows."
    result = CompareResult(out=Path("out"), rows=rows, facts={}, notes=[note])
    monkeypatch.setattr(api, "compare", lambda *_, **__: result)
    lines = elman("compare").out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[2].startswith("transformer  2.345 ± 0.012  +0.123 [−0.100, 0.346]")
    assert " ".join(line.strip() for line in lines[3:5]) == f"note: {note}"


def test_json_is_one_document(elman, text):
    outcome = elman("compare", "good.txt", "--models", "ngram,elman", *TINY, "--out", "out", "--json", "-q")
    document = outcome.document
    assert outcome.err == ""
    assert set(document) == {"schema", "out", "facts", "notes", "rows"}
    assert document["schema"] == "elman.compare/1"
    assert document == json.loads(Path("out/compare.json").read_text())
    for row in document["rows"]:
        assert set(row) == set(Row.__dataclass_fields__)
        assert row["bits_per_byte_sd"] is None
    assert document["rows"][0]["difference"] == 0


def test_ctrl_c_is_one_line_and_the_same_command_goes_on(elman, text, monkeypatch):
    command = ["compare", "good.txt", "--models", "ngram,elman,window", *TINY, "--out", "out", "--json"]
    original = Watcher.__call__

    def press(self, result):
        if self.folder.name == "window-seed-0":
            signal.raise_signal(signal.SIGINT)
        return original(self, result)

    monkeypatch.setattr(Watcher, "__call__", press)
    outcome = elman(*command)
    assert outcome.refuses(130, "what is finished is kept", "the same command goes on")
    assert {path.stem for path in Path("out/results").iterdir()} == {"ngram-counts", "elman-seed-0"}
    monkeypatch.setattr(Watcher, "__call__", original)
    outcome = elman(*command)
    assert outcome.code == 0
    assert re.search(r"^3 trainings on cpu .*, 2 of them done already", outcome.err, re.MULTILINE)
    assert len(outcome.document["rows"]) == 3


BAD = [
    (["--time", "0"], 4, ["time", "above 0"]),
    (["--time", "abc"], 4, ["time", "'abc'", "90s"]),
    (["--time", "-5"], 4, ["time", "'-5'"]),
    (["--tokens", "0"], 4, ["tokens (0)", "at least 1"]),
    (["--tokens", "1.5"], 4, ["tokens", "'1.5'", "whole number"]),
    (["--time", "5s", "--tokens", "5k"], 4, ["one budget"]),
    (["--params", "10"], 4, ["params (10)", "elman", "smallest has", "--params"]),
    (["--params", "many"], 4, ["params", "'many'", "500k"]),
    (["--params", "0"], 4, ["params (0)"]),
    (["--seeds", "0"], 4, ["seeds (0)", "at least 1"]),
    (["--seeds", "1.5"], 2, ["--seeds", "whole number"]),
    (["--models", ""], 4, ["no models", "ngram"]),
    (["--models", "lstn"], 4, ["'lstn'", "did you mean 'lstm'", "transformer"]),
    (["--models", "elman,elman"], 4, ["elman", "once"]),
    (["--learning-rate", "0"], 4, ["learning_rate"]),
    (["--batch-size", "9999"], 4, ["good.txt", "too few", "--batch-size"]),
    (["--bptt", "0"], 4, ["bptt"]),
    (["--device", "tpu"], 4, ["device"]),
    (["--device", "cuda:77"], 4, ["cuda:77", "usable"]),
    (["--valid", "2"], 4, ["valid"]),
    (["--vocab-size", "1"], 4, ["vocab_size"]),
    (["--seed", "3"], 2, ["--seed", "did you mean --seeds"]),
    (["--max-time", "3"], 2, ["--max-time"]),
    (["--out", "good.txt"], 4, ["good.txt", "--out"]),
    (["--out", "good.txt/deep"], 4, ["good.txt", "--out"]),
    (["--out", "full"], 4, ["full", "holds no comparison", "--out"]),
]


@pytest.mark.parametrize(("options", "code", "parts"), BAD, ids=[" ".join(case[0]) for case in BAD])
def test_what_cannot_be_is_one_line_and_leaves_nothing(elman, text, tmp_path, options, code, parts):
    Path("full").mkdir()
    Path("full/thesis.tex").touch()
    before = everything_in(tmp_path)
    models = [] if "--models" in options else ["--models", "elman"]
    outcome = elman("compare", "good.txt", *models, "--documents", "line", *options)
    outcome.refuses(code, *parts)
    assert everything_in(tmp_path) == before


@pytest.mark.parametrize(
    ("name", "parts"),
    [("missing.txt", ["missing.txt"]), ("empty.txt", ["empty"]), ("short.txt", ["short.txt"])],
)
@pytest.mark.parametrize("models", ["ngram", "elman"])
def test_a_text_that_cannot_be_used_leaves_nothing(elman, texts, tmp_path, name, parts, models):
    before = everything_in(tmp_path)
    elman("compare", name, "--models", models).refuses(4, *parts)
    assert everything_in(tmp_path) == before


def test_another_plan_needs_another_folder(elman, text):
    assert elman("compare", "good.txt", "--models", "ngram", *TINY, "-q").code == 0
    assert elman("compare", "good.txt", "--models", "ngram", *TINY, "-q").code == 0
    changed = ["8" if option == "16" else option for option in TINY]
    outcome = elman("compare", "good.txt", "--models", "ngram", *changed)
    outcome.refuses(4, "bptt differs: 16 there, 8 here", "runs/compare-good", "--out")
