"""A training that is kept and put back goes on to the bit, whatever it trains and on however many ranks."""

import dataclasses
import json
import os
from itertools import combinations

import pytest
import safetensors.torch
import torch

from elman.config import ModelConfig, OptimizerConfig, TrainingConfig
from elman.data.batches import DocumentLoader, StreamLoader
from elman.data.store import store_from_ids
from elman.errors import DivergedError, ModelError
from elman.models.base import map_state, select_rows, tensors_in
from elman.models.build import build, tensors_of
from elman.ranks import Ranks
from elman.train.budget import Budget
from elman.train.guard import Guard
from elman.train.loop import Training, train
from elman.train.objective import Objective
from elman.train.optimizer import make_optimizer
from elman.train.recorded_step import make_step
from elman.train.snapshot import put_back, take
from tests.contract.families import FAMILIES, VOCAB_SIZE
from tests.seed import same_seed  # noqa: F401 - autouse
from tests.switches import torch_as_before  # noqa: F401 - autouse

PAD, START, END = 2, 0, 1
STREAMS, KEPT_AT, LAST = 6, 3, 7

STORE = store_from_ids(
    [[3 + (i * j + j) % 8 for j in range(i % 9)] for i in range(40)], start_id=START, end_id=END
)

DROPOUT = {"dropout": 0.3, "embedding_dropout": 0.2}

CASES: dict[str, tuple[ModelConfig, dict[str, object]]] = {
    **{name: (dataclasses.replace(config, **DROPOUT), {}) for name, config in FAMILIES.items()},
    "weights dropped": (
        ModelConfig(cell="lstm", embedding_dim=4, hidden_size=4, weight_dropout=0.4, locked_dropout=True),
        {},
    ),
    "documents": (FAMILIES["lstm-untied-equal-1"], {"batches": "documents"}),
    "documents by length": (FAMILIES["gru-tied-different-3"], {"batches": "documents", "bucket": True}),
    "sampled": (FAMILIES["lstm-untied-equal-1"], {"loss": "sampled", "negatives": 4, "exact_share": 0.2}),
    "rows": (
        dataclasses.replace(FAMILIES["lstm-untied-equal-1"], **DROPOUT),
        {"loss": "sampled", "negatives": 3, "row_sparse": True},
    ),
    "tied rows": (FAMILIES["gru-tied-different-3"], {"loss": "sampled", "negatives": 3, "row_sparse": True}),
}

LEARNING = OptimizerConfig(learning_rate=0.05, warmup=0.3)


def make(case: str, seed: int = 0) -> Training:
    """A training before its first step."""
    config, given = CASES[case]
    sparse = bool(given.get("row_sparse"))
    settings = TrainingConfig(
        max_steps=LAST, **{name: value for name, value in given.items() if name != "row_sparse"}
    )
    torch.manual_seed(seed)
    model = build(config, VOCAB_SIZE, PAD).train()
    model.embedding.sparse = sparse
    if settings.batches == "streams":
        loader = StreamLoader(STORE, STREAMS, 4, pad_id=PAD)
    else:
        loader = DocumentLoader(STORE, STREAMS, None, pad_id=PAD, bucket=settings.bucket)
    optimizer = make_optimizer(model, dataclasses.replace(LEARNING, row_sparse=sparse))
    return Training(model, loader, optimizer, Objective(settings, STORE, VOCAB_SIZE))


def go(training: Training, last: int) -> list[float]:
    """Train on until `last` steps are done; the losses."""
    losses: list[float] = []

    def observe(result):
        losses.append(result.loss.item())
        return result.step == last

    take_step = make_step(training.model, training.optimizer, LEARNING.clip_norm, torch.float32)
    budget = Budget(TrainingConfig(max_steps=LAST), 1)
    train(training, LEARNING, take_step, budget, Guard(training.model), observe)
    return losses


def everything(training: Training) -> dict[str, bytes]:
    """All that its next step depends on."""
    return take(training, {}, {})


def lanes(files: dict[str, bytes]) -> list[torch.Tensor]:
    found = safetensors.torch.load(files["lanes.safetensors"])
    return [found[str(number)] for number in range(len(found))]


