"""The chapter's model to the production model and back, with the same logits, losses and gradients.

weight_ih = Wh^T,  weight_hh = Uh^T,  bias = b;  the embedding and the output layer are the same
"""

import torch
from torch import Tensor

from elman import chapter
from elman.cells.elman import ElmanCell
from elman.models.recurrent import RecurrentLanguageModel


def from_chapter(source: chapter.RecurrentLanguageModel) -> RecurrentLanguageModel:
    """A production model with the weights of the chapter's."""
    units = [unit for unit in source.rnn.rnn_units if isinstance(unit, chapter.ElmanRNNUnit)]
    vocab_size, width = source.embedding.weight.shape
    pad_index = source.embedding.padding_idx
    assert pad_index is not None, "the chapter's embedding always has a padding index"
    cells = [ElmanCell(width, width) for _ in units]
    target = RecurrentLanguageModel(vocab_size, width, cells, width, pad_index=pad_index)
    target.to(source.embedding.weight)
    _copy(_pairs(source, target))
    return target


def to_chapter(source: RecurrentLanguageModel) -> chapter.RecurrentLanguageModel:
    """The chapter's model with the weights of a production model of its shape.

    Raises:
        ValueError: The model has other cells, widths that differ, or tied embeddings.
    """
    vocab_size, width = source.embedding.weight.shape
    cells = [
        cell
        for cell in source.cells
        if isinstance(cell, ElmanCell) and cell.weight_ih.shape == (width, width)
    ]
    if len(cells) != len(source.cells) or source.head.weight is source.embedding.weight:
        raise ValueError("only untied Elman models with hidden_size equal to embedding_dim are the chapter's")
    target = chapter.RecurrentLanguageModel(vocab_size, width, len(cells), source.pad_index)
    target.to(source.embedding.weight)
    _copy([(theirs, ours) for ours, theirs in _pairs(target, source)])
    return target


def _pairs(
    plain: chapter.RecurrentLanguageModel, production: RecurrentLanguageModel
) -> list[tuple[Tensor, Tensor]]:
    """Corresponding tensors, the chapter's first, matrices of the recurrence as the production model has them."""
    pairs = [
        (plain.embedding.weight, production.embedding.weight),
        (plain.fc.weight, production.head.weight),
        (plain.fc.bias, production.head.bias),
    ]
    for unit, cell in zip(plain.rnn.rnn_units, production.cells, strict=True):
        assert isinstance(unit, chapter.ElmanRNNUnit)
        assert isinstance(cell, ElmanCell)
        pairs += [(unit.Wh.T, cell.weight_ih), (unit.Uh.T, cell.weight_hh), (unit.b, cell.bias)]
    return pairs


@torch.no_grad()
def _copy(pairs: list[tuple[Tensor, Tensor]]) -> None:
    """Each first into its second."""
    for source, target in pairs:
        target.copy_(source)
