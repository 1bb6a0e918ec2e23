"""C6: recurrent layers alone, forward and backward, against the loops and modules that there are.

    outputs, and the gradients of x and of every weight, for a random cotangent of the outputs

Two layers of 128 on 128 x 29 inputs as in W1, and one of 320 on 32 x 32 as in the default model. The peers have the
same weights: the chapter's Python loop for Elman's network, nn.RNN, nn.GRU, nn.LSTM (a second bias of theirs is
zero), and minGRU-pytorch for minGRU and minLSTM, where that package is installed.
"""

from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.goals import CHAPTER, MINGRU_PYTORCH
from benchmarks.race import Side, race
from benchmarks.record import Record, versus
from benchmarks.settings import Settings
from elman import chapter
from elman.config import CellName
from elman.models.build import CELLS

GATES: dict[CellName, int] = {"elman": 1, "gru": 3, "lstm": 4, "mingru": 2, "minlstm": 3}
"""Rows of the input matrix, in states."""

RECURRENT: tuple[CellName, ...] = ("elman", "gru", "lstm")
"""Cells with a matrix from state to state."""

STOCK_MODULES: dict[CellName, Callable[..., nn.RNNBase]] = {"elman": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}


class StackShape(NamedTuple):
    """Layers one above the other: input [B, T, D], each layer [B, T, H]."""

    batch: int
    time: int
    inputs: int
    width: int
    layers: int

    def __str__(self) -> str:
        """As a table has it."""
        return f"B{self.batch} T{self.time} D{self.inputs} H{self.width} L{self.layers}"

    def flop(self, cell: CellName) -> float:
        """Operations of the products, forward and backward."""
        widths = [self.inputs] + [self.width] * self.layers
        own = self.width if cell in RECURRENT else 0
        columns = sum(before + own for before, _ in pairwise(widths))
        return 6.0 * self.batch * self.time * GATES[cell] * self.width * columns


CHAPTER_STACK = StackShape(batch=128, time=29, inputs=128, width=128, layers=2)
DEFAULT_STACK = StackShape(batch=32, time=32, inputs=256, width=320, layers=1)
TINY_STACK = StackShape(batch=3, time=5, inputs=4, width=4, layers=2)


