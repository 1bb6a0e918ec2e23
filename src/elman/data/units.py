"""Ids of text from the ids of its units, each distinct one of which is encoded once and remembered.

    text = u_1 u_2 ... u_n    =>    ids(text) = ids(u_1) ids(u_2) ... ids(u_n)

wherever no token reaches from one unit into the next. Natural text says the same words again and again, so that
looking units up is several times as fast as encoding them. Two kinds of vocabulary have such units:

    words      the vocabulary's pre-tokenizer cuts before white space itself, and a probe shows it
    marked     BPE without a pre-tokenizer that writes "▁" for a space and before the text, as Llama 2's does:
               no merge makes an entry that the vocabulary lacks, so where no entry has "▁" after another
               character, none reaches across a space; and where a line end is in no longer entry, none
               reaches across it
"""

import json
import re
import threading
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import chain, count, islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as TokenizerFile

MARK = "▁"
"""U+2581, which stands for a space in vocabularies without a pre-tokenizer."""

CUT_PROBE = "def f(x):\n    return 3.14  # it's\n\n\n    é … 12 345\t\n  </s> end\n"
"""Text with the places where it is cut: before white space that follows a character."""

MOST_KNOWN_UNITS = 500_000
"""Units remembered at most, about 80 MB; then remembering starts afresh."""

STRETCH = 1 << 18
"""Characters, about, whose units are held at a time."""

UNITS_AT_ONCE = 256
"""Units that the library encodes in one call of its own: their cost is then theirs, not that of the call."""

WORDS = re.compile(r"[^\S\x1c-\x1f]*[\S\x1c-\x1f]+|[^\S\x1c-\x1f]+")
"""A word with the white space before it, in the sense in which long documents are cut (`documents.cut`)."""

_MARKED = re.compile(rf"[ {MARK}]*[^ {MARK}]+|[ {MARK}]+")
_MARKED_IN_LINES = re.compile(rf"\n*[ {MARK}]*[^ {MARK}\n]+|\n+[ {MARK}]*|[ {MARK}]+")


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
    if file.pre_tokenizer is None:
        return False  # nothing keeps a merge from reaching across
    cuts = [match.start() for match in WORDS.finditer(CUT_PROBE)][1:]
    spans = [span for _, span in file.pre_tokenizer.pre_tokenize_str(CUT_PROBE)]
    if any(begin < at < end for begin, end in spans for at in cuts):
        return False
    whole = file.encode(CUT_PROBE, add_special_tokens=False).ids
    parts = [[CUT_PROBE[:at], CUT_PROBE[at:]] for at in cuts]
    return all(_encode_each(file, part) == whole for part in parts)


def _marked_units(file: TokenizerFile) -> UnitRule | None:
    content = json.loads(file.to_str())
    model, steps = content["model"], _steps(content["normalizer"])
    space = {"type": "Replace", "pattern": {"String": " "}, "content": MARK}
    prepend = {"type": "Prepend", "prepend": MARK}
    digits = {"type": "Replace", "pattern": {"Regex": "[0-9]"}, "content": "#"}
    if (
        model["type"] != "BPE"
        or any(model.get(name) for name in _REACHING)
        or any(step not in (space, prepend, digits) for step in steps)
        or steps.count(prepend) > 1
        or space not in steps
        or any(not token["special"] for token in content["added_tokens"])  # text is divided at these first
    ):
        return None
    vocabulary = model["vocab"]
    if MARK not in vocabulary or any(re.search(f"[^{MARK}]{MARK}", entry) for entry in vocabulary):
        return None

    # Without `Prepend` a unit is encoded as it stands inside a text, and the lead is what was prepended.
    content["normalizer"] = {"type": "Sequence", "normalizers": [s for s in steps if s != prepend]}
    inner = TokenizerFile.from_str(json.dumps(content))
    inner.encode_special_tokens = True
    # A character unknown even by its bytes is joined with unknown neighbours, a line end among them.
    sayable = "\n" in vocabulary or (model["byte_fallback"] and _BYTES <= vocabulary.keys())
    alone = not any(("\n" in e or "<0x0A>" in e) and e not in ("\n", "<0x0A>") for e in vocabulary)
    rule = UnitRule(
        inner, _MARKED_IN_LINES if sayable and alone else _MARKED, " " if prepend in steps else ""
    )
    units = rule.pattern.findall(rule.lead + CUT_PROBE)
    agrees = _encode_each(inner, units) == file.encode(CUT_PROBE, add_special_tokens=False).ids
    return rule if agrees else None


_NOTHING = np.empty(0, np.uint16)

