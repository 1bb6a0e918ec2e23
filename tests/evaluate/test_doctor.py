"""The doctor passes every model of ours, and for each axiom finds a model that breaks it."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor

from elman.config import ModelConfig
from elman.evaluate.doctor import Check, check_model
from elman.models.build import CELLS, build
from elman.models.contexts import ContextState, initial_contexts, read_contexts
from tests.contract.families import FAMILIES, OTHERS, make_language_model

VOCABULARY = 11
AXIOMS = {
    *("sums to one", "score", "causality", "cutting", "step by step", "reset", "padding"),
    *("batch order", "batch size", "state"),
}


class Sound:
    """A small sound model: P(v | the last token and how many came before it in the document).

    The state is [B, 2], the last token and the count, so that every fake below has something to break.
    """

    vocab_size = VOCABULARY
    device = torch.device("cpu")

    def __init__(self) -> None:
        self.table = torch.randn(
            7, VOCABULARY + 1, VOCABULARY, generator=torch.Generator().manual_seed(3)
        ).log_softmax(dim=-1)

    def initial_state(self, batch_size: int) -> Tensor:
        return torch.tensor([VOCABULARY, 0]).repeat(batch_size, 1)

    def histories(self, tokens: Tensor, state: Tensor, reset: Tensor | None) -> tuple[Tensor, Tensor]:
        """The token before each token, and the count: [B, T, 2]; and the state after the last."""
        found = []
        for t in range(tokens.shape[1]):
            if reset is not None:
                state = torch.where(reset[:, t, None], self.initial_state(len(tokens)), state)
            found.append(state)
            state = torch.stack([tokens[:, t], state[:, 1] + 1], dim=1)
        return torch.stack(found, dim=1), state

    def log_probs(self, tokens, state, reset=None):
        before, after = self.histories(tokens, state, reset)
        own = self.table[(before[..., 1] + 1) % 7, tokens]
        earlier = self.table[before[..., 1] % 7, before[..., 0]]
        return (own + earlier).log_softmax(dim=-1), after

    def score(self, tokens, targets, state, reset=None):
        log_probs, after = self.log_probs(tokens, state, reset)
        return -log_probs.gather(2, targets[..., None]).squeeze(2), after


class Unnormalised(Sound):
    """Backs off without the back-off weight, as count models are often written: the sum exceeds one."""

    def log_probs(self, tokens, state, reset=None):
        log_probs, after = super().log_probs(tokens, state, reset)
        seen = log_probs > -math.log(VOCABULARY)
        return torch.where(seen, log_probs, self.table[0, 0].expand_as(log_probs)), after


class BacksOffByFrequency(Sound):
    """The count model of textbooks: the relative frequency in the longest context in which the token was seen.

        P(w | u) = count(u w) / count(u)  if it is above zero, else P(w | u'),  and at last (count(w) + 1) / (N + V)

    Each of these is a share of something, but of different wholes: over all w they sum to more than one.
    """

    ORDER = 3

    def __init__(self) -> None:
        text = np.random.default_rng(0).choice(VOCABULARY, 400, p=np.arange(1, 12) / 66).tolist()
        self.counts = Counter(
            tuple(text[i : i + n]) for n in range(1, self.ORDER + 1) for i in range(len(text) - n + 1)
        )
        self.total = len(text)

    def initial_state(self, batch_size: int) -> ContextState:
        return initial_contexts(batch_size, self.ORDER - 1)

    def probability(self, word: int, context: tuple[int, ...]) -> float:
        for start in range(len(context)):
            suffix = context[start:]
            if seen := self.counts[(*suffix, word)]:
                return seen / self.counts[suffix]
        return (self.counts[(word,)] + 1) / (self.total + VOCABULARY)

    def log_probs(self, tokens, state, reset=None):
        contexts, after = read_contexts(tokens, state, reset)
        rows = [
            [self.probability(word, tuple(c for c in context if c >= 0)) for word in range(VOCABULARY)]
            for context in contexts.flatten(0, 1).tolist()
        ]
        return torch.tensor(rows).log().unflatten(0, tokens.shape), after


class ScoresOtherwise(Sound):
    """Its score is that of probabilities that are smoothed a little."""

    def score(self, tokens, targets, state, reset=None):
        nats, after = super().score(tokens, targets, state, reset)
        return -((-nats).exp() * 0.99 + 0.01 / VOCABULARY).log(), after


class SeesTheFuture(Sound):
    """Normalises its input over time, later tokens included."""

    def log_probs(self, tokens, state, reset=None):
        log_probs, after = super().log_probs(tokens, state, reset)
        sharpness = 1 + tokens.double().mean(dim=1) / VOCABULARY
        return (log_probs * sharpness[:, None, None]).float().log_softmax(dim=-1), after


class StartsAnewAtEveryCall(Sound):
    """Ignores the state it is given."""

    def log_probs(self, tokens, state, reset=None):
        return super().log_probs(tokens, self.initial_state(len(tokens)), reset)


class LosesTheLastToken(Sound):
    """Carries a count that is one short, which only cutting can show."""

    def histories(self, tokens, state, reset):
        found, after = super().histories(tokens, state, reset)
        return found, after - torch.tensor([0, 1])


class IgnoresReset(Sound):
    """Never forgets."""

    def log_probs(self, tokens, state, reset=None):
        return super().log_probs(tokens, state, None)


class LeaksBetweenRows(Sound):
    """Normalises over the batch, as a batch norm in training mode does."""

    def log_probs(self, tokens, state, reset=None):
        log_probs, after = super().log_probs(tokens, state, reset)
        return (log_probs - log_probs.mean(dim=0, keepdim=True) / 2).log_softmax(dim=-1), after


class PrefersTheFirstRow(Sound):
    """Treats row 0 otherwise: the broadcasting slip."""

    def log_probs(self, tokens, state, reset=None):
        log_probs, after = super().log_probs(tokens, state, reset)
        return torch.cat([(log_probs[:1] * 1.1).log_softmax(dim=-1), log_probs[1:]]), after


class KeepsState(Sound):
    """Remembers the last token of the call before on itself."""

    remembered = 0

    def log_probs(self, tokens, state, reset=None):
        log_probs, after = super().log_probs(tokens, state, reset)
        log_probs = (log_probs + 0.1 * self.remembered * self.table[0, 0]).log_softmax(dim=-1)
        self.remembered = int(tokens[0, -1])
        return log_probs, after


class ChangesItsState(Sound):
    """Writes the new state over the one it was given."""

    def log_probs(self, tokens, state, reset=None):
        log_probs, after = super().log_probs(tokens, state, reset)
        state.copy_(after)
        return log_probs, after


class NotANumber(Sound):
    """One NaN in every answer, as an overflow leaves it."""

    def log_probs(self, tokens, state, reset=None):
        log_probs, after = super().log_probs(tokens, state, reset)
        log_probs[0, -1, :] = math.nan
        return log_probs, after


class NeverSaysSome(Sound):
    """Gives two entries no chance at all, as padding has none: their log-probability is minus infinity."""

    def log_probs(self, tokens, state, reset=None):
        log_probs, after = super().log_probs(tokens, state, reset)
        log_probs[..., :2] = -math.inf
        return log_probs.log_softmax(dim=-1), after


class NeverSaysSomeAtFirst(NeverSaysSome):
    """And does so only where the call begins."""

    def log_probs(self, tokens, state, reset=None):
        log_probs, after = Sound.log_probs(self, tokens, state, reset)
        log_probs[:, 0, :2] = -math.inf
        return log_probs.log_softmax(dim=-1), after


def failures(model) -> set[str]:
    return {check.name for check in check_model(model) if not check.passed}


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("tied", [False, True])
def test_our_models_pass(cell, tied, seed):
    torch.manual_seed(seed)
    config = ModelConfig(
        cell=cell, embedding_dim=8, hidden_size=12, num_layers=2, dropout=0.5, tie_embeddings=tied
    )
    model = build(config, VOCABULARY, pad_index=2).eval()
    checks = check_model(model, seed=seed)
    assert {check.name for check in checks} == AXIOMS
    assert not [check for check in checks if not check.passed]
    assert all(0 <= check.value <= check.limit for check in checks)
    assert all(check.detail for check in checks)


@pytest.mark.parametrize("name", [*FAMILIES, *OTHERS])
def test_every_family_passes(name):
    torch.manual_seed(0)
    model = make_language_model(name, torch.float32)
    assert not [check for check in check_model(model) if not check.passed]


def test_how_far_from_one_the_sums_are_is_said():
    (check,) = [check for check in check_model(BacksOffByFrequency()) if check.name == "sums to one"]
    assert check.value > 0.1


def test_a_sound_model_that_is_none_of_ours_passes():
    assert failures(Sound()) == set()


def test_what_can_never_follow_is_no_difference():
    model = NeverSaysSome()
    assert model.log_probs(torch.zeros(1, 3, dtype=torch.long), model.initial_state(1))[0].isinf().any()
    assert failures(model) == set()


def test_what_can_follow_only_sometimes_is_one():
    assert {"cutting", "step by step", "reset"} <= failures(NeverSaysSomeAtFirst())


def test_a_model_that_still_drops_out_fails():
    torch.manual_seed(0)
    model = build(ModelConfig(dropout=0.5, embedding_dim=8, hidden_size=12), VOCABULARY, pad_index=2)
    assert {"state", "causality", "batch order"} <= failures(model.train())


@pytest.mark.parametrize(
    ("fake", "broken"),
    [
        (Unnormalised, {"sums to one"}),
        (BacksOffByFrequency, {"sums to one"}),
        (ScoresOtherwise, {"score"}),
        (SeesTheFuture, {"causality", "cutting", "step by step", "reset", "padding"}),
        (StartsAnewAtEveryCall, {"cutting", "step by step"}),
        (LosesTheLastToken, {"cutting", "step by step"}),
        (IgnoresReset, {"reset"}),
        (LeaksBetweenRows, {"batch size"}),
        (PrefersTheFirstRow, {"batch order", "batch size"}),
        (KeepsState, {"score", "causality", "state", "batch order"}),
        (ChangesItsState, {"state"}),
        (NotANumber, AXIOMS - {"causality", "padding"}),  # those look away from the end
    ],
)
def test_each_fault_is_found(fake, broken):
    found = failures(fake())
    assert broken <= found
    if len(broken) == 1:
        assert found == broken  # and nothing else is blamed


def test_every_axiom_is_broken_by_some_fake():
    fakes = set(Sound.__subclasses__()) - {NotANumber}
    assert set().union(*(failures(fake()) for fake in fakes)) == AXIOMS


def test_a_nan_passes_nothing():
    assert not Check("any", math.nan, 1.0).passed
    assert not Check("any", math.inf, 1.0).passed
    assert Check("any", 1.0, 1.0).passed


def test_the_seed_decides_what_is_tried():
    values = [[check.value for check in check_model(Unnormalised(), seed=seed)] for seed in (0, 0, 1)]
    assert values[0] == values[1] != values[2]


def test_the_doctor_leaves_the_generator_of_torch_alone():
    before = torch.get_rng_state()
    check_model(Sound(), seed=5)
    assert torch.equal(torch.get_rng_state(), before)
