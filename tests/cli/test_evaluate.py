"""`elman eval`: every target once whatever the batch, and one line for a model or a text that is unsound."""

import json
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch

from elman.cli.render import megabytes
from elman.data.tokenizer import train_tokenizer
from tests.command_line import SMALL, make_text, small
from tests.torchrun import run_ranks, torchrun

KEYS = {
    *("schema", "nats", "targets", "characters", "bytes", "words", "documents", "truncated", "unknown"),
    *("perplexity", "word_perplexity", "bits_per_character", "bits_per_byte", "state"),
}


@pytest.mark.parametrize("documents", ["file", "line", "paragraph"])
@pytest.mark.parametrize("state", ["reset", "carry"])
def test_json_is_one_document_with_what_is_promised(elman, desk, documents, state):
    text = (desk / "lines.txt").read_text(encoding="utf-8")
    outcome = elman(
        "eval", desk / "run", desk / "lines.txt", "--documents", documents, "--state", state, "--json"
    )
    document = outcome.document
    assert set(document) == KEYS
    assert document["schema"] == "elman.eval/1"
    assert document["state"] == state
    assert document["documents"] == (len(text.splitlines()) if documents == "line" else 1)
    assert document["words"] == len(text.split())
    assert document["truncated"] == document["unknown"] == 0
    # a token is a byte here, so the targets can be counted from outside
    assert document["targets"] == document["bytes"] + document["documents"]
    assert document["bytes"] - document["characters"] == len(text.encode()) - len(text) > 0


def test_the_batch_size_changes_nothing(elman, desk):
    def nats(size: int) -> float:
        options = ["--documents", "line", "--batch-size", size, "--json"]
        document = elman("eval", desk / "run", desk / "lines.txt", *options).document
        assert document["documents"] == 60
        return document["nats"]

    first, *others = [nats(size) for size in (1, 7, 64, 10**9)]
    assert others == pytest.approx([first] * 3, rel=1e-6)


def test_without_a_text_the_held_out_part_is_scored(elman, desk):
    outcome = elman("eval", desk / "run", "--json")
    assert "scoring the held-out part" in outcome.err
    inside = elman("eval", desk / "run" / "model", "--json")
    assert inside.document == outcome.document
    held_out = outcome.document["bytes"]
    whole = elman("eval", desk / "run", desk / "novel.txt", "--json").document["bytes"]
    assert held_out == pytest.approx(0.05 * whole, abs=100)


def test_the_held_out_part_of_another_text_is_refused(elman, texts):
    training = elman("train", "good.txt", *SMALL, "--out", "out", "-q", "--json").document
    assert elman("eval", "out", "--json").document["nats"] == pytest.approx(
        training["valid"]["nats"], rel=1e-6
    )
    texts["good.txt"].write_text(make_text(60, seed=9))  # bytes, so the vocabulary is the same
    elman("eval", "out").refuses(4, "good.txt: no longer the text", "give a TEXT")
    texts["good.txt"].unlink()
    elman("eval", "out").refuses(4, "good.txt: no such file", "give a TEXT")


def test_how_to_read_is_said_of_a_text_only(elman, desk):
    elman("eval", desk / "run", "--documents", "line").refuses(2, "TEXT")


def test_a_model_without_its_run_has_no_held_out_text(elman, desk, tmp_path):
    shutil.copytree(desk / "run" / "model", "alone")
    assert elman("eval", "alone", desk / "lines.txt").code == 0
    elman("eval", "alone").refuses(4, "alone: a model folder without its run", "give a TEXT")


def test_a_table_fits_any_width(elman, desk, monkeypatch):
    targets = elman("eval", desk / "run", desk / "lines.txt", "--json").document["targets"]
    for width in (20, 40, 60, 80, 200):
        monkeypatch.setenv("COLUMNS", str(width))
        outcome = elman("eval", desk / "run", desk / "lines.txt")
        assert outcome.code == 0
        assert outcome.err == ""
        assert "…" not in outcome.out
        assert "perplexity" in outcome.out
        assert f"{targets:,}" in outcome.out


