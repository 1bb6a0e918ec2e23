"""One measured line: what, how long on both sides, how far from the goal and from the machine's limit.

    ratio = peer / ours                                     above 1, ours is faster, or smaller
    fraction_of_limit = limit's seconds / ours              1 would be nothing but products and copies

A line whose peer is not there has no ratio, and its note says why.
"""

import json
import platform
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.goals import goal_ratio
from benchmarks.race import Timing, ratio_quartiles
from elman.train.machine import memory_bytes

Quartiles = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What is reported; costs are seconds, or bytes where memory was measured."""

    part: str
    what: str
    peer: str
    shape: str = ""
    dtype: str = ""
    """Of our products, and the peer's where it says nothing else."""
    ours_seconds: float | None = None
    ours_quartiles: Quartiles | None = None
    peer_seconds: float | None = None
    peer_quartiles: Quartiles | None = None
    ours_bytes: int | None = None
    peer_bytes: int | None = None
    ratio: float | None = None
    ratio_quartiles: Quartiles | None = None
    fraction_of_limit: float | None = None
    peer_fraction_of_limit: float | None = None
    rounds: int | None = None
    note: str = ""

    @property
    def goal(self) -> float | None:
        """The ratio to reach."""
        return goal_ratio(self.part, self.what, self.peer)

    @property
    def met(self) -> bool | None:
        """Whether it was reached; None where there is no goal, or nothing measured."""
        return None if self.goal is None or self.ratio is None else self.ratio >= self.goal

    def to_json(self, machine: dict[str, Any]) -> str:
        """One line, with the facts of the machine."""
        return json.dumps(asdict(self) | {"goal": self.goal, "met": self.met} | machine)


def versus(
    part: str,
    what: str,
    ours: Timing,
    peer: Timing,
    *,
    limit: float | None = None,
    peer_limit: float | None = None,
    **facts: Any,
) -> Record:
    """A record of two timings of one race; limits are seconds, `peer_limit` where the peer's differs."""
    peer_limit = limit if peer_limit is None else peer_limit
    return Record(
        part=part,
        what=what,
        peer=peer.name,
        ours_seconds=ours.median,
        ours_quartiles=ours.quartiles,
        peer_seconds=peer.median,
        peer_quartiles=peer.quartiles,
        ratio=peer.median / ours.median,
        ratio_quartiles=ratio_quartiles(peer, ours) if len(peer.seconds) == len(ours.seconds) else None,
        fraction_of_limit=None if limit is None else limit / ours.median,
        peer_fraction_of_limit=None if peer_limit is None else peer_limit / peer.median,
        rounds=len(ours.seconds),
        **facts,
    )


def versus_bound(part: str, what: str, ours: Timing, bound: str, seconds: float, **facts: Any) -> Record:
    """A record of a timing against a number of seconds."""
    return Record(
        part=part,
        what=what,
        peer=bound,
        ours_seconds=ours.median,
        ours_quartiles=ours.quartiles,
        peer_seconds=seconds,
        ratio=seconds / ours.median,
        rounds=len(ours.seconds),
        **facts,
    )


def versus_bytes(
    part: str, what: str, ours: int | None, peer: str, peer_bytes: int | None, **facts: Any
) -> Record:
    """A record of two peaks of memory; None is one that the system does not tell."""
    if ours is None or peer_bytes is None:
        note = "not measured: this system does not say what a process needed at most"
        return Record(part=part, what=what, peer=peer, **facts | {"note": note})
    ratio = peer_bytes / max(1, ours)
    return Record(
        part=part, what=what, peer=peer, ours_bytes=ours, peer_bytes=peer_bytes, ratio=ratio, **facts
    )


def describe_machine() -> dict[str, Any]:
    """What every line says of where it was measured; no names of hosts or people."""
    return {
        "threads": torch.get_num_threads(),
        "processor": _processor(),
        "memory_bytes": memory_bytes(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }


def _processor() -> str:
    """The model of the processor with the widest of its instructions, where the system says."""
    path = Path("/proc/cpuinfo")
    text = path.read_text() if path.exists() else ""
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return f"{model[1] if model else platform.machine()} ({torch.backends.cpu.get_cpu_capability()})"


def table(records: Iterable[Record]) -> str:
    """The records as a table in Markdown, medians with quartiles."""
    lines = [
        "| part | what | shape | ours | peer | peer's | ratio | goal | of the limit, ours / peer | note |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for record in records:
        cells = (
            record.part,
            record.what,
            record.shape,
            _cost(record.ours_seconds, record.ours_quartiles, record.ours_bytes),
            record.peer,
            _cost(record.peer_seconds, record.peer_quartiles, record.peer_bytes),
            _ratio(record),
            _goal(record),
            " / ".join(
                f"{share:.0%}"
                for share in (record.fraction_of_limit, record.peer_fraction_of_limit)
                if share is not None
            ),
            record.note,
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def show_seconds(seconds: float) -> str:
    """Three digits, in the unit that suits."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= scale or unit == "µs":
            return f"{_three_digits(seconds / scale)} {unit}"
    raise AssertionError("the last unit takes everything")


def _three_digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 99.95 else f"{value:.3g}"


def _cost(seconds: float | None, quartiles: Quartiles | None, size: int | None) -> str:
    if size is not None:
        return f"{size / 1e6:,.0f} MB"
    if seconds is None:
        return ""
    spread = f" ({show_seconds(quartiles[0])} to {show_seconds(quartiles[1])})" if quartiles else ""
    return show_seconds(seconds) + spread


def _ratio(record: Record) -> str:
    return "" if record.ratio is None else f"{_three_digits(record.ratio)} x"


def _goal(record: Record) -> str:
    if record.goal is None:
        return ""
    verdict = {True: ", met", False: ", **missed**", None: ", not measured"}[record.met]
    return f"{_three_digits(record.goal)} x{verdict}"
