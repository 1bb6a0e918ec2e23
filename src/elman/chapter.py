"""Chapter 3 as code: the Elman language model as it is defined there, plain and slow.

    h_t  = tanh(x_t W_h + h_{t-1} U_h + b_h)              formula 1, `ElmanRNNUnit`
    L    = RNN_output W_fc + b_fc                         formula 2, `RecurrentLanguageModel.fc`
    softmax(z, k) = e^{z_k} / sum_j e^{z_j}               formula 3, `softmax`
    loss(y_hat, y) = -log y_hat_c                         formula 4, `cross_entropy`
    loss = -1/N sum_i log y_hat_{i, c_i}                  formula 5, `average_cross_entropy`

    3.1, 3.3  Elman RNN               `ElmanRNNUnit`, `ElmanRNN`
    3.4, 3.5  language model          `RecurrentLanguageModel` and its `embedding`
    3.6       training                `set_seed`, `initialize_weights`, `train` (3.2: in mini-batches)
    3.7       Dataset and DataLoader  `TextDataset`, `collate`
    3.8       loss and perplexity     the formulas, `perplexity`, `evaluate`, `compute_perplexity`
    outlook   generation              `generate_text`

This file is the oracle for every fast path of the package, so nothing here is clever. As in the chapter, the
state is zero at the start of every call and is not returned, and generation reads its whole prefix again for
every token. Where the chapter's words and its published code disagree, the words win: the padding row stays
zero, biases start at zero, and an evaluation covers all of the data.

Source of the recurrence: Elman, Finding structure in time, Cognitive Science 14 (1990).
"""

import math
import os
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from elman.errors import ConfigError, DivergedError, InputError

Batch = tuple[Tensor, Tensor]
"""Input and target, both Int64 (batch_size, seq_len); where the target is padding, nothing is predicted."""


class ElmanRNNUnit(nn.Module):
    """One layer of the recurrence, one step at a time (formula 1)."""

    def __init__(self, emb_dim: int) -> None:
        super().__init__()
        self.Uh = nn.Parameter(torch.randn(emb_dim, emb_dim))
        self.Wh = nn.Parameter(torch.randn(emb_dim, emb_dim))
        self.b = nn.Parameter(torch.zeros(emb_dim))

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        """The new state (batch_size, emb_dim), from the input and the state before it, of the same shape."""
        return torch.tanh(x @ self.Wh + h @ self.Uh + self.b)


class ElmanRNN(nn.Module):
    """A stack of units: the states of one layer are the inputs of the next.

    Raises:
        ConfigError: `num_layers` is below one.
    """

    def __init__(self, emb_dim: int, num_layers: int) -> None:
        super().__init__()
        if num_layers < 1:
            raise ConfigError(f"num_layers ({num_layers}) must be at least 1")
        self.rnn_units = nn.ModuleList([ElmanRNNUnit(emb_dim) for _ in range(num_layers)])

    def forward(self, x: Tensor) -> Tensor:
        """The last layer's state at every position, (batch_size, seq_len, emb_dim), as is `x`."""
        batch_size, seq_len, emb_dim = x.shape
        h_prev = [x.new_zeros(batch_size, emb_dim) for _ in self.rnn_units]
        outputs = []
        for t in range(seq_len):
            input_t = x[:, t]
            for layer, rnn_unit in enumerate(self.rnn_units):
                h_new = rnn_unit(input_t, h_prev[layer])
                h_prev[layer] = h_new
                input_t = h_new
            outputs.append(input_t)
        return torch.stack(outputs, dim=1)


