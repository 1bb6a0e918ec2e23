"""Ranks agree, share and wait for one another; one that is lost is named by those that are left."""

import multiprocessing
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.distributed import HashStore

from elman.errors import ConfigError
from elman.ranks import ALONE, Ranks, join
from elman.ranks.assembly import assemble
from elman.ranks.place import VARIABLES, Place, find_place, named, refuse_differences
from elman.ranks.store import JobStore, Line
from tests import rank_programs as programs
from tests.rank_programs import Loses, LosesInStep
from tests.torchrun import free_port

AGENT = {"TORCHELASTIC_USE_AGENT_STORE": "True"}
SOUND = {"RANK": "1", "WORLD_SIZE": "3", "MASTER_ADDR": "host", "MASTER_PORT": "29500"}


# ---- one process ----------------------------------------------------------------------------------------


@given(count=st.integers(0, 1000), size=st.integers(1, 40))
def test_shares_are_all_rows_in_order_and_alike(count, size):
    rows = list(range(count))
    shares = [rows[Ranks(rank, size).share(count)] for rank in range(size)]
    assert sum(shares, []) == rows
    lengths = [len(share) for share in shares]
    assert max(lengths) - min(lengths) <= 1


def test_alone_nothing_is_done_twice_or_copied(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    value = object()
    with join() as ranks:
        assert ranks == ALONE == Ranks(0, 1)
        assert ranks.is_first
        assert ranks.agree(value) is value
        assert ranks.gather(value) == [value]
        assert ranks.first_does(lambda: value) is value
        assert ranks.after_first(lambda: value) is value
        assert list(ranks.deal(3)) == [0, 1, 2]
        ranks.barrier()
        ranks.handshake({"fact": "value"})


def test_a_job_of_one_is_alone(monkeypatch):
    for name, value in (SOUND | {"RANK": "0", "WORLD_SIZE": "1"}).items():
        monkeypatch.setenv(name, value)
    with join() as ranks:
        assert ranks is ALONE


def test_the_variables_say_where_this_process_stands():
    place = find_place(SOUND | {"LOCAL_RANK": "0", "TORCHELASTIC_USE_AGENT_STORE": "True"})
    assert (place.rank, place.size, place.host, place.port) == (1, 3, "host", 29500)
    assert (place.local_rank, place.has_store) == (0, True)
    assert find_place({}) is None
    assert find_place({"MASTER_ADDR": "head-node", "MASTER_PORT": "1"}) is None


BROKEN = {
    "half set": ({"RANK": "0"}, ["RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"]),
    "no port": ({name: SOUND[name] for name in VARIABLES[:3]}, ["MASTER_PORT"]),
    "rank of another job": (SOUND | {"RANK": "3"}, ["RANK 3", "WORLD_SIZE 3"]),
    "no number": (SOUND | {"RANK": "one"}, ["RANK 'one'"]),
    "negative": (SOUND | {"RANK": "-1"}, ["RANK '-1'"]),
    "superscript": (SOUND | {"RANK": "²"}, ["RANK '²'"]),
    "nobody": (SOUND | {"WORLD_SIZE": "0"}, ["WORLD_SIZE '0'"]),
    "no such port": (SOUND | {"MASTER_PORT": "70000"}, ["MASTER_PORT '70000'", "65535"]),
    "no device": (SOUND | {"LOCAL_RANK": "x"}, ["LOCAL_RANK 'x'"]),
}


@pytest.mark.parametrize("case", BROKEN)
def test_r04_broken_variables_are_refused(case):
    environ, parts = BROKEN[case]
    with pytest.raises(ConfigError) as caught:
        find_place(environ)
    assert caught.value.exit_code == 4
    for part in parts:
        assert part in str(caught.value)


def test_ranks_are_named_as_one_says_them():
    assert [named([0]), named([1, 2]), named([1, 2, 5])] == ["rank 0", "ranks 1 and 2", "ranks 1, 2 and 5"]


# ---- several --------------------------------------------------------------------------------------------

HEALTHY = {
    "agree": (3, programs.agree),
    "gather": (3, programs.gather),
    "first_does": (3, programs.first_does),
    "after_first": (3, programs.after_first),
    "deal": (2, programs.deal),
    "ddp": (2, programs.ddp),
}

LONG = {"works long": programs.works_long}
if sys.platform == "linux":
    LONG["computes long in a thread"] = programs.computes_long_in_a_thread
    LONG["waits long for a disk"] = programs.waits_long_for_a_disk

COME_TO = "did not come to where the others waited for 3 s"
IDLE = "did nothing for 3 s while the others waited"

LOST = {
    "killed in a collective": (
        3,
        Loses(2, programs.killed, programs.in_collective),
        "rank 2 no longer answered",
    ),
    "killed before a gradient": (
        2,
        Loses(1, programs.killed, programs.in_agree),
        "rank 1 no longer answered",
    ),
    "stopped in a collective": (
        2,
        Loses(1, programs.stopped, programs.in_collective),
        "rank 1 no longer answered",
    ),
    "stuck in a collective": (3, Loses(1, programs.stuck, programs.in_collective), f"rank 1 {COME_TO}"),
    "first stuck": (2, Loses(0, programs.stuck, programs.in_agree), f"rank 0 {COME_TO}"),
    "spinning in a collective": (2, Loses(1, programs.spinning, programs.in_collective), f"rank 1 {COME_TO}"),
    "killed before a meeting": (2, Loses(1, programs.killed, programs.in_meeting), f"rank 1 {IDLE}"),
    "stuck before a meeting": (2, Loses(1, programs.stuck, programs.in_meeting), f"rank 1 {IDLE}"),
    "first stuck at work": (2, Loses(0, programs.stuck, programs.in_first_does), f"rank 0 {IDLE}"),
    "stopped amid steps": (2, LosesInStep(1, programs.stopped), "rank 1 no longer answered"),
    "killed amid steps": (2, LosesInStep(1, programs.killed), "rank 1 no longer answered"),
    "stuck amid steps": (2, LosesInStep(1, programs.stuck), f"rank 1 {COME_TO}"),
    "stopped with a lock": (2, Loses(1, programs.stopped, programs.in_look), f"rank 1 {IDLE}"),
    "broken with a lock": (
        2,
        Loses(1, programs.broken, programs.in_look),
        "rank 1 has ended: ValueError: a slip",
    ),
    "killed, and the other told to stop": (
        2,
        Loses(1, programs.killed, programs.all_stopped),
        "rank 1 no longer answered",
    ),
    "keeper killed": (2, Loses(0, programs.killed, programs.in_collective), "rank 0, which keeps the store"),
    "terminated": (2, Loses(1, programs.terminated, programs.in_collective), "rank 1 was terminated"),
    "foreign error": (
        2,
        Loses(1, programs.broken, programs.in_meeting),
        "rank 1 has ended: ValueError: a slip",
    ),
    "own error": (2, Loses(1, programs.refusing, programs.in_collective), "rank 1 has ended: not with me"),
}
"""Size, program, and what the ranks that are left say."""

TOGETHER = {
    "first fails": (3, programs.first_fails, "MissingExtraError 3: this needs the package 'that'", 3),
    "ranks differ": (
        3,
        programs.differ,
        "ConfigError 4: the ranks differ in the version: 2 on ranks 0 and 2, 1 on rank 1",
        4,
    ),
    "all diverge": (3, programs.all_diverge, "DivergedError 7: not a number", 7),
    "all are stopped": (3, programs.all_stopped, "StoppedError 143: stopped by SIGTERM", 143),
    "first is stopped": (3, programs.first_is_stopped, "StoppedError 143: stopped by SIGTERM", 143),
    "first comes late": (3, programs.first_comes_late, f"RankError 1: rank 0 {COME_TO}", 1),
}
"""Size, program, what one rank says, and the exit code of the others."""


APART = {
    "one is missing": ([{"WORLD_SIZE": "3"}] * 2, "rank 2 of 3 did not start within 1 s"),
    "one is there twice": ([{}, {}, {"RANK": "1"}], "rank 1 was started twice"),
    "nobody is the first": ([{"RANK": "1"}] * 2, "no store of a job within 1 s"),
    "two are the first": ([{"RANK": "0"}] * 2, "Address already in use"),
    "other commands": (
        [{"ARGV": "eval model"}, {"ARGV": "train"}, {"ARGV": "eval model"}],
        "the ranks differ in the command: eval model on ranks 0 and 2, train on rank 1",
    ),
    "no such host": ([{"MASTER_ADDR": "no-such-host.invalid"}] * 2, "no-such-host.invalid:"),
}
"""What ranks of one job are told, and what they say."""

TERMINATED = "terminated alone"
"""A rank that waits for another one."""


class Outcomes:
    """Jobs by name, each of which runs while the next one starts, as most of them only wait."""

    def __init__(self, folder: Path) -> None:
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["pytest", "tests.rank_programs"])  # torch is imported once
        self.folder, self.kept = folder, []
        self.jobs: dict[str, list[multiprocessing.process.BaseProcess]] = {}
        for name, (size, program) in HEALTHY.items():
            self.start(name, program, [{}] * size, 60.0)
        for name, program in LONG.items():
            self.start(name, program, [{}] * 2, 2.0)
        for name, (size, program, *_) in (LOST | TOGETHER).items():
            self.start(name, program, [{}] * size, 3.0)
        for name, (places, _) in APART.items():
            self.start(name, programs.in_meeting, places, 1.0)
        self.start(TERMINATED, programs.in_meeting, [{"TERMINATED": "yes", "WORLD_SIZE": "2"}], 30.0)

    def start(
        self, name: str, program: programs.Program, places: list[dict[str, str]], timeout: float
    ) -> None:
        """Start a rank for each of `places`, which says what it is told otherwise than torchrun would."""
        port, size = str(free_port()), len(places)
        joined = None if name in APART or name == TERMINATED else self.context.Barrier(size + 1)
        self.kept.append(joined)  # its memory would be that of the next one
        self.jobs[name] = []
        for rank, other in enumerate(places):
            place = {
                "RANK": str(rank),
                "WORLD_SIZE": str(size),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
            }
            path = self.folder / f"{name}.{rank}"
            self.jobs[name].append(
                self.context.Process(
                    target=programs.run, args=(program, place | other, timeout, path, joined)
                )
            )
            self.jobs[name][-1].start()
        if joined is not None:
            joined.wait(60)

    def of(self, name: str) -> list[str]:
        """What came of each rank; nothing of one that was killed."""
        lost = LOST[name][1].rank if name in LOST else None
        for rank, process in enumerate(self.jobs[name]):
            if rank != lost:
                process.join(60)
                assert not process.is_alive(), f"rank {rank} waits for ever"
        paths = [self.folder / f"{name}.{rank}" for rank in range(len(self.jobs[name]))]
        return [path.read_text() if path.exists() else "" for path in paths]

    def said(self, name: str, rank: int) -> str:
        """What a rank wrote on stderr."""
        return (self.folder / f"{name}.{rank}.err").read_text()


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> Iterator[Outcomes]:
    outcomes = Outcomes(tmp_path_factory.mktemp("jobs"))
    yield outcomes
    for process in sum(outcomes.jobs.values(), []):
        process.kill()
        process.join()


