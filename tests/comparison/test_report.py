"""The page of a comparison is whole, stands alone, and shows hostile text without obeying it."""

import math
import re

import pytest

from elman.compare.interval_chart import interval_chart
from elman.compare.report import Comparison, render_comparison
from elman.compare.table import Row
from tests.page import Page

HOSTILE = "</pre></style><script src=//evil.example>alert('x')</script><img onerror=\"x\">&amp;\x1b[31m\u202e"
SHOWN = HOSTILE.replace("\x1b", "\\x1b").replace("\u202e", "\\u202e")
MODELS = [f"model {k}" for k in range(12)]


def row(model="lstm", difference=0.0, **changes):
    parts = {
        "parameters": 1000,
        "seeds": 3,
        "learning_rate": 0.004,
        "flops_per_token": 2000,
        "tokens": 3000,
        "seconds": 4.0,
        "tokens_per_second": 750.0,
        "peak_memory_bytes": None,
        "perplexity": 38.4,
        "word_perplexity": 412.7,
        "bits_per_byte": 1.7 + difference,
        "bits_per_byte_sd": 0.01,
        "interval": (difference - 0.05, difference + 0.05) if difference else (0.0, 0.0),
        "generation_tokens_per_second": 300.0,
        "state_bytes": 64,
    }
    return Row(model=model, difference=difference, **(parts | changes))


def comparison(models=MODELS, **changes):
    parts = {
        "title": "models on a text",
        "command": "elman compare lstm gru",
        "facts": {"Corpus": "python-docs", "Budget": "90 s"},
        "rows": [row(model, 0.1 * k) for k, model in reversed(list(enumerate(models)))],
        "curves": {m: [(s, 100 * s, 1.7 + k / 10 + 1 / s) for s in (1, 5, 9)] for k, m in enumerate(models)},
        "by_position": {m: [(1 << i, 4 - i / 10 + k) for i in range(9)] for k, m in enumerate(models)},
        "cost": {m: [(1 << i, 1000 + (k << i)) for i in range(9)] for k, m in enumerate(models)},
        "samples": dict.fromkeys(models, "The cat sat."),
        "notes": ["Read with care."],
    }
    return Comparison(**(parts | changes))


EMPTY = {
    "command": "",
    "facts": {},
    "rows": [],
    "curves": {},
    "by_position": {},
    "cost": {},
    "samples": {},
    "notes": [],
}


def circles(svg):
    return [float(x) for x in re.findall(r'<circle class="dot" cx="([^"]*)"', svg)]


def test_the_page_shows_every_part():
    page = Page(render_comparison(comparison()))
    assert page.texts["h1"] == "models on a text"
    assert page.texts["h2"] == "ScoresCostCurvesNotesSamples"
    assert page.texts["dl"] == "Corpuspython-docsBudget90 s"
    assert page.tags.count("svg") == 5
    assert page.texts["h3"] == "".join(MODELS)
    assert page.texts["pre"].count("The cat sat.") == len(MODELS)
    assert "Read with care." in page.texts["p"]
    assert "elman compare lstm gru" in page.texts["code"]
    for heading in ("bits/byte", "to best", "params", "MFLOP/token", "state kB"):
        assert heading in page.texts["table"]
    assert page.texts["table"].index("model 0") < page.texts["table"].index("model 11")


@pytest.mark.parametrize(
    ("part", "headings", "charts"),
    [
        ("rows", "CurvesNotesSamples", 4),
        ("curves", "ScoresCostCurvesNotesSamples", 3),
        ("by_position", "ScoresCostCurvesNotesSamples", 4),
        ("cost", "ScoresCostCurvesNotesSamples", 4),
        ("samples", "ScoresCostCurvesNotes", 5),
        ("notes", "ScoresCostCurvesSamples", 5),
        ("facts", "ScoresCostCurvesNotesSamples", 5),
    ],
)
def test_an_empty_part_is_left_out(part, headings, charts):
    page = Page(render_comparison(comparison(**{part: EMPTY[part]})))
    assert page.texts["h2"] == headings
    assert page.tags.count("svg") == charts


def test_an_empty_comparison_is_a_page():
    page = Page(render_comparison(comparison(**EMPTY)))
    assert page.texts["h1"] == "models on a text"
    assert "h2" not in page.texts


def test_a_model_looks_the_same_in_every_chart():
    text = render_comparison(comparison(by_position={"model 7": [(1, 2.0), (2, 1.5)]}))
    classes = re.findall(r'<g><title>model 7</title><path class="([^"]*)"', text)
    assert classes == ["s7"] * 4


def test_numbers_that_are_none_make_a_page():
    broken = row(
        "broken", math.nan, perplexity=math.inf, interval=(math.nan, math.nan), bits_per_byte_sd=math.nan
    )
    text = render_comparison(
        comparison(
            rows=[row(), broken],
            curves={"broken": [(math.nan, 0, math.inf)], "lstm": []},
            by_position={"broken": [(1, math.inf)]},
            cost={"broken": [(0, 0), (1, 0)]},
        )
    )
    assert Page(text).tags.count("svg") == 5
    assert not re.search(r'="[^"]*\b(nan|inf)\b', text.partition("<body>")[2])


def test_hostile_text_is_shown_and_not_obeyed():
    names = [HOSTILE, "harmless"]
    text = render_comparison(
        comparison(
            names,
            title=HOSTILE,
            command=HOSTILE,
            facts={HOSTILE: HOSTILE},
            samples={HOSTILE: HOSTILE},
            notes=[HOSTILE],
        )
    )
    page = Page(text)
    assert set(page.tags) - {"i"} <= set(Page(render_comparison(comparison())).tags)
    assert not [name for name, _ in page.attributes if name.startswith("on") or name in ("src", "href")]
    for tag in ("title", "h1", "text", "dt", "dd", "th", "code", "pre", "h3", "p"):
        assert SHOWN in page.texts[tag], tag
    text.encode()
    assert not set(text) & set("\x1b\u202e")


def test_the_page_needs_nothing_from_elsewhere():
    text = render_comparison(comparison())
    assert not {"script", "link", "img", "iframe", "object"} & set(Page(text).tags)
    assert not re.search(r"https?:|//|url\(|@import", text)


def test_intervals_lie_around_their_differences_on_one_scale():
    svg = interval_chart([row("c", 0.4), row("a"), row("b", 0.2)], title="t")
    a, b, c = circles(svg)
    assert a < b < c
    assert b - a == pytest.approx(c - b, abs=0.2)  # a tenth of a pixel each
    found = re.findall(r'd="M([\d.]+) [\d.]+v8m0 -4H([\d.]+)', svg)
    (b_low, b_high), (c_low, c_high) = [map(float, pair) for pair in found]
    assert (b_low + b_high) / 2 == pytest.approx(b, abs=0.2)
    assert b_high - b_low == pytest.approx((b - a) / 2, abs=0.3)
    assert (c_low + c_high) / 2 == pytest.approx(c, abs=0.2)
    zero = re.search(r'class="zero" x1="([\d.]+)"', svg)
    assert float(zero[1]) == a


@pytest.mark.parametrize("rows", [[], [row()], [row(), row("twin")], [row("x", math.nan)]])
def test_any_rows_make_an_interval_chart(rows):
    svg = interval_chart(rows, title="t")
    Page(svg)
    assert len(circles(svg)) == sum(math.isfinite(each.difference) for each in rows)
    assert not re.search(r'="[^"]*(nan|inf)', svg)
