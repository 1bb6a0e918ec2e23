"""Opening a `tokenizer.json` of somebody else, in which nothing is trusted.

The file is no program, but it holds regular expressions and replacements; and where one of them goes wrong, the library
that runs them ends in a Rust panic, which no `except Exception` catches. So before it is used

    size         is bounded before anything is parsed
    patterns     that repeat what is repeated or has alternatives, `(a+)+`, are refused: their time can double with
                 every character of a text (Davis et al. 2018)
    growth       of a text by replacements is bounded
    ids          lie within the vocabulary, so that none is beyond the rows of an embedding

and whatever the library says is one TokenizerError.
"""

import contextlib
import json
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as TokenizerFile

from elman.errors import ElmanError, InputError, TokenizerError, first_line
from elman.files import read_at_most

LARGEST_FILE = 1 << 26
"""Bytes; the largest vocabularies in use, of 256,000 entries, take half of it."""

MOST_GROWTH = 4096
"""Characters that replacements may make of one. Usual ones make a few: of a byte, or of an unusual space."""

_ATOM = re.compile(r"\\.|\[\^?\]?(?:\\.|\[:\^?\w+:\]|[^\]\\])*\]|.", re.DOTALL)
"""One step through a regular expression: an escaped character, a class of characters, or any other character."""

_UNBOUNDED = re.compile(r"[*+]|\{\d*,\}")


def read_tokenizer_file(path: Path) -> TokenizerFile:
    """The file at `path`, once it is known to be harmless.

    Raises:
        TokenizerError: It cannot be read, is too large, is no tokenizer.json, or may take for ever.
    """
    try:
        content = read_at_most(path, LARGEST_FILE)
    except InputError as error:
        raise TokenizerError(str(error)) from error
    return parse_tokenizer_file(content, str(path))


def parse_tokenizer_file(content: bytes, where: str) -> TokenizerFile:
    """The same, of content that was read already; `where` is what messages call it.

    Raises:
        TokenizerError: As for `read_tokenizer_file`.
    """
    with one_line_errors(f"{where}: not a tokenizer.json"):
        file = TokenizerFile.from_str(content.decode())
        require_harmless(file, where)
        return file


def require_harmless(file: TokenizerFile, where: str) -> None:
    """Raise TokenizerError where a text could take for ever, or become any length."""
    for part in (file.normalizer, file.pre_tokenizer, file.decoder):
        growth = 1
        for step in _steps(json.loads(part.__getstate__()) if part is not None else None):
            pattern = step.get("pattern")
            expression = pattern.get("Regex") if isinstance(pattern, dict) else None
            if isinstance(expression, str) and _repeats_a_choice(expression):
                raise TokenizerError(
                    f"{where}: the pattern {textwrap.shorten(expression, 60)!r} repeats what is repeated or has"
                    " alternatives, which can take for ever; use another tokenizer"
                )
            growth *= max(1, len(str(step.get("content", ""))), len(str(step.get("prepend", ""))))
            if growth > MOST_GROWTH:
                raise TokenizerError(
                    f"{where}: its replacements may make a text more than {MOST_GROWTH:,} times as long; use"
                    " another tokenizer"
                )


def _steps(part: Any) -> Iterator[dict[str, Any]]:
    """Every object in the JSON of a normalizer, a pre-tokenizer or a decoder, those within others included."""
    if isinstance(part, dict):
        yield part
    for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        yield from _steps(inner)


def _repeats_a_choice(expression: str) -> bool:
    """Whether a group is repeated without bound that can match the same text in more than one way."""
    choices = [False]  # whether each open group holds an alternative or an unbounded repetition
    position = 0
    while position < len(expression):
        found = _ATOM.match(expression, position)
        assert found is not None, "every character is an atom"
        atom, position = found[0], found.end()
        if atom == "(":
            choices.append(False)
        elif atom == ")" and len(choices) > 1:
            choice = choices.pop()
            if choice and _UNBOUNDED.match(expression, position):
                return True
            choices[-1] |= choice
        elif atom == "|" or (atom in "*+{" and _UNBOUNDED.match(expression, found.start())):
            choices[-1] = True
    return False


@contextlib.contextmanager
def one_line_errors(what: str) -> Iterator[None]:
    """Whatever the library raises as a TokenizerError that begins with `what`."""
    try:
        yield
    except (ElmanError, MemoryError):  # a signal that asks to stop, for instance: no fault of the tokenizer
        raise
    except BaseException as error:
        # The library raises bare Exception for every kind of damage; a panic of Rust is not even that.
        if not isinstance(error, Exception) and type(error).__module__ != "pyo3_runtime":
            raise
        raise TokenizerError(f"{what}: {first_line(error)}") from error
