"""How the ranks of a job find one another in its store, before anything else.

    room               the name of the room of this start of the job, which the first rank has made up
    ROOM/started/R     how often rank R has come there
    ROOM/join/R        who rank R is: a name of its own, and the facts that must be the same on all
    ROOM/roster        what all have said of themselves, in their order, written by the first rank when all have come

torchrun keeps the store when it starts a job again, and each machine counts the starts for itself. So a rank may come
to the room of an earlier start first; the roster there is without it, and it looks for the next one.
"""

import json
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from elman.errors import ConfigError
from elman.ranks.place import Place, named, refuse_differences
from elman.ranks.store import JobStore


def assemble(
    store: JobStore,
    place: Place,
    facts: Mapping[str, str],
    timeout: float,
    enter: Callable[[JobStore], None],
) -> None:
    """Wait until all ranks are in one room.

    Args:
        store: Of the job.
        place: Of this rank.
        facts: What must be the same on all ranks, by its name.
        timeout: Seconds in which all must have come.
        enter: Given the keys of every room that this rank comes to, the last of which is the one.

    Raises:
        ConfigError: A rank is missing or there twice, or the facts differ.
        RankError: The store is gone.
    """
    me = {"name": uuid.uuid4().hex, "facts": dict(facts)}
    if place.rank == 0:
        store.write("room", uuid.uuid4().hex)
    name, room = "", None
    deadline = time.monotonic() + timeout
    while True:
        if store.has("room") and (latest := store.read("room")) != name:
            name, room = latest, store.within(latest)
            enter(room)
            times = room.count(f"started/{place.rank}")
            if times > 1 and not place.has_store:  # in a store that is kept, the room may be an old one
                raise ConfigError(
                    f"rank {place.rank} was started twice; each process needs a RANK of its own"
                )
            room.write(f"join/{place.rank}", json.dumps(me))
        if room is not None and me in (roster := _roster(room, place)):
            refuse_differences([each["facts"] for each in roster])
            return
        if time.monotonic() > deadline:
            raise ConfigError(
                f"{named(_missing(room, place))} of {place.size} did not start within {timeout:.0f} s;"
                " WORLD_SIZE must be the number of processes"
            )
        time.sleep(0.01)


def _roster(room: JobStore, place: Place) -> list[dict[str, Any]]:
    """Who is in; nobody as long as not all are."""
    if room.has("roster"):
        roster: list[dict[str, Any]] = json.loads(room.read("roster"))
        return roster
    if place.rank > 0 or room.without("join", place.others):
        return []
    roster = [json.loads(room.read(f"join/{rank}")) for rank in range(place.size)]
    room.write("roster", json.dumps(roster))
    return roster


def _missing(room: JobStore | None, place: Place) -> list[int]:
    if room is None or room.has("roster"):  # none, or that of an earlier start
        return [0]
    return room.without("join", place.others) or [0]
