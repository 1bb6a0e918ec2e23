"""Rows are means over seeds, and their differences to the best row agree with them whatever diverged."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elman.compare.bootstrap import paired_difference
from elman.compare.job import Measures, Result
from elman.compare.rows import make_rows, mean_by_position, sound_trainings
from elman.errors import DivergedError
from elman.evaluate.score import Score

BYTES = np.array([40, 10, 25, 60, 15])
TARGETS = 60


def measures(seed, document_nats, **changes):
    nats = [float(value) for value in document_nats]
    values = {
        "seed": seed,
        "parameters": 1000,
        "tokens": 500,
        "seconds": 2.0,
        "peak_memory_bytes": None,
        "score": Score(
            nats=sum(nats),
            targets=TARGETS,
            characters=150,
            bytes=int(BYTES.sum()),
            words=30,
            documents=len(nats),
        ),
        "document_nats": nats,
        "by_position": [],
        "flops_per_token": 2000,
        "state_bytes": 64,
        "generation_tokens_per_second": 100.0,
        "curve": [],
        "sample": "",
    }
    return Measures(**values | changes)


def draw(level, seed):
    return level * BYTES * np.random.default_rng(seed).uniform(0.9, 1.1, len(BYTES))


def trained(level, seeds):
    return [measures(seed, draw(level, seed + round(1000 * level))) for seed in seeds]


def rows_of(trainings):
    rates = {name: None if found[0].seed is None else 0.01 for name, found in trainings.items()}
    return {row.model: row for row in make_rows(trainings, rates, BYTES)}


@given(
    st.dictionaries(
        st.sampled_from(["a", "b", "c"]),
        st.tuples(st.floats(0.5, 3), st.sets(st.integers(0, 4), min_size=1)),
        min_size=1,
    ),
    st.floats(0.5, 3),
)
def test_a_difference_is_that_of_the_means(models, level):
    trainings = {name: trained(of, sorted(seeds)) for name, (of, seeds) in models.items()}
    trainings["counts"] = [measures(None, draw(level, 9))]
    rows = rows_of(trainings)
    best = min(row.bits_per_byte for row in rows.values())
    assert [row.bits_per_byte for row in rows.values()] == sorted(row.bits_per_byte for row in rows.values())
    for name, row in rows.items():
        nats = np.mean([one.score.nats for one in trainings[name]])
        assert row.bits_per_byte == pytest.approx(nats / math.log(2) / BYTES.sum())
        assert row.perplexity == pytest.approx(math.exp(nats / TARGETS))
        assert row.difference == pytest.approx(row.bits_per_byte - best, abs=1e-9)
        assert row.interval[0] <= row.difference + 1e-9
        assert row.interval[1] >= row.difference - 1e-9
        assert row.seeds == len(trainings[name])


def test_equal_seeds_are_paired():
    trainings = {"a": trained(1.0, range(3)), "b": trained(1.2, range(3))}
    nats = {name: np.array([one.document_nats for one in found]) for name, found in trainings.items()}
    row = rows_of(trainings)["b"]
    assert (row.difference, *row.interval) == paired_difference(nats["b"], nats["a"], BYTES)
    assert row.bits_per_byte_sd == pytest.approx(
        np.std([one.score.bits_per_byte for one in trainings["b"]], ddof=1)
    )


@pytest.mark.parametrize("counted_is_best", [False, True])
def test_a_counted_model_is_the_partner_of_every_seed(counted_is_best):
    counted = [measures(None, draw(0.8 if counted_is_best else 1.4, 9))]
    trainings = {"counts": counted, "a": trained(1.0, range(3))}
    rows = rows_of(trainings)
    one, seeds = np.array(counted[0].document_nats), np.array([m.document_nats for m in trainings["a"]])
    pair = (seeds, one) if counted_is_best else (one, seeds)
    row = rows["a" if counted_is_best else "counts"]
    assert (row.difference, *row.interval) == paired_difference(*pair, BYTES)
    assert math.isnan(rows["counts"].bits_per_byte_sd)
    assert rows["counts"].learning_rate is None


def test_seeds_that_do_not_match_are_not_paired_by_their_place():
    trainings = {"a": trained(1.0, [0, 1]), "b": trained(1.2, [1, 2])}
    nats = {name: np.mean([m.document_nats for m in found], axis=0) for name, found in trainings.items()}
    row = rows_of(trainings)["b"]
    assert (row.difference, *row.interval) == paired_difference(nats["b"], nats["a"], BYTES)


def test_costs_are_means_and_memory_the_most():
    found = [
        measures(0, draw(1, 0), tokens=100, seconds=1.0, peak_memory_bytes=5),
        measures(1, draw(1, 1), tokens=200, seconds=2.0, peak_memory_bytes=None),
        measures(2, draw(1, 2), tokens=600, seconds=3.0, peak_memory_bytes=7),
    ]
    row = rows_of({"a": found})["a"]
    assert (row.tokens, row.seconds, row.tokens_per_second, row.peak_memory_bytes) == (300, 2.0, 150.0, 7)
    assert (row.difference, row.interval) == (0.0, (0.0, 0.0))


def test_what_diverged_is_left_out():
    good = measures(1, draw(1, 0))
    bad, fine = Result(bits_per_byte=None), Result(bits_per_byte=1.0, measures=good)
    assert sound_trainings({"a": [bad, fine], "b": [bad]}) == {"a": [good]}
    with pytest.raises(DivergedError, match="--learning-rate"):
        sound_trainings({"a": [bad], "b": [bad, bad]})


def test_places_with_few_targets_are_not_shown():
    found = [
        measures(0, BYTES, by_position=[(1, 5.0, 400), (2, 4.0, 400), (4, 9.0, 3)]),
        measures(1, BYTES, by_position=[(1, 7.0, 400), (2, 4.5, 400), (4, 9.0, 3)]),
    ]
    assert mean_by_position(found) == [(1, 6.0), (2, 4.25)]


def test_a_result_survives_its_file():
    one = Result(
        bits_per_byte=1.25, measures=measures(2, draw(1, 0), by_position=[(1, 0.5, 3)], curve=[(1.0, 2, 3.0)])
    )
    read = Result.from_json(one.to_json())
    assert read.to_json() == one.to_json()
    assert read.measures.score == one.measures.score
    assert Result.from_json(Result(bits_per_byte=None).to_json()) == Result(bits_per_byte=None)
    short = replace(one, measures=replace(one.measures, document_nats=[1.0]))
    other = one.to_json().replace('"seconds"', '"sec\\nonds"')
    for text in (
        short.to_json(),
        other,
        "",
        "{}",
        "3",
        "[]",
        '{"bits_per_byte": 1, "measures": {"seed": 0}}',
    ):
        with pytest.raises(ValueError, match="Expecting value|not a result") as error:
            Result.from_json(text)
        assert "\n" not in str(error.value)
