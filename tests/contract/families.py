"""Every cell and every model family that can be built: what the contract is held against.

A new cell, or a new way to build a model, is picked up by itself: cells come from the table of `models.build`.
A form of a cell that the table does not build is named in VARIANTS.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from elman.cells.base import Cell
from elman.cells.mingru import MinGRUCell
from elman.cells.minlstm import MinLSTMCell
from elman.cells.mlstm import MLSTMCell
from elman.cells.residual import ResidualCell
from elman.cells.xlstm import MLSTMBlock, SLSTMBlock
from elman.config import ModelConfig
from elman.data.store import store_from_ids
from elman.models.base import LanguageModel, map_state
from elman.models.build import CELLS, build
from elman.models.mixture import Mixture
from elman.models.neural import NeuralLanguageModel
from elman.models.ngram import NgramModel, estimate
from elman.models.transformer import TransformerLanguageModel
from elman.models.window import WindowLanguageModel


def residual(name: str, input_size: int, hidden_size: int) -> ResidualCell:
    """A cell of the table with a way around it."""
    return ResidualCell(CELLS[name](input_size, hidden_size), input_size, hidden_size)


VARIANTS: dict[str, Callable[[int, int], Cell]] = {
    "mingru in parallel": partial(MinGRUCell, form="parallel"),
    "minlstm in parallel": partial(MinLSTMCell, form="parallel"),
    "mlstm in parallel": partial(MLSTMCell, form="parallel"),
    "mlstm step by step": partial(MLSTMCell, form="recurrent"),
    "mlstm block": partial(MLSTMBlock, num_heads=2),  # two heads divide 2 H whatever H is
    "slstm block": SLSTMBlock,
    "residual elman": partial(residual, "elman"),
    "residual lstm": partial(residual, "lstm"),
    "residual minlstm": partial(residual, "minlstm"),
}

CELL_NAMES = [*sorted(CELLS), *VARIANTS]

VOCAB_SIZE, PAD, START, END = 11, 2, 0, 1
"""The padding is not the first entry, so that a zero written by accident is seen."""

WIDTHS = {"equal": (4, 4), "different": (3, 5)}
"""Embedding and hidden width."""


def settings(*words: str) -> dict[str, Any]:
    """What a family's name says of its shape: tied or untied, equal or different widths, and its layers."""
    tied, widths, layers = words
    return {
        "embedding_dim": WIDTHS[widths][0],
        "hidden_size": WIDTHS[widths][1],
        "num_layers": int(layers),
        "num_heads": 1,
        "tie_embeddings": tied == "tied",
    }


def recurrent(cell: str, block: str, *words: str) -> dict[str, ModelConfig]:
    """A recurrent family under its name."""
    title = "-".join([cell, *([block] if block != "plain" else []), *words])
    return {title: ModelConfig(cell=cell, block=block, **settings(*words))}


def plain(cell: str) -> dict[str, ModelConfig]:
    """A shallow and a deep model around a cell, which between them are tied and untied, of each width."""
    return recurrent(cell, "plain", "untied", "equal", "1") | recurrent(
        cell, "plain", "tied", "different", "3"
    )


FAMILIES: dict[str, ModelConfig] = {
    **{name: config for cell in sorted(CELLS) for name, config in plain(cell).items()},
    **recurrent("elman", "plain", "tied", "equal", "1"),
    **recurrent("elman", "plain", "untied", "different", "3"),
    **recurrent("lstm", "residual", "untied", "different", "2"),
    **recurrent("mingru", "residual", "tied", "equal", "3"),
    **recurrent("mlstm", "xlstm", "tied", "different", "2"),
    **recurrent("slstm", "xlstm", "untied", "equal", "2"),
    "transformer-tied-different-2": ModelConfig(
        family="transformer",
        context=3,
        mlp="gelu",
        **settings("tied", "different", "2") | {"hidden_size": 4},
    ),
    "transformer-untied-equal-2": ModelConfig(
        family="transformer",
        context=10,
        mlp="swiglu",
        **settings("untied", "equal", "2") | {"num_heads": 2},
    ),
    "transformer-tied-equal-1": ModelConfig(
        family="transformer", context=3, mlp="swiglu", **settings("tied", "equal", "1")
    ),
    "window-untied-equal-1": ModelConfig(family="window", order=3, **settings("untied", "equal", "1")),
    "window-tied-different-2": ModelConfig(family="window", order=10, **settings("tied", "different", "2")),
}
"""Every family of networks. Contexts are shorter and longer than the sequences of the tests."""

RECURRENT = [name for name, config in FAMILIES.items() if config.family == "recurrent"]

DEEP = [name for name, config in FAMILIES.items() if config.num_layers > 1]

OTHERS = ["ngram-1", "ngram-3", "ngram-6", "mixture-ngram-lstm", "mixture-three"]
"""What meets the protocol without being a network."""


def make_cell(
    name: str, dtype: torch.dtype = torch.float64, input_size: int = 3, hidden_size: int = 4
) -> nn.Module:
    """A cell whose every parameter is random, its biases too."""
    make = VARIANTS[name] if name in VARIANTS else CELLS[name]
    cell = make(input_size, hidden_size).to(dtype)  # type: ignore[attr-defined]  # cells are modules
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.normal_(std=0.5)
    return cell


def make_model(
    config: ModelConfig, dtype: torch.dtype = torch.float64, vocab_size: int = VOCAB_SIZE
) -> NeuralLanguageModel:
    """A model of the family whose every parameter is random, except for the padding row."""
    model = build(config, vocab_size, PAD).to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    model.zero_padding_row()
    return model


def make_counts(order: int) -> NgramModel:
    """An n-gram model of random documents, which never predicts the start token nor the padding."""
    rng = np.random.default_rng(order)
    words = [index for index in range(VOCAB_SIZE) if index not in (START, PAD, END)]
    documents = [rng.choice(words, rng.integers(0, 12)).tolist() for _ in range(80)]
    store = store_from_ids(documents, start_id=START, end_id=END)
    return estimate((store.tokens, store.starts), VOCAB_SIZE, order, start_id=START, excluded_ids=[PAD])


def make_language_model(name: str, dtype: torch.dtype = torch.float64) -> LanguageModel:
    """A model of FAMILIES or OTHERS."""
    if name in FAMILIES:
        return make_model(FAMILIES[name], dtype)
    if name.startswith("ngram"):
        return make_counts(int(name.removeprefix("ngram-")))
    lstm = make_model(FAMILIES["lstm-untied-equal-1"], dtype)
    if name == "mixture-ngram-lstm":
        return Mixture([make_counts(3), lstm], [0.25, 0.75])
    transformer = make_model(FAMILIES["transformer-untied-equal-2"], dtype)
    return Mixture([lstm, transformer, make_counts(2)], [0.5, 0.3, 0.2])


def random_state(module: Any, batch_size: int) -> Any:
    """A state of a cell or a model that is not the one a document starts with.

    Of numbers that can be any, random ones; a state of tokens, or of places that may be empty, is that after some
    random tokens, where one stream has just begun a document.
    """
    state = module.initial_state(batch_size)
    if isinstance(module, Mixture):
        return tuple(random_state(part, batch_size) for part in module.parts)
    if isinstance(module, NgramModel | TransformerLanguageModel | WindowLanguageModel):
        reset = torch.zeros(batch_size, 5, dtype=torch.bool)
        reset[0, 4] = True
        return module.log_probs(torch.randint(module.vocab_size, (batch_size, 5)), state, reset)[1]
    return map_state(torch.randn_like, state)
