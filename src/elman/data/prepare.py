"""Corpus to tokens, once: survey the text, set the held-out part aside, tokenize, remember.

    survey     one pass: a checksum of the content, a hash and a length for every document
    split      by document, in the order of their hashes, so equal documents never part; or, of a text with
               few documents or very long ones, a stretch, in blocks
    vocabulary trained on the training part alone, or loaded
    tokens     a second pass, in shards, each kept as soon as it is done; then one memory-mapped store of them

What was prepared is kept in the cache under the checksum of the content and of every setting that matters,
so a changed text is a new preparation and an unchanged one is free. A preparation that was killed goes on, and
processes that prepare the same text at the same time share the work (see `build`, `halfdone`): the ranks of a job
need no other arrangement, whether they see one cache or each machine has its own.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elman.config import DataConfig
from elman.data.build import Preparation, find_or_build
from elman.data.chunks import Marked, Text
from elman.data.corpora import Corpus, open_corpus
from elman.data.documents import Piece
from elman.data.download import cache_dir
from elman.data.finished import Finished, find_finished
from elman.data.split import Split, mark_held_out, split_corpus
from elman.data.store import COUNTS, TokenStore
from elman.data.survey import OnProgress, Survey, read_again, survey_corpus
from elman.data.tokenizer import Tokenizer
from elman.data.vocabulary import load_if_given, train_vocabulary
from elman.errors import ConfigError, InputError
from elman.ranks import ALONE, Ranks

SIZES = ("documents", "targets", *COUNTS)
"""What the manifest says of each part."""

HASHES_AT_ONCE = 1 << 20
"""Hashes compared at a time."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A corpus ready for training."""

    tokenizer: Tokenizer
    train: TokenStore
    valid: TokenStore
    manifest: dict[str, Any]
    """Names, sizes, checksums (`valid_sha256` is that of a held-out text of its own, else None), notes, and how many
    held-out documents also stand in the training text."""


def prepare(
    config: DataConfig, report: OnProgress = lambda what, share: None, ranks: Ranks = ALONE
) -> Prepared:
    """Training and held-out tokens of `config.corpus`, from the cache where they are there already.

    Args:
        config: The text, and how it is to be divided and tokenized.
        report: Told of the progress, on the first rank.
        ranks: The processes of this job, all of which call this.

    Raises:
        InputError: The text is missing, empty, unreadable, changing, or too short to hold anything out.
        TokenizerError: The tokenizer is missing, unreadable or unusable.
        ConfigError: The ranks have different texts, or several are to read standard input.
        ResourceError: The disk is full.
        RankError: Another process of this job has ended or hangs.
    """
    if ranks.size > 1 and "-" in (config.corpus, config.valid):
        raise ConfigError("standard input cannot be read by several processes; give a file")
    if not ranks.is_first:
        report = _say_nothing
    corpus = _open(config, config.corpus)
    survey = survey_corpus(corpus, report)
    other = None if config.valid_fraction is not None else _open(config, config.valid)
    other_survey = None if other is None else survey_corpus(other, report)
    ranks.handshake(
        {"the text": survey.sha256, "the held-out text": other_survey.sha256 if other_survey else ""}
    )
    split = split_corpus(survey, config.valid_fraction, config.valid_limit)
    given = load_if_given(config)

    def train() -> Tokenizer:
        return train_vocabulary(config, survey.characters, mark_held_out(read_again(corpus, survey), split))

    texts = [Text(corpus, survey, lambda pieces: _to_stores(pieces, split))]
    if other is not None and other_survey is not None:
        texts.append(Text(other, other_survey, lambda pieces: ((piece, "valid") for piece in pieces)))
    settings = asdict(replace(config, corpus=""))  # the text counts, not where it lies
    preparation = Preparation(
        key={
            "settings": settings | {"valid": other_survey.sha256 if other_survey else config.valid},
            "content": survey.sha256,
            "tokenizer": given.sha256 if given else None,
        },
        texts=texts,
        stores={
            "train": lambda: _hashes(survey, split, ~split.held_out),
            "valid": lambda: other_survey.hashes if other_survey else _hashes(survey, split, split.held_out),
        },
        tokenizer=given or train,
        count=lambda hashes: {
            "valid_documents_also_in_train": _count_shared(hashes["valid"], hashes["train"])
        },
    )
    repairs: list[str] = []
    finished = find_or_build(preparation, report, repairs.append, ranks.watch())
    ranks.handshake({"the vocabulary": finished.tokenizer.sha256})

    for name, part in (("training", "train"), ("held-out", "valid")):
        if not len(finished.stores[part]):
            enough = _enough(split, config.valid_fraction)
            raise InputError(
                f"{config.corpus}: no {name} text left after the split; give --valid FILE, or more text{enough}"
            )
    notes = corpus.notes + (other.notes if other else []) + repairs
    known = {"corpus": config.corpus, "notes": notes, "content_sha256": survey.sha256}
    return _prepared(finished, known | {"valid_sha256": other_survey.sha256 if other_survey else None})


