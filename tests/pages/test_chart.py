"""Ticks are nice and cover the data; lines survive gaps, thinning and emptiness."""

import html
import math
import re
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elman.pages.chart import (
    MOST_POINTS,
    Line,
    line_chart,
    log_label,
    log_ticks,
    nice_ticks,
    smoothed,
    spread,
    thinned,
    tick_labels,
)
from elman.pages.palette import SERIES

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


POSITIVE = st.floats(1e-90, 1e90)


@given(st.tuples(POSITIVE, POSITIVE).map(sorted), st.sampled_from([2, 10]), st.integers(3, 9))
def test_logarithmic_ticks_cover_the_data_tightly(pair, base, most):
    low, high = pair
    ticks = log_ticks(low, high, base, most)
    assert ticks[0] <= low * (1 + 1e-6)
    assert high * (1 - 1e-6) <= ticks[-1]
    assert 2 <= len(ticks) <= max(most + 2, 11)
    assert ticks == sorted(set(ticks))
    assert ticks[1] >= low
    assert ticks[-2] <= high * (1 + 1e-6)


@pytest.mark.parametrize(
    ("low", "high", "base", "ticks"),
    [
        (1, 8, 2, [1, 2, 4, 8]),
        (1, 1000, 2, [1, 4, 16, 64, 256, 1024]),
        (3, 90, 10, [2, 5, 10, 20, 50, 100]),
        (1, 1000, 10, [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]),
        (3, 50_000, 10, [1, 10, 100, 1000, 10_000, 100_000]),
        (0.2, 0.3, 10, [0.2, 0.5]),
    ],
)
def test_logarithmic_ticks_that_a_hand_would_draw(low, high, base, ticks):
    assert log_ticks(low, high, base, 6) == ticks


@pytest.mark.parametrize(
    ("tick", "label"),
    [
        (0.01, "0.01"),
        (1, "1"),
        (512, "512"),
        (1024, "1,024"),
        (16_384, "16.4k"),
        (100_000, "100k"),
        (1e6, "1M"),
        (5e8, "500M"),
        (2e9, "2G"),
        (1e-9, "1e−9"),
        (1e30, "1e30"),
    ],
)
def test_logarithmic_labels_that_a_hand_would_write(tick, label):
    assert log_label(tick) == label


@given(
    st.lists(st.tuples(ANYTHING, ANYTHING), max_size=40),
    st.sampled_from([None, 2, 10]),
    st.sampled_from([None, 2, 10]),
)
def test_any_points_make_a_logarithmic_chart_within_its_frame(points, log_x, log_y):
    line = Line(label="a", points=points, style=3)
    svg = line_chart([line], title="t", x_label="x", log_x=log_x, log_y=log_y)
    HTMLParser().feed(svg)
    for x, y in re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", svg):
        assert 0 <= float(x) <= 480
        assert 0 <= float(y) <= 270
    assert "nan" not in svg
    assert "inf" not in svg


def test_a_power_law_is_straight_on_logarithmic_axes_and_nothing_is_drawn_at_zero():
    points = [(0, 1), (-1, 1), *[(2**k, 3.0 * 4**k) for k in range(6)], (1, 0)]
    svg = line_chart([Line(label="a", points=points)], title="t", x_label="x", log_x=2, log_y=10)
    (path,) = re.findall(r'<path class="main" d="([^"]*)"', svg)
    places = [tuple(map(float, place)) for place in re.findall(r"[ML]([\d.]+) ([\d.]+)", path)]
    assert len(places) == 6
    steps = [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(places)]
    assert steps == [pytest.approx(steps[0], abs=0.3)] * 5
    assert steps[0][0] > 0 > steps[0][1]


