"""The folder of a run.

runs/<name>/
    config.toml         every setting, resolved
    environment.json    versions, machine, what was chosen, checksums of the text
    metrics.jsonl       a record every few steps and every validation
    events.jsonl        what happened beside: numbers that were not finite, a spike, a run taken up again
    checkpoints/        the last few, from which it can be taken up
    tensorboard/        the same numbers for TensorBoard, if they are asked for
    model/              the best model so far: all that `elman eval` and `elman generate` need
    diverged.json       what was found when numbers were not finite for good
    result.json         what it came to; a run with one is finished
    report.html         curves, samples, table; self-contained
"""

import shlex
from pathlib import Path

CONFIG = "config.toml"
ENVIRONMENT = "environment.json"
METRICS = "metrics.jsonl"
EVENTS = "events.jsonl"
TENSORBOARD = "tensorboard"
CHECKPOINTS = "checkpoints"
MODEL = "model"
DIAGNOSIS = "diverged.json"
RESULT = "result.json"
REPORT = "report.html"


def resume_command(run: Path, corpus: str = "") -> str:
    """What to type to go on with a run, wherever it is and whatever it is called; with its text in another place."""
    name, train = str(run), f"elman train {corpus}".rstrip()
    return f"{train} --resume {shlex.quote(f'./{name}' if name.startswith('-') else name)}"
