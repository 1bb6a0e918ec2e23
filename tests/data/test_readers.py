"""Bytes to text: what Python's own text mode reads, and one clear line where that reads nothing."""

import gzip
import io
import sys
import tracemalloc
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from elman.data import readers
from elman.data.readers import ReadOptions, read_bytes, read_text
from elman.errors import InputError, MissingExtraError


@pytest.fixture
def read(tmp_path):
    """Text and notes of a file with the given bytes."""

    def read(content: bytes, name: str = "notes.txt", **settings) -> tuple[str, list[str]]:
        path = tmp_path / name
        path.write_bytes(content)
        options = ReadOptions(**settings)
        return "".join(read_text(path, name, options)), options.notes

    return read


def refused(read, content: bytes, name: str = "notes.txt", **settings) -> str:
    with pytest.raises(InputError) as caught:
        read(content, name, **settings)
    message = str(caught.value)
    assert name in message
    assert "\n" not in message
    return message


def in_small_blocks(path: Path, options: ReadOptions) -> str:
    """The text of a file, read in blocks so small that characters and CRLF fall across two."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readers, "BLOCK_BYTES", 7)
        return "".join(read_text(path, "notes.txt", options))


@given(st.text(st.sampled_from("a\r\n é€😀\x00\ufeff\ufffd"), max_size=40))
def test_text_is_what_text_mode_reads(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("read") / "notes.txt"
    path.write_bytes(text.encode())
    expected = io.TextIOWrapper(io.BytesIO(text.encode()), encoding="utf-8-sig").read()
    assert in_small_blocks(path, ReadOptions(force_binary=True)) == expected


@given(st.lists(st.sampled_from([b"a", b"\xff", b"\xe2\x82", b"\xef\xbf\xbd", "€".encode()]), max_size=30))
def test_replacing_is_what_python_replaces_and_is_counted(tmp_path_factory, parts):
    content = b"".join(parts)
    path = tmp_path_factory.mktemp("read") / "notes.txt"
    path.write_bytes(content)
    options = ReadOptions(encoding_errors="replace", force_binary=True)
    text = in_small_blocks(path, options)
    assert text == content.decode(errors="replace")
    replaced = text.count("\ufffd") - content.count(b"\xef\xbf\xbd")
    assert options.notes == (
        [f"notes.txt: {replaced} invalid bytes or sequences replaced by U+FFFD"] if replaced else []
    )


@given(st.binary(max_size=40))
def test_the_offset_of_a_bad_byte_is_that_in_the_file(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("read") / "notes.txt"
    path.write_bytes(content)
    try:
        content.decode()
    except UnicodeDecodeError as error:
        with pytest.raises(InputError, match=rf"notes.txt: byte {error.start} .*--encoding-errors replace"):
            in_small_blocks(path, ReadOptions(force_binary=True))
    else:
        expected = io.TextIOWrapper(io.BytesIO(content), encoding="utf-8-sig").read()
        assert in_small_blocks(path, ReadOptions(force_binary=True)) == expected


def test_a_byte_order_mark_counts_in_the_offset(read):
    assert "byte 4 " in refused(read, b"\xef\xbb\xbfa\xff")


def test_what_was_changed_is_noted_once(read, tmp_path):
    text, notes = read(b"\xef\xbb\xbfone\r\ntwo\rthree\n")
    assert text == "one\ntwo\nthree\n"
    assert notes == ["notes.txt: byte order mark removed", "notes.txt: CR and CRLF read as LF"]
    options = ReadOptions(notes=notes)
    list(read_text(tmp_path / "notes.txt", "notes.txt", options))
    assert len(notes) == 2


def test_plain_text_has_no_notes(read):
    assert read("naïve\n".encode()) == ("naïve\n", [])


def test_a_stray_nul_is_text(read):
    assert read(b"a\x00b")[0] == "a\x00b"


@pytest.mark.parametrize("signature", readers._SIGNATURES)
def test_binary_files_are_refused_by_their_first_bytes(read, signature):
    assert "--force-binary" in refused(read, signature + b" and so on")


def test_binary_files_are_refused_by_their_nuls(read):
    content = b"a\x00\x00\x07" * 100
    assert "--force-binary" in refused(read, content)
    assert "--force-binary" in refused(read, gzip.compress(content), "notes.txt.gz")
    assert read(content, force_binary=True)[0] == content.decode()


@pytest.mark.parametrize("encoding", ["UTF-16LE", "UTF-16BE", "UTF-32LE", "UTF-32BE"])
def test_wide_encodings_are_known_by_their_nuls_too(read, encoding):
    text = "no byte order mark, and a naïve € 😀\n" * 300
    assert f"iconv -f {encoding} -t UTF-8" in refused(read, text.encode(encoding))
    assert "binary" in refused(read, "\x01\x02\x03 and other numbers".encode(encoding))


@pytest.mark.parametrize(("encoding", "name"), [("utf-16", "UTF-16"), ("utf-32", "UTF-32")])
def test_wide_encodings_are_named_with_the_way_out(read, encoding, name):
    assert f"iconv -f {name} -t UTF-8" in refused(read, "text".encode(encoding))


@pytest.mark.parametrize(
    ("suffix", "compress"), [(".gz", gzip.compress), (".zst", zstandard.ZstdCompressor().compress)]
)
class TestArchives:
    TEXT = "".join(f"line {number} naïve\n" for number in range(50_000)).encode()

    def test_reads_as_its_content(self, read, suffix, compress):
        assert read(compress(self.TEXT), "a.txt" + suffix)[0].encode() == self.TEXT

    def test_members_follow_each_other(self, read, suffix, compress):
        assert read(compress(b"one ") + compress(b"two"), "a.txt" + suffix)[0] == "one two"

    def test_nothing_in_it_is_nothing(self, read, suffix, compress):
        assert read(compress(b""), "a.txt" + suffix)[0] == ""

    @pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
    def test_cut_short_it_is_refused(self, read, suffix, compress, kept):
        whole = compress(self.TEXT)
        assert "archive" in refused(read, whole[: int(len(whole) * kept)], "a.txt" + suffix)

    def test_damaged_it_is_refused(self, read, suffix, compress):
        damaged = bytearray(compress(self.TEXT))
        damaged[4:40] = bytes(36)
        assert "archive" in refused(read, bytes(damaged), "a.txt" + suffix)

    def test_a_text_of_that_name_is_refused(self, read, suffix, compress):
        assert "archive" in refused(read, b"just text, whatever it is called", "a.txt" + suffix)

    def test_a_bomb_is_never_held(self, tmp_path, suffix, compress):
        path = tmp_path / f"bomb{suffix}"
        path.write_bytes(compress(bytes(64 << 20)))
        tracemalloc.start()
        size = sum(len(block) for block in read_bytes(path, "bomb"))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert size == 64 << 20
        assert peak < 32 << 20


def test_one_long_line_is_read_in_constant_memory(tmp_path):
    path = tmp_path / "line.txt"
    path.write_bytes(b"word " * (5 << 20))
    tracemalloc.start()
    size = sum(len(block) for block in read_text(path, "line.txt", ReadOptions()))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size == path.stat().st_size
    assert peak < 10 << 20


def test_zst_without_its_package_says_what_to_install(read, monkeypatch):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(MissingExtraError, match=r"reading \.zst needs .*elman\[data\]"):
        read(b"", "a.zst")


def test_a_file_that_cannot_be_opened_is_named(tmp_path):
    with pytest.raises(InputError, match="gone: cannot be read: No such file"):
        list(read_bytes(tmp_path / "gone", "gone"))
