"""The key-value store of a job, with an end to every question that is asked of it.

torchrun keeps the store, or, without it, the first rank. A question is asked from a thread, as nothing bounds the time
that a silent store would take.
"""

import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from datetime import timedelta
from typing import Final, Self, TypeVar

from torch.distributed import DistError, PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from elman.errors import ConfigError, RankError
from elman.ranks.place import Place

T = TypeVar("T")

STORE: Final = 20.0
"""Seconds in which the store answers; now and then it looks up the name of an address, where there may be no names."""

AGAIN: Final = "start the job again, a training with --resume RUN"

ROOT: Final = "elman"
"""Begins all keys: torch has its own in the same store."""


def connect(place: Place, timeout: float, *, hosts: bool) -> Store:
    """A client of the store of this job; and the store itself, if this rank `hosts` it.

    Raises:
        ConfigError: The address cannot be used, or no store is found there.
    """
    address = f"{place.host}:{place.port}"
    try:
        family = socket.getaddrinfo(place.host, place.port)[0][0]
        # torch would listen in IPv6 always, and then look up the names of IPv4 addresses written in it
        listening = socket.create_server(("", place.port), family=family).detach() if hosts else None
        store = TCPStore(
            place.host,
            place.port,
            is_master=hosts,
            timeout=timedelta(seconds=timeout),
            wait_for_workers=False,
            master_listen_fd=listening,
        )
    except OSError as error:
        reason = str(error.strerror).partition(" (")[0]
        raise ConfigError(f"{address}: {reason}; check MASTER_ADDR and MASTER_PORT") from error
    except DistError as error:
        raise ConfigError(
            f"{address}: no store of a job within {timeout:.0f} s; check MASTER_ADDR and MASTER_PORT"
        ) from error
    return PrefixStore(ROOT, store)


class Line:
    """A client that may hang, and who keeps the store at its other end."""

    def __init__(self, client: Store, keeper: str) -> None:
        self._client: Store | None = client
        self._keeper = f"{keeper}, which keeps the store of the job,"

    def ask(self, question: Callable[[Store], T]) -> T:
        """What the store says.

        Raises:
            RankError: It says nothing; the process that keeps it has ended or hangs.
        """
        client, answer = self._client, Future[T]()
        if client is None:
            raise RankError(f"{self._keeper} is gone")

        def put() -> None:
            try:
                answer.set_result(question(client))
            except BaseException as error:
                answer.set_exception(error)

        asking = threading.Thread(target=put, daemon=True)
        asking.start()
        try:
            return answer.result(STORE)
        except TimeoutError:
            self._client = None  # asking again would take as long again
            raise RankError(f"{self._keeper} does not answer; {AGAIN}") from None
        except DistError as error:
            raise RankError(f"{self._keeper} has ended; {AGAIN}") from error
        finally:
            asking.join(1.0)  # an interpreter that ended while the thread is inside torch would abort


class JobStore:
    """The keys of a job below one prefix. Every method raises what `Line.ask` raises."""

    def __init__(self, line: Line, prefix: str = "") -> None:
        self._line, self._prefix = line, prefix

    @classmethod
    def of(cls, place: Place, timeout: float) -> Self:
        """The store of the job of `place`, which this rank may have to keep. Raises what `connect` raises."""
        keeper = "torchrun" if place.has_store else "rank 0"
        return cls(Line(connect(place, timeout, hosts=place.keeps_store), keeper))

    def within(self, name: str) -> "JobStore":
        """The keys below `name`."""
        return JobStore(self._line, f"{self._prefix}{name}/")

    def seen_by(self, client: Store) -> Store:
        """The same keys, by another client."""
        return PrefixStore(self._prefix.removesuffix("/"), client)

    def has(self, key: str) -> bool:
        """Whether it was written."""
        return self._line.ask(lambda store: store.check([self._prefix + key]))

    def read(self, key: str) -> str:
        """What was written; it must be there."""
        return self._line.ask(lambda store: store.get(self._prefix + key)).decode()

    def write(self, key: str, value: str) -> None:
        """For all who read it from now on."""
        self._line.ask(lambda store: store.set(self._prefix + key, value))

    def count(self, key: str) -> int:
        """How often this was asked for, this time included."""
        return self._line.ask(lambda store: store.add(self._prefix + key, 1))

    def without(self, key: str, ranks: list[int]) -> list[int]:
        """Those of `ranks` that have not written `key/RANK`."""
        return self._line.ask(
            lambda store: [rank for rank in ranks if not store.check([f"{self._prefix}{key}/{rank}"])]
        )
