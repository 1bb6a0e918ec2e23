"""What binds the ranks of a job: the group for tensors, the store beside it, and who is lost when either fails.

Keys of the store, where R is a rank and N counts the meetings:

    join/R     it has started                 meet/N/R    it has come to meeting N
    pulse/R    signs of life, see `pulse`     deed/N      what the first rank did, as JSON
    dealt/N    numbers handed out             said/HASH   ranks that end with a message
    end/R      why it ended                   here/R      it has heard the roll call (`roll`), or leaves
"""

import contextlib
import hashlib
import json
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from datetime import timedelta
from typing import Any, Final, TypeVar

import numpy as np
import torch
from torch import distributed
from torch.distributed import DistError, PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from elman import errors
from elman.errors import ConfigError, ElmanError, RankError
from elman.ranks.place import Place, named
from elman.ranks.pulse import Pulse, Watch

T = TypeVar("T")

ROLL_CALL: Final = 10.0
"""Seconds in which a rank that is well answers the roll call."""

STORE: Final = 20.0
"""Seconds in which the store answers; now and then it looks up the name of an address, where there may be no names."""

SILENT: Final = 5.0
"""Seconds without a pulse after which, where something has failed already, a rank counts as dead."""

AGAIN: Final = "start the job again, a training with --resume RUN"

SHORT: Final = 256
"""Bytes of the one message in which a short value is agreed on."""

LONGEST_KEPT: Final = 1 << 16
"""Characters of a value that the store keeps; it refuses some megabytes. A longer one is sent in a tensor."""

TERMINATED: Final = "terminated"


