"""Texts out of a gzipped tar that is not trusted: named files, each written under its bare name, and no others.

`extractall` and its filters try to recognise unsafe members. Here only regular files with expected names are written.
`tarfile` holds every header whole, and a header can claim any size, so the stream that it reads from limits them.
"""

import gzip
import tarfile
import zlib
from collections.abc import Collection
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from elman import files
from elman.data.readers import ALWAYS_ALLOWED, MAX_RATIO
from elman.errors import InputError

MAX_TEXT_BYTES = 64 << 30
"""All members together, whatever the size of the archive."""

MAX_MEMBERS = 10_000

_HEADER_BYTES = 1 << 16
"""Of one member, the headers before it that carry its long name included; 512 in most archives."""

_BLOCK_BYTES = 1 << 16


def unpack_texts(archive: BinaryIO, names: Collection[str], folder: Path, label: str) -> None:
    """Write the regular files of the archive that bear one of `names`, in whatever folder, into `folder`.

    On return they are on the medium.

    Args:
        archive: A gzipped tar, at its beginning.
        names: Bare names, the first of them required.
        folder: An empty folder.
        label: What messages call the archive.

    Raises:
        InputError: It is damaged, holds too much, holds one of the names twice or the first of them not at all,
            or holds a member whose name leads out of the folder.
        OSError: It cannot be written.
    """
    size = archive.seek(0, 2)
    archive.seek(0)
    limit = min(MAX_TEXT_BYTES, ALWAYS_ALLOWED + MAX_RATIO * size)
    total = 0
    try:
        with (
            _Decompressed(fileobj=archive, mode="rb") as stream,
            tarfile.open(fileobj=cast(BinaryIO, stream), mode="r:") as tar,
        ):
            for count, member in enumerate(tar, start=1):
                stream.header_bytes = _HEADER_BYTES
                total += max(member.size, 0)
                if count > MAX_MEMBERS or total > limit:
                    most = f"{limit:,} bytes or {MAX_MEMBERS:,} files"
                    raise InputError(f"{label}: decompresses to more than {most}")
                path = PurePosixPath(member.name.replace("\\", "/"))
                if path.is_absolute() or ".." in path.parts:
                    name = member.name[:100]
                    raise InputError(f"{label}: holds a file that would leave its folder: {name!r}")
                if member.isreg() and not member.issparse() and path.name in names:
                    if (folder / path.name).exists():
                        raise InputError(f"{label}: holds two files named {path.name}")
                    _copy(stream, member, folder / path.name)
    # ValueError and RecursionError: tarfile lets through what some damaged headers make of it
    except (
        tarfile.TarError,
        gzip.BadGzipFile,
        zlib.error,
        EOFError,
        ValueError,
        OverflowError,
        RecursionError,
    ) as error:
        raise InputError(f"{label}: not a whole gzipped tar archive ({error})") from error
    files.disk.sync_folder(folder)
    required = next(iter(names))
    if not (folder / required).is_file():
        raise InputError(f"{label}: the archive holds no {required}")


class _Decompressed(gzip.GzipFile):
    """The tar in a gzip file. `read` is for headers, and limited; what is large is read by `read1`."""

    header_bytes = _HEADER_BYTES
    """What may still be read before the next member is found."""

    def read(self, size: int | None = -1) -> bytes:
        """For tarfile, which reads headers with it."""
        if size is None or size < 0 or size > self.header_bytes:
            raise tarfile.ReadError(f"a header of more than {_HEADER_BYTES:,} bytes")
        self.header_bytes -= size
        return super().read(size)


def _copy(stream: _Decompressed, member: tarfile.TarInfo, path: Path) -> None:
    stream.seek(member.offset_data)
    left = member.size
    with files.disk.open(path, "xb") as file:
        while left and (block := stream.read1(min(left, _BLOCK_BYTES))):
            file.write(block)
            left -= len(block)
        if left:
            raise EOFError(f"it ends inside {path.name}")
        files.disk.sync(file)
