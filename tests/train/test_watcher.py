"""What is recorded hangs on the steps and never on the clock; what is kept is the best, and a NaN is never that."""

import copy
import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from elman.config import ModelConfig, RunConfig, TrainingConfig
from elman.data.store import store_from_ids
from elman.models.build import build, tensors_of
from elman.ranks import Ranks
from elman.train.budget import Budget, is_marked
from elman.train.loop import StepResult
from elman.train.watcher import Watcher

STORE = store_from_ids([[3, 4, 5]] * 10, start_id=0, end_id=1)

FOLDER = Path(__file__).parent
"""Stands for the folder of a run; nothing is written into it."""

MODEL = build(ModelConfig(cell="elman", embedding_dim=2, hidden_size=2, num_layers=1), 7, 2)


class Scene:
    """A watcher among stand-ins: a clock, a log, a text model whose scores are given."""

    def __init__(self, steps: int = 40, validations: int = 4, scores=(), first: bool = True) -> None:
        self.now, self.records, self.shown, self.saved, self.events = 100.0, [], [], [], []
        self.scores = iter(scores)
        self.steps = steps
        self.model = copy.deepcopy(MODEL).train()
        config = RunConfig(training=TrainingConfig(max_steps=steps, validations=validations))
        self.budget = Budget(config.training, 1, lambda: self.now)
        self.watcher = Watcher(
            config=config,
            model=self.model,
            text_model=SimpleNamespace(score_store=self.score, save=self.save),
            valid=STORE,
            budget=self.budget,
            progress=SimpleNamespace(update=lambda used, **numbers: self.shown.append(numbers["step"])),
            folder=FOLDER if first else None,
            log=SimpleNamespace(write=self.records.append),
            ranks=Ranks() if first else Ranks(1, 2),
            settle=lambda: self.events.append("settled"),
        )

    def score(self, store, ranks):
        assert not self.model.training
        assert ranks is self.watcher.ranks
        self.now += 1000.0  # which is no time of training
        self.events.append("scored")
        nats = next(self.scores, 1.0)
        return SimpleNamespace(nats=nats, bits_per_byte=nats / 10, perplexity=nats * 10)

    def save(self, folder, card):
        self.saved.append((folder, card, int(self.model.head.bias[0])))

    def step(self, number: int, seconds: float = 1.0, over: bool | None = None) -> None:
        """One step of training, after which the weights say its number."""
        with torch.no_grad():
            self.model.head.bias.fill_(number)
        self.now += seconds
        loss, norm = torch.tensor(5.0 / number), torch.tensor(0.5)
        over = number == self.steps if over is None else over
        self.watcher(StepResult(number, number / self.steps, over, loss, 8, norm, 0.1))

    @property
    def trained(self) -> list[int]:
        return [record["step"] for record in self.records if "loss" in record]

    @property
    def validated(self) -> list[int]:
        return [record["step"] for record in self.records if "valid_perplexity" in record]


# ---- records ----------------------------------------------------------------------------------------------


@given(steps=st.integers(1, 130), pace=st.sampled_from([1e-4, 0.01, 0.3, 7.0]))
def test_the_steps_that_are_recorded_do_not_hang_on_the_clock(steps, pace):
    scene = Scene(steps)
    for number in range(1, steps + 1):
        scene.step(number, pace)
    assert scene.trained == [step for step in range(1, steps + 1) if is_marked(step) or step == steps]


def test_the_line_for_people_does():
    slow, quick = Scene(), Scene()
    for number in range(1, 41):
        slow.step(number, 1.0)
        quick.step(number, 0.125)
    assert slow.shown == list(range(1, 41))
    assert quick.shown[0] == 1
    assert 10 <= len(quick.shown) < 20
    assert slow.trained == quick.trained


def test_a_record_holds_what_its_step_did():
    scene = Scene(validations=1)
    for number in range(1, 41):
        scene.step(number, 2.0)
    record = next(record for record in scene.records if record["step"] == 20)
    assert record == {
        "step": 20,
        "seconds": 40.0,
        "tokens": 160,
        "used": 0.5,
        "loss": 0.25,
        "learning_rate": 0.1,
        "gradient_norm": 0.5,
        "tokens_per_second": 4.0,
    }


