"""G1: a whole training step of the chapter's model at W1 on a GPU, forward, backward and AdamW, in one CUDA graph.

Ours against stock PyTorch at its best: nn.RNN (cuDNN), the loss plain, fused (`F.linear_cross_entropy`) or compiled,
whichever is fastest here, fused AdamW, the step captured in a graph as well. Both multiply in bfloat16 under
autocast, begin with the same weights and read the same batches, so their losses must agree. Times are those of CUDA
events around many replays; nothing is read back inside.
"""

from collections.abc import Callable, Iterator
from functools import partial
from shutil import which
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.goals import STOCK
from benchmarks.limits import measure_limits
from benchmarks.parts.loss import plain
from benchmarks.race import Side, race
from benchmarks.record import Record, versus, versus_bound
from benchmarks.settings import Settings
from benchmarks.shapes import TINY, W1, ModelShape, token_batches
from benchmarks.steppers import (
    Batches,
    chapter_model,
    linear_cross_entropy,
    production_model,
    stock_model,
    whole,
)
from elman.config import PRESETS
from elman.train.optimizer import make_optimizer
from elman.train.recorded_step import WARM_UP, make_step

WHAT = "training step on a GPU"

BOUND = "0.6 ms", 0.6e-3

REPLAYS = 50
"""Steps of a round, each with a batch of its own: a few are soon learnt by heart, and low losses compare badly."""

ROUNDS = 12
"""At most, for the same reason."""

LOSS_TOLERANCE = 5e-3
"""Of the loss, over the steps of the race; both sides round in bfloat16, at different places."""

CHUNKS = (1024, 4096)
"""Rows of `F.linear_cross_entropy` that are tried; the second takes all of them at once."""


class CapturedStep(NamedTuple):
    """A step that reads its batch from fixed places."""

    graph: torch.cuda.CUDAGraph
    inputs: Tensor
    targets: Tensor
    loss: Tensor
    batches: list[tuple[Tensor, Tensor]]

    def run(self, steps: int) -> Tensor:
        """Take so many steps, each with the next batch; the losses, still on the device."""
        losses = []
        for index in range(steps):
            inputs, targets = self.batches[index % len(self.batches)]
            self.inputs.copy_(inputs, non_blocking=True)
            self.targets.copy_(targets, non_blocking=True)
            self.graph.replay()
            losses.append(self.loss.clone())
        return torch.stack(losses)


def run(settings: Settings) -> Iterator[Record]:
    """The race, where there is a GPU."""
    if not torch.cuda.is_available():
        for peer in (BOUND[0], STOCK):
            yield Record(part="G1", what=WHAT, peer=peer, note="not measured: no CUDA device")
        return
    yield from times(settings, TINY if settings.quick else W1)


def times(settings: Settings, shape: ModelShape) -> Iterator[Record]:
    """Ours, and the best of stock, in turns."""
    batches = token_batches(shape, REPLAYS)
    name, stock = best_stock(shape, batches)
    sides = [
        Side(STOCK, partial(stock.run, REPLAYS)),
        Side("elman", partial(ProductionStep(shape, batches).run, REPLAYS), LOSS_TOLERANCE),
    ]
    taken = race(*sides, seconds=settings.seconds, least=10, most=ROUNDS, clock=event_clock)
    limits = measure_limits(0.3, "cuda", small=settings.quick)
    ours, peer = taken["elman"].divided(REPLAYS), taken[STOCK].divided(REPLAYS)
    facts: dict[str, Any] = {
        "shape": str(shape),
        "dtype": "bfloat16",
        "note": f"stock: nn.RNN, {name}, fused AdamW, CUDA graph",
    }
    yield versus_bound("G1", WHAT, ours, *BOUND, **facts)
    limit = limits.seconds("bfloat16", shape.step_flop, shape.step_bytes)
    yield versus("G1", WHAT, ours, peer, limit=limit, **facts)


def event_clock(run: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds between two events on the device, which are reached when the work before them is done."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    result = run()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1e3, result


def capture(learn: Callable[[Tensor, Tensor], Tensor], batches: Batches) -> CapturedStep:
    """Record a step that returns its loss, warmed up on another stream, as torch asks for."""
    on_device = [(inputs.cuda(), targets.cuda()) for inputs, targets in batches]
    inputs, targets = (each.clone() for each in on_device[0])
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        warm_up(learn, (inputs, targets), on_device)
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = learn(inputs, targets)
    return CapturedStep(graph, inputs, targets, loss, on_device)


def warm_up(
    learn: Callable[[Tensor, Tensor], Tensor], places: tuple[Tensor, Tensor], batches: Batches
) -> None:
    """The steps before a recording, on the batches on which our step takes as many.

    Libraries then have their workspaces, the optimizer its moments, and both sides the same weights.
    """
    inputs, targets = places
    for index in range(WARM_UP):
        given = batches[index % len(batches)]
        inputs.copy_(given[0])
        targets.copy_(given[1])
        learn(inputs, targets)


class ProductionStep:
    """Our step, which is recorded at its first batches."""

    def __init__(self, shape: ModelShape, batches: Batches) -> None:
        self.model = production_model(chapter_model(shape), shape).cuda().train()
        config = PRESETS["chapter"].optimizer
        optimizer = make_optimizer(self.model, config)
        self.take_step = make_step(self.model, optimizer, config.clip_norm, torch.bfloat16)
        self.inputs = [whole(tokens.cuda(), targets.cuda()) for tokens, targets in batches]
        self.state = self.model.initial_state(shape.batch)
        self.run(WARM_UP)

    def run(self, steps: int) -> Tensor:
        """Take so many steps, each with the next batch; the losses, still on the device."""
        chosen = (self.inputs[index % len(self.inputs)] for index in range(steps))
        return torch.stack([self.take_step(inputs, self.state).loss for inputs in chosen])


Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def stock_losses() -> dict[str, Loss]:
    """The ways of stock torch to the sum of nats."""
    losses: dict[str, Loss] = {"plain loss": plain}
    if hasattr(F, "linear_cross_entropy"):
        for chunk in CHUNKS:
            losses[f"F.linear_cross_entropy by {chunk}"] = partial(linear_cross_entropy, chunk=chunk)
    return losses


def best_stock(shape: ModelShape, batches: Batches) -> tuple[str, CapturedStep]:
    """The fastest of the stock steps here, with fresh weights; one that cannot be captured is left out."""
    losses, seconds = stock_losses(), dict[str, float]()
    if any(map(which, ("cc", "gcc", "clang"))):
        losses["compiled loss"] = torch.compile(plain)
    for name, loss in losses.items():
        try:
            step = stock(shape, batches, loss)
        except RuntimeError:  # it reads back inside the step, or its compiler does not work
            continue
        step.run(REPLAYS)
        seconds[name] = min(event_clock(partial(step.run, REPLAYS))[0] for _ in range(3))
    name = min(seconds, key=lambda each: seconds[each])
    return name, stock(shape, batches, losses[name])


def stock(shape: ModelShape, batches: Batches, loss: Loss) -> CapturedStep:
    """nn.RNN on cuDNN, a loss, fused AdamW."""
    model = stock_model(chapter_model(shape)).cuda()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, fused=True, capturable=True)

    def learn(inputs: Tensor, targets: Tensor) -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.bfloat16):
            hidden, _ = model.rnn(model.embedding(inputs))
            nats = loss(hidden.flatten(0, 1), model.fc.weight, model.fc.bias, targets.flatten())
        mean = nats / targets.numel()
        mean.backward()
        optimizer.step()
        return mean.detach()

    return capture(learn, batches)
