"""Checkpoints come by the clock and cost a hundredth of it; a disk that fails is given time, but not for ever."""

import tempfile
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elman.errors import DivergedError, InputError, ResourceError
from elman.train.checkpoint import Checkpoints
from elman.train.saver import MOST_SHARE, PATIENCE, Saver

FULL = ResourceError("the disk is full; free some space")


class World:
    """A clock, a disk that takes `cost` seconds for a checkpoint and fails when told, and a saver."""

    def __init__(self, seconds: float, folder: Path = Path("run/checkpoints"), checkpoints=None) -> None:
        self.now, self.cost, self.failure = 1000.0, 0.0, None
        self.folder = folder
        self.written: list[tuple[int, dict[str, bytes]]] = []
        self.said: list[str] = []
        self.described: list[Path] = []
        self.step = 0
        self.saver = Saver(
            checkpoints or self,
            lambda: (self.step, {"model": b"%d" % self.step}),
            {"torch": "2"},
            seconds,
            ours=lambda: True,
            describe=self.described.append,
            warn=self.said.append,
            clock=lambda: self.now,
        )

    def write(self, step, files, facts):
        assert facts == {"torch": "2"}
        self.now += self.cost
        if self.failure:
            raise self.failure
        self.written.append((step, files))

    def wait(self) -> float:
        """Seconds from now until it is due, to the nearest eighth."""
        start = self.now
        while not self.saver.due:
            self.now += 0.125
        return self.now - start


@pytest.mark.parametrize("seconds", [0, 0.5, 30])
def test_it_is_due_by_the_clock(seconds):
    world = World(seconds)
    for step in (1, 2, 3):
        assert world.wait() == seconds
        assert world.saver.due  # until it is done
        world.step = step
        world.saver.save()
    assert world.written == [(step, {"model": b"%d" % step}) for step in (1, 2, 3)]
    assert world.said == []


def test_what_is_saved_out_of_turn_counts():
    world = World(30)
    world.now += 29
    world.saver.save()
    assert world.wait() == 30


@given(
    seconds=st.sampled_from([0.0, 1.0, 30.0, 600.0]),
    costs=st.lists(st.integers(0, 20), min_size=1, max_size=8),
)
def test_saving_takes_a_hundredth_of_the_time_at_most(seconds, costs):
    world = World(seconds)
    for cost in costs:
        world.cost = cost
        world.saver.save()
        waited = world.wait()
        assert cost <= MOST_SHARE * waited
        assert waited == max(seconds, 100 * cost)  # and no rarer than that


def test_a_failure_is_said_and_tried_again_after_half_the_time():
    world = World(30)
    world.step, world.failure = 12_345, FULL
    world.saver.save()
    assert world.said == [f"no checkpoint at step 12,345: {FULL}; training goes on and tries again"]
    assert world.wait() == 15
    world.failure = None
    world.saver.save()
    assert world.wait() == 30
    assert [step for step, _ in world.written] == [12_345]


@given(fails=st.lists(st.booleans(), max_size=20))
def test_the_third_failure_in_a_row_ends_it_and_a_success_begins_anew(fails):
    world = World(30)
    text = "".join("x" if failed else "." for failed in fails)
    ends = text.find("x" * PATIENCE) + PATIENCE - 1 if "x" * PATIENCE in text else None
    for number, failed in enumerate(fails):
        world.failure = FULL if failed else None
        if number == ends:
            with pytest.raises(ResourceError, match="disk is full.*the third attempt.* are kept") as caught:
                world.saver.save()
            assert "\n" not in str(caught.value)
            return
        world.saver.save()
        assert world.wait() == (15 if failed else 30)
    assert ends is None
    assert len(world.said) == sum(fails)
    assert len(world.written) == len(fails) - sum(fails)


def test_what_is_no_failure_of_the_disk_ends_it_at_once():
    def take():
        raise DivergedError("step 3: w is not finite")

    world = World(30)
    world.saver._take = take
    with pytest.raises(DivergedError):
        world.saver.save()
    assert world.said == []


# ---- the folder is gone -----------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A run, and where temporary files go."""
    for name in ("run", "temporary"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return tmp_path


def saving_in(place) -> World:
    world = World(30, checkpoints=Checkpoints(place / "run" / "checkpoints"))
    world.step = 5
    world.saver.save()
    return world


def test_a_training_whose_folder_is_gone_is_kept_in_another(place):
    world = saving_in(place)
    (place / "run").rename(place / "elsewhere")
    world.step = 6
    with pytest.raises(InputError, match="run: was moved or removed.*: elman train --resume ") as caught:
        world.saver.save()
    kept = Path(str(caught.value).rpartition(" ")[2])
    assert kept.parent == place / "temporary"
    assert world.described == [kept]
    newest = Checkpoints(kept / "checkpoints").newest()
    assert (newest.step, newest.files, newest.facts) == (6, {"model": b"6"}, {"torch": "2"})
    assert not (place / "run").exists()  # it is not made again behind the back of who moved it
    assert [path.name for path in (place / "elsewhere" / "checkpoints").iterdir()] == ["step-00000005"]


@pytest.mark.parametrize("missing", ["temporary", "description"])
def test_where_nothing_can_be_kept_that_is_said(place, missing):
    world = saving_in(place)
    (place / "run").rename(place / "elsewhere")
    if missing == "temporary":
        (place / "temporary").rmdir()
    else:

        def describe(folder):
            raise OSError(28, "No space left on device")

        world.saver._describe = describe
    with pytest.raises(ResourceError, match="run: is gone, and .*nothing could be kept") as caught:
        world.saver.save()
    assert "\n" not in str(caught.value)


def test_steps_and_checkpoints_stay_in_order(place):
    world = saving_in(place)
    for step in range(6, 10):
        world.step = step
        world.saver.save()
    names = sorted(path.name for path in (place / "run" / "checkpoints").iterdir())
    assert names == ["step-00000008", "step-00000009"]
    assert all(one < other for one, other in pairwise(names))
