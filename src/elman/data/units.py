"""Ids of text from the ids of its units, each distinct one of which is encoded once and remembered.

    text = u_1 u_2 ... u_n    =>    ids(text) = ids(u_1) ids(u_2) ... ids(u_n)

wherever no token reaches from one unit into the next. Natural text says the same words again and again, so that
looking units up is several times as fast as encoding them. Two kinds of vocabulary have such units:

    words      the vocabulary's pre-tokenizer cuts before white space itself, and a probe shows it; and no added
               token, which is found before it cuts, has to do with white space
    marked     BPE without a pre-tokenizer that writes "▁" for a space and before the text, as Llama 2's does:
               no merge makes an entry that the vocabulary lacks, so where no entry has "▁" after another
               character, none reaches across a space; and where a line end is in no longer entry, none
               reaches across it
"""

import json
import os
import re
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import chain, count, islice, pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Regex, models, normalizers
from tokenizers import Tokenizer as TokenizerFile

MARK = "▁"
"""U+2581, which stands for a space in vocabularies without a pre-tokenizer."""

CUT_PROBE = "def f(x):\n    return 3.14  # it's\n\n\n    é … 12 345\t\n  </s> end\n"
"""Text with the places where it is cut: before white space that follows a character."""

MOST_KNOWN_UNITS = 500_000
"""Units remembered at most, about 120 MB; then remembering starts afresh."""

MOST_KNOWN_CHARACTERS = 16_000_000
"""Characters of them at most, as a unit can be as long as a text."""

STRETCH = 1 << 18
"""Characters, about, whose units are held at a time."""

UNITS_AT_ONCE = 256
"""Units that the library encodes in one call of its own: their cost is then theirs, not that of the call."""

WORDS = re.compile(r"[^\S\x1c-\x1f]*[\S\x1c-\x1f]+|[^\S\x1c-\x1f]+")
"""A word with the white space before it, in the sense in which long documents are cut (`documents.cut`)."""

_MARKED = re.compile(rf"[ {MARK}]*[^ {MARK}]+|[ {MARK}]+")
_MARKED_IN_LINES = re.compile(rf"\n*[ {MARK}]*[^ {MARK}\n]+|\n+[ {MARK}]*|[ {MARK}]+")


Ids = NDArray[np.unsignedinteger]

Stretch = list[tuple[int, list[str]]]
"""Some units of some texts: the number of a text, and units that follow one another in it."""


class UnitRule(NamedTuple):
    """How a text is taken apart: the ids of a text are those of the units of `lead` + text."""

    file: TokenizerFile
    """Encodes units."""
    pattern: re.Pattern[str]
    """A unit, of any text: the matches, joined, are the text."""
    lead: str
    """Stands before every text that is not empty."""


def unit_rule(file: TokenizerFile) -> UnitRule | None:
    """The units of a vocabulary, or None where it must be given every text whole."""
    if file.pre_tokenizer is None:
        return _marked_units(file)
    return UnitRule(file, WORDS, "") if cuts_before_white_space(file) else None


def cuts_before_white_space(file: TokenizerFile) -> bool:
    """Whether cutting a text before white space that follows a character leaves its tokens the same."""
    if file.pre_tokenizer is None or _added_tokens_take_space(file):
        return False  # nothing keeps a merge, or such a token, from reaching across
    cuts = [match.start() for match in WORDS.finditer(CUT_PROBE)][1:]
    spans = [span for _, span in file.pre_tokenizer.pre_tokenize_str(CUT_PROBE)]
    if any(begin < at < end for begin, end in spans for at in cuts):
        return False
    whole = _encode_each(file, [CUT_PROBE])
    parts = [[CUT_PROBE[:at], CUT_PROBE[at:]] for at in cuts]
    return all(_encode_each(file, part) == whole for part in parts)


def _added_tokens_take_space(file: TokenizerFile) -> bool:
    """Whether tokens that are sought in a text before it is divided may hold white space, or take in some."""
    added = file.get_added_tokens_decoder().values()
    sought = [token for token in added if not (token.special and file.encode_special_tokens)]
    # One that is not sought still hides what it overlaps.
    return any(token.lstrip or token.rstrip for token in sought) or (
        bool(sought) and any(_SPACE_WITHIN.search(token.content) for token in added)
    )


