"""What a training came to: `result.json` of a finished run, and its table."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from elman.config import RunConfig
from elman.errors import InputError, first_line
from elman.evaluate.score import Score, score_columns
from elman.text_model import Sample
from elman.train.run_folder import MODEL, RESULT

SCHEMA = "elman.train/1"

SAMPLES = 3
SAMPLE_TOKENS = 100
SAMPLE_TEMPERATURE = 0.8
"""Of what is shown at the end: a little safer than the model itself, as a reader would ask for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """What a finished run reports."""

    run: Path
    model: Path
    preset: str
    steps: int
    tokens: int
    """Targets trained on, padding not counted."""
    seconds: float
    """Of training, validation not counted."""
    parameters: int
    valid: Score
    yardstick: Score | None
    """What an n-gram model of the same tokens scores on the same text; None if it was left out."""
    samples: list[Sample]

    def as_dict(self) -> dict[str, Any]:
        """As `elman train --json` prints it, and `result.json` keeps it."""
        return {
            "schema": SCHEMA,
            "run": str(self.run),
            "model": str(self.model),
            "preset": self.preset,
            "steps": self.steps,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "tokens_per_second": self.tokens / self.seconds if self.seconds else 0.0,
            "parameters": self.parameters,
            "valid": self.valid.as_dict(),
            "yardstick": None if self.yardstick is None else self.yardstick.as_dict(),
            "samples": [asdict(sample) for sample in self.samples],
        }


def read_result(folder: Path) -> RunResult:
    """What a finished run came to.

    Raises:
        InputError: Its `result.json` is damaged.
    """
    path = folder / RESULT
    try:
        return replace(result_from(json.loads(path.read_bytes())), run=folder, model=folder / MODEL)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{path}: damaged: {first_line(error)}; remove it, and the run is finished again"
        ) from error


def result_from(values: Mapping[str, Any]) -> RunResult:
    """What `as_dict` gave."""
    if values["schema"] != SCHEMA:
        raise ValueError(f"schema {values['schema']!r}, and this version reads {SCHEMA!r}")
    names = ("preset", "steps", "tokens", "seconds", "parameters")
    return RunResult(
        run=Path(values["run"]),
        model=Path(values["model"]),
        valid=Score.from_dict(values["valid"]),
        yardstick=None if values["yardstick"] is None else Score.from_dict(values["yardstick"]),
        samples=[Sample(**sample) for sample in values["samples"]],
        **{name: values[name] for name in names},
    )


def score_rows(config: RunConfig, result: RunResult) -> dict[str, dict[str, str]]:
    """The table of a run: the model, and the yardstick beside it."""
    rows: dict[str, dict[str, str]] = {config.model.name: score_columns(result.valid)}
    if result.yardstick is not None:
        rows[f"{config.training.yardstick_order}-gram"] = score_columns(result.yardstick)
    return rows
