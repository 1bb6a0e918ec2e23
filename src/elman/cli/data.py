"""`elman data`: prepare, inspect, tokenizer, duplicates."""

from dataclasses import asdict
from pathlib import Path
from typing import Literal

from cyclopts import App

from elman.cli.arguments import Reading, Source, Whole
from elman.cli.render import print_json, print_table, say, visible, visible_line
from elman.config import DataConfig, require_integer
from elman.errors import InputError

data_app = App(name="data", help="Prepare and inspect corpora, train tokenizers, find duplicates.")


@data_app.command(name="prepare", usage="Usage: elman data prepare [CORPUS] [OPTIONS]")
def prepare_command(
    corpus: Source = "python-docs",
    *,
    reading: Reading = Reading(),  # noqa: B008 - frozen
    valid: Source = "0.05",
    tokenizer: str = "auto",
    vocab_size: Whole | None = None,
    mask_digits: bool = False,
    json: bool = False,
) -> int:
    """Turn a corpus into token files in the cache.

    Training with the same settings then starts at once.

    Args:
        corpus: Anything that `elman train` accepts.
        reading: Flattened into options of its fields' names.
        valid: Held-out text: a share of the corpus, or a corpus of its own.
        tokenizer: byte, char, word, bpe, auto, a tokenizer.json, or a hub name.
        vocab_size: Entries of a vocabulary trained here.
        mask_digits: Read every digit as #.
        json: Print one JSON document (elman.data/1).
    """
    from elman.data.prepare import prepare

    config = DataConfig(
        corpus=corpus,
        valid=valid,
        tokenizer=tokenizer,
        vocab_size=vocab_size,
        mask_digits=mask_digits,
        **asdict(reading),
    )
    manifest = prepare(config, report=lambda what, share: say(f"{what} {share:.0%}")).manifest
    if json:
        print_json({"schema": "elman.data/1", **manifest})
        return 0
    columns = ["documents", "targets", "characters", "bytes", "words"]
    rows = [[name, *(f"{manifest[name][column]:,}" for column in columns)] for name in ("train", "valid")]
    print_table(["split", *columns], rows)
    shared = manifest["valid_documents_also_in_train"]
    print(f"\nvocabulary {manifest['vocab_size']:,}, in {visible_line(manifest['folder'])}")
    print(f"held-out documents that also stand in the training text: {shared:,}")
    for note in manifest["notes"]:
        print(f"note: {visible_line(note)}")
    return 0


@data_app.command(name="inspect", usage="Usage: elman data inspect [CORPUS] [OPTIONS]")
def inspect_command(
    corpus: Source = "python-docs",
    *,
    reading: Reading = Reading(),  # noqa: B008 - frozen
    show: Whole = 3,
    json: bool = False,
) -> int:
    """Say what a corpus holds.

    Sizes, equal documents, the lengths of documents, and the first few of them.

    Args:
        corpus: Anything that `elman train` accepts.
        reading: Flattened into options of its fields' names.
        show: How many documents to show the beginning of.
        json: Print one JSON document (elman.inspect/1).
    """
    require_integer("show", show, at_least=0)

    import numpy as np

    from elman.data.corpora import open_corpus
    from elman.data.survey import survey_corpus

    source = open_corpus(corpus, **asdict(reading))
    survey = survey_corpus(source)
    beginnings: list[str] = []
    for piece in source.pieces():
        if len(beginnings) == show:
            break
        if piece.begins:
            beginnings.append(piece.text[:200])
    shortest, median, longest = (int(np.percentile(survey.lengths, share)) for share in (0, 50, 100))
    facts = {
        "documents": len(survey.hashes),
        "characters": survey.characters,
        "repeated_documents": len(survey.hashes) - len(np.unique(survey.hashes)),
        "shortest": shortest,
        "median": median,
        "longest": longest,
        "sha256": survey.sha256,
    }
    if json:
        rest = {"notes": source.notes, "first": beginnings}
        print_json({"schema": "elman.inspect/1", "corpus": corpus, **facts, **rest})
        return 0
    labels = {"shortest": "shortest document, characters", "median": "median", "longest": "longest"}
    for name, value in facts.items():
        label = labels.get(name, name.replace("_", " "))
        print(f"{label:<32}{value:,}" if isinstance(value, int) else f"{label:<32}{value}")
    for note in source.notes:
        print(f"note: {visible_line(note)}")
    for number, text in enumerate(beginnings, start=1):
        print(f"\n--- document {number}\n{visible(text)}")
    return 0


