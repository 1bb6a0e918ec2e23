"""Taking a run up again: which one, what may be changed in it, and whether it is still the same.

may change      the budget, the rate and its schedule, how often is validated and saved, the machine
may not         the model, the text, the tokenizer, the batches, the seed: that would be another run
must be equal   the content of the text, of the held-out text and of the tokenizer, by checksum
is warned of    another machine, version or number of threads than at any start of the run: the bits may then
                differ (`strict` refuses)
"""

import dataclasses
import json
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from elman.config import BUDGETS, DataConfig, RunConfig
from elman.errors import ConfigError, InputError, ModelError
from elman.settings import amend, from_toml, to_dict
from elman.train.checkpoint import Checkpoint
from elman.train.run_folder import CHECKPOINTS, CONFIG, ENVIRONMENT, METRICS, RESULT, resume_command

T = TypeVar("T")

CHANGEABLE = {
    # Where the texts lie; what they say is compared, and a fraction stays as it is.
    "data": {"corpus", "valid"},
    "optimizer": {"learning_rate", "weight_decay", "warmup", "schedule", "clip_norm"},
    "training": {
        *BUDGETS,
        "accumulate",
        "checkpoint_seconds",
        "checkpoints_kept",
        "validations",
        "yardstick_order",
        "device",
        "precision",
        "tensorboard",
    },
}

BITS_DEPEND_ON = (
    *("elman", "torch", "numpy", "processor", "threads", "device", "product_dtype", "instructions", "ranks"),
    *("loss", "recurrence"),  # how they are computed: also a matter of the size of a cache
)
"""Facts of an environment with which the last bits of a sum may change."""

MADE_HERE = ("auto", "byte", "char", "word", "bpe")
"""Tokenizers by kind. Any other is a file or a name on the hub: what it says is compared, not where it lies."""

WITHOUT_IT = "set it aside to go on without it: the checkpoints know the text as well"

SAME_DATA = {"content_sha256": "text", "valid_sha256": "held-out text", "tokenizer_sha256": "tokenizer"}
"""Checksums in the manifest of prepared data that a run keeps, and what they are of."""


@dataclass(frozen=True, slots=True)
class Earlier:
    """A run as it was left."""

    folder: Path
    config: RunConfig
    environment: dict[str, Any] | None
    """None if it was ended before its text was prepared."""
    finished: bool


def open_run(folder: Path) -> Earlier:
    """The run in `folder`.

    Raises:
        InputError: There is none, or its files are damaged.
    """
    if not folder.exists():
        raise InputError(
            f"{folder}: no such run folder; start a run with: elman train --out {shlex.quote(str(folder))}"
        )
    if not folder.is_dir():
        raise InputError(
            f"{folder}: is a file, not the folder of a run, which has a config.toml; give another"
        )
    if not (folder / CONFIG).is_file():
        if (folder / CHECKPOINTS).is_dir():
            raise InputError(f"{folder}: its config.toml is missing; put it back to go on")
        raise InputError(f"{folder}: is not the folder of a run: it has no config.toml; give another")
    path = folder / ENVIRONMENT
    environment = _read_object(path) if path.exists() else None
    return Earlier(folder, from_toml(folder / CONFIG), environment, (folder / RESULT).is_file())


def find_unfinished(runs: Path = Path("runs")) -> Path:
    """The one run under `runs` that is not finished.

    Raises:
        InputError: There is none, or several.
    """
    found = sorted(path.parent for path in runs.glob(f"*/{CONFIG}") if not (path.parent / RESULT).exists())
    if not found:
        raise InputError(f"{runs}: no unfinished run there; name one: elman train --resume RUN")
    if len(found) > 1:
        names = ", ".join(map(str, found))
        raise InputError(f"{len(found)} runs are unfinished: {names}; name one: {resume_command(found[-1])}")
    return found[0]


def change(earlier: Earlier, overrides: Mapping[str, object]) -> tuple[RunConfig, dict[str, tuple[Any, Any]]]:
    """The settings with which to go on, and what is different in them: name to old and new value.

    Raises:
        ConfigError: Something is changed that makes another run of it; names all of that.
    """
    config = amend(earlier.config, overrides)
    return config, compare(earlier.folder, earlier.config, config)


def compare(folder: Path, before: RunConfig, after: RunConfig) -> dict[str, tuple[Any, Any]]:
    """What is different between two settings of one run: name to old and new value.

    Raises:
        ConfigError: As for `change`.
    """
    old, new = to_dict(before), to_dict(after)
    changes = {
        f"{section}.{name}": (old[section][name], value)
        for section, fields in new.items()
        if isinstance(fields, dict)
        for name, value in fields.items()
        if old[section][name] != value
    }
    refused = [
        f"{name} ({then} in the run, {now} given)"
        for name, (then, now) in changes.items()
        if not _may_change(name, then, now)
    ]
    if refused:
        raise ConfigError(
            f"{folder}: cannot be changed in a run: {', '.join(refused)}; leave it out, or start a new run"
        )
    return changes