@pytest.mark.parametrize(("weights", "limit"), [("bfloat16", 0.01), ("int8", 0.02)])
def test_small_weights_are_scored_beside_float32(elman, desk, weights, limit):
    arguments = ["eval", desk / "run", desk / "lines.txt"]
    exact = elman(*arguments, "--json").document
    found = elman(*arguments, "--weights", weights, "--json").document
    assert set(found) == KEYS | {"quantized"}
    quantized = found["quantized"]
    assert set(quantized) == {"weights", "bits_per_byte_loss", "float32", "weight_bytes", "float32_bytes"}
    assert quantized["weights"] == weights
    assert quantized["float32"] == {key: exact[key] for key in exact if key != "schema"}
    loss = found["bits_per_byte"] - exact["bits_per_byte"]
    assert quantized["bits_per_byte_loss"] == loss != 0
    assert abs(loss) < limit
    assert 0 < quantized["weight_bytes"] < quantized["float32_bytes"]
    out = elman(*arguments, "--weights", weights).out
    sizes = f"{quantized['weight_bytes'] / 1e3:.1f} kB instead of {quantized['float32_bytes'] / 1e3:.1f} kB"
    assert f"{weights} weights: {loss:+.4f} bits per byte, {sizes}" in out
    assert len([line for line in out.splitlines() if f"{exact['targets']:,}" in line]) == 2


def test_small_weights_are_for_one_network(elman, desk, tmp_path):
    counts = [*SMALL, "--family", "ngram", "--out", "counts", "-q"]
    assert elman("train", desk / "novel.txt", *counts).code == 0
    elman("eval", "counts", desk / "lines.txt", "--weights", "int8").refuses(
        4, "int8 weights are for networks"
    )
    both = [desk / "run", "counts", desk / "lines.txt", "--mix"]
    elman("eval", *both, "--weights", "int8").refuses(2, "--weights int8 is for one model")
    assert elman("eval", *both, "--out", "mixed").code == 0
    found = elman("eval", "mixed", desk / "lines.txt", "--weights", "int8", "--json").document
    assert 0 < abs(found["quantized"]["bits_per_byte_loss"]) < 0.02


def test_standard_input_is_a_text(elman, desk):
    content = (desk / "lines.txt").read_bytes()
    piped = elman("eval", desk / "run", "-", "--json", stdin=content).document
    assert piped == elman("eval", desk / "run", desk / "lines.txt", "--json").document


def test_notes_are_for_stderr(elman, desk, texts):
    for name, note in (("bom.txt", "byte order mark removed"), ("crlf.txt", "CR and CRLF read as LF")):
        outcome = elman("eval", desk / "run", name, "--json")
        assert outcome.err == f"note: {name}: {note}\n"
        assert outcome.document["documents"] == 1


def test_words_outside_the_vocabulary_are_told(elman, texts):
    options = small(tokenizer="word")
    assert elman("train", "good.txt", *options, "--out", "out", "-q").code == 0
    Path("other.txt").write_text("the zebra")
    outcome = elman("eval", "out", "other.txt")
    assert outcome.code == 0
    assert "1 targets (33.3%) are outside the vocabulary" in outcome.out
    assert elman("eval", "out", "other.txt", "--json").document["unknown"] == 1


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("missing.txt", ["missing.txt: no such file"]),
        ("empty.txt", ["empty.txt: no text in it"]),
        ("latin1.txt", ["is not UTF-8", "--encoding-errors replace"]),
        ("binary.txt", ["a program, not text", "--force-binary"]),
        ("broken.jsonl", ["broken.jsonl, line 2"]),
        ("field.jsonl", ["no field 'text'", "--text-field"]),
    ],
)
def test_a_bad_text_is_one_line(elman, desk, texts, name, parts):
    elman("eval", desk / "run", name).refuses(4, *parts)


def test_what_a_message_advises_works(elman, desk, texts):
    assert elman("eval", desk / "run", "latin1.txt", "--encoding-errors", "replace").code == 0
    assert elman("eval", desk / "run", "nuls.txt", "--force-binary").code == 0
    assert elman("eval", desk / "run", "field.jsonl", "--text-field", "body").code == 0


