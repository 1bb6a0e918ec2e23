"""A line chart as an SVG file that stands alone: its own paper, colours and notes, on a light or a dark page.

The drawing is that of `elman.pages.chart`, which an HTML report colours by its CSS. A README shows a picture
without any CSS around it, so here the same names of colours are defined inside, for both preferences of the
reader. GitHub's own theme may differ from the preference of the browser: the picture brings its background along,
and can be read on either.
"""

from collections.abc import Sequence

from elman.pages.chart import CHART_STYLE, Line, line_chart
from elman.pages.page import plain
from elman.pages.palette import SERIES_STYLE

WIDTH, HEIGHT = 820, 400
"""Of the drawing, in pixels, without the margin and the notes."""
MARGIN = 24
"""Around the drawing."""
NOTE_HEIGHT = 20
"""Of a line of the notes."""

STYLE = f"""
:root {{ --sans: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  --paper: #fdfdfc; --ink: #1c1d20; --muted: #6a6d75; --rule: #e9e8e4; --axis: #b9b8b3; }}
@media (prefers-color-scheme: dark) {{ :root {{
  --paper: #131417; --ink: #e8e8e6; --muted: #9699a2; --rule: #282a2f; --axis: #4c4f57; }} }}
{CHART_STYLE}{SERIES_STYLE}
.chart {{ width: auto; }}
.chart .paper {{ fill: var(--paper); }}
.chart path {{ stroke-width: 2.25; }}
"""
"""The colours of the pages of `elman.pages.page`, for which those of the lines are chosen."""


def svg_file(lines: Sequence[Line], *, title: str, x_label: str, notes: Sequence[str] = ()) -> str:
    """The text of an SVG file: lines over two logarithmic axes, named at their ends, and notes below.

    Args:
        lines: What to draw; their styles are numbers.
        title: What the chart shows, with the unit of y.
        x_label: What runs along x.
        notes: Sentences to be read with the chart, a line each.
    """
    drawing = line_chart(lines, title=title, x_label=x_label, log_x=10, log_y=10, width=WIDTH, height=HEIGHT)
    width, height = WIDTH + 2 * MARGIN, HEIGHT + 2 * MARGIN + NOTE_HEIGHT * len(notes)
    box = f'viewBox="{-MARGIN} {-MARGIN} {width} {height}"'
    frame = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" {box}'
    paper = f'<rect class="paper" x="{-MARGIN}" y="{-MARGIN}" width="{width}" height="{height}" rx="8"/>'
    opening, content = drawing.split(">", maxsplit=1)
    opening = opening.replace(f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}"', f'{frame} class="chart"')
    below = "".join(
        f'<text x="0" y="{HEIGHT + NOTE_HEIGHT * line}">{plain(note)}</text>'
        for line, note in enumerate(notes, start=1)
    )
    return f"{opening}><style>{STYLE}</style>{paper}{content.removesuffix('</svg>')}{below}</svg>\n"
