"""Records with a field of text: lines of JSON, rows of parquet, examples on the Hugging Face hub.

Each reader yields the text of one record at a time, in the order of the source. A record without the field,
or with something other than a string in it, is an error that names the record. With `skip_bad` such records are
left out, counted and remarked on, as long as they are no more than 1 % of the source: none is skipped in silence.
"""

import json
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from elman.config import suggestion
from elman.data.readers import ReadOptions, read_bytes, read_text
from elman.errors import ElmanError, InputError, MissingExtraError, first_line

_ROWS_AT_A_TIME = 256
"""Rows of parquet that are held as Python strings."""

_NAMES_SHOWN = 20
"""Field names listed in a message."""

_LINE_CHARACTERS = 1 << 26
"""The longest line of JSON; it is held whole."""

_RECORDS_TO_A_BAD_ONE = 100
"""At least, for `skip_bad` to leave the bad one out: a source with more of them is not what it was taken for."""

_LEAVE_OUT = "repair the line, or leave out a few such with --skip-bad"

Record = TypeVar("Record")

_HALF_OF_A_PAIR = re.compile("[\ud800-\udfff]")
"""JSON can spell what no encoding can write, and so no tokenizer can read."""


def read_jsonl(path: Path, label: str, options: ReadOptions) -> Iterator[str]:
    """The text of each line of JSON; blank lines are passed over.

    Raises:
        InputError: A line is not an object with a string in `options.text_field`; the message has its number.
    """
    lines = enumerate(_lines(read_text(path, label, options), label), start=1)
    records = ((f"line {number}", line) for number, line in lines if line and not line.isspace())
    return _texts(records, partial(_text_of_line, label=label, options=options), label, options)


