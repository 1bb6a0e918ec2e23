"""A corpus far larger than what preparing it holds: the memory and the time it takes, and what kills leave of it.

    python -m tests.faults.large_corpus 500                     as many MB of lines, each a document
    python -m tests.faults.large_corpus 500 --one-line          one document without a line end
    python -m tests.faults.large_corpus 500 --kills 3           and again, killed three times on the way

Resident memory is the most that a process had, less what it has when it has only imported what trains; it counts the
pages of a file that are mapped, too.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

LIMIT_BYTES = 512 << 20
"""Promised, however large the corpus is."""

CODE = """
import sys
import elman.train.run
from elman.config import DataConfig
from elman.data.prepare import prepare
if len(sys.argv) > 1:
    prepare(DataConfig(corpus=sys.argv[1], documents=sys.argv[2] or None))
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a preparation took."""

    corpus_bytes: int
    seconds: float
    resident_bytes: int
    """At most, above a process that imports the same."""
    checksum: str
    """Of all that is in the cache, names included."""


def write_corpus(path: Path, megabytes: int, *, one_line: bool) -> None:
    """Words drawn from a vocabulary of 100,000, the n-th of them as often as 1 / n (Zipf 1949)."""
    draw = random.Random(0)
    words = ["".join(draw.choices("etaoinshrdlucmfwypvbgk", k=draw.randint(1, 12))) for _ in range(100_000)]
    weights = [1 / rank for rank in range(1, len(words) + 1)]
    size = 0
    with path.open("w") as file:
        while size < megabytes * 1_000_000:
            block = draw.choices(words, weights, k=100_000)
            block[20::20] = [word + "\n" for word in block[20::20]]
            size += file.write(" ".join(block).replace("\n", "" if one_line else "\n") + " ")


def measure(
    corpus: Path, cache: Path, *, documents: str = "", kills: int = 0, seconds: float = 0.0
) -> Outcome:
    """Prepare `corpus` in a process of its own; before, in `kills` others that are killed within `seconds`."""
    draw = random.Random(kills)
    for _ in range(kills):
        _run(cache, str(corpus), documents, kill_after=draw.uniform(0, seconds))
    _, imported = _run(cache)
    took, resident = _run(cache, str(corpus), documents)
    checksum = hashlib.sha256()
    for path in sorted(cache.glob("prepared/**/*")):
        checksum.update(path.name.encode())
        if path.is_file():
            checksum.update(hashlib.sha256(path.read_bytes()).digest())
    return Outcome(corpus.stat().st_size, took, resident - imported, checksum.hexdigest())


def _run(cache: Path, *arguments: str, kill_after: float | None = None) -> tuple[float, int]:
    """Seconds and resident bytes of a process."""
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-c", CODE, *arguments],
        env=os.environ | {"ELMAN_CACHE": str(cache), "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    if kill_after is not None:
        try:
            process.wait(kill_after)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        process.wait()
        return time.monotonic() - began, 0
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, f"preparing ended with {process.returncode}"
    return time.monotonic() - began, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> int:
    """Measure, print JSON; 1 if the promise is broken."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("megabytes", type=int)
    parser.add_argument("--one-line", action="store_true")
    parser.add_argument("--kills", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="elman-large-") as name:
        folder = Path(name)
        write_corpus(folder / "corpus.txt", given.megabytes, one_line=given.one_line)
        documents = "" if given.one_line else "line"
        outcomes = [measure(folder / "corpus.txt", folder / "whole", documents=documents)]
        if given.kills:
            outcomes.append(
                measure(
                    folder / "corpus.txt",
                    folder / "killed",
                    documents=documents,
                    kills=given.kills,
                    seconds=outcomes[0].seconds,
                )
            )
    print(json.dumps([asdict(outcome) for outcome in outcomes], indent=2))
    sound = len({outcome.checksum for outcome in outcomes}) == 1
    return 0 if sound and all(outcome.resident_bytes < LIMIT_BYTES for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
