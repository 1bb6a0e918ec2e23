"""`elman data`: prepare, inspect, tokenizer, duplicates."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from elman.cli.render import print_json, print_table, say, visible
from elman.config import DataConfig
from elman.errors import InputError

data_app = App(
    name="data",
    help="Prepare and inspect corpora, train tokenizers, find duplicates.",
    help_format="plaintext",
)

Documents = Literal["line", "paragraph", "file", "record"] | None
Flag = Annotated[bool, Parameter(negative="")]


@data_app.command(name="prepare")
def prepare_command(
    corpus: str = "python-docs",
    *,
    documents: Documents = None,
    valid: str = "0.05",
    tokenizer: str = "auto",
    vocab_size: int | None = None,
    mask_digits: Flag = False,
    encoding_errors: Literal["strict", "replace"] = "strict",
    text_field: str = "text",
    json: Flag = False,
) -> int:
    """Turn CORPUS into token files in the cache, so that training with the same settings starts at once.

    Args:
        corpus: Anything that `elman train` accepts.
        documents: What a document is.
        valid: Held-out text: a share of the corpus, or a corpus of its own.
        tokenizer: byte, char, word, bpe, auto, a tokenizer.json, or a hub name.
        vocab_size: Entries of a vocabulary trained here.
        mask_digits: Read every digit as #.
        encoding_errors: Refuse bytes that are not UTF-8, or replace them.
        text_field: The field of jsonl, parquet and hf: records.
        json: Print one JSON document (elman.data/1).
    """
    from elman.data.prepare import prepare

    config = DataConfig(
        corpus=corpus,
        documents=documents,
        valid=valid,
        tokenizer=tokenizer,
        vocab_size=vocab_size,
        mask_digits=mask_digits,
        encoding_errors=encoding_errors,
        text_field=text_field,
    )
    manifest = prepare(config, report=lambda what, share: say(f"{what} {share:.0%}")).manifest
    if json:
        print_json({"schema": "elman.data/1", **manifest})
        return 0
    columns = ["documents", "targets", "characters", "bytes", "words"]
    rows = [[name, *(f"{manifest[name][column]:,}" for column in columns)] for name in ("train", "valid")]
    print_table(["split", *columns], rows)
    print(f"\nvocabulary {manifest['vocab_size']:,}, in {manifest['folder']}")
    print(
        f"held-out documents that also stand in the training text: {manifest['valid_documents_also_in_train']:,}"
    )
    for note in manifest["notes"]:
        print(f"note: {note}")
    return 0


@data_app.command(name="inspect")
def inspect_command(
    corpus: str = "python-docs",
    *,
    documents: Documents = None,
    show: int = 3,
    encoding_errors: Literal["strict", "replace"] = "strict",
    text_field: str = "text",
    json: Flag = False,
) -> int:
    """Say what CORPUS holds: sizes, equal documents, the lengths of documents, and the first few of them.

    Args:
        corpus: Anything that `elman train` accepts.
        documents: What a document is.
        show: How many documents to show the beginning of.
        encoding_errors: Refuse bytes that are not UTF-8, or replace them.
        text_field: The field of jsonl, parquet and hf: records.
        json: Print one JSON document (elman.inspect/1).
    """
    import numpy as np

    from elman.data.corpora import open_corpus
    from elman.data.prepare import survey_corpus

    source = open_corpus(corpus, documents=documents, text_field=text_field, encoding_errors=encoding_errors)
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
        print_json(
            {
                "schema": "elman.inspect/1",
                "corpus": corpus,
                **facts,
                "notes": source.notes,
                "first": beginnings,
            }
        )
        return 0
    labels = {"shortest": "shortest document, characters", "median": "median", "longest": "longest"}
    for name, value in facts.items():
        label = labels.get(name, name.replace("_", " "))
        print(f"{label:<32}{value:,}" if isinstance(value, int) else f"{label:<32}{value}")
    for note in source.notes:
        print(f"note: {note}")
    for number, text in enumerate(beginnings, start=1):
        print(f"\n--- document {number}\n{visible(text)}")
    return 0


@data_app.command(name="tokenizer")
def tokenizer_command(
    corpus: str = "python-docs",
    *,
    out: Path,
    kind: Literal["byte", "char", "word", "bpe"] = "bpe",
    vocab_size: int | None = None,
    mask_digits: Flag = False,
    documents: Documents = None,
    json: Flag = False,
) -> int:
    """Train a tokenizer on all of CORPUS and write it to OUT, for --tokenizer OUT.

    Args:
        corpus: Anything that `elman train` accepts.
        out: The tokenizer.json to write; must not exist.
        kind: What an entry of the vocabulary is.
        vocab_size: Most entries, special tokens included. Default: by the size of the text.
        mask_digits: Read every digit as #.
        documents: What a document is.
        json: Print one JSON document (elman.tokenizer/1).
    """
    from elman.data.corpora import open_corpus
    from elman.data.prepare import survey_corpus
    from elman.data.tokenizer import suit_vocabulary, train_tokenizer
    from elman.files import write_atomically

    if out.exists():
        raise InputError(f"{out}: exists already; give another --out, or remove it")
    source = open_corpus(corpus, documents=documents)
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
        print(f"{out}: {kind}, {tokenizer.vocab_size:,} entries")
    return 0


@data_app.command(name="duplicates")
def duplicates_command(first: str, second: str, *, documents: Documents = None, json: Flag = False) -> int:
    """Count the documents of SECOND that also stand in FIRST, a test text and its training text, say.

    Args:
        first: Anything that `elman train` accepts.
        second: Likewise.
        documents: What a document is, in both.
        json: Print one JSON document (elman.duplicates/1).
    """
    import numpy as np

    from elman.data.corpora import open_corpus
    from elman.data.prepare import survey_corpus

    theirs, ours = (survey_corpus(open_corpus(name, documents=documents)) for name in (first, second))
    shared = int(np.isin(ours.hashes, theirs.hashes).sum())
    total = len(ours.hashes)
    if json:
        print_json({"schema": "elman.duplicates/1", "documents": total, "also_in_first": shared})
    else:
        print(f"{shared:,} of {total:,} documents of {second} ({shared / total:.1%}) also stand in {first}")
    return 0
