"""Bytes to text: decompression, UTF-8, newlines, a block at a time.

    file -> (gunzip | unzstd) -> refuse binary -> drop a byte order mark -> decode UTF-8 -> CRLF and CR as LF

A block is 1 MiB, so a file of any size, and of any line length, is read in constant memory; of an archive,
only as long as it decompresses as text does.

LF is the only end of line, on every system. CRLF and CR are read as LF, and remarked on. Everything else that
ends a line somewhere (VT, FF, NEL, U+2028, U+2029, the separators U+001C to U+001E) is a character like any other.
"""

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import BinaryIO, Literal

from elman.errors import InputError, MissingExtraError

BLOCK_BYTES = 1 << 20
"""What is read at a time."""

_ZST_FEED_BYTES = 1 << 8
"""Compressed bytes given to zstd at a time; one such feed may become about 8 MiB at most."""

HEAD_BYTES = 8192
"""How much of a file is looked at to tell whether it is text."""

MAX_RATIO = 256
"""Bytes that a byte of an archive may become; text becomes 3 to 30, logs 100, and what is made to do harm 1,000."""

ALWAYS_ALLOWED = 1 << 26
"""Bytes that an archive may hold whatever its size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """How to read a corpus, and what was remarked on the way."""

    text_field: str = "text"
    """The field that holds the text of a record."""
    encoding_errors: Literal["strict", "replace"] = "strict"
    """What to do with bytes that are not UTF-8: refuse the file, or read them as U+FFFD."""
    force_binary: bool = False
    """Read a file even if it looks like a program, a picture or an archive."""
    skip_bad: bool = False
    """Leave out records without usable text, up to 1 % of those of a source, instead of refusing it."""
    notes: list[str] = field(default_factory=list)
    """One-line remarks, each once."""

    def note(self, remark: str) -> None:
        """Add a remark that is not there yet; a corpus is read more than once."""
        if remark not in self.notes:
            self.notes.append(remark)


def read_text(path: Path, label: str, options: ReadOptions) -> Iterator[str]:
    """The text of a file, in blocks, with LF as the only end of line.

    Args:
        path: A file; `.gz` and `.zst` are decompressed on the way.
        label: What messages call it.
        options: Of which `encoding_errors`, `force_binary` and `notes` are used.

    Raises:
        InputError: The file cannot be read, is binary, is a damaged archive, or is not UTF-8.
    """
    blocks = read_bytes(path, label)
    head = next(blocks, b"")
    if not options.force_binary:
        refuse_binary(head[:HEAD_BYTES], label)
    offset = 0  # of the block, in the decompressed file
    if head.startswith(codecs.BOM_UTF8):
        options.note(f"{label}: byte order mark removed")
        offset = len(codecs.BOM_UTF8)

    decoder = codecs.getincrementaldecoder("utf-8")(options.encoding_errors)
    newlines = io.IncrementalNewlineDecoder(None, translate=True)
    replaced = 0
    for block in chain((head[offset:],), blocks, (b"",)):  # the empty block ends the text
        pending = decoder.getstate()[0]  # the bytes of a character that began in the block before
        try:
            text = decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            at = offset - len(pending) + error.start
            raise InputError(
                f"{label}: byte {at} (0x{error.object[error.start]:02x}) is not UTF-8; convert the file, "
                "or read such bytes as U+FFFD with --encoding-errors replace"
            ) from None
        offset += len(block)
        if options.encoding_errors == "replace":
            decoded = (pending + block).removesuffix(decoder.getstate()[0])
            replaced += text.count("\ufffd") - decoded.count("\ufffd".encode())
        # IncrementalNewlineDecoder keeps a CR back at the end of a block, for the LF that may follow
        if text := newlines.decode(text, final=not block):
            yield text
    if replaced:
        options.note(f"{label}: {replaced:,} invalid bytes or sequences replaced by U+FFFD")
    seen = newlines.newlines or ()
    if set(seen if isinstance(seen, tuple) else (seen,)) - {"\n"}:
        options.note(f"{label}: CR and CRLF read as LF")


def read_bytes(path: Path, label: str) -> Iterator[bytes]:
    """The decompressed bytes of a file, in blocks that are never empty.

    Every block but the last has at least BLOCK_BYTES. Raises InputError where the file cannot be read, or its
    archive is damaged, cut short, or decompresses without end.
    """
    try:
        with open(path, "rb") as file:
            match path.suffix.lower():
                case ".gz":
                    with gzip.GzipFile(fileobj=file) as unzipped:
                        yield from _bounded(_blocks(unzipped), file, label)
                case ".zst":
                    yield from _bounded(_decompress_zst(file, label), file, label)
                case _:
                    yield from _blocks(file)
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise InputError(
            f"{label}: not a whole gzip archive ({error}); fetch or compress it again"
        ) from error
    except OSError as error:
        raise InputError(f"{label}: cannot be read: {error.strerror or error}") from error


def _blocks(file: BinaryIO | gzip.GzipFile) -> Iterator[bytes]:
    while block := file.read(BLOCK_BYTES):
        yield block


def _bounded(blocks: Iterator[bytes], file: BinaryIO, label: str) -> Iterator[bytes]:
    """The blocks that `file` decompresses to, as long as that is in proportion to what was read of it."""
    size = 0
    for block in blocks:
        size += len(block)
        if size > ALWAYS_ALLOWED + MAX_RATIO * file.tell():
            raise InputError(
                f"{label}: decompresses to more than {MAX_RATIO} times its size, as no text does; "
                "if that is intended, decompress it and give the result"
            )
        yield block


def _decompress_zst(file: BinaryIO, label: str) -> Iterator[bytes]:
    try:
        import zstandard
    except ImportError as error:
        raise MissingExtraError("reading .zst", "zstandard", "data") from error

    # Not stream_reader: it takes an archive that is cut short for one that ends.
    decompressor = zstandard.ZstdDecompressor()
    frame = None
    held = bytearray()
    try:
        while feed := file.read(_ZST_FEED_BYTES):
            while feed:
                frame = frame or decompressor.decompressobj()
                held += frame.decompress(feed)
                feed = b""
                if frame.eof:  # another frame may follow
                    feed, frame = frame.unused_data, None
            if len(held) >= BLOCK_BYTES:
                yield bytes(held)
                held.clear()
    except zstandard.ZstdError as error:
        raise InputError(
            f"{label}: not a whole zstd archive ({error}); fetch or compress it again"
        ) from error
    if frame is not None:
        raise InputError(f"{label}: not a whole zstd archive (it ends too early); fetch or compress it again")
    if held:
        yield bytes(held)


_SIGNATURES = {
    b"\x7fELF": "a program",
    b"\xcf\xfa\xed\xfe": "a program",
    b"\xca\xfe\xba\xbe": "a program",
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"GIF87a": "a GIF picture",
    b"GIF89a": "a GIF picture",
    b"%PDF-": "a PDF document",
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b": "a gzip archive without .gz in its name",
    b"\x28\xb5\x2f\xfd": "a zstd archive without .zst in its name",
    b"\xfd7zXZ\x00": "an xz archive",
    b"BZh91AY&SY": "a bzip2 archive",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"SQLite format 3\x00": "a database",
    b"PAR1\x15": "parquet without .parquet in its name",
    b"ARROW1\x00": "an Arrow file",
    b"\x93NUMPY": "a NumPy array",
}
"""First bytes that no text has."""

_WIDE_ENCODINGS = {
    # UTF-32 first: its little-endian mark begins with that of UTF-16
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


_NULS_OF_LATIN_TEXT: dict[tuple[bool, ...], str] = {
    (False, True, True, True): "UTF-32LE",
    (True, True, True, False): "UTF-32BE",
    (False, True, False, True): "UTF-16LE",
    (True, False, True, False): "UTF-16BE",
}
"""Which of every four bytes are mostly NUL, where letters that fit into one byte are written with two or four."""


def refuse_binary(head: bytes, label: str) -> None:
    """Raise InputError, with the way out, if these first bytes of a file are not those of a text in UTF-8."""
    for mark, encoding in _WIDE_ENCODINGS.items():
        if head.startswith(mark):
            raise InputError(f"{label}: {encoding} text; convert it: iconv -f {encoding} -t UTF-8")
    for signature, kind in _SIGNATURES.items():
        if head.startswith(signature):
            raise InputError(
                f"{label}: {kind}, not text; extract its text, or read it anyway with --force-binary"
            )
    # A stray NUL occurs in text; one byte in twenty does not.
    nuls = head.count(0)
    if nuls > 8 and nuls * 20 > len(head):
        if encoding := _wide_encoding(head):
            raise InputError(
                f"{label}: {encoding} text, without a byte order mark, by its NUL bytes; "
                f"convert it: iconv -f {encoding} -t UTF-8"
            )
        raise InputError(
            f"{label}: binary, not text ({nuls} of its first {len(head)} bytes are NUL); "
            "convert it, or read it anyway with --force-binary"
        )


def _wide_encoding(head: bytes) -> str:
    """The encoding of wide characters in which `head` is text, or nothing."""
    nuls = tuple(head[place::4].count(0) * 8 > len(head) for place in range(4))
    encoding = _NULS_OF_LATIN_TEXT.get(nuls, "")
    text = head.decode(encoding, "replace") if encoding else ""
    return encoding if all(character.isprintable() or character.isspace() for character in text) else ""
