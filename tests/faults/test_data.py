"""Hostile text: what is read is what was written, and all else ends in one line that says where and what to do."""

import contextlib
import gzip
import io
import json
import os
import resource
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from elman.config import DataConfig
from elman.data.corpora import open_corpus
from elman.data.prepare import prepare
from elman.data.readers import ReadOptions
from elman.data.records import read_parquet
from elman.data.tokenizer import train_tokenizer
from elman.errors import InputError
from tests.command_line import small
from tests.faults.sweep import LATER, cases
from tests.switches import torch_as_before  # noqa: F401 - autouse

pytestmark = pytest.mark.usefixtures("plain_surroundings")

FEW = settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
"""Each example reads and writes files."""

INSPECT = ("data", "inspect")
PREPARE = ("data", "prepare", "--tokenizer", "byte")
LINE = "the cat sat on a naïve mat\n"


def write(name: str, content: bytes) -> str:
    Path(name).write_bytes(content)
    return name


def documents_read(source: str, **options) -> list[str]:
    """The documents of a corpus, each in one piece."""
    found: list[str] = []
    for text, begins in open_corpus(source, **options).pieces():
        if begins:
            found.append("")
        found[-1] += text
    return found


def documents_from_tokens(source: str, tokenizer: str, **options) -> list[str]:
    """The documents of a corpus after they were tokens on disk."""
    write("held-out.txt", b"held out\n")
    prepared = prepare(DataConfig(corpus=source, valid="held-out.txt", tokenizer=tokenizer, **options))
    store = prepared.train
    return [prepared.tokenizer.decode(store.tokens[a : b - 1]) for a, b in pairwise(store.starts.tolist())]


def run_alone(*arguments: str, stdin: object = subprocess.DEVNULL, memory: int | None = None):
    """The command line in a process of its own, which must come to an end, in so much memory if need be."""

    def limit() -> None:
        if memory is not None:
            resource.setrlimit(resource.RLIMIT_AS, (memory, memory))

    return subprocess.run(
        [sys.executable, "-m", "elman", *arguments],
        stdin=stdin,
        capture_output=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        text=True,
        timeout=60,  # against waiting for ever
        preexec_fn=limit,
    )


def assert_one_line(ended: subprocess.CompletedProcess, code: int, *parts: str) -> None:
    assert (ended.returncode, ended.stdout) == (code, ""), ended.stderr
    [line] = ended.stderr.splitlines()
    assert line.startswith("elman: ")
    for part in parts:
        assert part in line


# --- Nothing, and little -----------------------------------------------------------------------------------------

NOTHING = {
    "empty.txt": b"",
    "blank.txt": b" \n\t\r\n\x0b\x0c \xe2\x80\xa8",
    "mark.txt": b"\xef\xbb\xbf",
    "empty.txt.gz": gzip.compress(b""),
    "empty.txt.zst": zstandard.ZstdCompressor().compress(b""),
    "empty.jsonl": b"\n\n",
    "blank.jsonl": b'{"text": ""}\n{"text": " "}\n',
}


@pytest.mark.parametrize("name", NOTHING)
@pytest.mark.parametrize("unit", ["", "--documents=line", "--documents=paragraph"])
def test_d01_a_corpus_without_text(elman, name, unit):
    write(name, NOTHING[name])
    for verb in (INSPECT, PREPARE):
        elman(*verb, name, *filter(None, [unit])).refuses(4, f"{name}: no text in it (0 tokens); give")


def test_d01_no_text_in_other_places(elman, own_cache):
    elman(*PREPARE, "-", stdin=b"\n").refuses(4, "standard input: no text in it")
    Path("folder").mkdir()
    elman(*PREPARE, "folder").refuses(4, "folder: no text in this folder", ".txt")
    write("folder/empty.txt", b"")
    elman(*PREPARE, "folder").refuses(4, "folder: no text in it")
    write("good.txt", LINE.encode())
    elman(*PREPARE, "good.txt", "--valid", "folder/empty.txt").refuses(4, "folder/empty.txt: no text in it")
    assert not list(own_cache.rglob("*.tokens"))


