r"""N-gram models as ARPA files: the text in which SRILM, KenLM and their like hand them to one another.

    \data\                            how many n-grams there are of each order k
    ngram k=count

    \k-grams:                         for each order from 1: log10 P, the words, log10 backoff; not for the last
    -1.2041200 the cat -0.3010300

    \end\

    P(w | u) = 10^p                   where u w is listed with p
               backoff(u) P(w | u')   where it is not; u' is u without its first word, and the back-off of what is
                                      not listed is 1

Three words are not text: `<s>`, the context of the first word of a document, never predicted; `</s>`, its end; and
`<unk>`, every word that is not listed. A file without `<unk>` has a closed vocabulary: an unknown word has no
probability. How a token is written that holds white space is said in `models.arpa_text`.

Axes: V vocabulary, M n-grams of an order, k words of each.
"""

from array import array
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from elman.errors import InputError
from elman.models.arpa_text import (
    END,
    START,
    UNKNOWN,
    UNKNOWN_NAMES,
    Entries,
    Lines,
    escape,
    log10,
    read_counts,
    read_entries,
    show,
    unescape,
    writing,
)
from elman.models.kneser_ney import Floats, Integers, Level
from elman.models.ngram import NgramModel

PAD = "<pad>"
"""The padding token in the vocabulary of a model that was read; not a word of the file."""

CHUNK = 1 << 16
"""N-grams that are text at one time."""


def write_arpa(
    model: NgramModel,
    words: Sequence[str],
    path: str | Path,
    *,
    start_id: int,
    end_id: int,
    unknown_id: int | None = None,
) -> None:
    """Write a model, compressed where the name ends in `.gz`; a reader finds the whole file or none.

    Every word that can follow is listed, seen or not. Numbers have seven decimals, and so are within 5e-8 of the
    model's; the float32 in which KenLM keeps them is no finer than that above 1e-1.

    Args:
        model: Any.
        words: [V], how each token is called.
        path: What is there is replaced.
        start_id: The token to write as `<s>`.
        end_id: The token to write as `</s>`.
        unknown_id: The token to write as `<unk>`, if there is one.

    Raises:
        InputError: There are not V words, two tokens have one name, or the folder cannot be written.
        ResourceError: The disk is full.
    """
    if len(words) != model.vocab_size:
        raise InputError(
            f"{path}: {len(words):,} words for a vocabulary of {model.vocab_size:,}; give one for each"
        )
    names = [escape(word) for word in words]
    names[start_id], names[end_id] = START, END
    if unknown_id is not None:
        names[unknown_id] = UNKNOWN

    tables = _tables(model, start_id)
    (ids,) = tables[0].words_of(np.arange(len(tables[0].probs)))
    _require_different(names, ids, path)

    spelled = np.array(names, dtype=object)
    with writing(Path(path)) as file:
        counts = "".join(f"ngram {k}={len(table.probs)}\n" for k, table in enumerate(tables, start=1))
        file.write(f"\\data\\\n{counts}\n".encode())
        for k, table in enumerate(tables, start=1):
            file.write(f"\\{k}-grams:\n".encode())
            pattern = "%.7f\t" + " ".join(["%s"] * k) + ("\n" if table.backoffs is None else "\t%.7f\n")
            for begin in range(0, len(table.probs), CHUNK):
                rows = np.arange(begin, min(begin + CHUNK, len(table.probs)))
                fields = [
                    log10(table.probs[rows]),
                    *(spelled[column].tolist() for column in table.words_of(rows)),
                ]
                if table.backoffs is not None:
                    fields.append(log10(table.backoffs[rows]))
                file.write("".join(map(pattern.__mod__, zip(*fields, strict=True))).encode())
            file.write(b"\n")
        file.write(b"\\end\\\n")


class _Table(NamedTuple):
    """The n-grams of one order, by row."""

    words_of: Callable[[Integers], list[Integers]]
    """The k columns of words of some rows."""
    probs: Floats
    """[M]."""
    backoffs: Floats | None
    """[M]; none for the highest order."""


def _tables(model: NgramModel, start_id: int) -> list[_Table]:
    """What to write. Order 1 is every word that can follow, and what begins an n-gram without being able to."""
    levels, above = model.levels, [level.backoffs for level in model.levels[1:]]
    probs = model.probabilities(np.full((1, model.order - 1), -1))[0]
    listed = probs > 0
    listed[start_id] = True
    listed[levels[0].keys] = True
    (ids,) = listed.nonzero()
    backoffs = np.ones(model.vocab_size)
    if above:
        backoffs[levels[0].keys] = above[0]

    def words_of(k: int, rows: Integers) -> list[Integers]:
        columns: list[Integers] = []
        for level in reversed(levels[:k]):
            rows, word = np.divmod(level.keys[rows], model.vocab_size)
            columns.insert(0, word)
        return columns

    first = _Table(lambda rows: [ids[rows]], probs[ids], backoffs[ids] if above else None)
    return [
        first,
        *(
            _Table(partial(words_of, k), level.probs, above[k - 1] if k < model.order else None)
            for k, level in enumerate(levels[1:], start=2)
        ),
    ]


