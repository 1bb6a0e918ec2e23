"""Every part runs at tiny shapes, has a line for each of its goals, and is refused when a side computes another thing."""

import math
import re
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks import race as racing
from benchmarks.agreement import DisagreementError
from benchmarks.goals import CHAPTER, GOALS, STOCK, STOCK_BFLOAT16
from benchmarks.parts import (
    PARTS,
    convergence,
    cuda,
    data,
    generation,
    load,
    loss,
    ngram,
    recurrence,
    sampled,
    step,
    summary,
)
from benchmarks.record import table
from benchmarks.shapes import TINY, token_batches
from elman import ops
from elman.errors import InputError
from elman.ops.sampled_softmax import sampled_softmax

NAMES = tuple(PARTS)


@pytest.fixture(scope="session")
def records(settings):
    """Of a part, run once."""
    known = {}

    def of(name):
        if name not in known:
            known[name] = list(load(name)(settings))
        return known[name]

    return of


@pytest.mark.parametrize("name", NAMES)
def test_a_part_measures_both_sides_or_says_why_not(name, records):
    assert records(name)
    for record in records(name):
        if record.note.startswith("not measured"):
            assert record.ratio is None
            continue
        if record.ours_bytes is not None:
            assert record.ratio == record.peer_bytes / max(1, record.ours_bytes)
            continue
        assert min(record.ours_seconds, record.peer_seconds, record.ratio) > 0
        if name != "convergence":  # whose ratio is of losses
            assert record.ratio == pytest.approx(record.peer_seconds / record.ours_seconds)
        for share in (record.fraction_of_limit, record.peer_fraction_of_limit):
            assert share is None or (share > 0 and math.isfinite(share))
        assert record.shape


def sizes_left_out(text):
    return re.sub(r"[\d,]+", "#", text)


def test_every_goal_has_its_line(records):
    lines = {
        (record.part, sizes_left_out(record.what), sizes_left_out(record.peer))
        for name in NAMES
        for record in records(name)
    }
    wanted = {(goal.part, sizes_left_out(goal.what), sizes_left_out(goal.peer)) for goal in GOALS}
    assert wanted <= lines


def test_the_sizes_of_the_goals_are_those_that_are_run():
    assert f"a token after {generation.PLACES[-1]:,}" in {goal.what for goal in GOALS}
    assert f"a token after {generation.PLACES[0]:,}" in {goal.peer for goal in GOALS}
    assert f"a token of {generation.STREAMS} streams, greedy" in {goal.what for goal in GOALS}
    assert f"text to a model, order {ngram.ORDER}" in {goal.what for goal in GOALS}


def test_all_lines_fit_in_a_table(records):
    lines = table([record for name in NAMES for record in records(name)]).splitlines()
    assert len({line.count("|") for line in lines}) == 1


@pytest.mark.parametrize("name", NAMES)
def test_a_part_says_what_it_is(name):
    assert re.match(r"[CG]\d", summary(name))


def wrong_loss(*arguments, **settings):
    return ops.linear_cross_entropy(*arguments, **settings) * 1.1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_wrong_loss_is_refused(settings, dtype):
    assert list(loss.times(settings, TINY, dtype))
    with pytest.raises(DisagreementError, match="'elman'"):
        list(loss.times(settings, TINY, dtype, ours=wrong_loss))


def test_a_loss_with_wrong_gradients_is_refused(settings):
    def wrong(hidden, weight, bias, targets):
        return ops.linear_cross_entropy(hidden, weight, bias.detach() + 0 * bias, targets)

    with pytest.raises(DisagreementError, match="'elman'"):
        list(loss.times(settings, TINY, "float32", ours=wrong))


def test_a_step_that_learns_something_else_is_refused(settings):
    def wrong(shape, batches, dtype):
        return step.production(shape, batches[1:], dtype)

    with pytest.raises(DisagreementError, match=CHAPTER):
        list(step.times(settings, TINY, ours=wrong))


def test_a_sampled_softmax_that_is_not_exact_with_all_words_is_refused():
    def biased(hidden, weight, bias, targets, negatives):
        shifted = negatives._replace(log_weights=negatives.log_weights + 0.1)
        return sampled_softmax(hidden, weight, bias, targets, shifted)

    sampled.check(TINY)
    with pytest.raises(DisagreementError, match="exact softmax"):
        sampled.check(TINY, biased)


@pytest.mark.parametrize("name", ["check", "check_steps"])
def test_nothing_sampled_is_timed_before_the_checks(settings, monkeypatch, name):
    def refuse(shape):
        raise DisagreementError("no")

    monkeypatch.setattr(sampled, name, refuse)
    with pytest.raises(DisagreementError):
        next(sampled.run(settings))


