"""`elman verify`: a table or a document, and an exit code that says whether the run is sound."""

import json
import shutil
from pathlib import Path

import pytest

KEYS = {"schema", "run", "sound", "checks"}


def everything_in(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def spoil_metrics(run: Path) -> None:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    record = json.loads(lines[0])
    lines[0] = json.dumps(record | {"loss": record["loss"] + 0.01})
    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")


def spoil_weights(run: Path) -> None:
    content = bytearray((run / "model" / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (run / "model" / "model.safetensors").write_bytes(content)


def spoil_checkpoint(run: Path) -> None:
    (max((run / "checkpoints").iterdir()) / "lanes.safetensors").write_bytes(b"")


SPOILT = {
    "first steps": spoil_metrics,
    "model": spoil_weights,
    "checkpoint step-00000004": spoil_checkpoint,
}


def test_json_is_one_document_with_what_is_promised(elman, copy_of_run):
    before = everything_in(copy_of_run)
    outcome = elman("verify", copy_of_run, "--json")
    document = outcome.document
    assert outcome.code == 0
    assert set(document) == KEYS
    assert (document["schema"], document["run"], document["sound"]) == (
        "elman.verify/1",
        str(copy_of_run),
        True,
    )
    assert [set(check) for check in document["checks"]] == [{"what", "sound", "found"}] * 10
    whats = [check["what"] for check in document["checks"]]
    assert whats == [
        *("model", "checkpoint step-00000000", "checkpoint step-00000004"),
        *("settings", "prepared tokens", "text", "tokenizer", "result", "weights", "first steps"),
    ]
    assert "equal to the bit" in document["checks"][-1]["found"]
    assert everything_in(copy_of_run) == before


def test_a_table_says_what_was_found(elman, copy_of_run):
    outcome = elman("verify", copy_of_run)
    assert outcome.code == 0
    assert "NOT SOUND" not in outcome.out
    for part in ("model", "step-00000004", "tokenizer", "first steps", "sound"):
        assert part in outcome.out


@pytest.mark.parametrize("what", SPOILT)
def test_what_was_changed_is_named_and_the_code_is_1(elman, copy_of_run, what):
    SPOILT[what](copy_of_run)
    before = everything_in(copy_of_run)
    outcome = elman("verify", copy_of_run, "--json")
    assert outcome.code == 1
    assert not outcome.document["sound"]
    assert [check["what"] for check in outcome.document["checks"] if not check["sound"]] == [what]
    table = elman("verify", copy_of_run)
    assert table.code == 1
    before_it, _, after_it = table.out.partition("NOT SOUND")
    assert before_it.rstrip().endswith(what)
    assert "NOT SOUND" not in after_it
    assert everything_in(copy_of_run) == before


def test_another_text_is_named(elman, desk, tmp_path):
    text = tmp_path / "text.txt"
    shutil.copy(desk / "novel.txt", text)
    options = ["--max-steps", "2", "--hidden-size", "8", "--embedding-dim", "8", "--tokenizer", "byte"]
    assert elman("train", text, *options, "--device", "cpu", "--out", "out", "-q").code == 0
    assert elman("verify", "out").code == 0
    text.write_text(text.read_text() + "and a line more\n")
    outcome = elman("verify", "out", "--json")
    assert outcome.code == 1
    assert "text" in [check["what"] for check in outcome.document["checks"] if not check["sound"]]


def test_what_cannot_be_compared_is_not_checked_and_the_code_is_0(elman, copy_of_run):
    path = copy_of_run / "environment.json"
    environment = json.loads(path.read_text())
    environment["data"]["folder"] = str(copy_of_run / "gone")
    path.write_text(json.dumps(environment))
    outcome = elman("verify", copy_of_run, "--json")
    assert outcome.code == 0
    assert outcome.document["sound"]
    (check,) = [check for check in outcome.document["checks"] if check["sound"] is None]
    assert check["what"] == "prepared tokens"
    table = elman("verify", copy_of_run)
    assert table.code == 0
    assert "not checked" in table.out
    assert "NOT SOUND" not in table.out


def test_counts_are_verified_too(elman, desk):
    elman("train", desk / "novel.txt", "--model", "ngram", "--order", "3", "--out", "out", "-q")
    document = elman("verify", "out", "--json").document
    assert document["sound"]
    assert document["checks"][-1]["what"] == "counted again"


@pytest.mark.parametrize(
    ("arguments", "code", "parts"),
    [
        (["nothing"], 4, ["nothing: no such run folder", "elman train --out nothing"]),
        (["."], 4, ["is not the folder of a run: it has no config.toml"]),
        (["nothing", "--steps", "0"], 4, ["steps (0) must be at least 1"]),
        (["nothing", "--steps", "x"], 2, ["'x' is not a whole number"]),
        ([], 2, []),
    ],
)
def test_what_cannot_be_verified_is_one_line(elman, arguments, code, parts):
    elman("verify", *arguments).refuses(code, *parts)
