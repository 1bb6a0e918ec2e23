"""A line chart as inline SVG: one function, no scripts, colours from the page's CSS.

    y = top + (1 - (v - v_low) / (v_high - v_low)) * height        v_low and v_high are the outermost ticks

with the logarithms of all three on a logarithmic axis. Ticks are 1, 2 or 5 times a power of ten, or powers of
the logarithm's base. A line breaks where a value is missing. A line of many points keeps, of every bucket of
neighbours, the lowest and the highest: a spike of one step survives any reduction.

Lines that are equals have numbers for styles, and their names at their ends, as near to them as no two overlap.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Literal

from elman.pages.page import plain
from elman.pages.palette import SERIES

Point = tuple[float | None, float | None]

MOST_POINTS = 500
"""Points drawn of a line; more cannot be told apart at the width of a page."""
MARKED_POINTS = 24
"""A line of up to so many points shows each of them as a dot."""
LABEL_GAP = 15
"""Between the names at the ends of lines."""
LETTER = 6.4
"""Mean width of a letter or a digit, to leave room for."""

CHART_STYLE = """
.chart { display: block; width: 100%; height: auto; font: 11.5px var(--sans); fill: var(--muted);
  font-variant-numeric: tabular-nums; }
.chart .title { fill: var(--ink); font-weight: 600; font-size: 13px; }
.chart .last { fill: var(--accent); font-weight: 600; font-size: 13px; text-anchor: end; }
.chart .grid { stroke: var(--rule); stroke-width: 1; shape-rendering: crispEdges; }
.chart .base { stroke: var(--axis); stroke-width: 1; shape-rendering: crispEdges; }
.chart path { fill: none; stroke-linejoin: round; stroke-linecap: round; }
.chart path.main { stroke: var(--accent); stroke-width: 2; }
.chart path.second { stroke: var(--second); stroke-width: 2; }
.chart path.thin { stroke: var(--accent); stroke-width: 1.25; }
.chart path.faint { stroke: var(--accent); stroke-width: 1; opacity: 0.35; }
.chart circle.main, .chart circle.thin { fill: var(--accent); }
.chart circle.second { fill: var(--second); }
.chart circle.faint { fill: var(--accent); opacity: 0.4; }
.chart .name { fill: var(--ink); }
"""
"""Needs --ink, --muted, --rule, --axis, --accent, --second (colours) and --sans (a font) on an ancestor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One curve."""

    label: str
    """Its name in the legend, which appears where there is more than one line."""
    points: Sequence[Point]
    """(x, y) in the order of x; a None, a NaN or an infinity is a gap."""
    style: Literal["main", "second", "thin", "faint"] | int = "main"
    """`thin` for a restless curve; `faint` for one behind another; a number, from 0, for one of many equals,
    which has the colour and the dashes of that number in `palette.SERIES_STYLE`."""

    @property
    def css_class(self) -> str:
        """What the page's CSS knows the style by."""
        return f"s{self.style % SERIES}" if isinstance(self.style, int) else self.style


