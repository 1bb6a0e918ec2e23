"""Which files a path stands for, and what the name of a file says about its content."""

import os
import stat
import textwrap
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NoReturn

from elman.config import suggestion
from elman.data.readers import ReadOptions
from elman.errors import InputError

_FORMATS: dict[str, Literal["text", "jsonl", "parquet"]] = {
    ".txt": "text",
    ".text": "text",
    ".md": "text",
    ".rst": "text",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}
"""What is read from a folder, and how."""

_COMPRESSED = (".gz", ".zst")


def format_of(path: Path) -> Literal["text", "jsonl", "parquet"]:
    """How to read a file, by its suffix under `.gz` or `.zst`; everything that is not known is text."""
    return _FORMATS.get(_inner_suffix(path), "text")


def find_files(source: str, known: Iterable[str], options: ReadOptions) -> list[Path]:
    """The file that `source` is, or the files of known suffix in the folder that it is, sorted.

    In a folder, hidden files and folders are left out, and symbolic links are not followed: they would leave
    it, or name a text twice, or lead round in a circle.

    Args:
        source: A path.
        known: Names that may have been meant where there is no such path.
        options: Whose `notes` tell of links, and of files that are left out.

    Raises:
        InputError: There is nothing there, it is neither a regular file nor a folder, it cannot be listed, or
            it is a folder without a text.
    """
    try:
        mode = os.stat(source).st_mode
    except (FileNotFoundError, NotADirectoryError):
        near = "" if os.sep in source else suggestion(source, known)
        if any(sign in source for sign in "*?["):
            near = "; a pattern stands for nothing here: give a folder, whose texts are all read"
        raise InputError(f"{source or 'no name'}: no such file, folder or corpus{near}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise InputError(f"{source!r}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    path = Path(source)
    if stat.S_ISREG(mode):
        return [path]
    if not stat.S_ISDIR(mode):
        raise InputError(
            f"{source}: neither a regular file nor a folder; pipe it in and give - as the corpus"
        )

    found = _walk(path, options)
    if not found:
        wanted = f"{' '.join(_FORMATS)}, also followed by {' or '.join(_COMPRESSED)}"
        raise InputError(f"{source}: no text in this folder; files that would be read: {wanted}")
    return found


def _walk(folder: Path, options: ReadOptions) -> list[Path]:
    def refuse(error: OSError) -> NoReturn:
        raise InputError(f"{error.filename}: cannot be listed: {error.strerror}") from None

    found: list[Path] = []
    unknown: Counter[str] = Counter()
    links = 0
    for parent, folders, files in os.walk(folder, onerror=refuse):
        links += sum(os.path.islink(os.path.join(parent, name)) for name in folders if name[0] != ".")
        folders[:] = [name for name in folders if name[0] != "."]  # os.walk does not enter links
        for name in files:
            path = Path(parent, name)
            if name[0] == ".":
                continue
            if _inner_suffix(path) not in _FORMATS:
                if path.is_file() and not path.is_symlink():
                    unknown[_whole_suffix(path)] += 1
                continue
            mode = path.lstat().st_mode
            links += stat.S_ISLNK(mode)
            if stat.S_ISREG(mode):
                found.append(path)
    if links:
        options.note(f"{folder}: {links} symbolic links not followed")
    if unknown:
        options.note(f"{folder}: left out: {_counted(unknown)}")
    return sorted(found)


def _counted(suffixes: Counter[str]) -> str:
    """How many files, and of what kinds, the most frequent first."""
    number = suffixes.total()
    ordered = sorted(suffixes, key=lambda suffix: (-suffixes[suffix], suffix))
    kinds = textwrap.shorten(", ".join(suffix or "no suffix" for suffix in ordered), 60, placeholder=" ...")
    return f"{number:,} file{'s' if number > 1 else ''} ({kinds})"


def _inner_suffix(path: Path) -> str:
    """The suffix in lower case, under that of a compression."""
    if path.suffix.lower() in _COMPRESSED:
        path = path.with_suffix("")
    return path.suffix.lower()


def _whole_suffix(path: Path) -> str:
    """The suffix in lower case, with that of a compression."""
    inner, last = _inner_suffix(path), path.suffix.lower()
    return inner if inner == last else inner + last
