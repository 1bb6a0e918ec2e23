"""A Transformer decoder (Vaswani et al. 2017) whose state is its key-value cache, carried from window to window.

    x^0_t = E[token_t]
    x' = x^{l-1} + O attention(norm(x^{l-1}))       x^l = x' + mlp(norm(x'))       y_t = norm(x^L_t)

    attention_t = sum_s softmax_s(<R^t q_t, R^s k_s> / sqrt(D)) v_s
    over t - context < s <= t, in the document of t

    mlp(x) = down (silu(gate x) * up x), or down gelu(up x)

The norms are RMS norms before each branch and at the end (Zhang & Sennrich 2019; Xiong et al. 2020); R^t turns
each pair of numbers by angles in proportion to t (Su et al. 2021); the gated layer is SwiGLU (Shazeer 2020).
<R^t q, R^s k> depends on t - s alone, so keys are cached as they are and turned where they are read, by their
place in the window: no position grows with the text, and a stream of any length is as exact as a short one.

A long window is read `context` queries at a time, each over its 2 context - 1 places, so memory grows with
T * context. What lies outside the view of a query has no weight and no influence, not even where it is NaN.

Axes: B batch, T time, H hidden width, L layer, N heads, D = H / N, C = context - 1 cached places, Q queries of
a block, S = C + Q places it reads.
"""

from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elman.cells.norm import RMSNorm
from elman.errors import ConfigError
from elman.models.neural import NeuralLanguageModel

ROTARY_BASE = 10_000.0
"""Places in which the slowest pair turns by a radian, nearly; the fastest does in one (Su et al. 2021)."""

MLPName = Literal["swiglu", "gelu"]


class TransformerState(NamedTuple):
    """What crosses a token, in the dtype of the parameters; its size does not depend on the text."""

    keys: tuple[Tensor, ...]
    """[B, N, C, D] for each layer, not turned, the latest last; zero where there is nothing to see."""
    values: tuple[Tensor, ...]
    """[B, N, C, D] for each layer."""
    valid: Tensor
    """Bool [B, C], the places that hold a token of the document."""


class Block(NamedTuple):
    """Some queries of a window, and what each of them sees; the same for all layers."""

    queries: slice
    """Which of the T."""
    places: slice
    """Which of the C + T, cached and new, they read."""
    visible: Tensor
    """Bool [B, Q, S]."""
    bias: Tensor
    """[B, 1, Q, S], added to the scores: zero where visible, else minus infinity."""