def result(outcomes: Outcomes, name: str):
    """What all ranks of a healthy job return, which is the same."""
    first, *others = outcomes.of(name)
    assert others == [first] * (len(others)), outcomes.said(name, 0)
    return eval(first, {"nan": float("nan"), "inf": float("inf")})


def test_all_agree_on_the_first_ones_value(outcomes):
    assert result(outcomes, "agree") == [True] * 9


def test_values_of_all_are_gathered_to_the_last_bit(outcomes):
    values, arrays = result(outcomes, "gather")
    assert values == [{"rank": rank, "size": 3} for rank in range(3)]
    assert arrays == [
        [],
        [(0.1).hex(), "-0x0.0p+0"],
        [(0.1).hex(), "-0x0.0p+0", "nan", "inf", (5e-324).hex()][:4],
    ]


def test_the_first_does_it_and_all_have_it(outcomes):
    assert result(outcomes, "first_does") == [0, programs.link.LONGEST_KEPT + 1, None]


def test_the_others_come_after_the_first(outcomes):
    times = result(outcomes, "after_first")
    assert all(begin > times[0][1] for begin, _ in times[1:])


def test_every_number_is_dealt_once_and_in_order(outcomes):
    dealt = result(outcomes, "deal")
    assert Counter(sum(dealt, [])) == Counter(range(100))
    assert all(a < b for numbers in dealt for a, b in pairwise(numbers))


