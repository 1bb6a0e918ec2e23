"""`elman.train`, `elman.resume`, `elman.evaluate` and `elman.compare`: the verbs of the command line, for Python."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from elman.compare.plan import Plan, base_config
from elman.compare.run import CompareResult, run_comparison
from elman.errors import ConfigError
from elman.evaluate.score import Score
from elman.settings import parse_count, parse_duration, resolve
from elman.text_model import TextModel, load
from elman.train.result import RunResult
from elman.train.run import resume_training, run_training
from elman.train.say import Say


def train(
    corpus: str | Path = "python-docs",
    *,
    preset: str | None = None,
    config: str | Path | None = None,
    out: str | Path | None = None,
    quiet: bool = True,
    **settings: object,
) -> RunResult:
    """Train a model and write its run folder; `elman.load(result.run)` is the model.

    Args:
        corpus: A file, a folder, or a corpus by name; see `elman train --help`.
        preset: Where the settings start from; None takes the one that `config` names, or else "default".
        config: A TOML file over the preset.
        out: The run folder, which must not exist; None makes one under `runs/`.
        quiet: No progress on stderr.
        settings: Any field of the configuration by its name, `hidden_size=256` for instance.

    Raises:
        ElmanError: As the tree in `elman.errors` says.
    """
    resolved = resolve(
        preset, None if config is None else Path(config), overrides={"corpus": str(corpus), **settings}
    )
    return run_training(resolved, None if out is None else Path(out), quiet=quiet)


def resume(
    run: str | Path | None = None, *, strict: bool = False, quiet: bool = True, **settings: object
) -> RunResult:
    """Go on with a run from its newest checkpoint, or extend a finished one by a larger budget.

    Args:
        run: Its folder; None takes the only unfinished one under `runs/`.
        strict: Refuse a machine on which the last bits may differ.
        quiet: No progress on stderr.
        settings: What to change: `max_steps=5000` for instance; see `train.resume.CHANGEABLE`.

    Raises:
        ElmanError: As the tree in `elman.errors` says.
    """
    return resume_training(None if run is None else Path(run), settings, strict=strict, quiet=quiet)


def evaluate(model: TextModel | str | Path, text: str | Path, **settings: Any) -> Score:
    """The score of a text under a model; `settings` are those of `TextModel.score`."""
    text_model = model if isinstance(model, TextModel) else load(model)
    return text_model.score(text, **settings)


def compare(
    corpus: str | Path = "python-docs",
    *,
    models: Sequence[str] | None = None,
    params: int | str | None = None,
    time: float | str | None = None,
    tokens: int | str | None = None,
    seeds: int | None = None,
    learning_rate: float | None = None,
    out: str | Path | None = None,
    command: str = "",
    say: Say = lambda line: None,
    **settings: object,
) -> CompareResult:
    """Train and score several models on the same text at an equal budget; see `compare.plan` for what is equal.

    Args:
        corpus: As for `train`.
        models: Names of `compare.plan.MODELS`; None takes them all.
        params: Parameters of each at most; `2M` and `500k` are understood.
        time: Seconds of training of each; `90s`, `2m` and `1h` are understood.
        tokens: Tokens of training of each, instead of `time`.
        seeds: Trainings of each.
        learning_rate: For all, instead of the sweep.
        out: The folder of the comparison, which may be there from an interrupted one.
        command: What to type to compare again, for the report.
        say: Told, a line at a time, what is done.
        settings: Any other field of the configuration, for all models.

    Raises:
        ElmanError: As the tree in `elman.errors` says.
        KeyboardInterrupt: As for StoppedError, what is finished is kept, and the same call goes on.
    """
    given = {
        "models": None if models is None else tuple(models),
        "params": None if params is None else parse_count("params", params),
        "time": None if time is None else _seconds(time),
        "tokens": None if tokens is None else parse_count("tokens", tokens),
        "seeds": seeds,
        "learning_rate": learning_rate,
    }
    chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if tokens is not None and time is None:
        chosen["time"] = None
    plan = Plan(**chosen)
    overrides = {"corpus": str(corpus), **settings}
    configs = {name: base_config(name, overrides) for name in plan.models}
    return run_comparison(plan, configs, None if out is None else Path(out), command=command, say=say)


def _seconds(time: float | str) -> float:
    if math.isnan(seconds := parse_duration(str(time))):
        raise ConfigError(f"time: {str(time)!r} is not a duration; write 90, 90s, 2m or 1h")
    return seconds