def line_chart(
    lines: Sequence[Line],
    *,
    title: str,
    x_label: str,
    from_zero: bool = False,
    log_x: int | None = None,
    log_y: int | None = None,
    width: int = 480,
    height: int = 270,
    last: str = "",
) -> str:
    """An `<svg>` of any number of lines, each of any number of points.

    Args:
        lines: What to draw, the first one at the back.
        title: What the chart shows, with the unit of y.
        x_label: What runs along x, or its unit. A linear x begins at zero.
        from_zero: Let a linear y include zero.
        log_x: Base of a logarithmic x axis, on which what is not above zero is a gap; None for a linear one.
        log_y: Likewise for y.
        width: Of the drawing, in the page's pixels where it is not scaled.
        height: Likewise.
        last: A value to print in the top right corner, for example the latest.
    """
    numbered = [line for line in lines if isinstance(line.style, int)]
    longest = max((len(line.label) for line in numbered), default=0)
    margin = min(34 + LETTER * longest, 0.45 * width) if numbered else 4
    left, right, top, bottom = 46, round(width - margin), 42, height - 40
    clean = [[_gapped(point, log_x, log_y) for point in line.points] for line in lines]
    finite = [point for points in clean for point in points if point]
    spoken = plain(f"{title} {last}".strip())
    parts = [
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{spoken}">',
        f'<text class="title" x="0" y="14">{plain(title)}</text>',
    ]
    if last:
        parts.append(f'<text class="last" x="{width}" y="14">{plain(last)}</text>')
    if not finite:
        parts.append(f'<line class="base" x1="{left}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
        middle = f'x="{(left + right) / 2:g}" y="{(top + bottom) / 2:g}"'
        return "".join([*parts, f'<text {middle} text-anchor="middle">nothing recorded</text></svg>'])

    xs, ys = [x for x, _ in finite], [y for _, y in finite]
    most = 6 if width > 400 else 4
    x_axis = _axis(xs if log_x else [0.0, *xs], log_x, most)
    y_axis = _axis([0.0, *ys] if from_zero and not log_y else ys, log_y, most)
    x_low, x_high = x_axis.data
    y_low, y_high = y_axis.ticks[0], y_axis.ticks[-1]
    left = max(left, math.ceil(8 + LETTER * max(map(len, y_axis.labels))))

    def across(x: float) -> float:
        return left + x_axis.share(x, x_low, x_high) * (right - left)

    def down(y: float) -> float:
        return bottom - y_axis.share(y, y_low, y_high) * (bottom - top)

    for tick, label in zip(y_axis.ticks, y_axis.labels, strict=True):
        y = round(down(tick)) + 0.5
        kind = "base" if tick == y_low else "grid"
        parts.append(f'<line class="{kind}" x1="{left}" x2="{right}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{left - 8}" y="{y + 4:g}" text-anchor="end">{label}</text>')
    for tick, label in zip(x_axis.ticks, x_axis.labels, strict=True):
        if x_low <= tick <= x_high:
            parts.append(_under(across(tick), bottom + 18, label, width))
    parts.append(f'<text x="{right}" y="{height - 3}" text-anchor="end">{plain(x_label)}</text>')
    if len(lines) > 1 and not numbered:
        parts.append(_legend(lines, left, height - 7))
    ends = []
    for line, points in zip(lines, clean, strict=True):
        placed = [p and (across(p[0]), down(p[1])) for p in thinned(points)]
        curve = _curve(placed, line.css_class)
        if isinstance(line.style, int):
            curve = f"<g><title>{plain(line.label)}</title>{curve}</g>"
            ends += [(*point, line) for point in [p for p in placed if p][-1:]]
        parts.append(curve)
    return "".join([*parts, *_names(ends, right, width, (top - 6, bottom + 6)), "</svg>"])


@dataclass(frozen=True, slots=True)
class _Axis:
    """Where the ticks of one direction are, and how values lie between two of it."""

    ticks: Sequence[float]
    """From at or below the data to at or above it."""
    labels: Sequence[str]
    data: tuple[float, float]
    """The range of the data, widened where it is a point."""
    logarithmic: bool

    def share(self, value: float, low: float, high: float) -> float:
        """0 at `low`, 1 at `high`."""
        if self.logarithmic:
            value, low, high = math.log(value), math.log(low), math.log(high)
        return (value - low) / (high - low)


def _axis(values: Sequence[float], base: int | None, most: int) -> _Axis:
    """The axis of the values, all above zero where there is a base; at most `most` intervals, and a few."""
    low, high = min(values), max(values)
    if base is None:
        ticks = nice_ticks(low, high, most)
        return _Axis(ticks, tick_labels(ticks), _widened(low, high), logarithmic=False)
    if low == high:
        low, high = low / base, high * base
    ticks = log_ticks(low, high, base, most + 2)
    return _Axis(ticks, [log_label(tick) for tick in ticks], (low, high), logarithmic=True)


def log_ticks(low: float, high: float, base: int, most: int = 8) -> list[float]:
    """Powers of `base` at even distances, the first at or below `low` > 0, the last at or above `high`.

    About `most` at most. Where fewer than three powers of ten lie between the two, twice and five times each
    power are ticks too.
    """
    # The logarithms round: a power itself must not fall to the power beside it.
    first = math.floor(math.log(low, base) + 1e-9)
    last = max(first + 1, math.ceil(math.log(high, base) - 1e-9))
    if base == 10 and last - first <= 3:
        ticks = [float(f"{mantissa}e{power}") for power in range(first, last + 1) for mantissa in (1, 2, 5)]
        start = next(k for k in reversed(range(len(ticks))) if ticks[k] <= low * (1 + 1e-9))
        end = next(k for k in range(len(ticks)) if ticks[k] >= high * (1 - 1e-9))
        return ticks[start : max(end, start + 1) + 1]
    step = math.ceil((last - first) / most)
    return [float(base) ** (first + k * step) for k in range(math.ceil((last - first) / step) + 1)]


def log_label(tick: float) -> str:
    """A tick in few letters, whatever the others: 0.01, 512, 1,024, 16.4k, 100k, 1M, 1e−9."""
    scales = [(1e15, 1.0, ""), (1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k"), (0.0, 1.0, "")]
    scale, suffix = next((scale, suffix) for start, scale, suffix in scales if tick >= start)
    short = f"{tick:,.0f}" if 1e3 <= tick < 1e4 else f"{tick / scale:.3g}{suffix}"
    return short.replace("e-0", "e-").replace("e+", "e").replace("-", "−")


def nice_ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Even ticks at 1, 2 or 5 times a power of ten, the first at or below `low`, the last at or above `high`.

    At most `most` intervals fit between `low` and `high`. Where the two are (nearly) equal, the ticks lie
    around them.
    """
    wide_low, wide_high = _widened(low, high)
    exponent = math.floor(math.log10((wide_high - wide_low) / most))
    mantissa, power = next(
        (mantissa, power)
        for mantissa, power in [
            (1, exponent),
            (2, exponent),
            (5, exponent),
            (1, exponent + 1),
            (2, exponent + 1),
        ]
        if (wide_high - wide_low) / float(f"{mantissa}e{power}") <= most
    )

    def tick(k: int) -> float:
        # The nearest float, where k * step would be 0.30000000000000004.
        return float(f"{k * mantissa}e{power}")

    first, last = math.floor(wide_low / tick(1)), math.ceil(wide_high / tick(1))
    # The divisions round: the outermost ticks may miss the data by the last bit, or lie one too far.
    first += (tick(first + 1) <= wide_low) - (tick(first) > wide_low)
    last += (tick(last) < wide_high) - (tick(last - 1) >= wide_high)
    return [tick(k) for k in range(first, last + 1)]


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """The ticks in one common form: 0.5, 1,000, 20k, 1.5M, 2e−7; no two of them read alike."""
    step = ticks[1] - ticks[0]
    largest = max(abs(tick) for tick in ticks)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    if largest >= 1e12 or decimals > 5:
        digits = max(0, math.floor(math.log10(largest)) - math.floor(math.log10(step) + 1e-9))
        forms = [
            f"{tick:.{digits}e}".replace("e-0", "e-").replace("e+0", "e") if tick else "0" for tick in ticks
        ]
    else:
        scales = [(1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k"), (0.0, 1.0, "")]
        scale, suffix = next((scale, suffix) for start, scale, suffix in scales if largest >= start)
        decimals = max(0, -math.floor(math.log10(step / scale) + 1e-9))
        forms = [f"{tick / scale:,.{decimals}f}{suffix}" if tick else "0" for tick in ticks]
    return [form.replace("-", "−") for form in forms]


def smoothed(values: Sequence[float | None], reach: int) -> list[float | None]:
    """The mean of each value and up to `reach` neighbours on either side; missing values stay missing.

    The window is symmetric and shrinks towards the start, where curves are steep, so they are not shifted. At
    the end it looks back only: the last mean is nearly as steady as the others.
    """
    finite = [value if value is not None and math.isfinite(value) else None for value in values]
    sums = list(accumulate((value or 0.0 for value in finite), initial=0.0))
    counts = list(accumulate((value is not None for value in finite), initial=0))
    means: list[float | None] = []
    for i, value in enumerate(finite):
        half = min(reach, i)
        low, high = i - half, min(i + half + 1, len(finite))
        means.append(None if value is None else (sums[high] - sums[low]) / (counts[high] - counts[low]))
    return means


def thinned(
    points: Sequence[tuple[float, float] | None], most: int = MOST_POINTS
) -> list[tuple[float, float] | None]:
    """At most `most` points: of every bucket the lowest and the highest; a bucket of gaps stays a gap."""
    if len(points) <= most:
        return list(points)
    buckets = most // 2
    edges = [len(points) * bucket // buckets for bucket in range(buckets + 1)]
    kept: list[tuple[float, float] | None] = []
    for start, end in pairwise(edges):
        present = [i for i in range(start, end) if points[i] is not None]
        if not present:
            kept.append(None)
            continue
        height = {i: point[1] for i in present if (point := points[i]) is not None}
        kept += [
            points[i]
            for i in sorted({min(present, key=height.__getitem__), max(present, key=height.__getitem__)})
        ]
    return kept


def _curve(points: Sequence[tuple[float, float] | None], style: str) -> str:
    """A path that lifts the pen at gaps; dots where the points are few, or stand alone."""
    moves, dots, pen_down = [], [], False
    few = sum(point is not None for point in points) <= MARKED_POINTS
    for i, point in enumerate(points):
        if point is None:
            pen_down = False
            continue
        moves.append(f"{'L' if pen_down else 'M'}{point[0]:.1f} {point[1]:.1f}")
        alone = not pen_down and (i + 1 == len(points) or points[i + 1] is None)
        if few or alone:
            dots.append(
                f'<circle class="{style}" cx="{point[0]:.1f}" cy="{point[1]:.1f}" r="{3 if few else 1.5}"/>'
            )
        pen_down = True
    return f'<path class="{style}" d="{"".join(moves)}"/>{"".join(dots)}' if moves else ""


def _under(x: float, y: float, label: str, width: int) -> str:
    """The label of a tick at `x`, in the middle under it, or at the edge of the chart, which would cut it."""
    cut = x + LETTER * len(label) / 2 > width
    place = f'x="{width}" text-anchor="end"' if cut else f'x="{x:.1f}" text-anchor="middle"'
    return f'<text {place} y="{y}">{label}</text>'


def _legend(lines: Sequence[Line], x: float, y: float) -> str:
    """A stroke and a name for every line, side by side."""
    parts = []
    for line in lines:
        parts.append(f'<path class="{line.css_class}" d="M{x:.1f} {y}h16"/>')
        parts.append(f'<text x="{x + 22:.1f}" y="{y + 4}">{plain(line.label)}</text>')
        x += 22 + 7.5 * len(line.label) + 14  # 7.5: a generous mean width of a letter
    return "".join(parts)


def _names(
    ends: Sequence[tuple[float, float, Line]], x: float, width: int, room: tuple[float, float]
) -> Iterable[str]:
    """Name the lines that end at the points given, in a column from `x` on: a thread, a stroke, and the name.

    A name too long for the column is cut; the whole of it is in the title of the line.
    """
    most = int((width - x - 31) / LETTER)
    ends = sorted(ends, key=lambda end: end[1])
    heights = spread([y for _, y, _ in ends], LABEL_GAP, *room)
    for (from_x, from_y, line), y in zip(ends, heights, strict=True):
        kind = line.css_class
        yield f'<path class="thread {kind}" d="M{from_x:.1f} {from_y:.1f}H{x}L{x + 8} {y:.1f}"/>'
        yield f'<path class="{kind}" d="M{x + 8} {y:.1f}h18"/>'
        name = line.label if len(line.label) <= most else f"{line.label[: most - 1]}…"
        yield f'<text class="name" x="{x + 31}" y="{y + 4:.1f}">{plain(name)}</text>'


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Ascending places, at least `gap` apart and between `low` and `high`, as near to the wanted as can be.

    Least squares under an order is isotonic regression: neighbours too close become a block around the mean of
    what they want (pool adjacent violators, Ayer et al. 1955). Where there is no room, the gap is smaller.

    Args:
        wanted: Ascending.
        gap: The least distance.
        low: The least place.
        high: The greatest.
    """
    gap = min(gap, (high - low) / max(1, len(wanted) - 1))
    blocks: list[tuple[float, int]] = []  # sum and count of the wanted, each less its rank times the gap
    for rank, place in enumerate(wanted):
        total, count = place - rank * gap, 1
        while blocks and blocks[-1][0] / blocks[-1][1] > total / count:
            before = blocks.pop()
            total, count = total + before[0], count + before[1]
        blocks.append((total, count))
    bases = [total / count for total, count in blocks for _ in range(count)]
    end = high - (len(wanted) - 1) * gap
    return [min(max(base, low), end) + rank * gap for rank, base in enumerate(bases)]


def _gapped(point: Point, log_x: int | None, log_y: int | None) -> tuple[float, float] | None:
    """The point, or None where it cannot be drawn: beyond 1e100 the axes' arithmetic would overflow."""
    x, y = point
    if x is None or y is None or not (abs(x) < 1e100 and abs(y) < 1e100):
        return None
    if (log_x and x < 1e-100) or (log_y and y < 1e-100):
        return None
    return float(x), float(y)


def _widened(low: float, high: float) -> tuple[float, float]:
    """The range, or where it is a ten-thousandth of its values or less, one from zero to twice the value."""
    size = max(abs(low), abs(high))
    if high - low > 1e-4 * size and high - low > 1e-100:
        return low, high
    spread = size if size > 1e-90 else 1.0
    return low - spread, high + spread
