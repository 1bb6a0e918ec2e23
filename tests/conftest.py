"""What every test starts from: a cache of its own, so that none reads or writes that of the user."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A busy machine is no fault of the code: properties are not judged by the time they take.
settings.register_profile("elman", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("elman")


def pytest_addoption(parser):
    parser.addoption(
        "--full", action="store_true", help="every case of the fault sweeps (minutes), not a sample"
    )
    parser.addoption("--fault-table", type=Path, metavar="FILE", help="write what the fault tests found")


@pytest.fixture(autouse=True, scope="session")
def no_cache_of_the_user(tmp_path_factory):
    """For fixtures that outlive a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ELMAN_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """An empty cache folder."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("ELMAN_CACHE", str(folder))
    return folder
