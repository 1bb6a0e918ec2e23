"""AdamW (Loshchilov & Hutter 2019) and the learning rate over a run.

The schedule is a function of the share of the budget that is used, so that a run that is limited by time, by
steps or by epochs reaches zero exactly at its end.
"""

import torch
from torch import nn

from elman.config import OptimizerConfig
from elman.train.row_adamw import RowAdamW


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW over all parameters, fused, in one pass over memory; `row_sparse`, over those rows that were used."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    vectors = [p for p in parameters if p.dim() < 2]
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": config.weight_decay if config.decay_vectors else 0.0},
    ]
    betas = (config.beta1, config.beta2)
    if config.row_sparse:
        return RowAdamW(groups, lr=config.learning_rate, betas=betas)
    if any(p.device.type == "cuda" for p in parameters):  # as a recorded step needs it
        rate = torch.tensor(config.learning_rate, device=parameters[0].device)
        return torch.optim.AdamW(groups, lr=rate, betas=betas, fused=True, capturable=True)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas, fused=True)


def learning_rate(config: OptimizerConfig, used: float) -> float:
    """The rate when the share `used` of the budget is gone: a linear rise, then a linear fall or a plateau.

    The rise begins at a tenth: from zero, a training of one step would learn nothing.
    """
    if used < config.warmup:
        return config.learning_rate * (0.1 + 0.9 * used / config.warmup)
    if config.schedule == "constant":
        return config.learning_rate
    return config.learning_rate * max(0.0, 1 - used) / (1 - config.warmup)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Use `rate` from the next step on."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
