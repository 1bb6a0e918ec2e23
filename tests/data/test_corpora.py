"""Every source as a corpus: its documents, as often as they are asked for, or one line saying why not."""

import gc
import gzip
import io
import json
import os
import sys
import tempfile
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elman.data import corpora
from elman.data.corpora import KNOWN_CORPORA, Corpus, open_corpus
from elman.data.documents import PIECE_CHARACTERS
from elman.errors import ConfigError, InputError, ResourceError
from tests.data.in_memory import corpus_of

TEXT = "one\ntwo\n\n  three\nfour\n"
LINES = ["one", "two", "  three", "four"]
PARAGRAPHS = ["one\ntwo", "  three\nfour"]


def documents(corpus: Corpus) -> list[str]:
    found: list[str] = []
    for text, begins in corpus.pieces():
        if begins:
            found.append("")
        found[-1] += text
    return found


def refused(kind: type[Exception], source: str, *parts: str, **settings) -> None:
    with pytest.raises(kind) as caught:
        list(open_corpus(source, **settings).pieces())
    for part in parts:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture
def notes(tmp_path) -> str:
    path = tmp_path / "notes.txt"
    path.write_text(TEXT)
    return str(path)


@pytest.fixture
def records(tmp_path) -> str:
    path = tmp_path / "records.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in (TEXT, "  \n", "five")))
    return str(path)


@pytest.fixture
def stdin(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def stdin(content: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))

    return stdin


@given(st.lists(st.text("ab \n\r\u3000é", max_size=50)), st.integers(1, 3000))
def test_strings_come_back_as_they_are(texts, repeats):
    texts = [text * repeats for text in texts]
    expected = [text for text in texts if text.strip()]
    corpus = corpus_of(texts, "strings")
    if expected:
        assert documents(corpus) == expected == documents(corpus)
        assert all(0 < len(piece.text) <= PIECE_CHARACTERS for piece in corpus.pieces())
    else:
        with pytest.raises(InputError, match="strings: no text in it"):
            list(corpus.pieces())


@pytest.mark.parametrize(
    ("unit", "expected"), [(None, [TEXT]), ("file", [TEXT]), ("line", LINES), ("paragraph", PARAGRAPHS)]
)
def test_text_is_one_document_or_its_lines_or_its_paragraphs(notes, unit, expected):
    corpus = open_corpus(notes, documents=unit)
    assert documents(corpus) == expected
    assert documents(corpus) == expected
    assert (corpus.name, corpus.notes) == (notes, [])


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        (None, [TEXT, "five"]),
        ("record", [TEXT, "five"]),
        ("line", [*LINES, "five"]),
        ("paragraph", [*PARAGRAPHS, "five"]),
    ],
)
def test_records_are_documents_or_divided_each_by_itself(records, unit, expected):
    assert documents(open_corpus(records, documents=unit)) == expected


@pytest.mark.parametrize("unit", ["line", "paragraph", "record"])
def test_every_unit_divides_the_documentation_of_python(unit, monkeypatch):
    monkeypatch.setattr(corpora, "python_docs", lambda: ("one\n\ntwo", "three"))
    expected = ["one\n\ntwo", "three"] if unit == "record" else ["one", "two", "three"]
    assert documents(open_corpus("python-docs", documents=unit)) == expected


@pytest.mark.parametrize("name", [name for name in KNOWN_CORPORA if name.startswith("thelmbook")])
def test_the_chapters_corpora_are_lines(name, monkeypatch, tmp_path):
    monkeypatch.setattr(corpora, "thelmbook", lambda name: tmp_path / name)
    corpus, _, part = name.removeprefix("thelmbook:").partition(":")
    (tmp_path / corpus).mkdir()
    (tmp_path / corpus / f"{part or 'train'}.txt").write_text(TEXT)
    assert documents(open_corpus(name)) == LINES
    assert documents(open_corpus(name, documents="file")) == [TEXT]


def test_hub_datasets_are_records(monkeypatch):
    asked = []
    monkeypatch.setattr(corpora, "read_hub", lambda name, options: asked.append(name) or iter(["one\ntwo"]))
    assert documents(open_corpus("hf:owner/name:test")) == ["one\ntwo"]
    assert documents(open_corpus("hf:owner/name:test", documents="line")) == ["one", "two"]
    assert set(asked) == {"owner/name:test"}


def test_a_folder_is_its_files_each_in_its_own_unit(notes, records):
    folder = Path(notes).parent
    (folder / "a.txt.gz").write_bytes(gzip.compress(b"zero"))
    (folder / "empty.txt").write_text("")
    assert documents(open_corpus(str(folder))) == ["zero", TEXT, TEXT, "five"]
    assert documents(open_corpus(str(folder), documents="line")) == ["zero", *LINES, *LINES, "five"]
    refused(ConfigError, str(folder), "a.txt.gz", documents="record")
    refused(ConfigError, str(folder), "records.jsonl", documents="file")


