"""A run as one page to read: its scores, its curves, what it writes, and the settings that made it."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from elman.pages.chart import CHART_STYLE, Line, Point, line_chart, smoothed
from elman.pages.page import charts, facts, header, page, section, table, visible

Record = Mapping[str, float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What the page shows. Parts that are empty are left out."""

    title: str
    """The name of the run."""
    summary: Mapping[str, str]
    """Rows of the head table, formatted: preset, cell, parameters, tokens, seconds, device and so on."""
    scores: Mapping[str, Mapping[str, str]]
    """Row name to column name to formatted value; a column that a row lacks shows a dash."""
    metrics: Sequence[Record]
    """Records of metrics.jsonl, in order. In training: step, seconds, tokens, loss (nats a token),
    learning_rate, gradient_norm, tokens_per_second. In validation: step, seconds, tokens,
    valid_bits_per_byte, valid_perplexity."""
    samples: Sequence[tuple[str, str]]
    """Prompts, each with its continuation."""
    settings: str
    """The text of config.toml."""
    command: str
    """What to type to train this again."""


SMALL_CHARTS: list[tuple[str, str, Literal["main", "thin"], str]] = [
    ("learning_rate", "Learning rate", "main", ""),
    ("gradient_norm", "Gradient norm", "thin", "{:.2f}"),
    ("tokens_per_second", "Tokens a second", "thin", "{:,.0f}"),
]
"""Field, title, line, and the form of the latest value, which a schedule that ends at zero does not need."""


def render_report(report: Report) -> str:
    """The page, as the text of a UTF-8 HTML file."""
    body = [
        header("training report", report.title, report.command),
        facts(report.summary),
        section("Scores", _scores(report.scores)),
        section("Curves", _curves(report.metrics)),
        section("Samples", _samples(report.samples)),
        section("Settings", _settings(report.settings)),
    ]
    return page(report.title, body, CHART_STYLE)


def _scores(scores: Mapping[str, Mapping[str, str]]) -> str:
    """A table with a row for each model or text."""
    if not scores:
        return ""
    return table(scores) + (
        "<p class='note'>Bits and perplexity: lower is better. "
        "Perplexity a token compares only under one tokenizer.</p>"
    )


def _curves(metrics: Sequence[Record]) -> str:
    """Loss and validation side by side; learning rate, gradient norm and speed below them."""
    if not metrics:
        return ""
    training = _one_history([record for record in metrics if "loss" in record])
    validation = _one_history([record for record in metrics if "valid_bits_per_byte" in record])

    def over_steps(name: str, values: Sequence[float | None] | None = None) -> list[Point]:
        found = [record.get(name) for record in training] if values is None else values
        return list(zip([record.get("step") for record in training], found, strict=True))

    losses = [record.get("loss") for record in training]
    reach = len(losses) // 60  # a window of a thirtieth of the run: lightly
    smooth = smoothed(losses, reach)
    loss_lines = [
        Line(label="each record", points=over_steps("loss"), style="faint"),
        Line(label="smoothed", points=over_steps("loss", smooth)),
    ]
    unit, seconds_each = _time_unit(metrics)
    valid_points = [
        (
            None if (seconds := record.get("seconds")) is None else seconds / seconds_each,
            record.get("valid_bits_per_byte"),
        )
        for record in validation
    ]
    main = [
        line_chart(
            loss_lines if reach else [Line(label="loss", points=over_steps("loss"))],
            title="Training loss, nats a token",
            x_label="step",
            last=_last(smooth, "{:.3f}"),
        ),
        line_chart(
            [Line(label="validation", points=valid_points)],
            title="Validation, bits per byte",
            x_label=f"{unit} of training",
            last=_last([y for _, y in valid_points], "{:.3f}"),
        ),
    ]
    small = [
        line_chart(
            [Line(label=title, points=over_steps(name), style=style)],
            title=title,
            x_label="step",
            from_zero=True,
            width=310,
            height=200,
            last=_last([record.get(name) for record in training], shape),
        )
        for name, title, style, shape in SMALL_CHARTS
    ]
    return charts("two", main) + charts("three", small)


def _one_history(records: Sequence[Record]) -> list[Record]:
    """The records without those that a resumed run did over: a step seen again undoes all from it on."""
    history: list[Record] = []
    for record in records:
        step = record.get("step")
        while step is not None and history and (history[-1].get("step") or 0) >= step:
            history.pop()
        history.append(record)
    return history


def _time_unit(metrics: Sequence[Record]) -> tuple[str, float]:
    """The unit in which the length of the run reads well, and its seconds."""
    longest = max((record.get("seconds") or 0.0 for record in metrics), default=0.0)
    for unit, seconds in [("hours", 3600.0), ("minutes", 60.0)]:
        if longest >= 3 * seconds:
            return unit, seconds
    return "seconds", 1.0


def _last(values: Sequence[float | None], shape: str) -> str:
    """The last number there is, formatted."""
    finite = [value for value in values if value is not None and math.isfinite(value)]
    return shape.format(finite[-1]) if finite else ""


def _settings(text: str) -> str:
    """The settings, in columns where there is room, no table of them broken in two."""
    tables = re.split(r"\n+(?=\[)", text.strip("\n"))
    code = "".join(f"<code>{visible(table)}</code>" for table in tables)
    return f"<pre class='box settings'>{code}</pre>" if text.strip() else ""


def _samples(samples: Sequence[tuple[str, str]]) -> str:
    """Each sample in a box, its prompt set off from what the model wrote."""
    return "".join(
        f"<pre class='box sample'><b>{visible(prompt)}</b>{visible(continuation)}</pre>"
        for prompt, continuation in samples
    )
