"""The processes of one job that torchrun started: which of them this is, and what they agree on.

Tensors meet in torch.distributed's collectives, over gloo between processors and over NCCL between devices.
Beside them stands the key-value store of the job, in which every rank has a pulse (`pulse`). So there are two
kinds of waiting:

    agree, most, gradients        every step; all are expected within the timeout
    gather, first_does, barrier   now and then; for as long as the others are seen to work

Where either fails, the roll is called in the store, and the error names those that do not answer (`roll`).
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeVar

from elman.ranks.place import find_place, refuse_differences

if TYPE_CHECKING:
    from elman.ranks.link import Link

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ranks:
    """One process among those of its job.

    What a method says of all ranks, all of them must call, and in one order. Values travel as JSON, so a tuple
    arrives as a list. A rank that has ended or hangs is a RankError on those that wait for it.
    """

    rank: int = 0
    size: int = 1
    attempt: int = 0
    """How often torchrun has started the job again after a failure, as far as this machine has seen."""
    _link: "Link | None" = field(default=None, repr=False, compare=False)

    @property
    def is_first(self) -> bool:
        """Whether this is the rank that prints and writes."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """The contiguous rows of `count` that are this rank's; the shares of all are all rows, in order."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def agree(self, value: T) -> T:
        """The first rank's value, on all ranks; one small message, cheap enough for every step."""
        return value if self._link is None else self._link.broadcast(value)

    def most(self, values: list[int]) -> list[int]:
        """The largest of each of `values` over all ranks, on all; as cheap as `agree`."""
        return values if self._link is None else self._link.most(values)

    def gather(self, value: T) -> list[T]:
        """The values of all ranks in their order, on all ranks: JSON-able ones, or float64 arrays."""
        return [value] if self._link is None else self._link.gather(value)

    def deal(self, count: int) -> Iterator[int]:
        """Numbers below `count`, in rising order: each goes to one rank, the next to whoever is done with its last."""
        return iter(range(count)) if self._link is None else self._link.deal(count)

    def first_does(self, work: Callable[[], T]) -> T:
        """The result of `work`, which the first rank does while the others wait for as long as it is at work.

        Raises:
            ElmanError: What the first rank raised, on all ranks.
        """
        if self._link is None:
            return work()
        return self._link.do(work) if self.is_first else self._link.await_deed()

    def after_first(self, work: Callable[[], T]) -> T:
        """The result of `work` on each rank: the first does it before the others, who find what it left in a cache.

        Raises:
            ElmanError: What the first rank raised, on all ranks.
        """
        done: list[T] = []
        self.first_does(lambda: done.append(work()))
        return done[0] if done else work()

    def barrier(self) -> None:
        """Wait until all ranks are here."""
        if self._link is not None:
            self._link.meet()

    def watch(self) -> Callable[[], None]:
        """A look at the others, to be had about once a second while this rank waits for what one of them holds.

        It raises RankError: One of them has ended, or has not worked for the timeout.
        """
        return (lambda: None) if self._link is None else self._link.watch()

    def exchanging(self) -> contextlib.AbstractContextManager[None]:
        """A context for collectives of torch's own; the error of one becomes a RankError that names who is lost."""
        return contextlib.nullcontext() if self._link is None else self._link.roll.naming_the_lost()

    def handshake(self, facts: Mapping[str, str]) -> None:
        """Make sure that all ranks hold the same: settings, data.

        Raises:
            ConfigError: They differ; names the fact, its values and who has which. On all ranks.
        """
        refuse_differences(self.gather(dict(facts)))


ALONE: Final = Ranks()
"""A process that no job is around."""


@contextlib.contextmanager
def join(timeout: float = 40.0) -> Iterator[Ranks]:
    """The place of this process in its job: `ALONE` unless torchrun's variables are set and tell of others.

    An error that ends several ranks is raised by one, which speaks for them; the others leave with its exit code.

    Args:
        timeout: Seconds after which a rank that was expected counts as lost.

    Raises:
        ConfigError: The variables are broken, the address cannot be used, or a rank is missing, there twice, or was
            started with another command.
        RankError: A rank has ended or hangs.
    """
    place = find_place(os.environ)
    if place is None or place.size == 1:
        yield ALONE
        return
    # torch would report the loss of a rank in pages of addresses; what it means is said below
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from elman.ranks.link import Link

    link = Link(place, timeout)
    with link.speaking_once():
        link.open()
        yield Ranks(place.rank, place.size, place.attempt, link)
        link.leave()
