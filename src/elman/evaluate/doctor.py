"""The axioms of a language model, checked on the model itself.

    sums to one      sum over v of P(v | context) = 1, for random contexts
    score            score = -log_probs at the target
    causality        a prediction does not depend on what comes after it
    cutting          a sequence cut anywhere, the state passed on, gives what the whole gives
    step by step     and so does one token at a time
    reset            a document after a reset is predicted as at the very beginning
    padding          what stands after a document changes nothing in it
    batch order      the order of the rows in a batch is the order of the results, nothing more
    batch size       a text scores the same alone and in company
    state            using a state does not change it

Only the protocol of `models.base` is used, so every family answers to the same list.

Axes: B batch, T time, V vocabulary.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from elman.models.base import LanguageModel, map_state, select_rows

TOLERANCE = 1e-4
"""Nats. Float32 sums in another order differ by less; a fault of logic by far more."""

SUM_TOLERANCE = 1e-5
"""Of a sum of probabilities, taken in float64."""

BATCH, LENGTH = 4, 24


@dataclass(frozen=True, slots=True)
class Check:
    """One axiom and how far the model is from it."""

    name: str
    value: float
    """The largest deviation found."""
    limit: float
    """What is allowed."""
    detail: str = ""
    """What was measured, in words."""

    @property
    def passed(self) -> bool:
        """Whether the deviation is within the limit; a NaN is not."""
        return self.value <= self.limit


@torch.no_grad()
def check_model(model: LanguageModel, *, seed: int = 0) -> list[Check]:
    """Every axiom, for random token sequences drawn with `seed`."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(model.vocab_size, (BATCH, LENGTH), generator=generator).to(model.device)
    return [
        Check(name, value, SUM_TOLERANCE if name == "sums to one" else TOLERANCE, detail)
        for axiom in AXIOMS
        for name, value, detail in axiom(model, tokens, generator)
    ]


Finding = tuple[str, float, str]


def _sums_to_one(model: LanguageModel, tokens: Tensor, _: torch.Generator) -> Iterator[Finding]:
    log_probs, _state = model.log_probs(tokens, model.initial_state(BATCH))
    sums = log_probs.double().exp().sum(dim=-1)
    yield "sums to one", _largest(sums, 1.0), f"largest |sum - 1| over {sums.numel()} contexts"


def _score_is_log_probability(model: LanguageModel, tokens: Tensor, _: torch.Generator) -> Iterator[Finding]:
    contexts, targets = tokens[:, :-1], tokens[:, 1:]
    log_probs, _state = model.log_probs(contexts, model.initial_state(BATCH))
    nats, _state = model.score(contexts, targets, model.initial_state(BATCH))
    expected = -log_probs.gather(2, targets[:, :, None]).squeeze(2)
    yield "score", _largest(nats, expected), "largest |score + log P(target)|, nats"


def _causality(model: LanguageModel, tokens: Tensor, _: torch.Generator) -> Iterator[Finding]:
    middle = LENGTH // 2
    changed = tokens.clone()
    changed[:, middle:] = (changed[:, middle:] + 1) % model.vocab_size
    before, _state = model.log_probs(tokens, model.initial_state(BATCH))
    after, _state = model.log_probs(changed, model.initial_state(BATCH))
    difference = _largest(before[:, :middle], after[:, :middle])
    yield "causality", difference, f"change of the first {middle} predictions when later tokens change, nats"


def _cutting(model: LanguageModel, tokens: Tensor, _: torch.Generator) -> Iterator[Finding]:
    whole, _state = model.log_probs(tokens, model.initial_state(BATCH))
    pieces = []
    for cut in (1, 7, LENGTH - 1):
        head, state = model.log_probs(tokens[:, :cut], model.initial_state(BATCH))
        tail, _state = model.log_probs(tokens[:, cut:], state)
        pieces.append(torch.cat([head, tail], dim=1))
    worst = _largest(torch.stack(pieces), whole)
    yield "cutting", worst, "largest change when a sequence is cut and its state passed on, nats"

    state, steps = model.initial_state(BATCH), []
    for t in range(LENGTH):
        step, state = model.log_probs(tokens[:, t : t + 1], state)
        steps.append(step)
    difference = _largest(torch.cat(steps, dim=1), whole)
    yield "step by step", difference, "largest change when tokens come one at a time, nats"


def _reset(model: LanguageModel, tokens: Tensor, _: torch.Generator) -> Iterator[Finding]:
    middle = LENGTH // 2
    reset = torch.zeros_like(tokens, dtype=torch.bool)
    reset[:, middle] = True
    joined, _state = model.log_probs(tokens, model.initial_state(BATCH), reset)
    alone, _state = model.log_probs(tokens[:, middle:], model.initial_state(BATCH))
    yield "reset", _largest(joined[:, middle:], alone), "largest trace of the document before, nats"


def _padding(model: LanguageModel, tokens: Tensor, generator: torch.Generator) -> Iterator[Finding]:
    more = torch.randint(model.vocab_size, (BATCH, 9), generator=generator).to(model.device)
    short, _state = model.score(tokens[:, :-1], tokens[:, 1:], model.initial_state(BATCH))
    padded = torch.cat([tokens, more], dim=1)
    long, _state = model.score(padded[:, :-1], padded[:, 1:], model.initial_state(BATCH))
    yield (
        "padding",
        _largest(long[:, : LENGTH - 1], short),
        "largest change by what follows a document, nats",
    )


def _batches(model: LanguageModel, tokens: Tensor, _: torch.Generator) -> Iterator[Finding]:
    together, _state = model.log_probs(tokens, model.initial_state(BATCH))
    flipped, _state = model.log_probs(tokens.flip(0), model.initial_state(BATCH))
    yield "batch order", _largest(flipped.flip(0), together), "largest change when rows change places, nats"
    alone = [model.log_probs(tokens[row : row + 1], model.initial_state(1))[0] for row in range(BATCH)]
    yield "batch size", _largest(torch.cat(alone), together), "largest change when rows come alone, nats"


def _state_is_a_value(model: LanguageModel, tokens: Tensor, _: torch.Generator) -> Iterator[Finding]:
    _head, state = model.log_probs(tokens[:, :5], model.initial_state(BATCH))
    saved = map_state(Tensor.clone, state)
    first, _state = model.log_probs(tokens[:, 5:], state)
    model.log_probs(tokens.flip(0), select_rows(saved, slice(None)))
    second, _state = model.log_probs(tokens[:, 5:], state)
    yield "state", _largest(first, second), "largest change when a state is used a second time, nats"


AXIOMS: tuple[Callable[[LanguageModel, Tensor, torch.Generator], Iterator[Finding]], ...] = (
    _sums_to_one,
    _score_is_log_probability,
    _causality,
    _cutting,
    _reset,
    _padding,
    _batches,
    _state_is_a_value,
)


def _largest(found: Tensor, expected: Tensor | float) -> float:
    """The largest absolute difference; NaN if there is one, for then no axiom holds.

    Equal infinities do not differ: what can never follow has the same log-probability both times.
    """
    difference = (found - expected).abs().masked_fill(found == expected, 0.0)
    return float(difference.max()) if difference.numel() else 0.0
