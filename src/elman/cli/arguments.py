"""What verbs share of a command line: types of options, how a corpus is read, and what a slip is told."""

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from cyclopts import (
    App,
    CycloptsError,
    MissingArgumentError,
    Parameter,
    RepeatArgumentError,
    Token,
    UnknownOptionError,
    UnusedCliTokensError,
)

from elman.errors import InputError, UsageError


def _worth_showing(value: object) -> object:
    return None if value is False or value in ("", ()) else value


DEFAULTS = Parameter(negative="", show_default=_worth_showing)
"""For every option: no --no-x beside --x, and in the help no default that says nothing."""


def _whole_number(_: Any, tokens: Sequence[Token]) -> int:
    try:
        return int(tokens[0].value)
    except ValueError:
        raise ValueError(f"{tokens[0].value!r} is not a whole number") from None


Whole = Annotated[int, Parameter(converter=_whole_number)]
"""An integer. 1.5 is refused, where cyclopts would round it."""

Source = Annotated[str, Parameter(allow_leading_hyphen=True)]
"""A corpus or a text that may be `-`, standard input; see `refuse_unknown_options` for other hyphens."""

Documents = Literal["line", "paragraph", "file", "record"]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a corpus is read; the names are those of `DataConfig`."""

    documents: Documents | None = None
    """What a document is. Default: the natural unit of the source, a file or a record."""
    text_field: str = "text"
    """The field of jsonl, parquet and hf: records."""
    encoding_errors: Literal["strict", "replace"] = "strict"
    """Refuse bytes that are not UTF-8, or replace them."""
    force_binary: bool = False
    """Read a file even if it looks like a program, a picture or an archive."""
    skip_bad: bool = False
    """Leave out records without usable text, up to 1 % of those of a source."""


def require_utf8(arguments: Iterable[str]) -> None:
    """Raise InputError for an argument that no file written here could hold: bytes that are not UTF-8."""
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise InputError(
                f"argument {argument!a} is not UTF-8; rename the file, or set PYTHONUTF8=1"
            ) from None


def options_in(arguments: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Position and name of every option; what follows `--` is none, nor is a negative number or `-`."""
    for position, argument in enumerate(arguments):
        if argument == "--":
            return
        if re.match("--?[a-zA-Z]", argument):
            yield position, argument.partition("=")[0]


def refuse_unknown_options(app: App, arguments: Sequence[str]) -> None:
    """Raise UsageError for an option that the verb does not have, with the nearest that it has.

    Where no verb is given, only the first argument is looked at: the rest belongs to what it should have been.
    """
    known = {*app.help_flags, *app.version_flags}
    if known & {*arguments}:
        return  # will be answered, whatever stands beside them
    verb, apps, rest = app.parse_commands(arguments)
    if apps[-1].default_command is not None:
        known |= {name for argument in apps[-1].assemble_argument_collection() for name in argument.names}
    for _, option in options_in(rest if verb else rest[:1]):
        if option not in known:
            raise unknown_option(option, known, verb)


def unknown_option(option: str, known: Iterable[str], verb: Iterable[str]) -> UsageError:
    """The error, to be raised."""
    if not option.startswith("--"):
        return UsageError(f"unknown option {option}; a text that begins with a hyphen goes last, after --")
    # without the hyphens, which would make everything look alike
    near = difflib.get_close_matches(option[2:], sorted(name.removeprefix("--") for name in known), n=1)
    way_out = f"did you mean --{near[0]}?" if near else f"see {' '.join(['elman', *verb])} --help"
    return UsageError(f"unknown option {option}; {way_out}")


def explain(error: CycloptsError) -> str:
    """What cyclopts objects to, in the words of this command line."""
    command = " ".join(["elman", *(error.command_chain or ())])
    argument = error.argument
    if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        return f"unexpected argument {error.unused_tokens[0]!r}; see {command} --help"
    if isinstance(error, UnknownOptionError):  # after `--`, as all before it are known
        return (
            f"unexpected argument {error.token.keyword or error.token.value} after --; see {command} --help"
        )
    if isinstance(error, MissingArgumentError) and argument is not None:
        if error.keyword is not None:
            return f"{error.keyword} needs a value"
        name = argument.name.lstrip("-").upper() if argument.field_info.is_positional else argument.name
        return f"{command} needs {name}; see {command} --help"
    if isinstance(error, RepeatArgumentError):
        return f"{error.token.keyword} is given twice; give it once"
    return str(error)
