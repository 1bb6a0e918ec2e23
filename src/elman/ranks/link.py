"""What binds the ranks of a job: the group for tensors, the store beside it, and what they do with both.

Keys of the store, where R is a rank and N counts the meetings:

    meet/N/R    it has come to meeting N
    deed/N      what the first rank did, as JSON
    dealt/N     numbers handed out

Those by which the ranks find one another are in `assembly`, those by which one is missed in `roll`.
"""

import contextlib
import json
import shlex
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, Final, TypeVar

import numpy as np
import torch
from torch import distributed
from torch.distributed import Store  # type: ignore[attr-defined]

from elman import errors
from elman.errors import ElmanError, RankError
from elman.ranks.assembly import assemble
from elman.ranks.last_words import last_words, linger, termination_raised
from elman.ranks.place import Place
from elman.ranks.pulse import Pulse
from elman.ranks.roll import Roll, drop_group
from elman.ranks.store import JobStore, connect
from elman.version import __version__

T = TypeVar("T")

SHORT: Final = 256
"""Bytes of the one message in which a short value is agreed on."""

LONGEST_KEPT: Final = 1 << 16
"""Characters of a value that the store keeps; it refuses some megabytes. A longer one is sent in a tensor."""


class Link:
    """The group of a job and its store, as one rank holds them."""

    def __init__(self, place: Place, timeout: float) -> None:
        self._place, self._timeout = place, timeout
        self._group: distributed.ProcessGroup | None = None
        self._meetings = 0
        self._pulse: Pulse | None = None
        self._found: JobStore | None = None
        self._called: Roll | None = None

    @property
    def _store(self) -> JobStore:
        assert self._found is not None, "not open"
        return self._found

    @property
    def roll(self) -> Roll:
        """Of the ranks of this job."""
        assert self._called is not None, "not open"
        return self._called

    # ---- opening and closing ----

    def open(self) -> None:
        """Find the others and make the group.

        Raises:
            ConfigError: The address cannot be used; or a rank is missing, there twice, or was started otherwise.
        """
        place = self._place
        facts = {"the version of elman": __version__, "the command": shlex.join(sys.argv[1:])}
        assemble(JobStore.of(place, self._timeout), place, facts, self._timeout, self._enter)
        self._pulse = Pulse(self._another_client(), place.rank)
        self._called = Roll(self._store, place, self._pulse, self._timeout)
        with self.roll.naming_the_lost():
            self._make_group()

    def _enter(self, room: JobStore) -> None:
        self._found = room

    def _another_client(self) -> Store:
        return self._store.seen_by(connect(self._place, self._timeout, hosts=False))

    def _make_group(self) -> None:
        place, limit = self._place, timedelta(seconds=self._timeout)
        devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
        of_devices = place.local_size <= devices
        if of_devices:
            torch.cuda.set_device(place.local_rank)
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if of_devices else "gloo",
            store=self._another_client(),
            rank=place.rank,
            world_size=place.size,
            # NCCL ends the process where gloo raises, so gloo is to notice first
            timeout=2 * limit if of_devices else limit,
        )
        self._group = distributed.new_group(backend="gloo", timeout=limit) if of_devices else None

    @contextlib.contextmanager
    def speaking_once(self) -> Iterator[None]:
        """Leave the job at the end of the block; an error that several ranks end with is raised by one of them."""
        with termination_raised():
            try:
                yield
            except BaseException as error:
                ours = last_words(error, self._place, self._found, self._called)
                drop_group()
                if ours is error:
                    raise
                raise ours from error
            finally:
                if self._pulse is not None:
                    self._pulse.stop()
                if distributed.is_initialized():
                    distributed.destroy_process_group()

    def leave(self) -> None:
        """Come to the end with all others; the rank that keeps the store goes last."""
        self.meet()
        self._store.write(f"left/{self._place.rank}", "")
        if self._place.keeps_store:
            linger(self._store, self._place)

    # ---- what the ranks do together ----

    def meet(self) -> None:
        """Wait until all ranks are here, for as long as those that are not are at work."""
        self._meetings += 1
        key = f"meet/{self._meetings}"
        self._store.write(f"{key}/{self._place.rank}", "")
        self.roll.wait(lambda: self._store.without(key, self._place.others))

    def do(self, work: Callable[[], T]) -> T:
        """The result of `work`, for this rank and for the others, who are in `await_deed`."""
        self._meetings += 1
        key = f"deed/{self._meetings}"
        try:
            deed = json.dumps({"value": work()})
        except RankError:
            raise
        except ElmanError as error:
            told = next(each for each in type(error).__mro__ if each.__module__ == errors.__name__)
            failure = {"error": told.__name__, "message": str(error), "exit_code": error.exit_code}
            self._store.write(key, json.dumps(failure))
            raise
        if len(deed) > LONGEST_KEPT:
            self._store.write(key, json.dumps({"sent": len(deed)}))
            self.meet()
            sent: T = self.broadcast(json.loads(deed)["value"])
            return sent
        self._store.write(key, deed)
        value: T = json.loads(deed)["value"]
        return value

    def await_deed(self) -> Any:
        """What the first rank's `do` returns or raises."""
        self._meetings += 1
        key = f"deed/{self._meetings}"
        self.roll.wait(lambda: [] if self._store.has(key) else [0])
        deed = json.loads(self._store.read(key))
        if "error" in deed:
            raise _error(deed["error"], deed["message"], deed["exit_code"])
        if "sent" in deed:
            self.meet()
            return self.broadcast(None)
        return deed["value"]

    def watch(self) -> Callable[[], None]:
        """A look at the others, which raises RankError if one has ended or does nothing."""
        look = self.roll.watch()
        return lambda: look(self._place.others)

    def deal(self, count: int) -> Iterator[int]:
        """The numbers below `count` that this rank gets."""
        self._meetings += 1
        key = f"dealt/{self._meetings}"
        while (number := self._store.count(key) - 1) < count:
            yield number

    def broadcast(self, value: T) -> T:
        """The first rank's value. What follows the first bytes of a long one takes a second message."""
        first = self._place.rank == 0
        payload = json.dumps(value).encode() if first else b""
        head = bytearray(len(payload).to_bytes(8, "little") + payload[: SHORT - 8]).ljust(SHORT, b" ")
        with self.roll.naming_the_lost():
            distributed.broadcast(_tensor(head), 0, group=self._group)
            length = int.from_bytes(head[:8], "little")
            tail = bytearray(payload[SHORT - 8 :]).ljust(max(0, length - (SHORT - 8)))
            if tail:
                distributed.broadcast(_tensor(tail), 0, group=self._group)
        agreed: T = json.loads((head[8:] + tail)[:length])
        return agreed

    def most(self, values: list[int]) -> list[int]:
        """The largest of each over all ranks."""
        largest = torch.tensor(values)
        with self.roll.naming_the_lost():
            distributed.all_reduce(largest, distributed.ReduceOp.MAX, group=self._group)
        return [int(value) for value in largest]

    def gather(self, value: T) -> list[T]:
        """The values of all ranks."""
        payload = _pack(value)
        self.meet()  # which may take long, and then the tensors do not
        with self.roll.naming_the_lost():
            lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self._place.size)]
            distributed.all_gather(lengths, torch.tensor([len(payload)]), group=self._group)
            longest = max(int(length) for length in lengths)
            packed = [torch.empty(longest, dtype=torch.uint8) for _ in lengths]
            distributed.all_gather(packed, _tensor(payload.ljust(longest)), group=self._group)
        return [
            _unpack(each.numpy()[: int(length)].tobytes())
            for each, length in zip(packed, lengths, strict=True)
        ]


def _error(name: str, message: str, exit_code: int) -> ElmanError:
    """An error of `elman.errors`, whatever its class is made from."""
    error_class: type[ElmanError] = getattr(errors, name)
    error = error_class.__new__(error_class, message)
    error.exit_code = exit_code
    return error


def _tensor(content: bytearray) -> torch.Tensor:
    return torch.frombuffer(content, dtype=torch.uint8)


def _pack(value: object) -> bytearray:
    if isinstance(value, np.ndarray):
        if value.dtype != np.float64 or value.ndim != 1:
            raise TypeError(f"cannot gather an array [{value.ndim} axes] of {value.dtype}")
        return bytearray(b"a" + value.tobytes())
    return bytearray(b"j" + json.dumps(value).encode())


def _unpack(content: bytes) -> Any:
    return np.frombuffer(content[1:]).copy() if content[:1] == b"a" else json.loads(content[1:])
