"""Where text comes from: every source of text as a stream of pieces that can be read again and again.

    python-docs                    the documentation inside this Python; nothing to download
    thelmbook:news, :brown         the chapter's corpora, downloaded once; test text: thelmbook:news:test
    hf:NAME                        a dataset on the Hugging Face hub; also hf:NAME:SPLIT, hf:NAME:CONFIG:SPLIT
    -                              standard input
    a file                         text, or records in .jsonl, .ndjson and .parquet; .gz and .zst of these
    a folder                       every such file in it, in the order of their names

A name above wins over a file of that name, which can be given as `./python-docs`.
"""

import shutil
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from elman.config import suggestion
from elman.data.documents import Fragment, Piece, by_line, by_paragraph, cut
from elman.data.download import thelmbook
from elman.data.python_docs import python_docs
from elman.data.readers import HEAD_BYTES, ReadOptions, read_text, refuse_binary
from elman.data.records import read_hub, read_jsonl, read_parquet
from elman.data.sources import find_files, format_of
from elman.errors import ConfigError, InputError, ResourceError

KNOWN_CORPORA = (
    "python-docs",
    "thelmbook:news",
    "thelmbook:brown",
    "thelmbook:news:test",
    "thelmbook:brown:test",
)
"""The corpora that have a name."""

Documents = Literal["line", "paragraph", "file", "record"]
EncodingErrors = Literal["strict", "replace"]

Division = Callable[[Iterator[Fragment]], Iterator[Fragment]]

_RECORD_READERS = {"jsonl": read_jsonl, "parquet": read_parquet}


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Corpus:
    """Text as pieces of documents, streamed."""

    name: str
    """As the user gave it."""
    notes: list[str]
    """One-line remarks collected while reading, each once; complete when the pieces have been read."""
    _fragments: Callable[[], Iterator[Fragment]]

    def pieces(self) -> Iterator[Piece]:
        """The documents in pieces, from the beginning at each call, in constant memory.

        Raises:
            InputError: The text cannot be read, or, at the end, there was none.
        """
        pieces = cut(self._fragments())
        first = next(pieces, None)
        if first is None:
            raise InputError(f"{_label(self.name)}: no text in it (0 tokens); give a corpus that has some")
        yield first
        yield from pieces


def open_corpus(
    source: str,
    *,
    documents: Documents | None = None,
    text_field: str = "text",
    encoding_errors: EncodingErrors = "strict",
    force_binary: bool = False,
    skip_bad: bool = False,
) -> Corpus:
    """The corpus that `source` names; see the module's list.

    Standard input is read here, to a temporary file that lives as long as the corpus; a corpus of the chapter
    is downloaded here unless it has been. All else is read by `Corpus.pieces`.

    Args:
        source: A name, a path, or `-`.
        documents: What a document is. None: a record where the source has records, a line in `thelmbook:`,
            and else a file. `line` and `paragraph` divide records too, each by itself.
        text_field: The field that holds the text of a record.
        encoding_errors: Refuse what is not UTF-8, or read it as U+FFFD.
        force_binary: Read a file even if it looks like a program, a picture or an archive.
        skip_bad: Leave out records without usable text, up to 1 % of those of a source.

    Raises:
        InputError: There is no such source, or it is nothing that can be read.
        ConfigError: `documents` contradicts the source, or an argument is none of its choices.
        ResourceError: No room to keep standard input or a download.
    """
    _require_choice("documents", documents, (None, *get_args(Documents)))
    _require_choice("encoding_errors", encoding_errors, get_args(EncodingErrors))
    options = ReadOptions(
        text_field=text_field,
        encoding_errors=encoding_errors,
        force_binary=force_binary,
        skip_bad=skip_bad,
    )
    label = _label(source)

    if source == "python-docs":
        divide = _division(label, documents, "record")
        return Corpus(source, options.notes, lambda: divide(_each(python_docs())))
    if source.startswith("hf:"):
        divide = _division(label, documents, "record")
        name = source.removeprefix("hf:")
        return Corpus(source, options.notes, lambda: divide(_each(read_hub(name, options))))
    if source in KNOWN_CORPORA:
        divide = _division(label, documents or "line", "file")
        _, name, *test = source.split(":")
        path = thelmbook(name) / ("test.txt" if test else "train.txt")
        return Corpus(source, options.notes, lambda: divide(_joined(read_text(path, label, options))))
    if source == "-":
        divide = _division(label, documents, "file")
        path = _keep_standard_input(label, options)
        corpus = Corpus(source, options.notes, lambda: divide(_joined(read_text(path, label, options))))
        weakref.finalize(corpus, path.unlink, missing_ok=True)
        return corpus

    files = [
        (path, _division(str(path), documents, "file" if format_of(path) == "text" else "record"))
        for path in find_files(source, KNOWN_CORPORA, options)
    ]
    return Corpus(source, options.notes, lambda: _read_files(files, options))


def _read_files(files: list[tuple[Path, Division]], options: ReadOptions) -> Iterator[Fragment]:
    for path, divide in files:
        reader = _RECORD_READERS.get(format_of(path))
        if reader is None:
            yield from divide(_joined(read_text(path, str(path), options)))
        else:
            yield from divide(_each(reader(path, str(path), options)))


def _each(texts: Iterable[str]) -> Iterator[Fragment]:
    """Each text a document."""
    return ((text, True) for text in texts)


def _joined(blocks: Iterable[str]) -> Iterator[Fragment]:
    """All blocks one document."""
    return ((block, number == 0) for number, block in enumerate(blocks))


def _division(label: str, documents: Documents | None, natural: Literal["file", "record"]) -> Division:
    """What turns the source's own documents into those that are asked for."""
    if documents == "line":
        return by_line
    if documents == "paragraph":
        return by_paragraph
    if documents in (None, natural):
        return iter
    kind = "plain text, without records" if natural == "file" else "made of records, each a document"
    raise ConfigError(
        f"{label} is {kind}: documents cannot be {documents!r}; take line or paragraph, or leave it out"
    )


def _keep_standard_input(label: str, options: ReadOptions) -> Path:
    """Standard input in a temporary file, because a corpus is read more than once."""
    source = getattr(sys.stdin, "buffer", None)
    if source is None:
        raise InputError("standard input is closed; give a file, or a corpus by name")
    handle, name = tempfile.mkstemp(prefix="elman-stdin-")
    path = Path(name)
    try:
        with open(handle, "wb") as file:
            head = source.read(HEAD_BYTES)
            if not options.force_binary:
                refuse_binary(head, label)  # here already: it may have no end, /dev/zero for instance
            file.write(head)
            shutil.copyfileobj(source, file)
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise ResourceError(
                f"standard input cannot be kept in {path.parent}: {error.strerror or error}; "
                "set TMPDIR to a folder with room"
            ) from error
        raise
    return path


def _label(source: str) -> str:
    return "standard input" if source == "-" else source


def _require_choice(name: str, value: str | None, choices: tuple[str | None, ...]) -> None:
    if value not in choices:
        known = [choice for choice in choices if choice is not None]
        raise ConfigError(
            f"{name}: {value!r} is not one of {', '.join(known)}{suggestion(str(value), known)}"
        )