def _marked_units(file: TokenizerFile) -> UnitRule | None:
    model, steps = file.model, _steps(json.loads(file.normalizer.__getstate__()) if file.normalizer else None)
    if (
        not isinstance(model, models.BPE)
        # by which the tokens of a unit depend on chance, or on where its text ends
        or model.dropout
        or model.continuing_subword_prefix
        or model.end_of_word_suffix
        or model.ignore_merges
        or any(step not in (_SPACE, _PREPEND, _MASK) for step in steps)
        or _SPACE not in steps
        or not all(token.special for token in file.get_added_tokens_decoder().values())  # they divide a text
    ):
        return None
    vocabulary = file.get_vocab(with_added_tokens=False)
    if MARK not in vocabulary or any(_MARK_WITHIN.search(entry) for entry in vocabulary):
        return None
    # A character that is unknown even by its bytes is joined with unknown neighbours, a line end among them.
    sayable = "\n" in vocabulary or (model.byte_fallback and vocabulary.keys() >= _BYTES)
    alone = not any(end in entry != end for entry in vocabulary for end in ("\n", "<0x0A>"))

    # Without `Prepend` a unit is encoded as it stands inside a text, and the lead is what was prepended.
    inner = TokenizerFile(model)
    masked = [normalizers.Replace(Regex("[0-9]"), "#")] if _MASK in steps else []
    inner.normalizer = normalizers.Sequence([*masked, normalizers.Replace(" ", MARK)])
    pattern = _MARKED_IN_LINES if sayable and alone else _MARKED
    rule = UnitRule(inner, pattern, " " * steps.count(_PREPEND))
    units = pattern.findall(rule.lead + CUT_PROBE)
    return rule if _encode_each(inner, units) == _encode_each(file, [CUT_PROBE]) else None


_SPACE = {"type": "Replace", "pattern": {"String": " "}, "content": MARK}
_PREPEND = {"type": "Prepend", "prepend": MARK}
_MASK = {"type": "Replace", "pattern": {"Regex": "[0-9]"}, "content": "#"}
"""Steps of a normalizer that change each character by itself, or prepend what is one space."""

_MARK_WITHIN = re.compile(f"[^{MARK}]{MARK}")

_SPACE_WITHIN = re.compile(rf"[\s{MARK}]")
"""White space, or what a normalizer may write for it."""

_BYTES = {f"<0x{byte:02X}>" for byte in range(256)}
"""Entries for the bytes of characters that have none."""


def _steps(normalizer: dict[str, Any] | None) -> list[dict[str, Any]]:
    """What a normalizer does, one after the other."""
    if normalizer is None:
        return []
    if normalizer["type"] != "Sequence":
        return [normalizer]
    return [step for part in normalizer["normalizers"] for step in _steps(part)]


def _encode_each(file: TokenizerFile, texts: Sequence[str]) -> list[int]:
    return [i for text in texts for i in file.encode(text, add_special_tokens=False).ids]


class UnitEncoder:
    """Encodes texts by their units, and remembers those. Threads take turns; a forked process begins afresh."""

    def __init__(self, rule: UnitRule, dtype: np.dtype[np.uint16] | np.dtype[np.uint32]) -> None:
        self._rule, self._dtype = rule, dtype
        self._locks: dict[int, threading.Lock] = {}
        self._process, self._known = os.getpid(), _Known(dtype)

    def __len__(self) -> int:
        """Units remembered."""
        return len(self._known.numbers)

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """Ids of each text, [n] each; they may share memory."""
        parts: list[list[Ids]] = [[] for _ in texts]
        process = os.getpid()
        with self._locks.setdefault(process, threading.Lock()):
            if process != self._process:  # forked, perhaps while a thread of the other process held its lock
                self._process, self._known = process, _Known(self._dtype)
            try:
                for stretch, ids in self._encode_stretches(self._stretches(texts)):
                    for (owner, _), part in zip(stretch, ids, strict=True):
                        parts[owner].append(part)
            except BaseException:
                self._known = _Known(self._dtype)  # some units may have a number and no ids
                raise
        nothing = np.empty(0, self._dtype)
        return [of_text[0] if len(of_text) == 1 else np.concatenate([nothing, *of_text]) for of_text in parts]

    def _stretches(self, texts: Sequence[str]) -> Iterator[Stretch]:
        """The units of all texts, about STRETCH characters at a time."""
        find, lead = self._rule.pattern.findall, self._rule.lead
        stretch: Stretch = []
        waiting = 0
        for owner, text in enumerate(texts):
            for units in [find(lead + text)] if 0 < len(text) <= STRETCH else self._long(text):
                stretch.append((owner, units))
                waiting += min(len(text), STRETCH)
                if waiting >= STRETCH:
                    yield stretch
                    stretch, waiting = [], 0
        if stretch:
            yield stretch

    def _long(self, text: str) -> Iterator[list[str]]:
        """The units of a text of any length, about STRETCH characters at a time."""
        text = text and self._rule.lead + text
        start, size = 0, STRETCH
        while start < len(text):
            units = self._rule.pattern.findall(text, start, start + size)
            start += size
            if start < len(text):
                start -= len(units.pop())  # which may go on
            if units:
                yield units
            else:
                size *= 2

    def _encode_stretches(self, stretches: Iterable[Stretch]) -> Iterator[tuple[Stretch, list[Ids]]]:
        """Each stretch with the ids of its units, those of one text together.

        New units are encoded in a second thread, where the library lets go of Python's lock, while this one
        finds the units of the next stretch.
        """
        with ThreadPoolExecutor(1) as second:
            waiting: Callable[[], tuple[Stretch, list[Ids]]] | None = None
            for stretch in stretches:
                known = self._known
                numbers, new = known.number([units for _, units in stretch])
                learning = second.submit(known.learn, self._rule.file, new) if new else None
                if len(self) > MOST_KNOWN_UNITS or known.characters > MOST_KNOWN_CHARACTERS:
                    self._known = _Known(self._dtype)
                if waiting is not None:
                    yield waiting()
                waiting = partial(_gather, known, stretch, numbers, learning)
            if waiting is not None:
                yield waiting()


