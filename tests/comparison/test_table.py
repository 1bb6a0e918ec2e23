"""The table has the best on top, in every form, and no form holds what the others do not."""

import csv
import io
import json
import math

import pytest

from elman.compare.table import Row, columns, ranked, to_csv, to_markdown
from elman.evaluate.score import Score, score_columns

PLAIN = {
    "model": "lstm",
    "parameters": 1_785_600,
    "seeds": 3,
    "learning_rate": 0.004,
    "flops_per_token": 3_571_200,
    "tokens": 5_980_160,
    "seconds": 90.04,
    "tokens_per_second": 66_446.4,
    "peak_memory_bytes": 312_400_000,
    "perplexity": 38.42,
    "word_perplexity": 412.71,
    "bits_per_byte": 1.702,
    "bits_per_byte_sd": 0.0041,
    "difference": 0.1134,
    "interval": (0.0941, 0.1312),
    "generation_tokens_per_second": 3021.0,
    "state_bytes": 2560,
}


def row(**changes):
    return Row(**(PLAIN | changes))


COUNTED = row(
    model="5-gram",
    seeds=1,
    learning_rate=None,
    flops_per_token=0,
    peak_memory_bytes=None,
    bits_per_byte=1.803,
    bits_per_byte_sd=math.nan,
    interval=(math.nan, math.nan),
    state_bytes=32,
)
BEST = row(model="best", bits_per_byte=1.5, difference=0.0, interval=(0.0, 0.0))
BROKEN = row(model="broken", bits_per_byte=math.nan, perplexity=math.inf, difference=math.nan)
ROWS = [BROKEN, COUNTED, row(), BEST]
ORDER = ["best", "lstm", "5-gram", "broken"]


def test_the_best_is_first_and_what_is_no_number_last():
    assert [each.model for each in ranked(ROWS)] == ORDER


def test_a_row_is_strict_json():
    for each in ROWS:
        json.dumps(each.as_dict(), allow_nan=False)
    assert row().as_dict() == PLAIN | {"interval": [0.0941, 0.1312]}
    assert COUNTED.as_dict()["bits_per_byte_sd"] is None
    assert COUNTED.as_dict()["interval"] == [None, None]


def test_cells_that_a_hand_would_write():
    assert columns(row()) == {
        "model": "lstm",
        "bits/byte": "1.702 ± 0.004",
        "to best": "+0.113 [0.094, 0.131]",
        "perplexity": "38.42",
        "word perpl.": "412.7",
        "params": "1,785,600",
        "MFLOP/token": "3.57",
        "state kB": "2.56",
        "tok/s": "66,446",
        "gen. tok/s": "3,021",
        "peak MB": "312",
        "tokens": "5,980,160",
        "seconds": "90.0",
        "lr": "0.004",
        "seeds": "3",
    }
    counted = columns(COUNTED)
    assert (counted["bits/byte"], counted["to best"]) == ("1.803", "+0.113")
    assert (counted["peak MB"], counted["lr"], counted["MFLOP/token"]) == ("–", "–", "0.00")
    assert columns(BEST)["to best"] == "best"
    assert columns(row(difference=0.0002, interval=(-0.004, 0.0049)))["to best"] == "0.000 [−0.004, 0.005]"


@pytest.mark.parametrize("perplexity", [1.0, 38.424, 12_345.678, 999_999.4, 1e6, 1.5e9, math.inf, math.nan])
def test_perplexities_read_as_in_the_other_tables(perplexity):
    try:
        nats = math.log(perplexity)
    except OverflowError:  # pragma: no cover
        nats = math.inf
    score = Score(nats=nats, targets=1, characters=1, bytes=1, words=1, documents=1)
    wanted = score_columns(score)
    cells = columns(row(perplexity=score.perplexity, word_perplexity=score.word_perplexity))
    assert {name: cells[name] for name in ("perplexity", "word perpl.")} == {
        name: wanted[name] for name in ("perplexity", "word perpl.")
    }


def test_markdown_is_a_table_under_its_command():
    text = to_markdown([*ROWS, row(model="a|b", bits_per_byte=9.0)], "elman compare lstm")
    lines = text.splitlines()
    assert lines[:4] == ["```", "elman compare lstm", "```", ""]
    cells = [line.strip("|").replace(r"\|", "/").split("|") for line in lines[4:]]
    assert [cell.strip() for cell in cells[0]] == list(columns(row()))
    assert {len(line) for line in cells} == {len(cells[0])}
    assert [line[0].strip() for line in cells[2:]] == [*ORDER[:3], "a/b", "broken"]
    assert text.endswith("|\n")


def test_no_rows_make_no_table():
    assert to_markdown([], "").strip() == ""
    assert len(list(csv.reader(io.StringIO(to_csv([]))))) == 1


def test_csv_holds_the_numbers_as_they_are():
    named = row(model='a, "b"\nc')
    best, first, *_, broken = csv.DictReader(io.StringIO(to_csv([*ROWS[:2], ROWS[3], named])))
    assert (best["model"], first["model"], broken["bits_per_byte"]) == ("best", 'a, "b"\nc', "")
    plain = named.as_dict()
    low, high = plain.pop("interval")
    assert (float(first["interval_low"]), float(first["interval_high"])) == (low, high)
    assert set(first) == {*plain, "interval_low", "interval_high"}
    for name, value in plain.items():
        assert first[name] == value or float(first[name]) == value