class TransformerLanguageModel(NeuralLanguageModel):
    """A small modern decoder without biases. Cutting a text anywhere and passing the state on changes nothing."""

    def __init__(
        self,
        vocab_size: int,
        embedding_dim: int,
        hidden_size: int,
        num_layers: int,
        num_heads: int,
        *,
        context: int,
        mlp: MLPName = "swiglu",
        **settings: Any,
    ) -> None:
        """A freshly initialised model.

        Args:
            vocab_size: V.
            embedding_dim: Width of a token's vector; a bias-free matrix brings it to `hidden_size` if it differs.
            hidden_size: H, the width of the residual stream.
            num_layers: L.
            num_heads: N.
            context: Tokens a prediction attends to in each layer, the latest included.
            mlp: The layer after the attention; either has about 8 H^2 parameters.
            **settings: Those of `NeuralLanguageModel`. Dropout acts on attention weights as well.

        Raises:
            ConfigError: `num_heads` does not divide `hidden_size`, a head has an odd width, or `context` is
                less than 1.
        """
        if hidden_size % num_heads:
            raise ConfigError(f"hidden_size ({hidden_size}) must be a multiple of num_heads ({num_heads})")
        if hidden_size // num_heads % 2:
            raise ConfigError(
                f"hidden_size / num_heads ({hidden_size // num_heads}) must be even: rotary positions turn pairs"
            )
        if context < 1:
            raise ConfigError(f"context ({context}) must be at least 1")
        super().__init__(vocab_size, embedding_dim, hidden_size, **settings)
        self.context, self.num_heads, self.head_width = context, num_heads, hidden_size // num_heads
        differ = embedding_dim != hidden_size
        self.from_embedding = nn.Linear(embedding_dim, hidden_size, bias=False) if differ else None
        self.layers = nn.ModuleList(Layer(hidden_size, num_heads, mlp) for _ in range(num_layers))
        self.norm = RMSNorm(hidden_size)
        self.reset_parameters()

    def reset_body(self) -> None:
        """Matrices that keep the scale of what they read; those that end a branch smaller, as there are 2 L.

        The sum of all branches then starts at the scale of one, whatever the depth (Radford et al. 2019).
        """
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2 and name.startswith(("layers.", "from_embedding.")):
                ends_branch = name.endswith((".output.weight", ".down.weight"))
                branches = 2 * len(self.layers) if ends_branch else 1
                nn.init.normal_(parameter, std=(parameter.shape[1] * branches) ** -0.5)
        for module in self.modules():
            if isinstance(module, RMSNorm):
                module.reset_parameters()

    def initial_state(self, batch_size: int) -> TransformerState:
        """An empty cache."""
        places = self.context - 1
        shape = (batch_size, self.num_heads, places, self.head_width)
        empty = tuple(self.norm.gain.new_zeros(shape) for _ in self.layers)
        valid = torch.zeros(batch_size, places, dtype=torch.bool, device=self.device)
        return TransformerState(empty, tuple(map(torch.clone, empty)), valid)

    def body(
        self, tokens: Tensor, state: TransformerState, reset: Tensor | None
    ) -> tuple[Tensor, TransformerState]:
        """See `NeuralLanguageModel.body`; the state is the cache of the last C tokens.

        Under autocast, products run in its dtype (those of attention see `attend`); the residual stream, the
        norms, the turning of keys and the cache keep the dtype of the parameters.
        """
        dtype = self.norm.gain.dtype
        x = self.drop(self.embed(tokens))
        if self.from_embedding is not None:
            x = self.from_embedding(x).to(dtype)
        document = number_documents(tokens, state.valid, reset)
        blocks = split(document, self.context, dtype)
        turns = rotations(blocks[0].visible.shape[2], self.head_width).to(tokens.device, dtype.to_complex())
        length, dropped = tokens.shape[1], self.dropout if self.training else 0.0
        valid = document[:, length:] == document[:, -1:]
        hidden = ~valid[:, None, :, None]
        keys, values = [], []
        for layer, old_keys, old_values in zip(self.layers, state.keys, state.values, strict=True):
            assert isinstance(layer, Layer)
            read = layer.attention_norm(x)
            branch, k, v = layer.attention(read, old_keys, old_values, blocks, turns, dropped)
            x = x + self.drop(branch)
            x = x + self.drop(layer.mlp(layer.mlp_norm(x)))
            # Filling makes a copy, so a state does not keep the whole window alive.
            keys.append(k[:, :, length:].masked_fill(hidden, 0.0))
            values.append(v[:, :, length:].masked_fill(hidden, 0.0))
        return self.norm(x), TransformerState(tuple(keys), tuple(values), valid)


class Layer(nn.Module):
    """The modules of one layer; the model connects them."""

    def __init__(self, hidden_size: int, num_heads: int, mlp: MLPName) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(hidden_size)
        self.attention = SelfAttention(hidden_size, num_heads)
        self.mlp_norm = RMSNorm(hidden_size)
        self.mlp = SwiGLU(hidden_size) if mlp == "swiglu" else GELU(hidden_size)