@pytest.mark.parametrize(
    ("options", "code", "parts"),
    [
        (["--batch-size", "0"], 4, ["batch_size (0) must be at least 1"]),
        (["--batch-size", "-3"], 4, ["batch_size (-3)"]),
        (["--batch-size", "2.5"], 2, ["--batch-size", "'2.5' is not a whole number"]),
        (["--state", "foo"], 2, ["foo", "--state", "reset"]),
        (["--stat", "carry"], 2, ["unknown option --stat", "did you mean --state?"]),
        (["--documents", "record"], 4, ["documents cannot be 'record'", "line or paragraph"]),
        (["more.txt"], 2, ["unexpected argument 'more.txt'", "elman eval --help"]),
        (["--state"], 2, ["--state needs a value"]),
    ],
)
def test_a_bad_option_is_one_line(elman, desk, options, code, parts):
    elman("eval", desk / "run", desk / "lines.txt", *options).refuses(code, *parts)


def test_no_model(elman, texts):
    elman("eval").refuses(2, "elman eval needs MODEL", "elman eval --help")
    elman("eval", "nowhere").refuses(5, "nowhere: no such model or run folder")
    for name in (".", "good.txt"):
        elman("eval", name).refuses(5, f"{name}: not a model folder", "config.json")


# ---- damage ---------------------------------------------------------------------------------------------


def model_settings(**changes: object):
    """Change the settings of the model in config.json."""

    def change(folder: Path) -> None:
        path = folder / "config.json"
        content = json.loads(path.read_text())
        assert content.pop("sha256")  # which would be reason enough
        content["model"] |= changes
        path.write_text(json.dumps(content))

    return change


def keep(name: str, size: int):
    """Cut a file to `size` bytes."""
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


def remove(name: str):
    return lambda folder: (folder / name).unlink()


def other_vocabulary(folder: Path) -> None:
    tokenizer = train_tokenizer("bpe", ["the cat"], vocab_size=260)
    (folder / "tokenizer.json").write_text(tokenizer.to_json())


def not_a_number(folder: Path) -> None:
    settings = json.loads((folder / "config.json").read_text())
    del settings["sha256"], settings["weights_sha256"]
    (folder / "config.json").write_text(json.dumps(settings))
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    next(iter(tensors.values()))[0] = torch.nan
    safetensors.torch.save_file(tensors, folder / "model.safetensors")


