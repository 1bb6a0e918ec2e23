"""`elman data`: what a corpus holds, tokens in the cache, tokenizers, duplicates."""

from pathlib import Path

import pytest

from elman.data.tokenizer import load_tokenizer
from tests.command_line import SMALL


def test_inspect(elman, texts):
    text = texts["good.txt"].read_text(encoding="utf-8")
    document = elman("data", "inspect", "good.txt", "--documents", "line", "--show", 2, "--json").document
    lines = text.splitlines()
    lengths = sorted(len(line) for line in lines)
    assert document["schema"] == "elman.inspect/1"
    assert document["documents"] == len(lines)
    assert document["characters"] == sum(lengths)
    assert (document["shortest"], document["longest"]) == (lengths[0], lengths[-1])
    assert document["repeated_documents"] == len(lines) - len(set(lines))
    assert document["first"] == [line[:200] for line in lines[:2]]
    table = elman("data", "inspect", "good.txt", "--documents", "line", "--show", 0)
    assert f"{len(lines):,}" in table.out
    assert "--- document" not in table.out
    assert "note: crlf.txt: CR and CRLF read as LF" in elman("data", "inspect", "crlf.txt").out


def test_prepare_is_what_training_then_finds(elman, texts, own_cache):
    outcome = elman("data", "prepare", "good.txt", "--tokenizer", "byte", "--json")
    document = outcome.document
    assert document["schema"] == "elman.data/1"
    assert document["vocab_size"] == 259
    for name in ("train", "valid"):
        assert document[name]["targets"] == document[name]["bytes"] + document[name]["documents"]
    assert Path(document["folder"]).is_relative_to(own_cache)
    assert "tokenizing" in outcome.err
    assert "tokenizing" not in elman("train", "good.txt", *SMALL).err
    table = elman("data", "prepare", "crlf.txt", "--tokenizer", "byte")  # the same text, already there
    assert "crlf.txt: CR and CRLF read as LF" in table.out
    assert "tokenizing" not in table.err


@pytest.mark.parametrize("kind", ["byte", "char", "word", "bpe"])
def test_tokenizer_writes_what_load_reads(elman, texts, kind):
    document = elman("data", "tokenizer", "good.txt", "--kind", kind, "--out", "t.json", "--json").document
    tokenizer = load_tokenizer("t.json")
    assert document["schema"] == "elman.tokenizer/1"
    assert (document["vocab_size"], document["sha256"]) == (tokenizer.vocab_size, tokenizer.sha256)
    elman("data", "tokenizer", "good.txt", "--out", "t.json").refuses(4, "t.json: exists already")
    assert load_tokenizer("t.json").sha256 == document["sha256"]


def test_duplicates(elman, texts):
    Path("first.txt").write_text("one\ntwo\nthree\n")
    Path("second.txt").write_text("two\nfour\ntwo\n")
    outcome = elman("data", "duplicates", "first.txt", "second.txt", "--documents", "line", "--json")
    assert outcome.document == {"schema": "elman.duplicates/1", "documents": 3, "also_in_first": 2}
    line = elman("data", "duplicates", "first.txt", "second.txt", "--documents", "line").out
    assert line == "2 of 3 documents of second.txt (66.7%) also stand in first.txt\n"
    whole = elman("data", "duplicates", "first.txt", "second.txt").out
    assert whole == "0 of 1 document of second.txt (0.0%) also stand in first.txt\n"
    piped = elman("data", "duplicates", "-", "second.txt", "--documents", "line", "--json", stdin=b"four")
    assert piped.document["also_in_first"] == 1


def test_every_verb_reads_what_its_messages_advise(elman, texts):
    tokenizer = ["data", "tokenizer", "--kind", "char", "--out", "t.json"]
    for verb in (["data", "inspect"], ["data", "prepare", "--tokenizer", "byte"], tokenizer):
        for name, option in (("latin1.txt", "--encoding-errors=replace"), ("nuls.txt", "--force-binary")):
            elman(*verb, name).refuses(4, option.partition("=")[0])
            assert elman(*verb, name, option).code == 0
            Path("t.json").unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("arguments", "code", "parts"),
    [
        (["inspekt"], 2, ["inspekt", "inspect"]),
        (["inspect", "missing.txt"], 4, ["missing.txt: no such file"]),
        (["inspect", "empty.txt"], 4, ["empty.txt: no text in it"]),
        (["inspect", "good.txt", "--show", "-1"], 4, ["show (-1)"]),
        (["prepare", "good.txt", "--valid", "2"], 4, ["valid (2)"]),
        (["prepare", "good.txt", "--tokeniser", "byte"], 2, ["did you mean --tokenizer?"]),
        (["tokenizer", "good.txt"], 2, ["needs --out", "elman data tokenizer --help"]),
        (["tokenizer", "good.txt", "--out", "good.txt"], 4, ["good.txt: exists already"]),
        (["tokenizer", "good.txt", "--out", "no/t.json"], 4, ["no/t.json: cannot write"]),
        (["tokenizer", "good.txt", "--out", "t.json", "--kind", "bqe"], 2, ["bqe", "bpe"]),
        (["tokenizer", "good.txt", "--out", "t.json", "--vocab-size", "-5"], 4, ["vocab_size (-5)"]),
        (["tokenizer", "good.txt", "--out", "t.json", "--vocab-size", "9"], 4, ["at least 259 for bpe"]),
        (["tokenizer", "latin1.txt", "--out", "t.json"], 4, ["is not UTF-8"]),
        (["duplicates", "good.txt"], 2, ["needs SECOND"]),
        (["duplicates", "-", "-"], 4, ["standard input can be read once"]),
    ],
)
def test_a_slip_is_one_line_and_leaves_nothing(elman, texts, arguments, code, parts):
    elman("data", *arguments).refuses(code, *parts)
    assert not Path("t.json").exists()
