"""C7: generation with a carried state against reading the whole prefix again for each token.

The chapter's model at W1 and its `generate_text`, 50 and 500 tokens: chosen greedily, all of them must be equal;
drawn at random, only the time counts. Then whether a token costs the same however long the text is, on a model
with a byte's vocabulary, whose small output layer hides nothing. Then 256 streams beside one: the first stream must
say what the one does.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import nn

from benchmarks.goals import CHAPTER
from benchmarks.race import Side, Timing, race
from benchmarks.record import Record, versus
from benchmarks.settings import Settings
from benchmarks.shapes import TINY, W1, ModelShape
from benchmarks.steppers import PAD, chapter_model, production_model
from elman import chapter
from elman.generate.engine import Generation
from elman.generate.sampling import Sampling
from elman.models.neural import NeuralLanguageModel

GREEDY, RANDOM = Sampling(temperature=0), Sampling()

PROMPT = (1,)

STREAMS = 256

PLACES = (100, 1_000, 10_000, 100_000)
"""Tokens before the one whose time is measured."""

WINDOW = 50
"""Tokens on either side of such a place, of whose times the median is taken."""

BYTES = ModelShape(batch=1, time=1, width=128, vocab=260)


def run(settings: Settings) -> Iterator[Record]:
    """Against the chapter, along a text, and many streams."""
    shape = TINY if settings.quick else W1
    ours, theirs = make_models(shape)
    for tokens in (5, 9) if settings.quick else (50, 500):
        yield from against_chapter(settings, shape, ours, theirs, tokens)
    places = (20, 40) if settings.quick else PLACES
    yield from along_a_text(BYTES, places, window=5 if settings.quick else WINDOW)
    yield from many_streams(settings, shape, ours, 3 if settings.quick else STREAMS)


def make_models(shape: ModelShape) -> tuple[NeuralLanguageModel, chapter.RecurrentLanguageModel]:
    """With the same weights, scaled so that greedy texts do not hang on rounding, and never end.

    Vectors and logits are as large as after training, so that the likeliest token is clearly ahead; the recurrence
    fades, so that a rounding error does too.
    """
    theirs = chapter_model(shape)
    with torch.no_grad():
        theirs.embedding.weight.normal_()
        theirs.fc.weight.normal_(std=0.5)
        theirs.fc.bias[PAD] = -100.0
        for name, parameter in theirs.named_parameters():
            if name.endswith("Uh"):
                parameter.mul_(0.5)
    return production_model(theirs, shape).eval(), theirs.eval()


def generate(
    model: NeuralLanguageModel, tokens: int, sampling: Sampling, samples: int = 1
) -> list[list[int]]:
    """New tokens of each row."""
    generation = Generation(
        model, [PROMPT], sampling=sampling, max_tokens=tokens, end_id=PAD, samples=samples
    )
    rows: list[list[int]] = [[] for _ in range(samples)]
    for steps in generation:
        for step in steps:
            rows[step.row].append(step.token)
    return rows


def against_chapter(
    settings: Settings,
    shape: ModelShape,
    ours: NeuralLanguageModel,
    theirs: nn.Module,
    tokens: int,
) -> Iterator[Record]:
    """Greedy with equal tokens, then at random; a long text is a round of many seconds, and two must do."""
    slow = {"warmups": 0, "least": 2} if tokens > 100 else {"warmups": 1, "least": 5}
    reading = settings.limits.seconds("float32", 0, 4.0 * shape.parameters / 2)  # all but the embedding

    def contest(what: str, own: Callable[[], object], their: Callable[[], object]) -> Record:
        taken = race(
            Side(CHAPTER, their), Side("elman", own, tolerance=0), seconds=settings.seconds / 2, **slow
        )
        facts = {"shape": str(shape), "dtype": "float32", "limit": tokens * reading}
        return versus("C7", what, taken["elman"], taken[CHAPTER], **facts)

    yield contest(
        f"generate {tokens} tokens, greedy",
        lambda: generate(ours, tokens, GREEDY)[0],
        lambda: chapter.generate_text(theirs, PROMPT, tokens)[len(PROMPT) :],
    )
    if tokens > 100:
        return
    # The two draw from different streams of random numbers: their texts differ, the distribution does not.
    yield contest(
        f"generate {tokens} tokens, at random",
        lambda: len(generate(ours, tokens, RANDOM)[0]),
        lambda: len(chapter.generate_text(theirs, PROMPT, tokens, temperature=1.0)[len(PROMPT) :]),
    )


def along_a_text(shape: ModelShape, places: Sequence[int], window: int) -> Iterator[Record]:
    """One text as long as the last place; the times of the tokens around each."""
    model, _ = make_models(shape)
    generation = Generation(model, [PROMPT], sampling=GREEDY, max_tokens=places[-1] + window, end_id=PAD)
    times, last = [], time.perf_counter()
    for _ in generation:
        now = time.perf_counter()
        times.append(now - last)
        last = now
    at = {
        place: Timing(f"a token after {place:,}", tuple(times[place - window : place + window]))
        for place in places
    }
    for place in places[1:]:
        what = at[place].name
        yield versus("C7", what, at[place], at[places[0]], shape=str(shape), dtype="float32")


def many_streams(
    settings: Settings, shape: ModelShape, model: NeuralLanguageModel, streams: int
) -> Iterator[Record]:
    """Seconds of a token, alone and among many; the one stream goes on for longer, so that it is well measured."""
    tokens, alone = 20, 200
    for name, sampling in (("greedy", GREEDY), ("at random", RANDOM)):
        one = Side("a token of one stream", partial(_beginning, model, alone, sampling, 1, tokens))
        many = Side("many", partial(_beginning, model, tokens, sampling, streams, tokens), tolerance=0)
        taken = race(one, many, seconds=settings.seconds / 2, least=5)
        yield versus(
            "C7",
            f"a token of {streams} streams, {name}",
            taken["many"].divided(tokens * streams),
            taken[one.name].divided(alone),
            shape=str(shape),
            dtype="float32",
            limit=settings.limits.seconds("float32", 2.0 * shape.vocab * shape.width),
            peer_limit=settings.limits.seconds("float32", 0, 4.0 * shape.parameters / 2),
        )


def _beginning(
    model: NeuralLanguageModel, tokens: int, sampling: Sampling, samples: int, compared: int
) -> list[int]:
    """What the first stream says first."""
    return generate(model, tokens, sampling, samples)[0][:compared]
