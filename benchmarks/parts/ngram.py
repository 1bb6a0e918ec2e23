"""C9: the n-gram model of order 5 against KenLM: estimating, scoring, and the whole next-word distribution.

Estimating: from a text file of 1 M words, a line a document, to an ARPA file, and to a model in memory; `lmplz` does
the former, and is run where `--lmplz PATH` says where it is. Both must list as many n-grams of each order, and give
each word of a text that neither has read the same probability to 1e-4 in log10. Scoring and the distribution are
compared with the `kenlm` module, where it is installed, which reads the file that we write. The text is made of
50,000 words with Zipf's frequencies in no order: the n-grams that natural text repeats are new here, so there are
more of them than in as many natural words.
"""

import math
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.agreement import require_agreement
from benchmarks.goals import KENLM, KENLM_LOOP, LMPLZ
from benchmarks.parts.data import environment
from benchmarks.race import Side, race
from benchmarks.record import Record, versus
from benchmarks.settings import Settings
from benchmarks.shapes import zipf
from elman.config import DataConfig
from elman.data.prepare import prepare_text
from elman.data.tokenizer import Tokenizer, vocabulary_tokenizer
from elman.models.arpa import read_arpa, write_arpa
from elman.models.ngram import NgramModel, estimate

ORDER = 5

LINE = 20
"""Words of a line that is made."""

LOG10_TOLERANCE = 1e-4

RESERVED = {"<s>", "</s>", "<unk>", "<UNK>", "<pad>"}


class Counted(NamedTuple):
    """A model and its words."""

    model: NgramModel
    tokenizer: Tokenizer


def run(settings: Settings) -> Iterator[Record]:
    """Estimate, score, spread out."""
    train, test = texts(settings)
    with tempfile.TemporaryDirectory() as name, environment("ELMAN_CACHE", str(Path(name, "cache"))):
        folder = Path(name)
        (folder / "train.txt").write_text("".join(f"{line}\n" for line in train), encoding="utf-8")
        words = sum(len(line.split()) for line in train)
        shape = f"order {ORDER}, {words:,} words"
        yield from estimating(settings, folder, test, shape)
        counted = count(folder / "train.txt", folder / "counted")
        export(counted, folder / "ours.arpa")
        yield from scoring(settings, counted, folder / "ours.arpa", test, shape)
        yield from distribution(settings, counted, folder / "ours.arpa", train[0].split(), shape)


