"""The limit of a piece of work, and what it is made of."""

import pytest

from benchmarks.limits import Limits, measure_limits


def test_products_and_traffic_follow_each_other():
    limits = Limits(flops={"float32": 100.0, "bfloat16": 400.0}, bytes_per_second=10.0)
    assert limits.seconds("float32", 200, 30) == 5.0
    assert limits.seconds("bfloat16", 200) == 0.5
    assert limits.seconds("float32", 0, 5) == 0.5


def test_this_machine_has_limits():
    limits = measure_limits(0.01, small=True)
    assert limits.flops.keys() == {"float32", "bfloat16"}
    assert all(rate > 1e6 for rate in (*limits.flops.values(), limits.bytes_per_second))
    assert "GB/s" in limits.describe()


def test_a_dtype_without_a_rate_is_an_error():
    with pytest.raises(KeyError):
        Limits(flops={}, bytes_per_second=1.0).seconds("float32", 1)
