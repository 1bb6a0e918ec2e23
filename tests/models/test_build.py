"""Models from settings: every setting does something, sizes are counted, and what cannot fit is refused."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from elman.cells.lstm import FORGET_BIAS
from elman.cells.norm import RMSNorm
from elman.cells.residual import ResidualCell
from elman.config import PRESETS, ModelConfig
from elman.errors import ConfigError, ResourceError
from elman.models.build import (
    CELLS,
    HEADED,
    TOKEN_BYTES,
    TRAINING_BYTES,
    XLSTM_BLOCKS,
    build,
    build_empty,
    count,
    count_parameters,
    require_memory,
)

VOCAB_SIZE, PAD = 12, 3
SMALL = ModelConfig(embedding_dim=4, hidden_size=6, num_layers=2, num_heads=2)
TRANSFORMER = replace(SMALL, family="transformer", hidden_size=8, context=3)
OTHER_VALUES = {
    "family": "window",
    "cell": "lstm",
    "block": "residual",
    "embedding_dim": 5,
    "hidden_size": 7,
    "num_layers": 3,
    "num_heads": 4,
    "context": 2,
    "mlp": "gelu",
    "order": 3,
    "prune": "0,1",
    "dropout": 0.5,
    "locked_dropout": True,
    "embedding_dropout": 0.5,
    "weight_dropout": 0.5,
    "tie_embeddings": True,
    "initialization": "xavier",
}


OTHER_BASES = {
    "num_heads": TRANSFORMER,
    "context": TRANSFORMER,
    "mlp": TRANSFORMER,
    "order": replace(SMALL, family="window"),
    "prune": replace(SMALL, family="ngram"),
    "locked_dropout": replace(SMALL, dropout=0.5),
}
"""What a setting is for, where it is not for SMALL."""


def fingerprint(config: ModelConfig) -> list[float]:
    """What a model of these settings starts with and computes in training, from one seed."""
    if config.family == "ngram":
        documents = np.array([4, 5, 6, 4, 5, 7, 1] * 20 + [7, 6, 1]), np.array([*range(0, 141, 7), 143])
        counted = count(config, documents, VOCAB_SIZE, start_id=0, pad_index=PAD)
        return [count_parameters(counted), *(x for a in counted.arrays().values() for x in a.tolist())]
    torch.manual_seed(1)
    model = build(config, VOCAB_SIZE, PAD).train()
    tokens = torch.arange(10).reshape(2, 5)
    torch.manual_seed(2)
    logits, _ = model(tokens)
    return [count_parameters(model), *logits.flatten().tolist()]


@pytest.mark.parametrize("field", [field.name for field in fields(ModelConfig)])
def test_every_setting_changes_something(field):
    base = OTHER_BASES.get(field, SMALL)
    assert fingerprint(base) == fingerprint(replace(base))
    assert fingerprint(replace(base, **{field: OTHER_VALUES[field]})) != fingerprint(base)


def test_the_chapters_model_has_the_chapters_number_of_parameters():
    model = build_empty(PRESETS["chapter"].model, 32_011, 0)
    assert count_parameters(model) == 8_292_619


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("tied", [False, True])
def test_an_empty_model_is_the_same_model_without_memory(cell, tied):
    config = replace(SMALL, cell=cell, tie_embeddings=tied)
    model, empty = build(config, VOCAB_SIZE, PAD), build_empty(config, VOCAB_SIZE, PAD)
    described = {name: (p.shape, p.dtype) for name, p in model.named_parameters()}
    assert {name: (p.shape, p.dtype) for name, p in empty.named_parameters()} == described
    assert all(parameter.is_meta for parameter in empty.parameters())
    assert not any(parameter.is_meta for parameter in model.parameters())
    assert count_parameters(empty) == count_parameters(model)
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_sizes_go_where_they_belong():
    model = build(SMALL, VOCAB_SIZE, PAD)
    assert model.embedding.weight.shape == (VOCAB_SIZE, 4)
    assert model.embedding.padding_idx == model.pad_index == PAD
    assert [tuple(cell.weight_ih.shape) for cell in model.cells] == [(6, 4), (6, 6)]
    assert [tuple(cell.weight_hh.shape) for cell in model.cells] == [(6, 6), (6, 6)]
    assert model.head.weight.shape == (VOCAB_SIZE, 6)


# Initialisation


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("initialization", ["by_role", "xavier"])
def test_only_the_padding_row_is_zero(cell, tied, initialization):
    config = replace(SMALL, cell=cell, tie_embeddings=tied, initialization=initialization)
    embedding = build(config, VOCAB_SIZE, PAD).embedding.weight
    assert embedding.any(dim=1).tolist() == [index != PAD for index in range(VOCAB_SIZE)]


@pytest.mark.parametrize("cell", sorted(set(CELLS) - HEADED))  # those are held in tests/cells/test_xlstm.py
def test_by_role_recurrences_are_orthogonal_and_biases_zero(cell):
    model = build(replace(SMALL, cell=cell, embedding_dim=16, tie_embeddings=True), 400, PAD)
    for layer in model.cells:
        recurrent = dict(layer.named_parameters()).get("weight_hh", torch.empty(0))  # minGRU has none
        for gate in recurrent.split(SMALL.hidden_size) if recurrent.numel() else ():
            torch.testing.assert_close(gate @ gate.T, torch.eye(SMALL.hidden_size))
        inputs = layer.weight_ih.shape[1]
        for gate in layer.weight_ih.split(SMALL.hidden_size):
            bound = (6 / (inputs + SMALL.hidden_size)) ** 0.5  # Glorot & Bengio (2010), equation 16
            assert 0.8 * bound < gate.abs().max() <= bound
        biases = [bias.unique().tolist() for bias in layer.bias.split(SMALL.hidden_size)]
        forget = [1] if cell == "lstm" else []
        assert biases == [[FORGET_BIAS] if gate in forget else [0.0] for gate in range(len(biases))]
    assert not model.head.bias.any()
    assert model.embedding.weight.std().item() == pytest.approx(16**-0.5, rel=0.05)
    bound = (6 / (16 + SMALL.hidden_size)) ** 0.5
    assert 0.8 * bound < model.to_embedding.weight.abs().max() <= bound


def test_by_role_an_output_layer_of_its_own_is_xavier():
    model = build(replace(SMALL, hidden_size=30), 100, PAD)
    bound = (6 / 130) ** 0.5
    assert 0.95 * bound < model.head.weight.abs().max() <= bound
    assert model.head.weight[PAD].any()  # padding has a zero vector, not a zero column of the output


@pytest.mark.parametrize("cell", CELLS)
def test_xavier_covers_every_matrix_and_zeroes_every_vector(cell):
    config = replace(SMALL, cell=cell, hidden_size=40, embedding_dim=30, initialization="xavier")
    for name, parameter in build(config, 300, PAD).named_parameters():
        if parameter.dim() == 1:
            assert not parameter.any(), name
        else:
            bound = (6 / sum(parameter.shape)) ** 0.5
            assert 0.95 * bound < parameter.abs().max() <= bound, name


# Refusals


@pytest.mark.parametrize("pad_index", [-1, VOCAB_SIZE, 10**9, None])
def test_a_padding_outside_the_vocabulary_is_refused(pad_index):
    for make in (build, build_empty):
        with pytest.raises(ConfigError, match=r"pad_index .* 0 to 11"):
            make(SMALL, VOCAB_SIZE, pad_index)


def test_memory_that_is_there_is_enough_and_a_byte_less_is_not():
    needed = TRAINING_BYTES * count_parameters(build(SMALL, VOCAB_SIZE, PAD))
    require_memory(SMALL, VOCAB_SIZE, needed)
    with pytest.raises(ResourceError):
        require_memory(SMALL, VOCAB_SIZE, needed - 1)


def test_a_batch_that_no_memory_holds_is_refused_before_the_network_is_looked_at():
    require_memory(SMALL, VOCAB_SIZE, 2**30, batch_tokens=2**30 // TOKEN_BYTES)
    with pytest.raises(
        ResourceError, match=r"a batch of 1,000,000,000,000 tokens .* reduce batch_size, or bptt"
    ):
        require_memory(SMALL, VOCAB_SIZE, 2**30, batch_tokens=10**12)


def test_the_refusal_names_the_estimate_and_the_settings():
    config = replace(SMALL, hidden_size=100_000, embedding_dim=30_000, num_layers=2)
    parameters = VOCAB_SIZE * 30_000 + 100_000 * (30_000 + 3 * 100_000 + 2) + VOCAB_SIZE * 100_001
    with pytest.raises(ResourceError) as refusal:
        require_memory(config, VOCAB_SIZE, 2**30)
    message = str(refusal.value)
    assert f"{parameters:,} parameters" in message
    assert f"{16 * parameters / 2**30:,.1f} GiB" in message
    assert "machine has 1.0" in message
    for setting in ("hidden_size (100000)", "embedding_dim (30000)", "num_layers (2)"):
        assert setting in message
    assert "\n" not in message


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("field", ["hidden_size", "embedding_dim"])
def test_absurd_sizes_are_refused_without_taking_memory(cell, field):
    config = replace(SMALL, cell=cell, **{field: 1_000_000_000})
    with pytest.raises((ResourceError, ConfigError), match=field):
        require_memory(config, 1_000_000, 2**45)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"cell": "slstm", "num_heads": 4}, r"num_heads \(4\) must divide .* \(6\)"),
        ({"cell": "mlstm", "num_heads": 4}, r"num_heads \(4\) must divide .* \(6\)"),
        ({"cell": "lstm", "block": "xlstm"}, r"block 'xlstm' is for cells slstm and mlstm, not 'lstm'"),
        (
            {"family": "transformer", "num_heads": 4},
            r"hidden_size \(6\) must be a multiple of num_heads \(4\)",
        ),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(settings, said):
    for make in (build, build_empty):
        with pytest.raises(ConfigError, match=said):
            make(replace(SMALL, **settings), VOCAB_SIZE, PAD)


@pytest.mark.parametrize("block", ["plain", "residual", "xlstm"])
@pytest.mark.parametrize("cell", CELLS)
def test_blocks_are_around_every_layer(cell, block):
    if block == "xlstm" and cell not in XLSTM_BLOCKS:
        return
    model = build(replace(SMALL, cell=cell, block=block), VOCAB_SIZE, PAD)
    wanted = {"plain": CELLS[cell], "residual": ResidualCell, "xlstm": XLSTM_BLOCKS.get(cell)}[block]
    assert [type(layer) for layer in model.cells] == [wanted, wanted]
    assert isinstance(model.norm, RMSNorm) == (block != "plain")  # what is a sum is normalised at the end
