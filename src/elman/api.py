"""`elman.train` and `elman.evaluate`: the verbs of the command line, for Python."""

from pathlib import Path
from typing import Any

from elman.evaluate.score import Score
from elman.settings import resolve
from elman.text_model import TextModel, load
from elman.train.run import RunResult, run_training


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


def evaluate(model: TextModel | str | Path, text: str | Path, **settings: Any) -> Score:
    """The score of a text under a model; `settings` are those of `TextModel.score`."""
    text_model = model if isinstance(model, TextModel) else load(model)
    return text_model.score(text, **settings)
