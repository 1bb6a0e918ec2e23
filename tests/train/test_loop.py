"""The loop learns, carries what it should, stops when told, and is the chapter's loop on the chapter's settings."""

import copy
import math
from itertools import islice

import pytest
import torch

from elman import chapter
from elman.config import PRESETS, ModelConfig, OptimizerConfig, TrainingConfig
from elman.data.batches import DocumentLoader, StreamLoader
from elman.data.store import store_from_ids
from elman.errors import DivergedError
from elman.models.base import tensors_in
from elman.models.build import build
from elman.models.convert import to_chapter
from elman.train.budget import Budget
from elman.train.guard import Guard
from elman.train.loop import StepResult, Training, train
from elman.train.objective import Objective
from elman.train.optimizer import learning_rate, make_optimizer
from elman.train.recorded_step import make_step

PAD, START, END, VOCAB = 0, 1, 2, 11

PATTERN = store_from_ids([[3, 4, 5, 4, 6] * 6] * 4, start_id=START, end_id=END)
UNEVEN = store_from_ids(
    [[3 + (i * j) % 7 for j in range(i % 6)] for i in range(20)], start_id=START, end_id=END
)


class Watch:
    """Keeps every result; asks to stop after `stop` steps."""

    def __init__(self, stop: float = math.inf) -> None:
        self.results: list[StepResult] = []
        self.stop = stop

    def __call__(self, result: StepResult) -> bool:
        self.results.append(result)
        return len(self.results) >= self.stop

    @property
    def losses(self) -> list[float]:
        return [result.loss.item() for result in self.results]


class Batches:
    """A list of batches as a loader."""

    carries_state = False

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)

    def state_dict(self):
        return {}


def network(seed: int = 0, **shape):
    torch.manual_seed(seed)
    return build(ModelConfig(**{"cell": "lstm", "embedding_dim": 8, "hidden_size": 8} | shape), VOCAB, PAD)


def streams(store=PATTERN, batch_size=2, bptt=7):
    return StreamLoader(store, batch_size, bptt, pad_id=PAD)


def learn(
    model, loader, config, budget, watch, optimizer=None, product_dtype=torch.float32, **step
) -> Training:
    """`train` with everything that it takes."""
    optimizer = optimizer or make_optimizer(model, config)
    training = Training(
        model.train(), loader, optimizer, Objective(TrainingConfig(max_steps=1), PATTERN, VOCAB)
    )
    take_step = make_step(model, optimizer, config.clip_norm, product_dtype, **step)
    train(training, config, take_step, budget, Guard(model), watch)
    return training


def run(model, loader, *, steps=5, watch=None, optimizer=None, parts=1, **settings) -> Watch:
    watch = watch or Watch()
    budget = Budget(TrainingConfig(max_steps=steps), 1)
    training = learn(model, loader, OptimizerConfig(**settings), budget, watch, optimizer, parts=parts)
    assert training.step == len(watch.results)
    return watch


# ---- learning -------------------------------------------------------------------------------------------


def test_it_learns_a_pattern():
    watch = run(network(), streams(), steps=120, learning_rate=0.03)
    assert watch.losses[0] == pytest.approx(math.log(VOCAB), rel=0.2)
    assert watch.losses[-1] < 0.2


@pytest.mark.parametrize("loader", [streams, lambda: DocumentLoader(UNEVEN, 6, 5, pad_id=PAD)])
def test_the_loss_is_the_mean_over_what_counts(loader):
    model, batch = network(num_layers=1), next(iter(loader()))
    with torch.no_grad():
        log_probs, _ = model.log_probs(batch.inputs, model.initial_state(len(batch.inputs)), batch.reset)
        nats = -log_probs.gather(2, batch.targets[..., None]).squeeze(2)[batch.counted]
    (result,) = run(model, loader(), steps=1).results
    assert result.loss.item() == pytest.approx(nats.mean().item(), rel=1e-5)
    assert result.targets == len(nats)
    assert not result.loss.requires_grad


