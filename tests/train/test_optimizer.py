"""The rate rises to its peak and falls to zero; AdamW decays what it should, and nothing else."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from elman.config import ModelConfig, OptimizerConfig
from elman.models.build import build
from elman.train.optimizer import learning_rate, make_optimizer, set_learning_rate

SHARES = st.floats(0, 1.5)
CONFIGS = st.builds(
    OptimizerConfig,
    learning_rate=st.floats(1e-6, 10),
    warmup=st.floats(0, 0.99),
    schedule=st.sampled_from(["linear", "constant"]),
)


@given(config=CONFIGS, used=SHARES)
def test_the_rate_lies_between_zero_and_its_peak(config, used):
    assert 0 <= learning_rate(config, used) <= config.learning_rate * (1 + 1e-9)


@given(config=CONFIGS)
def test_the_rate_reaches_its_peak_and_its_end(config):
    assert learning_rate(config, config.warmup) == pytest.approx(config.learning_rate)
    end = 0 if config.schedule == "linear" else config.learning_rate
    assert learning_rate(config, 1.0) == learning_rate(config, 1.2) == end


@given(config=CONFIGS, one=SHARES, other=SHARES)
def test_the_rate_rises_and_then_does_not(config, one, other):
    early, late = sorted((one, other))
    if late <= config.warmup:
        assert learning_rate(config, early) <= learning_rate(config, late) * (1 + 1e-9)
    if early >= config.warmup:
        assert learning_rate(config, early) * (1 + 1e-9) >= learning_rate(config, late)


def test_the_rate_is_linear_on_both_sides():
    config = OptimizerConfig(learning_rate=1.0, warmup=0.2)
    shares = (0, 0.05, 0.1, 0.2, 0.6, 0.8, 1)
    assert [learning_rate(config, used) for used in shares] == pytest.approx(
        [0.1, 0.325, 0.55, 1, 0.5, 0.25, 0]
    )


def network(**shape):
    torch.manual_seed(0)
    return build(ModelConfig(embedding_dim=4, hidden_size=4, **shape), 7, 0)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("decay_vectors", [False, True])
def test_matrices_decay_and_vectors_only_if_asked(tied, decay_vectors):
    model = network(tie_embeddings=tied)
    config = OptimizerConfig(learning_rate=0.1, weight_decay=0.5, decay_vectors=decay_vectors)
    optimizer = make_optimizer(model, config)
    for parameter in model.parameters():
        parameter.data.fill_(1.0)
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        decays = parameter.dim() > 1 or decay_vectors
        assert torch.allclose(parameter, torch.tensor(0.95 if decays else 1.0)), name


def test_every_parameter_is_trained_once_and_frozen_ones_are_not():
    model = network(tie_embeddings=True)
    model.head.bias.requires_grad_(False)
    held = [id(p) for group in make_optimizer(model, OptimizerConfig()).param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters() if p is not model.head.bias)


def test_with_the_chapters_settings_it_is_torchs_adamw():
    ours, theirs = network(), network()
    theirs.load_state_dict(copy.deepcopy(ours.state_dict()))
    config = OptimizerConfig(learning_rate=1e-3, schedule="constant", clip_norm=None, decay_vectors=True)
    optimizers = [make_optimizer(ours, config), torch.optim.AdamW(theirs.parameters(), lr=0.001)]
    for _ in range(5):
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            mine.grad = torch.randn_like(mine)
            other.grad = mine.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(mine, other, atol=1e-7)


def test_moments_decay_as_configured():
    optimizer = make_optimizer(network(), OptimizerConfig(beta1=0.5, beta2=0.75))
    assert {group["betas"] for group in optimizer.param_groups} == {(0.5, 0.75)}


def test_a_rate_is_set_everywhere():
    optimizer = make_optimizer(network(), OptimizerConfig())
    set_learning_rate(optimizer, 0.125)
    assert [group["lr"] for group in optimizer.param_groups] == [0.125, 0.125]
