"""The table of a comparison: one row a model, the best first, for people, for a README and for a spreadsheet."""

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from elman.evaluate.score import shortened


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One model. What was trained several times is the mean over the seeds."""

    model: str
    parameters: int
    seeds: int
    """Trainings that the row stands for."""
    learning_rate: float | None
    """None for a model that is counted, not trained."""
    flops_per_token: int
    """Of the matrix products in predicting one token."""
    tokens: int
    """Trained on."""
    seconds: float
    """Of training."""
    tokens_per_second: float
    """In training."""
    peak_memory_bytes: int | None
    """Of training, above what was in use before; None where it cannot be measured."""
    perplexity: float
    """exp(nats per token)."""
    word_perplexity: float
    """exp(nats per word)."""
    bits_per_byte: float
    bits_per_byte_sd: float
    """Standard deviation over the seeds; NaN for one."""
    difference: float
    """Bits per byte above those of the best row."""
    interval: tuple[float, float]
    """Of `difference`, 95 %; NaN where there is none."""
    generation_tokens_per_second: float
    state_bytes: int
    """What has to be kept of a text to go on with it."""

    def as_dict(self) -> dict[str, Any]:
        """The row for JSON, by the names of its fields: NaN and infinity are None, the interval a list of two."""
        return {
            name: [_finite(end) for end in value] if isinstance(value, tuple) else _finite(value)
            for name, value in asdict(self).items()
        }


def ranked(rows: Sequence[Row]) -> list[Row]:
    """The rows by their bits per byte, the best first; what is not a number comes last."""
    return sorted(rows, key=lambda row: (math.isnan(row.bits_per_byte), row.bits_per_byte))


def columns(row: Row) -> dict[str, str]:
    """A row as the cells of a table, by short headings with their units."""
    return {
        "model": row.model,
        "bits/byte": _with_spread(row.bits_per_byte, row.bits_per_byte_sd),
        "to best": _with_interval(row.difference, row.interval),
        "perplexity": shortened(row.perplexity, 2),
        "word perpl.": shortened(row.word_perplexity, 1),
        "params": f"{row.parameters:,}",
        "MFLOP/token": f"{row.flops_per_token / 1e6:,.2f}",
        "state kB": f"{row.state_bytes / 1e3:,.2f}",
        "tok/s": f"{row.tokens_per_second:,.0f}",
        "gen. tok/s": f"{row.generation_tokens_per_second:,.0f}",
        "peak MB": "–" if row.peak_memory_bytes is None else f"{row.peak_memory_bytes / 1e6:,.0f}",
        "tokens": f"{row.tokens:,}",
        "seconds": f"{row.seconds:,.1f}",
        "lr": "–" if row.learning_rate is None else f"{row.learning_rate:g}",
        "seeds": f"{row.seeds}",
    }


def to_markdown(rows: Sequence[Row], command: str) -> str:
    """The table in Markdown, the best first, under the command that made it."""
    cells = [columns(row) for row in ranked(rows)]
    lines = ["```", *command.splitlines(), "```", ""] if command else []
    if cells:
        lines += [_line(cells[0]), _line([":--", *["--:"] * (len(cells[0]) - 1)])]
    lines += [_line(row.values()) for row in cells]
    return "\n".join([*lines, ""])


def to_csv(rows: Sequence[Row]) -> str:
    """The numbers as they are, the best first; no cell holds what is not a number.

    Columns are the fields of `Row`, but for `interval`, which is `interval_low` and `interval_high`.
    """
    names = [field.name for field in fields(Row)]
    at = names.index("interval")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*names[:at], "interval_low", "interval_high", *names[at + 1 :]])
    for row in ranked(rows):
        values = list(row.as_dict().values())
        writer.writerow([*values[:at], *values[at], *values[at + 1 :]])
    return text.getvalue()


def signed(number: float) -> str:
    """Bits per byte above or below something, with a sign that is as wide as a digit."""
    text = f"{number:+.3f}".replace("-", "−")
    return text[1:] if float(f"{number:.3f}") == 0 else text


def _with_spread(mean: float, sd: float) -> str:
    return f"{mean:.3f} ± {sd:.3f}" if math.isfinite(sd) else f"{mean:.3f}"


def _with_interval(difference: float, interval: tuple[float, float]) -> str:
    if difference == 0:
        return "best"
    if math.isnan(interval[0]):
        return signed(difference)
    return f"{signed(difference)} [{', '.join(f'{end:.3f}'.replace('-', '−') for end in interval)}]"


def _line(cells: Iterable[str]) -> str:
    escaped = (cell.replace("|", r"\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
