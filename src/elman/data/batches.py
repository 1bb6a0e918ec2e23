"""Tokens to batches, both ways.

*Streams*: B contiguous stretches of the text, T tokens at a time, so that a recurrent state stays valid from
batch to batch; where a document begins, `reset` is true. *Documents*: as in the chapter, each document's
input and target overlap, shifted by one, and a batch of them is padded to the longest; where documents of like
length share a batch, there is little to pad.

Neither drops a target nor counts one twice, whatever B and T are.

Axes: B batch, T time.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from elman.data.store import TokenStore
from elman.ranks import Ranks

LONG_DOCUMENT = 8192
"""Tokens beyond which a document is also entered in its middle, in training on streams."""

POOL_BATCHES = 64
"""Batches' worth of shuffled documents that are sorted by length together: the more, the less padding."""


class Batch(NamedTuple):
    """What a model is given at one step, all [B, T]."""

    inputs: Tensor
    """Int64, the context token of each target."""
    targets: Tensor
    """Int64."""
    reset: Tensor
    """Bool, true where a document begins: the state before it is dropped."""
    counted: Tensor
    """Bool, false where there is no target (padding, or a stream that has ended)."""
    documents: Tensor
    """Int64, which document of the store each target belongs to."""
    places: Tensor
    """Int64, which token of the store each target is."""


def deal(batch: Batch, ranks: Ranks) -> Batch:
    """The rows of this rank; where there are fewer rows than ranks, those without one get a row that does not count."""
    rows = ranks.share(len(batch.inputs))
    if rows.start < rows.stop:
        return Batch(*(tensor[rows] for tensor in batch))
    first = Batch(*(tensor[:1] for tensor in batch))
    return first._replace(counted=torch.zeros_like(first.counted))


def window(
    store: TokenStore,
    order: NDArray[np.int64],
    offsets: NDArray[np.int64],
    begin: NDArray[np.int64],
    end: NDArray[np.int64],
    width: int,
    pad_id: int,
) -> Batch:
    """`width` tokens of each stream over the documents of `store` laid end to end in `order`.

    Args:
        store: The tokens.
        order: [D], the documents in the order in which they are laid out.
        offsets: [D + 1], where each of them begins in that layout, and the total.
        begin: [B], the position of each stream in the layout.
        end: [B], where each stream ends; positions from there on are padding.
        width: T.
        pad_id: The input and target of positions that do not count.
    """
    position = begin[:, None] + np.arange(width)
    counted = position < end[:, None]
    position = np.minimum(position, offsets[-1] - 1)
    place = np.searchsorted(offsets, position, side="right") - 1
    return _read(store, order[place], position - offsets[place], counted, pad_id)


def _read(
    store: TokenStore,
    document: NDArray[np.int64],
    within: NDArray[np.int64],
    counted: NDArray[np.bool_],
    pad_id: int,
) -> Batch:
    """The batch whose targets are the tokens `within` each `document`, all [B, T]: one look-up in the store."""
    source = store.starts[document] + within
    targets = store.tokens[source].astype(np.int64)
    reset = within == 0
    inputs = np.where(reset, store.start_id, store.tokens[np.maximum(source, 1) - 1]).astype(np.int64)
    inputs[~counted] = pad_id
    targets[~counted] = pad_id
    arrays = (inputs, targets, reset & counted, counted, document, source)
    return Batch(*(torch.from_numpy(np.ascontiguousarray(array)) for array in arrays))


