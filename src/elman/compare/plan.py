"""What a comparison trains: the models at one size, the learning rates each may try, and the seeds.

Every model gets the same tokens and splits, the same budget of parameters, and the same budget of training. Its
learning rate is the best of a few on the held-out text, each tried at a quarter of the budget with the first
seed; the number of tries is the same for all (a sweep at equal cost), and none where one rate is given. Models
that are counted need neither budget nor seeds.

The width is solved for: embedding and hidden layers are equally wide and the output layer is the embedding, as
wide as the budget of parameters allows.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, get_args

from elman.config import (
    CellName,
    ModelConfig,
    RunConfig,
    require_integer,
    require_number,
    suggestion,
)
from elman.errors import ConfigError
from elman.models.build import build_empty, count_parameters
from elman.settings import resolve

MODELS: tuple[str, ...] = ("ngram", "window", *get_args(CellName), "transformer")
"""What is compared by default; each is a cell or a family."""

LEARNING_RATES = (3e-3, 8e-3, 2e-2)
"""Tried for every model."""

SWEEP_SHARE = 0.25
"""Of the budget, for each learning rate tried."""

MOST_PARAMETERS = 10**12
"""Far beyond any machine; keeps the search for a width within what numbers can address."""

VALIDATIONS = 5
"""On the way of a training, for the curves, each on VALID_TOKENS of the held-out text."""
VALID_TOKENS = 12_000

WIDTH_STEP = 8
"""Widths are multiples of it, and of twice the heads, so that each head has an even share."""

DECIDED = {
    **dict.fromkeys(("cell", "family"), "models"),
    **dict.fromkeys(("embedding_dim", "hidden_size"), "params"),
    **dict.fromkeys(("max_time", "max_steps", "epochs"), "time or tokens"),
    "seed": "seeds",
    "batches": "models alone, as all read streams",
}
"""Settings that a plan decides, and by which of its own; given beside it, they would be ignored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A comparison before it is made. A budget of training is of seconds or of tokens."""

    models: tuple[str, ...] = MODELS
    params: int = 1_000_000
    """Parameters of every model at most."""
    time: float | None = 20.0
    """Seconds of training."""
    tokens: int | None = None
    """Tokens of training."""
    seeds: int = 3
    learning_rate: float | None = None
    """For every model, instead of a sweep."""

    def __post_init__(self) -> None:
        """Check names and ranges.

        Raises:
            ConfigError: With the nearest model, or the range.
        """
        if not self.models:
            raise ConfigError(f"there are no models to compare; choose from {', '.join(MODELS)}")
        for name in self.models:
            if name not in MODELS:
                raise ConfigError(
                    f"unknown model {name!r}{suggestion(name, MODELS)}; there are: {', '.join(MODELS)}"
                )
        if len(set(self.models)) < len(self.models):
            raise ConfigError(f"models ({', '.join(self.models)}): each can be compared once")
        require_integer("params", self.params, at_least=1, at_most=MOST_PARAMETERS)
        require_integer("seeds", self.seeds, at_least=1, at_most=1000)
        if (self.time is None) == (self.tokens is None):
            raise ConfigError("a comparison has one budget: give time or tokens")
        if self.time is not None:
            require_number("time", self.time, above=0)
        if self.tokens is not None:
            require_integer("tokens", self.tokens, at_least=1)
        if self.learning_rate is not None:
            require_number("learning_rate", self.learning_rate, above=0, at_most=100)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "models": list(self.models)}

    @property
    def learning_rates(self) -> tuple[float, ...]:
        """Those to try; a single one needs no try."""
        return LEARNING_RATES if self.learning_rate is None else (self.learning_rate,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One training of a plan."""

    name: str
    """Of its folder and its result: `lstm-seed-1`, `lstm-lr-0.005`."""
    model: str
    config: RunConfig
    share: float
    """Of the budget; 0 for a model that is counted."""

    @property
    def is_trial(self) -> bool:
        """Whether it only says how good a learning rate is."""
        return 0 < self.share < 1


