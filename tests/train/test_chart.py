"""Ticks are nice and cover the data; lines survive gaps, thinning and emptiness."""

import math
import re
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elman.train.chart import MOST_POINTS, Line, line_chart, nice_ticks, smoothed, thinned, tick_labels

NUMBERS = st.floats(min_value=-1e90, max_value=1e90)
PAIRS = st.tuples(NUMBERS, NUMBERS).map(sorted)
ANYTHING = st.none() | st.floats()


@given(PAIRS, st.integers(2, 10))
def test_ticks_cover_the_data_tightly(pair, most):
    low, high = pair
    ticks = nice_ticks(low, high, most)
    assert ticks[0] <= low <= high <= ticks[-1]
    assert 2 <= len(ticks) <= most + 3
    assert ticks == sorted(set(ticks))
    if high - low > 1e-3 * max(abs(low), abs(high)) and high - low > 1e-90:
        assert ticks[1] > low  # no tick is wasted
        assert ticks[-2] < high


@given(PAIRS)
def test_ticks_are_multiples_of_1_2_or_5_times_a_power_of_ten(pair):
    ticks = nice_ticks(*pair)
    step = min(b - a for a, b in pairwise(ticks))
    mantissa = step / 10 ** math.floor(math.log10(step) + 1e-6)
    assert min(abs(mantissa - nice) for nice in (1, 2, 5, 10)) < 1e-4
    assert all(abs(tick / step - round(tick / step)) < 1e-2 for tick in ticks)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.0, 1.0, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0.1, 0.3, [0.1, 0.15, 0.2, 0.25, 0.3]),
        (3.2, 8.6, [2.0, 4.0, 6.0, 8.0, 10.0]),
        (-30.0, 70.0, [-40.0, -20.0, 0.0, 20.0, 40.0, 60.0, 80.0]),
        (5.0, 5.0, [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]),
        (0.0, 0.0, [-1.0, -0.5, 0.0, 0.5, 1.0]),
    ],
)
def test_ticks_that_a_hand_would_draw(low, high, ticks):
    assert nice_ticks(low, high) == ticks


@given(PAIRS)
def test_labels_differ_and_say_the_tick(pair):
    ticks = nice_ticks(*pair)
    labels = tick_labels(ticks)
    assert len(set(labels)) == len(ticks)
    step = ticks[1] - ticks[0]
    for tick, label in zip(ticks, labels, strict=True):
        plain = label.replace("−", "-").replace(",", "")
        scale = {"k": 1e3, "M": 1e6, "G": 1e9}.get(plain[-1], 1.0)
        assert abs(float(plain.rstrip("kMG")) * scale - tick) < 0.01 * step


@pytest.mark.parametrize(
    ("ticks", "labels"),
    [
        ([0.0, 0.001, 0.002], ["0", "0.001", "0.002"]),
        ([0.0, 1000.0, 2000.0], ["0", "1,000", "2,000"]),
        ([0.0, 20_000.0, 40_000.0], ["0", "20k", "40k"]),
        ([1.5e6, 2e6, 2.5e6], ["1.5M", "2.0M", "2.5M"]),
        ([-0.5, 0.0, 0.5], ["−0.5", "0", "0.5"]),
        ([0.0, 2e-7, 4e-7], ["0", "2e−7", "4e−7"]),
    ],
)
def test_labels_that_a_hand_would_write(ticks, labels):
    assert tick_labels(ticks) == labels


@given(st.lists(st.tuples(ANYTHING, ANYTHING), max_size=40), st.booleans())
def test_any_points_make_a_chart_within_its_frame(points, from_zero):
    svg = line_chart([Line(label="a", points=points)], title="t", x_label="x", from_zero=from_zero)
    HTMLParser().feed(svg)
    drawable = [p for p in points if None not in p and abs(p[0]) < 1e100 and abs(p[1]) < 1e100]
    assert ("nothing recorded" in svg) == (not drawable)
    assert svg.count("<circle") >= (len(drawable) if len(drawable) <= 24 else 0)
    for x, y in re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", svg):
        assert 0 <= float(x) <= 480
        assert 0 <= float(y) <= 270
    assert "nan" not in svg
    assert "inf" not in svg


@pytest.mark.parametrize("gap", [None, math.nan, math.inf, -math.inf])
def test_a_gap_breaks_the_line(gap):
    svg = line_chart(
        [Line(label="a", points=[(0, 1), (1, 2), (2, gap), (3, 1), (4, 2)])], title="t", x_label="x"
    )
    (path,) = re.findall(r' d="([^"]*)"', svg)
    assert re.sub(r"[^ML]", "", path) == "MLML"


def test_a_chart_runs_from_the_lowest_to_the_highest_value():
    svg = line_chart([Line(label="a", points=[(0, 0), (10, 10)])], title="t", x_label="x")
    (x0, y0), (x1, y1) = [tuple(map(float, p)) for p in re.findall(r"[ML]([\d.]+) ([\d.]+)", svg)]
    assert x0 < x1
    assert y0 > y1  # y grows upwards


def test_a_legend_only_where_there_is_something_to_tell_apart():
    one, two = Line(label="first", points=[(0, 1), (1, 2)]), Line(label="second", points=[(0, 2)])
    assert "first" not in line_chart([one], title="t", x_label="x")
    both = line_chart([one, two], title="t", x_label="x")
    assert "first" in both
    assert "second" in both


def test_names_are_escaped():
    line = Line(label="<i>", points=[(0, 1)])
    svg = line_chart([line, line], title="<b>", x_label="<u>", last='"<s>')
    assert not re.search(r"<[bius]>", svg)
    assert svg.count("&lt;i&gt;") == 2


@given(st.lists(st.none() | st.tuples(st.integers(0, 9), st.floats(-1e9, 1e9)), max_size=3000))
def test_thinning_keeps_order_extremes_and_the_bound(points):
    kept = thinned(points)
    assert len(kept) <= MOST_POINTS
    remaining = iter(points)
    assert all(any(point is candidate for candidate in remaining) for point in kept)  # a subsequence
    heights = [point[1] for point in points if point]
    if heights:
        left = [point[1] for point in kept if point]
        assert (min(left), max(left)) == (min(heights), max(heights))


@pytest.mark.parametrize("count", [0, 1, 499, 500, 501, 10_000])
def test_thinning_keeps_a_spike_and_a_long_gap(count):
    points = [(float(i), 0.0) for i in range(count)]
    if count:
        points[count // 3] = (count / 3, 1.0)
    points[count // 2 : count // 2 + count // 10] = [None] * (count // 10)
    kept = thinned(points)
    assert len(kept) <= MOST_POINTS
    assert len(kept) == count or len(kept) > MOST_POINTS // 2
    assert sum(point is not None and point[1] == 1.0 for point in kept) == min(count, 1)
    assert (None in kept) == (None in points)


@given(st.lists(st.none() | st.floats(-1e6, 1e6), max_size=60), st.integers(0, 10))
def test_smoothing_is_the_mean_of_the_window(values, reach):
    means = smoothed(values, reach)
    assert [mean is None for mean in means] == [value is None for value in values]
    for i, mean in enumerate(means):
        half = min(reach, i)
        window = [value for value in values[i - half : i + half + 1] if value is not None]
        if mean is not None:
            assert mean == pytest.approx(sum(window) / len(window), abs=1e-6)


def test_smoothing_does_not_spread_a_nan():
    assert smoothed([1.0, math.nan, 3.0, math.inf, 5.0], 2) == [1.0, None, 3.0, None, 4.0]
