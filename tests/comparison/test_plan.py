"""The plan of a comparison: what it refuses, how wide models get, which trainings there are."""

import math
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elman.compare.plan import (
    DECIDED,
    LEARNING_RATES,
    MODELS,
    SWEEP_SHARE,
    Plan,
    all_jobs,
    base_config,
    seed_jobs,
    solve_width,
    sweep_jobs,
)
from elman.errors import ConfigError
from elman.models.build import CELLS, build_empty, count_parameters
from elman.settings import parse_count, setting_sections

VOCABULARY = 2048
NETWORKS = [name for name in MODELS if name != "ngram"]


def config_of(model, **overrides):
    return base_config(model, overrides).model


def parameters_of(config, vocab_size=VOCABULARY):
    return count_parameters(build_empty(config, vocab_size, pad_index=0))


@cache
def solved(model, params):
    return solve_width(config_of(model), params, VOCABULARY)


def test_every_cell_is_compared():
    assert set(CELLS) <= set(MODELS)


@pytest.mark.parametrize("params", [300_000, 1_000_000, 5_000_000])
@pytest.mark.parametrize("model", NETWORKS)
def test_a_model_is_as_wide_as_the_budget_allows_and_no_wider(model, params):
    config = solved(model, params)
    assert config.embedding_dim == config.hidden_size
    assert parameters_of(config) <= params
    step = math.lcm(8, 2 * config.num_heads)
    assert config.hidden_size % step == 0
    wider = type(config)(
        **{name: getattr(config, name) for name in config.__dataclass_fields__}
        | {"hidden_size": config.hidden_size + step, "embedding_dim": config.embedding_dim + step}
    )
    assert parameters_of(wider) > params
    # The rest of the shape is that of the recipe.
    assert (config.num_layers, config.block) == (config_of(model).num_layers, config_of(model).block)


@pytest.mark.parametrize("model", NETWORKS)
def test_more_parameters_make_no_narrower_model(model):
    widths = [solved(model, params).hidden_size for params in (300_000, 1_000_000, 5_000_000)]
    assert widths == sorted(widths)
    assert widths[0] < widths[-1]


@pytest.mark.parametrize("heads", [1, 3, 8])
@pytest.mark.parametrize("model", ["slstm", "mlstm", "transformer"])
def test_every_head_has_an_even_share(model, heads):
    config = solve_width(config_of(model, num_heads=heads), 500_000, 300)
    assert config.hidden_size % (2 * heads) == 0
    assert 0 < parameters_of(config, 300) <= 500_000


@given(st.integers(30_000, 3_000_000))
def test_the_width_is_monotone_in_the_budget(params):
    config = config_of("elman")
    below, above = (solve_width(config, budget, 300) for budget in (params, params + 10_000))
    assert parameters_of(below, 300) <= params
    assert below.hidden_size <= above.hidden_size


@pytest.mark.parametrize("model", NETWORKS)
def test_the_smallest_model_is_named_and_exactly_possible(model):
    with pytest.raises(ConfigError, match=rf"params \(10\) is too small for {model}") as caught:
        solve_width(config_of(model), 10, VOCABULARY)
    smallest = int(str(caught.value).split("--params ")[1].split()[0])
    assert parameters_of(solve_width(config_of(model), smallest, VOCABULARY)) == smallest
    with pytest.raises(ConfigError):
        solve_width(config_of(model), smallest - 1, VOCABULARY)


def test_an_ngram_model_has_no_width():
    config = config_of("ngram")
    assert solve_width(config, 1, VOCABULARY) is config


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"models": ()}, ("no models", "lstm")),
        ({"models": ("lstn",)}, ("lstn", "did you mean 'lstm'", "mingru")),
        ({"models": ("lstm", "gru", "lstm")}, ("once",)),
        ({"params": 0}, ("params (0)",)),
        ({"params": 10**13}, ("params",)),
        ({"seeds": 0}, ("seeds (0)",)),
        ({"time": 0.0}, ("time (0.0)",)),
        ({"time": math.nan}, ("time",)),
        ({"time": math.inf}, ("time",)),
        ({"tokens": 5}, ("one budget",)),
        ({"time": None}, ("one budget",)),
        ({"time": None, "tokens": 0}, ("tokens (0)",)),
        ({"learning_rate": 0.0}, ("learning_rate",)),
    ],
)
def test_what_cannot_be_planned(settings, parts):
    with pytest.raises(ConfigError) as caught:
        Plan(**settings)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize("name", DECIDED)