def test_d02_every_length_is_prepared_or_refused_with_the_least(elman, full, count):
    sizes = range(201) if full else [*range(0, 13, 2), *range(9, 14), *range(14, 201, 31)]
    for size in sizes:
        outcome = elman(
            *PREPARE, write("a.txt", (LINE * 8).encode()[:size]), "--encoding-errors=replace", "--json"
        )
        characters = len((LINE * 8).encode()[:size].decode(errors="replace"))
        if size == 0:
            outcome.refuses(4, "no text")
        elif characters < 11:
            outcome.refuses(
                4, "a.txt: no held-out text left after the split", "at least 11 characters", "--valid"
            )
        else:
            document = outcome.document
            assert document["train"]["characters"] + document["valid"]["characters"] == characters
            assert min(document[part]["targets"] for part in ("train", "valid")) > 0
    count(len(sizes))


@cases("size", [11, 12, 40, 200], 11, 200)
def test_d02_less_than_a_batch_is_trained_on(elman, size):
    options = [*small(max_steps=1), "--out", "run", "--json"]
    outcome = elman("train", write("a.txt", (b"the cat sat on a mat\n" * 10)[:size]), *options)
    assert outcome.code == 0, outcome.err
    assert Path("run/model/model.safetensors").exists()


def test_d02_equal_documents_cannot_be_divided(elman):
    write("a.txt", LINE.encode() * 30)
    elman(*PREPARE, "a.txt", "--documents", "line").refuses(
        4, "no held-out text left", "documents that differ"
    )


# --- Bytes -------------------------------------------------------------------------------------------------------


@FEW
@given(
    st.text("aé€😀\n", max_size=30), st.sampled_from([b"\xff", b"\xe2\x82x", b"\xc0\xaf", b"\xed\xa0\x80"])
)
@pytest.mark.parametrize(("name", "pack"), [("a.txt", bytes), ("a.txt.gz", gzip.compress)])
def test_d03_bytes_that_are_not_utf8(elman, monkeypatch, name, pack, before, bad):
    monkeypatch.setattr("elman.data.readers.BLOCK_BYTES", 7)
    content = before.encode() + bad
    write(name, pack(content + b" end\n"))
    refusal = elman(*PREPARE, name).refuses(
        4, f"{name}: byte {len(before.encode())} ", "--encoding-errors replace"
    )
    assert f"0x{bad[0]:02x}" in refusal
    assert documents_read(name, encoding_errors="replace") == [content.decode(errors="replace") + " end\n"]
    replaced = elman(*INSPECT, name, "--encoding-errors", "replace", "--json").document
    assert replaced["notes"] == [
        f"{name}: {content.decode(errors='replace').count(chr(0xFFFD))} invalid bytes or sequences replaced by U+FFFD"
    ]


def test_d03_bytes_of_a_record_that_are_not_utf8(elman):
    line = b'{"text": "a"}\n'
    write("a.jsonl", line * 3 + b'{"text": "\xff"}\n')
    elman(*INSPECT, "a.jsonl").refuses(4, f"a.jsonl: byte {3 * len(line) + 10} (0xff) is not UTF-8")


BINARIES = {
    "program": b"\x7fELF\x02\x01\x01" + bytes(60),
    "picture": b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
    "archive": gzip.compress(b"text"),
    "document": b"%PDF-1.7\n text",
    "table": b"PAR1\x15\x04",
    "numbers": struct.pack("<100i", *range(100)),
    "zeros": bytes(1000),
}


@pytest.mark.parametrize("kind", BINARIES)
def test_d04_what_is_no_text(elman, kind):
    write("a.txt", BINARIES[kind])
    write("a.txt.gz", gzip.compress(BINARIES[kind]))
    for name in ("a.txt", "a.txt.gz"):
        elman(*PREPARE, name).refuses(4, f"{name}: ", "not text", "--force-binary")
    elman(*PREPARE, "-", stdin=BINARIES[kind]).refuses(4, "standard input: ", "--force-binary")
    forced = elman(*INSPECT, "a.txt", "--force-binary", "--encoding-errors", "replace", "--json").document
    assert forced["characters"] == len(
        io.StringIO(BINARIES[kind].decode(errors="replace"), newline=None).read()
    )