@pytest.mark.parametrize("cell", recurrence.STOCK_MODULES)
def test_a_recurrence_with_other_weights_is_refused(settings, cell, monkeypatch):
    def other_weights(stack, cell, shape):
        module = original(stack, cell, shape)
        with torch.no_grad():
            module.weight_hh_l1.mul_(1.05)
        return module

    original = recurrence.stock_module
    monkeypatch.setattr(recurrence, "stock_module", other_weights)
    with pytest.raises(DisagreementError):
        list(recurrence.times(settings, cell, recurrence.TINY_STACK))


@pytest.mark.parametrize("cell", recurrence.GATES)
def test_the_gradients_of_the_weights_are_the_peers_too(cell):
    """They are not compared in every round, so here."""
    torch.manual_seed(0)
    shape = recurrence.TINY_STACK
    stack = recurrence.make_stack(cell, shape)
    x = torch.randn(shape.batch, shape.time, shape.inputs, requires_grad=True)
    cotangent = torch.randn(shape.batch, shape.time, shape.width)
    recurrence.forward_backward(stack, x, cotangent)
    own = sorted(float(each.grad.norm()) for name, each in stack.named_parameters() if "weight" in name)
    peers = recurrence.make_peers(stack, cell, shape)
    assert peers or cell in ("mingru", "minlstm")
    for peer in peers.values():
        recurrence.forward_backward(peer, x, cotangent)
        matrices = [each for each in peer.parameters() if each.dim() == 2]
        assert sorted(float(each.grad.norm()) for each in matrices) == pytest.approx(own, rel=1e-4)


def test_a_text_that_differs_in_one_token_is_refused(settings):
    shape = TINY
    ours, theirs = generation.make_models(shape)
    with torch.no_grad():
        theirs.fc.bias += torch.randn(shape.vocab)
        theirs.fc.bias[0] = -100
    with pytest.raises(DisagreementError, match="by inf"):
        list(generation.against_chapter(settings, shape, ours, theirs, 20))


def test_shards_with_other_tokens_are_refused(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "prepared", lambda text, tokenizer: torch.zeros(3, dtype=torch.int32))
    with pytest.raises(DisagreementError, match="one line at a time"):
        data.shards(settings, data.corpus_lines(settings), tmp_path)


def test_a_loader_that_loses_a_target_is_refused(settings, monkeypatch):
    store, documents = data.documents_of(500)
    list(data.padded_documents(settings, store, documents))
    with pytest.raises(DisagreementError):
        list(data.padded_documents(settings, store, [*documents[:-1], documents[-1][:-1]]))


def test_scores_a_little_off_are_refused():
    ngram.require_same_scores("ours", [-1.0, -7.0], "theirs", [-1.00009, -7.0])
    with pytest.raises(DisagreementError, match="'theirs'"):
        ngram.require_same_scores("ours", [-1.0, -7.0], "theirs", [-1.00011, -7.0])


