"""How far every model is from the best, each with its interval: one row a model, as inline SVG.

    lstm      ●
    gru          ├──●──┤                 +0.020 [0.013, 0.027]
    elman                     ├───●───┤  +0.113 [0.094, 0.131]
              0                   bits per byte above the best

An interval that reaches over the line at zero is that of a model which this comparison cannot tell from the best.
"""

import math
from collections.abc import Sequence

from elman.compare.table import Row, columns, ranked
from elman.pages.chart import nice_ticks, tick_labels
from elman.pages.page import plain

ROW_HEIGHT = 28
WIDTH = 960

INTERVAL_STYLE = """
.chart .zero { stroke: var(--axis); stroke-width: 1; shape-rendering: crispEdges; }
.chart .interval { stroke: var(--accent); stroke-width: 2; }
.chart .dot { fill: var(--accent); }
.chart .figure { fill: var(--muted); text-anchor: end; }
@media (max-width: 520px) { .one { overflow-x: auto; } .one .chart { min-width: 820px; } }
"""
"""CSS beside that of `train.chart`."""


def interval_chart(rows: Sequence[Row], *, title: str) -> str:
    """An `<svg>` of the differences to the best, the best on top; rows without a number have no mark.

    Args:
        rows: What to draw.
        title: What the chart shows.
    """
    rows = ranked(rows)
    cells = [columns(row)["to best"] for row in rows]
    # 6.4 and 6.8: the mean widths of a letter and of a digit
    left = round(min(16 + 6.4 * max((len(row.model) for row in rows), default=0), 0.3 * WIDTH))
    right = round(WIDTH - 24 - 6.8 * max(map(len, cells), default=0))
    top = 34
    bottom = top + ROW_HEIGHT * len(rows)
    ends = [end for row in rows for end in (row.difference, *row.interval) if math.isfinite(end)]
    ticks = nice_ticks(min([0.0, *ends]), max([0.0, *ends]), most=7)
    low, high = (min([0.0, *ends]), max([0.0, *ends])) if any(ends) else (ticks[0], ticks[-1])

    def across(x: float) -> str:
        return f"{left + (x - low) / (high - low) * (right - left):.1f}"

    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {bottom + 44}" role="img" aria-label="{plain(title)}">',
        f'<text class="title" x="0" y="14">{plain(title)}</text>',
    ]
    for tick, label in zip(ticks, tick_labels(ticks), strict=True):
        if not low <= tick <= high:
            continue
        x = across(tick)
        parts.append(
            f'<line class="{"grid" if tick else "zero"}" x1="{x}" x2="{x}" y1="{top}" y2="{bottom}"/>'
        )
        parts.append(f'<text x="{x}" y="{bottom + 18}" text-anchor="middle">{label}</text>')
    parts.append(f'<text x="{right}" y="{bottom + 38}" text-anchor="end">bits per byte above the best</text>')
    for place, (row, cell) in enumerate(zip(rows, cells, strict=True)):
        y = top + ROW_HEIGHT * (place + 0.5)
        parts.append(f'<text class="name" x="0" y="{y + 4:g}">{plain(row.model)}</text>')
        parts.append(f'<text class="figure" x="{WIDTH}" y="{y + 4:g}">{plain(cell)}</text>')
        if row.interval[0] < row.interval[1] and all(map(math.isfinite, row.interval)):
            path = f"M{across(row.interval[0])} {y - 4:g}v8m0 -4H{across(row.interval[1])}m0 -4v8"
            parts.append(f'<path class="interval" d="{path}"/>')
        if math.isfinite(row.difference):
            parts.append(f'<circle class="dot" cx="{across(row.difference)}" cy="{y:g}" r="4.5"/>')
    return "".join([*parts, "</svg>"])
