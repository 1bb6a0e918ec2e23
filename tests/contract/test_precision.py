"""A whole sequence at once and one token at a time agree in float32 through whole models of a realistic size.

Freshly initialised, from a carried state, with documents that begin on the way, whatever form a cell computes in.

Axes: B batch, T time, V vocabulary.
"""

import copy
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from elman.config import CellName, ModelConfig
from elman.models.base import State, map_state
from elman.models.build import CELLS, build
from elman.models.neural import NeuralLanguageModel

B, T, V, H = 3, 130, 50, 64

LOGITS = 1e-5
"""How far two orders of the same arithmetic may lie apart after 130 steps through two layers."""

FORMS: dict[CellName, tuple[str, ...]] = {
    "mingru": ("sequential", "parallel"),
    "minlstm": ("sequential", "parallel"),
    "mlstm": ("recurrent", "chunkwise", "parallel"),
}
"""Ways to compute a sequence, the first of them step by step."""

BLOCKS = {"slstm": ("plain", "residual", "xlstm"), "mlstm": ("plain", "residual", "xlstm")}

CASES = [
    (cell, block, form)
    for cell in CELLS
    for block in BLOCKS.get(cell, ("plain", "residual"))
    for form in FORMS.get(cell, ("",))
]


def make(config: ModelConfig) -> tuple[NeuralLanguageModel, Tensor, State, Tensor]:
    """A model, tokens, a state that has read a text, and resets at some places."""
    model = build(config, V, pad_index=0).eval()
    if config.block == "plain":
        # Vectors of unit size: what small ones leave behind two xLSTM cells without a norm is near nothing.
        model.embedding.weight.data *= H**0.5
    _, state = model.log_probs(torch.randint(V, (B, 40)), model.initial_state(B))
    return model, torch.randint(V, (B, T)), state, torch.rand(B, T) < 0.03


def use_form(model: NeuralLanguageModel, form: str) -> None:
    """Compute sequences in `form` wherever there is a choice."""
    for module in model.modules():
        if hasattr(module, "form"):
            module.form = form


@torch.no_grad()
def read(model, tokens, state, reset, cuts=()) -> tuple[Tensor, State]:
    """Logits [B, T, V], read in pieces, and the state after the last."""
    logits = []
    for start, end in pairwise([0, *cuts, tokens.shape[1]]):
        piece, state = model(tokens[:, start:end], state, reset[:, start:end])
        logits.append(piece)
    return torch.cat(logits, dim=1), state


def deviation(found: Tensor, expected: Tensor) -> float:
    assert found.dtype == torch.float32
    assert expected.std() > 0.05  # so that there is something to be off
    return float((found - expected).abs().max())


@pytest.mark.parametrize(("cell", "block", "form"), CASES)
def test_a_sequence_equals_its_steps(cell, block, form):
    """To 1e-5, or where a model turns the roundings of its steps into more, to as much as those are off."""
    shape = {"embedding_dim": H, "hidden_size": H, "num_layers": 2, "num_heads": 4}
    model, tokens, state, reset = make(ModelConfig(cell=cell, block=block, **shape))
    assert reset.any()
    step_by_step, exact = FORMS.get(cell, ("",))[0], copy.deepcopy(model).double()
    use_form(model, step_by_step)
    use_form(exact, step_by_step)
    steps, _ = read(model, tokens, state, reset, range(1, T))
    true, _ = read(exact, tokens, map_state(Tensor.double, state), reset, range(1, T))
    allowed = max(LOGITS, 10 * deviation(steps, true))
    use_form(model, form)
    whole, after = read(model, tokens, state, reset)
    pieces, after_pieces = read(model, tokens, state, reset, (1, 63, 64, 65, 128))
    assert deviation(whole, steps) < allowed
    assert deviation(pieces, steps) < allowed
    # What comes next is predicted alike from either state.
    more, none = torch.randint(V, (B, 20)), torch.zeros(B, 20, dtype=torch.bool)
    onwards, _ = read(model, more, after, none)
    expected, _ = read(model, more, after_pieces, none)
    assert deviation(onwards, expected) < allowed


@pytest.mark.parametrize("context", [16, 64, 256])
@pytest.mark.parametrize("mlp", ["swiglu", "gelu"])
def test_a_transformer_reads_a_text_that_is_cut_anywhere(mlp, context):
    config = ModelConfig(
        family="transformer", embedding_dim=H, hidden_size=H, num_layers=2, context=context, mlp=mlp
    )
    model, tokens, state, reset = make(config)
    steps, _ = read(model, tokens, state, reset, range(1, T))
    whole, _ = read(model, tokens, state, reset)
    assert deviation(whole, steps) < LOGITS
    for cut in range(1, T):
        pieces, _ = read(model, tokens, state, reset, [cut])
        assert deviation(pieces, steps) < LOGITS, f"cut at {cut}"


def test_a_window_reads_a_text_that_is_cut_anywhere():
    config = ModelConfig(family="window", embedding_dim=H, hidden_size=H, num_layers=2, order=5)
    model, tokens, state, reset = make(config)
    steps, _ = read(model, tokens, state, reset, range(1, T))
    for cuts in ([], [1], [64], [129]):
        assert deviation(read(model, tokens, state, reset, cuts)[0], steps) < LOGITS