class StreamLoader:
    """B streams over all documents of a store, T tokens at a time, epoch after epoch without end.

    Each epoch lays the documents out in a new order (seeded), cuts the layout into B stretches whose
    lengths differ by one token at most, and starts each of them afresh: with a dropped state, and the start
    token as context. Inside a document of more than LONG_DOCUMENT tokens, a stream is started afresh at a
    batch with probability `fresh_start`, because a model that meets the initial state once an epoch cannot
    predict from it (Melis et al. 2018 do the same everywhere, with 0.01).

    The loader can say where it is, and go there: `state_dict`, `load_state_dict`.

    Args:
        store: The tokens.
        batch_size: B, streams side by side.
        bptt: T, tokens of each stream in a batch; the last batch of an epoch may have fewer.
        pad_id: The input and target of positions that do not count.
        seed: Of the order and of the fresh starts.
        shuffle: Take a new order every epoch, not that of the store.
        fresh_start: Probability, for each stream at each batch, of being started afresh inside a long document.
    """

    carries_state = True

    def __init__(
        self,
        store: TokenStore,
        batch_size: int,
        bptt: int,
        *,
        pad_id: int,
        seed: int = 0,
        shuffle: bool = True,
        fresh_start: float = 0.0,
    ) -> None:
        self._store, self._bptt, self._pad_id = store, bptt, pad_id
        self._seed, self._shuffle, self._fresh_start = seed, shuffle, fresh_start
        self._bounds = np.arange(batch_size + 1) * len(store) // batch_size
        self._stretch = int(np.diff(self._bounds).max())
        self._epoch, self._offset = 0, 0
        self._lay_out()

    @property
    def steps_per_epoch(self) -> int:
        """Batches in one pass over the text."""
        return -(-self._stretch // self._bptt)

    def __iter__(self) -> Iterator[Batch]:
        """Batches from where the loader is."""
        while True:
            width = min(self._bptt, self._stretch - self._offset)
            begin, end = self._bounds[:-1] + self._offset, self._bounds[1:]
            batch = window(self._store, self._order, self._offsets, begin, end, width, self._pad_id)
            rng = np.random.default_rng([self._seed, self._epoch, self._offset])
            inside, starts = batch.documents[:, 0].numpy(), self._store.starts
            long = starts[inside + 1] - starts[inside] > LONG_DOCUMENT
            chance = self._fresh_start * long if self._offset else np.ones(len(begin))
            fresh = torch.from_numpy(rng.random(len(begin)) < chance)
            batch.reset[fresh, 0] = True
            batch.inputs[fresh & batch.counted[:, 0], 0] = self._store.start_id
            self._offset += width
            if self._offset == self._stretch:
                self._epoch, self._offset = self._epoch + 1, 0
                self._lay_out()
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Where the next batch begins."""
        return {"epoch": self._epoch, "offset": self._offset}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go to where `state_dict` was taken."""
        self._epoch, self._offset = state["epoch"], state["offset"]
        self._lay_out()

    def _lay_out(self) -> None:
        documents = self._store.documents
        rng = np.random.default_rng([self._seed, self._epoch])
        self._order = rng.permutation(documents) if self._shuffle else np.arange(documents)
        lengths = np.diff(self._store.starts)[self._order]
        self._offsets = np.concatenate([[0], lengths.cumsum()])


class DocumentLoader:
    """Batches of documents padded to the longest of each, epoch after epoch without end.

    Each epoch takes the documents in a new order (seeded). With `bucket`, documents of like length share a batch:
    POOL_BATCHES batches' worth of that order are sorted by length and cut into batches, and the batches of all
    pools are shuffled. What fills no whole batch comes last, unsorted.

    Args:
        store: The tokens.
        batch_size: B, documents in a batch.
        max_length: Tokens kept of a document, start and end included, at least 2; None keeps all.
        pad_id: The input and target of positions that do not count.
        seed: Of the order.
        shuffle: Take a new order every epoch, not that of the store.
        bucket: Let documents of like length share a batch. Without `shuffle`, batches stay in their order.
    """

    carries_state = False

    def __init__(
        self,
        store: TokenStore,
        batch_size: int,
        max_length: int | None,
        *,
        pad_id: int,
        seed: int = 0,
        shuffle: bool = True,
        bucket: bool = False,
    ) -> None:
        self._store, self._batch_size, self._pad_id = store, batch_size, pad_id
        self._longest = np.iinfo(np.int64).max if max_length is None else max_length - 1
        self._seed, self._shuffle, self._bucket = seed, shuffle, bucket
        self._epoch, self._skip = 0, 0
        self._order = self._draw_order()

    @property
    def steps_per_epoch(self) -> int:
        """Batches in one pass over the text, the last one perhaps smaller."""
        return -(-self._store.documents // self._batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """Batches from where the loader is."""
        while True:
            begin = self._skip * self._batch_size
            batch = self._gather(self._order[begin : begin + self._batch_size])
            self._skip += 1
            if self._skip == self.steps_per_epoch:
                self._epoch, self._skip = self._epoch + 1, 0
                self._order = self._draw_order()
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Where the next batch begins."""
        return {"epoch": self._epoch, "offset": self._skip}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go to where `state_dict` was taken."""
        self._epoch, self._skip = state["epoch"], state["offset"]
        self._order = self._draw_order()

    def _gather(self, documents: NDArray[np.int64]) -> Batch:
        length = self._lengths(documents)[:, None]
        column = np.arange(length.max())
        within = np.minimum(column, length - 1)
        document = documents[:, None].repeat(len(column), axis=1)
        return _read(self._store, document, within, column < length, self._pad_id)

    def _lengths(self, documents: NDArray[np.int64]) -> NDArray[np.int64]:
        """Targets of each document, after cutting."""
        starts = self._store.starts
        lengths: NDArray[np.int64] = np.minimum(starts[documents + 1] - starts[documents], self._longest)
        return lengths

    def _draw_order(self) -> NDArray[np.int64]:
        count, size = self._store.documents, self._batch_size
        generator = torch.Generator().manual_seed(_mix(self._seed, self._epoch))
        order = torch.randperm(count, generator=generator).numpy() if self._shuffle else np.arange(count)
        if not self._bucket:
            return order
        whole = count // size * size
        pool = np.arange(whole) // (POOL_BATCHES * size)
        batches = order[:whole][np.lexsort((self._lengths(order[:whole]), pool))].reshape(-1, size)
        if self._shuffle:
            batches = batches[torch.randperm(len(batches), generator=generator).numpy()]
        return np.concatenate([batches.ravel(), order[whole:]])


def _mix(seed: int, epoch: int) -> int:
    """One seed for an epoch, unlike that of its neighbours."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0] >> 1)
