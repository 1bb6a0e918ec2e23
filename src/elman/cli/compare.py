"""`elman compare`."""

import sys
import textwrap
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from elman.cli.arguments import Documents, Source, Whole
from elman.cli.render import Output, command_line, print_json, print_table, say, visible_line
from elman.errors import StoppedError

ESSENTIAL = {
    "model": "model",
    "bits/byte": "bits/byte",
    "to best": "to best",
    "perplexity": "perpl.",
    "params": "params",
    "tok/s": "tok/s",
}
"""Columns of the table that fit a terminal, and their headings there; the page and the files have all."""


def compare_command(
    corpus: Source = "python-docs",
    *,
    models: str | None = None,
    params: str | None = None,
    time: str | None = None,
    tokens: str | None = None,
    seeds: Whole | None = None,
    learning_rate: float | None = None,
    out: Path | None = None,
    documents: Documents | None = None,
    valid: Source | None = None,
    tokenizer: str | None = None,
    vocab_size: Whole | None = None,
    batch_size: Whole | None = None,
    bptt: Whole | None = None,
    dropout: float | None = None,
    device: str | None = None,
    precision: str | None = None,
    json: bool = False,
    quiet: Annotated[bool, Parameter(alias="-q")] = False,
) -> int:
    """Compare models on the same text at an equal budget, with intervals.

    Each model is as wide as the budget of parameters allows, finds its learning
    rate in a small sweep, and is trained with every seed. Interrupted, the same
    command goes on where it was.

    Args:
        corpus: As for elman train.
        models: Names with commas: ngram, window, elman, lstm, gru, mingru, minlstm, slstm, mlstm, transformer.
        params: Parameters of each at most, such as 500k or 2M. Default: 1M.
        time: Training of each: 20s (default), 2m, 1h.
        tokens: Training of each in tokens instead, such as 5M.
        seeds: Trainings of each, with different seeds. Default: 3.
        learning_rate: For all, instead of the sweep.
        out: The folder of the comparison. Default: runs/compare-CORPUS.
        documents: What a document is.
        valid: Held-out text: a share of the corpus, or a corpus of its own.
        tokenizer: byte, char, word, bpe, auto, a tokenizer.json, or a hub name.
        vocab_size: Entries of a vocabulary trained here.
        batch_size: Streams in a batch.
        bptt: Tokens of each stream in a batch.
        dropout: Share of the values dropped in training.
        device: cpu, cuda, mps, auto.
        precision: float32, bfloat16, auto.
        json: Print one JSON document (elman.compare/1).
        quiet: No progress on stderr.
    """
    from elman.api import compare  # torch takes a second to import
    from elman.compare.table import columns

    given = {
        "documents": documents,
        "valid": valid,
        "tokenizer": tokenizer,
        "vocab_size": vocab_size,
        "batch_size": batch_size,
        "bptt": bptt,
        "dropout": dropout,
        "device": device,
        "precision": precision,
    }
    try:
        result = compare(
            corpus,
            models=None if models is None else [name for name in map(str.strip, models.split(",")) if name],
            params=params,
            time=time,
            tokens=tokens,
            seeds=seeds,
            learning_rate=learning_rate,
            out=out,
            command=command_line(),
            say=(lambda line: None) if quiet else say,
            **{name: value for name, value in given.items() if value is not None},
        )
    except (KeyboardInterrupt, StoppedError) as error:
        print("elman: interrupted; what is finished is kept, and the same command goes on", file=sys.stderr)
        return error.exit_code if isinstance(error, StoppedError) else 130
    if json:
        print_json(result.as_dict())
        return 0
    cells = [columns(row) for row in result.rows]
    print_table(list(ESSENTIAL.values()), [[row[name] for name in ESSENTIAL] for row in cells])
    for note in result.notes:
        print(textwrap.fill(f"note: {note}", Output().width, subsequent_indent="      "))
    print(f"\nreport  {visible_line(str(result.out / 'report.html'))}")
    print(f"table   {visible_line(str(result.out / 'table.md'))}")
    return 0
