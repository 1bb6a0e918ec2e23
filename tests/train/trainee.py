"""A tiny model that learns from tiny batches."""

import torch

from elman.config import ModelConfig, OptimizerConfig
from elman.data.batches import StreamLoader
from elman.data.store import store_from_ids
from elman.models.build import build
from elman.train.optimizer import make_optimizer
from elman.train.step import to_inputs

PAD, START, END, VOCAB = 0, 1, 2, 11
CPU = torch.device("cpu")

STORE = store_from_ids([[3 + (i * j) % 7 for j in range(i)] for i in range(12)], start_id=START, end_id=END)


def streams(batch_size=3, bptt=4):
    return iter(StreamLoader(STORE, batch_size, bptt, pad_id=PAD))


def trainee(**settings):
    torch.manual_seed(0)
    shape = {"cell": "lstm", "embedding_dim": 6, "hidden_size": 5, "num_layers": 1}
    model = build(ModelConfig(**shape | {"tie_embeddings": True}), VOCAB, PAD).train()
    config = OptimizerConfig(**{"learning_rate": 0.05} | settings)
    model.embedding.sparse = config.row_sparse
    return model, make_optimizer(model, config)


def weights(model):
    return [parameter.detach().clone() for parameter in model.parameters()]


def given(batch, negatives=None, *, fresh=False):
    return to_inputs(batch, int(batch.counted.sum()), negatives, CPU, fresh=fresh)
