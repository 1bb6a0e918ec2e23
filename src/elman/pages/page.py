"""The page that reports are printed on: its look, its frame, and the parts that every report has.

A page stands alone: no scripts, no fonts or pictures from elsewhere, and a content security policy that holds
it to that. It follows the reader's light or dark preference, fits a telephone, and prints.

Text that comes from outside (samples, names, settings) is escaped, and its control characters are shown
instead of obeyed: a terminal code or a change of writing direction is part of what a model wrote.
"""

import html
import re
from collections.abc import Iterable, Mapping, Sequence

# C0 but tab and newline, DEL and C1; marks that turn the writing direction; line separators; lone surrogates.
_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]"
)


def page(title: str, body: Iterable[str], style: str = "") -> str:
    """The text of a UTF-8 HTML file.

    Args:
        title: Of the window; text.
        body: Parts in their order, each HTML; empty ones are left out.
        style: CSS beside that of the page.
    """
    return _PAGE.format(title=plain(title), style=_STYLE + style, body="\n".join(filter(None, body)))


def header(kind: str, title: str, command: str) -> str:
    """What the page is, what it is about, and what to type to make it again."""
    code = f"<pre class='command'><code>{visible(command)}</code></pre>" if command else ""
    return f"<header><p class='kind'>elman <span>{kind}</span></p><h1>{visible(title)}</h1>{code}</header>"


def section(name: str, content: str) -> str:
    """A heading over its content; nothing where there is no content."""
    return f"<section><h2>{name}</h2>{content}</section>" if content else ""


def facts(rows: Mapping[str, str]) -> str:
    """Names and values, as pairs that flow into as many columns as there is room for."""
    pairs = [f"<div><dt>{visible(name)}</dt><dd>{visible(value)}</dd></div>" for name, value in rows.items()]
    return f"<dl>{''.join(pairs)}</dl>" if pairs else ""


def table(rows: Mapping[str, Mapping[str, str]]) -> str:
    """A row for each name; columns in the order of their first appearance, a dash where a row lacks one."""
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    head = "".join(f"<th scope='col'>{visible(column)}</th>" for column in columns)
    body = "".join(
        f"<tr><th scope='row'>{visible(name)}</th>"
        + "".join(f"<td>{visible(row.get(column, '–'))}</td>" for column in columns)
        + "</tr>"
        for name, row in rows.items()
    )
    return (
        f"<div class='wide'><table><thead><tr><td></td>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def charts(kind: str, drawings: Sequence[str]) -> str:
    """Drawings side by side where there is room: `kind` is "two" or "three" in a row."""
    return (
        f"<div class='charts {kind}'>{''.join(f'<figure>{drawing}</figure>' for drawing in drawings)}</div>"
    )


def visible(text: str) -> str:
    """`text` escaped for HTML, with its control characters as Python writes them, set off by colour."""
    return _CONTROL.sub(lambda match: f"<i>{_written(match)}</i>", html.escape(text))


def plain(text: str) -> str:
    """The same without colour, for attributes, titles and drawings."""
    return _CONTROL.sub(_written, html.escape(text))


def _written(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()


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
