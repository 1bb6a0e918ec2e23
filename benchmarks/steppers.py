"""A training step as something that can be called: the chapter's loop, ours, and stock torch's best.

`chapter.train` runs to its end, and a race takes a step of each side in turns. So its body stands here again, line by
line; tests hold that every step gives the losses of its loop.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import cycle
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.baselines import StockModel
from benchmarks.shapes import ModelShape
from elman import chapter
from elman.config import PRESETS, ModelConfig
from elman.models.build import build
from elman.models.convert import from_chapter
from elman.models.neural import NeuralLanguageModel
from elman.ops.sampled_softmax import Negatives
from elman.train.optimizer import make_optimizer
from elman.train.step import EagerStep, Inputs

PAD = 0

Batches = list[tuple[Tensor, Tensor]]

Step = Callable[[], float]
"""Takes the next batch, learns from it, and returns the mean nats of a target before that."""


def chapter_model(shape: ModelShape, seed: int = 0) -> chapter.RecurrentLanguageModel:
    """The chapter's model with its initialisation."""
    torch.manual_seed(seed)
    model = chapter.RecurrentLanguageModel(shape.vocab, shape.width, shape.layers, PAD)
    chapter.initialize_weights(model)
    return model


def production_model(source: chapter.RecurrentLanguageModel, shape: ModelShape) -> NeuralLanguageModel:
    """Ours, as the chapter preset builds it, with the same weights."""
    config = ModelConfig(
        cell="elman",
        embedding_dim=shape.width,
        hidden_size=shape.width,
        num_layers=shape.layers,
        initialization="xavier",
    )
    model = build(config, shape.vocab, PAD)
    model.load_state_dict(from_chapter(source).state_dict())
    return model


def chapter_step(model: chapter.RecurrentLanguageModel, batches: Batches) -> Step:
    """The body of `chapter.train`."""
    criterion = nn.CrossEntropyLoss(ignore_index=PAD)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    source = cycle(batches)
    model.train()

    def step() -> float:
        input_seq, target_seq = next(source)
        batch_size, seq_len = input_seq.shape
        optimizer.zero_grad()
        output = model(input_seq)
        output = output.reshape(batch_size * seq_len, output.shape[-1])
        loss = criterion(output, target_seq.reshape(batch_size * seq_len))
        nats: float = loss.item()
        loss.backward()
        optimizer.step()
        return nats

    return step


def production_step(
    model: NeuralLanguageModel,
    batches: Batches,
    product_dtype: torch.dtype = torch.float32,
    *,
    negatives: Callable[[], Negatives] | None = None,
    row_sparse: bool = False,
) -> Step:
    """The step of `train.loop.train`, with the optimizer of the chapter preset; sampled if there are negatives."""
    config = replace(PRESETS["chapter"].optimizer, row_sparse=row_sparse)
    model.embedding.sparse = row_sparse
    take_step = EagerStep(model.train(), make_optimizer(model, config), config.clip_norm, product_dtype)
    source = cycle(batches)

    def step() -> float:
        tokens, targets = next(source)
        inputs = whole(tokens, targets, negatives() if negatives else None)
        return take_step(inputs, model.initial_state(len(tokens))).loss.item()

    return step


def whole(tokens: Tensor, targets: Tensor, negatives: Negatives | None = None) -> Inputs:
    """A batch whose every row is a document of full length, as a step wants it."""
    number = torch.tensor(float(targets.numel()), device=tokens.device)
    return Inputs(tokens, targets, None, None, number, negatives)


def stock_model(source: chapter.RecurrentLanguageModel) -> StockModel:
    """The same model of stock modules, with the same weights."""
    vocab, width = source.embedding.weight.shape
    model = StockModel(vocab, width, len(source.rnn.rnn_units), PAD)
    with torch.no_grad():
        model.embedding.weight.copy_(source.embedding.weight)
        model.fc.weight.copy_(source.fc.weight)
        model.fc.bias.copy_(source.fc.bias)
        for layer, unit in enumerate(source.rnn.rnn_units):
            assert isinstance(unit, chapter.ElmanRNNUnit)
            getattr(model.rnn, f"weight_ih_l{layer}").copy_(unit.Wh.T)
            getattr(model.rnn, f"weight_hh_l{layer}").copy_(unit.Uh.T)
            getattr(model.rnn, f"bias_ih_l{layer}").copy_(unit.b)
            getattr(model.rnn, f"bias_hh_l{layer}").zero_()
    for layer in range(model.rnn.num_layers):  # one bias is enough, and two would learn twice as fast
        getattr(model.rnn, f"bias_hh_l{layer}").requires_grad_(False)
    return model


def stock_step(
    model: StockModel,
    batches: Batches,
    chunk: int | None,
    products: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Step:
    """Stock torch: nn.RNN, F.linear_cross_entropy in chunks of `chunk` rows, fused AdamW.

    A torch that does not have it, before 2.11, takes F.cross_entropy(F.linear()), as `chunk` None does.
    `products` is the context in which it multiplies, forward and backward.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, fused=True)
    source = cycle(batches)

    def step() -> float:
        inputs, targets = next(source)
        with products():
            hidden, _ = model.rnn(model.embedding(inputs))
            rows, wanted = hidden.flatten(0, 1), targets.flatten()
            nats = linear_cross_entropy(rows, model.fc.weight, model.fc.bias, wanted, chunk)
            loss = nats / len(wanted)
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, chunk: int | None
) -> Tensor:
    """Stock torch's sum of nats, in chunks of `chunk` rows, or plainly for None or where it has no chunks."""
    if chunk is None or not hasattr(F, "linear_cross_entropy"):
        return F.cross_entropy(F.linear(hidden, weight, bias), targets, reduction="sum")
    options = nn.LinearCrossEntropyOptions(batch_chunk_size=chunk, chunking_method=None)
    return F.linear_cross_entropy(hidden, weight, targets, linear_bias=bias, reduction="sum", options=options)