class SelfAttention(nn.Module):
    """Attention of new tokens to the cached ones and to themselves."""

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query_key_value = nn.Linear(hidden_size, 3 * hidden_size, bias=False)
        self.output = nn.Linear(hidden_size, hidden_size, bias=False)

    def forward(
        self, x: Tensor, keys: Tensor, values: Tensor, blocks: list[Block], turns: Tensor, dropout: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The branch [B, T, H], and keys and values [B, N, C + T, D], the cached ones first.

        Args:
            x: [B, T, H].
            keys: [B, N, C, D], cached.
            values: [B, N, C, D], cached.
            blocks: What is seen by whom; together, all T queries.
            turns: Complex [S, D / 2] for the places of the longest block.
            dropout: Share of the attention weights to drop.
        """
        three = self.query_key_value(x).to(keys.dtype).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = three.permute(2, 0, 3, 1, 4)
        k, v = torch.cat([keys, k], dim=2), torch.cat([values, v], dim=2)
        # A weight of zero does not silence a value that is not finite, nor minus infinity a score that is NaN. So
        # such places are emptied, and the queries that do see one become NaN, as they would have been.
        finite = (k.sum(dim=(1, 3)) + v.sum(dim=(1, 3))).isfinite()  # a sum is so only if all its parts are
        finite_k, finite_v = (part.masked_fill(~finite[:, None, :, None], 0.0) for part in (k, v))
        parts = []
        for queries, places, visible, bias in blocks:
            y = attend(q[:, :, queries], finite_k[:, :, places], finite_v[:, :, places], bias, turns, dropout)
            spoilt = (visible & ~finite[:, None, places]).any(dim=2)
            parts.append(y.masked_fill(spoilt[:, None, :, None], torch.nan))
        return self.output(torch.cat(parts, dim=2).transpose(1, 2).flatten(2)), k, v


class SwiGLU(nn.Module):
    """down (silu(gate x) * up x), as many parameters as a layer of 4 H without a gate has, to a multiple of 8."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        width = -(-hidden_size // 3) * 8  # 8/3 H, upwards
        self.gate_up = nn.Linear(hidden_size, 2 * width, bias=False)
        self.down = nn.Linear(width, hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, H] to [B, T, H]."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)  # type: ignore[no-any-return]


class GELU(nn.Module):
    """down gelu(up x), of width 4 H."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.up = nn.Linear(hidden_size, 4 * hidden_size, bias=False)
        self.down = nn.Linear(4 * hidden_size, hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, H] to [B, T, H]."""
        return self.down(F.gelu(self.up(x)))  # type: ignore[no-any-return]


def number_documents(tokens: Tensor, valid: Tensor, reset: Tensor | None) -> Tensor:
    """Int64 [B, C + T]: which document each place is in; 0 is that of the cache, -1 marks an empty place."""
    new = torch.zeros_like(tokens) if reset is None else reset.cumsum(dim=1)
    return torch.cat([valid.to(new.dtype) - 1, new], dim=1)


def split(document: Tensor, context: int, dtype: torch.dtype) -> list[Block]:
    """The T queries in blocks of at most `context`, the longest first.

    Args:
        document: Int64 [B, C + T], see `number_documents`.
        context: Places each query sees, itself included: C + 1.
        dtype: Of the bias.
    """
    cached = context - 1
    length = document.shape[1] - cached
    longest = min(context, length)
    # The query of row i stands at place C + i, and sees places i to C + i.
    window = torch.ones(longest, cached + longest, dtype=torch.bool, device=document.device)
    window = window.triu().tril(cached)
    blocks = []
    for start in range(0, length, longest):
        queries, places = slice(start, min(start + longest, length)), slice(start, start + cached + longest)
        seen = document[:, places]
        visible = seen[:, None] == seen[:, cached:, None]
        visible &= window[: visible.shape[1], : visible.shape[2]]
        bias = torch.zeros_like(visible, dtype=dtype).masked_fill(~visible, -torch.inf)
        blocks.append(Block(queries, places, visible, bias[:, None]))
    return blocks


def rotations(places: int, width: int) -> Tensor:
    """Complex128 [places, width / 2]: e^{i s theta_j}, theta_j = base^(-2 j / width) (Su et al. 2021, eq. 15).

    On the CPU and in float64, as a float32 angle would be off by more than its cosine.
    """
    theta = ROTARY_BASE ** -(torch.arange(0, width, 2, dtype=torch.float64, device="cpu") / width)
    angles = torch.arange(places, dtype=torch.float64, device="cpu")[:, None] * theta
    return torch.polar(torch.ones_like(angles), angles)


def turn(x: Tensor, turns: Tensor) -> Tensor:
    """[B, N, S, D] with its pairs of neighbours turned, as complex numbers, by `turns` [S, D / 2]."""
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turns).flatten(-2)


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, turns: Tensor, dropout: float) -> Tensor:
    """Attention [B, N, Q, D] of the queries q, at the last Q places, over k and v, both [B, N, S, D].

    On a CPU its products ignore autocast: in bfloat16 the backward pass of torch's kernel takes twice as long.
    """
    places = k.shape[2]
    q, k = turn(q, turns[places - q.shape[2] : places]), turn(k, turns[:places])
    kind = q.device.type
    with torch.autocast(kind, enabled=kind != "cpu" and torch.is_autocast_enabled(kind)):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)