def _gather(
    known: "_Known", stretch: Stretch, numbers: NDArray[np.intp], learning: Future[None] | None
) -> tuple[Stretch, list[Ids]]:
    """A stretch with its ids, as soon as the new units among it have theirs."""
    if learning is not None:
        learning.result()
    ids, ends = known.ids_of(numbers)
    last = np.cumsum([len(units) for _, units in stretch]) - 1
    bounds = [0, *ends[last].tolist()]
    return stretch, [ids[begin:end] for begin, end in pairwise(bounds)]


class _Known:
    """Units with their ids.

    Units are numbered as they are first seen. The ids of all of them stand end to end, those of unit n from
    bounds[n] to bounds[n + 1], so that the ids of many units are one gather. The arrays are longer than what
    they hold; one that is full is copied, not changed, as another thread may read it.
    """

    def __init__(self, dtype: np.dtype[np.uint16] | np.dtype[np.uint32]) -> None:
        self.numbers: defaultdict[str, int] = defaultdict(count().__next__)
        self.characters = 0
        self._learnt = self._size = 0
        self._ids: Ids = np.empty(64, dtype)
        self._bounds = np.zeros(64, np.int64)

    def number(self, units: list[list[str]]) -> tuple[NDArray[np.intp], list[str]]:
        """Numbers of units, end to end, and those units that are new, in the order of their numbers."""
        before, total = len(self.numbers), sum(map(len, units))
        numbers = np.fromiter(map(self.numbers.__getitem__, chain.from_iterable(units)), np.intp, count=total)
        new = list(islice(reversed(self.numbers), len(self.numbers) - before))
        self.characters += sum(map(len, new))
        return numbers, new[::-1]

    def learn(self, file: TokenizerFile, units: list[str]) -> None:
        """Encode units, which are the next ones in the order of their numbers."""
        groups = [units[i : i + UNITS_AT_ONCE] for i in range(0, len(units), UNITS_AT_ONCE)]
        encodings = file.encode_batch(groups, is_pretokenized=True, add_special_tokens=False)
        for group, encoding in zip(groups, encodings, strict=True):
            ids = np.array(encoding.ids, dtype=self._ids.dtype)
            # A unit may have no token: the ends are those of the words up to each.
            words = np.array(encoding.word_ids, dtype=np.intp)
            ends = words.searchsorted(np.arange(len(group)), side="right") + self._size
            self._ids = _extended(self._ids, self._size, ids)
            self._bounds = _extended(self._bounds, self._learnt + 1, ends)
            self._size += len(ids)
            self._learnt += len(group)

    def ids_of(self, numbers: NDArray[np.intp]) -> tuple[Ids, NDArray[np.int64]]:
        """Ids of units, end to end, and where those of each unit end."""
        begins = self._bounds[numbers]
        lengths = self._bounds[numbers + 1] - begins
        ends = lengths.cumsum()
        at = np.repeat(begins - (ends - lengths), lengths)
        at += np.arange(len(at))
        return self._ids[at], ends


def _extended(held: NDArray[Any], size: int, more: NDArray[Any]) -> NDArray[Any]:
    """The first `size` of `held`, and `more`: in place if there is room, else in a copy with as much room again."""
    end = size + len(more)
    if end > len(held):
        held = np.concatenate([held[:size], np.empty(2 * end - size, held.dtype)])
    held[size:end] = more
    return held