# ---- to the bit -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_a_training_put_back_goes_on_as_if_nothing_had_been(case):
    whole = make(case)
    losses = go(whole, LAST)

    first = make(case)
    before = go(first, KEPT_AT)
    files = everything(first)
    after = go(first, LAST)
    assert before + after == losses  # keeping it has changed nothing

    torch.manual_seed(99)
    second = make(case, seed=5)
    go(second, 2)  # not even one that has learnt something else leaves a trace
    second.optimizer = make_optimizer(
        second.model, dataclasses.replace(LEARNING, row_sparse=second.model.embedding.sparse)
    )
    assert put_back(second, {}, files) == {}
    assert everything(second) == files
    assert go(second, LAST) == after
    found, expected = everything(second), everything(whole)
    assert [name for name in expected if found[name] != expected[name]] == []
    assert len(set(losses)) == LAST


@pytest.mark.parametrize("case", ["lstm-untied-equal-1", "rows", "documents"])
def test_taking_draws_nothing_and_changes_nothing(case):
    training = make(case)
    for step in (0, 1, KEPT_AT):
        if step:
            go(training, step)
        weights = {name: tensor.clone() for name, tensor in tensors_of(training.model).items()}
        generator = torch.get_rng_state()
        files = everything(training)
        assert everything(training) == files
        assert torch.equal(torch.get_rng_state(), generator)
        assert all(torch.equal(tensor, weights[name]) for name, tensor in tensors_of(training.model).items())
        assert json.loads(files["trainer.json"])["step"] == step


def test_a_training_that_has_not_begun_can_be_kept():
    files = everything(make("lstm-untied-equal-1"))
    expected = go(make("lstm-untied-equal-1"), LAST)
    second = make("lstm-untied-equal-1", seed=3)
    put_back(second, {}, files)
    assert second.state is None
    assert go(second, LAST) == expected


def test_the_best_weights_and_the_other_parts_travel_along():
    class Part:
        def __init__(self, value):
            self.value = value

        def state_dict(self):
            return {"value": self.value}

        def load_state_dict(self, state):
            self.value = state["value"]

    training = make("lstm-untied-equal-1")
    best = {name: tensor.detach() + 1 for name, tensor in tensors_of(training.model).items()}
    training.ease = 0.5
    files = take(training, best, {"one": Part([1, None]), "two": Part("x")})
    again, parts = make("lstm-untied-equal-1", seed=1), {"two": Part(0), "one": Part(0)}
    found = put_back(again, parts, files)
    assert found.keys() == best.keys()
    assert all(torch.equal(found[name], best[name]) for name in best)
    assert ([part.value for part in parts.values()], again.ease) == (["x", [1, None]], 0.5)


def test_no_file_is_a_pickle():
    training = make("rows")
    go(training, KEPT_AT)
    for name, payload in everything(training).items():
        if name.endswith(".json"):
            json.loads(payload)
        else:
            assert name.endswith(".safetensors")
            safetensors.torch.load(payload)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_not_kept(value):
    training = make("lstm-untied-equal-1")
    with torch.no_grad():
        training.model.head.bias[3] = value
    with pytest.raises(DivergedError, match=r"step 0: head.bias is not finite; lower learning_rate"):
        everything(training)


# ---- another training ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kept() -> dict[str, dict[str, bytes]]:
    """Files of every training, after a few steps."""
    found = {}
    for case in CASES:
        training = make(case)
        go(training, 2)
        found[case] = everything(training)
    return found


def shapes(case: str) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors_of(make(case).model).items()}


def test_the_files_of_another_model_are_refused(kept):
    refused = 0
    for one, other in combinations(FAMILIES, 2):
        if shapes(one) == shapes(other):
            continue
        with pytest.raises(ModelError, match="does not fit this training: .*; start a new run") as caught:
            put_back(make(one), {}, kept[other])
        assert "\n" not in str(caught.value)
        refused += 1
    assert refused > 100


@pytest.mark.parametrize("name", ["model", "optimizer", "lanes"])
@pytest.mark.parametrize("other", ["elman-untied-equal-1", "gru-untied-equal-1", "lstm-tied-different-3"])
def test_one_file_of_another_model_is_refused(kept, other, name):
    for mine, theirs in [("lstm-untied-equal-1", other), (other, "lstm-untied-equal-1")]:
        files = kept[mine] | {f"{name}.safetensors": kept[theirs][f"{name}.safetensors"]}
        with pytest.raises(ModelError, match="does not fit this training"):
            put_back(make(mine), {}, files)


