"""A quick part of every sweep, all of it with --full, what many tests need, and the table that --fault-table writes."""

from pathlib import Path

import pytest

from tests.command_line import elman as elman
from tests.command_line import plain_surroundings as plain_surroundings
from tests.faults.catalogue import FAULTS
from tests.faults.child import Nursery
from tests.faults.table import FaultTable, fault_of

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def full(pytestconfig) -> bool:
    """Whether a sweep goes through all of its cases, or through a sample that takes a moment."""
    return pytestconfig.getoption("--full")


@pytest.fixture
def count(record_property):
    """Tell the table how many cases a test went through; a test that does not is one."""
    return lambda cases: record_property("cases", cases)


@pytest.fixture(scope="session")
def nursery(tmp_path_factory):
    """Where the children of many tests come from."""
    with Nursery(tmp_path_factory.mktemp("nursery")) as children:
        yield children


def pytest_collection_modifyitems(items):
    """A misspelt id would never show up in the table."""
    for item in items:
        fault = fault_of(item.name) if item.path.is_relative_to(HERE) else None
        if fault is not None and fault not in FAULTS:
            raise pytest.UsageError(f"{item.nodeid}: {fault} is not in tests/faults/catalogue.py")


def pytest_configure(config):
    hears_of_all_tests = not hasattr(config, "workerinput")
    if config.getoption("--fault-table") and hears_of_all_tests:
        config.pluginmanager.register(_Writer(config.getoption("--fault-table")))


class _Writer:
    """Listens to the reports of pytest."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._table = FaultTable()

    def pytest_runtest_logreport(self, report):
        told = report.when == "call" or report.outcome != "passed"  # a failure around a test is one of it
        if told and (HERE / Path(report.nodeid.partition("::")[0]).name).exists():
            self._table.add(report.nodeid, report.outcome, dict(report.user_properties).get("cases", 1))

    def pytest_sessionfinish(self):
        self._path.write_text(self._table.render(), encoding="utf-8")
