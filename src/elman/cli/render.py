"""How results look: JSON for tools, tables for people, and text from a model made safe for a terminal."""

import contextlib
import json
import math
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

# What a terminal would obey instead of show: C0 but tab and newline, DEL, C1, marks that turn the direction.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


LEAST_WIDTH = 20
"""Columns assumed at least; in two or fewer the help of cyclopts would wrap its labels for ever."""

FOLDED_AT = 24
"""Characters of one word of text, a path for example, after which a table may fold it."""


class Output(Console):
    """stdout, in plain characters; a reader that has gone is BrokenPipeError, where rich would exit with 1."""

    def __init__(self) -> None:
        super().__init__(markup=False, highlight=False)
        self.width = max(self.width, LEAST_WIDTH)

    def on_broken_pipe(self) -> None:
        """Raise it again."""
        raise BrokenPipeError


def print_json(document: Mapping[str, Any]) -> None:
    """One strict JSON document on stdout, in ASCII for any encoding; numbers that JSON lacks are null."""
    print(json.dumps(_finite(document), allow_nan=False))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> None:
    """A table on stdout: the columns numbered in `left` to the left, those of numbers to the right.

    Headings are folded, and so are long words of text, a path for example; numbers never. Where there is no room, each
    row is a list.
    """
    rows = [[visible_line(cell) for cell in row] for row in rows]
    output = Output()
    numbers = [position for position in range(len(columns)) if position not in left]
    widest = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
    narrowest = [
        max(len(word) for cell in cells for word in (cell.split() or [""]))
        for cells in zip(columns, *rows, strict=True)
    ]
    narrowest = [
        width if position in numbers else min(width, FOLDED_AT) for position, width in enumerate(narrowest)
    ]
    gaps = 2 * (len(columns) - 1)
    if sum(narrowest) + gaps > output.width:
        for row in rows:
            for column, cell in zip(columns, row, strict=True):
                print(f"{column}: {cell}" if column else cell)
        return
    widths = widest if sum(widest) + gaps <= output.width else narrowest
    table = Table(box=None, pad_edge=False, header_style="bold")
    for position, column in enumerate(columns):
        if position in numbers:
            table.add_column(column, justify="right", width=widths[position])
        else:
            table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    output.print(table)


def say(line: str) -> None:
    """One line of progress on stderr; a terminal that has gone ends no work."""
    with contextlib.suppress(OSError):
        print(visible_line(line), file=sys.stderr, flush=True)


def visible(text: str) -> str:
    """`text` with control characters written out, so that a terminal shows what a model wrote."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def visible_line(text: str) -> str:
    """The same on one line, so that no name begins a line of its own."""
    return visible(text).replace("\n", "\\n")


_SECRET_NAME = re.compile(
    r"(?i)(?:^|[-_.])(?:api-?key|access-?key|key|token|secret|password|passwd|passphrase|credentials?|auth)$"
)
_SECRET = re.compile(
    r"(?P<url>[a-z][a-z0-9+.-]*://)[^/@\s]*@"  # who: and the password of a URL
    r"|(?i:(?P<parameter>[?&=](?:[a-z_.-]*[_.-])?(?:key|token|secret|password|signature|sig)=))[^&\s]+"
    r"|\b(?:hf_|sk-|ghp_|github_pat_|glpat-|xox[abp]-|AKIA)[A-Za-z0-9_-]{12,}"
)


def command_line() -> str:
    """What the user typed, fit to be kept and published: what looks like a secret is `***`.

    That is the value of an option or an assignment whose name ends in key, token, secret, password and the like, who
    a URL is opened for, parameters of a URL that are called so, and what begins as the keys of known services do.
    """
    shown: list[str] = []
    hide = False
    for argument in sys.argv[1:]:
        name, assigned, _ = argument.partition("=")
        secret = _SECRET_NAME.search(name) is not None
        if hide:
            argument = "***"
        elif assigned and secret:
            argument = f"{name}=***"
        else:
            argument = _SECRET.sub(_without_secret, argument)
        hide = not assigned and secret and argument.startswith("-")
        shown.append(argument)
    return shlex.join(["elman", *shown])


def _without_secret(found: re.Match[str]) -> str:
    if found["url"]:
        return f"{found['url']}***@"
    return f"{found['parameter'] or ''}***"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def megabytes(size: int) -> str:
    """Bytes for people: `12.3 MB`, and below a megabyte `12.3 kB`."""
    return f"{size / 1e6:,.1f} MB" if size >= 1e6 else f"{size / 1e3:,.1f} kB"
