"""Damage: every way in which the files of a folder are spoilt, one at a time."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Damage:
    """One way in which a file is spoilt: call it on the folder."""

    file: str
    """Relative to the folder."""
    kind: str
    spoil: Callable[[bytes], bytes | None]
    """Old content to new; None removes the file."""

    def __str__(self) -> str:
        return f"{self.file}: {self.kind}"

    def __call__(self, folder: Path) -> None:
        content = self.spoil((folder / self.file).read_bytes())
        if content is None:
            (folder / self.file).unlink()
        else:
            (folder / self.file).write_bytes(content)


def damages(folder: Path, *, flips: int, seed: int = 0) -> Iterator[Damage]:
    """Ways to spoil each file under `folder`; every one changes its content.

    A flip of one bit at `flips` places drawn for each file, and at its first and last byte; a cut at every sixteenth
    of its length; a byte too many; zeros in each quarter; nothing left of it; the file gone; and the content of each
    other file in its place.
    """
    draw = random.Random(seed)
    contents = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    for file, content in contents.items():
        for damage in _damages_of(file, content, contents, flips, draw):
            spoilt = damage.spoil(content)
            if spoilt != content:
                yield damage


def _damages_of(
    file: str, content: bytes, contents: dict[str, bytes], flips: int, draw: random.Random
) -> Iterator[Damage]:
    size = len(content)
    if size:
        places = sorted(draw.sample(range(8 * size), min(flips, 8 * size)))
        for bit in dict.fromkeys([0, 8 * size - 1, *places]):
            yield Damage(file, f"bit {bit} flipped", lambda old, bit=bit: _flip(old, bit))
    for cut in sorted({size * sixteenth // 16 for sixteenth in range(16)}):
        yield Damage(file, f"cut to {cut} of {size} bytes", lambda old, cut=cut: old[:cut])
    yield Damage(file, "a byte too many", lambda old: old + b"\0")
    for quarter in range(4):
        start, end = size * quarter // 4, size * (quarter + 1) // 4
        yield Damage(
            file,
            f"zeros from {start} to {end}",
            lambda old, start=start, end=end: old[:start] + bytes(end - start) + old[end:],
        )
    yield Damage(file, "zeros", lambda old: bytes(len(old)))
    yield Damage(file, "gone", lambda old: None)
    for other, its in contents.items():
        yield Damage(file, f"holds what {other} does", lambda old, its=its: its)


def _flip(content: bytes, bit: int) -> bytes:
    spoilt = bytearray(content)
    spoilt[bit // 8] ^= 1 << bit % 8
    return bytes(spoilt)
