"""C8: text to token shards, and shards to batches.

From a file of lines to tokens on disk, each line a document: ours (survey, split of nothing, tokenizing, writing),
and one line at a time through the same `tokenizers` file, as the chapter's dataset does it; the tokens must be equal.
Both begin with nothing remembered. Then how fast the loaders give batches, on one core, against a rate of a million
tokens a second and against a DataLoader over the chapter's dataset; what they give must have the same targets.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer as TokenizerFile
from torch.utils.data import DataLoader

from benchmarks.goals import CHAPTER, MILLION
from benchmarks.race import Side, race
from benchmarks.record import Record, versus, versus_bound
from benchmarks.settings import Settings
from elman import chapter
from elman.config import DataConfig
from elman.data.batches import DocumentLoader, StreamLoader
from elman.data.prepare import prepare_text
from elman.data.python_docs import python_docs
from elman.data.store import TokenStore, store_from_ids
from elman.data.tokenizer import Tokenizer, train_tokenizer

LONGEST = 29
"""Tokens of a document, its end among them: the chapter's inputs."""


def run(settings: Settings) -> Iterator[Record]:
    """Shards, streams, documents."""
    with tempfile.TemporaryDirectory() as folder:
        yield shards(settings, corpus_lines(settings), Path(folder))
    store, documents = documents_of(2_000 if settings.quick else 1_000_000)
    with one_thread():
        yield streams(settings, store)
        yield from padded_documents(settings, store, documents)


def corpus_lines(settings: Settings) -> list[str]:
    """The lines of the text given, or of the documentation of Python, those with something on them."""
    if settings.text is not None:
        lines = settings.text.read_text(encoding="utf-8").splitlines()
    elif settings.quick:
        lines = ["the cat sat on the mat", "a dog ran after the cat", "the end"] * 20
    else:
        lines = [line for text in python_docs() for line in text.splitlines()]
    return [line for line in lines if line.strip()]


def shards(settings: Settings, lines: list[str], folder: Path) -> Record:
    """The whole way from a file to tokens on disk."""
    text = folder / "corpus.txt"
    text.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    tokenizer = train_tokenizer("bpe", lines, vocab_size=300 if settings.quick else 8192).to_json()
    sides = [
        Side("one line at a time", partial(one_by_one, text, tokenizer, folder / "ids.bin")),
        Side("elman", partial(prepared, text, tokenizer), tolerance=0),
    ]
    taken = race(*sides, seconds=2 * settings.seconds)
    shape = f"{text.stat().st_size / 1e6:.1f} MB, {len(lines):,} lines"
    return versus("C8", "text to token shards", taken["elman"], taken["one line at a time"], shape=shape)


def prepared(text: Path, tokenizer: str) -> NDArray[np.unsignedinteger]:
    """Through `prepare_text`, with an empty cache."""
    with tempfile.TemporaryDirectory() as cache, environment("ELMAN_CACHE", cache):
        config = DataConfig(corpus=str(text), documents="line")
        store = prepare_text(config, Tokenizer(TokenizerFile.from_str(tokenizer)))
        return np.array(store.tokens)


def one_by_one(text: Path, tokenizer: str, path: Path) -> NDArray[np.unsignedinteger]:
    """A call of the tokenizer for each line, a list of all ids, one array."""
    file = TokenizerFile.from_str(tokenizer)
    end, ids = file.token_to_id("</s>"), []
    with text.open(encoding="utf-8") as lines:
        for line in lines:
            ids += file.encode(line.rstrip("\n"), add_special_tokens=False).ids
            ids.append(end)
    tokens = np.array(ids, dtype=np.uint16)
    path.write_bytes(tokens.tobytes())
    return np.fromfile(path, dtype=np.uint16)


def documents_of(tokens: int) -> tuple[TokenStore, list[list[int]]]:
    """About so many tokens, in documents of 8 to LONGEST with an end token (2) each; in a store, and as lists."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(8, LONGEST, size=max(1, tokens * 2 // (8 + LONGEST)))
    ids = rng.integers(3, 32_011, size=int(lengths.sum()))
    documents = [part.tolist() for part in np.split(ids, lengths.cumsum()[:-1])]
    return store_from_ids(documents, start_id=1, end_id=2), documents


def streams(settings: Settings, store: TokenStore, batch: int = 32, bptt: int = 32) -> Record:
    """An epoch of streams, with the shape of the default model."""

    def epoch() -> tuple[int, int]:
        loader = StreamLoader(store, batch, bptt, pad_id=0)
        batches = islice(loader, loader.steps_per_epoch)
        return _sums((each.targets, each.counted) for each in batches)

    everything = Side("the store", lambda: (len(store), int(store.tokens.sum(dtype=np.int64))))
    taken = race(everything, Side("elman", epoch, tolerance=0), seconds=settings.seconds / 4)
    return versus_bound(
        "C8",
        "a million tokens of streams",
        taken["elman"].divided(len(store) / 1e6),
        MILLION,
        1.0,
        shape=f"B{batch} T{bptt}, one core",
    )


def padded_documents(
    settings: Settings, store: TokenStore, documents: list[list[int]], batch: int = 128
) -> Iterator[Record]:
    """An epoch of documents, with the shape of the chapter."""
    dataset = chapter.TextDataset(documents, start_index=1, end_index=2, max_length=LONGEST)

    def own() -> tuple[int, int]:
        loader = DocumentLoader(store, batch, LONGEST + 1, pad_id=0)
        batches = islice(loader, loader.steps_per_epoch)
        return _sums((each.targets, each.counted) for each in batches)

    def chapters() -> tuple[int, int]:
        collate = partial(chapter.collate, pad_index=0)
        loader = DataLoader(dataset, batch_size=batch, shuffle=True, collate_fn=collate)
        return _sums((targets, targets != 0) for _, targets in loader)

    taken = race(
        Side(CHAPTER, chapters), Side("elman", own, tolerance=0), seconds=settings.seconds, warmups=0
    )
    million = len(store) / 1e6
    ours, peer = taken["elman"].divided(million), taken[CHAPTER].divided(million)
    facts = {"shape": f"B{batch} T{LONGEST}, one core"}
    yield versus_bound("C8", "a million tokens of documents", ours, MILLION, 1.0, **facts)
    yield versus("C8", "a million tokens of documents", ours, peer, **facts)


def _sums(batches: Iterator[tuple[torch.Tensor, torch.Tensor]]) -> tuple[int, int]:
    """How many targets count, and the sum of their ids: the same in any order of the documents."""
    count, total = 0, 0
    for targets, counted in batches:
        count += int(counted.sum())
        total += int(targets[counted].sum())
    return count, total


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one core: a loader shares the machine with the training that it feeds."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def environment(name: str, value: str) -> Iterator[None]:
    """The variable `name` set to `value`."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