def test_a_unit_that_contradicts_the_source_is_refused(notes, records):
    refused(ConfigError, notes, notes, "plain text", "line or paragraph", documents="record")
    refused(ConfigError, records, records, "records", "line or paragraph", documents="file")
    refused(ConfigError, "python-docs", "python-docs", "records", documents="file")
    refused(ConfigError, "hf:name", "hf:name", "records", documents="file")
    refused(ConfigError, "thelmbook:news", "plain text", documents="record")
    refused(ConfigError, "-", "standard input", "plain text", documents="record")


def test_a_choice_that_is_none_is_refused(notes):
    refused(ConfigError, notes, "did you mean 'paragraph'?", documents="paragraphs")
    refused(ConfigError, notes, "strict, replace", encoding_errors="ignore")


@pytest.mark.parametrize("content", ["", " \n\t\n", "\ufeff"])
@pytest.mark.parametrize("unit", [None, "line", "paragraph"])
def test_a_corpus_without_text_is_refused(notes, content, unit):
    Path(notes).write_text(content, encoding="utf-8")
    refused(InputError, notes, f"{notes}: no text in it", documents=unit)


def test_a_folder_of_empty_files_is_refused(notes):
    Path(notes).write_text("")
    refused(InputError, str(Path(notes).parent), "no text in it")


def test_settings_reach_the_readers(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"%PDF-\xff")
    refused(InputError, str(path), "--force-binary")
    refused(InputError, str(path), "byte 5 ", force_binary=True)
    corpus = open_corpus(str(path), force_binary=True, encoding_errors="replace")
    assert documents(corpus) == documents(corpus) == ["%PDF-\ufffd"]
    assert corpus.notes == [f"{path}: 1 invalid bytes or sequences replaced by U+FFFD"]
    path = tmp_path / "a.jsonl"
    path.write_text('{"body": "a"}')
    assert documents(open_corpus(str(path), text_field="body")) == ["a"]


def test_a_known_name_wins_over_a_file_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(corpora, "python_docs", lambda: ("documentation",))
    Path("python-docs").write_text("file")
    assert documents(open_corpus("python-docs")) == ["documentation"]
    assert documents(open_corpus("./python-docs")) == ["file"]


def test_paths_that_are_none_are_refused(tmp_path):
    refused(InputError, str(tmp_path / "gone.txt"), "gone.txt: no such file")
    refused(InputError, "pythn-docs", "did you mean 'python-docs'?")
    refused(InputError, "/dev/zero", "neither a regular file nor a folder")


def test_standard_input_is_read_once_and_left_nowhere(stdin, tmp_path):
    stdin(b"one\r\ntwo\n")
    corpus = open_corpus("-", documents="line")
    assert documents(corpus) == documents(corpus) == ["one", "two"]
    assert corpus.notes == ["standard input: CR and CRLF read as LF"]
    assert len(os.listdir(tmp_path)) == 1
    pieces = corpus.pieces()
    del corpus
    gc.collect()
    assert [piece.text for piece in pieces] == ["one", "two"]  # pieces keep their corpus
    del pieces
    gc.collect()
    assert os.listdir(tmp_path) == []


def test_standard_input_without_text_is_refused(stdin):
    stdin(b"")
    refused(InputError, "-", "standard input: no text in it")


def test_standard_input_that_is_closed_is_refused(monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    refused(InputError, "-", "standard input is closed")


def test_standard_input_that_does_not_fit_is_refused(stdin, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    stdin(b"text")
    monkeypatch.setattr(corpora.shutil, "copyfileobj", full)
    refused(ResourceError, "-", "No space left on device", "TMPDIR")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("content", [b"x", b"word ", b"\x00"], ids=repr)
@pytest.mark.parametrize("unit", ["file", "line", "paragraph"])
def test_a_line_is_never_held_whole(tmp_path, content, unit):
    path = tmp_path / "a.txt"
    path.write_bytes(content * ((24 << 20) // len(content)) + b"end")
    assert peak_bytes_of_reading(path, unit) < 12 << 20


@pytest.mark.parametrize("content", [b"\n", b"  \n", b"x\n"], ids=repr)
@pytest.mark.parametrize("unit", ["file", "paragraph"])
def test_many_lines_are_never_held_whole(tmp_path, content, unit):
    path = tmp_path / "a.txt"
    path.write_bytes(content * ((24 << 20) // len(content)) + b"end")
    assert peak_bytes_of_reading(path, unit) < 12 << 20


def peak_bytes_of_reading(path: Path, unit: str) -> int:
    tracemalloc.start()
    try:
        corpus = open_corpus(str(path), documents=unit, force_binary=True)
        assert sum(1 for _ in corpus.pieces()) > 0
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
