"""C7: generation with a carried state against reading the whole prefix again for each token.

The chapter's model at W1 and its `generate_text`, 50 and 500 tokens: chosen greedily, all of them must be equal;
drawn at random, only the time counts. Then whether a token costs the same however long the text is, on a model
with a byte's vocabulary, whose small output layer hides nothing: the text is written once, and from each place a
copy writes the next tokens again and again, which must be those of the text. Then 256 streams beside one: the first
stream must say what the one does.
"""

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from functools import partial
from itertools import islice

import torch
from torch import nn

from benchmarks.goals import CHAPTER
from benchmarks.race import Side, race
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
"""Tokens before those whose time is measured."""

WINDOW = 50
"""Tokens from such a place on that are timed together."""

BYTES = ModelShape(batch=1, time=1, width=128, vocab=260)


def run(settings: Settings) -> Iterator[Record]:
    """Against the chapter, along a text, and many streams."""
    shape = TINY if settings.quick else W1
    ours, theirs = make_models(shape)
    for tokens in (5, 9) if settings.quick else (50, 500):
        yield from against_chapter(settings, shape, ours, theirs, tokens)
    places = (20, 40) if settings.quick else PLACES
    yield from along_a_text(settings, BYTES, places, window=5 if settings.quick else WINDOW)
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

    def contest(what: str, own: Callable[[], object], their: Callable[[], object]) -> Record:
        taken = race(
            Side(CHAPTER, their), Side("elman", own, tolerance=0), seconds=settings.seconds / 2, **slow
        )
        facts = {"shape": str(shape), "dtype": "float32"}
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


def along_a_text(
    settings: Settings, shape: ModelShape, places: Sequence[int], window: int
) -> Iterator[Record]:
    """One text as long as the last place; then the tokens after each place, in turns."""
    model, _ = make_models(shape)
    text = Generation(model, [PROMPT], sampling=GREEDY, max_tokens=places[-1] + window, end_id=PAD)
    reference, sides, written = Side("the text itself", lambda: True), list[Side](), 0
    for place in places:
        next_tokens(text, place - written)
        here, expected = copy(text), next_tokens(text, window)
        written = place + window
        sides.append(Side(f"a token after {place:,}", partial(goes_on, here, expected), tolerance=0))
    taken = race(reference, *sides, seconds=settings.seconds / 2, least=20)
    first, *others = (taken[side.name].divided(window) for side in sides)
    for later in others:
        yield versus("C7", later.name, later, first, shape=str(shape), dtype="float32")


def next_tokens(generation: Generation, tokens: int) -> list[int]:
    """Of one stream."""
    return [step.token for steps in islice(generation, tokens) for step in steps]


def goes_on(here: Generation, expected: list[int]) -> bool:
    """Whether a greedy text goes on as it did; `here` stays where it is.

    All that a generation carries from token to token is replaced, never changed, so that a shallow copy is free.
    """
    return next_tokens(copy(here), len(expected)) == expected


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
            limit=settings.limits.seconds("float32", shape.token_flop),
        )


def _beginning(
    model: NeuralLanguageModel, tokens: int, sampling: Sampling, samples: int, compared: int
) -> list[int]:
    """What the first stream says first."""
    return generate(model, tokens, sampling, samples)[0][:compared]
