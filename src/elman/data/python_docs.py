"""English documentation that every Python carries: a corpus of about 2 MB that needs no download.

Two parts, in this order:

    topics      pydoc_data.topics, the language reference as `help("if")` shows it; each topic a document
    library     the docstrings of the standard library's sources, found with `ast` and never by importing;
                those of a module are one document, in the order of the source, blank lines between them

A docstring that comes again is left out. Docstrings of one module repeat each other with small changes, so that
held-out documents are whole modules: had each docstring been a document, a 5-gram model would find most of the
held-out ones, nearly, in the training text (1.57 bits per byte instead of 1.81).

The order is that of sorted names and of the source, so one Python always gives one corpus; another version,
or another build, gives another.
"""

import ast
import contextlib
import functools
import os
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

_NOT_DOCUMENTATION = (
    "site-packages",
    "dist-packages",
    "test",
    "tests",
    "idle_test",
    "lib2to3",
    "__pycache__",
)
"""Folders of the standard library that hold other people's code, tests, or a grammar of Python 2."""

_FIELDS_WITH_STATEMENTS = ("body", "handlers", "orelse", "finalbody", "cases")

_DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@functools.cache
def python_docs() -> tuple[str, ...]:
    """The documents; read once in a process, in a few seconds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old sources hold invalid escapes
        groups = [*([topic] for topic in _topics()), *_library(Path(sysconfig.get_path("stdlib")))]
    seen: set[str] = set()
    documents = []
    for group in groups:
        # A docstring may hold half of a surrogate pair, which no tokenizer can read.
        usable = (text.encode("utf-8", "replace").decode() for text in group)
        new = [text for text in dict.fromkeys(usable) if text.strip() and text not in seen]
        seen.update(new)
        if new:
            documents.append("\n\n".join(new))
    return tuple(documents)


def docstrings_of_source(source: bytes) -> Iterator[str]:
    """The docstrings of a module and of its classes and functions, in the order of the source.

    Source that this Python cannot parse has none.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    nodes: list[ast.AST] = [tree]
    while nodes:
        node = nodes.pop()
        if isinstance(node, _DOCUMENTED) and (text := ast.get_docstring(node, clean=True)):
            yield text
        # Only statements hold definitions; walking their expressions as well would take three times as long.
        nested = [child for name in _FIELDS_WITH_STATEMENTS for child in getattr(node, name, ())]
        nodes.extend(reversed(nested))


def _topics() -> Iterator[str]:
    try:
        from pydoc_data.topics import topics
    except ImportError:  # some distributions leave it out
        return
    for name in sorted(topics):
        yield topics[name]


def _library(folder: Path) -> Iterator[list[str]]:
    """The docstrings of each module."""
    for path in _sources(folder):
        with contextlib.suppress(OSError):
            yield list(docstrings_of_source(path.read_bytes()))


def _sources(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(
            name for name in folders if name not in _NOT_DOCUMENTATION and not name.startswith("config-")
        )
        for name in sorted(files):
            if name.endswith(".py"):
                yield Path(parent, name)
