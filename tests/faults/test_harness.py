"""The harness does what it says: without it, every test beside it could pass on nothing."""

import errno
import re
import signal
from functools import partial

import pytest

import elman.files
from elman.files import Disk
from tests.faults.catalogue import FAULTS, GROUPS
from tests.faults.child import HUNG, send
from tests.faults.cuts import RecordingDisk
from tests.faults.damage import damages
from tests.faults.disks import FailingDisk, KillingDisk, WatchedDisk
from tests.faults.effort import effort
from tests.faults.table import FaultTable, fault_of


def use_everything(disk, folder):
    """Each method once; the calls that were made of it."""
    disk.make_folder(folder / "new")
    with disk.open(folder / "new" / "file", "wb") as file:
        file.write(b"12345678")
        disk.lock(file)
        disk.sync(file)
    disk.sync_folder(folder / "new")
    disk.rename(folder / "new" / "file", folder / "file")
    assert disk.read(folder / "file") == b"12345678"
    assert sorted(disk.names(folder)) == ["file", "new"]
    assert disk.free(folder) > 0
    disk.reach("point")
    disk.remove(folder / "new")


def test_every_call_is_seen(tmp_path):
    watched = WatchedDisk()
    use_everything(watched, tmp_path)
    methods = {name for name in vars(Disk) if not name.startswith("_")}
    assert {call for call, _ in watched.calls} == methods - {"reach"} | {"write"}
    assert watched.points == ["point"]


def test_the_nth_call_fails_and_a_write_half_way(tmp_path):
    for call in range(1, 12):
        folder = tmp_path / str(call)
        folder.mkdir()
        failing = FailingDisk(errno.ENOSPC, call=call)
        with pytest.raises(OSError, match="No space left") as caught:
            use_everything(failing, folder)
        assert caught.value.errno == errno.ENOSPC
        assert len(failing.calls) == call
        assert failing.failed == [failing.calls[-1]]
        if failing.failed[0][0] == "write":
            assert (folder / "new" / "file").read_bytes() == b"1234"
    (tmp_path / "whole").mkdir()
    use_everything(FailingDisk(errno.ENOSPC, call=12), tmp_path / "whole")


def test_a_lasting_failure_lasts(tmp_path):
    failing = FailingDisk(errno.EIO, call=2, lasting=True)
    failing.names(tmp_path)
    for _ in range(3):
        with pytest.raises(OSError, match="Input/output"):
            failing.names(tmp_path)


def test_a_signal_comes_at_the_point_and_at_the_call(tmp_path):
    heard = []
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append(len(disk.points)))
    try:
        disk = KillingDisk("here", time=2, number=signal.SIGTERM)
        for point in ("here", "there", "here", "here"):
            disk.reach(point)
        assert heard == [3]
        disk = KillingDisk(time=2, number=signal.SIGTERM)
        disk.names(tmp_path)  # changes nothing, and does not count
        for name in ("a", "b", "c"):
            disk.make_folder(tmp_path / name)
        assert len(heard) == 2
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_child_that_hangs_is_not_taken_for_one_that_was_killed(nursery):
    arguments = ["--version"]
    assert nursery.run(arguments).code == 0
    assert nursery.run(arguments, fault=partial(send, signal.SIGKILL)).code == -signal.SIGKILL
    assert nursery.run(arguments, fault=signal.pause, kill_after=0.01).code == -signal.SIGKILL
    assert nursery.run(arguments, fault=signal.pause, deadline=0.01).code == HUNG


def outcomes(tmp_path, work):
    """The trees that a power cut could leave after the last call of `work`."""
    (tmp_path / "disk").mkdir()
    recording = RecordingDisk(tmp_path / "disk")
    work(recording, tmp_path / "disk")
    last = recording.states[-1][0].partition(";")[0]
    found = []
    for number, (told, build) in enumerate(recording.states):
        if told.startswith(last):
            build(tmp_path / str(number))
            files = (path for path in (tmp_path / str(number)).rglob("*") if path.is_file())
            found.append({path.name: path.read_bytes() for path in files})
    return found