def _may_change(name: str, then: Any, now: Any) -> bool:
    if name == "data.valid":  # another file with the same text, but no other share
        return DataConfig(valid=then).valid_fraction is None is DataConfig(valid=now).valid_fraction
    if name == "data.tokenizer":
        return then not in MADE_HERE and now not in MADE_HERE
    section, _, field = name.partition(".")
    return field in CHANGEABLE.get(section, ())


def require_place(earlier: Earlier, start: Checkpoint | None) -> None:
    """Refuse to begin from the beginning what has come further.

    Raises:
        ModelError: There were checkpoints, as the first is written before the first step, and none is left.
    """
    metrics = earlier.folder / METRICS
    if start is None and (earlier.finished or (metrics.exists() and metrics.stat().st_size)):
        again = f"elman train --config {shlex.quote(str(earlier.folder / CONFIG))} --out NEW"
        raise ModelError(
            f"{earlier.folder}: none of its checkpoints is left to go on from; train it anew with: {again}"
        )


def require_same_data(earlier: Earlier, start: Checkpoint | None, manifest: Mapping[str, Any]) -> None:
    """Compare the prepared texts with those of the run, by its newest checkpoint and its `environment.json`.

    Raises:
        InputError: A text or the tokenizer has changed; shows both checksums.
    """
    then = {**(earlier.environment or {}).get("data", {}), **({} if start is None else start.facts)}
    for key, what in SAME_DATA.items():
        if key in then and then[key] != manifest.get(key):
            raise InputError(
                f"{earlier.folder}: the {what} is not that of the run:"
                f" SHA-256 {short_checksum(manifest.get(key))} here, {short_checksum(then.get(key))} there;"
                f" give the same {what}, or start a new run"
            )


def short_checksum(checksum: str | None) -> str:
    """As people are shown it."""
    return "none" if checksum is None else f"{checksum[:16]}..."


def machines(earlier: Earlier | None, environment: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Facts in `BITS_DEPEND_ON` of all starts of a run, of which `environment` is the newest; in order, each once."""
    return _once([*([] if earlier is None else _machines_of(earlier)), _facts(environment)])


def differences(
    earlier: Earlier, environment: Mapping[str, Any], facts: Iterable[str] = BITS_DEPEND_ON
) -> str:
    """In words, which of `facts` are otherwise here than at some start of the run; empty if none is."""
    here, said = _facts(environment), []
    for name in facts:
        there = _once(machine[name] for machine in _machines_of(earlier) if name in machine)
        if others := [_quoted(value) for value in there if value != here.get(name)]:
            said.append(f"{name} {_quoted(here.get(name))} here and {' and '.join(others)} there")
    return ", ".join(said)


def require_same_machine(earlier: Earlier, environment: Mapping[str, Any]) -> None:
    """Refuse a machine on which the bits may differ.

    Raises:
        ConfigError: They may; says why.
    """
    if differing := differences(earlier, environment):
        raise ConfigError(
            f"{earlier.folder}: the run would not go on to the bit: {differing}; leave --strict-resume out to accept"
        )


def reads_standard_input(config: RunConfig) -> bool:
    """Whether the text cannot be read again; what was prepared of it is in the cache."""
    return "-" in (config.data.corpus, config.data.valid)


def recorded_dtype(earlier: Earlier, config: RunConfig) -> str | None:
    """The arithmetic of the products that `auto` chose when the run began; it is not chosen again."""
    found = _machines_of(earlier)
    if not found or config.training.precision != "auto":
        return None
    return str(found[0].get("product_dtype", "")).removeprefix("torch.") or None


def with_precision(config: RunConfig, name: str | None) -> RunConfig:
    """`config` with that precision; None leaves it."""
    if name is None:
        return config
    training = dataclasses.replace(config.training, precision=name)  # type: ignore[arg-type]  # checked there
    return dataclasses.replace(config, training=training)


def _machines_of(earlier: Earlier) -> list[dict[str, Any]]:
    """Those that a run was started on so far."""
    environment = earlier.environment or {}
    return environment.get("machines") or ([_facts(environment)] if environment else [])


def _facts(environment: Mapping[str, Any]) -> dict[str, Any]:
    """Those in `BITS_DEPEND_ON`, as far as they are known."""
    known = {**environment, **environment.get("choices", {})}
    known |= {name: environment.get("packages", {}).get(name) for name in ("torch", "numpy")}
    return {name: known[name] for name in BITS_DEPEND_ON if known.get(name) is not None}


def _once(values: Iterable[T]) -> list[T]:
    """Without repetitions, in their order; they need not be hashable."""
    found: list[T] = []
    for value in values:
        if value not in found:
            found.append(value)
    return found


def _quoted(value: object) -> str:
    """In quotation marks where it is many words."""
    return f'"{value}"' if " " in str(value) else str(value)


def _read_object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read: {error}; {WITHOUT_IT}") from error
    if not isinstance(found, dict):
        raise InputError(f"{path}: not a JSON object; {WITHOUT_IT}")
    return found
