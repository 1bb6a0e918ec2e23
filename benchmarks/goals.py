"""What each part must reach: the ratio of the peer's cost to ours, at least.

A bound in other units is a peer of its own, with that cost: 64 MB, or a million tokens a second.
"""

from typing import NamedTuple


class Goal(NamedTuple):
    """A line of the table."""

    part: str
    """C1 to C9, G1."""
    what: str
    """What is measured, as `Record.what` has it."""
    peer: str
    """Against whom, as `Record.peer` has it."""
    ratio: float
    """Peer / ours, at least."""


CHAPTER = "the chapter's loop"
PLAIN = "F.cross_entropy(F.linear())"
AUTOMATIC = "F.linear_cross_entropy, automatic chunk"
HAND_PICKED = "F.linear_cross_entropy, best chunk"
STOCK = "stock torch"
STOCK_BFLOAT16 = "stock torch, bfloat16 products"
MINGRU_PYTORCH = "minGRU-pytorch"
LMPLZ = "lmplz"
KENLM = "kenlm"
KENLM_LOOP = "kenlm, a loop over the vocabulary"
MEGABYTES_64 = "an allowance of 64 MB"
MILLION = "1 M tokens/s"

FLAT = 0.8
"""A token far into a text may take so much longer than an early one, as noise: 1 / 0.8."""

GOALS = (
    Goal("C1", "training step, float32", CHAPTER, 2.5),
    Goal("C1", "memory of a training step", CHAPTER, 4.0),
    Goal("C2", "training step, bfloat16 products", CHAPTER, 5.0),
    Goal("C2", "validation loss after training, float32 / bfloat16", "float32 products", 0.995),
    Goal("C3", "output layer and loss, float32", AUTOMATIC, 3.0),
    Goal("C3", "output layer and loss, float32", HAND_PICKED, 1.5),
    Goal("C3", "output layer and loss, bfloat16 products", AUTOMATIC, 3.0),
    Goal("C3", "output layer and loss, bfloat16 products", HAND_PICKED, 1.5),
    Goal("C3", "memory of output layer and loss", MEGABYTES_64, 1.0),
    Goal("C3", "memory of output layer and loss, bfloat16 products", MEGABYTES_64, 1.0),
    Goal("C4", "sampled softmax step, float32", CHAPTER, 25.0),
    Goal("C4", "sampled softmax step, bfloat16 products", CHAPTER, 25.0),
    Goal("C6", "elman, forward and backward", CHAPTER, 2.0),
    Goal("C6", "elman, forward and backward", "nn.RNN", 2.0),
    Goal("C6", "gru, forward and backward", "nn.GRU", 1.5),
    Goal("C6", "lstm, forward and backward", "nn.LSTM", 1.0),
    Goal("C6", "mingru, forward and backward", MINGRU_PYTORCH, 3.0),
    Goal("C6", "minlstm, forward and backward", MINGRU_PYTORCH, 3.0),
    Goal("C7", "generate 50 tokens, greedy", CHAPTER, 10.0),
    Goal("C7", "generate 500 tokens, greedy", CHAPTER, 100.0),
    Goal("C7", "a token after 100,000", "a token after 100", FLAT),
    Goal("C7", "a token of 256 streams, greedy", "a token of one stream", 40.0),
    Goal("C8", "text to token shards", "one line at a time", 5.0),
    Goal("C8", "a million tokens of streams", MILLION, 1.0),
    Goal("C8", "a million tokens of documents", MILLION, 1.0),
    Goal("C9", "text to an ARPA file, order 5", LMPLZ, 1 / 1.5),
    Goal("C9", "text to a model, order 5", LMPLZ, 1 / 1.5),
    Goal("C9", "distribution over the vocabulary", KENLM_LOOP, 100.0),
    Goal("G1", "training step on a GPU", "0.6 ms", 1.0),
    Goal("G1", "training step on a GPU", STOCK, 1.0),
)


def goal_ratio(part: str, what: str, peer: str) -> float | None:
    """The goal of a line, or None where it is only for comparison."""
    return next((goal.ratio for goal in GOALS if goal[:3] == (part, what, peer)), None)