def test_lines_that_are_equals_have_their_names_at_their_ends():
    lines = [
        Line(label=f"line {k}", points=[(0, 9), (1, 1 + height / 100)], style=k)
        for k, height in enumerate([3, 1, 900, 2, 0, 1] * 2)
    ]
    svg = line_chart(lines, title="t", x_label="x")
    names = re.findall(r'<text class="name" x="([\d.]+)" y="([\d.]+)">([^<]*)</text>', svg)
    assert sorted(name for *_, name in names) == sorted(line.label for line in lines)
    places = [float(y) for _, y, _ in names]
    assert all(b - a >= 14.9 for a, b in pairwise(places))
    assert 0 < places[0] < places[-1] < 270
    ends = [lines[int(name.split()[1])].points[-1][1] for *_, name in names]
    assert ends == sorted(ends, reverse=True)  # no two threads cross
    assert all(float(x) < 480 for x, *_ in names)
    for k in range(len(lines)):
        assert f'<g><title>line {k}</title><path class="s{k % SERIES}"' in svg


def extents(svg: str) -> dict[str, tuple[float, float]]:
    """From where to where each text of a chart reaches: a digit is 6.4 wide, and other letters no less for long."""
    found = {}
    for attributes, text in re.findall("<text ([^>]*)>([^<]*)</text>", svg):
        x, wide = float(re.search(r'x="([\d.]+)"', attributes)[1]), 6.4 * len(html.unescape(text))
        anchor = re.search(r'text-anchor="(\w+)"|class="last"', attributes)
        share = {None: 0.0, "middle": 0.5, "end": 1.0}[anchor and (anchor[1] or "end")]
        found[text] = (x - share * wide, x + (1 - share) * wide)
    return found


@given(
    st.lists(st.tuples(ANYTHING, ANYTHING), max_size=9)
    | st.integers(2, 10**7).map(lambda last: [(k * last / 9, k) for k in range(10)]),
    st.lists(st.text("ab<", max_size=60), max_size=4),
    st.sampled_from([None, 2, 10]),
    st.sampled_from([None, 2, 10]),
    st.sampled_from([(310, 200), (480, 270), (960, 360)]),
)
def test_no_label_reaches_beyond_the_chart(points, names, log_x, log_y, size):
    lines = [Line(label=name, points=points, style=style) for style, name in enumerate(names)]
    width, height = size
    svg = line_chart(
        lines or [Line(label="a", points=points)],
        title="t",
        x_label="step",
        last="3.14",
        log_x=log_x,
        log_y=log_y,
        width=width,
        height=height,
    )
    for text, (begin, end) in extents(svg).items():
        assert begin >= 0, text
        assert end <= width + 0.5, text


def test_the_last_step_is_written_whole():
    svg = line_chart([Line(label="a", points=[(0, 1), (150, 2)])], title="t", x_label="step", width=310)
    begin, end = extents(svg)["150"]
    assert begin == pytest.approx(310 - 3 * 6.4)
    assert end == pytest.approx(310)


def test_a_name_too_long_for_its_column_is_cut_and_whole_beside_the_line():
    svg = line_chart([Line(label="x" * 70, points=[(0, 1), (1, 2)], style=0)], title="t", x_label="x")
    (name,) = re.findall(r'class="name"[^>]*>([^<]*)<', svg)
    assert re.fullmatch("x{20,}…", name)
    assert f"<title>{'x' * 70}</title>" in svg


def test_a_line_of_nothing_has_no_name():
    lines = [Line(label="none", points=[(0, None)], style=0), Line(label="some", points=[(1, 1)], style=1)]
    svg = line_chart(lines, title="t", x_label="x")
    assert re.findall(r'class="name"[^>]*>([^<]*)<', svg) == ["some"]


@given(st.lists(st.floats(-100, 100), max_size=12).map(sorted), st.floats(0, 30))
def test_names_keep_their_distance_their_order_and_their_room(wanted, gap):
    places = spread(wanted, gap, 0, 200)
    assert len(places) == len(wanted)
    room = min(gap, 200 / max(1, len(wanted) - 1))
    assert all(b - a >= room - 1e-6 for a, b in pairwise(places))
    assert all(-1e-6 <= place <= 200 + 1e-6 for place in places)


def test_names_with_room_stay_where_they_are_and_others_part_around_their_middle():
    assert spread([10, 50, 90], 15, 0, 200) == [10, 50, 90]
    assert spread([50, 50, 56, 150], 20, 0, 200) == pytest.approx([32, 52, 72, 150])
    assert spread([1, 1], 20, 0, 200) == [0, 20]
    assert spread([199, 199], 20, 0, 200) == [180, 200]
