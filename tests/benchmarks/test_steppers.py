"""The steps that are timed are those of the loops: same losses, step by step."""

from contextlib import contextmanager
from itertools import cycle

import pytest
import torch

from benchmarks.shapes import TINY, token_batches
from benchmarks.steppers import (
    PAD,
    chapter_model,
    chapter_step,
    linear_cross_entropy,
    production_model,
    production_step,
    stock_model,
    stock_step,
)
from elman import chapter
from elman.config import PRESETS, TrainingConfig
from elman.data.batches import Batch
from elman.data.store import store_from_ids
from elman.train.budget import Budget
from elman.train.guard import Guard
from elman.train.loop import Training, train
from elman.train.objective import Objective
from elman.train.optimizer import make_optimizer
from elman.train.recorded_step import make_step
from tests.switches import torch_as_before  # noqa: F401 - autouse

STEPS = 6

BATCHES = token_batches(TINY, 3)


@pytest.fixture
def losses_of_the_chapter():
    return chapter.train(chapter_model(TINY), BATCHES, learning_rate=1e-3, num_epochs=2, pad_index=PAD)


def test_the_chapter_s_step_is_the_body_of_its_loop(losses_of_the_chapter):
    step = chapter_step(chapter_model(TINY), BATCHES)
    assert [step() for _ in range(STEPS)] == losses_of_the_chapter


class Loader:
    """The batches, as the loop wants them."""

    carries_state = False

    def __iter__(self):
        for inputs, targets in cycle(BATCHES):
            reset = torch.zeros_like(inputs, dtype=torch.bool).index_fill_(1, torch.tensor(0), True)
            yield Batch(inputs, targets, reset, torch.ones_like(reset), inputs, inputs)

    def state_dict(self):
        return {}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_our_step_is_the_body_of_our_loop(dtype):
    config = PRESETS["chapter"].optimizer
    model = production_model(chapter_model(TINY), TINY)
    seen = []

    def observe(result):
        seen.append(result.loss.item())
        return len(seen) == STEPS

    optimizer = make_optimizer(model, config)
    settings, text = TrainingConfig(max_steps=100), store_from_ids([[3, 4]], start_id=1, end_id=2)
    training = Training(model.train(), Loader(), optimizer, Objective(settings, text, TINY.vocab))
    take_step = make_step(model, optimizer, config.clip_norm, dtype)
    train(training, config, take_step, Budget(settings, 1), Guard(model), observe)
    step = production_step(production_model(chapter_model(TINY), TINY), BATCHES, dtype)
    assert [step() for _ in range(STEPS)] == pytest.approx(seen, rel=1e-6)


@pytest.mark.parametrize("chunk", [None, 4, 1024])
def test_ours_and_stock_learn_what_the_chapter_learns(losses_of_the_chapter, chunk):
    own = production_step(production_model(chapter_model(TINY), TINY), BATCHES)
    stock = stock_step(stock_model(chapter_model(TINY)), BATCHES, chunk)
    for step in (own, stock):
        assert [step() for _ in range(STEPS)] == pytest.approx(losses_of_the_chapter, rel=1e-5)
    assert losses_of_the_chapter[3] < losses_of_the_chapter[0]  # the same batch again


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_stock_s_chunks_change_nothing(chunk):
    torch.manual_seed(0)
    hidden, weight, bias = torch.randn(20, 4), torch.randn(9, 4), torch.randn(9)
    targets = torch.randint(9, (20,))
    plain = linear_cross_entropy(hidden, weight, bias, targets, None)
    assert linear_cross_entropy(hidden, weight, bias, targets, chunk).item() == pytest.approx(plain.item())


def test_stock_multiplies_as_it_is_told_forward_and_backward():
    seen = []

    @contextmanager
    def noted():
        handle = model.fc.weight.register_hook(lambda gradient: seen.append("backward"))
        seen.append("begin")
        yield
        seen.append("end")
        handle.remove()

    model = stock_model(chapter_model(TINY))
    step = stock_step(model, BATCHES, None, noted)
    step()
    step()
    assert seen == ["begin", "backward", "end"] * 2
