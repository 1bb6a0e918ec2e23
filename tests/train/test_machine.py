"""What a run computes on is chosen from what is there, or refused; and the seed settles the rest."""

import json
import random

import numpy as np
import pytest
import torch

from elman.config import TrainingConfig
from elman.errors import ConfigError
from elman.train import machine
from elman.train.machine import Machine, choose_machine, describe_environment, memory_bytes, set_up


def training(**given) -> TrainingConfig:
    return TrainingConfig(max_steps=1, **given)


@pytest.fixture
def devices(monkeypatch):
    """Pretend that there are some; nothing is computed on them."""

    def pretend(cuda: int = 0, mps: bool = False) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
        monkeypatch.setattr(machine, "bfloat16_pays", lambda device: device.type == "cuda")

    return pretend


@pytest.mark.parametrize(
    ("there", "wanted", "device"),
    [
        ({}, "auto", "cpu"),
        ({"mps": True}, "auto", "mps"),
        ({"cuda": 1}, "auto", "cuda"),
        ({"cuda": 1, "mps": True}, "cpu", "cpu"),
        ({"cuda": 2}, "cuda:1", "cuda:1"),
    ],
)
def test_a_device_is_chosen_from_those_that_are_there(devices, there, wanted, device):
    devices(**there)
    assert str(choose_machine(training(device=wanted)).device) == device


@pytest.mark.parametrize(
    ("there", "wanted", "usable"),
    [
        ({}, "cuda", "cpu"),
        ({}, "mps", "cpu"),
        ({"cuda": 1}, "cuda:1", "cuda, cpu"),
        ({"cuda": 1}, "mps", "cuda, cpu"),
    ],
)
def test_a_device_that_is_not_there_is_refused_and_not_replaced(devices, there, wanted, usable):
    devices(**there)
    with pytest.raises(ConfigError, match=f"^device '{wanted}' is not available here; usable: {usable}$"):
        choose_machine(training(device=wanted))


@pytest.mark.parametrize(
    ("there", "precision", "dtype"),
    [
        ({}, "auto", torch.float32),
        ({"cuda": 1}, "auto", torch.bfloat16),
        ({"cuda": 1}, "float32", torch.float32),
        ({}, "bfloat16", torch.bfloat16),
    ],
)
def test_precision_is_what_was_asked_for_or_what_pays(devices, there, precision, dtype):
    devices(**there)
    assert choose_machine(training(precision=precision)).product_dtype == dtype


def test_whether_bfloat16_pays_is_found_by_trying():
    assert machine.bfloat16_pays(torch.device("cpu")) in (True, False)


def test_the_choices_are_described():
    chosen = Machine(torch.device("cpu"), torch.bfloat16, 2)
    assert chosen.describe() == "cpu (2 threads), bfloat16 products"
    environment = json.loads(json.dumps(describe_environment(chosen)))
    assert (environment["device"], environment["product_dtype"], environment["threads"]) == (
        *("cpu", "torch.bfloat16"),
        2,
    )
    assert set(environment["packages"]) == {"torch", "numpy", "tokenizers", "safetensors"}


def test_there_is_memory():
    assert memory_bytes() > 1 << 27


@pytest.mark.parametrize("deterministic", [True, False])
def test_the_seed_settles_what_is_drawn(monkeypatch, deterministic):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        drawn = []
        for seed in (3, 3, 4):
            set_up(training(seed=seed, deterministic=deterministic))
            drawn.append((torch.rand(3).tolist(), np.random.rand(), random.random()))
            assert torch.are_deterministic_algorithms_enabled() == deterministic
            assert not torch.utils.deterministic.fill_uninitialized_memory or not deterministic
        assert drawn[0][0] == drawn[1][0] != drawn[2][0]
        assert (drawn[0] == drawn[1]) or not deterministic
    finally:
        torch.use_deterministic_algorithms(before)
        torch.set_flush_denormal(False)
