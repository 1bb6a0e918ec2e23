"""The shapes that are measured, and tokens for them.

W1 is the chapter's: 32,011 tokens, width 128, two layers, batches of 128 sequences of 29 inputs. Tokens are drawn
by the law of Zipf and Mandelbrot, P(rank) ~ 1 / (rank + 2.7), with a seed: as skewed as words are.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class ModelShape(NamedTuple):
    """A recurrent language model and its batch."""

    batch: int
    time: int
    width: int
    vocab: int
    layers: int = 2

    def __str__(self) -> str:
        """As a table has it."""
        return f"B{self.batch} T{self.time} H{self.width} L{self.layers} V{self.vocab}"

    @property
    def positions(self) -> int:
        """Predictions in a batch."""
        return self.batch * self.time

    @property
    def parameters(self) -> int:
        """Of Elman layers with one bias, an embedding and an untied output layer."""
        matrices = 2 * self.vocab * self.width + self.layers * 2 * self.width**2
        return matrices + self.vocab + self.layers * self.width

    @property
    def token_flop(self) -> float:
        """Operations of the products that predict one token."""
        return 2.0 * (self.vocab * self.width + self.layers * 2 * self.width**2)

    @property
    def step_flop(self) -> float:
        """Operations of the products of a training step: forward, and twice that backward."""
        return 3.0 * self.positions * self.token_flop

    @property
    def step_bytes(self) -> float:
        """What AdamW reads (weight, gradient, two moments) and writes (all but the gradient), in float32."""
        return 7.0 * 4 * self.parameters


W1 = ModelShape(batch=128, time=29, width=128, vocab=32_011)
TINY = ModelShape(batch=3, time=5, width=8, vocab=50)


def zipf(vocab: int, size: int | tuple[int, ...], seed: int, first: int = 0) -> NDArray[np.int64]:
    """Tokens from `first` to `vocab` - 1, the first the most frequent."""
    shares = 1 / (np.arange(vocab - first) + 2.7)
    drawn = np.random.default_rng(seed).choice(vocab - first, size, p=shares / shares.sum())
    return drawn.astype(np.int64) + first


def token_batches(shape: ModelShape, count: int, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Inputs and targets [B, T], token 0 (padding) never among them."""
    tokens = torch.from_numpy(zipf(shape.vocab, (count, shape.batch, shape.time + 1), seed, first=1))
    return [(batch[:, :-1].contiguous(), batch[:, 1:].contiguous()) for batch in tokens]
