r"""What an ARPA file is made of: words, numbers and lines, before they mean anything.

White space parts the words of a file. So where a token holds white space or a control character, each of them
is written `\u{HEX}`, its code point in lower case; an empty token is `\u{}`; a token that spells a special word
has its first character written so; and a backslash that stands before `u{` is `\u{5c}`. All else is as it is.
"""

import codecs
import contextlib
import gzip
import math
import re
import zlib
from array import array
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from elman.errors import InputError
from elman.files import replacing
from elman.models.kneser_ney import Floats
from elman.models.ngram import MAX_ORDER

START, END, UNKNOWN = "<s>", "</s>", "<unk>"
"""The words that are not text."""

UNKNOWN_NAMES = (UNKNOWN, "<UNK>")
"""What a file may call the unknown word; KenLM takes either, too."""

NOTHING = -99.0
"""The log10 of no probability, as SRILM writes it."""

LARGEST_BACKOFF = 300
"""The log10 of more is beyond float64."""

_UNWRITABLE = re.compile(r"[\s\x00-\x1f\x7f-\x9f\ud800-\udfff]|\\(?=u\{)")
_ESCAPE = re.compile(r"\\u\{([0-9a-f]{0,5}|10[0-9a-f]{4})\}")
_COUNT = re.compile(rb"ngram\s+(\d{1,2})\s*=\s*(\d{1,18})")


def escape(token: str) -> str:
    """The word that stands for a token which is text."""
    if token in (START, END, *UNKNOWN_NAMES):
        return rf"\u{{{ord(token[0]):x}}}{token[1:]}"
    return _UNWRITABLE.sub(lambda found: rf"\u{{{ord(found[0]):x}}}", token) or r"\u{}"


def unescape(word: str) -> str:
    r"""The token whose `escape` is `word`; a word without `\u{HEX}` is itself."""
    return _ESCAPE.sub(lambda found: chr(int(found[1], 16)) if found[1] else "", word)


def log10(values: Floats) -> list[float]:
    """The logarithms as a file has them: that of 0 is NOTHING."""
    found: list[float] = np.log10(values, out=np.full(len(values), NOTHING), where=values > 0).tolist()
    return found


def show(text: bytes) -> str:
    """Part of a file, fit for a message."""
    return ascii(text[:60].decode(errors="backslashreplace") + ("..." if len(text) > 60 else ""))


class Lines:
    """The lines of a file one after another, without their ends; an error knows where it is."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.number = 0
        """Of the line that `next` gave, from 1."""
        self._lines = self._read()
        self._put_back: list[bytes | None] = []

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()

    def _read(self) -> Generator[bytes, None, None]:
        try:
            with gzip.open(self.path) if self.path.suffix == ".gz" else self.path.open("rb") as file:
                for line in file:
                    self.number += 1
                    yield line.rstrip(b"\r\n")
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise self.error(f"the gzip data end or break here ({error}); fetch the file again") from error
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read: {error.strerror}; give another file") from error

    def error(self, what: str, line: int | None = None) -> InputError:
        """What is wrong in a line, the present one unless another is given."""
        return InputError(f"{self.path}, line {self.number if line is None else line}: {what}")

    def next(self) -> bytes | None:
        """The next line; None after the last."""
        return self._put_back.pop() if self._put_back else next(self._lines, None)

    def put_back(self, line: bytes | None) -> None:
        """Let `next` give this line, the present one, once more."""
        self._put_back.append(line)

    def next_filled(self) -> bytes | None:
        """The next line that is not blank, without the white space around it."""
        while (line := self.next()) is not None:
            if line := line.strip():
                return line
        return None

    def expect(self, wanted: bytes) -> None:
        """Take the next line that is not blank.

        Raises:
            InputError: It is not `wanted`.
        """
        found = self.next_filled()
        if found is None:
            raise self.error(
                f"the file ends where {wanted.decode()} should be: it is cut off; fetch it again"
            )
        if found != wanted:
            raise self.error(f"{show(found)} stands where {wanted.decode()} should be; make the file again")


class Entries(NamedTuple):
    """The n-grams of one order in the order of the file."""

    first_line: int
    """Number of the line of the first; the others follow line by line."""
    ids: "array[int]"
    """[M * k], their words."""
    probs: "array[float]"
    """[M], log10."""
    backoffs: "array[float]"
    """[M], log10; 0 where there is none."""


def read_counts(lines: Lines) -> list[int]:
    """How many n-grams of each order there should be. Anything may stand before."""
    while (line := lines.next()) is not None:
        if line.strip().removeprefix(codecs.BOM_UTF8) == rb"\data" b"\\":
            break
    else:
        raise lines.error(
            "the file ends without a line \\data\\; give an ARPA file, as text and not as binary"
        )
    counts: list[int] = []
    while (line := lines.next_filled()) is not None and line.startswith(b"ngram"):
        found = _COUNT.fullmatch(line)
        if found is None or int(found[1]) != len(counts) + 1:
            raise lines.error(
                f"{show(line)} stands where ngram {len(counts) + 1}=COUNT should be; correct it"
            )
        counts.append(int(found[2]))
    lines.put_back(line)
    if not counts:
        raise lines.error("no line ngram 1=COUNT follows \\data\\; make the file again")
    if len(counts) > MAX_ORDER:
        raise lines.error(f"order {len(counts)} is above {MAX_ORDER}; make a model of a lower order")
    return counts


def read_entries(lines: Lines, k: int, count: int, number: Callable[[bytes], int]) -> Entries:
    """The section of order k, `number` being the id of a word."""
    lines.expect(b"\\%d-grams:" % k)
    first, ids, probs, backoffs = lines.number + 1, array("i"), array("d"), array("d")
    while (line := lines.next()) is not None and not line.startswith(b"\\"):
        fields = [field for field in line.replace(b"\t", b" ").split(b" ") if field]
        if not fields:
            break
        try:
            prob, backoff = float(fields[0]), float(fields[k + 1]) if len(fields) == k + 2 else 0.0
        except ValueError:
            fields = []
        if len(fields) not in (k + 1, k + 2):
            raise lines.error(
                f"{show(line)} is not a log10 probability, {k} words, and perhaps a log10 back-off; correct it"
            )
        if not prob <= 0:
            raise lines.error(f"the log10 probability is {prob}, and must be 0 or below; correct it")
        if not -math.inf < backoff <= LARGEST_BACKOFF:
            raise lines.error(
                f"the log10 back-off is {backoff}, and must be finite and at most {LARGEST_BACKOFF}; correct it"
            )
        try:
            ids.extend(map(number, fields[1 : k + 1]))
        except KeyError as error:
            raise lines.error(f"{show(error.args[0])} is not among the 1-grams; list it there") from None
        probs.append(prob)
        backoffs.append(backoff)
    lines.put_back(line)
    if len(probs) != count:
        raise lines.error(
            f"the {k}-grams end here and are {len(probs):,}, and \\data\\ says {count:,}; the file is cut off or"
            " damaged: make it again"
        )
    return Entries(first, ids, probs, backoffs)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[IO[bytes]]:
    """As `files.replacing`, compressed if the name of `path` ends in `.gz`."""
    with replacing(path) as raw:
        if path.suffix != ".gz":
            yield raw
            return
        # No name and no time in it: the same model is the same file.
        with gzip.GzipFile("", "wb", compresslevel=6, fileobj=raw, mtime=0) as packed:
            yield packed  # type: ignore[misc]