class Stack(nn.Module):
    """Our cells, called as a recurrent language model calls them."""

    def __init__(self, cell: CellName, shape: StackShape) -> None:
        super().__init__()
        widths = [shape.inputs] + [shape.width] * shape.layers
        self.cells = nn.ModuleList([CELLS[cell](*pair) for pair in pairwise(widths)])  # type: ignore[misc]

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, D] to [B, T, H], from zero states."""
        for cell in self.cells:
            x, _ = cell(x, cell.initial_state(len(x)))
        return x


def run(settings: Settings) -> Iterator[Record]:
    """Every cell at the shape of the chapter; those with a peer for it also at that of the default model."""
    for cell in GATES:
        yield from times(settings, cell, TINY_STACK if settings.quick else CHAPTER_STACK)
    for cell in RECURRENT:
        yield from times(settings, cell, TINY_STACK if settings.quick else DEFAULT_STACK, goals=False)


def times(settings: Settings, cell: CellName, shape: StackShape, *, goals: bool = True) -> Iterator[Record]:
    """One race; `goals` where the shape is that of the table of goals."""
    torch.manual_seed(0)
    stack = make_stack(cell, shape)
    x = torch.randn(shape.batch, shape.time, shape.inputs, requires_grad=True)
    cotangent = torch.randn(shape.batch, shape.time, shape.width)
    what = f"{cell}, forward and backward" + ("" if goals else ", default shape")
    peers = make_peers(stack, cell, shape)
    if not peers:
        note = "not measured: pip install minGRU-pytorch"
        yield Record(part="C6", what=what, peer=MINGRU_PYTORCH, shape=str(shape), note=note)
        return
    ours = Side("elman", partial(forward_backward, stack, x, cotangent))
    sides = [Side(name, partial(forward_backward, peer, x, cotangent)) for name, peer in peers.items()]
    share = settings.seconds / 4  # there are eight races, and they are short
    taken = race(sides[0], ours, *sides[1:], seconds=share, warmups=2, least=5)
    for name in peers:
        yield versus(
            "C6",
            what,
            taken["elman"],
            taken[name],
            shape=str(shape),
            dtype="float32",
            limit=settings.limits.seconds("float32", shape.flop(cell)),
        )


@torch.no_grad()
def make_stack(cell: CellName, shape: StackShape) -> Stack:
    """Initialised as in training, but for the biases: zeros would hide one that is copied to the wrong place."""
    stack = Stack(cell, shape)
    for parameter in stack.parameters():
        if cell in RECURRENT and parameter.dim() == 1:
            parameter.normal_(std=0.5)
    return stack


def forward_backward(module: nn.Module, x: Tensor, cotangent: Tensor) -> list[Tensor]:
    """Outputs and the gradient of the input; those of the weights are computed too."""
    module.zero_grad()
    x.grad = None
    outputs = module(x)
    outputs = outputs if isinstance(outputs, Tensor) else outputs[0]
    outputs.backward(cotangent)
    assert x.grad is not None
    return [outputs.detach(), x.grad]


def make_peers(stack: Stack, cell: CellName, shape: StackShape) -> dict[str, nn.Module]:
    """By name, with the weights of our stack, those there are."""
    peers: dict[str, nn.Module] = {}
    if cell in STOCK_MODULES:
        stock = stock_module(stack, cell, shape)
        if cell == "elman" and shape.inputs == shape.width:
            peers[CHAPTER] = chapter_loop(stack, shape)
        peers[f"nn.{type(stock).__name__}"] = stock
    elif find_spec("minGRU_pytorch"):
        peers[MINGRU_PYTORCH] = mingru_pytorch(stack, cell, shape)
    return peers


@torch.no_grad()
def stock_module(stack: Stack, cell: CellName, shape: StackShape) -> nn.RNNBase:
    """nn.RNN, nn.GRU or nn.LSTM; gate orders are the same."""
    module = STOCK_MODULES[cell](shape.inputs, shape.width, shape.layers, batch_first=True)
    for layer, own in enumerate(stack.cells):
        getattr(module, f"weight_ih_l{layer}").copy_(own.weight_ih)
        getattr(module, f"weight_hh_l{layer}").copy_(own.weight_hh)
        getattr(module, f"bias_ih_l{layer}").copy_(own.bias)
        second = getattr(module, f"bias_hh_l{layer}").zero_()
        if cell == "gru":  # the candidate's own bias, inside the reset gate
            second[-shape.width :].copy_(own.bias_hn)
    return module


@torch.no_grad()
def chapter_loop(stack: Stack, shape: StackShape) -> chapter.ElmanRNN:
    """The chapter's layers."""
    loop = chapter.ElmanRNN(shape.width, shape.layers)
    for unit, own in zip(loop.rnn_units, stack.cells, strict=True):
        unit.Wh.copy_(own.weight_ih.T)
        unit.Uh.copy_(own.weight_hh.T)
        unit.b.copy_(own.bias)
    return loop


@torch.no_grad()
def mingru_pytorch(stack: Stack, cell: CellName, shape: StackShape) -> nn.Module:
    """Layers of minGRU-pytorch, which have no biases (ours are zero) and put the candidate first."""
    from minGRU_pytorch.minGRU import minGRU
    from minGRU_pytorch.minLSTM import minLSTM

    make: Callable[[int], Any] = minGRU if cell == "mingru" else minLSTM
    layers = [make(shape.width) for _ in stack.cells]
    for layer, own in zip(layers, stack.cells, strict=True):
        matrix = (layer.to_hidden_and_gate if cell == "mingru" else layer.to_hidden_and_f_i_gate).weight
        *gates, candidate = own.weight_ih.chunk(GATES[cell])
        matrix.copy_(torch.cat([candidate, *gates]))
    return nn.Sequential(*layers)