@pytest.mark.parametrize("clip_norm", [0.01, 0.1, None])
def test_gradients_are_clipped_before_the_update(clip_norm):
    model = network()
    before = copy.deepcopy(model)
    sgd = torch.optim.SGD(model.parameters(), lr=1.0)
    settings = {"learning_rate": 1.0, "schedule": "constant", "clip_norm": clip_norm}
    (result,) = run(model, streams(), steps=1, optimizer=sgd, **settings).results
    moved = math.sqrt(
        sum(
            (p - q).square().sum().item()
            for p, q in zip(model.parameters(), before.parameters(), strict=True)
        )
    )
    norm = result.gradient_norm.item()
    assert norm > 0.1  # of the gradient before clipping
    assert moved == pytest.approx(norm if clip_norm is None else clip_norm, rel=1e-3)


def test_every_step_has_its_rate():
    settings = {"learning_rate": 0.5, "warmup": 0.25}
    watch = run(network(), streams(), steps=8, **settings)
    config = OptimizerConfig(**settings)
    assert [result.learning_rate for result in watch.results] == [
        learning_rate(config, i / 8) for i in range(8)
    ]
    assert [result.used for result in watch.results] == [(i + 1) / 8 for i in range(8)]
    assert [result.step for result in watch.results] == list(range(1, 9))


def test_the_rate_reaches_the_optimizer():
    """The first step of AdamW moves every weight that has a gradient by the rate, a tenth of 0.5 here."""
    model = network()
    before = copy.deepcopy(model.state_dict())
    run(model, streams(), steps=2, watch=Watch(stop=1), learning_rate=0.5, warmup=0.5, weight_decay=0.0)
    moved = max((value - before[name]).abs().max() for name, value in model.state_dict().items())
    assert moved.item() == pytest.approx(0.05, rel=1e-3)


def test_products_may_be_coarser_and_the_weights_are_not():
    exact, coarse = network(), network()
    fine = run(exact, streams(), steps=3)
    config, watch = OptimizerConfig(), Watch()
    budget = Budget(TrainingConfig(max_steps=3), 1)
    learn(coarse, streams(), config, budget, watch, product_dtype=torch.bfloat16)
    assert watch.losses == pytest.approx(fine.losses, rel=0.02)
    assert watch.losses != fine.losses
    assert {parameter.dtype for parameter in coarse.parameters()} == {torch.float32}
    assert {result.loss.dtype for result in watch.results} == {torch.float32}


# ---- the state ------------------------------------------------------------------------------------------


def record_states(model, monkeypatch):
    """What goes into `loss` as the state, and what comes out."""
    given, returned = [], []
    real = model.loss

    def loss(tokens, targets, state, *rest):
        given.append(state)
        nats, state = real(tokens, targets, state, *rest)
        returned.append(state)
        return nats, state

    monkeypatch.setattr(model, "loss", loss)
    return given, returned


def test_streams_carry_their_state_without_its_history(monkeypatch):
    model = network()
    given, returned = record_states(model, monkeypatch)
    run(model, streams(), steps=5)
    assert all(not tensor.any() for tensor in tensors_in(given[0]))
    for before, after in zip(returned, given[1:], strict=False):
        for one, other in zip(tensors_in(before), tensors_in(after), strict=True):
            assert torch.equal(one, other)
            assert not other.requires_grad
            assert other.any()


def test_documents_begin_with_a_fresh_state(monkeypatch):
    model, loader = network(), DocumentLoader(UNEVEN, 6, 5, pad_id=PAD)
    given, _ = record_states(model, monkeypatch)
    run(model, loader, steps=loader.steps_per_epoch)
    assert [len(tensors_in(state)[0]) for state in given] == [6, 6, 6, 2]
    assert not any(tensor.any() for state in given for tensor in tensors_in(state))


