"""The chapter's corpora, downloaded once into a cache folder.

    BASE_URL/news, BASE_URL/brown      gzipped tar archives that hold train.txt and test.txt
    cache_dir()/thelmbook/news/        train.txt, test.txt
    cache_dir()/thelmbook/news.sha256  of the archive they came from
    cache_dir()/thelmbook/news.bad     an archive with another sum than that, kept for inspection

The publisher gives no checksums: the sum of what was fetched first is recorded, and holds from then on. What comes over
the network is not trusted: the folder appears whole or not at all, and `unpack` says what may be in it.
"""

import contextlib
import hashlib
import os
import shutil
import tempfile
import time
from pathlib import Path

from elman import files
from elman.data.fetch import PATIENCE, Patience, fetch
from elman.data.unpack import unpack_texts
from elman.errors import InputError, ResourceError
from elman.files import write_atomically

BASE_URL = "https://www.thelmbook.com/data"

MAX_ARCHIVE_BYTES = 16 << 30

_TEXTS = ("train.txt", "test.txt")

_GZIP = b"\x1f\x8b"

_ABANDONED_SECONDS = 24 * 3600.0
"""Age at which the scratch folder of a download belongs to a process that was killed."""

_BY_HAND = "download it elsewhere, unpack it, and give the path of train.txt"


def cache_dir() -> Path:
    """Where downloads are kept: $ELMAN_CACHE, else $XDG_CACHE_HOME/elman, else ~/.cache/elman."""
    if own := os.environ.get("ELMAN_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "elman")


def thelmbook(
    name: str, *, base_url: str = BASE_URL, cache: Path | None = None, patience: Patience = PATIENCE
) -> Path:
    """The folder that holds `train.txt` and `test.txt` of a corpus of the chapter, fetched if need be.

    Args:
        name: `news` or `brown`.
        base_url: What the name is appended to.
        cache: Where to keep it; `cache_dir()` where None.
        patience: With the network.

    Raises:
        NetworkError: It cannot be fetched.
        InputError: What came is not the corpus, or not the one that was fetched first.
        ResourceError: It cannot be written.
    """
    home = (cache or cache_dir()) / "thelmbook"
    folder = home / name
    if (folder / "train.txt").is_file():
        return folder
    url = f"{base_url}/{name}"
    record = home / f"{name}.sha256"
    try:
        home.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(home, name)
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=home) as scratch:
            path, texts = Path(scratch, "archive"), Path(scratch, "texts")
            with open(path, "w+b") as archive:
                fetch(
                    url, archive, begins=_GZIP, at_most=MAX_ARCHIVE_BYTES, way_out=_BY_HAND, patience=patience
                )
                archive.seek(0)
                checksum = hashlib.file_digest(archive, "sha256").hexdigest()
                if expected := _recorded(record):
                    _verify(checksum, expected, url, path, record)
                texts.mkdir()
                unpack_texts(archive, _TEXTS, texts, url)
            write_atomically(record, f"{checksum}\n")
            try:
                files.disk.rename(texts, folder)
            except OSError:
                if not (folder / "train.txt").is_file():  # else another process was faster
                    raise
            files.disk.sync_folder(home)
    except OSError as error:
        raise ResourceError(
            f"{home}: cannot keep {url}: {error.strerror or error}; set ELMAN_CACHE to a folder with room"
        ) from error
    return folder


def _recorded(record: Path) -> str | None:
    with contextlib.suppress(FileNotFoundError):
        return record.read_text(encoding="ascii", errors="replace").strip()
    return None


def _verify(checksum: str, expected: str, url: str, path: Path, record: Path) -> None:
    """Raise InputError, and put the archive at `path` aside, unless its sum is the expected one."""
    if checksum != expected:
        bad = record.with_suffix(".bad")
        path.replace(bad)
        raise InputError(
            f"{url}: not the archive that is known: SHA-256 {checksum}, not {expected}; what came is {bad};"
            f" if it has been published anew, delete {record}"
        )


def _remove_abandoned(home: Path, name: str) -> None:
    for scratch in home.glob(f".{name}-*"):
        with contextlib.suppress(OSError):  # another process may remove it too
            if time.time() - scratch.stat().st_mtime > _ABANDONED_SECONDS:
                shutil.rmtree(scratch)
