"""Every cell and every model family that can be built: what the contract is held against.

A new cell, or a new way to build a model, is picked up by itself: cells come from the table of `models.build`.
"""

from itertools import product
from typing import Any

import torch
from torch import nn

from elman.config import ModelConfig
from elman.models.base import map_state
from elman.models.build import CELLS, build
from elman.models.recurrent import RecurrentLanguageModel

CELL_NAMES = sorted(CELLS)

VOCAB_SIZE, PAD = 11, 2
"""The padding is not the first entry, so that a zero written by accident is seen."""

WIDTHS = {"equal": (4, 4), "different": (3, 5)}
"""Embedding and hidden width."""

FAMILIES: dict[str, ModelConfig] = {
    f"{cell}-{'tied' if tied else 'untied'}-{widths}-{layers}": ModelConfig(
        cell=cell,
        embedding_dim=WIDTHS[widths][0],
        hidden_size=WIDTHS[widths][1],
        num_layers=layers,
        tie_embeddings=tied,
    )
    for cell, tied, widths, layers in product(CELL_NAMES, [False, True], WIDTHS, [1, 3])
}


def make_cell(
    name: str, dtype: torch.dtype = torch.float64, input_size: int = 3, hidden_size: int = 4
) -> nn.Module:
    """A cell whose every parameter is random, its biases too."""
    cell = CELLS[name](input_size, hidden_size).to(dtype)  # type: ignore[attr-defined]  # cells are modules
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.normal_(std=0.5)
    return cell


def make_model(
    config: ModelConfig, dtype: torch.dtype = torch.float64, vocab_size: int = VOCAB_SIZE
) -> RecurrentLanguageModel:
    """A model of the family whose every parameter is random, except for the padding row."""
    model = build(config, vocab_size, PAD).to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    model.zero_padding_row()
    return model


def random_state(module: Any, batch_size: int) -> Any:
    """A state of a cell or a model that is not the one a document starts with."""
    return map_state(torch.randn_like, module.initial_state(batch_size))
