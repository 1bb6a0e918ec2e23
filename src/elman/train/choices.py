"""What is chosen for a training beside its machine: how its loss and its recurrence are computed."""

import torch

from elman.config import RunConfig
from elman.ops.chunks import choose_chunks
from elman.ops.vendor import SHORTEST_PIECE, resolve_backend
from elman.train.machine import Machine


def choices(config: RunConfig, vocab_size: int, machine: Machine) -> dict[str, str]:
    """In words, to be printed once and recorded: `loss`, and `recurrence` where there is a choice."""
    chosen = {"loss": _loss(config, vocab_size, machine)}
    if config.model.family == "recurrent" and config.model.cell in ("elman", "gru", "lstm"):
        steps: list[torch.Tensor | None] = [None] * _length(config)
        first = torch.empty(0, device=machine.device)
        backend = resolve_backend(config.model.cell, first, machine.product_dtype, steps)
        on_gpu = machine.device.type == "cuda"
        library = "cuDNN without resets" if on_gpu else f"oneDNN between resets {SHORTEST_PIECE} steps apart"
        said = {"loop": "a loop over the steps", "vendor": f"{library}, else a loop over the steps"}
        chosen["recurrence"] = said[backend]
    return chosen


def batch_tokens(config: RunConfig) -> int:
    """Tokens of a batch, padding included, at most."""
    return config.training.batch_size * _length(config)


def _length(config: RunConfig) -> int:
    """Tokens of a row of a batch, at most."""
    training = config.training
    return training.bptt if training.batches == "streams" else training.max_length - 1


def _loss(config: RunConfig, vocab_size: int, machine: Machine) -> str:
    model, training = config.model, config.training
    width = model.embedding_dim if model.tie_embeddings else model.hidden_size
    cut = choose_chunks(batch_tokens(config), vocab_size, width, machine.product_dtype, machine.device)
    exact = f"exact, {cut.rows:,} rows by {cut.words:,} words at a time"
    if training.loss == "exact" or training.exact_share == 1:
        return exact
    sampled = f"sampled, {min(training.negatives, vocab_size):,} negatives"
    return f"{sampled}; at last {training.exact_share:.0%} {exact}" if training.exact_share else sampled
