"""Corpus to tokens, once: survey the text, set the held-out part aside, tokenize, remember.

    survey     one pass: a checksum of the content, a hash and a length for every document
    split      by document, in the order of their hashes, so equal documents never part; or, of a text with
               few documents, its last stretch, in blocks
    vocabulary trained on the training part alone, or loaded
    tokens     a second pass, in batches over all cores, into memory-mapped stores

What was prepared is kept in the cache under the checksum of the content and of every setting that matters,
so a changed text is a new preparation and an unchanged one is free.
"""

import hashlib
import json
import math
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elman.config import DataConfig
from elman.data.corpora import Corpus, open_corpus
from elman.data.documents import Piece, cut_point
from elman.data.download import cache_dir
from elman.data.store import StoreWriter, TokenStore, open_store
from elman.data.tokenizer import Kind, Tokenizer, load_tokenizer, suit_vocabulary, train_tokenizer
from elman.errors import InputError, ResourceError
from elman.files import disk_is_full

FORMAT = 1
"""Of the prepared folder; part of its key."""

DOCUMENTS_TO_SPLIT_BY = 20
"""With fewer documents than this, the held-out part is the end of the text instead of whole documents."""

HELD_OUT_BLOCK = 32_768
"""Characters, about, of the documents that a held-out end of a text is cut into, to be scored side by side."""

TOKENIZER_SAMPLE = 50_000_000
"""Characters that a vocabulary is trained on, from the front of the training text."""

BATCH_CHARACTERS = 4_000_000
"""Characters tokenized at a time: enough for all cores, little memory."""

WHOLE_CHARACTERS = 16_000_000
"""A tokenizer that cannot be cut safely is given documents whole, up to this."""

Report = Callable[[str, float], None]
"""Told what is being done and the share of it that is done."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What one pass over a corpus finds."""

    sha256: str
    characters: int
    hashes: NDArray[np.uint64]
    """[D], of each document's text."""
    lengths: NDArray[np.int64]
    """[D], characters of each document."""


@dataclass(frozen=True, slots=True)
class Split:
    """Which text is held out: documents by number, or everything from a position on, or nothing."""

    held_out: NDArray[np.bool_]
    position: int | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """A corpus ready for training."""

    tokenizer: Tokenizer
    train: TokenStore
    valid: TokenStore
    manifest: dict[str, Any]
    """Names, sizes, checksums, notes, and how many held-out documents also stand in the training text."""


def prepare(config: DataConfig, report: Report = lambda what, share: None) -> Prepared:
    """Training and held-out tokens of `config.corpus`, from the cache where they are there already.

    Raises:
        InputError: The text is missing, empty, unreadable or too short to hold anything out.
        TokenizerError: The tokenizer is.
        ResourceError: The disk is full.
    """
    corpus = _open(config, config.corpus)
    survey = survey_corpus(corpus, report)
    other = None if config.valid_fraction is not None else _open(config, config.valid)
    other_survey = None if other is None else survey_corpus(other, report)
    split = split_corpus(survey, config.valid_fraction, config.valid_limit)
    loaded = _load_if_pretrained(config)

    settings = asdict(replace(config, corpus=""))  # the text counts, not where it lies
    key = {
        "settings": settings | {"valid": other_survey.sha256 if other_survey else config.valid},
        "content": survey.sha256,
        "tokenizer": loaded.sha256 if loaded else None,
    }

    def write(folder: Path) -> None:
        tokenizer = loaded or _train_vocabulary(config, corpus, survey, split, report)
        with (
            StoreWriter(folder, "train", tokenizer.dtype, tokenizer.end_id) as train,
            StoreWriter(folder, "valid", tokenizer.dtype, tokenizer.end_id) as valid,
        ):
            writers = {False: train, True: valid}
            _tokenize(_mark_held_out(corpus, split), tokenizer, writers, survey.characters, report)
            hashes = survey.hashes
            if split.position is not None:  # a part of a document equals no other
                train.close(hashes[:0])
                valid.close(hashes[:0])
            else:
                train.close(hashes[~split.held_out])
                if other is not None and other_survey is not None:
                    pieces = ((piece, True) for piece in other.pieces())
                    _tokenize(pieces, tokenizer, writers, other_survey.characters, report)
                valid.close(other_survey.hashes if other_survey else hashes[split.held_out])
        (folder / "tokenizer.json").write_text(tokenizer.to_json(), encoding="utf-8")

    folder = _cached(key, write)
    tokenizer = load_tokenizer(str(folder / "tokenizer.json"))
    train, valid = (
        open_store(folder, name, tokenizer.dtype, tokenizer.start_id) for name in ("train", "valid")
    )
    for name, store in (("training", train), ("held-out", valid)):
        if not len(store):
            raise InputError(
                f"{config.corpus}: no {name} text left after the split; give --valid FILE, or more text"
            )
    manifest = {
        "corpus": config.corpus,
        "notes": corpus.notes + (other.notes if other else []),
        "folder": str(folder),
        "content_sha256": survey.sha256,
        "tokenizer_sha256": tokenizer.sha256,
        "vocab_size": tokenizer.vocab_size,
        "train": _sizes(train),
        "valid": _sizes(valid),
        "valid_documents_also_in_train": int(np.isin(valid.hashes, train.hashes).sum()),
    }
    return Prepared(tokenizer, train, valid, manifest)


