"""The pieces of the default recipe, each changed alone: bits per byte of held-out text at equal time.

    python -m benchmarks.recipe [CORPUS] --seconds 60 --work FOLDER [--seeds 1]

A row is the default preset with one thing changed, trained for the same seconds and scored on the same whole
documents with the full softmax. Bits per byte compare rows whose vocabularies differ:

    difference = bits per byte of the row - bits per byte of the base        below zero: the change is better

With several seeds the figures are means, and the lowest and the highest stand beside them: a difference that is
smaller than that spread says nothing. Rows take turns within a seed, so that a slow hour hits all of them.

FOLDER/results.jsonl keeps what every training came to, beside the settings that were asked for, and a folder for
each holds the run; the same training is not done twice, so a comparison that is cut off goes on.
"""

import argparse
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import elman
from elman.config import suggestion
from elman.errors import ConfigError, DivergedError, ElmanError, InputError
from elman.files import make_folder
from elman.train.metrics import MetricsLog, read_metrics

BASE = "base"
"""The row that the others are compared with."""

ROWS: dict[str, dict[str, object]] = {
    BASE: {},
    "sampled loss": {"loss": "sampled", "negatives": 256},
    "untied embeddings": {"tie_embeddings": False},
    # The chapter's batches; what stands behind the first 64 tokens of a document is never seen in training.
    "document batches": {"batches": "documents", "max_length": 64, "batch_size": 16},
    "dropout of 0.1": {"dropout": 0.1},
    "dropout of 0.1, locked": {"dropout": 0.1, "locked_dropout": True},
    "width 192": {"hidden_size": 192},
    "width 512": {"hidden_size": 512},
    "batch of 16": {"batch_size": 16},
    "batch of 64": {"batch_size": 64},
    "float32 products": {"precision": "float32"},
    "Elman cell": {"cell": "elman"},
    "GRU cell": {"cell": "gru"},
    "vocabulary 1,024": {"vocab_size": 1024},
    "vocabulary 4,096": {"vocab_size": 4096},
    "vocabulary 8,192": {"vocab_size": 8192},
    "vocabulary 8,192, sampled": {"vocab_size": 8192, "loss": "sampled", "negatives": 512},
    "row-sparse updates": {"row_sparse": True},
    "vocabulary 8,192, sampled, row-sparse": {
        "vocab_size": 8192,
        "loss": "sampled",
        "negatives": 512,
        "row_sparse": True,
    },
}
"""Settings over the default preset, by what the table calls them."""

Result = dict[str, Any]
"""One finished training: `asked`, its settings; `seconds`, `steps`, `tokens`; `perplexity` and `bits_per_byte`
of the held-out text, None where the training diverged."""


def train_once(results: Path, name: str, asked: Mapping[str, object]) -> Result:
    """Train with the settings `asked`, a corpus among them, or find in `results` what that came to before.

    The run is left in the folder `name` beside `results`; half a run that lies there is removed.

    Raises:
        ElmanError: As for `elman.train`, but a training that diverged is a result.
        StoppedError: The user stopped the training; nothing is kept of it.
    """
    for result in read_results(results):
        if result["asked"] == asked:
            return result
    run = results.parent / name
    shutil.rmtree(run, ignore_errors=True)
    result = {"asked": asked, "steps": 0, "tokens": 0, "seconds": 0.0}
    try:
        trained = elman.train(out=run, quiet=False, **asked)  # type: ignore[arg-type]  # its own are not among them
    except DivergedError as error:
        progress(f"{name}: {error}")
        result |= {"perplexity": None, "bits_per_byte": None}
    else:
        result |= {key: getattr(trained, key) for key in ("steps", "tokens", "seconds")}
        result |= {key: getattr(trained.valid, key) for key in ("perplexity", "bits_per_byte")}
    with MetricsLog(results) as log:
        log.write(result)
    return result


def read_results(results: Path) -> list[Result]:
    """What a file of results holds so far; a file that is not there holds nothing.

    Raises:
        InputError: The file is damaged.
    """
    return read_metrics(results) if results.exists() else []


def progress(line: str) -> None:
    """Say on stderr how far a benchmark is."""
    print(line, file=sys.stderr, flush=True)


def table(results: Mapping[str, Sequence[Result]]) -> str:
    """Markdown: a line for each row, over its seeds; the base is among them."""
    lines = ["| changed | bits/byte | difference | tokens/s | tokens seen |", "|---|--:|--:|--:|--:|"]
    base = [result["bits_per_byte"] for result in results[BASE]]
    for name, seeds in results.items():
        scores = [result["bits_per_byte"] for result in seeds]
        if None in scores:
            lines.append(f"| {name} | diverged | | | |")
            continue
        spread = f" ({min(scores):.3f} to {max(scores):.3f})" if len(scores) > 1 else ""
        difference = "" if name == BASE or None in base else f"{fmean(scores) - fmean(base):+.3f}"
        tokens = fmean(result["tokens"] for result in seeds)
        rate = tokens / fmean(result["seconds"] for result in seeds)
        score = f"{fmean(scores):.3f}{spread}"
        lines.append(f"| {name} | {score} | {difference.replace('-', '−')} | {rate:,.0f} | {tokens:,.0f} |")
    return "\n".join(lines)


def compare(corpus: str, seconds: float, work: Path, seeds: int, rows: Sequence[str]) -> str:
    """Train what is missing of `rows` and the base; the table.

    Raises:
        ConfigError: There is no such row.
        ElmanError: As for `train_once`.
    """
    for name in rows:
        if name not in ROWS:
            raise ConfigError(f"--rows: there is no {name!r}{suggestion(name, ROWS)}")
    if not work.exists():
        make_folder(work)
    chosen = [name for name in ROWS if name == BASE or name in rows]
    results: dict[str, list[Result]] = {name: [] for name in chosen}
    for seed in range(seeds):
        for name in chosen:
            progress(f"{name}, seed {seed}")
            asked = {"corpus": corpus, "max_time": seconds, "seed": seed, "yardstick_order": None}
            folder = f"{'-'.join(name.replace(',', '').split())}-{seed}"
            results[name].append(train_once(work / "results.jsonl", folder, asked | ROWS[name]))
    return table(results)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, print the table; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recipe", description=__doc__.splitlines()[0])
    parser.add_argument("corpus", nargs="?", default="python-docs", help="as for `elman train`")
    parser.add_argument("--seconds", type=float, default=60.0, help="of training, for each row and seed")
    parser.add_argument("--work", type=Path, required=True, help="folder of the results and the runs")
    parser.add_argument("--seeds", type=int, default=1, help="trainings of each row")
    parser.add_argument(
        "--rows", nargs="+", default=list(ROWS), help="some rows only; the base is always there"
    )
    given = parser.parse_args(arguments)
    try:
        print(compare(given.corpus, given.seconds, given.work, given.seeds, given.rows))
    except ElmanError as error:
        progress(f"error: {error}")
        return InputError.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