def written(disk, folder, *, sync, sync_folder):
    with disk.open(folder / "file", "wb") as file:
        file.write(b"12345678")
        if sync:
            disk.sync(file)
    if sync_folder:
        disk.sync_folder(folder)


def test_a_power_cut_spares_only_what_was_synced(tmp_path):
    for sync, sync_folder, expected in (
        (True, True, [{"file": b"12345678"}]),
        (True, False, [{"file": b"12345678"}, {}]),
        (False, True, [{"file": content} for content in (b"12345678", b"", b"1234", bytes(8))]),
    ):
        case = tmp_path / f"{sync}{sync_folder}"
        case.mkdir()
        found = outcomes(
            case, lambda disk, at, s=sync, f=sync_folder: written(disk, at, sync=s, sync_folder=f)
        )
        assert all(tree in expected for tree in found)
        assert all(tree in found for tree in expected)


def test_damage_changes_what_it_spoils_and_no_two_are_alike(tmp_path):
    (tmp_path / "sub").mkdir()
    before = {"a": b"0123456789" * 4, "sub/b": bytes(8), "empty": b""}
    for name, content in before.items():
        (tmp_path / name).write_bytes(content)
    every = list(damages(tmp_path, flips=20))
    assert {damage.file for damage in every} == set(before)
    assert len({str(damage) for damage in every}) == len(every) > 60
    for damage in every:
        damage(tmp_path)
        path = tmp_path / damage.file
        assert not path.exists() or path.read_bytes() != before[damage.file]
        path.write_bytes(before[damage.file])
    assert list(map(str, damages(tmp_path, flips=20))) == list(map(str, every))


def test_the_catalogue_is_whole():
    for letter, last in {"T": 28, "S": 14, "D": 23, "E": 10, "R": 7}.items():
        assert [f"{letter}{number:02d}" in FAULTS for number in range(last + 2)] == [
            False,
            *[True] * last,
            False,
        ]
    assert {fault[0] for fault in FAULTS} == set(GROUPS)
    assert all(what and promise for what, promise in FAULTS.values())


def test_the_table_says_what_was_run():
    assert fault_of("test_s05_a_file_that_was_cut") == "S05"
    assert fault_of("test_the_table_says_what_was_run") is None
    table = FaultTable()
    table.add("tests/faults/test_a.py::test_s05_it_was_cut[one|two]", "passed", 7)
    table.add("tests/faults/test_a.py::test_s05_it_was_cut[three]", "passed")
    table.add("tests/faults/test_b.py::TestX::test_s06_flipped", "passed", 3)
    table.add("tests/faults/test_b.py::test_s06_flipped", "failed")
    table.add("tests/faults/test_b.py::test_s07_none", "skipped")
    table.add("tests/faults/test_b.py::test_the_harness", "failed")
    page = table.render()
    rows = dict(re.findall(r"^\| (\w\d\d) \|.*?\|[^|]*\| ([^|]*\| [^|]*) \|$", page, re.MULTILINE))
    assert set(rows) == set(FAULTS)
    assert rows["S05"] == "`test_a.py`: it was cut | passed (8)"
    assert rows["S06"] == "`test_b.py`: flipped | **failed** (1 of 4)"
    assert rows["S07"] == "`test_b.py`: none | not run"
    assert rows["S08"] == "none | not run"


def look_at_each(lines):
    return [line.count("a") for line in lines]


def look_again_at_all(lines):
    seen, found = "", []
    for line in lines:
        seen += line
        found.append(seen.count("a"))
    return found


def look_at_every_pair(lines):
    return [max(line, other) for line in lines for other in lines]


@pytest.mark.parametrize(
    ("work", "factor"), [(look_at_each, 4), (look_again_at_all, 16), (look_at_every_pair, 16)]
)
def test_effort_tells_what_grows_with_the_square(work, factor):
    few, many = ([f"line {number % 10}\n" for number in range(size)] for size in (200, 800))
    assert effort(lambda: work(many)) == pytest.approx(factor * effort(lambda: work(few)), rel=0.1)


def test_the_disk_in_use_is_the_real_one():
    """A test that forgot to put it back would spoil all that come after it."""
    assert type(elman.files.disk) is Disk
