"""A fixture for the files whose tests train: a run settles process-wide switches of torch."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="module")
def torch_as_before():
    """Other tests find torch as it was."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    cudnn = torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        yield
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = cudnn
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.set_flush_denormal(False)
