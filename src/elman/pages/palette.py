"""Ten line styles for curves that are equals: a colour and a pattern of dashes each, for light and dark pages.

Style k has colour k and dashes k mod 5. With normal vision, protanopia or deuteranopia (as simulated by Machado et
al. 2009), any two colours differ by a CIELAB distance of 15 at least and two of the same dashes by 40; a distance
of 2.3 can just be noticed. Every colour has a contrast of 3 to 1 with its page (WCAG 2.2, 1.4.11).
"""

SERIES = 10
"""Styles there are."""

LIGHT = (
    "#2a5bd7",
    "#d2764f",
    "#399784",
    "#7e2e7a",
    "#4d92d0",
    "#c28207",
    "#3d0485",
    "#5a090c",
    "#5c5703",
    "#7f5443",
)
"""On a page of #fdfdfc."""

DARK = (
    "#86a9ff",
    "#e8632b",
    "#6ff0de",
    "#cc4f90",
    "#6cb7d0",
    "#f5e03c",
    "#8f5cf0",
    "#b85c58",
    "#d2ee86",
    "#e2a678",
)
"""On a page of #131417: the same hues."""

DASHES = ("none", "7 3", "2 3", "11 3 2 3", "15 5")
"""Strokes and gaps, in pixels."""


def _colours(colours: tuple[str, ...]) -> str:
    return " ".join(f"--s{k}: {colour};" for k, colour in enumerate(colours))


SERIES_STYLE = (
    f"""
:root {{ {_colours(LIGHT)} }}
@media (prefers-color-scheme: dark) {{ :root {{ {_colours(DARK)} }} }}
@media print {{ :root {{ {_colours(LIGHT)} }} }}
"""
    + "".join(
        f".chart path.s{k} {{ stroke: var(--s{k}); stroke-width: 1.75; stroke-linecap: butt; "
        f"stroke-dasharray: {DASHES[k % len(DASHES)]}; }} .chart circle.s{k} {{ fill: var(--s{k}); }}\n"
        for k in range(SERIES)
    )
    + """.chart path.thread { stroke-width: 1; stroke-dasharray: none; opacity: 0.45; }
.chart g:hover path { stroke-width: 3.5; }
"""
)
"""CSS of the classes s0, s1, ..., after that of the chart."""
