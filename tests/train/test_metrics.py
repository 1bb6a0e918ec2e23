"""metrics.jsonl survives kills and full disks."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elman.errors import InputError
from elman.train.metrics import NOWHERE, MetricsLog, read_metrics


def test_records_come_back_in_order(tmp_path):
    records = [{"step": i, "loss": i / 7, "note": "é\n\ud800"} for i in range(5)]
    with MetricsLog(tmp_path / "metrics.jsonl") as log:
        for i, record in enumerate(records):
            log.write(record)
            assert read_metrics(tmp_path / "metrics.jsonl") == records[: i + 1]  # on disk at once


@given(st.floats())
def test_every_number_is_strict_json(tmp_path_factory, value):
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    path = tmp_path_factory.mktemp("log") / "metrics.jsonl"
    with MetricsLog(path) as log:
        log.write({"loss": value, "nested": {"losses": [value]}})
    found = json.loads(path.read_text(), parse_constant=refuse)
    expected = value if math.isfinite(value) else None
    assert found == {"loss": expected, "nested": {"losses": [expected]}}


@pytest.mark.parametrize("whole", [0, 1, 3, 3000])
@pytest.mark.parametrize("torn", [b"", b"{", b'{"step": 9', b"x" * 70_000])
def test_a_torn_last_line_is_read_over_and_dropped(tmp_path, whole, torn):
    path = tmp_path / "metrics.jsonl"
    records = [{"step": step, "text": "some more of it"} for step in range(whole)]
    path.write_bytes(b"".join(json.dumps(record).encode() + b"\n" for record in records) + torn)
    assert read_metrics(path) == records
    with MetricsLog(path) as log:
        log.write({"step": -1})
    assert read_metrics(path) == [*records, {"step": -1}]


@pytest.mark.parametrize("line", ["{", "[1]", "\x00\x00", '"step"'])
def test_a_damaged_whole_line_is_named(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n' + line + '\n{"step": 3}\n')
    with pytest.raises(InputError, match=r"metrics\.jsonl, line 2: not"):
        read_metrics(path)


def test_files_that_cannot_be_opened_are_input_errors(tmp_path):
    with pytest.raises(InputError, match="cannot write metrics"):
        MetricsLog(tmp_path / "missing" / "metrics.jsonl")
    with pytest.raises(InputError, match="cannot read metrics"):
        read_metrics(tmp_path / "metrics.jsonl")


def test_a_full_disk_warns_once_and_leaves_whole_lines(tmp_path):
    resource = pytest.importorskip("resource")  # a limit on the size of files stands in for the disk
    path, told = tmp_path / "metrics.jsonl", []
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with MetricsLog(path, warn=told.append) as log:
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
            for step in range(20):
                log.write({"step": step})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        log.write({"step": 20})
    steps = [record["step"] for record in read_metrics(path)]
    assert 0 < len(steps) < 20
    assert steps == [*range(len(steps) - 1), 20]  # nothing torn in between, and on again when there is room
    assert len(told) == 1
    assert "metrics.jsonl" in told[0]


@given(before=st.integers(0, 20), after=st.integers(0, 20), torn=st.booleans())
def test_a_log_goes_back_to_where_a_checkpoint_was(tmp_path_factory, before, after, torn):
    path = tmp_path_factory.mktemp("log") / "metrics.jsonl"
    with MetricsLog(path) as log:
        for step in range(before):
            log.write({"step": step})
        kept = json.loads(json.dumps(log.state_dict()))
        for step in range(after):
            log.write({"step": 100 + step, "of a future": "that is left"})
    if torn:  # as a process that is killed leaves it
        with path.open("ab") as file:
            file.write(b'{"step": 9')
    with MetricsLog(path) as log:
        log.load_state_dict(kept)
        assert log.state_dict() == kept
        log.write({"step": before})
    assert [record["step"] for record in read_metrics(path)] == list(range(before + 1))


def test_a_log_that_is_shorter_than_it_was_stays_as_it_is(tmp_path):
    with MetricsLog(tmp_path / "metrics.jsonl") as log:
        log.write({"step": 1})
        log.load_state_dict({"bytes": 10_000})  # a rescued run begins without one
        log.write({"step": 2})
    assert [record["step"] for record in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2]


def test_nowhere_takes_everything_and_keeps_nothing():
    with MetricsLog(NOWHERE, warn=pytest.fail) as log:
        log.write({"step": 1})
        assert log.state_dict() == {"bytes": 0}
        log.load_state_dict({"bytes": 0})
        log.load_state_dict({"bytes": 5000})  # of the first rank, which has records
        log.write({"step": 2})
    assert NOWHERE.read_bytes() == b""