def base_config(model: str, overrides: dict[str, object]) -> RunConfig:
    """The settings of a training of `model`, but for its size, its learning rate and its seed.

    Raises:
        ConfigError: As for `settings.resolve`; or a setting that the plan decides.
    """
    for name in overrides:
        if (bare := name.rpartition(".")[2]) in DECIDED:
            raise ConfigError(f"{name}: a comparison decides it by {DECIDED[bare]}; leave it out")
    kind = {"cell": model} if model in get_args(CellName) else {"family": model}
    common: dict[str, object] = {
        "yardstick_order": None,
        "validations": VALIDATIONS,
        "valid_tokens": VALID_TOKENS,
        "tie_embeddings": True,
    }
    return resolve(overrides={**common, **overrides, **kind})


def solve_width(config: ModelConfig, params: int, vocab_size: int) -> ModelConfig:
    """The widest model of its kind with `params` parameters at most; an n-gram model as it is.

    Raises:
        ConfigError: Even the narrowest has more, with its number.
    """
    if config.family == "ngram":
        return config
    step = math.lcm(WIDTH_STEP, 2 * config.num_heads)

    def at(steps: int) -> ModelConfig:
        return replace(config, embedding_dim=steps * step, hidden_size=steps * step)

    def parameters(steps: int) -> int:
        return count_parameters(build_empty(at(steps), vocab_size, pad_index=0))

    if (smallest := parameters(1)) > params:
        raise ConfigError(
            f"params ({params:,}) is too small for {config.name}: with this vocabulary of {vocab_size:,} the"
            f" smallest has {smallest:,}; give --params {smallest} or more, or a smaller --vocab-size"
        )
    high = 2
    while parameters(high) <= params:
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if parameters(middle) <= params else (low, middle)
    return at(low)


def sweep_jobs(plan: Plan, configs: Mapping[str, RunConfig]) -> list[Job]:
    """The trainings that find the learning rates; none where there is nothing to choose."""
    if len(plan.learning_rates) == 1:
        return []
    return [
        _job(plan, model, config, f"lr-{rate:g}", rate, seed=0, share=SWEEP_SHARE)
        for model, config in configs.items()
        if config.model.family != "ngram"
        for rate in plan.learning_rates
    ]


def seed_jobs(plan: Plan, model: str, config: RunConfig, learning_rate: float | None) -> list[Job]:
    """The trainings of a row of the table; a model that is counted has one."""
    if learning_rate is None:
        return [Job(name=f"{model}-counts", model=model, config=config, share=0.0)]
    return [
        _job(plan, model, config, f"seed-{seed}", learning_rate, seed=seed, share=1.0)
        for seed in range(plan.seeds)
    ]


def all_jobs(plan: Plan, configs: Mapping[str, RunConfig]) -> list[Job]:
    """Every training by its name, its model and its share; the learning rates of the rows are not known yet."""
    jobs = sweep_jobs(plan, configs)
    for model, config in configs.items():
        jobs += seed_jobs(
            plan, model, config, None if config.model.family == "ngram" else plan.learning_rates[0]
        )
    return jobs


def _job(
    plan: Plan, model: str, config: RunConfig, label: str, learning_rate: float, *, seed: int, share: float
) -> Job:
    training = config.training
    steps = None
    if plan.tokens is not None:
        steps = max(1, math.ceil(plan.tokens * share / (training.batch_size * training.bptt)))
    return Job(
        name=f"{model}-{label}",
        model=model,
        config=replace(
            config,
            optimizer=replace(config.optimizer, learning_rate=learning_rate),
            training=replace(
                training,
                seed=seed,
                max_time=None if plan.time is None else plan.time * share,
                max_steps=steps,
                epochs=None,
                validations=training.validations if share == 1 else 1,  # a trial has no curve to show
            ),
        ),
        share=share,
    )
