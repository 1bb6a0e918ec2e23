"""Make a model from its settings: the only file that knows every family.

A new cell is one file in `cells/` and one line in CELLS.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from elman.cells.base import Cell
from elman.cells.elman import ElmanCell
from elman.cells.gru import GRUCell
from elman.cells.lstm import LSTMCell
from elman.cells.mingru import MinGRUCell
from elman.cells.minlstm import MinLSTMCell
from elman.cells.mlstm import MLSTMCell
from elman.cells.residual import ResidualCell
from elman.cells.slstm import SLSTMCell
from elman.cells.xlstm import MLSTMBlock, SLSTMBlock
from elman.config import CellName, ModelConfig
from elman.errors import ConfigError, ModelError, ResourceError
from elman.models.base import LanguageModel
from elman.models.mixture import Mixture
from elman.models.neural import NeuralLanguageModel
from elman.models.ngram import NgramModel, estimate
from elman.models.recurrent import RecurrentLanguageModel
from elman.models.transformer import TransformerLanguageModel
from elman.models.window import WindowLanguageModel

CELLS: dict[CellName, Callable[..., Cell]] = {
    "elman": ElmanCell,
    "lstm": LSTMCell,
    "gru": GRUCell,
    "mingru": MinGRUCell,
    "minlstm": MinLSTMCell,
    "slstm": SLSTMCell,
    "mlstm": MLSTMCell,
}

HEADED: set[CellName] = {"slstm", "mlstm"}
"""Cells that share their width between heads."""

XLSTM_BLOCKS: dict[CellName, Callable[..., Cell]] = {"slstm": SLSTMBlock, "mlstm": MLSTMBlock}
"""The blocks of Beck et al. (2024) around their cells."""

TRAINING_BYTES = 16
"""Bytes a float32 parameter takes in training: itself, its gradient, and two moments of AdamW."""

TOKEN_BYTES = 17
"""Bytes a token of a batch takes at least: itself, its target, and whether a document begins there."""


def build(config: ModelConfig, vocab_size: int, pad_index: int) -> NeuralLanguageModel:
    """A freshly initialised model, to be trained.

    Args:
        config: The shape, of any family but ngram, which `count` makes.
        vocab_size: V, special tokens included.
        pad_index: The padding token, whose vector is and stays zero.

    Raises:
        ConfigError: `pad_index` is not an entry of the vocabulary; settings do not fit together.
    """
    if pad_index not in range(vocab_size):
        raise ConfigError(f"pad_index ({pad_index}) must lie in the vocabulary, 0 to {vocab_size - 1}")
    model = _FAMILIES[config.family](
        config,
        vocab_size,
        pad_index=pad_index,
        tie_embeddings=config.tie_embeddings,
        dropout=config.dropout,
        locked_dropout=config.locked_dropout,
        embedding_dropout=config.embedding_dropout,
    )
    if config.initialization == "xavier":
        for parameter in model.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
            else:
                nn.init.zeros_(parameter)
        model.zero_padding_row()
    return model


def _recurrent(config: ModelConfig, vocab_size: int, **settings: Any) -> NeuralLanguageModel:
    widths = [config.embedding_dim] + [config.hidden_size] * (config.num_layers - 1)
    return RecurrentLanguageModel(
        vocab_size,
        config.embedding_dim,
        [make_cell(config, width) for width in widths],
        config.hidden_size,
        weight_dropout=config.weight_dropout,
        norm_last=config.block != "plain",
        **settings,
    )


def _transformer(config: ModelConfig, vocab_size: int, **settings: Any) -> NeuralLanguageModel:
    return TransformerLanguageModel(
        vocab_size,
        config.embedding_dim,
        config.hidden_size,
        config.num_layers,
        config.num_heads,
        context=config.context,
        mlp=config.mlp,
        **settings,
    )


def _window(config: ModelConfig, vocab_size: int, **settings: Any) -> NeuralLanguageModel:
    return WindowLanguageModel(
        vocab_size, config.embedding_dim, config.hidden_size, config.num_layers, config.order, **settings
    )


_FAMILIES: dict[str, Callable[..., NeuralLanguageModel]] = {
    "recurrent": _recurrent,
    "transformer": _transformer,
    "window": _window,
}


def make_cell(config: ModelConfig, input_size: int) -> Cell:
    """One layer of a recurrent model: a cell, or a block around one.

    Raises:
        ConfigError: The heads do not divide the width.
    """
    shape = (input_size, config.hidden_size)
    heads = {"num_heads": config.num_heads} if config.cell in HEADED else {}
    if config.block == "xlstm":
        if config.cell not in XLSTM_BLOCKS:
            raise ConfigError(
                f"block 'xlstm' is for cells {' and '.join(XLSTM_BLOCKS)}, not {config.cell!r}; try 'residual'"
            )
        return XLSTM_BLOCKS[config.cell](*shape, **heads)
    cell = CELLS[config.cell](*shape, **heads)
    return ResidualCell(cell, *shape) if config.block == "residual" else cell


def build_empty(config: ModelConfig, vocab_size: int, pad_index: int) -> NeuralLanguageModel:
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


def count(
    config: ModelConfig,
    documents: tuple[NDArray[Any], NDArray[Any]],
    vocab_size: int,
    *,
    start_id: int,
    pad_index: int,
) -> NgramModel:
    """The n-gram model of some documents; see `models.ngram.estimate`."""
    return estimate(
        documents,
        vocab_size,
        config.order,
        start_id=start_id,
        excluded_ids=[pad_index],
        prune=[int(threshold) for threshold in config.prune.split(",") if threshold],
    )


def tensors_of(model: LanguageModel) -> dict[str, Tensor]:
    """All numbers of a model by name, a tied matrix under its first name only: what a model folder stores."""
    if isinstance(model, NgramModel):
        return {name: torch.from_numpy(array) for name, array in model.arrays().items()}
    assert isinstance(model, nn.Module), "a mixture is stored as its parts"
    return dict(model.named_parameters())


def restore(
    config: ModelConfig,
    vocab_size: int,
    *,
    pad_index: int,
    excluded_ids: Iterable[int],
    read: Callable[[dict[str, Tensor] | None], dict[str, Tensor]],
) -> LanguageModel:
    """The model whose `tensors_of` were stored.

    Args:
        config: Its settings.
        vocab_size: V.
        pad_index: The padding token.
        excluded_ids: What an n-gram model never predicts.
        read: Gives the stored tensors, checked against those expected, or whatever there is for None.

    Raises:
        ConfigError: As for `build_empty`.
        ModelError: The tensors do not make a model.
    """
    if config.family == "ngram":
        tensors = read(None)
        for name, tensor in tensors.items():
            if tensor.dtype not in (torch.int64, torch.float64):
                raise ModelError(f"n-gram model: {name} is {tensor.dtype}; estimate it anew")
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        return NgramModel.from_arrays(
            arrays, order=config.order, vocab_size=vocab_size, excluded_ids=list(excluded_ids)
        )
    tensors = read(tensors_of(build_empty(config, vocab_size, pad_index)))
    model = build(config, vocab_size, pad_index)
    model.load_state_dict(tensors, strict=False)
    return model.eval()


def count_parameters(model: LanguageModel) -> int:
    """Numbers that were learnt: weights, those of a tied matrix counted once; of n-grams, weights and back-offs."""
    if isinstance(model, Mixture):
        return sum(count_parameters(part) for part in model.parts)
    if isinstance(model, NgramModel):
        return model.num_parameters
    assert isinstance(model, nn.Module)
    return sum(parameter.numel() for parameter in model.parameters())


def require_memory(
    config: ModelConfig, vocab_size: int, available_bytes: int, *, batch_tokens: int = 0
) -> int:
    """Refuse a network whose training cannot fit; the number of its parameters.

    Args:
        config: Its shape.
        vocab_size: V.
        available_bytes: Of this machine.
        batch_tokens: In a batch, padding included. Activations do not count: a batch can be learnt from in parts.

    Raises:
        ResourceError: With the estimate, what there is, and the settings that decide.
        ConfigError: As for `build_empty`.
    """
    if TOKEN_BYTES * batch_tokens > available_bytes:
        raise ResourceError(
            f"a batch of {batch_tokens:,} tokens takes about {TOKEN_BYTES * batch_tokens / 2**30:,.1f} GiB, and this"
            f" machine has {available_bytes / 2**30:,.1f}: reduce batch_size, or bptt (max_length for documents)"
        )
    parameters = count_parameters(build_empty(config, vocab_size, pad_index=0))
    needed = TRAINING_BYTES * parameters
    if needed > available_bytes:
        raise ResourceError(
            f"training {parameters:,} parameters takes about {needed / 2**30:,.1f} GiB, and this"
            f" machine has {available_bytes / 2**30:,.1f}: reduce hidden_size ({config.hidden_size}),"
            f" embedding_dim ({config.embedding_dim}) or num_layers ({config.num_layers})"
        )
    return parameters
