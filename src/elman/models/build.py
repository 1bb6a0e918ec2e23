"""Make a model from its settings: the only file that knows every family.

A new cell is one file in `cells/` and one line in CELLS.
"""

from collections.abc import Callable

import torch
from torch import nn

from elman.cells.base import Cell
from elman.cells.elman import ElmanCell
from elman.cells.gru import GRUCell
from elman.cells.lstm import LSTMCell
from elman.cells.mingru import MinGRUCell
from elman.cells.minlstm import MinLSTMCell
from elman.config import CellName, ModelConfig
from elman.errors import ConfigError, ResourceError
from elman.models.recurrent import RecurrentLanguageModel

CELLS: dict[CellName, Callable[[int, int], Cell]] = {
    "elman": ElmanCell,
    "lstm": LSTMCell,
    "gru": GRUCell,
    "mingru": MinGRUCell,
    "minlstm": MinLSTMCell,
}

TRAINING_BYTES = 16
"""Bytes a float32 parameter takes in training: itself, its gradient, and two moments of AdamW."""


def build(config: ModelConfig, vocab_size: int, pad_index: int) -> RecurrentLanguageModel:
    """A freshly initialised model.

    Args:
        config: The shape.
        vocab_size: V, special tokens included.
        pad_index: The padding token, whose vector is and stays zero.

    Raises:
        ConfigError: `pad_index` is not an entry of the vocabulary.
    """
    if pad_index not in range(vocab_size):
        raise ConfigError(f"pad_index ({pad_index}) must lie in the vocabulary, 0 to {vocab_size - 1}")
    widths = [config.embedding_dim] + [config.hidden_size] * (config.num_layers - 1)
    model = RecurrentLanguageModel(
        vocab_size,
        config.embedding_dim,
        [CELLS[config.cell](width, config.hidden_size) for width in widths],
        config.hidden_size,
        pad_index=pad_index,
        dropout=config.dropout,
        tie_embeddings=config.tie_embeddings,
    )
    if config.initialization == "xavier":
        for parameter in model.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
            else:
                nn.init.zeros_(parameter)
        model.zero_padding_row()
    return model


def build_empty(config: ModelConfig, vocab_size: int, pad_index: int) -> RecurrentLanguageModel:
    """The same model without memory for its weights: for counting, and for loading into.

    Raises:
        ConfigError: As for `build`; or a matrix would have more bytes than an address can count.
    """
    try:
        with torch.device("meta"):
            return build(config, vocab_size, pad_index)
    except RuntimeError as error:  # memory is not asked for, so only a size can be at fault
        raise ConfigError(
            f"a matrix of this model has more bytes than memory can have: reduce hidden_size"
            f" ({config.hidden_size}) or embedding_dim ({config.embedding_dim})"
        ) from error


def count_parameters(model: nn.Module) -> int:
    """Trainable numbers, those of a tied matrix counted once."""
    return sum(parameter.numel() for parameter in model.parameters())


def require_memory(config: ModelConfig, vocab_size: int, available_bytes: int) -> None:
    """Refuse a model whose training cannot fit.

    Raises:
        ResourceError: With the estimate, what there is, and the settings that decide.
        ConfigError: As for `build_empty`.
    """
    parameters = count_parameters(build_empty(config, vocab_size, pad_index=0))
    needed = TRAINING_BYTES * parameters
    if needed > available_bytes:
        raise ResourceError(
            f"training {parameters:,} parameters takes about {needed / 2**30:,.1f} GiB, and this"
            f" machine has {available_bytes / 2**30:,.1f}: reduce hidden_size ({config.hidden_size}),"
            f" embedding_dim ({config.embedding_dim}) or num_layers ({config.num_layers})"
        )