def prepare_text(
    config: DataConfig,
    tokenizer: Tokenizer,
    report: OnProgress = lambda what, share: None,
    note: Callable[[str], None] = lambda remark: None,
) -> TokenStore:
    """All of `config.corpus` as one store, tokenized by `tokenizer`, nothing held out.

    `note` is told, a line at a time, what was remarkable about the text. Errors as for `prepare`.
    """
    corpus = _open(config, config.corpus)
    survey = survey_corpus(corpus, report)
    preparation = Preparation(
        key={"content": survey.sha256, "tokenizer": tokenizer.sha256},
        texts=[Text(corpus, survey, lambda pieces: ((piece, "text") for piece in pieces))],
        stores={"text": lambda: survey.hashes},
        tokenizer=tokenizer,
    )
    finished = find_or_build(preparation, report, note)
    for remark in corpus.notes:
        note(remark)
    return finished.stores["text"]


def open_prepared(manifest: Mapping[str, Any]) -> Prepared:
    """What an earlier `prepare` returned with this manifest, from the cache; the corpus is not read.

    Raises:
        InputError: It is no longer in the cache, is damaged, or is of another text or tokenizer.
    """
    folder = Path(manifest["folder"])
    here = cache_dir() / "prepared" / folder.name  # of this machine, where it was another
    way_out = f"prepare {manifest['corpus']} again"
    try:
        finished = find_finished(here) or find_finished(folder)
    except InputError as error:
        raise InputError(f"{error}; {way_out}") from error
    if finished is None:
        raise InputError(f"{folder}: the tokens of {manifest['corpus']} are no longer there; {way_out}")
    said, found = finished.manifest["tokenizer_sha256"], manifest["tokenizer_sha256"]
    if said != found:
        raise InputError(
            f"{folder}: tokens of the tokenizer {said[:12]}, and {found[:12]} was used; {way_out}"
        )
    said, found = finished.manifest["key"]["content"], manifest["content_sha256"]
    if said != found:
        raise InputError(f"{folder}: tokens of the text {said[:12]}, and {found[:12]} was used; {way_out}")
    kept = {key: manifest[key] for key in ("corpus", "notes", "content_sha256", "valid_sha256")}
    return _prepared(finished, kept)


def _prepared(finished: Finished, known: Mapping[str, Any]) -> Prepared:
    said = finished.manifest
    manifest = {
        **known,
        "folder": str(finished.folder),
        "tokenizer_sha256": said["tokenizer_sha256"],
        "vocab_size": said["vocab_size"],
        **{part: {size: said["stores"][part][size] for size in SIZES} for part in ("train", "valid")},
        "valid_documents_also_in_train": said["valid_documents_also_in_train"],
    }
    return Prepared(finished.tokenizer, finished.stores["train"], finished.stores["valid"], manifest)


def _enough(split: Split, fraction: float | None) -> str:
    """How much text can be divided."""
    if split.stretch is None or fraction is None:
        return ", of documents that differ"
    return f", at least {math.floor(0.5 / min(fraction, 1 - fraction)) + 1} characters"


def _hashes(survey: Survey, split: Split, chosen: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """Of the chosen documents; none where documents were cut, as a part of one equals no other."""
    return survey.hashes[:0] if split.stretch is not None else survey.hashes[chosen]


def _count_shared(some: NDArray[np.uint64], others: NDArray[np.uint64]) -> int:
    """How many of `some` are among `others`, in memory that does not grow with those."""
    shared = np.zeros(len(some), dtype=np.bool_)
    for begin in range(0, len(others), HASHES_AT_ONCE):
        shared |= np.isin(some, others[begin : begin + HASHES_AT_ONCE])
    return int(shared.sum())


def _to_stores(pieces: Iterator[Piece], split: Split) -> Iterator[Marked]:
    return ((piece, "valid" if held_out else "train") for piece, held_out in mark_held_out(pieces, split))


def _say_nothing(what: str, share: float) -> None:
    pass


def _open(config: DataConfig, source: str) -> Corpus:
    return open_corpus(
        source,
        documents=config.documents,
        text_field=config.text_field,
        encoding_errors=config.encoding_errors,
        force_binary=config.force_binary,
        skip_bad=config.skip_bad,
    )