class RecurrentLanguageModel(nn.Module):
    """Embedding, Elman RNN and a linear layer: logits of the next token at every position.

    Raises:
        ConfigError: `pad_index` is not an index of the vocabulary, or `num_layers` is below one.
    """

    def __init__(self, vocab_size: int, emb_dim: int, num_layers: int, pad_index: int) -> None:
        super().__init__()
        # nn.Embedding would take -1 for the last row, but the loss would not: it compares target values.
        if not 0 <= pad_index < vocab_size:
            raise ConfigError(f"pad_index ({pad_index}) must lie in the vocabulary, 0 to {vocab_size - 1}")
        self.embedding = nn.Embedding(vocab_size, emb_dim, padding_idx=pad_index)
        self.rnn = ElmanRNN(emb_dim, num_layers)
        self.fc = nn.Linear(emb_dim, vocab_size)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch_size, seq_len, vocab_size) for token indices (batch_size, seq_len), seq_len > 0."""
        embeddings = self.embedding(x)
        rnn_output = self.rnn(embeddings)
        logits: Tensor = self.fc(rnn_output)
        return logits


def initialize_weights(model: nn.Module) -> None:
    """Xavier uniform for every matrix (Glorot & Bengio 2010), zero for every vector and every padding row."""
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
        else:
            nn.init.zeros_(parameter)
    # The loop above filled the padding row too. Zeroed here, it stays zero: it never gets a gradient.
    for module in model.modules():
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            nn.init.zeros_(module.weight[module.padding_idx].detach())


def set_seed(seed: int) -> None:
    """Seed Python, NumPy, and torch on CPU and CUDA; allow deterministic algorithms only, and no autotuning.

    Call it before anything runs on CUDA: cuBLAS reads its workspace setting once, when it starts.

    Raises:
        ConfigError: `seed` is negative or needs more than 63 bits.
    """
    if not 0 <= seed < 2**63:
        raise ConfigError(f"seed ({seed}) must be between 0 and 2**63 - 1")
    random.seed(seed)
    np.random.seed(seed % 2**32)  # NumPy's limit
    torch.manual_seed(seed)
    torch.cuda.manual_seed_all(seed)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.use_deterministic_algorithms(True)


def softmax(z: Tensor) -> Tensor:
    """Probabilities from logits along the last axis (formula 3).

    The largest logit is subtracted first. That cancels in the ratio, and no exponential can overflow.
    """
    exponentials = torch.exp(z - z.amax(dim=-1, keepdim=True))
    return exponentials / exponentials.sum(dim=-1, keepdim=True)


def cross_entropy(y_hat: Tensor, c: int) -> Tensor:
    """Nats of one example, a scalar: minus the log of the probability of the correct class `c` (formula 4).

    Args:
        y_hat: Probabilities (vocab_size,), not logits.
        c: Index of the correct class.

    Raises:
        InputError: `c` is not an index of `y_hat`.
    """
    return average_cross_entropy(y_hat.unsqueeze(0), torch.tensor([c], device=y_hat.device))


def average_cross_entropy(y_hat: Tensor, c: Tensor) -> Tensor:
    """Mean nats of N examples, a scalar (formula 5).

    Args:
        y_hat: Probabilities (N, vocab_size), not logits.
        c: Int64 (N,), the correct class of each example.

    Raises:
        InputError: There are no examples, or a class is not an index of the vocabulary.
    """
    vocab_size = y_hat.shape[-1]
    if c.numel() == 0:
        raise InputError("the average of no examples is not defined; give at least one")
    if c.min() < 0 or c.max() >= vocab_size:
        raise InputError(f"classes {int(c.min())} to {int(c.max())} must lie between 0 and {vocab_size - 1}")
    correct = y_hat.gather(-1, c.unsqueeze(-1)).squeeze(-1)
    return -correct.log().mean()


def perplexity(loss: float | Tensor) -> float:
    """`exp(loss)` for a mean loss in nats: of how many equally likely tokens the model is as unsure.

    Infinity where that does not fit a float (a loss above 709.78 nats).
    """
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


class TextDataset(Dataset[Batch]):
    """Examples (input, target), Int64 (seq_len,): the target is the input, one token later.

    A document longer than `max_length` becomes several examples: nothing is cut off, and every token after
    the first of a document is a target exactly once. With `start_index` that first token is the start token,
    so every token of the text is predicted.

    Args:
        documents: Texts for `tokenize`; or sequences of token indices, where it is left out.
        tokenize: From a document to its token indices.
        start_index: Token put before every document, or None.
        end_index: Token put after every document, or None.
        max_length: Longest input, in tokens; None keeps every document whole.

    Raises:
        ConfigError: `max_length` is below one.
        InputError: No document has a token to predict.
    """

    def __init__(
        self,
        documents: Iterable[Any],
        tokenize: Callable[[Any], Sequence[int]] = list,
        *,
        start_index: int | None = None,
        end_index: int | None = None,
        max_length: int | None = None,
    ) -> None:
        if max_length is not None and max_length < 1:
            raise ConfigError(f"max_length ({max_length}) must be at least 1")
        start = [] if start_index is None else [start_index]
        end = [] if end_index is None else [end_index]
        self.windows: list[list[int]] = []
        for document in documents:
            tokens = [*start, *tokenize(document), *end]
            predicted = len(tokens) - 1
            step = max_length or max(predicted, 1)
            # A window's last token is only a target; the next window begins with it, as an input.
            self.windows += [tokens[at : at + step + 1] for at in range(0, predicted, step)]
        if not self.windows:
            raise InputError("no document has a token to predict; give more text, or start and end tokens")

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> Batch:
        window = torch.tensor(self.windows[index], dtype=torch.int64)
        return window[:-1], window[1:]


def collate(examples: Sequence[Batch], pad_index: int) -> Batch:
    """A batch (batch_size, longest seq_len), shorter examples padded at their ends.

    For a loader: `DataLoader(dataset, shuffle=True, collate_fn=partial(collate, pad_index=...))`.

    Raises:
        InputError: A text holds `pad_index`, so that the loss would ignore a real token.
    """
    if any((part == pad_index).any() for example in examples for part in example):
        raise InputError(f"a document holds token {pad_index}, the padding; give padding an index of its own")
    inputs, targets = zip(*examples, strict=True)
    return (
        pad_sequence(list(inputs), batch_first=True, padding_value=pad_index),
        pad_sequence(list(targets), batch_first=True, padding_value=pad_index),
    )


def train(
    model: nn.Module,
    loader: Iterable[Batch],
    *,
    learning_rate: float = 1e-3,
    num_epochs: int = 1,
    pad_index: int,
    device: torch.device | str = "cpu",
) -> list[float]:
    """Train by mini-batch gradient descent with AdamW; return the loss of every step, in nats per target.

    Args:
        model: Logits (batch_size, seq_len, vocab_size) from tokens (batch_size, seq_len). Moved to `device`.
        loader: Batches; iterated once per epoch.
        learning_rate: AdamW's; its other settings are torch's defaults.
        num_epochs: Passes over the loader.
        pad_index: Targets of this value are left out of the mean.
        device: Where to train.

    Raises:
        DivergedError: A loss is not finite. The weights are those from before that step.
    """
    model.to(device)
    criterion = nn.CrossEntropyLoss(ignore_index=pad_index)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
    losses: list[float] = []
    for _ in range(num_epochs):
        model.train()
        for input_seq, target_seq in loader:
            input_seq, target_seq = input_seq.to(device), target_seq.to(device)
            batch_size_current, seq_len = input_seq.shape
            optimizer.zero_grad()
            output = model(input_seq)
            output = output.reshape(batch_size_current * seq_len, output.shape[-1])
            target = target_seq.reshape(batch_size_current * seq_len)
            loss = criterion(output, target)
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                raise DivergedError(
                    f"step {len(losses)}: the loss is {losses[-1]}; lower learning_rate ({learning_rate:g})"
                )
            loss.backward()
            optimizer.step()
    return losses


class Evaluation(NamedTuple):
    """Sums over the targets that were scored; the ratio is taken last."""

    nats: float
    """Sum of minus the log-probability of every target, in float64."""
    targets: int
    """How many targets were scored."""

    @property
    def loss(self) -> float:
        """Nats per target."""
        return self.nats / self.targets

    @property
    def perplexity(self) -> float:
        """`exp(loss)`."""
        return perplexity(self.loss)


@torch.no_grad()
def evaluate(
    model: nn.Module, loader: Iterable[Batch], pad_index: int, device: torch.device | str = "cpu"
) -> Evaluation:
    """Score every target of every batch. The batch size does not matter: sums are kept, not means.

    Args:
        model: As for `train`. Moved to `device`; left in the mode it was in.
        loader: Batches.
        pad_index: Targets of this value are not counted.
        device: Where to compute.

    Raises:
        InputError: There is no target to score.
    """
    was_training = model.training
    model.to(device).eval()
    criterion = nn.CrossEntropyLoss(ignore_index=pad_index, reduction="none")
    nats, targets = 0.0, 0
    for input_seq, target_seq in loader:
        output = model(input_seq.to(device))
        target = target_seq.to(device).reshape(-1)
        nats += criterion(output.reshape(-1, output.shape[-1]), target).cpu().double().sum().item()
        targets += int((target != pad_index).sum())
    model.train(was_training)
    if targets == 0:
        raise InputError("there is nothing to score: the loader has no target that is not padding")
    return Evaluation(nats, targets)


def compute_perplexity(
    model: nn.Module, loader: Iterable[Batch], pad_index: int, device: torch.device | str = "cpu"
) -> float:
    """Perplexity over all that the loader gives; arguments and errors as for `evaluate`."""
    return evaluate(model, loader, pad_index, device).perplexity


@torch.no_grad()
def generate_text(
    model: nn.Module,
    start_tokens: Sequence[int],
    num_tokens: int,
    *,
    temperature: float = 0.0,
    end_index: int | None = None,
    generator: torch.Generator | None = None,
) -> list[int]:
    """`start_tokens`, then up to `num_tokens` more, the whole prefix read again for each of them.

    Args:
        model: Logits (1, seq_len, vocab_size) from tokens (1, seq_len).
        start_tokens: The prompt, at least one token.
        num_tokens: How many to add.
        temperature: Divides the logits before sampling; 0 takes the likeliest token and draws nothing.
        end_index: Token after which to stop; it is kept. None never stops early.
        generator: Random numbers, on the CPU; None uses torch's own.

    Raises:
        ConfigError: `num_tokens` or `temperature` is out of range.
        InputError: The prompt is empty.
    """
    if not start_tokens:
        raise InputError("the prompt is empty; begin with a start token")
    if num_tokens < 0:
        raise ConfigError(f"num_tokens ({num_tokens}) must be at least 0")
    if not 0 <= temperature < math.inf:
        raise ConfigError(f"temperature ({temperature}) must be a finite number, at least 0")
    device = next(model.parameters()).device
    tokens = list(start_tokens)
    for _ in range(num_tokens):
        logits = model(torch.tensor([tokens], device=device))
        next_logits = logits[0, -1].cpu().double()
        if temperature == 0:
            token = int(next_logits.argmax())
        else:
            # The largest logit is taken away before the division, so that a tiny temperature cannot overflow.
            probabilities = softmax((next_logits - next_logits.max()) / temperature)
            token = int(torch.multinomial(probabilities, 1, generator=generator))
        tokens.append(token)
        if token == end_index:
            break
    return tokens