class Link:
    """The group of a job and its store, as one rank holds them."""

    def __init__(self, place: Place, timeout: float) -> None:
        self._place, self._timeout = place, timeout
        self._keeps_store = place.rank == 0 and not place.has_store
        self._others = [rank for rank in range(place.size) if rank != place.rank]
        self._store: Store | None = None
        self._pulse: Pulse | None = None
        self._group: distributed.ProcessGroup | None = None
        self._meetings = 0

    # ---- opening and closing ----

    def open(self) -> None:
        """Find the others and make the group.

        Raises:
            ConfigError: The address cannot be used, or a rank is missing or there twice.
        """
        place = self._place
        self._store = self._connect(hosts=self._keeps_store)
        self._pulse = Pulse(self._connect(hosts=False), place.rank)
        if self._ask(lambda store: store.add(f"join/{place.rank}", 1)) > 1:
            raise ConfigError(f"rank {place.rank} was started twice; each process needs a RANK of its own")
        deadline = time.monotonic() + self._timeout
        while missing := self._without("join"):
            if time.monotonic() > deadline:
                raise ConfigError(
                    f"{named(missing)} of {place.size} did not start within {self._timeout:.0f} s;"
                    " WORLD_SIZE must be the number of processes"
                )
            time.sleep(0.01)
        with self._naming_the_lost():
            self._make_group()

    def _connect(self, *, hosts: bool) -> Store:
        """A client of the store of this job; and the store itself, if this rank `hosts` it."""
        place = self._place
        address = f"{place.host}:{place.port}"
        try:
            family = socket.getaddrinfo(place.host, place.port)[0][0]
            # torch would listen in IPv6 always, and then look up the names of IPv4 addresses written in it
            listening = socket.create_server(("", place.port), family=family).detach() if hosts else None
            store = TCPStore(
                place.host,
                place.port,
                is_master=hosts,
                timeout=timedelta(seconds=self._timeout),
                wait_for_workers=False,
                master_listen_fd=listening,
            )
        except OSError as error:
            reason = str(error.strerror).partition(" (")[0]
            raise ConfigError(f"{address}: {reason}; check MASTER_ADDR and MASTER_PORT") from error
        except DistError as error:
            raise ConfigError(
                f"{address}: no store of a job within {self._timeout:.0f} s; check MASTER_ADDR and MASTER_PORT"
            ) from error
        return PrefixStore(f"elman/{place.attempt}", store)

    def _make_group(self) -> None:
        place, limit = self._place, timedelta(seconds=self._timeout)
        devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
        of_devices = place.local_size <= devices
        if of_devices:
            torch.cuda.set_device(place.local_rank)
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if of_devices else "gloo",
            store=self._store,
            rank=place.rank,
            world_size=place.size,
            # NCCL ends the process where gloo raises, so gloo is to notice first
            timeout=2 * limit if of_devices else limit,
        )
        self._group = distributed.new_group(backend="gloo", timeout=limit) if of_devices else None

    @contextlib.contextmanager
    def speaking_once(self) -> Iterator[None]:
        """Leave the job at the end of the block; an error that several ranks end with is raised by one of them."""
        with _termination_raised():
            try:
                yield
            except BaseException as error:
                ours = self._last_words(error)
                if ours is error:
                    raise
                raise ours from error
            finally:
                if self._pulse is not None:
                    self._pulse.stop()
                if distributed.is_initialized():
                    distributed.destroy_process_group()

    def _last_words(self, error: BaseException) -> BaseException:
        """What this rank ends with; the others are told, unless it ends because of them."""
        _ignore_termination()  # torchrun ends the rest as soon as one has ended
        if self._store is None or self._pulse is None:
            return error
        ours: BaseException = error
        try:
            if isinstance(error, _Terminated):
                ours = self._find_lost(expected=False) or SystemExit(128 + signal.SIGTERM)
            elif _is_of_a_collective(error):
                ours = self._call_the_roll()
            heard = isinstance(ours, RankError)
            reason = TERMINATED if isinstance(error, _Terminated) else _reason(error)
            key, told = ("here", "") if heard else ("end", reason)
            if isinstance(ours, (ElmanError, KeyboardInterrupt)):
                said = hashlib.sha256(f"{type(ours).__name__}: {ours}".encode()).hexdigest()
                if self._ask(lambda store: store.add(f"said/{said}", 1)) > 1:
                    ours = SystemExit(ours.exit_code if isinstance(ours, ElmanError) else 130)
            self._ask(lambda store: store.set(f"{key}/{self._place.rank}", told))
            if self._keeps_store:
                self._linger()
        except RankError as no_store:
            return ours if isinstance(ours, (ElmanError, SystemExit)) else no_store
        return ours

    def _linger(self) -> None:
        """Keep the store until the others have left as well, or seem to be lost."""
        deadline = time.monotonic() + SILENT
        while time.monotonic() < deadline and any(
            self._has(f"join/{rank}") and not self._has(f"end/{rank}") for rank in self._without("here")
        ):
            time.sleep(0.05)

    def leave(self) -> None:
        """Come to the end with all others; the rank that keeps the store goes last."""
        self.meet()
        self._ask(lambda store: store.set(f"here/{self._place.rank}", ""))
        if self._keeps_store:
            self._linger()

    # ---- what the ranks do together ----

    def meet(self) -> None:
        """Wait until all ranks are here, for as long as those that are not are at work."""
        self._meetings += 1
        key = f"meet/{self._meetings}"
        self._ask(lambda store: store.set(f"{key}/{self._place.rank}", ""))
        self._await(lambda: self._without(key))

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
            failure = json.dumps({"error": told.__name__, "message": str(error)})
            self._ask(lambda store: store.set(key, failure))
            raise
        if len(deed) > LONGEST_KEPT:
            self._ask(lambda store: store.set(key, json.dumps({"sent": len(deed)})))
            self.meet()
            sent: T = self.broadcast(json.loads(deed)["value"])
            return sent
        self._ask(lambda store: store.set(key, deed))
        value: T = json.loads(deed)["value"]
        return value

    def await_deed(self) -> Any:
        """What the first rank's `do` returns or raises."""
        self._meetings += 1
        key = f"deed/{self._meetings}"
        self._await(lambda: [] if self._has(key) else [0])
        deed = json.loads(self._read(key))
        if "error" in deed:
            raise _error(deed["error"], deed["message"])
        if "sent" in deed:
            self.meet()
            return self.broadcast(None)
        return deed["value"]

    def deal(self, count: int) -> Iterator[int]:
        """The numbers below `count` that this rank gets."""
        self._meetings += 1
        key = f"dealt/{self._meetings}"
        while (number := self._ask(lambda store: store.add(key, 1)) - 1) < count:
            yield number

    def broadcast(self, value: T) -> T:
        """The first rank's value. What follows the first bytes of a long one takes a second message."""
        first = self._place.rank == 0
        payload = json.dumps(value).encode() if first else b""
        head = bytearray(len(payload).to_bytes(8, "little") + payload[: SHORT - 8]).ljust(SHORT, b" ")
        with self._naming_the_lost():
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
        with self._naming_the_lost():
            distributed.all_reduce(largest, distributed.ReduceOp.MAX, group=self._group)
        return [int(value) for value in largest]

    def gather(self, value: T) -> list[T]:
        """The values of all ranks."""
        payload = _pack(value)
        self.meet()  # which may take long, and then the tensors do not
        with self._naming_the_lost():
            lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self._place.size)]
            distributed.all_gather(lengths, torch.tensor([len(payload)]), group=self._group)
            longest = max(int(length) for length in lengths)
            packed = [torch.empty(longest, dtype=torch.uint8) for _ in lengths]
            distributed.all_gather(packed, _tensor(payload.ljust(longest)), group=self._group)
        return [
            _unpack(each.numpy()[: int(length)].tobytes())
            for each, length in zip(packed, lengths, strict=True)
        ]

    # ---- who is lost ----

    @contextlib.contextmanager
    def _naming_the_lost(self) -> Iterator[None]:
        """Turn the error of a collective into one that says which rank did not answer."""
        try:
            yield
        except RuntimeError as error:
            if not _is_of_a_collective(error):
                raise
            raise self._call_the_roll() from error

    def _await(self, missing: Callable[[], list[int]]) -> None:
        """Wait until no rank is missing; the missing ones must be at work.

        Raises:
            RankError: One has ended, or has not worked for the timeout.
        """
        watch, pause = Watch(lambda rank: self._read(f"pulse/{rank}"), "at work"), 0.001
        while absent := missing():
            if (ended := self._ended(absent)) and missing():  # it may have come just before it ended
                raise ended
            idle = [rank for rank, silence in watch.silence(absent).items() if silence > self._timeout]
            if idle:
                raise RankError(
                    f"{named(idle)} did nothing for {self._timeout:.0f} s while the others waited;"
                    f" stopped, stuck or cut off: {AGAIN}"
                )
            time.sleep(pause)
            pause = min(2 * pause, 0.05)

    def _call_the_roll(self) -> RankError:
        """The error that names the lost, when a collective has failed."""
        assert self._pulse is not None
        self._pulse.answered.set()
        self._ask(lambda store: store.set(f"here/{self._place.rank}", ""))
        self._ask(lambda store: store.set("roll", ""))
        if distributed.is_initialized():
            distributed.destroy_process_group()  # whoever waits for us in it wakes up
        return self._find_lost(expected=True) or RankError(
            f"the connection between the ranks broke, and all of them still answer; {AGAIN}"
        )

    def _find_lost(self, *, expected: bool) -> RankError | None:
        """The error that names the ranks that are lost; also those that live and do not come, if `expected`."""
        watch = Watch(lambda rank: self._read(f"pulse/{rank}"), "alive")
        deadline = time.monotonic() + ROLL_CALL
        while True:
            if ended := self._ended(self._others):
                return ended
            absent = [rank for rank in self._without("here") if not self._has(f"end/{rank}")]
            silent = [rank for rank, silence in watch.silence(absent).items() if silence > SILENT]
            unsure = set(absent) - set(silent) - watch.moved
            if (not unsure and (silent or not absent or not expected)) or time.monotonic() > deadline:
                break
            time.sleep(0.05)
        if silent:
            return RankError(f"{named(silent)} no longer answered: killed, stopped or cut off; {AGAIN}")
        if expected and absent:
            return RankError(
                f"{named(absent)} did not come to where the others waited for {self._timeout:.0f} s;"
                f" it hangs or is far slower: {AGAIN}"
            )
        terminated = [rank for rank in self._others if self._has(f"end/{rank}")] if expected else []
        return RankError(f"{named(terminated)} was terminated; {AGAIN}") if terminated else None

    def _ended(self, ranks: list[int]) -> RankError | None:
        """The error that tells why the first of `ranks` that has failed did."""
        for rank in ranks:
            if self._has(f"end/{rank}"):
                reason = self._read(f"end/{rank}")
                if reason != TERMINATED:
                    return RankError(f"rank {rank} has ended: {reason}")
        return None

    # ---- the store ----

    def _has(self, key: str) -> bool:
        return self._ask(lambda store: store.check([key]))

    def _without(self, key: str) -> list[int]:
        """The other ranks that have not set their key."""
        return self._ask(lambda store: [rank for rank in self._others if not store.check([f"{key}/{rank}"])])

    def _read(self, key: str) -> str:
        return self._ask(lambda store: store.get(key)).decode()

    def _ask(self, question: Callable[[Store], T]) -> T:
        """What the store says, from a thread, as nothing bounds the time that a silent store would take.

        Raises:
            RankError: It says nothing; the process that keeps it has ended or hangs.
        """
        store, answer = self._store, Future[T]()
        keeper = "torchrun" if self._place.has_store else "rank 0"
        if store is None:
            raise RankError(f"{keeper}, which keeps the store of the job, is gone")

        def ask() -> None:
            try:
                answer.set_result(question(store))
            except BaseException as error:
                answer.set_exception(error)

        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        try:
            found = answer.result(STORE)
            asking.join()
            return found
        except TimeoutError:
            self._store = None  # asking again would take as long again
            raise RankError(f"{keeper}, which keeps the store of the job, does not answer; {AGAIN}") from None
        except DistError as error:
            raise RankError(f"{keeper}, which keeps the store of the job, has ended; {AGAIN}") from error


class _Terminated(BaseException):
    """SIGTERM, in whatever the main thread was doing."""


def _terminate(number: int, frame: object) -> None:
    raise _Terminated


@contextlib.contextmanager
def _termination_raised() -> Iterator[None]:
    """SIGTERM as an exception, so that there are last words; unless somebody else takes care of it."""
    ours = threading.current_thread() is threading.main_thread()
    ours = ours and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if ours:
        signal.signal(signal.SIGTERM, _terminate)
    yield
    if ours:  # after an error the process ends
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _ignore_termination() -> None:
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _is_of_a_collective(error: BaseException) -> bool:
    """Whether torch.distributed raised it; the errors of gloo have no class of their own."""
    marks = ("gloo", "NCCL", "Gloo")
    return isinstance(error, RuntimeError) and (
        isinstance(error, DistError) or any(mark in str(error) for mark in marks)
    )


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, ElmanError) else f"{type(error).__name__}: {text}"


def _error(name: str, message: str) -> ElmanError:
    """An error of `elman.errors`, whatever its class is made from."""
    error_class: type[ElmanError] = getattr(errors, name)
    return error_class.__new__(error_class, message)


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
