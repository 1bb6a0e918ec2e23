"""A comparison as one page to read: what was equal, who is best and by how much, and what each model costs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from elman.compare.interval_chart import INTERVAL_STYLE, interval_chart
from elman.compare.table import Row, columns, ranked
from elman.pages.chart import CHART_STYLE, Line, Point, line_chart
from elman.pages.page import charts, facts, header, page, section, table, visible
from elman.pages.palette import SERIES_STYLE


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What the page shows, by the names of the models. Parts that are empty are left out."""

    title: str
    """What is compared, for example the corpus and the budget."""
    command: str
    """What to type to compare again."""
    facts: Mapping[str, str]
    """What was equal for all, formatted: corpus, tokens, bytes, documents, budget, parameters and so on."""
    rows: Sequence[Row]
    """The table."""
    curves: Mapping[str, Sequence[tuple[float, float, float]]]
    """Seconds and tokens of training so far, and bits per byte of the validation text then."""
    by_position: Mapping[str, Sequence[tuple[int, float]]]
    """Place in a document, and mean nats of the targets from there to the next place."""
    cost: Mapping[str, Sequence[tuple[int, float]]]
    """Tokens of text before it, and floating-point operations of the next token."""
    samples: Mapping[str, str]
    """What a model writes."""
    notes: Sequence[str]
    """How to read the numbers; a paragraph each."""


SCORES = ("bits/byte", "to best", "perplexity", "word perpl.", "tokens", "seconds", "lr", "seeds")
COSTS = ("params", "MFLOP/token", "state kB", "tok/s", "peak MB", "gen. tok/s")
"""Columns of `table.columns`, in two tables: one would be too wide for the page."""


def render_comparison(comparison: Comparison) -> str:
    """The page, as the text of a UTF-8 HTML file."""
    ordered = ranked(comparison.rows)
    body = [
        header("comparison", comparison.title, comparison.command),
        facts(comparison.facts),
        section("Scores", _scores(ordered)),
        section("Cost", _costs(ordered)),
        section("Curves", _curves(comparison, [row.model for row in ordered])),
        section("Notes", "".join(f"<p>{visible(note)}</p>" for note in comparison.notes)),
        section("Samples", _samples(comparison.samples)),
    ]
    return page(comparison.title, body, CHART_STYLE + SERIES_STYLE + INTERVAL_STYLE + _STYLE)


def _scores(rows: Sequence[Row]) -> str:
    """How good each model is, and how surely worse than the best."""
    if not rows:
        return ""
    chart = interval_chart(rows, title="Difference to the best, with its 95 % interval")
    return (
        _table(rows, SCORES)
        + "<p class='note'>Lower is better. ± is the standard deviation over seeds. Where an interval reaches zero, "
        "these texts and seeds do not tell the model from the best.</p>"
        f"<div class='charts one'><figure>{chart}</figure></div>"
    )


def _costs(rows: Sequence[Row]) -> str:
    """What each model asks for, in training and in use."""
    if not rows:
        return ""
    return (
        _table(rows, COSTS)
        + "<p class='note'>MFLOP: millions of floating-point operations in matrix products, for one token. State: what "
        "is kept of the text before. tok/s and peak: in training; gen. tok/s: one stream.</p>"
    )


def _table(rows: Sequence[Row], names: Sequence[str]) -> str:
    cells = {row.model: columns(row) for row in rows}
    return table({model: {name: row[name] for name in names} for model, row in cells.items()})


def _curves(comparison: Comparison, models: Sequence[str]) -> str:
    """Learning against seconds and tokens, loss against position, cost against length."""
    every = dict.fromkeys([*models, *comparison.curves, *comparison.by_position, *comparison.cost])
    style = {model: number for number, model in enumerate(every)}  # a model looks the same in all charts

    def lines(points: Mapping[str, Sequence[Point]]) -> list[Line]:
        best_last = sorted(points, key=style.__getitem__, reverse=True)
        return [Line(label=model, points=points[model], style=style[model]) for model in best_last]

    seconds = {model: [(s, bits) for s, _, bits in curve] for model, curve in comparison.curves.items()}
    tokens = {model: [(n, bits) for _, n, bits in curve] for model, curve in comparison.curves.items()}
    drawings = []
    for points, title, x_label, log_x, log_y in [
        (seconds, "Validation over time, first seed, bits per byte", "seconds of training", 10, None),
        (tokens, "Validation over text, first seed, bits per byte", "tokens of training", 10, None),
        (comparison.by_position, "Loss within a document, nats a token", "place in the document", 2, None),
        (comparison.cost, "FLOPs of the next token", "tokens of text before it", 2, 10),
    ]:
        if any(points.values()):
            drawings.append(
                line_chart(
                    lines(points),
                    title=title,
                    x_label=x_label,
                    log_x=log_x,
                    log_y=log_y,
                    width=960,
                    height=360,
                )
            )
    return charts("one", drawings) if drawings else ""


def _samples(samples: Mapping[str, str]) -> str:
    """Each sample in a box, under the name of who wrote it."""
    return "".join(
        f"<h3>{visible(model)}</h3><pre class='box sample'>{visible(text)}</pre>"
        for model, text in samples.items()
    )


_STYLE = """
h3 { margin: 24px 0 8px; font-size: 14px; font-weight: 600; }
h3:first-of-type { margin-top: 0; }
section > p { max-width: 46em; margin: 0 0 12px; }
section > .note { max-width: none; margin: 12px 0 0; }
.wide + .note + .charts { margin-top: 32px; }
th, td { padding-left: 20px; }
"""
