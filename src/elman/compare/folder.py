"""The folder of a comparison: it belongs to one plan, and remembers what is finished.

plan.json           what is compared, on which text; another plan needs another folder
runs/<job>/         the training of a row, see `compare.job`
results/<job>.json  what a finished job came to; it is not done again
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from elman.compare.job import Result
from elman.errors import InputError
from elman.files import make_folder, write_atomically

SHORT = 40
"""Characters of a value that is worth showing; a checksum is not."""


class ComparisonFolder:
    """Made, or found to be of this plan, when the object is."""

    def __init__(self, path: Path, plan: Mapping[str, Any]) -> None:
        """Claim `path` for a plan, which is anything that JSON can hold.

        Raises:
            InputError: It is of another plan, holds something else, or cannot be read or written.
        """
        self.path = path
        wanted = json.loads(json.dumps(plan))  # as it will be read
        try:
            if path.exists():
                fresh = not any(path.iterdir())
            else:
                make_folder(path)
                fresh = True
            if not fresh:
                _require_same(path, wanted)
            for part in ("runs", "results"):
                (path / part).mkdir(exist_ok=True)
        except OSError as error:
            raise InputError(
                f"{error.filename or path}: cannot use it for a comparison: {error.strerror}; give another --out"
            ) from error
        write_atomically(path / "plan.json", json.dumps(wanted, indent=2) + "\n")

    def training(self, job: str) -> Path:
        """Where the job is done."""
        return self.path / "runs" / job

    def result(self, job: str) -> Result | None:
        """What the job came to; None where it is not done, or its file is damaged, so that it is done again."""
        try:
            return Result.from_json(self._result(job).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def keep(self, job: str, result: Result) -> None:
        """Remember that the job is done."""
        write_atomically(self._result(job), result.to_json())

    def _result(self, job: str) -> Path:
        return self.path / "results" / f"{job}.json"


def _require_same(path: Path, wanted: dict[str, Any]) -> None:
    plan = path / "plan.json"
    if not plan.exists():
        raise InputError(f"{path}: exists and holds no comparison; give another folder with --out")
    try:
        found = json.loads(plan.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise InputError(f"{plan}: damaged; remove {path}, or give another folder with --out")
    if found != wanted:
        raise InputError(
            f"{path}: belongs to another comparison: {_difference(found, wanted)}; give another folder with"
            " --out, or remove this one"
        )


def _difference(found: dict[str, Any], wanted: dict[str, Any], within: str = "") -> str:
    """The first thing that differs, and both values where they are short."""
    key = next(key for key in [*wanted, *found] if found.get(key) != wanted.get(key))
    there, here = found.get(key), wanted.get(key)
    if isinstance(there, dict) and isinstance(here, dict):
        return _difference(there, here, f"{within}{key}.")
    shown = [", ".join(value) if isinstance(value, list) else json.dumps(value) for value in (there, here)]
    values = f": {shown[0]} there, {shown[1]} here" if max(map(len, shown)) <= SHORT else ""
    return f"{within}{key} differs{values}"
