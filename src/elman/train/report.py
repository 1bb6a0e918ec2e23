"""A run as one page to read: its scores, its curves, what it writes, and the settings that made it.

The page stands alone: no scripts, no fonts or pictures from elsewhere, and a content security policy that
holds it to that. It follows the reader's light or dark preference, fits a telephone, and prints.

Text that comes from outside (samples, names, settings) is escaped, and its control characters are shown
instead of obeyed: a terminal code or a change of writing direction is part of what the model wrote.
"""

import html
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from elman.train.chart import CHART_STYLE, Line, Point, line_chart, smoothed

Record = Mapping[str, float | None]

# C0 but tab and newline, DEL and C1; marks that turn the writing direction; line separators; lone surrogates.
_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]"
)


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
        _header(report.title, report.command),
        _summary(report.summary),
        _section("Scores", _scores(report.scores)),
        _section("Curves", _curves(report.metrics)),
        _section("Samples", _samples(report.samples)),
        _section("Settings", _settings(report.settings)),
    ]
    return _PAGE.format(
        title=_visible(report.title), style=_STYLE + CHART_STYLE, body="\n".join(filter(None, body))
    )


def _header(title: str, command: str) -> str:
    """The name of the run, and how to run it again."""
    code = f"<pre class='command'><code>{_visible(command)}</code></pre>" if command else ""
    kind = "<p class='kind'>elman <span>training report</span></p>"
    return f"<header>{kind}<h1>{_visible(title)}</h1>{code}</header>"


def _section(name: str, content: str) -> str:
    return f"<section><h2>{name}</h2>{content}</section>" if content else ""


def _summary(rows: Mapping[str, str]) -> str:
    """The head table, as pairs that flow into as many columns as there is room for."""
    pairs = [
        f"<div><dt>{_visible(name)}</dt><dd>{_visible(value)}</dd></div>" for name, value in rows.items()
    ]
    return f"<dl>{''.join(pairs)}</dl>" if pairs else ""


def _scores(scores: Mapping[str, Mapping[str, str]]) -> str:
    """A table with a row for each model or text; columns in the order of their first appearance."""
    if not scores:
        return ""
    columns = list(dict.fromkeys(column for row in scores.values() for column in row))
    head = "".join(f"<th scope='col'>{_visible(column)}</th>" for column in columns)
    rows = "".join(
        f"<tr><th scope='row'>{_visible(name)}</th>"
        + "".join(f"<td>{_visible(row.get(column, '–'))}</td>" for column in columns)
        + "</tr>"
        for name, row in scores.items()
    )
    return (
        f"<div class='wide'><table><thead><tr><td></td>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
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
    rows = [("two", main), ("three", small)]
    return "".join(
        f"<div class='charts {kind}'>{''.join(f'<figure>{chart}</figure>' for chart in charts)}</div>"
        for kind, charts in rows
    )


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
    code = "".join(f"<code>{_visible(table)}</code>" for table in tables)
    return f"<pre class='box settings'>{code}</pre>" if text.strip() else ""


def _samples(samples: Sequence[tuple[str, str]]) -> str:
    """Each sample in a box, its prompt set off from what the model wrote."""
    return "".join(
        f"<pre class='box sample'><b>{_visible(prompt)}</b>{_visible(continuation)}</pre>"
        for prompt, continuation in samples
    )


def _visible(text: str) -> str:
    """`text` escaped for HTML, with its control characters as Python writes them, set off by colour."""
    return _CONTROL.sub(
        lambda match: f"<i>{match[0].encode('unicode_escape').decode()}</i>", html.escape(text)
    )


_STYLE = """
:root { color-scheme: light dark;
  --sans: Inter, ui-sans-serif, system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial,
    sans-serif;
  --mono: ui-monospace, "SF Mono", "JetBrains Mono", "Cascadia Mono", Menlo, Consolas, "Liberation Mono",
    monospace;
  --paper: #fdfdfc; --box: #f5f5f2; --ink: #1c1d20; --muted: #6a6d75; --rule: #e9e8e4; --axis: #b9b8b3;
  --accent: #2a5bd7; --second: #c2570c; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #131417; --box: #1b1d21; --ink: #e8e8e6; --muted: #9699a2; --rule: #282a2f; --axis: #4c4f57;
  --accent: #86a9ff; --second: #f0a35e; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body { margin: 0 auto; max-width: 1020px; padding: 56px 32px 72px;
  background: var(--paper); color: var(--ink);
  font: 15px/1.55 var(--sans); font-variant-numeric: tabular-nums; overflow-wrap: break-word; }
h1 { margin: 0; font-size: 32px; line-height: 1.2; font-weight: 650; letter-spacing: -0.02em; }
h2 { margin: 0 0 18px; font-size: 17px; line-height: 1.3; font-weight: 650; letter-spacing: -0.01em; }
section { margin-top: 52px; }
.kind { margin: 0 0 6px; color: var(--accent); font-size: 13px; font-weight: 600; }
.kind span { color: var(--muted); font-weight: 400; margin-left: 6px; }
pre, code { margin: 0; font: 13px/1.6 var(--mono); white-space: pre-wrap; overflow-wrap: anywhere;
  tab-size: 4; }
.command { margin-top: 14px; color: var(--muted); }
.command code::before { content: "$ "; opacity: 0.6; }
.box { background: var(--box); border-radius: 8px; padding: 16px 20px; }
.box + .box { margin-top: 12px; }
.settings { columns: 2 320px; column-gap: 48px; }
.settings code { display: block; break-inside: avoid; padding-bottom: 1.2em; }
.settings code:last-child { padding-bottom: 0; }
.box b { color: var(--accent); font-weight: 600; }
i { font-style: normal; color: var(--second); }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(200px, 1fr)); gap: 20px 28px;
  margin: 32px 0 0; padding: 22px 0; border: solid var(--rule); border-width: 1px 0; }
dt { color: var(--muted); font-size: 13px; }
dd { margin: 0; font-weight: 550; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { padding: 9px 0 9px 28px; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--rule); }
thead th { color: var(--muted); font-size: 13px; font-weight: 400; }
tr > :first-child { padding-left: 0; text-align: left; white-space: normal; min-width: 8em; }
tbody th { font-weight: 550; }
.note { margin: 12px 0 0; color: var(--muted); font-size: 13px; }
.charts { display: grid; gap: 32px 36px; }
.charts + .charts { margin-top: 36px; }
figure { margin: 0; min-width: 0; }
@media (min-width: 521px) { .three { grid-template-columns: repeat(2, minmax(0, 1fr)); } }
@media (min-width: 760px) {
  .two { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  .three { grid-template-columns: repeat(3, minmax(0, 1fr)); } }
@media (max-width: 520px) {
  body { padding: 32px 18px 48px; } h1 { font-size: 26px; } section { margin-top: 40px; }
  dl { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 16px 20px; } .box { padding: 14px 16px; }
  th, td { padding-left: 18px; }
  .two .chart { font-size: 14px; } .two .chart .title, .two .chart .last { font-size: 17px; }
  .three .chart { font-size: 10px; } .three .chart .title, .three .chart .last { font-size: 11.5px; } }
@media print {
  :root { --paper: #fff; --box: #fff; --ink: #000; --muted: #555; --rule: #ddd; --axis: #999;
    --accent: #2a5bd7; --second: #c2570c; }
  body { max-width: none; padding: 0; font-size: 11pt; }
  .box { border: 1px solid var(--rule); }
  figure, tr, .sample { break-inside: avoid; }
  h2 { break-after: avoid; }
  .two { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  .three { grid-template-columns: repeat(3, minmax(0, 1fr)); } }
"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
"""
