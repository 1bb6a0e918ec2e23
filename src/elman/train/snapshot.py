"""A training as files, and back: everything that its next step depends on.

    model.safetensors       the weights                       best.safetensors    those that scored best so far
    optimizer.safetensors   the moments of every parameter    rng.safetensors     random generators, of each rank
    lanes.safetensors       the state of every stream         trainer.json        all that are numbers

Taking one changes nothing and draws nothing, so a training with checkpoints is the one without, to the bit. No pickle.

Under several ranks every one of them takes part, as each holds the state of its own streams.
"""

import json
from collections.abc import Mapping
from typing import Any, Protocol

import safetensors.torch
import torch
from torch import Tensor

from elman.errors import DivergedError, ModelError
from elman.models.base import State, map_state, tensors_in
from elman.models.build import tensors_of
from elman.ranks import ALONE, Ranks
from elman.train.loop import Training
from elman.train.optimizer import set_learning_rate

Tensors = Mapping[str, Tensor]


class Part(Protocol):
    """Something beside the training that remembers: the budget, the guard, the watcher."""

    def state_dict(self) -> dict[str, Any]:
        """What it remembers, fit for JSON."""
        ...

    def load_state_dict(self, state: Any) -> None:
        """Remember that."""
        ...


def take(
    training: Training, best: Tensors, parts: Mapping[str, Part], ranks: Ranks = ALONE
) -> dict[str, bytes]:
    """The files, by name.

    Args:
        training: Between two steps.
        best: Weights to keep beside those of the moment.
        parts: Whatever else goes on, by name.
        ranks: The processes of the job.

    Raises:
        DivergedError: A weight is not finite; such a training is not worth going on with.
    """
    weights = tensors_of(training.model)
    for name, weight in weights.items():
        if not weight.isfinite().all():
            raise DivergedError(f"step {training.step}: {name} is not finite; lower learning_rate")
    values = {
        "step": training.step,
        "ease": training.ease,
        "rate": float(training.optimizer.param_groups[0]["lr"]),
        "loader": training.loader.state_dict(),
        "parts": {name: part.state_dict() for name, part in parts.items()},
    }
    return {
        "model.safetensors": _pack(weights),
        "best.safetensors": _pack(best),
        "optimizer.safetensors": _pack(_moments(training.optimizer)),
        "rng.safetensors": _pack(_generators(training, ranks)),
        "lanes.safetensors": _pack(_lanes(training, ranks)),
        "trainer.json": json.dumps(values, indent=1).encode(),
    }


def put_back(
    training: Training, parts: Mapping[str, Part], files: Mapping[str, bytes], ranks: Ranks = ALONE
) -> dict[str, Tensor]:
    """Bring `training`, just made, to where `files` were taken, on any number of ranks; the best weights.

    Raises:
        ModelError: The files are of another training.
    """
    try:
        values = json.loads(files["trainer.json"])
        tensors = {
            name.removesuffix(".safetensors"): safetensors.torch.load(payload)
            for name, payload in files.items()
            if name.endswith(".safetensors")
        }
        with torch.no_grad():
            fill(tensors_of(training.model), tensors["model"])
        _restore_moments(training.optimizer, tensors["optimizer"])
        _restore_generators(training, tensors["rng"], ranks)
        training.step, training.ease = values["step"], values["ease"]
        # With it rows are settled, if no step follows.
        set_learning_rate(training.optimizer, values["rate"])
        training.loader.load_state_dict(values["loader"])
        training.state = _restore_lanes(training, tensors["lanes"], ranks)
        for name, part in parts.items():
            part.load_state_dict(values["parts"][name])
        best = {name: tensor.clone() for name, tensor in tensors["best"].items()}
    except (KeyError, ValueError, TypeError, RuntimeError, safetensors.SafetensorError) as error:
        raise ModelError(f"the checkpoint does not fit this training: {error}; start a new run") from error
    return best


