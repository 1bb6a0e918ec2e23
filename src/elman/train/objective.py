"""What a step minimises: the exact loss, or a sampled one for most of the budget and the exact one at its end.

A sampled softmax costs a fraction of the exact one where the vocabulary is large, so that more text is read in the
same time; what its noise and its bias leave is mended by an exact finish, while the learning rate falls to zero.
"""

import numpy as np
import torch

from elman.config import TrainingConfig
from elman.data.store import TokenStore
from elman.ops.proposal import Proposal
from elman.ops.sampled_softmax import Negatives

COUNTED_AT_ONCE = 1 << 22
"""Tokens counted at a time, so that a long text costs no memory."""


class Objective:
    """Draws the negatives of a step while the loss is sampled.

    Args:
        config: Names the loss, the number of negatives and the share of the budget that is exact.
        store: The training text; its token counts decide how often a word is a negative.
        vocab_size: Entries of the vocabulary.
    """

    def __init__(self, config: TrainingConfig, store: TokenStore, vocab_size: int) -> None:
        self.generator = torch.Generator().manual_seed(config.seed)
        self._sampled_share = 1 - config.exact_share if config.loss == "sampled" else 0.0
        if not self._sampled_share:
            return
        counts = np.zeros(vocab_size, dtype=np.int64)
        for start in range(0, len(store), COUNTED_AT_ONCE):
            counts += np.bincount(store.tokens[start : start + COUNTED_AT_ONCE], minlength=vocab_size)
        self._proposal = Proposal(torch.from_numpy(counts), config.negatives)

    def negatives(self, used: float) -> Negatives | None:
        """Those of the next step, on the CPU, or None for the exact loss; `used` is the share of the budget gone."""
        return self._proposal.draw(self.generator) if used < self._sampled_share else None
