"""Networks with smaller weights: bfloat16, or int8 with one scale a row (Dettmers et al. 2022, section 3.1).

    bfloat16    y = bf16(x) bf16(W)^T + b
    int8        W_v ~ s_v w_v,  s_v = max_d |W_vd| / 127,  w_v = round(W_v / s_v)        and x_n ~ s_n q_n likewise
                y_nv = s_n s_v <q_n, w_v> + b_v                     the product in whole numbers, exact in int32

Every embedding and every linear layer is kept so: nearly all of a language model. What they give, states, norms and the
softmax stay in float32, and so do the matrices that a cell holds itself: small, and their errors would come back at
every token. A row of x has its own scale, so a prediction does not depend on what else is in the batch, up to the
rounding: a sum that another batch size takes in another order may fall on the other side of a step.

What a bfloat16 product gives is rounded as well, logits among them: to three digits, so that of tokens nearer to each
other than that the most likely one is that of the lowest id. On a CPU torch has no such product with a float32 result.

Axes: N rows, D width, V vocabulary, or outputs of another layer.
"""

from collections.abc import Callable
from functools import cache
from typing import Literal

import torch
from torch import Tensor, nn

from elman.errors import ConfigError
from elman.models.base import LanguageModel, State
from elman.models.mixture import Mixture
from elman.models.neural import NeuralLanguageModel

SmallWeights = Literal["bfloat16", "int8"]
"""How small the numbers of a matrix can be made."""

LARGEST = 127
"""Whole numbers from -127 to 127; -128 is left out, so that minus a number is one too."""

LOGITS_HELD = 1 << 21
"""Logits that `score` holds at a time."""


class BFloat16Matrix(nn.Module):
    """[V, D] in half the bytes of float32, with three significant digits."""

    weight: Tensor

    def __init__(self, matrix_VD: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", matrix_VD.bfloat16())

    def rows(self, ids: Tensor) -> Tensor:
        """Float32 [..., D], the rows of Int64 [...] `ids`."""
        return self.weight[ids].float()

    def product(self, x: Tensor) -> Tensor:
        """Float32 [..., V] of `x` [..., D]."""
        # In two dimensions: of three, torch makes a product that takes 100 times as long.
        y_NV = torch.mm(x.reshape(-1, x.shape[-1]).bfloat16(), self.weight.T)
        return y_NV.float().view(*x.shape[:-1], -1)


class Int8Matrix(nn.Module):
    """[V, D] in a quarter of the bytes of float32, each number within half of a 127th of the largest of its row."""

    weight: Tensor
    scale: Tensor

    def __init__(self, matrix_VD: Tensor) -> None:
        super().__init__()
        weight, scale = to_int8(matrix_VD)
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)

    def rows(self, ids: Tensor) -> Tensor:
        """Float32 [..., D], the rows of Int64 [...] `ids`."""
        return self.weight[ids] * self.scale[ids]

    def product(self, x: Tensor) -> Tensor:
        """Float32 [..., V] of `x` [..., D]."""
        q_ND, scale_N1 = to_int8(x.reshape(-1, x.shape[-1]))
        y_NV = torch._int_mm(q_ND, self.weight.T).float()
        y_NV *= self.scale.T
        y_NV *= scale_N1
        return y_NV.view(*x.shape[:-1], -1)


MATRICES: dict[SmallWeights, Callable[[Tensor], BFloat16Matrix | Int8Matrix]] = {
    "bfloat16": BFloat16Matrix,
    "int8": Int8Matrix,
}


class SmallEmbedding(nn.Module):
    """Rows of a small matrix, in the place of a `torch.nn.Embedding`."""

    def __init__(self, matrix: BFloat16Matrix | Int8Matrix) -> None:
        super().__init__()
        self.matrix = matrix
        self.num_embeddings, self.embedding_dim = matrix.weight.shape

    @property
    def weight(self) -> Tensor:
        """As it is kept, [V, D]."""
        return self.matrix.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """[..., D] of Int64 [...]."""
        return self.matrix.rows(tokens)


class SmallLinear(nn.Module):
    """A product with a small matrix, in the place of a `torch.nn.Linear`."""

    def __init__(self, matrix: BFloat16Matrix | Int8Matrix, bias: Tensor | None) -> None:
        super().__init__()
        self.matrix = matrix
        self.bias: Tensor | None
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        """[..., V] of [..., D]."""
        y = self.matrix.product(x)
        return y if self.bias is None else y.add_(self.bias)


