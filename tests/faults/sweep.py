"""Cases of a parametrised test that only --full goes through."""

from collections.abc import Iterable
from typing import Any

import pytest

LATER = pytest.mark.skipif("not config.getoption('full')", reason="in the full sweep")


def cases(name: str, values: Iterable[Any], *quick: object, **how: Any) -> pytest.MarkDecorator:
    """Parametrize with all `values`, which without --full are only those in `quick`; `how` is for parametrize."""
    marked = [value if value in quick else pytest.param(value, marks=LATER) for value in values]
    return pytest.mark.parametrize(name, marked, **how)