def _require_different(names: Sequence[str], ids: Iterable[int], path: str | Path) -> None:
    """Raise InputError if two of the tokens would be the same word."""
    first: dict[str, int] = {}
    for index in map(int, ids):
        if first.setdefault(names[index], index) != index:
            raise InputError(
                f"{path}: tokens {first[names[index]]} and {index} are both called {names[index]!r}, and a file"
                " tells words by their names; give each its own"
            )


def read_arpa(path: str | Path) -> tuple[NgramModel, list[str]]:
    """The model in a file of any tool, decompressed where the name ends in `.gz`, and its vocabulary.

    The vocabulary is that of `data.tokenizer.vocabulary_tokenizer`: `<unk>`, the other words in the order of the
    file, `<pad>`, `<s>`, `</s>`. Probabilities are those of the file, whether they sum to one or not. N-grams may
    lack their suffixes, as pruning leaves them, and not their prefixes. Without `<unk>` in the file, its id is
    among the model's `excluded_ids`.

    Returns:
        The model, and how each of its V tokens is called.

    Raises:
        InputError: The file cannot be read, is not an ARPA file, or contradicts itself; with the line.
    """
    with Lines(Path(path)) as lines:
        counts = read_counts(lines)
        single, (words, known) = _read_single_words(lines, counts[0])
        levels: list[Level] = []
        backoffs = np.zeros(1)  # every word is listed, and nothing is left for others
        for k, count in enumerate(counts, start=1):
            entries = single if k == 1 else read_entries(lines, k, count, known.__getitem__)
            level, backoffs = _make_level(entries, levels, backoffs, words, lines)
            levels.append(level)
        lines.expect(rb"\end" b"\\")
        if (line := lines.next_filled()) is not None:
            raise lines.error(f"{show(line)} stands after the end; remove it")
    never = {words.index(PAD), words.index(START)}
    closed = known.keys().isdisjoint(name.encode() for name in UNKNOWN_NAMES)
    return NgramModel(levels, len(words), never | {0} if closed else never), words


def _read_single_words(lines: Lines, count: int) -> tuple[Entries, tuple[list[str], dict[bytes, int]]]:
    """The entries of order 1; the vocabulary; and the id of each word as the file spells it."""
    place: dict[bytes, int] = {}

    def number(word: bytes) -> int:
        if word in place:
            raise lines.error(f"{show(word)} is among the 1-grams already; keep one of them")
        return place.setdefault(word, len(place))

    entries = read_entries(lines, 1, count, number)
    for name in (START, END):
        if name.encode() not in place:
            raise lines.error(
                f"{name} is not among the 1-grams; estimate the model from text with {START} and {END}"
            )
    unknown = [name.encode() for name in UNKNOWN_NAMES if name.encode() in place]
    if len(unknown) > 1:
        raise lines.error(f"{' and '.join(UNKNOWN_NAMES)} are both among the 1-grams; keep one of them")

    special = dict.fromkeys(unknown, 0)
    words = [UNKNOWN]
    taken = {UNKNOWN, PAD, START, END}
    known: dict[bytes, int] = {}
    for word, index in place.items():
        if word in (*unknown, START.encode(), END.encode()):
            continue
        line = entries.first_line + index
        try:
            token = unescape(word.decode())
            token.encode()  # what stands for half a character is no text
        except UnicodeError:
            raise lines.error(f"{show(word)} is not UTF-8; convert the file", line) from None
        if token in taken:
            raise lines.error(f"{show(word)} would be a second {token!a} in the vocabulary; rename it", line)
        taken.add(token)
        known[word] = len(words)
        words.append(token)
    words += [PAD, START, END]
    known |= special | {name.encode(): words.index(name) for name in (START, END)}
    return entries._replace(ids=array("i", map(known.__getitem__, place))), (words, known)


def _make_level(
    entries: Entries, levels: list[Level], backoffs: Floats, words: list[str], lines: Lines
) -> tuple[Level, Floats]:
    """The level of the order above `levels`, given its back-offs; and those of its own n-grams, for the next."""
    k, vocab_size = len(levels) + 1, len(words)
    ids = np.array(entries.ids, np.int64).reshape(-1, k)
    context = np.zeros(len(ids), np.int64)
    for level, word in zip(levels, ids.T, strict=False):
        context = level.find(context, word, vocab_size)
    (lost,) = (context < 0).nonzero()
    if len(lost):
        prefix = " ".join(words[i] for i in ids[lost[0], :-1])
        raise lines.error(
            f"{prefix!r}, with which this n-gram begins, is not among the {k - 1}-grams; list it there, or prune"
            " with thresholds that do not decrease",
            entries.first_line + int(lost[0]),
        )
    keys = context * vocab_size + ids[:, -1]
    order = keys.argsort(kind="stable")
    keys = keys[order]
    (again,) = (np.diff(keys) == 0).nonzero()
    if len(again):
        line = entries.first_line + int(order[again + 1].min())
        raise lines.error(f"this n-gram is among the {k}-grams already; keep one of them", line)
    probs: Floats = 10.0 ** np.array(entries.probs)[order]
    probs[keys % vocab_size == words.index(START)] = 0  # whatever a file says: it is no word of any text
    return Level(keys, probs, backoffs, np.zeros(3)), 10.0 ** np.array(entries.backoffs)[order]
