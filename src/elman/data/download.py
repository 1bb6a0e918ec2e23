"""The chapter's corpora, downloaded once into a cache folder.

    BASE_URL/news, BASE_URL/brown      gzipped tar archives that hold train.txt and test.txt
    cache_dir()/thelmbook/news/        train.txt, test.txt
    cache_dir()/thelmbook/news.sha256  of the archive they came from

What comes over the network is not trusted: nothing of the archive is written but regular `.txt` files, under
their own bare names, up to a cap; and the folder appears whole or not at all.
"""

import contextlib
import gzip
import hashlib
import http.client
import os
import ssl
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
import zlib
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO

from elman.errors import InputError, ResourceError

BASE_URL = "https://www.thelmbook.com/data"

CHECKSUMS: dict[str, str] = {}
"""SHA-256 of an archive by corpus. The publisher gives none: what was first fetched is recorded beside it."""

MAX_ARCHIVE_BYTES = 16 << 30
MAX_TEXT_BYTES = 64 << 30
MAX_MEMBERS = 10_000

_BLOCK_BYTES = 1 << 20
_ATTEMPTS = 3
_TIMEOUT_SECONDS = 30.0

_BY_HAND = "download it elsewhere, unpack it, and give the path of train.txt"

_NETWORK_ERRORS = (
    urllib.error.URLError,
    http.client.HTTPException,
    TimeoutError,
    ConnectionError,
    ssl.SSLError,
)


def cache_dir() -> Path:
    """Where downloads are kept: $ELMAN_CACHE, else $XDG_CACHE_HOME/elman, else ~/.cache/elman."""
    if own := os.environ.get("ELMAN_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "elman")


def thelmbook(
    name: str, *, base_url: str = BASE_URL, cache: Path | None = None, pause_seconds: float = 2.0
) -> Path:
    """The folder that holds `train.txt` and `test.txt` of a corpus of the chapter, fetched if need be.

    Args:
        name: `news` or `brown`.
        base_url: What the name is appended to.
        cache: Where to keep it; `cache_dir()` where None.
        pause_seconds: Before the second attempt, and twice that before the third.

    Raises:
        InputError: It cannot be fetched, or what came is not the corpus, or not the one that came before.
        ResourceError: It cannot be written.
    """
    home = (cache or cache_dir()) / "thelmbook"
    folder = home / name
    if (folder / "train.txt").is_file():
        return folder
    url = f"{base_url}/{name}"
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=home) as scratch:
            with open(Path(scratch, "archive"), "w+b") as archive:
                checksum = _fetch(url, archive, pause_seconds)
                _verify(name, url, checksum, home / f"{name}.sha256")
                archive.seek(0)
                texts = Path(scratch, "texts")
                texts.mkdir()
                _extract(archive, texts, url)
            (home / f"{name}.sha256").write_text(f"{checksum}\n")
            try:
                texts.rename(folder)
            except OSError:
                if not (folder / "train.txt").is_file():  # else another process was faster
                    raise
    except OSError as error:
        raise ResourceError(
            f"{home}: cannot keep {url}: {error.strerror or error}; set ELMAN_CACHE to a folder with room"
        ) from error
    return folder


def _fetch(url: str, archive: BinaryIO, pause_seconds: float) -> str:
    """Write what `url` answers into `archive`; its SHA-256. Tries again where the network may recover."""
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(pause_seconds * attempt)
        archive.seek(0)
        archive.truncate()
        try:
            return _fetch_once(url, archive)
        except _NETWORK_ERRORS as error:
            failure = error
            if isinstance(error, urllib.error.HTTPError):
                error.close()
                if error.code < 500:
                    break
    # "HTTP Error 404: Not Found" says more than its reason; "<urlopen error ...>" says less
    reason = failure if isinstance(failure, urllib.error.HTTPError) else getattr(failure, "reason", failure)
    raise InputError(f"{url}: cannot be downloaded: {reason}; {_BY_HAND}") from failure


def _fetch_once(url: str, archive: BinaryIO) -> str:
    request = urllib.request.Request(url, headers={"User-Agent": "elman"})
    digest = hashlib.sha256()
    received = 0
    with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as response:
        while block := response.read(_BLOCK_BYTES):
            if not received and not block.startswith(b"\x1f\x8b"):
                page = "a web page" if block.lstrip()[:1] == b"<" else "something else"
                raise InputError(
                    f"{url}: answered with {page}, not an archive (a login on the way?); {_BY_HAND}"
                )
            received += len(block)
            if received > MAX_ARCHIVE_BYTES:
                raise InputError(f"{url}: larger than {MAX_ARCHIVE_BYTES:,} bytes, so not the corpus")
            digest.update(block)
            archive.write(block)
        # read() says nothing of a connection that closes early
        expected = response.headers.get("Content-Length")
    if not received or expected not in (None, str(received)):
        raise ConnectionError(f"the connection closed after {received} of {expected or 'some'} bytes")
    return digest.hexdigest()


def _verify(name: str, url: str, checksum: str, record: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        expected = CHECKSUMS.get(name) or record.read_text().strip()
        if checksum != expected:
            raise InputError(
                f"{url}: not the archive that is known (SHA-256 {checksum[:12]}..., not {expected[:12]}...); "
                f"if it has been published anew, delete {record}"
            )


def _extract(archive: IO[bytes], folder: Path, url: str) -> None:
    """Write the `.txt` members of a gzipped tar into `folder`, each under its bare name."""
    size = 0
    try:
        with tarfile.open(fileobj=archive, mode="r:gz") as tar:
            for count, member in enumerate(tar, start=1):
                size += max(member.size, 0)
                if count > MAX_MEMBERS or size > MAX_TEXT_BYTES:
                    raise InputError(
                        f"{url}: unfolds to more than {MAX_TEXT_BYTES:,} bytes or {MAX_MEMBERS:,} files"
                    )
                path = PurePosixPath(member.name.replace("\\", "/"))
                if path.is_absolute() or ".." in path.parts:
                    raise InputError(f"{url}: holds a file that would leave its folder: {member.name!r}")
                if member.isreg() and path.suffix == ".txt" and not path.name.startswith("."):
                    _write_member(tar, member, folder / path.name, url)
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise InputError(f"{url}: not a whole gzipped tar archive ({error})") from error
    if not (folder / "train.txt").is_file():
        raise InputError(f"{url}: the archive holds no train.txt")


def _write_member(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path, url: str) -> None:
    content = tar.extractfile(member)
    if content is None or path.exists():
        raise InputError(f"{url}: holds two files named {path.name}")
    with content, open(path, "xb") as file:
        while block := content.read(_BLOCK_BYTES):
            file.write(block)
