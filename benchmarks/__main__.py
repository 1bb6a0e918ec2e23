"""Measure elman against its goals and its peers, on this machine.

    python -m benchmarks [--part NAME ...] [--json FILE] [--threads N] [--text FILE] [--lmplz PATH] [--quick]

The table goes to standard output, what is being done to standard error. NAME is a part or a goal, C1 to C9 or
G1. The exit code is 1 if a part was refused because its sides disagreed, or failed; a goal that is missed is a result,
not an error.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from subprocess import SubprocessError

import torch

from benchmarks.agreement import DisagreementError
from benchmarks.limits import measure_limits
from benchmarks.parts import ELSEWHERE, MEASURED_BY, PARTS, chosen, load, summary
from benchmarks.record import Record, describe_machine, table
from benchmarks.settings import Settings
from elman.errors import ElmanError

FAILURES = (ElmanError, OSError, UnicodeError, SubprocessError, RuntimeError)
"""Of the package, the system, a text, a program, torch and a pool of processes: the other parts can go on."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts, print the table; the exit code."""
    options = _parse(arguments)
    if options.list:
        for name, default in PARTS.items():
            print(f"{name:12} {summary(name)}{'' if default else ' (only when asked for)'}")
        return 0
    names = chosen(options.part or [name for name, default in PARTS.items() if default])
    if "C5" in (options.part or ()):
        print(ELSEWHERE)
        if not names:
            return 0
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)  # as the package does in training; denormals would slow both sides
    started = time.perf_counter()
    limits = measure_limits(0.02 if options.quick else 1.0, small=options.quick)
    machine = describe_machine() | {"quick": options.quick}
    _say(", ".join(f"{key} {value}" for key, value in machine.items()))
    _say(limits.describe())
    settings = Settings(
        limits=limits,
        seconds=0.0 if options.quick else options.seconds,
        quick=options.quick,
        text=options.text,
        lmplz=options.lmplz,
    )
    if options.json is not None:
        options.json.write_text("")
    records: list[Record] = []
    failures: list[str] = []
    for name in names:
        begun = time.perf_counter()
        of_part, failure = _measure(name, settings)
        if failure is not None:
            failures.append(failure)
            _say(failure)
        records += of_part
        if options.json is not None:
            with options.json.open("a", encoding="utf-8") as lines:
                lines.writelines(record.to_json(machine) + "\n" for record in of_part)
        _say(f"{name}: {time.perf_counter() - begun:.0f} s")
    print(f"{machine['processor']}, {machine['threads']} threads, torch {machine['torch']};", end=" ")
    print(f"{limits.describe()}; {(time.perf_counter() - started) / 60:.1f} minutes\n")
    if options.quick:
        print("--quick: tiny shapes, so that these numbers mean nothing\n")
    print(table(records), end="")
    for line in failures:
        print(line)
    return 1 if failures else 0


def _measure(name: str, settings: Settings) -> tuple[list[Record], str | None]:
    """The rows of a part, and what went wrong; a part that is refused has no row, one that failed those before."""
    records: list[Record] = []
    try:
        records += load(name)(settings)
    except DisagreementError as error:
        return [], f"{name}: refused: {error}"
    except FAILURES as error:
        message = str(error).strip() or type(error).__name__
        return records, f"{name}: failed: {message.splitlines()[0]}"
    return records, None


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--part",
        action="append",
        choices=[*PARTS, *MEASURED_BY],
        metavar="NAME",
        help="only this part, or what measures this goal, C1 to C9 or G1; may be repeated; see --list",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write each record as a line of JSON, too")
    parser.add_argument("--list", action="store_true", help="name the parts and end")
    parser.add_argument(
        "--quick", action="store_true", help="tiny shapes: does it work? Numbers mean nothing"
    )
    parser.add_argument("--threads", type=int, default=_cores(), metavar="N", help="default: all cores")
    parser.add_argument("--seconds", type=float, default=8.0, metavar="S", help="for a race (default 8)")
    parser.add_argument(
        "--text", type=Path, metavar="FILE", help="a text for the parts data, ngram and convergence"
    )
    parser.add_argument("--lmplz", type=Path, metavar="PATH", help="KenLM's estimator, for the part ngram")
    options = parser.parse_args(arguments)
    for path in (options.text, options.lmplz):
        if path is not None and not path.is_file():
            parser.error(f"{path} is not a file")
    if options.lmplz is not None:
        options.lmplz = options.lmplz.resolve()  # a bare name would be looked for in PATH
    if options.threads < 1:
        parser.error(f"--threads {options.threads} must be at least 1")
    return options


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