@pytest.mark.parametrize("kind", ["byte", "bpe"])
def test_d05_nul_bytes_are_kept(full, count, kind):
    examples = 100 if full else 10

    @settings(FEW, max_examples=examples)
    @given(st.text("a\x00é\n", min_size=1, max_size=200))
    def holds(text):
        text += "\x00end"
        write("a.txt", text.encode())
        assert documents_from_tokens("a.txt", kind, force_binary=True) == [text]

    holds()
    count(examples)


def test_d05_a_few_nul_bytes_are_no_binary_file(elman):
    text = "a\x00b\n" + "more words\n" * 40
    assert elman(*INSPECT, write("a.txt", text.encode()), "--json").document["characters"] == len(text)


WIDE = ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"]


@pytest.mark.parametrize("encoding", WIDE)
def test_d06_wide_encodings_are_named_and_the_advice_works(elman, encoding):
    text = LINE * 100
    write("a.txt", text.encode(encoding))
    refusal = elman(*PREPARE, "a.txt").refuses(4, "a.txt: UTF-", "convert it: iconv -f UTF-", "-t UTF-8")
    advised = refusal.partition("iconv -f ")[2].split()[0]
    assert Path("a.txt").read_bytes().decode(advised) == text
    write("a.jsonl", '{"text": "a"}\n'.encode(encoding))
    elman(*PREPARE, "a.jsonl").refuses(4, f"iconv -f {advised} -t UTF-8")


@pytest.mark.parametrize("mark", [b"\xfe\xff", b"\xff\xfe\x00\x00", b"\x00\x00\xfe\xff"])
def test_d06_a_mark_names_the_encoding(elman, mark):
    elman(*PREPARE, write("a.txt", mark + b"\x00a\x00b")).refuses(
        4, f"UTF-{16 if len(mark) == 2 else 32} text"
    )


def test_d06_one_mark_of_utf8_is_dropped_and_noted(elman):
    mark = "\ufeff"
    document = elman(*INSPECT, write("a.txt", f"{mark}a{mark}b".encode()), "--json").document
    assert (document["first"], document["notes"]) == ([f"a{mark}b"], ["a.txt: byte order mark removed"])
    assert documents_read(write("b.txt", f"{mark}{mark}a".encode())) == [f"{mark}a"]
    assert documents_read(write("c.jsonl", mark.encode() + b'{"text": "a"}')) == ["a"]


OTHER_ENDS = "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
"""Ends of a line to `str.splitlines`, and not here."""


def test_d07_the_ends_of_lines_are_the_same_everywhere(full, count):
    examples = 100 if full else 10

    @settings(FEW, max_examples=examples)
    @example("a\u2028b\nc\x0bd\n")
    @given(st.text(f"ab \n{OTHER_ENDS}", max_size=60))
    def holds(text):
        text += "\nend"
        lines = [line for line in text.split("\n") if line.strip()]
        for number, end in enumerate(["\n", "\r\n", "\r"]):
            name = write(f"{number}.txt", text.replace("\n", end).encode())
            assert documents_read(name) == [text]
            assert documents_read(name, documents="line") == lines
            record = write(f"{number}.jsonl", json.dumps({"text": text.replace("\n", end)}).encode())
            assert documents_read(record) == [text]
        assert documents_from_tokens("2.txt", "byte") == [text]

    holds()
    count(examples)


@FEW
@given(st.text("ab\r\n", max_size=40))
def test_d07_mixed_ends_are_read_as_python_reads_them(text):
    text += "\r"
    expected = io.StringIO(text + "end", newline=None).read()
    write("a.txt", (text + "end").encode())
    corpus = open_corpus("a.txt")
    assert "".join(piece.text for piece in corpus.pieces()) == expected
    assert corpus.notes == ["a.txt: CR and CRLF read as LF"]


# --- Characters --------------------------------------------------------------------------------------------------