# ---- the end --------------------------------------------------------------------------------------------


def test_it_stops_when_told():
    watch = Watch(stop=3)
    assert run(network(), streams(), steps=10, watch=watch).results[-1].step == 3


def test_time_ends_it():
    now = [0.0]

    class Slow(Batches):
        def __iter__(self):
            for batch in self.batches:
                now[0] += 3.0
                yield batch

    model = network()
    config = OptimizerConfig()
    budget = Budget(TrainingConfig(max_time=10.0), 1, clock=lambda: now[0])
    loader = Slow(list(islice(streams(), 9)))
    assert learn(model, loader, config, budget, Watch()).step == 4


@pytest.mark.parametrize("clip_norm", [1.0, None])
def test_gradients_that_are_no_numbers_make_no_updates_and_end_it(clip_norm):
    model = network()
    kept = {}

    def observe(result):
        if result.step == 3:
            with torch.no_grad():
                model.head.bias[5] = math.nan
            kept.update(copy.deepcopy(model.state_dict()))
        return False

    config = OptimizerConfig(clip_norm=clip_norm, learning_rate=0.25)
    budget = Budget(TrainingConfig(max_steps=20), 1)
    with pytest.raises(
        DivergedError, match=r"^step 7: 4 of the last 7 steps .*\(loss nan nats.*lower learning_rate"
    ):
        learn(model, streams(), config, budget, observe)
    for name, value in model.state_dict().items():
        assert torch.equal(value.nan_to_num(), kept[name].nan_to_num()), name


@pytest.mark.parametrize("parts", [2, 3, 4, 9])
@pytest.mark.parametrize(
    "make", [lambda: streams(batch_size=4), lambda: DocumentLoader(UNEVEN, 6, 5, pad_id=PAD)]
)
def test_a_batch_in_parts_gives_the_update_of_the_whole(make, parts):
    whole, divided = network().double(), network().double()
    losses, same = run(whole, make(), steps=6).losses, run(divided, make(), steps=6, parts=parts).losses
    assert same == pytest.approx(losses, rel=1e-12)
    for one, other in zip(whole.parameters(), divided.parameters(), strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-12)


# ---- the same again -------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_weights():
    def trained(seed):
        model = network(seed, dropout=0.3)
        watch = run(model, streams(), steps=6)
        return watch.losses, model.state_dict()

    (losses, weights), (again, same_weights), (other, _) = trained(1), trained(1), trained(2)
    assert losses == again
    assert losses != other
    assert all(torch.equal(weights[name], same_weights[name]) for name in weights)


def test_on_the_chapters_settings_it_is_the_chapters_loop():
    preset, steps = PRESETS["chapter"], 20
    texts = [[3 + (i * i + j * i + j) % (VOCAB - 3) for j in range(i % 40)] for i in range(8 * steps)]
    store = store_from_ids(texts, start_id=START, end_id=END)
    loader = DocumentLoader(store, 8, preset.training.max_length, pad_id=PAD, seed=preset.training.seed)
    batches = list(islice(loader, steps))
    assert max(batch.inputs.shape[1] for batch in batches) == preset.training.max_length - 1
    assert any((batch.inputs == PAD).any() for batch in batches)

    torch.manual_seed(0)
    model = build(preset.model, VOCAB, PAD)
    plain = to_chapter(model)
    budget = Budget(TrainingConfig(max_steps=steps), 1)
    watch = Watch()
    learn(model, Batches(batches), preset.optimizer, budget, watch)

    pairs = [(batch.inputs, batch.targets) for batch in batches]
    losses = chapter.train(plain, pairs, learning_rate=preset.optimizer.learning_rate, pad_index=PAD)
    assert len(losses) == steps
    assert watch.losses == pytest.approx(losses, abs=1e-4)
    assert losses[-1] < losses[0] - 0.1  # both have moved
    for ours, theirs in zip(to_chapter(model).parameters(), plain.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-3)
