"""A fixture for the folders whose tests draw random tensors."""

import pytest
import torch


@pytest.fixture(autouse=True)
def same_seed():
    """Every test starts from the same seed, and leaves torch's generator as it found it."""
    before = torch.get_rng_state()
    torch.manual_seed(0)
    yield
    torch.set_rng_state(before)