def texts(settings: Settings) -> tuple[list[str], list[str]]:
    """Lines to count and lines to score: of the text given, or drawn."""
    if settings.text is not None:
        lines = settings.text.read_text(encoding="utf-8").splitlines()
        lines = [" ".join(words) for line in lines if (words := line.split()) and RESERVED.isdisjoint(words)]
        held_out = max(1, len(lines) // 100)
        return lines[:-held_out], lines[-held_out:]
    vocab, words = (60, 3_000) if settings.quick else (50_000, 1_000_000)
    rows = zipf(vocab, (words // LINE, LINE), seed=0)
    lines = [" ".join(f"w{token}" for token in row) for row in rows.tolist()]
    test = [" ".join(f"w{token}" for token in row) for row in zipf(vocab, (500, LINE), seed=1).tolist()]
    return lines, [*test, "w1 unheard w2"]


def count(text: Path, cache: Path) -> Counted:
    """From a text file to a model in memory; every word is in the vocabulary."""
    with environment("ELMAN_CACHE", str(cache)), text.open(encoding="utf-8") as lines:
        tokenizer = vocabulary_tokenizer(list(Counter(word for line in lines for word in line.split())))
        store = prepare_text(DataConfig(corpus=str(text), documents="line"), tokenizer)
        model = estimate(
            (store.tokens, store.starts),
            tokenizer.vocab_size,
            ORDER,
            start_id=tokenizer.start_id,
            excluded_ids=[tokenizer.pad_id],
        )
    return Counted(model, tokenizer)


def export(counted: Counted, path: Path) -> None:
    """The model as an ARPA file."""
    model, tokenizer = counted
    words = [tokenizer.token(index) for index in range(tokenizer.vocab_size)]
    write_arpa(
        model,
        words,
        path,
        start_id=tokenizer.start_id,
        end_id=tokenizer.end_id,
        unknown_id=tokenizer.unknown_id,
    )


def estimating(settings: Settings, folder: Path, test: Sequence[str], shape: str) -> Iterator[Record]:
    """Both ways of ours beside lmplz."""
    text, ours, theirs = folder / "train.txt", folder / "ours.arpa", folder / "theirs.arpa"

    def in_memory() -> list[int]:
        with tempfile.TemporaryDirectory() as cache:
            model, _ = count(text, Path(cache))
        return [len(level.keys) for level in model.levels[1:]]

    def to_file() -> list[int]:
        with tempfile.TemporaryDirectory() as cache:
            export(count(text, Path(cache)), ours)
        return listed(ours)

    whats = {"text to an ARPA file": to_file, "text to a model": in_memory}
    reference = Side("text to an ARPA file", to_file)
    if settings.lmplz is not None:
        reference = Side(LMPLZ, partial(run_lmplz, settings.lmplz, text, theirs))
    sides = [Side(what, call, tolerance=0) for what, call in whats.items() if what != reference.name]
    taken = race(reference, *sides, seconds=2 * settings.seconds)
    if settings.lmplz is not None:
        require_same_scores("elman", scores(ours, test), LMPLZ, scores(theirs, test))
    for what in whats:
        if LMPLZ in taken:
            yield versus("C9", f"{what}, order {ORDER}", taken[what], taken[LMPLZ], shape=shape)
        else:
            yield Record(
                part="C9",
                what=f"{what}, order {ORDER}",
                peer=LMPLZ,
                shape=shape,
                ours_seconds=taken[what].median,
                ours_quartiles=taken[what].quartiles,
                rounds=len(taken[what].seconds),
                note="not measured: give --lmplz PATH",
            )


def run_lmplz(program: Path, text: Path, arpa: Path) -> list[int]:
    """Estimate with it; the discounts fall back as ours do."""
    with text.open("rb") as lines, arpa.open("wb") as out, tempfile.TemporaryDirectory() as scratch:
        command = [str(program), "-o", str(ORDER), "--discount_fallback", "-S", "1G", "-T", f"{scratch}/"]
        subprocess.run(command, stdin=lines, stdout=out, stderr=subprocess.DEVNULL, check=True)
    return listed(arpa)


def listed(arpa: Path) -> list[int]:
    """How many n-grams the head of a file promises, from order 2: single words include <unk> in some."""
    with arpa.open("rb") as file:
        head = file.read(1000)
    return [int(number) for number in re.findall(rb"^ngram \d=(\d+)", head, re.MULTILINE)][1:]


def scores(arpa: Path, lines: Sequence[str]) -> list[float]:
    """log10 of every word and end of the lines, under a file: read by KenLM if it is here, else by us."""
    if find_spec("kenlm"):
        return kenlm_scores(load_kenlm(arpa), lines)
    model, words = read_arpa(arpa)
    return own_scores(Counted(model, vocabulary_tokenizer(words)), lines)


def load_kenlm(arpa: Path) -> Any:
    """KenLM's model of a file, loaded without a word."""
    import kenlm

    config = kenlm.Config()
    config.show_progress = False
    config.arpa_complain = kenlm.ARPALoadComplain.NONE
    return kenlm.Model(str(arpa), config)


def kenlm_scores(model: Any, lines: Sequence[str]) -> list[float]:
    """log10, a word after the other."""
    return [score for line in lines for score, _, _ in model.full_scores(line)]


def own_scores(counted: Counted, lines: Sequence[str]) -> list[float]:
    """log10, all lines in one call: a row for each, padded."""
    model, tokenizer = counted
    rows = [[*ids.tolist(), tokenizer.end_id] for ids in tokenizer.encode_batch(lines)]
    longest = max(map(len, rows))
    targets = torch.full((len(rows), longest), tokenizer.end_id)
    for row, ids in zip(targets, rows, strict=True):
        row[: len(ids)] = torch.tensor(ids)
    tokens = targets.roll(1, dims=1)
    tokens[:, 0] = tokenizer.start_id
    reset = torch.zeros_like(tokens, dtype=torch.bool)
    reset[:, 0] = True
    nats, _ = model.score(tokens, targets, model.initial_state(len(rows)), reset)
    lengths = torch.tensor([len(ids) for ids in rows])
    counted_places = torch.arange(longest) < lengths[:, None]
    found: list[float] = (-nats[counted_places].double() / math.log(10)).tolist()
    return found


def require_same_scores(name: str, found: list[float], reference: str, expected: list[float]) -> None:
    """Refuse unless all log10 agree to LOG10_TOLERANCE."""
    largest = max(map(abs, expected))
    require_agreement(name, found, reference, expected, LOG10_TOLERANCE / largest)


def scoring(
    settings: Settings, counted: Counted, arpa: Path, test: Sequence[str], shape: str
) -> Iterator[Record]:
    """The probability of every word of a text."""
    words = sum(len(line.split()) + 1 for line in test)
    facts = {"shape": f"{shape}; {words:,} scored"}
    if not find_spec("kenlm"):
        yield Record(part="C9", what="scoring", peer=KENLM, note="not measured: pip install kenlm", **facts)
        return
    model = load_kenlm(arpa)
    own, their = partial(own_scores, counted, test), partial(kenlm_scores, model, test)
    tolerance = LOG10_TOLERANCE / max(map(abs, their()))
    taken = race(Side(KENLM, their), Side("elman", own, tolerance), seconds=settings.seconds / 4)
    yield versus("C9", "scoring", taken["elman"], taken[KENLM], **facts)


def distribution(
    settings: Settings, counted: Counted, arpa: Path, words: Sequence[str], shape: str
) -> Iterator[Record]:
    """P(every word | a context that was seen)."""
    model, tokenizer = counted
    ids = tokenizer.encode(" ".join(words[: ORDER - 1])).astype(np.int64)
    context = ids[None, -(ORDER - 1) :]
    possible = np.setdiff1d(np.arange(model.vocab_size), model.excluded_ids)

    def whole() -> NDArray[np.float64]:
        found: NDArray[np.float64] = model.probabilities(context)[0, possible]
        return found

    def loop() -> NDArray[np.float64]:
        state = model.initial_state(1)
        tokens = torch.from_numpy(ids[None])
        state = model.score(tokens[:, :-1], tokens[:, 1:], state)[1] if len(ids) > 1 else state
        last = tokens[:, -1:]
        nats = [model.score(last, torch.tensor([[word]]), state)[0].item() for word in possible.tolist()]
        return np.exp(-np.array(nats))

    what, facts = "distribution over the vocabulary", {"shape": f"{shape}; V {model.vocab_size:,}"}
    own = Side("elman", whole, tolerance=1e-4)
    taken = race(
        Side("a loop over the vocabulary", loop), own, seconds=settings.seconds / 4, warmups=0, least=2
    )
    yield versus("C9", what, taken["elman"], taken["a loop over the vocabulary"], **facts)
    if not find_spec("kenlm"):
        yield Record(part="C9", what=what, peer=KENLM_LOOP, note="not measured: pip install kenlm", **facts)
        return
    their = Side(KENLM_LOOP, kenlm_loop(arpa, words, tokenizer, possible))
    taken = race(their, own, seconds=settings.seconds / 4)
    yield versus("C9", what, taken["elman"], taken[KENLM_LOOP], **facts)


def kenlm_loop(arpa: Path, words: Sequence[str], tokenizer: Tokenizer, possible: NDArray[np.int64]) -> Any:
    """A function that asks KenLM for one word after the other."""
    import kenlm

    model, state = load_kenlm(arpa), kenlm.State()
    model.NullContextWrite(state)
    for word in words[: ORDER - 1]:
        after = kenlm.State()
        model.BaseScore(state, word, after)
        state = after
    names = [tokenizer.token(index) for index in possible.tolist()]

    def loop() -> NDArray[np.float64]:
        after = kenlm.State()
        return 10.0 ** np.array([model.BaseScore(state, name, after) for name in names])

    return loop
