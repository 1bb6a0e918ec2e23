"""How well a model predicts a text: every target once, whole documents, sums before ratios.

    nats = sum over all targets of -log P(target | everything before it in its document)

A document of n tokens has n + 1 targets: its tokens, the first with the start token as context, and the end
token. Documents share a batch but never a state, and nothing is cut, so neither the batch size nor the
window changes a result. Sums are float64.

    perplexity          exp(nats / targets)             of the vocabulary's tokens
    word perplexity     exp(nats / words)
    bits per character  nats / (log 2 * characters)
    bits per byte       nats / (log 2 * bytes)          comparable between vocabularies
"""

import heapq
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from elman.data.batches import window
from elman.data.store import TokenStore
from elman.models.base import LanguageModel, select_rows
from elman.ranks import ALONE, Ranks

WINDOW = 256
"""Targets scored in one call; bounds memory, changes no result."""

PACK_WINDOWS = 16
"""Calls of full height and width that a pack is worth, at least: few enough for many ranks to share a short text."""

LONGEST_WORDS = 30
"""Characters a word on average, above which a text does not have spaces between its words."""

StateRule = Literal["reset", "carry"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Sums over scored targets. Scores of separate texts add; ratios are taken last."""

    nats: float
    targets: int
    characters: int
    bytes: int
    words: int
    documents: int
    truncated: int = 0
    """Documents of which anything was left out: none, always, and said so."""
    unknown: int = 0
    """Targets that are the vocabulary's class for everything outside it."""
    state: StateRule = "reset"

    def __add__(self, other: "Score") -> "Score":
        """The score of both texts together."""
        if self.state != other.state:
            raise ValueError(f"cannot add a score with state {self.state!r} to one with {other.state!r}")
        sums = {name: value + getattr(other, name) for name, value in asdict(self).items() if name != "state"}
        return Score(**sums, state=self.state)

    @property
    def perplexity(self) -> float:
        """exp(nats per target); inf where that overflows."""
        return _exp(self.nats, self.targets)

    @property
    def word_perplexity(self) -> float:
        """exp(nats per word of the text), whatever the vocabulary."""
        return _exp(self.nats, self.words)

    @property
    def bits_per_character(self) -> float:
        """Bits for each character of the text."""
        return self.nats / (math.log(2) * self.characters) if self.characters else math.nan

    @property
    def bits_per_byte(self) -> float:
        """Bits for each byte of the text in UTF-8."""
        return self.nats / (math.log(2) * self.bytes) if self.bytes else math.nan

    def as_dict(self) -> dict[str, Any]:
        """Sums and ratios, as `elman eval --json` prints them."""
        ratios = ("perplexity", "word_perplexity", "bits_per_character", "bits_per_byte")
        return asdict(self) | {name: getattr(self, name) for name in ratios}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Score":
        """What `as_dict` gave. TypeError or KeyError: it is something else."""
        return cls(**{field.name: values[field.name] for field in fields(cls)})


def score_columns(score: Score) -> dict[str, str]:
    """A score as the cells of a table; of a text without spaces, a perplexity of words means nothing."""
    has_words = score.characters <= LONGEST_WORDS * score.words
    return {
        "bits/byte": f"{score.bits_per_byte:.3f}",
        "bits/char": f"{score.bits_per_character:.3f}",
        "perplexity": shortened(score.perplexity, 2),
        "word perpl.": shortened(score.word_perplexity, 1) if has_words else "-",
        "targets": f"{score.targets:,}",
        "documents": f"{score.documents:,}",
    }


def shortened(number: float, digits: int) -> str:
    """With `digits` after the point, or from a million on as a power of ten."""
    return f"{number:.2e}" if 1e6 <= number < math.inf else f"{number:,.{digits}f}"


def score_store(
    model: LanguageModel,
    store: TokenStore,
    *,
    pad_id: int,
    unknown_id: int | None = None,
    batch_size: int = 32,
    state: StateRule = "reset",
    ranks: Ranks = ALONE,
) -> Score:
    """The score of every document of `store`.

    Args:
        model: Any model, in evaluation mode.
        store: The text.
        pad_id: A token for positions that do not count.
        unknown_id: The class for everything outside the vocabulary, to be counted apart.
        batch_size: Streams scored side by side.
        state: "reset" gives each document a fresh state; "carry" hands the state on from document to
            document in their order, as one stream.
        ranks: Those that share the work, all of which call this and get the same.
    """
    nats = document_nats(model, store, pad_id=pad_id, batch_size=batch_size, state=state, ranks=ranks)
    return summed(nats, store, unknown_id=unknown_id, state=state)


def summed(
    nats: NDArray[np.float64],
    store: TokenStore,
    *,
    unknown_id: int | None = None,
    state: StateRule = "reset",
) -> Score:
    """The score of `store`, from the nats of its documents or of its targets."""
    return Score(
        nats=float(nats.sum()),
        targets=len(store),
        characters=int(store.characters.sum()),
        bytes=int(store.bytes.sum()),
        words=int(store.words.sum()),
        documents=store.documents,
        unknown=0 if unknown_id is None else int(np.count_nonzero(store.tokens == unknown_id)),
        state=state,
    )


def document_nats(
    model: LanguageModel,
    store: TokenStore,
    *,
    pad_id: int,
    batch_size: int = 32,
    state: StateRule = "reset",
    ranks: Ranks = ALONE,
) -> NDArray[np.float64]:
    """Nats of each document, [D]. Arguments as for `score_store`."""
    packs = _packs(store, batch_size, state)
    windows = partial(_windows, model, store, pad_id=pad_id, batch_size=batch_size, state=state)
    return _share_out(
        packs, windows, store.documents, lambda scored: scored.documents, lambda pack: pack, ranks
    )


def token_nats(
    model: LanguageModel,
    store: TokenStore,
    *,
    pad_id: int,
    batch_size: int = 32,
    state: StateRule = "reset",
    ranks: Ranks = ALONE,
) -> NDArray[np.float64]:
    """Nats of each target in the order of the store, [N]. Arguments as for `score_store`."""

    def places_of(pack: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.concatenate([np.arange(store.starts[one], store.starts[one + 1]) for one in pack])

    packs = _packs(store, batch_size, state)
    windows = partial(_windows, model, store, pad_id=pad_id, batch_size=batch_size, state=state)
    return _share_out(packs, windows, len(store), lambda scored: scored.places, places_of, ranks)


class _Scored(NamedTuple):
    """Targets that were scored together, all [some]."""

    documents: NDArray[np.int64]
    """Which document of the store each belongs to."""
    places: NDArray[np.int64]
    """Which token of the store each is."""
    nats: NDArray[np.float64]


def _packs(store: TokenStore, batch_size: int, state: StateRule) -> list[NDArray[np.int64]]:
    """The documents divided, the longest first, so that those of a pack fill its streams alike.

    A pack has a multiple of `batch_size` documents, as few as make PACK_WINDOWS full calls; one carried state is one
    pack.
    """
    if state == "carry" or not store.documents:
        return [np.arange(store.documents)]
    lengths = np.diff(store.starts)
    order = np.argsort(-lengths, kind="stable")
    through = lengths[order].cumsum()  # tokens of the documents so far
    packs, begin, before = [], 0, 0
    while begin < len(order):
        enough = int(np.searchsorted(through, before + PACK_WINDOWS * WINDOW * batch_size)) + 1 - begin
        end = min(begin + -(-enough // batch_size) * batch_size, len(order))
        packs.append(order[begin:end])
        begin, before = end, int(through[end - 1])
    return packs


def _share_out(
    packs: list[NDArray[np.int64]],
    windows: Callable[[NDArray[np.int64]], Iterator[_Scored]],
    size: int,
    place_of: Callable[[_Scored], NDArray[np.int64]],
    places_of: Callable[[NDArray[np.int64]], NDArray[np.int64]],
    ranks: Ranks,
) -> NDArray[np.float64]:
    """Nats, [size], of which every rank finds a part and has all.

    Args:
        packs: Documents to score together, by one rank.
        windows: Scores a pack.
        size: How many sums there are.
        place_of: Which of the sums each target counts towards.
        places_of: All sums that a pack, and no other, counts towards.
        ranks: That share the work.
    """
    nats, dealt = np.zeros(size), []
    for number in ranks.deal(len(packs)):
        for scored in windows(packs[number]):
            np.add.at(nats, place_of(scored), scored.nats)
        dealt.append(number)

    def places(numbers: list[int]) -> NDArray[np.int64]:
        return np.concatenate([np.empty(0, np.int64), *(places_of(packs[number]) for number in numbers)])

    found = ranks.gather(nats[places(dealt)])
    for numbers, theirs in zip(ranks.gather(dealt), found, strict=True):
        nats[places(numbers)] = theirs
    return nats


@torch.no_grad()
def _windows(
    model: LanguageModel,
    store: TokenStore,
    pack: NDArray[np.int64],
    pad_id: int,
    batch_size: int,
    state: StateRule,
) -> Iterator[_Scored]:
    """Every target of a pack once, a window of all streams at a time."""
    lengths = np.diff(store.starts)[pack]
    lanes = _balance(lengths, batch_size if state == "reset" else 1, in_order=state == "carry")
    order = pack[np.concatenate(lanes)]
    offsets = np.concatenate([[0], np.diff(store.starts)[order].cumsum()])
    bounds = offsets[np.concatenate([[0], np.cumsum([len(lane) for lane in lanes])])]
    begin, end = bounds[:-1], bounds[1:]
    carried = model.initial_state(len(lanes))
    while len(begin):
        width = min(WINDOW, int((end - begin).max()))
        batch = window(store, order, offsets, begin, end, width, pad_id)
        reset = batch.reset.to(model.device) if state == "reset" else None
        scored, carried = model.score(
            batch.inputs.to(model.device), batch.targets.to(model.device), carried, reset
        )
        counted = batch.counted.numpy()
        yield _Scored(
            batch.documents.numpy()[counted],
            batch.places.numpy()[counted],
            scored.cpu().numpy()[counted].astype(np.float64),
        )
        begin = begin + width
        if (begin >= end).any():  # a stream that has ended takes no further part
            living = begin < end
            carried = select_rows(carried, torch.from_numpy(living).to(model.device))
            begin, end = begin[living], end[living]


def _balance(lengths: NDArray[np.int64], lanes: int, *, in_order: bool) -> list[NDArray[np.int64]]:
    """Deal documents to lanes of nearly equal length: the longest first, each to the shortest lane."""
    if in_order:
        return [np.arange(len(lengths))]
    heap = [(0, lane) for lane in range(min(lanes, len(lengths)))]
    dealt: list[list[int]] = [[] for _ in heap]
    for document in np.argsort(-lengths, kind="stable"):
        total, lane = heap[0]
        dealt[lane].append(int(document))
        heapq.heapreplace(heap, (total + int(lengths[document]), lane))
    return [np.array(documents, dtype=np.int64) for documents in dealt]


def _exp(nats: float, count: int) -> float:
    try:
        return math.exp(nats / count) if count else math.nan
    except OverflowError:
        return math.inf
