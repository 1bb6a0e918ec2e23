"""`elman eval`."""

import json as json_format
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from elman.cli.arguments import Reading, Source, Whole
from elman.cli.render import print_json, print_table, say
from elman.config import DataConfig, require_integer
from elman.errors import InputError, UsageError

if TYPE_CHECKING:
    from elman.data.store import TokenStore
    from elman.text_model import TextModel


def evaluate_command(
    model: Path,
    text: Source | None = None,
    *,
    reading: Reading = Reading(),  # noqa: B008 - frozen
    batch_size: Whole = 32,
    state: Literal["reset", "carry"] = "reset",
    json: bool = False,
) -> int:
    """Score a text with a model.

    Every token is scored once and every document whole. The batch size changes
    the speed, not the result.

    Args:
        model: A model folder or a run folder.
        text: Any corpus that `elman train` accepts. Default: the held-out text of the run.
        reading: Flattened into options of its fields' names.
        batch_size: Documents scored side by side.
        state: reset: a fresh state for each document. carry: one state through all of them, in order.
        json: Print one JSON document (elman.eval/1).
    """
    require_integer("batch_size", batch_size, at_least=1)
    if text is None and reading != Reading():
        raise UsageError(
            "how a text is read can be said of a TEXT only; the held-out text is read as the run read it"
        )

    from elman.evaluate.score import score_columns  # torch takes a second to import
    from elman.text_model import load

    text_model = load(model)
    if text is None:
        store = held_out(model, text_model)
    else:
        from elman.data.prepare import prepare_text

        data = DataConfig(corpus=text, **asdict(reading))
        store = prepare_text(data, text_model.tokenizer, note=lambda remark: say(f"note: {remark}"))
    score = text_model.score_store(store, batch_size=batch_size, state=state)
    if json:
        print_json({"schema": "elman.eval/1", **score.as_dict()})
        return 0
    columns = score_columns(score)
    print_table(["model", *columns], [[str(model), *columns.values()]])
    if score.unknown:
        print(f"{score.unknown:,} targets ({score.unknown / score.targets:.1%}) are outside the vocabulary")
    return 0


def held_out(folder: Path, text_model: "TextModel") -> "TokenStore":
    """The text that the run of a model held out, found again by the settings of the run.

    Raises:
        InputError: The folder has no run around it, or the text is no longer what it was.
    """
    from elman.data.prepare import prepare
    from elman.settings import from_toml

    places = (folder / "config.toml", folder.parent / "config.toml")
    settings = next((place for place in places if place.is_file()), None)
    if settings is None:
        raise InputError(f"{folder}: a model folder without its run has no held-out text; give a TEXT")
    data = from_toml(settings).data
    if "-" in (data.corpus, data.valid):
        raise InputError(f"{folder}: its text came from standard input and is gone; give a TEXT")
    try:
        prepared = prepare(data)
    except InputError as error:
        raise InputError(f"the held-out text of {folder}: {error}; or give a TEXT") from error
    known = recorded_text(settings.parent / "environment.json")
    same_text = known in (None, prepared.manifest["content_sha256"])
    if not same_text or prepared.tokenizer.sha256 != text_model.tokenizer.sha256:
        raise InputError(f"{data.corpus}: no longer the text that {folder} was trained on; give a TEXT")
    say(f"scoring the held-out part of {data.corpus}")
    return prepared.valid


def recorded_text(environment: Path) -> str | None:
    """The checksum of the text that a run was trained on, where its environment.json tells it."""
    try:
        return str(json_format.loads(environment.read_text(encoding="utf-8"))["data"]["content_sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