@given(cut=st.integers(0, 59), pace=st.sampled_from([0.125, 3.0]))
def test_a_watcher_that_is_kept_writes_the_lines_of_one_that_was_never_stopped(cut, pace):
    scores = [3.0, 2.0, math.nan, 5.0, 1.5, 4.0]

    def go(scene, first, last):
        for number in range(first, last + 1):
            scene.step(number, pace * (1 + number % 7))

    whole, first = Scene(60, 6, scores), Scene(60, 6, scores)
    go(whole, 1, 60)
    go(first, 1, cut)
    kept = json.loads(json.dumps([first.budget.state_dict(), first.watcher.state_dict()]))
    second = Scene(60, 6, list(first.scores))
    second.now += 777.0
    second.budget.load_state_dict(kept[0])
    second.watcher.load_state_dict(kept[1])
    second.watcher.best_weights = first.watcher.best_weights
    second.watcher.used = cut / 60
    go(second, cut + 1, 60)
    assert [*map(str, first.records + second.records)] == [*map(str, whole.records)]
    assert second.watcher.best == whole.watcher.best
    for name, weight in whole.watcher.best_weights.items():
        assert torch.equal(weight, second.watcher.best_weights[name])


# ---- validation -------------------------------------------------------------------------------------------


@given(steps=st.integers(1, 100), validations=st.integers(1, 12))
def test_validations_are_spread_evenly(steps, validations):
    scene = Scene(steps, validations)
    for number in range(1, steps + 1):
        scene.step(number)
    due = {math.ceil(part * steps / validations) for part in range(1, validations)} - {steps}
    found = scene.validated
    assert len(found) == len(due)
    assert all(abs(one - other) <= 1 for one, other in zip(found, sorted(due), strict=True))  # by rounding
    assert steps not in found  # the end is validated by who knows that it is the end
    scene.watcher.validate(steps)
    scene.watcher.validate(steps)
    assert scene.validated == [*found, steps]


def test_a_jump_over_several_moments_is_one_validation():
    scene = Scene(40, 8)
    scene.step(1)
    scene.step(33)
    scene.step(34)
    assert scene.validated == [33]


def test_weights_are_settled_before_they_are_scored_and_time_stands_still():
    scene = Scene(40, 2)
    for number in range(1, 31):
        scene.step(number)
    assert scene.events == ["settled", "scored"]
    assert scene.model.training
    assert scene.budget.seconds == 30.0
    (record,) = [record for record in scene.records if "valid_perplexity" in record]
    assert record == {
        "step": 20,
        "seconds": 20.0,
        "tokens": 160,
        "valid_bits_per_byte": 0.1,
        "valid_perplexity": 10.0,
    }


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ([3.0, 2.0, 5.0, 2.0], 2),
        ([1.0, 2.0, 3.0, 4.0], 1),
        ([4.0, 3.0, 2.0, 1.0], 4),
        ([math.nan, 7.0, math.nan, 8.0], 2),
        ([5.0, math.nan, math.nan, math.nan], 1),
        ([math.inf, math.nan, 9.0, math.inf], 3),
        ([math.nan] * 4, None),
        ([math.inf] * 4, None),
    ],
)
def test_the_best_is_kept_and_what_is_no_number_never(scores, best):
    scene = Scene(40, 40, scores)
    for number in range(1, 5):
        scene.step(number)
    if best is None:
        assert scene.watcher.best_weights == {}
        assert scene.saved == []
        assert not math.isfinite(scene.watcher.best)
        return
    assert scene.watcher.best == scores[best - 1]
    weights = scene.watcher.best_weights
    assert weights.keys() == tensors_of(scene.model).keys()
    assert (weights["head.bias"] == best).all()
    folder, card, number = scene.saved[-1]
    assert (folder, number) == (FOLDER / "model", best)
    assert f"after {best} steps" in card
    scene.step(5, over=True)
    assert (weights["head.bias"] == best).all()  # a copy


def test_other_ranks_validate_and_count_and_write_nothing():
    scene, first = Scene(40, 4, first=False), Scene(40, 4)
    for number in range(1, 41):
        scene.step(number)
        first.step(number)
    assert scene.events == first.events
    assert scene.watcher.tokens == first.watcher.tokens == 320
    assert (scene.saved, scene.trained, scene.shown) == ([], [], [])
    assert scene.watcher.best == first.watcher.best