def read_parquet(path: Path, label: str, options: ReadOptions) -> Iterator[str]:
    """The text of each row, streamed by batches; `.parquet.gz` and `.parquet.zst` are unpacked to disk first.

    Raises:
        InputError: The file is damaged, or a row has no string in the column `options.text_field`.
        MissingExtraError: pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("reading .parquet", "pyarrow", "data") from error

    try:
        with tempfile.TemporaryFile() if path.suffix.lower() != ".parquet" else open(path, "rb") as file:
            if path.suffix.lower() != ".parquet":
                file.writelines(read_bytes(path, label))
            table = pyarrow.parquet.ParquetFile(file, page_checksum_verification=True)
            require_field(options.text_field, table.schema_arrow.names, label)
            rows = _rows(table, label, options)
            yield from _texts(rows, partial(usable_text, label=label, options=options), label, options)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{label}: cannot be read as parquet: {first_line(error)}") from error


def read_hub(name: str, options: ReadOptions) -> Iterator[str]:
    """The text of each example of a dataset on the Hugging Face hub, streamed.

    Args:
        name: `NAME`, `NAME:SPLIT` or `NAME:CONFIG:SPLIT`; the split is `train` where none is given.
        options: Of which `text_field`, `encoding_errors` and `notes` are used.

    Raises:
        InputError: There is no such dataset or field, or the hub cannot be reached.
        MissingExtraError: datasets is not installed.
    """
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError(f"reading hf:{name}", "datasets", "data") from error

    label = f"hf:{name}"
    repository, *rest = name.split(":")
    split = rest.pop() if rest else "train"
    if not repository or not split or len(rest) > 1:
        raise InputError(f"{label}: not a dataset; write hf:NAME, hf:NAME:SPLIT or hf:NAME:CONFIG:SPLIT")
    try:
        examples = datasets.load_dataset(repository, *rest, split=split, streaming=True)
        records = ((f"record {number}", example) for number, example in enumerate(examples, start=1))
        yield from _texts(records, partial(_text_of_object, label=label, options=options), label, options)
    except ElmanError:
        raise
    except Exception as error:  # datasets raises whatever its transport, its scripts and its formats raise
        raise InputError(
            f"{label}: {first_line(error)}; check the name, or, if the hub cannot be reached from here, "
            "download the data as .jsonl or .parquet and give its path"
        ) from error


def usable_text(value: object, place: str, label: str, options: ReadOptions) -> str:
    """`value` as text that can be encoded, with LF as the only end of line.

    Args:
        value: What a record holds in its field of text.
        place: The record in the source, such as `line 3`.
        label: What messages call the source.
        options: Of which `text_field`, `encoding_errors` and `notes` are used.

    Raises:
        InputError: It is not a string, or holds half of a surrogate pair and `encoding_errors` is strict.
    """
    if not isinstance(value, str):
        raise InputError(
            f"{label}, {place}: the field {options.text_field!r} is {_type_name(value)}, not a string; "
            "name another with --text-field, or leave such records out with --skip-bad"
        )
    if half := _HALF_OF_A_PAIR.search(value):
        if options.encoding_errors == "strict":
            raise InputError(
                f"{label}, {place}: character {half.start()} is half of a surrogate pair; "
                "read such characters as U+FFFD with --encoding-errors replace"
            )
        options.note(f"{label}: halves of surrogate pairs replaced by U+FFFD")
        value = _HALF_OF_A_PAIR.sub("\ufffd", value)
    if "\r" in value:
        options.note(f"{label}: CR and CRLF read as LF")
        value = value.replace("\r\n", "\n").replace("\r", "\n")
    return value


def require_field(name: str, fields: Iterable[str], where: str) -> None:
    """Raise InputError, with the names there are and the nearest of them, unless `name` is among `fields`."""
    present = list(fields)
    if name not in present:
        shown = ", ".join(present[:_NAMES_SHOWN]) + (", ..." if len(present) > _NAMES_SHOWN else "")
        raise InputError(
            f"{where}: no field {name!r}{suggestion(name, present)}; "
            f"name the field that holds the text with --text-field; there are: {shown or 'none'}"
        )


def _texts(
    records: Iterable[tuple[str, Record]],
    text_of: Callable[[Record, str], str],
    label: str,
    options: ReadOptions,
) -> Iterator[str]:
    """The text of each record, which comes with its place; bad ones are refused, or left out and counted."""
    count = bad = 0
    first = ""
    for place, record in records:
        count += 1
        try:
            text = text_of(record, place)
        except InputError as error:
            if not options.skip_bad:
                raise
            bad += 1
            first = first or str(error)
            continue
        yield text
    if bad * _RECORDS_TO_A_BAD_ONE > count:
        raise InputError(
            f"{label}: {bad:,} of {count:,} records are bad, and --skip-bad leaves out 1 % at most; the first: {first}"
        )
    if bad:
        options.note(f"{label}: {bad:,} of {count:,} records left out; the first: {first}")


def _rows(table: Any, label: str, options: ReadOptions) -> Iterator[tuple[str, object]]:
    """The column of text of a `pyarrow.parquet.ParquetFile`, each value with its place."""
    number = 0
    for batch in table.iter_batches(_ROWS_AT_A_TIME, columns=[options.text_field]):
        for value in batch.column(0).to_pylist():
            number += 1
            yield f"row {number}", value
    if number != table.metadata.num_rows:  # of two numbers of rows in a file, pyarrow believes the smaller
        raise InputError(
            f"{label}: cannot be read as parquet: {number:,} of {table.metadata.num_rows:,} rows are there"
        )


def _text_of_line(line: str, place: str, label: str, options: ReadOptions) -> str:
    where = f"{label}, {place}"
    try:
        record = _decode_json(line)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{where}: not valid JSON: {error.msg} at column {error.colno}; {_LEAVE_OUT}"
        ) from None
    except RecursionError:
        raise InputError(f"{where}: JSON nested too deeply to be read; {_LEAVE_OUT}") from None
    except ValueError as error:  # a number of thousands of digits, a key that is there twice
        raise InputError(f"{where}: not usable JSON: {first_line(error)}; {_LEAVE_OUT}") from None
    if not isinstance(record, dict):
        raise InputError(f"{where}: {_type_name(record)}, not an object with a field {options.text_field!r}")
    return _text_of_object(record, place, label, options)


def _text_of_object(record: dict[str, object], place: str, label: str, options: ReadOptions) -> str:
    require_field(options.text_field, record, f"{label}, {place}")
    return usable_text(record[options.text_field], place, label, options)


def _once_each(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """The object of these keys and values. Of a key that is there twice, who could say which value is meant?"""
    record = dict(pairs)
    if len(record) < len(pairs):
        [(twice, _)] = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key {twice!r} is there twice in an object")
    return record


_decode_json = json.JSONDecoder(object_pairs_hook=_once_each).decode


def _lines(blocks: Iterable[str], label: str) -> Iterator[str]:
    parts: list[str] = []  # of a line that spans blocks; joined once, as a line may be very long
    held = number = 0
    for block in blocks:
        head, *rest = block.split("\n")
        parts.append(head)
        held += len(head)
        if held > _LINE_CHARACTERS:
            raise InputError(
                f"{label}, line {number + 1}: longer than {_LINE_CHARACTERS:,} characters; one record a line, please"
            )
        for line in rest:
            yield "".join(parts)
            parts, held = [line], len(line)
            number += 1
    yield "".join(parts)


def _type_name(value: object) -> str:
    names = {dict: "an object", list: "a list", bool: "true or false", int: "a number", float: "a number"}
    return "null" if value is None else names.get(type(value), f"of type {type(value).__name__}")
