"""The Brown corpus as Bengio et al. (2003) cut it: what counting, a recurrent network and their mixture reach.

    python benchmarks/brown.py brown.txt work/ [--seed 0]

The first 800,000 words are for training, the next 200,000 for validation, the rest is for the test; words seen
three times or fewer in the corpus are one class. A document is a text of the corpus (blank lines divide them), a
cut falls on the nearest end of a line, and the end of a line is a token. Perplexities are a word: the nats of all
tokens, unknown words and line ends among them, divided by the number of words.

`work/` keeps the three parts, the tokenizer and a run folder for each model; what is there is not done again.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import elman
from elman.config import DataConfig
from elman.data.prepare import prepare_text
from elman.data.tokenizer import train_tokenizer
from elman.errors import ElmanError, InputError
from elman.text_model import MixedTextModel, TextModel

PARTS = {"train": 800_000, "valid": 200_000, "test": None}
"""Words."""

RARE = 3
"""Words seen so often or less are one class."""

NETWORK = {
    "embedding_dim": 256,
    "batch_size": 32,
    "bptt": 32,
    "learning_rate": 4e-3,
    "yardstick_order": "none",
}

MODELS: dict[str, dict[str, object]] = {
    "counts": {"family": "ngram", "order": 5},
    "window": NETWORK | {"family": "window", "order": 5, "hidden_size": 256, "dropout": 0.2, "epochs": 2},
    "lstm": NETWORK | {"cell": "lstm", "hidden_size": 512, "dropout": 0.4, "epochs": 6},
}
"""Interpolated Kneser-Ney, the model of their paper, and a recurrent one."""


def cut(text: str) -> dict[str, str]:
    """The three parts, each of whole lines."""
    parts: dict[str, str] = {}
    lines = iter(text.splitlines(keepends=True))
    for name, wanted in PARTS.items():
        kept, words = [], 0
        while wanted is None or words < wanted:
            line = next(lines, None)
            if line is None:
                break
            kept.append(line)
            words += len(line.split())
        parts[name] = "".join(kept)
    return parts


def write_parts(corpus: Path, work: Path) -> None:
    """`train.txt`, `valid.txt`, `test.txt` and `tokenizer.json`."""
    text = corpus.read_text(encoding="utf-8")
    for name, part in cut(text).items():
        (work / f"{name}.txt").write_text(part, encoding="utf-8")
        print(f"{name}: {len(part.split()):,} words")
    counts = Counter(text.split())
    frequent = sum(count > RARE for count in counts.values())
    specials_and_line_end = 5
    tokenizer = train_tokenizer("word", [text], vocab_size=frequent + specials_and_line_end)
    (work / "tokenizer.json").write_text(tokenizer.to_json(), encoding="utf-8")
    print(f"{len(counts):,} different words, {frequent:,} of them seen more than {RARE} times")


def train(work: Path, name: str, **settings: object) -> TextModel:
    """The model `name`, trained unless it is there."""
    run = work / name
    if not run.exists():
        started = time.monotonic()
        elman.train(
            work / "train.txt",
            valid=str(work / "valid.txt"),
            tokenizer=str(work / "tokenizer.json"),
            documents="paragraph",
            out=run,
            quiet=False,
            **settings,
        )
        print(f"{name}: {(time.monotonic() - started) / 60:.1f} minutes")
    return elman.load(run)


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    try:
        compare(given.corpus, given.work, given.seed)
    except ElmanError as error:
        print(f"error: {error}", file=sys.stderr)
        return InputError.exit_code
    return 0


def compare(corpus: Path, work: Path, seed: int) -> None:
    """Train, mix, print the table.

    Raises:
        ElmanError: As for `elman.train`.
    """
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "tokenizer.json").exists():
        write_parts(corpus, work)

    models = {name: train(work, name, seed=seed, **settings) for name, settings in MODELS.items()}
    stores = {
        name: prepare_text(
            DataConfig(corpus=str(work / f"{name}.txt"), documents="paragraph"), models["counts"].tokenizer
        )
        for name in ("valid", "test")
    }
    models["mixture"] = mixture = MixedTextModel.fit(list(models.values()), stores["valid"])
    print("| model | validation | test |\n|---|---|---|")
    for name, model in models.items():
        valid, test = (model.score_store(stores[part]).word_perplexity for part in ("valid", "test"))
        print(f"| {name} | {valid:.1f} | {test:.1f} |")
    print("weights: " + ", ".join(f"{weight:.2f}" for weight in mixture.weights))


if __name__ == "__main__":
    sys.exit(main())
