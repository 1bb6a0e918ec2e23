"""Where torchrun says that this process stands: its variables, read and checked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from elman.errors import ConfigError

VARIABLES: Final = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What every process of a job is told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What torchrun's variables say."""

    rank: int
    size: int
    host: str
    port: int
    local_rank: int
    """Among the ranks of this machine, and so the number of its device."""
    local_size: int
    attempt: int
    """How often torchrun has started the job again after a failure, as this machine counts it."""
    has_store: bool
    """Whether torchrun keeps the store of the job; else the first rank does."""

    @property
    def keeps_store(self) -> bool:
        """Whether this rank does."""
        return self.rank == 0 and not self.has_store

    @property
    def others(self) -> list[int]:
        """All ranks but this one."""
        return [rank for rank in range(self.size) if rank != self.rank]


def find_place(environ: Mapping[str, str]) -> Place | None:
    """The place of this process; None outside a job.

    Raises:
        ConfigError: Some variables are missing, or make no sense together.
    """
    there = [name for name in VARIABLES if name in environ]
    missing = [name for name in VARIABLES if name not in environ]
    if not {"RANK", "WORLD_SIZE"} & set(there):  # an address alone is that of a cluster
        return None
    if missing:
        raise ConfigError(
            f"{' and '.join(there)} set without {' and '.join(missing)}; start the job with torchrun, or unset them"
        )
    rank, size = _whole(environ, "RANK", 0), _whole(environ, "WORLD_SIZE", 1)
    if rank >= size:
        raise ConfigError(f"RANK {rank} must be below WORLD_SIZE {size}; start the job with torchrun")
    return Place(
        rank=rank,
        size=size,
        host=environ["MASTER_ADDR"],
        port=_whole(environ, "MASTER_PORT", 1, at_most=65535),
        local_rank=_whole(environ, "LOCAL_RANK", 0, default=rank),
        local_size=_whole(environ, "LOCAL_WORLD_SIZE", 1, default=size),
        attempt=_whole(environ, "TORCHELASTIC_RESTART_COUNT", 0, default=0),
        has_store=environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
    )


def named(ranks: Sequence[int]) -> str:
    """Such as `rank 3`, or `ranks 1, 2 and 5`."""
    numbers = [str(rank) for rank in ranks]
    if len(numbers) == 1:
        return f"rank {numbers[0]}"
    return f"ranks {', '.join(numbers[:-1])} and {numbers[-1]}"


def refuse_differences(all_facts: Sequence[Mapping[str, str]]) -> None:
    """Make sure that the facts of all ranks, in their order, are the same.

    Raises:
        ConfigError: They differ; names the fact, its values and who has which.
    """
    for name in dict.fromkeys(name for each in all_facts for name in each):
        holders: dict[str, list[int]] = {}
        for rank, each in enumerate(all_facts):
            holders.setdefault(each.get(name, "none"), []).append(rank)
        if len(holders) > 1:
            told = ", ".join(f"{value} on {named(ranks)}" for value, ranks in holders.items())
            raise ConfigError(f"the ranks differ in {name}: {told}; start all of them with the same")


def _whole(
    environ: Mapping[str, str],
    name: str,
    at_least: int,
    *,
    at_most: int = 2**31 - 1,
    default: int | None = None,
) -> int:
    text = environ.get(name, str(default))
    if not (text.isascii() and text.isdecimal()) or not at_least <= int(text) <= at_most:
        limits = f"from {at_least} to {at_most}"
        raise ConfigError(f"{name} {text!r} must be a whole number {limits}; start the job with torchrun")
    return int(text)