def test_gradients_are_averaged_over_the_group(outcomes):
    assert result(outcomes, "ddp") == [0.5, 0.5]


@pytest.mark.parametrize("name", LONG)
def test_the_others_wait_for_as_long_as_the_first_works(outcomes, name):
    assert result(outcomes, name) == 3.0


@pytest.mark.parametrize("name", LOST)
def test_r01_a_lost_rank_is_named(outcomes, name):
    _, program, words = LOST[name]
    left = [outcome for rank, outcome in enumerate(outcomes.of(name)) if rank != program.rank]
    told = [outcome for outcome in left if outcome != "exit 1"]
    assert told
    assert all(one.startswith(f"RankError 1: {words}") for one in told)
    if "keep" not in name:  # without the store, nobody can say who speaks
        assert len(told) == 1


def test_r02_a_stuck_rank_shows_where_it_is(outcomes):
    outcomes.of("stuck in a collective")
    shown = outcomes.said("stuck in a collective", 1)
    assert "rank 1 does not answer; it is here:" in shown
    assert "in stuck" in shown
    assert "does not answer" not in outcomes.said("stuck in a collective", 0)


@pytest.mark.parametrize("name", TOGETHER)
def test_an_error_of_all_is_raised_by_one(outcomes, name):
    _, _, words, code = TOGETHER[name]
    ended = sorted(outcomes.of(name))
    assert ended[0].startswith(words)
    assert ended[1:] == [f"exit {code}"] * 2


