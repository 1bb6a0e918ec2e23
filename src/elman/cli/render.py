"""How results look: JSON for tools, tables for people, and text from a model made safe for a terminal."""

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


def print_json(document: Mapping[str, Any]) -> None:
    """One strict JSON document on stdout; numbers that JSON lacks are null."""
    print(json.dumps(_finite(document), ensure_ascii=False, allow_nan=False))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> None:
    """A table on stdout: the columns numbered in `left` to the left, those of numbers to the right."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for position, column in enumerate(columns):
        table.add_column(column, justify="left" if position in left else "right", overflow="fold")
    for row in rows:
        table.add_row(*(visible(cell) for cell in row))
    Console(file=sys.stdout, markup=False, highlight=False).print(table)


def say(line: str) -> None:
    """One line of progress on stderr."""
    print(visible(line), file=sys.stderr, flush=True)


def visible(text: str) -> str:
    """`text` with control characters written out, so that a terminal shows what a model wrote."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def command_line() -> str:
    """What the user typed."""
    return shlex.join(["elman", *sys.argv[1:]])


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
