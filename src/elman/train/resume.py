"""Taking a run up again: which one, what may be changed in it, and whether it is still the same.

may change      the budget, the rate and its schedule, how often is validated and saved, the machine
may not         the model, the text, the tokenizer, the batches, the seed: that would be another run
must be equal   the content of the text and of the tokenizer, by checksum
is warned of    another machine, version or number of threads: the bits may then differ (`strict` refuses)
"""

import dataclasses
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elman.config import BUDGETS, RunConfig
from elman.errors import ConfigError, InputError
from elman.settings import amend, from_toml, to_dict

CONFIG, ENVIRONMENT, RESULT = "config.toml", "environment.json", "result.json"
"""Of a run folder: its settings, where it ran, and, once it is finished, what it came to."""

CHANGEABLE = {
    "data": {"corpus", "valid"},  # where the text lies; what it says is compared
    "optimizer": {"learning_rate", "weight_decay", "warmup", "schedule", "clip_norm"},
    "training": {
        *BUDGETS,
        "accumulate",
        "checkpoint_seconds",
        "checkpoints_kept",
        "validations",
        "valid_tokens",
        "yardstick_order",
        "device",
        "precision",
        "tensorboard",
    },
}

BITS_DEPEND_ON = ("torch", "threads", "device", "product_dtype", "instructions", "ranks")
"""Facts of an environment with which the last bits of a sum may change."""


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
    if not (folder / CONFIG).is_file():
        start = f"elman train --out {shlex.quote(str(folder))}"
        if not folder.exists():
            raise InputError(f"{folder}: no such run folder; start a run with: {start}")
        raise InputError(
            f"{folder}: is no run folder: it has no config.toml; give another, or remove it and start with: {start}"
        )
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
        raise InputError(
            f"{len(found)} runs are unfinished: {names}; name one: elman train --resume {found[-1]}"
        )
    return found[0]


def change(earlier: Earlier, overrides: Mapping[str, object]) -> tuple[RunConfig, dict[str, tuple[Any, Any]]]:
    """The settings with which to go on, and what is different in them: name to old and new value.

    Raises:
        ConfigError: Something is changed that makes another run of it; names all of that.
    """
    config = amend(earlier.config, overrides)
    before, after = to_dict(earlier.config), to_dict(config)
    changes: dict[str, tuple[Any, Any]] = {}
    refused = []
    for section, fields in after.items():
        if not isinstance(fields, dict):
            continue
        for name, value in fields.items():
            old = before[section][name]
            if old != value:
                changes[f"{section}.{name}"] = (old, value)
                if name not in CHANGEABLE.get(section, ()):
                    refused.append(f"{section}.{name} ({old} in the run, {value} given)")
    if refused:
        raise ConfigError(
            f"{earlier.folder}: cannot be changed in a run: {', '.join(refused)}; leave it out, or start a new run"
        )
    return config, changes


def require_same_data(earlier: Earlier, manifest: Mapping[str, Any]) -> None:
    """Compare the prepared text with that of the run.

    Raises:
        InputError: The text or the tokenizer has changed; shows both checksums.
    """
    then = (earlier.environment or {}).get("data", {})
    for key, what in (("content_sha256", "text"), ("tokenizer_sha256", "tokenizer")):
        if then and then.get(key) != manifest[key]:
            raise InputError(
                f"{earlier.folder}: the {what} is not that of the run: SHA-256 {manifest[key][:16]}... here,"
                f" {str(then.get(key))[:16]}... there; give the same {what}, or start a new run"
            )


def differences(earlier: Earlier, environment: Mapping[str, Any]) -> str:
    """In words, what may make the last bits differ from those of the run; empty if nothing does."""
    then, now = _facts(earlier.environment or {}), _facts(environment)
    return ", ".join(
        f"{name} {now.get(name)} here and {then[name]} there"
        for name in BITS_DEPEND_ON
        if name in then and then[name] != now.get(name)
    )


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
    if earlier.environment is None or config.training.precision != "auto":
        return None
    name = earlier.environment.get("product_dtype", "")
    return str(name).removeprefix("torch.") or None


def with_precision(config: RunConfig, name: str | None) -> RunConfig:
    """`config` with that precision; None leaves it."""
    if name is None:
        return config
    training = dataclasses.replace(config.training, precision=name)  # type: ignore[arg-type]  # checked there
    return dataclasses.replace(config, training=training)


def _facts(environment: Mapping[str, Any]) -> dict[str, Any]:
    return {**environment, "torch": environment.get("packages", {}).get("torch")} if environment else {}


def _read_object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read: {error}; start a new run") from error
    if not isinstance(found, dict):
        raise InputError(f"{path}: not a JSON object; start a new run")
    return found