def prepare_text(
    config: DataConfig,
    tokenizer: Tokenizer,
    report: Report = lambda what, share: None,
    note: Callable[[str], None] = lambda remark: None,
) -> TokenStore:
    """All of `config.corpus` as one store, tokenized by `tokenizer`, nothing held out.

    `note` is told, a line at a time, what was remarkable about the text. Errors as for `prepare`.
    """
    corpus = _open(config, config.corpus)
    survey = survey_corpus(corpus, report)

    def write(folder: Path) -> None:
        with StoreWriter(folder, "text", tokenizer.dtype, tokenizer.end_id) as writer:
            pieces = ((piece, False) for piece in corpus.pieces())
            _tokenize(pieces, tokenizer, {False: writer}, survey.characters, report)
            writer.close(survey.hashes)

    key = {"content": survey.sha256, "tokenizer": tokenizer.sha256}
    folder = _cached(key, write)
    for remark in corpus.notes:
        note(remark)
    return open_store(folder, "text", tokenizer.dtype, tokenizer.start_id)


def survey_corpus(corpus: Corpus, report: Report = lambda what, share: None) -> Survey:
    """Checksum, document hashes and lengths, in one pass and constant memory a document."""
    content, document = hashlib.sha256(), hashlib.blake2b(digest_size=8)
    hashes: list[int] = []
    lengths: list[int] = []
    characters = 0
    for piece in corpus.pieces():
        encoded = piece.text.encode("utf-8", "surrogatepass")
        if piece.begins:
            if lengths:
                hashes.append(int.from_bytes(document.digest(), "little"))
            document = hashlib.blake2b(digest_size=8)
            lengths.append(0)
            content.update(b"\x00\xff")  # no UTF-8 text holds this
        content.update(encoded)
        document.update(encoded)
        lengths[-1] += len(piece.text)
        characters += len(piece.text)
    hashes.append(int.from_bytes(document.digest(), "little"))
    return Survey(
        content.hexdigest(), characters, np.array(hashes, dtype=np.uint64), np.array(lengths, dtype=np.int64)
    )


def split_corpus(survey: Survey, fraction: float | None, limit: int | None = None) -> Split:
    """Hold out `fraction` of the characters, at most `limit`; None holds out nothing, and knows no limit.

    Whole documents in the order of their hashes: a fixed choice that does not depend on the order of the
    corpus, looks random, and never puts equal documents on different sides.
    """
    nothing = np.zeros(len(survey.hashes), dtype=np.bool_)
    if fraction is None:
        return Split(nothing)
    wanted = min(fraction * survey.characters, math.inf if limit is None else limit)
    if len(survey.hashes) < DOCUMENTS_TO_SPLIT_BY:
        return Split(nothing, position=round(survey.characters - wanted))
    order = np.argsort(survey.hashes, kind="stable")
    before = survey.lengths[order].cumsum() - survey.lengths[order]
    threshold = survey.hashes[order][before < wanted][-1]
    return Split(survey.hashes <= threshold)


def _open(config: DataConfig, source: str) -> Corpus:
    return open_corpus(
        source,
        documents=config.documents,
        text_field=config.text_field,
        encoding_errors=config.encoding_errors,
        force_binary=config.force_binary,
    )


def _load_if_pretrained(config: DataConfig) -> Tokenizer | None:
    if config.tokenizer in ("auto", "byte", "char", "word", "bpe"):
        return None
    return load_tokenizer(config.tokenizer, mask_digits=config.mask_digits)


def _train_vocabulary(
    config: DataConfig, corpus: Corpus, survey: Survey, split: Split, report: Report
) -> Tokenizer:
    report("training the vocabulary", 0.0)
    suited_kind, suited_size = suit_vocabulary(survey.characters)
    size = config.vocab_size
    if size is not None:
        suited_kind = "bpe"  # the vocabulary of bytes has a size of its own
    kind: Kind = suited_kind if config.tokenizer == "auto" else config.tokenizer  # type: ignore[assignment]
    if size is None and kind == "bpe":
        size = suited_size or 512

    def sample() -> Iterator[str]:
        seen = 0
        for piece, held_out in _mark_held_out(corpus, split):
            if not held_out:
                yield piece.text
                seen += len(piece.text)
            if seen >= TOKENIZER_SAMPLE:
                return

    return train_tokenizer(kind, sample(), vocab_size=size, mask_digits=config.mask_digits)


