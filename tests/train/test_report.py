"""The page is whole, stands alone, and shows hostile text without obeying it."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elman.train.report import Report, render_report
from tests.page import Page

HOSTILE = (
    "</pre></style><script src=//evil.example>alert('x')</script><img onerror=\"x\">&amp;\x1b[31m\u202e\ud800"
)
SHOWN = HOSTILE.replace("\x1b", "\\x1b").replace("\u202e", "\\u202e").replace("\ud800", "\\ud800")


def training(steps, **changes):
    return [
        {
            "step": step,
            "seconds": step / 10,
            "tokens": step * 1024,
            "loss": 3 + 4 / step,
            "learning_rate": 1e-3,
            "gradient_norm": 0.5,
            "tokens_per_second": 1e4,
        }
        | changes
        for step in steps
    ]


def validation(steps, bits=1.5):
    return [
        {
            "step": step,
            "seconds": step / 10,
            "tokens": 1,
            "valid_bits_per_byte": bits,
            "valid_perplexity": 40.0,
        }
        for step in steps
    ]


def report(**changes):
    parts = {
        "title": "a run",
        "summary": {"Preset": "default", "Parameters": "1,785,600"},
        "scores": {
            "LSTM": {"Bits per byte": "1.657"},
            "5-gram": {"Bits per byte": "1.8", "Perplexity": "52.9"},
        },
        "metrics": training(range(1, 400)) + validation([100, 200, 399]),
        "samples": [("The ", "cat sat.\n\nIt sat."), ("", "No prompt.")],
        "settings": '[data]\ncorpus = "python-docs"\n\n[model]\ncell = "lstm"\n',
        "command": "elman train python-docs",
    }
    return Report(**(parts | changes))


EMPTY = {"summary": {}, "scores": {}, "metrics": [], "samples": [], "settings": "", "command": ""}


def test_the_page_shows_every_part():
    page = Page(render_report(report()))
    assert page.texts["title"] == page.texts["h1"] == "a run"
    assert page.texts["h2"] == "ScoresCurvesSamplesSettings"
    assert page.texts["dl"] == "PresetdefaultParameters1,785,600"
    assert page.texts["table"] == "Bits per bytePerplexityLSTM1.657–5-gram1.852.9"
    assert page.tags.count("svg") == 5
    for text in (
        "The cat sat.\n\nIt sat.",
        "No prompt.",
        'corpus = "python-docs"',
        "elman train python-docs",
    ):
        assert text in page.texts["pre"]


@pytest.mark.parametrize("part", [*EMPTY])
def test_an_empty_part_is_left_out(part):
    page = Page(render_report(report(**{part: EMPTY[part]})))
    lost = {"scores": "Scores", "metrics": "Curves", "samples": "Samples", "settings": "Settings"}.get(part)
    assert page.texts["h2"] == "ScoresCurvesSamplesSettings".replace(lost or "", "")


def test_an_empty_report_is_a_page():
    assert Page(render_report(report(**EMPTY))).texts["h1"] == "a run"


@pytest.mark.parametrize(
    "metrics",
    [
        training([1]),
        validation([1]),
        [{}],
        [{"step": None, "loss": None}],
        training([1, 2, 3], loss=math.nan, gradient_norm=math.inf, seconds=None),
        training(range(1, 5000), loss=None),
        validation([1, 2], bits=None),
        [{"step": 0, "seconds": 0.0, "loss": 0.0}, {"step": 0, "seconds": 0.0, "valid_bits_per_byte": 0.0}],
    ],
)
def test_any_metrics_make_five_charts(metrics):
    text = render_report(report(metrics=metrics))
    assert Page(text).tags.count("svg") == 5
    body = text.partition("<body>")[2]
    assert not re.search(r'="[^"]*(nan|inf)', body)


def test_a_long_run_makes_a_small_page():
    assert len(render_report(report(metrics=training(range(1, 20_000))))) < 120_000


def test_a_resumed_run_draws_one_line():
    before = training(range(1, 301)) + validation([100, 200])
    undone = training(range(150, 301, 7), loss=9.0) + validation([250], bits=9.0)
    after = training(range(150, 401)) + validation([200, 300, 400])
    straight = training(range(1, 401)) + validation([100, 200, 300, 400])
    assert render_report(report(metrics=before + undone + after)) == render_report(report(metrics=straight))


@pytest.mark.parametrize(
    ("seconds", "unit"), [(90.0, "seconds"), (179.0, "seconds"), (180.0, "minutes"), (11_000.0, "hours")]
)
def test_time_has_a_unit_that_reads_well(seconds, unit):
    metrics = [record | {"seconds": seconds} for record in validation([1])]
    assert f"{unit} of training" in Page(render_report(report(metrics=metrics))).texts["svg"]


def test_hostile_text_is_shown_and_not_obeyed():
    text = render_report(
        Report(
            title=HOSTILE,
            summary={HOSTILE: HOSTILE},
            scores={HOSTILE: {HOSTILE: HOSTILE}},
            metrics=training([1, 2]),
            samples=[(HOSTILE, HOSTILE)],
            settings=HOSTILE,
            command=HOSTILE,
        )
    )
    page = Page(text)
    harmless = Page(render_report(report())).tags
    assert set(page.tags) - {"i"} <= set(harmless)
    assert not [name for name, _ in page.attributes if name.startswith("on") or name in ("src", "href")]
    for tag in ("h1", "dt", "dd", "th", "td", "b", "code", "pre"):
        assert SHOWN in page.texts[tag], tag
    assert not set(text) & set("\x1b\u202e\ud800")
    text.encode()


@given(st.text(st.characters(), max_size=50))
def test_any_sample_can_be_shown(sample):
    text = render_report(report(**EMPTY | {"samples": [(sample, sample)]}))
    text.encode()
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text)
    shown = Page(text).texts.get("pre", "")
    assert shown[: len(shown) // 2] == shown[len(shown) // 2 :]
    if sample.isprintable():
        assert shown == sample * 2


def test_the_page_needs_nothing_from_elsewhere():
    text = render_report(report())
    page = Page(text)
    assert not {"script", "link", "img", "iframe", "object", "use", "base"} & set(page.tags)
    assert not re.search(r"https?:|//|url\(|@import", text)
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'; img-src data:") in page.attributes


def test_the_page_follows_the_reader():
    text = render_report(report())
    for want in ("prefers-color-scheme: dark", "@media print", "width=device-width", "tabular-nums"):
        assert want in text
