"""A line chart as inline SVG: one function, no scripts, colours from the page's CSS.

    y = top + (1 - (v - v_low) / (v_high - v_low)) * height        v_low and v_high are the outermost ticks

Ticks are 1, 2 or 5 times a power of ten. A line breaks where a value is missing. A line of many points keeps,
of every bucket of neighbours, the lowest and the highest: a spike of one step survives any reduction.
"""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Literal

Point = tuple[float | None, float | None]

MOST_POINTS = 500
"""Points drawn of a line; more cannot be told apart at the width of a page."""
MARKED_POINTS = 24
"""A line of up to so many points shows each of them as a dot."""

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
"""
"""Needs --ink, --muted, --rule, --axis, --accent, --second (colours) and --sans (a font) on an ancestor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One curve."""

    label: str
    """Its name in the legend, which appears where there is more than one line."""
    points: Sequence[Point]
    """(x, y) in the order of x; a None, a NaN or an infinity is a gap."""
    style: Literal["main", "second", "thin", "faint"] = "main"
    """`thin` for a restless curve; `faint` for one behind another."""


def line_chart(
    lines: Sequence[Line],
    *,
    title: str,
    x_label: str,
    from_zero: bool = False,
    width: int = 480,
    height: int = 270,
    last: str = "",
) -> str:
    """An `<svg>` of any number of lines, each of any number of points.

    Args:
        lines: What to draw, the first one at the back.
        title: What the chart shows, with the unit of y.
        x_label: What runs along x, from zero, or its unit.
        from_zero: Let y include zero.
        width: Of the drawing, in the page's pixels where it is not scaled.
        height: Likewise.
        last: A value to print in the top right corner, for example the latest.
    """
    left, right, top, bottom = 46, width - 4, 42, height - 40
    clean = [[_gapped(point) for point in line.points] for line in lines]
    finite = [point for points in clean for point in points if point]
    spoken = _text(f"{title} {last}".strip())
    parts = [
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{spoken}">',
        f'<text class="title" x="0" y="14">{_text(title)}</text>',
    ]
    if last:
        parts.append(f'<text class="last" x="{width}" y="14">{_text(last)}</text>')
    if not finite:
        parts.append(f'<line class="base" x1="{left}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
        middle = f'x="{(left + right) / 2:g}" y="{(top + bottom) / 2:g}"'
        return "".join([*parts, f'<text {middle} text-anchor="middle">nothing recorded</text></svg>'])

    xs, ys = [x for x, _ in finite], [y for _, y in finite]
    x_low, x_high = _widened(min(0.0, *xs), max(xs))
    if from_zero:
        ys.append(0.0)
    large = width > 400
    y_ticks = nice_ticks(min(ys), max(ys), most=6 if large else 4)
    y_low, y_high = y_ticks[0], y_ticks[-1]

    def across(x: float) -> float:
        return left + (x - x_low) / (x_high - x_low) * (right - left)

    def down(y: float) -> float:
        return bottom - (y - y_low) / (y_high - y_low) * (bottom - top)

    for tick, label in zip(y_ticks, tick_labels(y_ticks), strict=True):
        y = round(down(tick)) + 0.5
        kind = "base" if tick == y_low else "grid"
        parts.append(f'<line class="{kind}" x1="{left}" x2="{right}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{left - 8}" y="{y + 4:g}" text-anchor="end">{label}</text>')
    x_ticks = nice_ticks(x_low, x_high, most=6 if large else 4)
    for tick, label in zip(x_ticks, tick_labels(x_ticks), strict=True):
        if x_low <= tick <= x_high:
            parts.append(
                f'<text x="{across(tick):.1f}" y="{bottom + 18}" text-anchor="middle">{label}</text>'
            )
    parts.append(f'<text x="{right}" y="{height - 3}" text-anchor="end">{_text(x_label)}</text>')
    if len(lines) > 1:
        parts.append(_legend(lines, left, height - 7))
    for line, points in zip(lines, clean, strict=True):
        parts.append(_curve([p and (across(p[0]), down(p[1])) for p in thinned(points)], line.style))
    return "".join([*parts, "</svg>"])


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
        return float(
            f"{k * mantissa}e{power}"
        )  # the nearest float, where k * step would be 0.30000000000000004

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


def _legend(lines: Sequence[Line], x: float, y: float) -> str:
    """A stroke and a name for every line, side by side."""
    parts = []
    for line in lines:
        parts.append(f'<path class="{line.style}" d="M{x:.1f} {y}h16"/>')
        parts.append(f'<text x="{x + 22:.1f}" y="{y + 4}">{_text(line.label)}</text>')
        x += 22 + 7.5 * len(line.label) + 14  # 7.5: a generous mean width of a letter
    return "".join(parts)


def _gapped(point: Point) -> tuple[float, float] | None:
    """The point, or None where it cannot be drawn: beyond 1e100 the axes' arithmetic would overflow."""
    x, y = point
    if x is None or y is None or not (abs(x) < 1e100 and abs(y) < 1e100):
        return None
    return float(x), float(y)


def _widened(low: float, high: float) -> tuple[float, float]:
    """The range, or where it is a ten-thousandth of its values or less, one from zero to twice the value."""
    size = max(abs(low), abs(high))
    if high - low > 1e-4 * size and high - low > 1e-100:
        return low, high
    spread = size if size > 1e-90 else 1.0
    return low - spread, high + spread


def _text(text: str) -> str:
    return html.escape(text)