class QuantizedLanguageModel:
    """A trained network with small weights. Meets `models.base.LanguageModel`; not to be trained or stored."""

    def __init__(self, model: NeuralLanguageModel, weights: SmallWeights) -> None:
        """Take `model` over: its layers are replaced, so that both are never in memory.

        Raises:
            ConfigError: The device or the processor cannot multiply int8.
        """
        if weights == "int8" and model.device.type != "cpu":
            raise ConfigError(
                f"int8 weights are for the CPU, and the model is on {model.device}; take bfloat16"
            )
        if weights == "int8" and not int8_products_are_exact():
            raise ConfigError("int8 products of this processor overflow; take bfloat16 weights")
        self.weights = weights
        self.float32_bytes = weight_bytes(model)
        self.network = model.eval().requires_grad_(False)
        _replace_layers(self.network, MATRICES[weights])
        self.bytes = weight_bytes(model)

    @property
    def vocab_size(self) -> int:
        """V."""
        return self.network.vocab_size

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.network.device

    def initial_state(self, batch_size: int) -> State:
        """The state before the first token of a document."""
        return self.network.initial_state(batch_size)

    @torch.no_grad()
    def log_probs(self, tokens: Tensor, state: State, reset: Tensor | None = None) -> tuple[Tensor, State]:
        """See `LanguageModel.log_probs`."""
        x, state = self.network.features(tokens, state, reset)
        return self.network.head(x).log_softmax(dim=-1), state

    @torch.no_grad()
    def score(
        self, tokens: Tensor, targets: Tensor, state: State, reset: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """See `LanguageModel.score`."""
        x, state = self.network.features(tokens, state, reset)
        rows = max(1, LOGITS_HELD // self.vocab_size)
        found = [
            self.network.head(some).log_softmax(dim=-1).gather(1, wanted[:, None])
            for some, wanted in zip(x.flatten(0, 1).split(rows), targets.flatten().split(rows), strict=True)
        ]
        return -torch.cat(found).view(targets.shape), state


def quantize(model: LanguageModel, weights: SmallWeights) -> QuantizedLanguageModel:
    """`model`, taken over, with small weights.

    Raises:
        ConfigError: It is not a network; or as for `QuantizedLanguageModel`.
    """
    if not isinstance(model, NeuralLanguageModel):
        raise ConfigError(f"{weights} weights are for networks, and this model has none; take float32")
    return QuantizedLanguageModel(model, weights)


def bytes_before_and_after(model: LanguageModel) -> tuple[int, int]:
    """Bytes of the weights that `quantize` found and left, summed over the parts of a mixture."""
    if isinstance(model, QuantizedLanguageModel):
        return model.float32_bytes, model.bytes
    parts = [bytes_before_and_after(part) for part in model.parts] if isinstance(model, Mixture) else []
    return sum(before for before, _ in parts), sum(after for _, after in parts)


def weight_bytes(model: nn.Module) -> int:
    """Bytes of all numbers of a network, those of a tied matrix counted once."""
    return sum(tensor.numel() * tensor.element_size() for tensor in (*model.parameters(), *model.buffers()))


def to_int8(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Int8 [N, D] and float32 [N, 1] whose product is nearly `rows` [N, D]; a row of zeros stays one."""
    scale = rows.float().abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny) / LARGEST
    return (rows / scale).round_().to(torch.int8), scale


@cache
def int8_products_are_exact() -> bool:
    """Whether the sum of int8 products is right where it is largest, which it is not in 16 bits on some processors."""
    largest = torch.full((32, 64), LARGEST, dtype=torch.int8)
    return all(
        bool((torch._int_mm(largest, sign * largest.T) == sign * 64 * LARGEST**2).all()) for sign in (1, -1)
    )


def _replace_layers(network: nn.Module, small: Callable[[Tensor], BFloat16Matrix | Int8Matrix]) -> None:
    """Put a small layer for every embedding and linear layer; a matrix that two of them share stays shared."""
    made: dict[int, BFloat16Matrix | Int8Matrix] = {}
    for parent in list(network.modules()):
        for name, layer in list(parent.named_children()):
            if not isinstance(layer, (nn.Embedding, nn.Linear)):
                continue
            key = id(layer.weight)
            if key not in made:
                made[key] = small(layer.weight.detach())
            if isinstance(layer, nn.Embedding):
                setattr(parent, name, SmallEmbedding(made[key]))
            else:
                setattr(parent, name, SmallLinear(made[key], layer.bias))
