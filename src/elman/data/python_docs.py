"""English documentation that every Python carries: a corpus of about 2 MB that needs no download.

Three parts, in this order, exact duplicates dropped:

    topics      pydoc_data.topics, the language reference as `help("if")` shows it
    library     the docstrings of the standard library's sources, found with `ast` and never by importing
    builtins    the docstrings of the C modules that are compiled into the interpreter

The order is that of sorted names and of the source, so one Python always gives one corpus; another version,
or another build, gives another.
"""

import ast
import functools
import importlib
import inspect
import os
import sys
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
        # Old sources hold invalid escapes, and old modules announce their removal.
        warnings.simplefilter("ignore")
        found = [*_topics(), *_library(Path(sysconfig.get_path("stdlib"))), *_builtins()]
    # A docstring may hold half of a surrogate pair, which no tokenizer can read.
    usable = (text.encode("utf-8", "replace").decode() for text in found)
    return tuple(dict.fromkeys(text for text in usable if text and not text.isspace()))


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


def _library(folder: Path) -> Iterator[str]:
    for path in _sources(folder):
        try:
            source = path.read_bytes()
        except OSError:
            continue
        yield from docstrings_of_source(source)


def _sources(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(
            name for name in folders if name not in _NOT_DOCUMENTATION and not name.startswith("config-")
        )
        for name in sorted(files):
            if name.endswith(".py"):
                yield Path(parent, name)


def _builtins() -> Iterator[str]:
    for name in sorted(sys.builtin_module_names):
        try:
            module = importlib.import_module(name)
        except ImportError:  # compiled in, and yet without what it needs to start
            continue
        yield from _docstring(module)
        for member in _members(module):
            yield from _docstring(member)
            if isinstance(member, type):
                for attribute in _members(member):
                    yield from _docstring(attribute)


def _members(owner: object) -> Iterator[object]:
    """Classes, C functions and descriptors by sorted name.

    Instances repeat the docstring of their class, and Python functions are not part of a C module: a debugger
    or a test runner has put them there.
    """
    for _, member in sorted(vars(owner).items()):
        if isinstance(member, staticmethod | classmethod):
            member = member.__func__
        if inspect.isfunction(member):
            continue
        if isinstance(member, type) or inspect.isroutine(member) or inspect.isdatadescriptor(member):
            yield member


def _docstring(thing: object) -> Iterator[str]:
    text = getattr(thing, "__doc__", None)
    if isinstance(text, str):  # a class may have a descriptor there
        yield inspect.cleandoc(text)