def test_states_of_more_or_fewer_parts_are_refused(kept):
    alike = ["lstm-untied-equal-1", "slstm-untied-equal-1"]
    assert shapes(alike[0]) == shapes(alike[1])  # so nothing but the state tells them apart
    for mine, theirs in [alike, alike[::-1]]:
        with pytest.raises(ModelError, match=r"a state has \d parts, not \d"):
            put_back(make(mine), {}, kept[theirs])


@pytest.mark.parametrize("name", ["model", "best", "optimizer", "rng", "lanes", "trainer"])
@pytest.mark.parametrize(
    "payload", [b"", b"{}", b"[]", b"\x80\x04.", b"\0" * 100, b'{"step": "x"}', None], ids=repr
)
def test_what_is_no_such_file_is_refused(kept, name, payload):
    files = dict(kept["lstm-untied-equal-1"])
    (name,) = [file for file in files if file.startswith(name)]
    if payload is None:
        del files[name]
    else:
        files[name] = payload
    with pytest.raises(ModelError, match="does not fit this training"):
        put_back(make("lstm-untied-equal-1"), {}, files)


# ---- ranks ------------------------------------------------------------------------------------------------


class Link:
    """Ranks one after another: each is first asked for what it gives, and then told what all of them gave."""

    def __init__(self) -> None:
        self.given: list[list[object]] = []
        self.told: int | None = None

    def gather(self, value):
        if self.told is None:
            self.given[-1].append(value)
            return [value]
        self.told += 1
        return [each[self.told - 1] for each in self.given]


def take_on(size: int, training: Training, generators: list[torch.Tensor]) -> dict[str, bytes]:
    """The files, where each of `size` ranks has its share of the streams, and random numbers of its own."""
    link = Link()

    def part(rank):
        torch.set_rng_state(generators[rank])
        ranks = Ranks(rank, size, _link=link)
        return dataclasses.replace(training, state=select_rows(training.state, ranks.share(STREAMS))), ranks

    for rank in range(size):
        link.given.append([])
        mine, ranks = part(rank)
        take(mine, {}, {}, ranks)
    found = []
    for rank in range(size):
        link.told = 0
        mine, ranks = part(rank)
        found.append(take(mine, {}, {}, ranks))
    assert all(files == found[0] for files in found)
    return found[0]


def generators(count: int) -> list[torch.Tensor]:
    return [torch.Generator().manual_seed(100 + number).get_state() for number in range(count)]


@pytest.mark.parametrize(
    "case", ["lstm-untied-equal-1", "transformer-tied-different-2", "slstm-xlstm-untied-equal-2"]
)
@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_streams_are_kept_whole_and_dealt_to_any_number_of_ranks(case, size):
    training = make(case)
    go(training, KEPT_AT)
    state = map_state(torch.clone, training.state)
    alone = everything(training)
    files = take_on(size, training, generators(size))
    assert {name for name in files if files[name] != alone[name]} <= {"rng.safetensors"}
    for tensor, expected in zip(lanes(files), tensors_in(state), strict=True):
        assert torch.equal(tensor, expected)
        assert tensor.dtype == expected.dtype
    for others in (1, 2, 3, 6):
        for rank in range(others):
            again, ranks = make(case, seed=1), Ranks(rank, others)
            put_back(again, {}, files, ranks)
            expected = select_rows(state, ranks.share(STREAMS))
            for tensor, rows in zip(tensors_in(again.state), tensors_in(expected), strict=True):
                assert torch.equal(tensor, rows)
                assert tensor.dtype == rows.dtype


def test_every_rank_finds_its_own_random_numbers_again():
    training, own = make("sampled"), generators(3)
    go(training, KEPT_AT)
    negatives = training.objective.generator.get_state()
    files = take_on(3, training, own)
    for rank in range(4):
        again = make("sampled", seed=8)
        fresh = torch.get_rng_state()
        put_back(again, {}, files, Ranks(rank, 4))
        assert torch.equal(torch.get_rng_state(), own[rank] if rank < 3 else fresh)
        assert torch.equal(again.objective.generator.get_state(), negatives)


def test_one_goes_on_with_what_several_have_kept():
    training = make("weights dropped")
    go(training, KEPT_AT)
    now = torch.get_rng_state()
    files = take_on(2, training, [now, generators(1)[0]])
    torch.set_rng_state(now)
    expected = go(training, LAST)
    again = make("weights dropped", seed=4)
    put_back(again, {}, files)
    assert go(again, LAST) == expected


def test_nothing_is_written_by_itself(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    everything(make("lstm-untied-equal-1"))
    assert os.listdir(tmp_path) == []
