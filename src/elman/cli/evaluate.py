"""`elman eval`."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from elman.cli.render import print_json, print_table, say
from elman.config import DataConfig
from elman.errors import ConfigError, InputError


def evaluate_command(
    model: Path,
    text: str | None = None,
    *,
    documents: Literal["line", "paragraph", "file", "record"] | None = None,
    batch_size: int = 32,
    state: Literal["reset", "carry"] = "reset",
    text_field: str = "text",
    encoding_errors: Literal["strict", "replace"] = "strict",
    json: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Score TEXT with MODEL: every token once, whole documents, sums before ratios.

    Args:
        model: A model folder or a run folder.
        text: Any corpus that `elman train` accepts. Default: the held-out text of the run.
        documents: What a document is: each starts from a fresh state and is scored to its end.
        batch_size: Documents scored side by side; changes the speed, not the result.
        state: reset: a fresh state for each document. carry: one state through all of them, in order.
        text_field: The field of jsonl, parquet and hf: records.
        encoding_errors: Refuse bytes that are not UTF-8, or replace them.
        json: Print one JSON document (elman.eval/1).
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size ({batch_size}) must be at least 1")

    from elman.data.prepare import prepare, prepare_text  # torch takes a second to import
    from elman.evaluate.score import score_columns
    from elman.settings import from_toml
    from elman.text_model import load

    text_model = load(model)
    if text is not None:
        data = DataConfig(
            corpus=text, documents=documents, text_field=text_field, encoding_errors=encoding_errors
        )
        store = prepare_text(data, text_model.tokenizer)
    else:
        settings = next(
            (f for f in (model / "config.toml", model.parent / "config.toml") if f.is_file()), None
        )
        if settings is None:
            raise InputError(f"{model}: a model folder without its run has no held-out text; give a TEXT")
        data = from_toml(settings).data
        if documents is not None:
            data = replace(data, documents=documents)
        prepared = prepare(data)
        if prepared.tokenizer.sha256 != text_model.tokenizer.sha256:
            raise InputError(f"{data.corpus}: no longer the text that {model} was trained on; give a TEXT")
        store = prepared.valid
        say(f"scoring the held-out part of {data.corpus}")
    score = text_model.score_store(store, batch_size=batch_size, state=state)
    if json:
        print_json({"schema": "elman.eval/1", **score.as_dict()})
    else:
        columns = score_columns(score)
        print_table(["model", *columns], [[str(model), *columns.values()]])
        if score.unknown:
            print(
                f"{score.unknown:,} targets ({score.unknown / score.targets:.1%}) are outside the vocabulary"
            )
    return 0
