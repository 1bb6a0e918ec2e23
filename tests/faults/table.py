"""The table of faults: what stands in the catalogue, the tests that are named by it, and what came of them."""

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.catalogue import FAULTS, GROUPS

HEAD = """\
# Faults

What goes wrong on the way of a training, what is promised of it, and the tests that show it. A test breaks the thing
on purpose (it kills the process, fails the n-th call to the disk, flips a bit) and looks whether the promise holds;
its name begins with the id of the fault. A fault without a test is a promise that nobody has checked.

`make faults` runs all of these tests to the end and writes this page; `make test` runs a quick part of each. A case
is one place where the fault was put: one flipped bit, one failing call, one instant of a kill.
"""

_TEST = re.compile(rf"test_([{''.join(GROUPS).lower()}]\d\d)_(\w+)")


def fault_of(test: str) -> str | None:
    """The id at the start of a test's name; None if it has none, as those of the harness itself."""
    match = _TEST.match(test)
    return match[1].upper() if match else None


@dataclass(slots=True)
class Outcomes:
    """What came of the tests of one fault."""

    tests: dict[tuple[str, str], None] = field(default_factory=dict)
    """Each file and what its test says, in order."""
    cases: Counter[str] = field(default_factory=Counter)
    """Number by outcome: passed, failed, skipped."""

    @property
    def told(self) -> str:
        """In a few words."""
        total, failed, passed = self.cases.total(), self.cases["failed"], self.cases["passed"]
        if failed:
            return f"**failed** ({failed:,} of {total:,})"
        if not passed:
            return "not run"
        return f"passed ({passed:,})"


class FaultTable:
    """Collects reports, a test at a time."""

    def __init__(self) -> None:
        self._outcomes: dict[str, Outcomes] = {fault: Outcomes() for fault in FAULTS}

    def add(self, node: str, outcome: str, cases: int = 1) -> None:
        """What pytest said of a node (`path/file.py::test_x[case]`), which stands for so many cases."""
        file, _, test = node.partition("::")
        test = test.partition("[")[0].rpartition("::")[2]
        fault = fault_of(test)
        if fault is not None:
            self._outcomes[fault].tests[Path(file).name, _TEST.match(test)[2].replace("_", " ")] = None
            self._outcomes[fault].cases[outcome] += cases

    def render(self) -> str:
        """As markdown."""
        lines = [HEAD]
        for letter, group in GROUPS.items():
            lines += [f"## {group}", "", "| id | fault | promise | tests | result |", "|---|---|---|---|---|"]
            for fault, (what, promise) in FAULTS.items():
                if fault.startswith(letter):
                    found = self._outcomes[fault]
                    cells = [fault, what, promise, _tests(found), found.told]
                    lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
            lines.append("")
        return "\n".join(lines)


def _tests(found: Outcomes) -> str:
    by_file: dict[str, list[str]] = {}
    for file, test in found.tests:
        by_file.setdefault(file, []).append(test)
    return "; ".join(f"`{file}`: {', '.join(tests)}" for file, tests in by_file.items()) or "none"