def _moments(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """`0.exp_avg` and so on, by the number of the parameter."""
    state = optimizer.state_dict()["state"]
    return {f"{number}.{name}": tensor for number, entry in state.items() for name, tensor in entry.items()}


def _restore_moments(optimizer: torch.optim.Optimizer, tensors: Tensors) -> None:
    parameters = dict(enumerate(each for group in optimizer.param_groups for each in group["params"]))
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        number, _, name = key.partition(".")
        whole = parameters[int(number)].shape
        shape = {"step": (), "exp_avg": whole, "exp_avg_sq": whole, "last_step": whole[:1]}[name]
        if tensor.shape != shape:
            raise ValueError(f"{key} of the optimizer is {tuple(tensor.shape)}, not {tuple(shape)}")
        # A copy: what safetensors reads stands anywhere in memory, and sums over it may be taken in another order.
        state.setdefault(int(number), {})[name] = tensor.clone()
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _generators(training: Training, ranks: Ranks) -> dict[str, Tensor]:
    """States of the random generators: dropout has one on each rank, negatives are drawn alike on all."""
    device = training.model.device
    mine = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        mine["cuda"] = torch.cuda.get_rng_state(device)
    found = {"negatives": training.objective.generator.get_state()}
    for name, state in mine.items():
        found |= {f"{name}.{rank}": each for rank, each in enumerate(_of_all(state, ranks))}
    return found


def _restore_generators(training: Training, tensors: Tensors, ranks: Ranks) -> None:
    training.objective.generator.set_state(tensors["negatives"])
    if (state := tensors.get(f"cpu.{ranks.rank}")) is not None:  # a rank that was not there keeps its own
        torch.set_rng_state(state)
    if (state := tensors.get(f"cuda.{ranks.rank}")) is not None and training.model.device.type == "cuda":
        torch.cuda.set_rng_state(state, training.model.device)


def _lanes(training: Training, ranks: Ranks) -> dict[str, Tensor]:
    """The carried state, its tensors by number, with the streams of all ranks in their order."""
    if training.state is None or not training.loader.carries_state:
        return {}
    return {
        str(number): torch.cat(_of_all(tensor.cpu(), ranks))
        for number, tensor in enumerate(tensors_in(training.state))
    }


def _of_all(tensor: Tensor, ranks: Ranks) -> list[Tensor]:
    """That of each rank; a double holds every number that occurs here."""
    rows, arrays = ranks.gather(len(tensor)), ranks.gather(tensor.double().flatten().numpy())
    return [
        torch.from_numpy(array).to(tensor.dtype).view(number, *tensor.shape[1:])
        for number, array in zip(rows, arrays, strict=True)
    ]


def _restore_lanes(training: Training, tensors: Tensors, ranks: Ranks) -> State | None:
    if not tensors:
        return None
    streams = len(tensors["0"])
    mine = ranks.share(streams)
    initial = training.model.initial_state(mine.stop - mine.start)
    if len(tensors) != len(tensors_in(initial)):
        raise ValueError(f"a state has {len(tensors)} parts, not {len(tensors_in(initial))}")
    rows = iter([tensors[str(number)][mine] for number in range(len(tensors))])

    def restored(fresh: Tensor) -> Tensor:
        kept = next(rows)
        if kept.shape != fresh.shape:
            raise ValueError(f"a state is {tuple(kept.shape)}, not {tuple(fresh.shape)}")
        return kept.to(fresh.device, fresh.dtype, copy=True)

    return map_state(restored, initial)


def fill(targets: Tensors, sources: Tensors) -> None:
    """Copy all of `sources` into `targets`. ValueError: they differ in names or shapes."""
    if set(targets) != set(sources):
        raise ValueError(f"it has other weights: {sorted(set(targets) ^ set(sources))}")
    for name, target in targets.items():
        if target.shape != sources[name].shape:
            raise ValueError(f"{name} is {tuple(sources[name].shape)}, not {tuple(target.shape)}")
        target.copy_(sources[name])


def _pack(tensors: Tensors) -> bytes:
    return safetensors.torch.save({name: t.detach().cpu().contiguous() for name, t in tensors.items()})