@pytest.mark.parametrize("dotted", [False, True])
def test_a_setting_that_would_be_ignored_is_refused(name, dotted):
    section = setting_sections()[name]
    given = f"{section}.{name}" if dotted else name
    with pytest.raises(ConfigError, match=f"^{given}: a comparison decides"):
        base_config("lstm", {given: 5})


def test_settings_reach_every_model():
    for model in MODELS:
        config = base_config(model, {"bptt": 7, "tie_embeddings": False})
        assert (config.model.name, config.training.bptt, config.model.tie_embeddings) == (model, 7, False)


def configs_of(models):
    return {model: base_config(model, {"batch_size": 4, "bptt": 16}) for model in models}


def test_every_network_gets_the_same_tries_and_seeds():
    plan = Plan(models=("ngram", "lstm", "window"), seeds=3, time=8.0)
    configs = configs_of(plan.models)
    trials = sweep_jobs(plan, configs)
    assert [(job.model, job.config.optimizer.learning_rate) for job in trials] == [
        (model, rate) for model in ("lstm", "window") for rate in LEARNING_RATES
    ]
    assert {job.config.training.seed for job in trials} == {0}
    assert {job.config.training.max_time for job in trials} == {8.0 * SWEEP_SHARE}
    assert all(job.is_trial for job in trials)
    rows = seed_jobs(plan, "lstm", configs["lstm"], 0.5)
    assert [job.config.training.seed for job in rows] == [0, 1, 2]
    assert {job.config.optimizer.learning_rate for job in rows} == {0.5}
    assert {(job.config.training.max_time, job.share, job.is_trial) for job in rows} == {(8.0, 1.0, False)}
    [counted] = seed_jobs(plan, "ngram", configs["ngram"], None)
    assert (counted.share, counted.is_trial) == (0.0, False)


@pytest.mark.parametrize("tokens", [1, 64, 65, 2000])
def test_a_budget_of_tokens_is_the_fewest_whole_steps_that_hold_it(tokens):
    plan = Plan(models=("lstm",), time=None, tokens=tokens)
    training = seed_jobs(plan, "lstm", configs_of(["lstm"])["lstm"], 0.1)[0].config.training
    assert (training.max_time, training.epochs) == (None, None)
    assert tokens <= training.max_steps * 64 < tokens + 64


def test_one_learning_rate_needs_no_trial():
    plan = Plan(models=("lstm",), learning_rate=0.1)
    assert sweep_jobs(plan, configs_of(plan.models)) == []
    assert [job.name for job in all_jobs(plan, configs_of(plan.models))] == [
        f"lstm-seed-{k}" for k in range(3)
    ]


def test_all_jobs_are_those_that_will_be_done_by_name_and_share():
    plan = Plan(models=("ngram", "lstm", "gru"), seeds=2)
    configs = configs_of(plan.models)
    jobs = sweep_jobs(plan, configs) + [
        job
        for name, config in configs.items()
        for job in seed_jobs(plan, name, config, None if name == "ngram" else 0.123)
    ]
    expected = [(job.name, job.model, job.share) for job in jobs]
    assert [(job.name, job.model, job.share) for job in all_jobs(plan, configs)] == expected
    assert len({name for name, _, _ in expected}) == len(expected) == 1 + 2 * (3 + 2)


@given(st.integers(0, 10**12), st.sampled_from(["", "k", "M"]))
def test_a_count_is_what_it_says(number, unit):
    scale = {"": 1, "k": 1_000, "M": 1_000_000}[unit]
    assert parse_count("params", f"{number}{unit}") == number * scale
    # Exact where a float is not: 1.001 times a million is 1000999.9999999999.
    assert parse_count("params", f"{number // 1000}.{number % 1000:03}M") == number * 1_000
    assert parse_count("params", number) == number


@pytest.mark.parametrize(
    "text", ["", "k", "-5", "1.5", "1.0005k", "1e6", "2G", "ten", "1.", "nan", True, "9" * 30]
)
def test_a_count_that_is_none(text):
    with pytest.raises(ConfigError, match="^tokens: .* is not a whole number; write"):
        parse_count("tokens", text)
