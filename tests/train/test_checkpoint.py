"""What is written comes back to the byte, as many stay as were asked for, and the new one takes the place of the old.

That none is lost to a failing disk or a kill is shown in tests/faults/test_storage.py.
"""

import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

import elman.files
from elman.errors import ModelError, ResourceError
from elman.train.checkpoint import POINTS, Checkpoints
from elman.train.manifest import FILE_NAME, MANIFEST
from tests.faults.disks import FailingDisk, WatchedDisk


@pytest.fixture
def warned():
    return []


@pytest.fixture
def store(tmp_path, warned):
    return Checkpoints(tmp_path / "checkpoints", warn=warned.append)


def names(store):
    return sorted(path.name for path in store.folder.iterdir())


facts = st.dictionaries(
    st.text(),
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
)


@given(
    step=st.integers(0, 10**12),
    files=st.dictionaries(st.from_regex(FILE_NAME, fullmatch=True), st.binary(max_size=64), max_size=4),
    facts=facts,
)
def test_what_is_written_comes_back(tmp_path_factory, step, files, facts):
    store = Checkpoints(tmp_path_factory.mktemp("run") / "checkpoints")
    path = store.write(step, files, facts)
    for found in (store.newest(), store.read(path)):
        assert (found.path, found.step, found.files, found.facts) == (path, step, files, facts)
        assert list(found.files) == list(files)


def test_nothing_is_there_before_the_first(store, warned):
    assert store.newest() is None
    store.clean()
    assert not store.folder.exists()
    store.write(5, {"a": b"1"}, {})
    assert names(store) == ["step-00000005"]
    assert not warned


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_as_many_stay_as_were_asked_for(tmp_path, keep):
    store = Checkpoints(tmp_path / "checkpoints", keep=keep)
    for step in range(10):
        store.write(step, {"a": b"%d" % step}, {})
        assert names(store) == [f"step-{s:08d}" for s in range(max(0, step + 1 - keep), step + 1)]
        assert store.newest().files == {"a": b"%d" % step}


def test_none_at_all_cannot_be_asked_for(tmp_path):
    with pytest.raises(ValueError, match="keep"):
        Checkpoints(tmp_path, keep=0)


def test_a_step_that_is_written_again_is_replaced_and_never_missing(store, monkeypatch):
    store.write(1, {"a": b"one"}, {})
    for version in (b"first", b"second", b"third"):
        sound_at_each_point = []

        class Looking(WatchedDisk):
            def reach(self, point, sound_at_each_point=sound_at_each_point):
                with monkeypatch.context() as patch:
                    patch.setattr(elman.files, "disk", elman.files.Disk())
                    found = store.newest()
                    sound_at_each_point.append((found.step, found.files["a"]))

        before = store.newest()
        with monkeypatch.context() as patch:
            patch.setattr(elman.files, "disk", Looking())
            path = store.write(2, {"a": version}, {})
        assert set(sound_at_each_point) == {(before.step, before.files["a"]), (2, version)}
        assert store.newest().path == path
        assert names(store) == ["step-00000001", path.name]
    assert path.name == "step-00000002-3"


def test_later_ones_are_set_aside_when_a_run_goes_back(store, warned):
    for step in (10, 20):
        store.write(step, {"a": b"old"}, {})
    store.write(15, {"a": b"new"}, {})
    assert store.newest().files == {"a": b"new"}
    assert names(store) == [".later-step-00000020", "step-00000010", "step-00000015"]
    assert len(warned) == 1
    assert "step-00000020: of a later step" in warned[0]
    assert store.read(store.folder / ".later-step-00000020").files == {"a": b"old"}


def test_a_write_reaches_every_point_in_order(store, monkeypatch):
    for step in (1, 2):
        store.write(step, {"a": b"1"}, {})
    watched = WatchedDisk()
    monkeypatch.setattr(elman.files, "disk", watched)
    store.write(3, {"a": b"1"}, {})
    assert tuple(watched.points) == POINTS


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "../a", "/a", ".hidden", MANIFEST, "a\n", "é", "a" * 129]
)
def test_a_name_that_could_lead_elsewhere_is_no_name(store, name):
    with pytest.raises(ValueError, match="cannot be the name"):
        store.write(1, {name: b""}, {})
    assert not store.folder.exists()


@pytest.mark.parametrize("fact", [float("nan"), float("inf"), {1, 2}])
def test_facts_that_json_cannot_hold_leave_nothing_behind(store, fact):
    with pytest.raises((ValueError, TypeError)):
        store.write(1, {"a": b""}, {"fact": fact})
    assert names(store) == []


