"""What is said of the loss and of the recurrence is what runs."""

import pytest
import torch

from elman.config import ModelConfig, RunConfig, TrainingConfig
from elman.ops import vendor
from elman.train.choices import choices
from elman.train.machine import Machine


def chosen(model=None, training=None, device="cpu", dtype=torch.float32):
    config = RunConfig(
        model=ModelConfig(**model or {}), training=TrainingConfig(**{"max_steps": 1} | (training or {}))
    )
    return choices(config, 100, Machine(torch.device(device), dtype, 1))


def test_the_cut_of_the_exact_loss_is_told():
    assert chosen(training={"batch_size": 2, "bptt": 3})["loss"] == "exact, 6 rows by 100 words at a time"
    documents = {"batch_size": 2, "batches": "documents", "max_length": 5}
    assert chosen(training=documents)["loss"] == "exact, 8 rows by 100 words at a time"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"negatives": 30}, "sampled, 30 negatives; at last 10% exact, "),
        ({"negatives": 500, "exact_share": 0.0}, "sampled, 100 negatives"),
        ({"exact_share": 1.0}, "exact, "),
    ],
)
def test_a_sampled_loss_tells_its_negatives_and_its_end(given, said):
    assert chosen(training={"loss": "sampled", **given})["loss"].startswith(said)


@pytest.mark.parametrize(
    ("model", "dtype", "said"),
    [
        ({"cell": "lstm"}, torch.float32, "oneDNN"),
        ({"cell": "lstm"}, torch.bfloat16, "a loop over the steps"),
        ({"cell": "gru"}, torch.float32, "a loop over the steps"),
        ({"cell": "mingru"}, torch.float32, None),
        ({"family": "transformer"}, torch.float32, None),
    ],
)
def test_the_recurrence_is_told_where_there_is_a_choice(model, dtype, said, monkeypatch):
    """By the rule that decides when it runs."""
    monkeypatch.setattr(vendor.torch.backends.mkldnn, "is_available", lambda: True)
    short = {"batches": "documents", "max_length": 8, "bptt": 64}
    assert "oneDNN" not in chosen(model, short, dtype=dtype).get("recurrence", "")
    found = chosen(model, dtype=dtype).get("recurrence")
    assert found == said if said is None else found.startswith(said)
