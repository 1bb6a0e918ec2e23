"""`elman train`."""

import inspect
import os
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from elman.cli.render import command_line, print_json, print_table, say, visible
from elman.config import suggestion
from elman.errors import UsageError
from elman.settings import resolve, setting_sections


def train_command(
    corpus: str | None = None,
    *,
    preset: str = "default",
    config: Path | None = None,
    out: Path | None = None,
    cell: str | None = None,
    hidden_size: int | None = None,
    embedding_dim: int | None = None,
    num_layers: int | None = None,
    learning_rate: float | None = None,
    batch_size: int | None = None,
    bptt: int | None = None,
    max_time: str | None = None,
    max_steps: int | None = None,
    epochs: float | None = None,
    documents: Literal["line", "paragraph", "file", "record"] | None = None,
    valid: str | None = None,
    tokenizer: str | None = None,
    vocab_size: int | None = None,
    encoding_errors: Literal["strict", "replace"] | None = None,
    seed: int | None = None,
    device: str | None = None,
    precision: str | None = None,
    json: Annotated[bool, Parameter(negative="")] = False,
    quiet: Annotated[bool, Parameter(name=["--quiet", "-q"], negative="")] = False,
    **settings: Annotated[dict[str, str], Parameter(show=False)],
) -> int:
    """Train a language model on CORPUS, score it on held-out text, and write a run folder.

    Every setting has a dotted name: --optimizer.weight-decay 0.1, --model.dropout 0.2, --data.mask-digits
    true. `elman settings` lists them all, in the form of a TOML file for --config; environment variables
    such as ELMAN_DROPOUT set them too.

    Args:
        corpus: A text file, a folder, .jsonl, .parquet, .gz or .zst of these, - for standard input, hf:NAME,
            thelmbook:news, thelmbook:brown, or python-docs: the documentation in this Python (default).
        preset: Where the settings start from: default (best in 90 seconds), or chapter (to the letter).
        config: Settings in a TOML file.
        out: The run folder, which must not exist. Default: the first free runs/CORPUS-CELL-N.
        cell: The recurrence: elman, lstm.
        hidden_size: Width of the recurrent state.
        embedding_dim: Width of the token vectors.
        num_layers: Recurrent layers.
        learning_rate: Learning rate at the end of warm-up.
        batch_size: Streams, or documents, in a batch.
        bptt: Tokens of each stream in a batch.
        max_time: Budget in training time: 90, 90s, 2m, 1h.
        max_steps: Budget in optimizer steps.
        epochs: Budget in passes over the text.
        documents: What a document is.
        valid: Held-out text: a share of the corpus (0.05), or a corpus of its own.
        tokenizer: byte, char, word, bpe, auto, a tokenizer.json, or a hub name.
        vocab_size: Entries of a vocabulary trained here.
        encoding_errors: Refuse bytes that are not UTF-8, or replace them.
        seed: Seed of weights, order and dropout.
        device: cpu, cuda, mps, auto.
        precision: float32, bfloat16, auto.
        json: Print one JSON document (elman.train/1) instead of a table.
        quiet: No progress on stderr.
    """
    given = {
        "corpus": corpus,
        "cell": cell,
        "hidden_size": hidden_size,
        "embedding_dim": embedding_dim,
        "num_layers": num_layers,
        "learning_rate": learning_rate,
        "batch_size": batch_size,
        "bptt": bptt,
        "max_time": max_time,
        "max_steps": max_steps,
        "epochs": epochs,
        "documents": documents,
        "valid": valid,
        "tokenizer": tokenizer,
        "vocab_size": vocab_size,
        "encoding_errors": encoding_errors,
        "seed": seed,
        "device": device,
        "precision": precision,
    }
    overrides: dict[str, object] = {name: value for name, value in given.items() if value is not None}
    for section, values in settings.items():
        overrides |= {f"{section}.{name}": value for name, value in values.items()}
    resolved = resolve(preset, config, os.environ, overrides)

    from elman.evaluate.score import score_columns  # torch takes a second to import
    from elman.train.run import run_training

    progress = (lambda line: None) if quiet else say
    result = run_training(resolved, out, command=command_line(), say=progress, quiet=quiet)
    if json:
        print_json(result.as_dict())
    else:
        columns = score_columns(result.valid)
        print_table(["held-out text", *columns], [[resolved.model.cell, *columns.values()]])
        print(f"\nsample\n{indent(visible(result.samples[0].text))}\n")
        print(f"model   {result.model}\nreport  {result.run / 'report.html'}")
    return 130 if result.interrupted else 0


def indent(text: str) -> str:
    """Every line four spaces in."""
    return "\n".join(f"    {line}" for line in text.splitlines())


def qualify_settings(arguments: list[str]) -> list[str]:
    """`--dropout 0.2` as `--model.dropout 0.2`: settings without a flag of their own, by their bare names.

    Raises:
        UsageError: A name that is neither a flag nor a setting, with the nearest that is.
    """
    names = inspect.signature(train_command).parameters
    flags = {f"--{name.replace('_', '-')}" for name in names} | {"--help", "--version"}
    settings = {f"--{name.replace('_', '-')}": section for name, section in setting_sections().items()}
    qualified: list[str] = []
    for position, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if flag == "--":
            return qualified + arguments[position:]
        if flag.startswith("--") and "." not in flag and flag not in flags:
            if flag not in settings:
                raise UsageError(
                    f"unknown option {flag}{suggestion(flag, [*flags, *settings])}; elman train --help lists them"
                )
            argument = f"--{settings[flag]}.{flag[2:]}{equals}{value}"
        qualified.append(argument)
    return qualified