def test_an_interrupted_write_leaves_nothing_behind(store, monkeypatch):
    class Interrupted(WatchedDisk):
        def reach(self, point):
            if point == "checkpoint.file-written":
                raise KeyboardInterrupt

    store.write(1, {"a": b"1"}, {})
    monkeypatch.setattr(elman.files, "disk", Interrupted())
    with pytest.raises(KeyboardInterrupt):
        store.write(2, {"a": b"2"}, {})
    assert names(store) == ["step-00000001"]


def test_a_checkpoint_is_read_under_another_name(store, tmp_path):
    path = store.write(7, {"a": b"1"}, {})
    copy = shutil.copytree(path, tmp_path / "mine")
    assert Checkpoints.read(copy).files == {"a": b"1"}
    assert Checkpoints.read(copy).step == 7


@pytest.mark.parametrize("there", ["nothing", "a file", "an empty folder"])
def test_what_is_no_checkpoint_is_one_clear_error(tmp_path, there):
    path = tmp_path / "step-00000001"
    if there != "nothing":
        path.write_text("") if there == "a file" else path.mkdir()
    with pytest.raises(
        ModelError, match=f"step-00000001: damaged: {MANIFEST}: .*; resume from another"
    ) as caught:
        Checkpoints.read(path)
    assert caught.value.exit_code == 5


def test_two_damaged_ones_of_a_name_are_both_set_aside(store, warned):
    store.write(1, {"a": b"1"}, {})
    for _ in range(3):
        path = store.write(2, {"a": b"2"}, {})
        (path / "a").write_bytes(b"3")
        assert store.newest().step == 1
    assert names(store) == [
        *(".corrupt-step-00000002", ".corrupt-step-00000002-2", ".corrupt-step-00000002-3"),
        "step-00000001",
    ]
    assert len(warned) == 3


def test_none_of_several_damaged_ones_is_taken(store, warned):
    for step in (1, 2):
        (store.write(step, {"a": b"1"}, {}) / "a").unlink()
    assert store.newest() is None
    assert len(warned) == 2
    store.write(3, {"a": b"1"}, {})
    assert store.newest().step == 3


def test_nothing_is_removed_on_the_word_of_a_disk_that_lies(store, warned, monkeypatch):
    class Lying(WatchedDisk):
        """Takes everything and keeps something else."""

        def sync(self, file):
            super().sync(file)
            if file.name.name == "a":
                file.seek(0)
                super(type(file), file).write(b"?")

    for step in (1, 2):
        store.write(step, {"a": b"%d" % step}, {})
    with monkeypatch.context() as patch:
        patch.setattr(elman.files, "disk", Lying())
        with pytest.raises(ResourceError, match="not what was written a moment ago"):
            store.write(3, {"a": b"3"}, {})
    assert names(store) == [".corrupt-step-00000003", "step-00000001", "step-00000002"]
    assert store.newest().step == 2


@pytest.mark.parametrize("call", ["rename", "remove"])
def test_what_cannot_be_removed_costs_no_checkpoint(store, warned, monkeypatch, call):
    for step in (1, 2):
        store.write(step, {"a": b"%d" % step}, {})
    doomed = FailingDisk(13, lasting=True, where=lambda made, path: made == call and "00000001" in path.name)
    monkeypatch.setattr(elman.files, "disk", doomed)
    store.write(3, {"a": b"3"}, {})
    assert store.newest().step == 3
    assert doomed.failed
    assert "cannot remove old checkpoints" in warned[0]


def test_cleaning_leaves_what_is_whole(store, warned):
    store.write(1, {"a": b"1"}, {})
    for name in (".tmp-2-1-abcd", ".trash-step-00000000"):
        (store.folder / name).mkdir()
        (store.folder / name / "a").write_bytes(b"1")
    (store.folder / ".corrupt-step-00000009").mkdir()
    (store.folder / "notes.txt").write_text("mine")
    store.clean()
    assert names(store) == [".corrupt-step-00000009", "notes.txt", "step-00000001"]
    assert not warned


def test_what_cannot_be_cleaned_is_told_and_the_rest_goes(store, warned, monkeypatch):
    for name in (".tmp-1", ".tmp-2", ".tmp-3"):
        (store.folder / name).mkdir(parents=True)
    monkeypatch.setattr(elman.files, "disk", FailingDisk(13, where=lambda made, path: path.name == ".tmp-2"))
    store.clean()
    assert names(store) == [".tmp-2"]
    assert len(warned) == 1


def test_a_warning_is_a_python_warning_unless_somebody_listens(tmp_path):
    store = Checkpoints(tmp_path / "checkpoints")
    (store.write(1, {"a": b"1"}, {}) / "a").unlink()
    with pytest.warns(UserWarning, match="damaged checkpoint"):
        assert store.newest() is None
