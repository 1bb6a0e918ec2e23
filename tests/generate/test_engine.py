"""Generation carries state exactly, costs one step a token, and keeps its rows apart."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from elman.errors import ConfigError, InputError
from elman.generate import engine as engine_module
from elman.generate.engine import PROMPT_CHUNK, Generation, Step, absorb
from elman.generate.sampling import Sampling
from elman.models.base import LanguageModel, map_state

VOCAB, CONTEXTS, START, END = 11, 97, 0, 1
GREEDY = Sampling(temperature=0)


class Counts(NamedTuple):
    tokens: Tensor


class Memory(NamedTuple):
    context: Tensor
    nested: tuple[Counts, list[Tensor]]


class Rolling:
    """A table of distributions, read at a rolling hash of every token so far, so a slip in the state shows.

    It records the shape of each call and the state it got. All arithmetic is exact, whatever the batch.
    """

    vocab_size = VOCAB
    device = torch.device("cpu")

    def __init__(self, seed: int = 0, end_bonus: float = 0.0) -> None:
        logits = torch.randn(CONTEXTS, VOCAB, generator=torch.Generator().manual_seed(seed))
        logits[:, END] += end_bonus
        self.table = logits.log_softmax(dim=-1)
        self.calls: list[tuple[str, int, int]] = []
        self.states: list[list[tuple[int, ...]]] = []

    def initial_state(self, batch_size: int) -> Memory:
        zeros = torch.zeros(batch_size, 1, dtype=torch.int64)
        return Memory(zeros[:, 0], (Counts(zeros), [zeros]))

    def log_probs(self, tokens, state, reset=None):
        self._record("log_probs", tokens, state)
        return self._read(tokens, state)

    def score(self, tokens, targets, state, reset=None):
        self._record("score", tokens, state)
        log_probs, state = self._read(tokens, state)
        return -log_probs.gather(2, targets[..., None]).squeeze(2), state

    def _read(self, tokens: Tensor, state: Memory) -> tuple[Tensor, Memory]:
        context, rows = state.context, []
        for token in tokens.unbind(1):
            context = (7 * context + token + 1) % CONTEXTS
            rows.append(self.table[context])
        count = state.nested[0].tokens + tokens.shape[1]
        return torch.stack(rows, dim=1), Memory(context, (Counts(count), [count]))

    def _record(self, name: str, tokens: Tensor, state: Memory) -> None:
        shapes: list[tuple[int, ...]] = []
        map_state(lambda tensor: shapes.append(tuple(tensor.shape)) or tensor, state)
        assert all(shape[0] == len(tokens) for shape in shapes)
        self.calls.append((name, *tokens.shape))
        self.states.append(shapes)

    def processed(self) -> int:
        return sum(batch * time for _, batch, time in self.calls)

    def next_log_probs(self, history: list[int]) -> Tensor:
        """The definition: read everything again from the start."""
        return self._read(torch.tensor([history]), self.initial_state(1))[0][0, -1]


class Successor:
    """Token v is followed by v + 1 for certain, and the last by 0. No state at all."""

    vocab_size = VOCAB
    device = torch.device("cpu")

    def initial_state(self, batch_size):
        return ()

    def log_probs(self, tokens, state, reset=None):
        return torch.nn.functional.one_hot((tokens + 1) % VOCAB, VOCAB).float().log(), state

    def score(self, tokens, targets, state, reset=None):
        log_probs, state = self.log_probs(tokens, state)
        return -log_probs.gather(2, targets[..., None]).squeeze(2), state


def run(model, prompts, *, sampling=GREEDY, max_tokens=20, end_id=END, **options) -> dict[int, list[Step]]:
    """All steps of each row."""
    rows: dict[int, list[Step]] = {}
    for steps in Generation(
        model, prompts, sampling=sampling, max_tokens=max_tokens, end_id=end_id, **options
    ):
        assert [step.row for step in steps] == sorted({step.row for step in steps})
        for step in steps:
            rows.setdefault(step.row, []).append(step)
    return rows


def ids(steps: list[Step]) -> list[int]:
    return [step.token for step in steps]


def test_the_fakes_meet_the_protocol():
    assert isinstance(Rolling(), LanguageModel)
    assert isinstance(Successor(), LanguageModel)


def test_successor_counts_and_ends():
    (steps,) = run(Successor(), [[START, 4]], end_id=8).values()
    assert steps == [
        Step(0, 5, 0.0, None),
        Step(0, 6, 0.0, None),
        Step(0, 7, 0.0, None),
        Step(0, 8, 0.0, "end"),
    ]
    assert str(steps[0].nats) == "0.0"


@pytest.mark.parametrize(
    "prompt", [[START], [START, 5], [START, 3, 9, 2, 2, 10], [START, *range(2, 11)] * 40]
)
def test_greedy_is_the_argmax_of_the_whole_history_at_every_step(prompt):
    model = Rolling()
    (steps,) = run(model, [prompt], banned=[END]).values()
    assert len(steps) == 20
    history = list(prompt)
    for step in steps:
        log_probs = model.next_log_probs(history)
        allowed = log_probs.index_fill(0, torch.tensor([END]), -torch.inf)
        assert step.token == int(allowed.argmax())
        assert step.nats == -log_probs[step.token].item()
        history.append(step.token)


def test_nats_are_the_models_own_whatever_the_filters():
    model = Rolling()
    sampling = Sampling(temperature=1.7, top_k=5, top_p=0.9, repetition_penalty=1.5)
    (steps,) = run(model, [[START, 4]], sampling=sampling, banned=[END, 6]).values()
    history = [START, 4]
    for step in steps:
        assert step.nats == -model.next_log_probs(history)[step.token].item()
        history.append(step.token)


@pytest.mark.parametrize("length", [1, 2, PROMPT_CHUNK, PROMPT_CHUNK + 1, PROMPT_CHUNK + 2, 3 * PROMPT_CHUNK])
def test_each_token_is_processed_once(length):
    model = Rolling()
    run(model, [[START] + [5] * (length - 1)], max_tokens=30, banned=[END])
    assert model.processed() == length - 1 + 30
    assert all(time <= PROMPT_CHUNK for _, _, time in model.calls)
    assert all(time == 1 for name, _, time in model.calls if name == "log_probs")
    assert sum(time for name, _, time in model.calls if name == "score") == length - 1


def test_a_prompt_is_absorbed_once_for_all_its_samples():
    model = Rolling()
    run(model, [[START] + [5] * 49], sampling=Sampling(), max_tokens=3, samples=8, banned=[END])
    assert model.processed() == 49 + 8 * 3


def test_the_state_does_not_grow():
    model = Rolling()
    run(model, [[START, 3]], max_tokens=50, samples=4, sampling=Sampling(), banned=[END])
    generating = [
        shapes for (name, *_), shapes in zip(model.calls, model.states, strict=True) if name == "log_probs"
    ]
    assert len(generating) == 50
    assert all(shapes == [(4,), (4, 1), (4, 1)] for shapes in generating)


SAMPLINGS = [Sampling(), Sampling(temperature=1.4, top_p=0.9, repetition_penalty=1.3)]


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=["plain", "filtered"])
@pytest.mark.parametrize("end_bonus", [-2.0, 0.0])
def test_a_sample_does_not_depend_on_how_many_stand_beside_it(sampling, end_bonus):
    prompt = [START, 6, 2]
    options = {"sampling": sampling, "seed": 5, "max_tokens": 40}
    eight, three, one = (
        run(Rolling(end_bonus=end_bonus), [prompt], samples=samples, **options) for samples in (8, 3, 1)
    )
    assert len({tuple(ids(steps)) for steps in eight.values()}) > 4
    assert len({len(steps) for steps in eight.values()}) > 1  # some ended early beside the others
    assert {row: eight[row] for row in range(3)} == three
    assert {0: eight[0]} == one


@pytest.mark.parametrize("sampling", [GREEDY, *SAMPLINGS], ids=["greedy", "plain", "filtered"])
@pytest.mark.parametrize("at_once", [1, 3])
def test_memory_has_a_limit_and_rows_taken_in_turns_are_the_same(monkeypatch, sampling, at_once):
    options = {"sampling": sampling, "samples": 8, "max_tokens": 30}
    prompts = [[START, 6, 2], [START]]
    free = run(Rolling(end_bonus=0.5), prompts, **options)
    monkeypatch.setattr(engine_module, "LOGITS_HELD", at_once * VOCAB)
    model = Rolling(end_bonus=0.5)
    assert run(model, prompts, **options) == free
    assert max(batch for name, batch, _ in model.calls if name == "log_probs") == at_once


@pytest.mark.parametrize("sampling", [GREEDY, *SAMPLINGS], ids=["greedy", "plain", "filtered"])
def test_prompts_of_different_lengths_in_one_batch_equal_each_alone(sampling):
    prompts = [[START], [START, 3, 9, 9, 4], [START, 7] * 200, [START, 5]]
    options = {"sampling": sampling, "samples": 2, "max_tokens": 40}
    together = run(Rolling(end_bonus=1.0), prompts, **options)
    assert len(together) == 8
    for index, prompt in enumerate(prompts):
        alone = run(Rolling(end_bonus=1.0), [prompt], **options)
        for sample, steps in alone.items():
            assert together[2 * index + sample] == [step._replace(row=2 * index + sample) for step in steps]


def test_the_seed_decides_the_samples():
    def texts(seed: int) -> list[list[int]]:
        return [
            ids(steps)
            for steps in run(Rolling(), [[START]], sampling=Sampling(), samples=4, seed=seed).values()
        ]

    assert texts(1) == texts(1)
    assert texts(1) != texts(2)


def test_greedy_does_not_depend_on_the_seed():
    assert run(Rolling(), [[START, 4]], seed=1) == run(Rolling(), [[START, 4]], seed=2)


def test_finished_rows_leave_the_batch():
    model = Rolling(end_bonus=1.0)
    rows = run(model, [[START]], sampling=Sampling(), samples=16, max_tokens=60)
    lengths = [len(steps) for steps in rows.values()]
    assert len(set(lengths)) > 3
    batches = [batch for _, batch, _ in model.calls]
    assert batches == [sum(length > time for length in lengths) for time in range(max(lengths))]


def test_a_reason_is_given_on_the_last_step_and_only_there():
    rows = run(Rolling(end_bonus=0.5), [[START]], sampling=Sampling(), samples=32, max_tokens=12)
    for steps in rows.values():
        assert all(step.finish_reason is None and step.token != END for step in steps[:-1])
        if steps[-1].token == END:
            assert steps[-1].finish_reason == "end"
        else:
            assert (steps[-1].finish_reason, len(steps)) == ("length", 12)
    assert {steps[-1].finish_reason for steps in rows.values()} == {"end", "length"}


def test_stopping_a_row_ends_it_and_changes_no_other():
    options = {"sampling": Sampling(), "max_tokens": 15, "end_id": END, "samples": 4, "banned": [END]}
    free = run(Rolling(), [[START]], **options)
    model = Rolling()
    generation = Generation(model, [[START]], **options)
    generation.stop(3)
    rows: dict[int, list[Step]] = {}
    for time, steps in enumerate(generation):
        for step in steps:
            rows.setdefault(step.row, []).append(step)
        if time == 4:
            generation.stop(1)
            generation.stop(3)  # again: nothing happens
    assert rows == {0: free[0], 1: free[1][:5], 2: free[2]}
    assert [batch for _, batch, _ in model.calls] == [3] * 5 + [2] * 10


def test_stopping_every_row_ends_the_iteration():
    generation = Generation(Rolling(), [[START]], sampling=GREEDY, max_tokens=9, end_id=END, banned=[END])
    assert len(next(generation)) == 1
    generation.stop(0)
    assert list(generation) == []
    assert list(generation) == []


@pytest.mark.parametrize("row", [-1, 2])
def test_stopping_a_row_that_does_not_exist_is_an_error(row):
    generation = Generation(Rolling(), [[START]] * 2, sampling=GREEDY, max_tokens=9, end_id=END)
    with pytest.raises(InputError, match=f"no row {row} .* 2"):
        generation.stop(row)


def test_repetition_penalty_sees_the_prompt_and_what_was_generated():
    # So strong a penalty visits every token once, and never those of the prompt, before any comes again.
    sampling = Sampling(temperature=0, repetition_penalty=1e6)
    rows = run(Rolling(), [[START, 5, 6], [START]], sampling=sampling, max_tokens=VOCAB - 2, banned=[END])
    assert sorted(ids(rows[0])[: VOCAB - 4]) == [2, 3, 4, 7, 8, 9, 10]
    assert sorted(ids(rows[1])) == list(range(2, VOCAB))
    without = run(Rolling(), [[START, 5, 6], [START]], max_tokens=VOCAB - 2, banned=[END])
    assert len(set(ids(without[1]))) < VOCAB - 2


def test_banned_ids_are_never_generated():
    rows = run(Rolling(), [[START]], sampling=Sampling(), samples=20, banned=[START, 4, 7])
    generated = {token for steps in rows.values() for token in ids(steps)}
    assert generated == set(range(VOCAB)) - {START, 4, 7}


def test_no_tokens_or_no_prompts_yield_nothing_and_call_nothing():
    model = Rolling()
    assert run(model, [[START, 3]], max_tokens=0) == {}
    assert run(model, []) == {}
    assert model.calls == []


def test_an_empty_prompt_is_an_error():
    with pytest.raises(InputError, match="prompt 1 is empty"):
        run(Rolling(), [[START], []])


@pytest.mark.parametrize("bad", [-1, VOCAB, 10**20])
def test_ids_outside_the_vocabulary_are_errors_that_name_them(bad):
    for where, arguments in {
        "prompt 1": {"prompts": [[START], [START, bad, 3]]},
        "end_id": {"prompts": [[START]], "end_id": bad},
        "banned": {"prompts": [[START]], "banned": [3, bad]},
    }.items():
        with pytest.raises(InputError, match=f"{where}: id {bad} .* {VOCAB} entries"):
            run(Rolling(), **arguments)


@pytest.mark.parametrize(("name", "value"), [("max_tokens", -1), ("samples", 0)])
def test_impossible_counts_are_refused_with_their_numbers(name, value):
    with pytest.raises(ConfigError, match=rf"{name} \({value}\)"):
        run(Rolling(), [[START]], **{name: value})


def test_no_gradient_is_recorded():
    model = Rolling()
    model.table.requires_grad_()
    recorded = []
    read = model._read
    model._read = lambda tokens, state: recorded.append(read(tokens, state)) or recorded[-1]
    run(model, [[START, 3, 4]], max_tokens=3, banned=[END])
    assert len(recorded) == 4
    assert all(log_probs.is_inference() and not log_probs.requires_grad for log_probs, _ in recorded)


def test_absorb_stops_before_the_last_token():
    model = Rolling()
    state = absorb(model, [START, 3, 4])
    assert state.nested[0].tokens.tolist() == [[2]]
    log_probs, _ = model.log_probs(torch.tensor([[4]]), state)
    assert torch.equal(log_probs[0, 0], model.next_log_probs([START, 3, 4]))


def test_map_state_keeps_the_structure_and_pairs_the_leaves():
    state = Memory(torch.tensor([1]), (Counts(torch.tensor([2])), [torch.tensor([3])]))
    total = map_state(torch.add, state, state)
    assert total == Memory(torch.tensor([2]), (Counts(torch.tensor([4])), [torch.tensor([6])]))
    assert map_state(torch.add, (), ()) == ()
    with pytest.raises(ValueError, match="shorter"):
        map_state(torch.add, (torch.ones(1), torch.ones(1)), (torch.ones(1),))