def test_a_text_of_the_user_is_counted_without_reserved_words(settings, tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("one two\n\n  three \t four \nfive </s>\n" * 60)
    train, test = ngram.texts(settings.__class__(limits=settings.limits, text=path))
    assert set(train + test) == {"one two", "three four"}
    assert len(test) >= 1


def test_the_global_precision_is_put_back():
    before = torch.backends.mkldnn.matmul.fp32_precision
    assert before != "bf16"
    with pytest.raises(ZeroDivisionError), loss.onednn_bfloat16():
        assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
        raise ZeroDivisionError
    assert torch.backends.mkldnn.matmul.fp32_precision == before


def test_the_best_chunk_is_the_fastest(monkeypatch):
    seconds = {chunk: abs(chunk - 250) for chunk in loss.CHUNKS}
    monkeypatch.setattr(loss, "wall_clock", lambda run: (seconds[run.args[0].keywords["chunk"]], None))
    assert loss.best_chunk(loss.make_inputs(TINY), racing.wall_clock) == 256


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_step_on_a_gpu_is_captured(settings):
    assert all(record.ratio > 0 for record in cuda.times(settings, TINY))


@pytest.mark.parametrize("name", ["plain loss", "F.linear_cross_entropy by 1024"])
def test_the_stock_losses_of_the_gpu_agree(name):
    torch.manual_seed(0)
    arguments = torch.randn(6, 4), torch.randn(9, 4), torch.randn(9), torch.randint(9, (6,))
    expected = F.cross_entropy(nn.functional.linear(*arguments[:3]), arguments[3], reduction="sum")
    assert cuda.stock_losses()[name](*arguments).item() == pytest.approx(expected.item())


def test_the_parts_are_their_files():
    assert set(PARTS) == {path.stem for path in Path(loss.__file__).parent.glob("[a-z]*.py")}


def test_a_step_with_bfloat16_products_is_beside_a_stock_one(settings, monkeypatch):
    entered = []

    @contextmanager
    def noted():
        entered.append(True)
        with loss.onednn_bfloat16():
            yield

    monkeypatch.setattr(step, "onednn_bfloat16", noted)
    taken = list(step.times(settings, TINY))
    assert [(record.part, record.peer) for record in taken] == [
        ("C1", CHAPTER),
        ("C1", STOCK),
        ("C2", CHAPTER),
        ("C2", STOCK_BFLOAT16),
    ]
    assert len(entered) == taken[-1].rounds + 1
    assert [bool(record.note) for record in taken] == [False, False, True, False]


def test_a_stock_step_that_learns_something_else_is_refused(settings, monkeypatch):
    original = step.stock_step

    def wrong(model, batches, chunk, *products):
        return original(model, batches[1:] if products else batches, chunk, *products)

    monkeypatch.setattr(step, "stock_step", wrong)
    with pytest.raises(DisagreementError, match=STOCK_BFLOAT16):
        list(step.times(settings, TINY))


@pytest.mark.parametrize("kind", ["fewer words", "no update"])
def test_sampled_steps_that_do_not_learn_the_exact_thing_are_refused(kind):
    def wrong(model, batches, negatives, dtype):
        if kind == "fewer words":
            return sampled.sampled_step(model, batches, negatives // 2, dtype)
        first = sampled.sampled_step(model, batches, negatives, dtype)()
        return lambda: first

    sampled.check_steps(TINY)
    with pytest.raises(DisagreementError, match="exact steps"):
        sampled.check_steps(TINY, wrong)


def test_a_text_goes_on_from_each_place_as_it_did():
    model, _ = generation.make_models(TINY)
    text = generation.Generation(
        model, [generation.PROMPT], sampling=generation.GREEDY, max_tokens=30, end_id=0
    )
    whole = generation.generate(model, 30, generation.GREEDY)[0]
    assert generation.next_tokens(text, 11) == whole[:11]
    here = copy(text)
    generation.next_tokens(text, 19)
    for _ in range(3):
        assert generation.goes_on(here, whole[11:20])
    assert not generation.goes_on(here, [*whole[11:19], 1 - whole[19]])


def test_a_text_that_goes_on_otherwise_is_refused(settings, monkeypatch):
    assert list(generation.along_a_text(settings, TINY, (4, 8), 3))
    monkeypatch.setattr(generation, "copy", lambda text: text)  # which then stays at no place
    with pytest.raises(DisagreementError, match="'a token after 4'"):
        list(generation.along_a_text(settings, TINY, (4, 8), 3))


def test_a_text_too_short_for_one_batch_is_refused(settings, tmp_path):
    with data.environment("ELMAN_CACHE", str(tmp_path)):
        prepared = convergence.prepared(settings, tmp_path)
    shape = TINY._replace(vocab=prepared.tokenizer.vocab_size)
    tokens = len(prepared.train)
    with pytest.raises(InputError, match=f"{tokens:,} tokens and a batch {tokens + 1:,}"):
        convergence.train(prepared, shape._replace(batch=tokens + 1, time=1), 1, torch.float32)
    nats, seconds = convergence.train(prepared, shape._replace(batch=2, time=tokens // 2), 1, torch.float32)
    assert nats > 0
    assert seconds > 0


def test_only_the_training_steps_are_timed(settings, tmp_path, monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(convergence, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    order = []
    for name in ("production_step", "score_store"):
        original = getattr(convergence, name)

        def noted(*arguments, original=original, name=name, **given):
            order.append((name, next(clock)))
            return original(*arguments, **given)

        monkeypatch.setattr(convergence, name, noted)
    with data.environment("ELMAN_CACHE", str(tmp_path)):
        prepared = convergence.prepared(settings, tmp_path)
        shape = TINY._replace(vocab=prepared.tokenizer.vocab_size)
        _, seconds = convergence.train(prepared, shape, 2, torch.float32)
    (made, at_making), (scored, at_scoring) = order
    assert (made, scored) == ("production_step", "score_store")
    assert at_scoring == at_making + 3
    assert seconds == 1


def test_stock_on_a_gpu_is_warmed_up_on_the_batches_of_our_warm_up():
    batches = token_batches(TINY, 5)
    places = tuple(each.clone() for each in batches[4])
    seen = []
    cuda.warm_up(lambda inputs, targets: seen.append((inputs.clone(), targets.clone())), places, batches)
    assert len(seen) == cuda.WARM_UP
    for given, expected in zip(seen, batches, strict=False):
        assert all(torch.equal(*pair) for pair in zip(given, expected, strict=True))


def test_what_fits_a_cache_has_no_limit_by_a_copy(records):
    for record in records("generation"):
        shares = (record.fraction_of_limit, record.peer_fraction_of_limit)
        assert all(shares) if "streams" in record.what else shares == (None, None)