ODD = {
    "combining": "e" + "\u0301" * 10_000,
    "right to left": "שלום \u202eabc\u202c עולם",
    "joined": "👩‍👩‍👧‍👦 🏳️‍🌈",
    "no characters": "\ufffe\uffff\U0001fffe\U0010ffff\ufdd0",
    "controls": "".join(map(chr, [*range(1, 9), *range(11, 13), *range(14, 32), 127])) + "x",
    "private": "\ue000\U000f0000",
    "special": "<s> </s> <pad> <unk> <|endoftext|>",
    "invisible": "a\u200b\u2060\u00ad\ufeffb",
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("kind", ["byte", "bpe", "char"])
def test_d10_odd_characters_come_back(kind, odd):
    text = ODD[odd] * 2
    assert documents_from_tokens(write("a.txt", text.encode()), kind) == [text]


@settings(max_examples=60)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
@pytest.mark.parametrize("kind", ["byte", "bpe", "char", "word"])
def test_d10_every_text_comes_back(kind, text):
    text = f"{text}\n" * 2  # a vocabulary of characters or words holds those that are seen twice
    tokenizer = train_tokenizer(kind, [text], vocab_size=300 if kind == "bpe" else None)
    ids = tokenizer.encode(text)
    assert ids.max(initial=0) < tokenizer.vocab_size
    if kind == "word":  # white space between words is no token, only line ends are
        words = "".join(map(tokenizer.token, ids.tolist()))
        assert words == "".join(c for c in text if c in "\n\x1c\x1d\x1e\x1f" or not c.isspace())
    else:
        assert tokenizer.decode(ids).encode() == text.encode()


@pytest.mark.parametrize("half", ["\\ud800", "\\udfff", "a\\udc00b", "\\ude00\\ud83d"])
def test_d10_half_of_a_surrogate_pair(elman, half):
    write("a.jsonl", b'{"text": "fine"}\n{"text": "' + half.encode() + b'"}\n')
    elman(*PREPARE, "a.jsonl").refuses(
        4, "a.jsonl, line 2: character", "surrogate pair", "--encoding-errors replace"
    )
    [_, text] = documents_read("a.jsonl", encoding_errors="replace")
    assert text == json.loads(f'"{half}"').encode("utf-16", "surrogatepass").decode("utf-16", "replace")


# --- Records -----------------------------------------------------------------------------------------------------

BAD_RECORDS = {
    "no JSON": ("oops", "not valid JSON"),
    "half an object": ('{"text": "a"', "not valid JSON"),
    "two objects": ('{"text": "a"}{"text": "b"}', "not valid JSON"),
    "no field": ('{"texts": "a"}', "no field 'text'; did you mean 'texts'?"),
    "null": ('{"text": null}', "is null, not a string"),
    "a number": ('{"text": 3}', "is a number, not a string"),
    "a list": ('["text"]', "a list, not an object"),
    "a key twice": ('{"text": "a", "text": "b"}', "the key 'text' is there twice"),
    "a key twice inside": ('{"text": "a", "b": [{"c": 1, "c": 2}]}', "the key 'c' is there twice"),
    "deep lists": ('{"text": ' + "[" * 1_000_000, "nested too deeply"),
    "deep objects": ('{"text": ' * 1_000_000, "nested too deeply"),
    "a long number": ('{"text": "a", "n": ' + "1" * 10_000 + "}", "not usable JSON"),
}


@pytest.mark.parametrize("kind", BAD_RECORDS)
def test_d14_a_bad_record_is_named_or_skipped(elman, kind):
    line, part = BAD_RECORDS[kind]
    good = [f"text {number}" for number in range(100)]
    lines = [json.dumps({"text": text}) for text in good]
    write("a.jsonl", "\n".join([*lines[:41], "", line, *lines[41:]]).encode())
    refusal = elman(*PREPARE, "a.jsonl").refuses(4, "a.jsonl, line 43: ", part)
    assert len(refusal) < 400
    assert documents_read("a.jsonl", skip_bad=True) == good
    [note] = elman(*INSPECT, "a.jsonl", "--skip-bad", "--json").document["notes"]
    assert note.startswith("a.jsonl: 1 of 101 records left out; the first: a.jsonl, line 43: ")
    assert f"note: {note}" in elman(*PREPARE, "a.jsonl", "--skip-bad").out


@FEW
@given(st.sets(st.integers(0, 249), max_size=5), st.sampled_from(["jsonl", "parquet"]))
def test_d14_at_most_one_record_in_a_hundred_is_skipped(elman, bad, suffix):
    texts = [None if number in bad else f"text {number}" for number in range(250)]
    name = f"a.{suffix}"
    if suffix == "jsonl":
        write(name, "".join(json.dumps({"text": text}) + "\n" for text in texts).encode())
    else:
        pyarrow.parquet.write_table(pyarrow.table({"text": pyarrow.array(texts, pyarrow.string())}), name)
    if len(bad) > 2:
        outcome = elman(*INSPECT, name, "--skip-bad")
        outcome.refuses(4, f"{name}: {len(bad)} of 250 records are bad", "1 % at most", "the first: ")
    else:
        assert documents_read(name, skip_bad=True) == [text for text in texts if text is not None]


@FEW
@given(st.binary(max_size=60))
def test_d14_whatever_a_line_holds_is_a_text_or_an_error_of_ours(elman, noise):
    write("a.jsonl", b'{"text": "a"}\n{"text"' + noise + b"\n")
    outcome = elman(*INSPECT, "a.jsonl")
    assert outcome.code == 0 or outcome.refuses(4, "a.jsonl")


def test_d14_a_line_without_end_is_not_held(elman, monkeypatch):
    monkeypatch.setattr("elman.data.records._LINE_CHARACTERS", 1000)
    monkeypatch.setattr("elman.data.readers.BLOCK_BYTES", 100)
    write("a.jsonl", b'{"text": "a"}\n{"text": "' + b"a" * 5000)
    elman(*INSPECT, "a.jsonl").refuses(4, "a.jsonl, line 2: longer than 1,000 characters")


PARQUET_TEXTS = [f"text number {number}, naïve" for number in range(60)]


@settings(FEW, max_examples=60)
@given(place=st.integers(0, 999), bit=st.integers(0, 7), cut=st.booleans())
@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_d15_parquet_that_is_damaged(elman, compression, place, bit, cut):
    table = pyarrow.table({"id": range(60), "text": PARQUET_TEXTS})
    pyarrow.parquet.write_table(table, "a.parquet", compression=compression, write_page_checksum=True)
    content = bytearray(Path("a.parquet").read_bytes())
    at = place * len(content) // 1000
    if cut:
        del content[at:]
    else:
        content[at] ^= 1 << bit
    outcome = elman(*INSPECT, write("b.parquet", bytes(content)))
    if outcome.code == 0:
        assert documents_read("b.parquet") == PARQUET_TEXTS
    else:
        outcome.refuses(4, "b.parquet")


def test_d15_parquet_that_says_other_numbers_of_itself(count):
    table = pyarrow.table({"text": PARQUET_TEXTS})
    pyarrow.parquet.write_table(table, "a.parquet", compression="none", write_page_checksum=True)
    content = Path("a.parquet").read_bytes()
    footer = range(len(content) - 8 - int.from_bytes(content[-8:-4], "little"), len(content))
    for at in footer:
        damaged = bytearray(content)
        damaged[at] ^= 1
        write("b.parquet", bytes(damaged))
        with contextlib.suppress(InputError):
            assert list(read_parquet(Path("b.parquet"), "b", ReadOptions())) == PARQUET_TEXTS
    count(len(footer))


@pytest.mark.parametrize(
    ("table", "part"),
    [
        ({"texts": ["a"]}, "did you mean 'texts'?"),
        ({"text": [1]}, "row 1: the field 'text' is a number, not a string"),
        ({"text": [["a"]]}, "row 1: the field 'text' is a list, not a string"),
        ({"text": ["a", None]}, "row 2: the field 'text' is null, not a string"),
        ({"text": [b"a"]}, "row 1: the field 'text' is of type bytes, not a string"),
        ({}, "no field 'text'"),
    ],
)
def test_d15_parquet_of_another_schema(elman, table, part):
    pyarrow.parquet.write_table(pyarrow.table(table), "a.parquet")
    elman(*PREPARE, "a.parquet").refuses(4, "a.parquet", part)


def test_d15_arrow_is_no_parquet(elman):
    with pyarrow.ipc.new_file("a.arrow", pyarrow.schema({"text": "string"})):
        pass
    elman(*PREPARE, "a.arrow").refuses(4, "a.arrow: an Arrow file, not text")
    Path("a.arrow").rename("a.parquet")
    elman(*PREPARE, "a.parquet").refuses(4, "a.parquet: cannot be read as parquet")


# --- Files that are none -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "part"),
    [
        ("*.nothing", "a pattern stands for nothing here: give a folder"),
        ("text[12].txt", "a pattern stands for nothing here"),
        ("folder", "folder: no text in this folder"),
        ("missing.txt", "missing.txt: no such file"),
        ("", "no name: no such file"),
        ("/dev/null", "neither a regular file nor a folder"),
        ("loop", "cannot be read"),
        ("a\0b", "cannot be read"),
        ("x" * 300, "cannot be read"),
    ],
)
def test_d18_a_source_that_is_no_text(elman, source, part):
    Path("folder").mkdir()
    Path("loop").symlink_to("loop")
    elman(*PREPARE, source).refuses(4, part)
    elman(*PREPARE, write("good.txt", LINE.encode()), "--valid", source).refuses(4)