@pytest.mark.parametrize("name", APART)
def test_r04_ranks_that_cannot_meet_say_why(outcomes, name):
    words = APART[name][1]
    # a twin that is left over may find the store closed, as the other has signed off for both
    late = "RankError 1: rank 0, which keeps the store of the job, has ended" if "twice" in name else "exit 4"
    told = [outcome for outcome in outcomes.of(name) if outcome != "exit 4" and not outcome.startswith(late)]
    assert all(outcome.startswith("ConfigError 4: ") for outcome in told), told
    assert any(words in outcome for outcome in told), told
    assert all("Traceback" not in outcomes.said(name, rank) for rank in range(len(outcomes.jobs[name])))


def test_a_rank_that_waits_for_another_ends_when_it_is_told(outcomes):
    assert outcomes.of(TERMINATED) == ["exit 143"]


def test_ranks_that_are_started_again_find_one_another_in_the_same_store():
    """Whichever comes first, and though torchrun has kept what the ones before them wrote."""
    places = [find_place(SOUND | {"RANK": str(rank), "WORLD_SIZE": "2", **AGENT}) for rank in (0, 1)]
    store = JobStore(Line(HashStore(), "torchrun"))
    rooms: list[list[JobStore]] = []

    def come(place: Place) -> JobStore:
        entered: list[JobStore] = []
        rooms.append(entered)
        assemble(store, place, {"fact": "same"}, 30.0, entered.append)
        return entered[-1]

    with ThreadPoolExecutor() as pool:
        for order in ([0, 1], [1, 0], [0, 1]):
            rooms.clear()
            first = pool.submit(come, places[order[0]])
            if order[0]:  # it comes to the room of the ones before
                while not rooms or not rooms[0]:
                    pass
                assert not first.done()
            second = pool.submit(come, places[order[1]])
            both = [first.result(), second.result()]
            assert both[0].count("here") == 1
            assert both[1].count("here") == 2


def test_ranks_with_other_facts_are_named():
    same = {"a": "1", "b": "2"}
    refuse_differences([same, same])
    with pytest.raises(ConfigError, match="the ranks differ in b: 2 on ranks 0 and 2, none on rank 1; start"):
        refuse_differences([same, {"a": "1"}, same])