@data_app.command(name="tokenizer", usage="Usage: elman data tokenizer [CORPUS] --out PATH [OPTIONS]")
def tokenizer_command(
    corpus: Source = "python-docs",
    *,
    out: Path,
    kind: Literal["byte", "char", "word", "bpe"] = "bpe",
    vocab_size: Whole | None = None,
    mask_digits: bool = False,
    reading: Reading = Reading(),  # noqa: B008 - frozen
    json: bool = False,
) -> int:
    """Train a tokenizer on all of a corpus.

    The file that it writes is for --tokenizer OUT.

    Args:
        corpus: Anything that `elman train` accepts.
        out: The tokenizer.json to write; must not exist.
        kind: What an entry of the vocabulary is.
        vocab_size: Most entries, special tokens included. Default: by the size of the text.
        mask_digits: Read every digit as #.
        reading: Flattened into options of its fields' names.
        json: Print one JSON document (elman.tokenizer/1).
    """
    DataConfig(tokenizer=kind, vocab_size=vocab_size)  # has the ranges

    from elman.data.corpora import open_corpus
    from elman.data.survey import survey_corpus
    from elman.data.tokenizer import suit_vocabulary, train_tokenizer
    from elman.files import write_atomically

    if out.exists():
        raise InputError(f"{out}: exists already; give another --out, or remove it")
    source = open_corpus(corpus, **asdict(reading))
    if kind == "bpe" and vocab_size is None:
        _, vocab_size = suit_vocabulary(max(20_000, survey_corpus(source).characters))
    texts = (piece.text for piece in source.pieces())
    tokenizer = train_tokenizer(kind, texts, vocab_size=vocab_size, mask_digits=mask_digits)
    write_atomically(out, tokenizer.to_json())
    if json:
        facts = {
            "path": str(out),
            "kind": kind,
            "vocab_size": tokenizer.vocab_size,
            "sha256": tokenizer.sha256,
        }
        print_json({"schema": "elman.tokenizer/1", **facts})
    else:
        print(f"{visible_line(str(out))}: {kind}, {tokenizer.vocab_size:,} entries")
    return 0


@data_app.command(name="duplicates", usage="Usage: elman data duplicates FIRST SECOND [OPTIONS]")
def duplicates_command(
    first: Source,
    second: Source,
    *,
    reading: Reading = Reading(),  # noqa: B008 - frozen
    json: bool = False,
) -> int:
    """Count the documents of SECOND that also stand in FIRST.

    A test text and its training text, say.

    Args:
        first: Anything that `elman train` accepts.
        second: Likewise.
        reading: Flattened into options of its fields' names; they hold for both.
        json: Print one JSON document (elman.duplicates/1).
    """
    import numpy as np

    from elman.data.corpora import open_corpus
    from elman.data.survey import survey_corpus

    if first == second == "-":
        raise InputError("standard input can be read once; give a file for FIRST or for SECOND")
    theirs, ours = (survey_corpus(open_corpus(name, **asdict(reading))) for name in (first, second))
    shared = int(np.isin(ours.hashes, theirs.hashes).sum())
    total = len(ours.hashes)
    if json:
        print_json({"schema": "elman.duplicates/1", "documents": total, "also_in_first": shared})
    else:
        counted = f"{shared:,} of {total:,} document{'s' * (total != 1)} of {second}"
        line = f"{counted} ({shared / total:.1%}) also stand in {first}"
        print(visible_line(line))
    return 0
