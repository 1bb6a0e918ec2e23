"""A process that waits for a piece of work looks at who may hold it."""

import pytest

from elman.data import halfdone
from elman.data.halfdone import half_done
from elman.errors import RankError


@pytest.fixture
def work(tmp_path):
    with half_done(tmp_path / "prepared" / "text") as work:
        if not work.shared:
            pytest.skip("no flock here")
        yield work


def test_who_waits_for_the_lost_gives_up(work, monkeypatch):
    monkeypatch.setattr(halfdone, "PAUSE_SECONDS", 0.0)
    looks = []

    def look():
        looks.append(1)
        if len(looks) == 3:
            raise RankError("lost")

    with work.take("piece"):
        told = []
        with pytest.raises(RankError, match="lost"), work.wait_for("piece", lambda: told.append(1), look):
            pytest.fail("held twice")
        assert told == [1]
    with work.wait_for("piece", lambda: pytest.fail("nobody holds it"), lambda: pytest.fail("no wait")):
        assert work.take("piece") is None


def test_the_one_who_waits_goes_on_when_it_is_free(work, monkeypatch):
    monkeypatch.setattr(halfdone, "PAUSE_SECONDS", 0.0)
    held = work.take("piece")
    with work.wait_for("piece", lambda: None, held.close):
        assert work.take("piece") is None
