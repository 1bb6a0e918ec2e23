"""What elman's training is compared with: the chapter's loop, and the same model from torch's own parts.

    2 Elman layers of 128, Xavier, batches of 128 documents cut to 30 tokens, AdamW at 0.001, mean cross-entropy

A baseline trains until its batches end, so that whoever gives it batches can stop it, or look at it between two
steps; and it can be converted to the production model, so that one scorer scores all.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elman import chapter
from elman.cells.elman import ElmanCell
from elman.models.convert import from_chapter
from elman.models.recurrent import RecurrentLanguageModel

WIDTH, LAYERS, BATCH, LENGTH, LEARNING_RATE = 128, 2, 128, 30, 1e-3
"""Of the chapter."""


class StockModel(nn.Module):
    """The chapter's model from torch's own parts; a layer has two biases, and AdamW moves their sum twice as far."""

    def __init__(self, vocab_size: int, width: int, num_layers: int, pad_index: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width, padding_idx=pad_index)
        self.rnn = nn.RNN(width, width, num_layers, batch_first=True)
        self.fc = nn.Linear(width, vocab_size)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, T, V] for tokens [B, T]."""
        outputs, _ = self.rnn(self.embedding(x))
        logits: Tensor = self.fc(outputs)
        return logits


def from_stock(source: StockModel) -> RecurrentLanguageModel:
    """A production model with the weights of the stock one; the two biases of a layer are added."""
    vocab_size, width = source.embedding.weight.shape
    pad_index = source.embedding.padding_idx
    assert pad_index is not None, "the stock model always has a padding index"
    cells = [ElmanCell(width, width) for _ in range(source.rnn.num_layers)]
    target = RecurrentLanguageModel(vocab_size, width, cells, width, pad_index=pad_index)
    weights = dict(source.rnn.named_parameters())
    layers = {
        f"cells.{k}.{name}": weight
        for k in range(source.rnn.num_layers)
        for name, weight in [
            ("weight_ih", weights[f"weight_ih_l{k}"]),
            ("weight_hh", weights[f"weight_hh_l{k}"]),
            ("bias", weights[f"bias_ih_l{k}"] + weights[f"bias_hh_l{k}"]),
        ]
    }
    ends = {"embedding.weight": source.embedding.weight, "head.weight": source.fc.weight}
    target.load_state_dict(layers | ends | {"head.bias": source.fc.bias})
    return target


def train_chapter(model: nn.Module, batches: Iterator[chapter.Batch], pad_index: int) -> None:
    """The chapter's own loop; it trains until the batches end."""
    chapter.train(model, batches, learning_rate=LEARNING_RATE, pad_index=pad_index)


def train_stock(model: nn.Module, batches: Iterator[chapter.Batch], pad_index: int) -> None:
    """The same arithmetic, as one writes it in torch today."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)
    for inputs, targets in batches:
        optimizer.zero_grad()
        logits = model(inputs)
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=pad_index)
        loss.backward()
        optimizer.step()


class Baseline(NamedTuple):
    """What elman is compared with."""

    make: Callable[[int, int, int, int], nn.Module]
    """From the size of the vocabulary, the width, the layers and the padding token."""
    train: Callable[[nn.Module, Iterator[chapter.Batch], int], None]
    """Trains until the batches end."""
    convert: Callable[[Any], RecurrentLanguageModel]
    """A production model of the same weights, to be scored."""


BASELINES = {
    "chapter": Baseline(chapter.RecurrentLanguageModel, train_chapter, from_chapter),
    "stock": Baseline(StockModel, train_stock, from_stock),
}