DAMAGE = {
    "no config": (remove("config.json"), ["not a model folder"]),
    "no weights": (remove("model.safetensors"), ["model.safetensors: missing", "copy the whole"]),
    "no tokenizer": (remove("tokenizer.json"), ["tokenizer.json: missing", "copy the whole"]),
    "half the weights": (keep("model.safetensors", 5000), ["model.safetensors: damaged or truncated"]),
    "no byte of weights": (keep("model.safetensors", 0), ["model.safetensors: damaged or truncated"]),
    "half the config": (keep("config.json", 40), ["config.json: cannot be read"]),
    "half the tokenizer": (keep("tokenizer.json", 40), ["tokenizer.json: not a tokenizer.json"]),
    "other vocabulary": (other_vocabulary, ["tokenizer.json (vocabulary 260)", "vocabulary 259"]),
    "not a number": (not_a_number, ["not finite"]),
    "absurd width": (model_settings(hidden_size=10**8), ["to_embedding.weight is (8, 16)", "(8, 100000000)"]),
    "one more layer": (model_settings(num_layers=2), ["does not fit config.json"]),
    "absurd depth": (model_settings(num_layers=1e9), ["num_layers (1000000000)"]),
    "width in words": (model_settings(hidden_size="wide"), ["hidden_size: 'wide' is a string"]),
    "no dropout": (model_settings(dropout=None), ["dropout: None is not a number"]),
    "truth as depth": (model_settings(num_layers=True), ["num_layers: True is not a whole number"]),
    "unknown cell": (model_settings(cell="lstn"), ["'lstn'", "did you mean 'lstm'?"]),
    "list of cells": (model_settings(cell=["lstm"]), ["['lstm']"]),
    "unknown setting": (model_settings(hiden_size=3), ["did you mean 'model.hidden_size'?"]),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_model_is_one_line(elman, desk, copy_of_run, name):
    damage, parts = DAMAGE[name]
    damage(copy_of_run / "model")
    elman("eval", copy_of_run, desk / "lines.txt").refuses(5, *parts)


def test_damaged_settings_of_a_run_are_one_line(elman, copy_of_run):
    (copy_of_run / "config.toml").write_text("x=")
    elman("eval", copy_of_run).refuses(4, "config.toml: not valid TOML")


def test_a_setting_of_another_version_leaves_a_text_to_give(elman, desk, copy_of_run):
    settings = copy_of_run / "config.toml"
    settings.write_text(settings.read_text().replace("[training]", "[training]\nworkers = 2"))
    elman("eval", copy_of_run).refuses(4, "unknown setting 'training.workers'", "give a TEXT")
    elman("eval", copy_of_run, desk / "run", "--mix").refuses(4, "'training.workers'", "--valid TEXT")
    assert elman("eval", copy_of_run, desk / "lines.txt").code == 0


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0.0 kB"),
        (1234, "1.2 kB"),
        (999_999, "1,000.0 kB"),
        (10**6, "1.0 MB"),
        (12_345 * 10**6, "12,345.0 MB"),
    ],
)
def test_bytes_are_written_for_people(size, text):
    assert megabytes(size) == text


def test_a_damaged_cache_is_prepared_again(elman, desk, own_cache):
    arguments = ["eval", desk / "run", desk / "lines.txt", "--json"]
    sound = elman(*arguments)
    damaged = [path for path in own_cache.rglob("*") if path.suffix in (".npy", ".tokens")]
    assert len(damaged) > 3
    for path in damaged:
        path.write_bytes(path.read_bytes()[:3])
        outcome = elman(*arguments)
        assert outcome.document == sound.document
        assert path.name in outcome.err
        assert "prepared again" in outcome.err


# ---- under torchrun -------------------------------------------------------------------------------------


def test_r08_ranks_that_share_a_text_print_what_one_process_does(desk, own_cache):
    arguments = ["eval", desk / "run", desk / "novel.txt", "--documents", "line", "--batch-size", 1, "--json"]
    [alone] = run_ranks(["-m", "elman", *arguments], 1)
    assert alone.returncode == 0, alone.stderr
    shutil.rmtree(own_cache)
    first, second = run_ranks(["-m", "elman", *arguments], 2)
    assert (first.returncode, first.stdout) == (0, alone.stdout), first.stderr
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")


def test_r04_ranks_with_other_threads_are_refused(desk):
    threads = [{"OMP_NUM_THREADS": "1"}, {"OMP_NUM_THREADS": "2"}]
    ended = run_ranks(["-m", "elman", "eval", desk / "run", desk / "lines.txt"], 2, threads)
    assert [(rank.returncode, rank.stdout) for rank in ended] == [(4, "")] * 2
    lines = [line for rank in ended for line in rank.stderr.splitlines()]
    assert lines == [
        "elman: the ranks differ in the number of threads: 1 on rank 0, 2 on rank 1; start all of them with the same"
    ]


def test_torchrun_is_a_way_to_start_them(elman, desk):
    arguments = ["eval", desk / "run", desk / "lines.txt", "--json"]
    done = torchrun(["-m", "elman", *arguments], 2)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["targets"] == elman(*arguments).document["targets"]


def test_standard_input_is_not_for_several(desk):
    ended = run_ranks(["-m", "elman", "eval", desk / "run", "-"], 2)
    assert [(rank.returncode, rank.stdout) for rank in ended] == [(4, "")] * 2
    lines = [line for rank in ended for line in rank.stderr.splitlines()]
    assert lines == ["elman: standard input cannot be read by several processes; give a file"]
