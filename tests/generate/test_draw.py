"""A draw inverts the sum of the distribution as it is defined, whatever shortcut it takes."""

import math
from itertools import accumulate

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from elman.errors import ConfigError, InputError, ModelError
from elman.generate.draw import AHEAD, BLOCK, GUESSES, Uniforms, invert, sample
from elman.generate.sampling import Sampling, distribution, generator

# Quarters, so that ties are common; one value is finite at least.
scores = st.lists(
    st.one_of(st.integers(-40, 40).map(lambda n: n / 4), st.just(-math.inf)), min_size=1, max_size=12
).filter(lambda values: max(values) > -math.inf)
shares = st.floats(0, 1, exclude_max=True)


def for_all(*strategies):
    """`given` without a limit on the time of one example, as the first call of an operator can be slow."""
    return lambda test: settings(deadline=None)(given(*strategies)(test))


def row(values: list[float]) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


def uniforms(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def agrees(drawn: Tensor, probabilities: Tensor, share: Tensor, slack: float) -> bool:
    """Whether each id is the one at which the running sum passes its share, or a neighbour within `slack`."""
    until = probabilities.cumsum(1)
    at = drawn[:, None]
    above = (until.gather(1, at) >= share[:, None] - slack).all()
    below = ((until - probabilities).gather(1, at) <= share[:, None] + slack).all()
    return bool(above and below and (probabilities.gather(1, at) > 0).all())


FILTERS = {
    "plain": Sampling(),
    "warm": Sampling(temperature=1.4),
    "cold": Sampling(temperature=0.3),
    "one": Sampling(top_k=1),
    "top-k": Sampling(top_k=40),
    "wide top-k": Sampling(top_k=1500),
    "top-p": Sampling(top_p=0.8),
    "wide top-p": Sampling(temperature=3.0, top_p=0.97),
    "min-p": Sampling(min_p=0.05),
    "all": Sampling(temperature=0.9, top_k=300, top_p=0.9, min_p=0.01, repetition_penalty=1.3),
}


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("vocab_size", [7, BLOCK, 3 * BLOCK + 5, 3000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("tied", [False, True])
def test_a_draw_is_where_the_defined_distribution_passes_the_share(name, vocab_size, dtype, tied):
    rng = generator(5, 0)
    logits = 3 * torch.randn(40, vocab_size, generator=rng, dtype=dtype)
    logits[1] = 0.1 * logits[1]  # nearly flat: its nucleus is nearly everything
    logits[2] *= 10
    if tied:
        logits = logits.round()
    seen = torch.rand(40, vocab_size, generator=rng) < 0.2
    share = torch.rand(40, dtype=torch.float64, generator=rng)
    share[3], share[4] = 0.0, 1 - 2**-53
    banned = [0, 5]
    sampling = FILTERS[name]
    before = logits.clone()
    drawn = sample(logits, sampling, share, seen=seen, banned=torch.tensor(banned))
    assert torch.equal(logits, before)
    slack = 2e-6 if dtype == torch.float32 else 1e-12
    assert agrees(drawn, distribution(logits, sampling, seen=seen, banned=banned), share, slack)


def test_a_nucleus_larger_than_every_guess_is_found():
    vocab_size = 4 * GUESSES[-1]
    flat_and_peaked = torch.zeros(2, vocab_size)
    flat_and_peaked[1, 7] = 50.0
    rows = flat_and_peaked.repeat(300, 1)
    ids = sample(rows, Sampling(top_p=0.9), (torch.arange(600) // 2) / 300.0 + uniforms(1e-3)).view(300, 2)
    size = math.ceil(0.9 * vocab_size)
    assert ids[:, 1].tolist() == [7] * 300
    assert 0.99 * size < ids[:, 0].max() < size
    assert ids[0, 0] < 0.01 * size


@pytest.mark.parametrize("sampling", [Sampling(top_k=5), Sampling(top_p=0.5)])
def test_equals_at_the_edge_are_kept_by_the_lowest_ids(sampling):
    logits = torch.zeros(200, 10)
    ids = sample(logits, sampling, torch.arange(200, dtype=torch.float64) / 200)
    assert set(ids.tolist()) == set(range(5))


def test_a_row_does_not_depend_on_the_rows_beside_it():
    rng = generator(1, 0)
    logits = 4 * torch.randn(6, 3000, generator=rng)
    logits[5] = 0  # its nucleus makes everything be ranked
    share = torch.rand(6, dtype=torch.float64, generator=rng)
    for sampling in FILTERS.values():
        together = sample(logits, sampling, share).tolist()
        assert together == [sample(logits[i : i + 1], sampling, share[i : i + 1]).item() for i in range(6)]


@for_all(st.lists(st.integers(0, 5), min_size=1, max_size=3 * BLOCK), shares)
def test_inverting_is_the_first_sum_above_the_share(counts, share):
    assume(sum(counts) > 0)
    until, target = list(accumulate(counts)), share * sum(counts)
    assume(target == 0 or all(abs(running - target) > 1e-9 for running in until))
    place = next(place for place, running in enumerate(until) if running > target)
    assert invert(row(counts), uniforms(share)).tolist() == [place]
    assert invert(row(counts).float(), uniforms(share)).tolist() == [place]


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1), (0.4999, 1), (0.5, 3), (1 - 2**-53, 3)])
def test_the_ends_of_the_share_never_reach_a_token_without_mass(share, expected):
    assert invert(row([0.0, 0.5, 0.0, 0.5, 0.0]), uniforms(share)).tolist() == [expected]


def test_the_last_share_of_many_blocks_is_the_last_token_with_mass():
    weights = torch.rand(50, 9 * BLOCK, generator=generator(2, 0))
    weights[:, 8 * BLOCK - 3 :] = 0
    last = invert(weights, torch.full((50,), 1 - 2**-53, dtype=torch.float64))
    assert (last < 8 * BLOCK - 3).all()
    assert (last > 8 * BLOCK - 10).all()
    assert (invert(weights, torch.zeros(50, dtype=torch.float64)) == 0).all()


def test_rare_tokens_keep_their_share():
    # Each of them is 2 ** -28 of the first, and adding it to a sum near one in float32 would change nothing.
    tail = 2**20
    weights = torch.full((1, tail), 2.0**-28)
    weights[0, 0] = 1.0
    for part in (0.1, 0.5, 0.99):
        share = (1 + part * 2**-8) / (1 + 2**-8)
        assert invert(weights, uniforms(share)).item() == pytest.approx(part * tail, abs=BLOCK)


@for_all(scores, st.integers(1, 5), st.floats(0.01, 1), st.floats(0, 1))
def test_temperature_zero_is_argmax_and_ignores_the_filters(values, k, p, min_p):
    best = max(range(len(values)), key=lambda i: (values[i], -i))
    for chosen in (Sampling(temperature=0), Sampling(temperature=0, top_k=k, top_p=p, min_p=min_p)):
        assert sample(row(values), chosen, None).tolist() == [best]


def test_penalty_and_ban_apply_at_temperature_zero():
    log_probs = row([0.5, 0.3, 0.2]).log()
    seen = torch.tensor([[True, False, False]])
    greedy, penalised = Sampling(temperature=0), Sampling(temperature=0, repetition_penalty=3.0)
    assert sample(log_probs, greedy, None, seen=seen).tolist() == [0]
    assert sample(log_probs, penalised, None, seen=seen).tolist() == [1]
    assert sample(log_probs, penalised, None, seen=seen, banned=torch.tensor([1])).tolist() == [2]


@for_all(scores, st.sampled_from([5e-324, 1e-310, 1e-30, 1e30, 1.7e308]), shares)
def test_extreme_temperatures_draw_what_is_possible(values, temperature, share):
    logits = torch.tensor([values])
    (drawn,) = sample(logits, Sampling(temperature=temperature), uniforms(share)).tolist()
    assert values[drawn] > -math.inf
    if temperature < 1:
        assert values[drawn] == max(values)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_without_a_possible_token_is_an_error(temperature):
    chosen, share = Sampling(temperature=temperature), uniforms(0.1, 0.2)
    with pytest.raises(InputError, match="^no token is left"):
        sample(torch.tensor([[0.0, 1.0], [-math.inf, -math.inf]]), chosen, share)
    with pytest.raises(InputError, match="^no token is left"):
        sample(torch.zeros(2, 2), chosen, share, banned=torch.tensor([0, 1]))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_that_is_not_a_distribution_is_an_error(bad, temperature):
    with pytest.raises(ModelError, match=f"^the model's distribution holds {bad}"):
        sample(torch.tensor([[0.0, 1.0], [0.0, bad]]), Sampling(temperature=temperature), uniforms(0.1, 0.2))


def test_a_random_draw_without_numbers_is_an_error():
    with pytest.raises(ConfigError, match=r"temperature \(1.0\)"):
        sample(torch.zeros(1, 3), Sampling(), None)


def chi_square(counts: list[int], expected: list[float]) -> float:
    return math.fsum((n - m) ** 2 / m for n, m in zip(counts, expected, strict=True))


def test_draws_follow_the_filtered_distribution():
    probabilities = [0.02, 0.2, 0.07, 0.25, 0.01, 0.12, 0.08, 0.05, 0.15, 0.03, 0.015, 0.005]
    # By hand: square (temperature 1/2); the six largest; of those 0.25, 0.2, 0.15 and 0.12 first reach 90 %
    # (91.5 %, after 83.9 %); and 0.12 ** 2 is 0.2304 of 0.25 ** 2, the only one below 0.3.
    survivors = {1: 0.2**2, 3: 0.25**2, 8: 0.15**2}
    chosen = Sampling(temperature=0.5, top_k=6, top_p=0.9, min_p=0.3)
    draws = 20_000
    log_probs = row(probabilities).log().expand(draws, -1)
    ids = sample(log_probs, chosen, torch.rand(draws, dtype=torch.float64, generator=generator(12, 0)))
    counts = torch.bincount(ids, minlength=12).tolist()
    assert {i for i, n in enumerate(counts) if n} == set(survivors)
    expected = [draws * mass / sum(survivors.values()) for mass in survivors.values()]
    assert chi_square([counts[i] for i in survivors], expected) < 13.82  # 2 degrees of freedom, 99.9 %


def test_a_stream_is_that_of_its_generator_whatever_leaves_beside_it():
    streams = Uniforms(7, [0, 1, 2, 5])
    expected = {index: generator(7, index) for index in (0, 1, 2, 5)}

    def following(index: int) -> float:
        return torch.rand(1, dtype=torch.float64, generator=expected[index]).item()

    for _ in range(AHEAD + 3):
        assert next(streams).tolist() == [following(index) for index in (0, 1, 2, 5)]
    streams.keep([0, 3])
    for _ in range(2 * AHEAD):
        assert next(streams).tolist() == [following(index) for index in (0, 5)]


def test_first_numbers_of_many_streams_are_uniform():
    streams, bins = 4000, 10
    counts = torch.histc(next(Uniforms(5, range(streams))), bins, 0, 1).int().tolist()
    statistic = chi_square(counts, [streams / bins] * bins)
    # 9 degrees of freedom, 0.1 % and 99.9 %: neither clumped nor evenly spaced
    assert 1.15 < statistic < 27.88