def _mark_held_out(corpus: Corpus, split: Split) -> Iterator[tuple[Piece, bool]]:
    """Every piece, and whether it is held out."""
    if split.position is not None:
        yield from _mark_end(corpus, split.position)
        return
    document = -1
    for piece in corpus.pieces():
        document += piece.begins
        yield piece, bool(split.held_out[document])


def _mark_end(corpus: Corpus, position: int) -> Iterator[tuple[Piece, bool]]:
    """Hold out everything from `position` on, in blocks; the piece across it is cut there."""
    seen, block = 0, HELD_OUT_BLOCK
    for piece in corpus.pieces():
        (text, begins), before = piece, position - seen
        seen += len(text)
        if before >= len(text):
            yield piece, False
            continue
        if before > 0:
            at = cut_point(text, before)
            yield Piece(text[:at], begins), False
            text = text[at:]
        if begins or block >= HELD_OUT_BLOCK:
            begins, block = True, 0
        yield Piece(text, begins), True
        block += len(text)


def _tokenize(
    pieces: Iterator[tuple[Piece, bool]],
    tokenizer: Tokenizer,
    writers: Mapping[bool, StoreWriter],
    characters: int,
    report: Report,
) -> None:
    """Write every piece to the writer of its mark, a batch at a time."""
    if not tokenizer.cuts_safely:
        pieces = _joined(pieces)
    batch: list[tuple[Piece, bool]] = []
    waiting = done = 0
    in_word = False  # a word longer than a piece goes on in the next one, and is one word

    def flush() -> None:
        nonlocal in_word
        for (piece, mark), ids in zip(batch, tokenizer.encode_batch([p.text for p, _ in batch]), strict=True):
            writer = writers[mark]
            if piece.begins:
                writer.begin()
            size = len(piece.text.encode("utf-8", "surrogatepass"))
            goes_on = in_word and not piece.begins and not piece.text[0].isspace()
            writer.add(ids, len(piece.text), size, len(piece.text.split()) - goes_on)
            in_word = not piece.text[-1].isspace()
        batch.clear()

    for piece, mark in pieces:
        batch.append((piece, mark))
        waiting += len(piece.text)
        if waiting >= BATCH_CHARACTERS:
            flush()
            done, waiting = done + waiting, 0
            report("tokenizing", done / max(1, characters))
    flush()
    report("tokenizing", 1.0)


def _joined(pieces: Iterator[tuple[Piece, bool]]) -> Iterator[tuple[Piece, bool]]:
    """Pieces of a document put together again, up to WHOLE_CHARACTERS."""
    texts: list[str] = []
    begins = held_out = False
    length = 0
    for piece, mark in pieces:
        if texts and (piece.begins or mark != held_out or length + len(piece.text) > WHOLE_CHARACTERS):
            yield Piece("".join(texts), begins), held_out
            texts, length = [], 0
        if not texts:
            begins, held_out = piece.begins, mark
        texts.append(piece.text)
        length += len(piece.text)
    if texts:
        yield Piece("".join(texts), begins), held_out


def _cached(key: dict[str, Any], write: Callable[[Path], None]) -> Path:
    """The folder of `key`, written whole by `write` if it is not there; a half-written one is never seen."""
    name = hashlib.sha256(json.dumps([FORMAT, key], sort_keys=True).encode()).hexdigest()[:32]
    folder = cache_dir() / "prepared" / name
    if not (folder / "manifest.json").exists():
        scratch = folder.with_name(f".{name}.{uuid.uuid4().hex[:8]}")
        try:
            scratch.mkdir(parents=True)
            write(scratch)
            (scratch / "manifest.json").write_text(json.dumps(key), encoding="utf-8")
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(scratch, folder)
        except OSError as error:
            if disk_is_full(error):
                raise ResourceError(
                    f"{folder.parent}: the disk is full; free some space, or set ELMAN_CACHE to another place"
                ) from error
            raise InputError(
                f"{folder.parent}: cannot write there: {error.strerror}; set ELMAN_CACHE"
            ) from error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return folder


def _sizes(store: TokenStore) -> dict[str, int]:
    return {
        "documents": store.documents,
        "targets": len(store),
        "characters": int(store.characters.sum()),
        "bytes": int(store.bytes.sum()),
        "words": int(store.words.sum()),
    }