@pytest.mark.parametrize("source", ["fifo", "/dev/zero", "/dev/stdin"])
def test_d18_nothing_waits_for_what_never_ends(source):
    os.mkfifo("fifo")
    assert_one_line(run_alone("data", "inspect", source), 4, f"{source}: neither a regular file", "give -")


def test_d18_standard_input_may_be_a_fifo_and_may_have_no_end(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    os.mkfifo("fifo")
    writer = threading.Thread(target=lambda: Path("fifo").write_text(LINE))
    writer.start()
    with open("fifo", "rb") as fifo:
        read = run_alone("data", "inspect", "-", "--json", stdin=fifo)
    writer.join()
    assert json.loads(read.stdout)["characters"] == len(LINE)
    with open("/dev/zero", "rb") as zeros:
        assert_one_line(run_alone("data", "inspect", "-", stdin=zeros), 4, "standard input: binary")
    assert not list(tmp_path.glob("elman-stdin-*"))


# --- Archives -----------------------------------------------------------------------------------------------------


def zst(content: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(content)


def endless(begin: bytes, pack: Callable[[bytes], bytes]) -> bytes:
    """Ten gigabytes of one letter, in ten megabytes or fewer: archives may follow each other in a file."""
    return pack(begin) + pack(b"a" * (1 << 20)) * 10_000


@pytest.mark.parametrize(("suffix", "pack"), [("gz", gzip.compress), pytest.param("zst", zst, marks=LATER)])
@pytest.mark.parametrize(
    ("name", "begin"), [("a.txt", b""), ("a.jsonl", b'{"text": "'), ("a.parquet", b"PAR1")]
)
def test_d22_an_archive_that_unfolds_without_end(elman, tmp_path, monkeypatch, name, begin, suffix, pack):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    write(f"{name}.{suffix}", endless(begin, pack))
    assert Path(f"{name}.{suffix}").stat().st_size < 11 << 20
    said = elman(*INSPECT, f"{name}.{suffix}").refuses(4, f"{name}.{suffix}")
    assert "decompresses to more than 256 times its size" in said or "line 1: longer than" in said
    assert [path.name for path in tmp_path.iterdir()] == [f"{name}.{suffix}"]


def test_d22_a_bomb_is_not_held():
    write("a.jsonl.gz", endless(b'{"text": "', gzip.compress))
    ended = run_alone("data", "inspect", "a.jsonl.gz", memory=1 << 30)
    assert_one_line(ended, 4, "a.jsonl.gz")


def test_d22_a_text_that_repeats_itself_is_none(elman):
    text = "GET /index.html HTTP/1.1 200\n" * 500_000  # 14 MB, in a hundredth of that
    assert elman(*INSPECT, write("a.log.gz", gzip.compress(text.encode())), "--json").document[
        "characters"
    ] == len(text)


def test_d22_a_zip_is_not_unpacked(elman):
    elman(*INSPECT, write("a.txt", b"PK\x03\x04" + bytes(40))).refuses(4, "a.txt: a zip archive, not text")
