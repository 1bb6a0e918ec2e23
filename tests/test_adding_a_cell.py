"""The page on adding a cell is true: its cell, read from the page, keeps the whole contract and makes a model."""

import inspect
import re
from itertools import pairwise, product
from pathlib import Path

import pytest
import torch

from elman.config import ModelConfig
from elman.models.build import CELLS, build
from tests.compare import assert_equal_to
from tests.contract import test_cells
from tests.contract.families import random_state
from tests.seed import same_seed as same_seed

PAGE = Path(__file__).parents[1] / "docs" / "adding-a-cell.md"
FILE, LINE = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)

VOCAB_SIZE, PAD = 13, 2


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    """The table of cells with the one of the page, put there by the line of the page."""
    names = {"__name__": "elman.cells.mgu"}
    exec(compile(FILE, str(PAGE), "exec"), names)
    with monkeypatch.context() as patch:
        patch.setitem(CELLS, "mgu", None)  # removed again whatever the line does
        exec(compile(LINE, str(PAGE), "exec"), names | {"CELLS": CELLS})
        yield


def cases():
    """Every test of the contract, with every combination of its parameters, for the cell of the page."""
    for title, function in vars(test_cells).items():
        if not title.startswith("test_"):
            continue
        choices = []
        for mark in getattr(function, "pytestmark", []):
            names, values = mark.args[0], mark.args[1]
            if names == "name":
                values = ["mgu"]
            several = not isinstance(names, str)
            choices.append([dict(zip(names, v, strict=True)) if several else {names: v} for v in values])
        for combination in product(*choices):
            given = {name: value for part in combination for name, value in part.items()}
            assert set(given) == set(inspect.signature(function).parameters), title
            yield pytest.param(function, given, id=f"{title}-{len(given)}")


@pytest.mark.parametrize(("function", "given"), [*cases()])
def test_the_cell_of_the_page_keeps_the_contract(function, given):
    function(**given)


def test_the_contract_was_there_to_be_kept():
    titles = {case.values[0].__name__ for case in cases()}
    assert len([*cases()]) > 80
    for word in ("cutting", "one_token_at_a_time", "reset", "finite_differences", "rows"):
        assert any(word in title for title in titles)


def test_the_contract_refuses_a_cell_of_the_page_that_forgets_its_resets(monkeypatch):
    broken = FILE.replace("if reset is not None:", "if False:")
    assert broken != FILE
    names = {"__name__": "elman.cells.mgu"}
    exec(compile(broken, str(PAGE), "exec"), names)
    monkeypatch.setitem(CELLS, "mgu", names["MGUCell"])
    with pytest.raises(AssertionError):
        test_cells.test_a_reset_equals_a_fresh_sequence("mgu", 3)


def test_it_computes_its_equations():
    cell, x, state = test_cells.make("mgu")[:3]
    (w_f, w_n), (u_f, u_n), (b_f, b_n) = (
        matrix.detach().chunk(2) for matrix in (cell.weight_ih, cell.weight_hh, cell.bias)
    )
    h, outputs = state.h, []
    for x_t in x.unbind(1):
        f = torch.sigmoid(x_t @ w_f.T + h @ u_f.T + b_f)
        n = torch.tanh(x_t @ w_n.T + (f * h) @ u_n.T + b_n)
        h = (1 - f) * h + f * n
        outputs.append(h)
    found, after = cell(x, state)
    assert_equal_to((found, after.h), (torch.stack(outputs, dim=1), h))


def test_it_is_as_short_as_it_says():
    assert len([line for line in FILE.splitlines() if line.strip()]) <= 40
    assert max(map(len, FILE.splitlines())) <= 110


def test_a_language_model_of_it_meets_the_promises_of_a_model():
    config = ModelConfig(cell="mgu", embedding_dim=5, hidden_size=6, num_layers=2)
    model = build(config, VOCAB_SIZE, PAD).double().eval()
    tokens, reset = torch.randint(VOCAB_SIZE, (3, 9)), torch.rand(3, 9) < 0.3
    state = random_state(model, 3)
    log_probs, after = model.log_probs(tokens, state, reset)
    assert log_probs.logsumexp(dim=-1).abs().max() < 1e-6

    pieces, carried = [], state
    for start, end in pairwise(range(10)):
        piece, carried = model.log_probs(tokens[:, start:end], carried, reset[:, start:end])
        pieces.append(piece)
    assert_equal_to(torch.cat(pieces, dim=1), log_probs, 1e-6)
    assert_equal_to(carried, after)


def test_a_language_model_of_it_learns():
    config = ModelConfig(cell="mgu", embedding_dim=8, hidden_size=16, num_layers=2)
    model = build(config, VOCAB_SIZE, PAD)
    tokens = torch.arange(40).remainder(5).add(3).repeat(4, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    nats = []
    for _ in range(40):
        loss, _ = model.loss(tokens[:, :-1], tokens[:, 1:], model.initial_state(4))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        nats.append(loss.item() / tokens[:, 1:].numel())
    assert nats[0] > 1.5
    assert nats[-1] < 0.5


def test_weight_dropout_finds_its_recurrent_matrix():
    config = ModelConfig(cell="mgu", embedding_dim=5, hidden_size=6, num_layers=1, weight_dropout=0.5)
    model, tokens = build(config, VOCAB_SIZE, PAD), torch.randint(VOCAB_SIZE, (2, 5))
    assert_equal_to(model.eval()(tokens)[0], model.eval()(tokens)[0], tolerance=0)
    assert not torch.equal(model.train()(tokens)[0], model.train()(tokens)[0])


def test_under_autocast_its_state_stays_float32():
    cell = CELLS["mgu"](4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        y, after = cell(torch.randn(2, 5, 4), cell.initial_state(2))
    assert {y.dtype, after.h.dtype} == {torch.float32}