_REACHING = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges")
"""Settings of BPE by which the tokens of a unit depend on chance or on where its text ends."""

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
    """Encodes texts by their units, and remembers those. Threads take turns."""

    def __init__(self, rule: UnitRule, dtype: np.dtype[np.uint16] | np.dtype[np.uint32]) -> None:
        self._rule, self._dtype = rule, dtype
        self._lock = threading.Lock()
        self._known = _Known(dtype)

    def __len__(self) -> int:
        """Units remembered."""
        return len(self._known.numbers)

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.unsignedinteger]]:
        """Ids of each text, [n] each; they may share memory."""
        parts: list[list[NDArray[np.unsignedinteger]]] = [[] for _ in texts]
        with self._lock:
            try:
                for owner, ids in self._encode_stretches(self._stretches(texts)):
                    parts[owner].append(ids)
            except BaseException:
                self._known = _Known(self._dtype)  # some units may have a number and no ids
                raise
        return [p[0] if len(p) == 1 else np.concatenate([_NOTHING.astype(self._dtype), *p]) for p in parts]

    def _stretches(self, texts: Sequence[str]) -> Iterator[list[tuple[int, list[str]]]]:
        """The units of all texts with the number of their text, about STRETCH characters at a time."""
        find = self._rule.pattern.findall
        batch: list[tuple[int, list[str]]] = []
        waiting = 0
        for owner, text in enumerate(texts):
            text = text and self._rule.lead + text
            start, size = 0, STRETCH
            while start < len(text):
                units = find(text, start, start + size)
                if start + size < len(text):
                    unfinished = len(units.pop())  # it may go on
                    if not units:
                        size *= 2
                        continue
                    start -= unfinished
                start += size
                batch.append((owner, units))
                waiting += size if len(text) > size else len(text)
                if waiting >= STRETCH:
                    yield batch
                    batch, waiting = [], 0
        if batch:
            yield batch

    def _encode_stretches(
        self, stretches: Iterable[list[tuple[int, list[str]]]]
    ) -> Iterator[tuple[int, NDArray[np.unsignedinteger]]]:
        """Ids of the units of each text in a stretch.

        New units are encoded in a second thread, in which the library lets go of Python's lock, while the units
        of the next stretch are found in this one.
        """
        with ThreadPoolExecutor(1) as second:
            waiting: Callable[[], Iterator[tuple[int, NDArray[np.unsignedinteger]]]] | None = None
            for stretch in stretches:
                known = self._known
                numbers, new = known.number([units for _, units in stretch])
                learning = second.submit(known.learn, self._rule.file, new)
                if waiting is not None:
                    yield from waiting()
                waiting = partial(_gather, known, stretch, numbers, learning)
                if len(self) > MOST_KNOWN_UNITS:
                    self._known = _Known(self._dtype)
            if waiting is not None:
                yield from waiting()


def _gather(
    known: "_Known",
    stretch: list[tuple[int, list[str]]],
    numbers: NDArray[np.intp],
    learning: Future[None],
) -> Iterator[tuple[int, NDArray[np.unsignedinteger]]]:
    learning.result()
    ids, ends = known.ids_of(numbers)
    begin = unit = 0
    for owner, units in stretch:
        unit += len(units)
        end = int(ends[unit - 1])
        yield owner, ids[begin:end]
        begin = end


class _Known:
    """Units with their ids.

    Units are numbered as they are first seen. The ids of all of them stand end to end, those of unit n from
    bounds[n] to bounds[n + 1], so that the ids of many units are one gather.
    """

    def __init__(self, dtype: np.dtype[np.uint16] | np.dtype[np.uint32]) -> None:
        self.numbers: defaultdict[str, int] = defaultdict(count().__next__)
        self._dtype = dtype
        self._ids = bytearray()
        self._bounds = array("q", [0])

    def number(self, units: list[list[str]]) -> tuple[NDArray[np.intp], list[str]]:
        """Numbers of units, end to end, and those units that are new, in the order of their numbers."""
        before = len(self.numbers)
        found = np.fromiter(
            map(self.numbers.__getitem__, chain.from_iterable(units)), np.intp, count=sum(map(len, units))
        )
        new = list(islice(reversed(self.numbers), len(self.numbers) - before))
        return found, new[::-1]

    def learn(self, file: TokenizerFile, units: list[str]) -> None:
        """Encode units, which are the next ones in the order of their numbers."""
        groups = [units[i : i + UNITS_AT_ONCE] for i in range(0, len(units), UNITS_AT_ONCE)]
        for group, encoding in zip(
            groups, file.encode_batch(groups, is_pretokenized=True, add_special_tokens=False), strict=True
        ):
            words = np.array(encoding.word_ids, dtype=np.intp)
            ends = np.searchsorted(words, np.arange(1, len(group) + 1)) + self._bounds[-1]
            self._ids += np.array(encoding.ids, dtype=self._dtype).tobytes()
            self._bounds.frombytes(ends.astype(np.int64).tobytes())

    def ids_of(self, numbers: NDArray[np.intp]) -> tuple[NDArray[np.unsignedinteger], NDArray[np.int64]]:
        """Ids of units, end to end, and where those of each unit end."""
        bounds = np.frombuffer(self._bounds, dtype=np.int64)
        lengths = bounds[numbers + 1] - bounds[numbers]
        ends = lengths.cumsum()
        at = np.repeat(bounds[numbers] - (ends - lengths), lengths)
        at += np.arange(len(at))
        return np.frombuffer(self._ids, dtype=self._dtype)[at], ends
