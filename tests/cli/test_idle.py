"""A setting that has no effect in a run is told, and one that has is not."""

from pathlib import Path

import pytest

from elman.cli.idle import idle_settings
from elman.settings import resolve
from tests.command_line import small


def remarks(**given: object) -> list[str]:
    return list(idle_settings(given, resolve(overrides=given)))


@pytest.mark.parametrize(
    ("name", "value", "where_it_is_used"),
    [
        ("negatives", 3, {"loss": "sampled"}),
        ("exact_share", 0.5, {"loss": "sampled"}),
        ("text_field", "body", {"corpus": "novel.jsonl.gz"}),
        ("text_field", "body", {"corpus": "hf:some/texts"}),
        ("skip_bad", True, {"valid": "held_out.parquet"}),
        ("text_field", "body", {"corpus": "."}),  # a folder, which may hold some
        ("bucket", True, {"batches": "documents"}),
        ("max_length", 9, {"batches": "documents"}),
        ("order", 3, {"family": "window"}),
        ("order", 3, {"family": "ngram"}),
        ("prune", "0,1", {"family": "ngram"}),
        ("context", 9, {"family": "transformer"}),
        ("mlp", "gelu", {"family": "transformer"}),
        ("num_heads", 2, {"family": "transformer"}),
        ("num_heads", 2, {"cell": "slstm"}),
    ],
)
def test_what_has_no_effect_is_told_with_what_it_is_for(name, value, where_it_is_used):
    (remark,) = remarks(**{name: value})
    assert remark.startswith(f"{name} has no effect here: it is for ")
    assert remarks(**{name: value}, **where_it_is_used) == []


@pytest.mark.parametrize(
    ("name", "value", "where_it_is_idle"),
    [
        ("bptt", 9, {"batches": "documents"}),
        ("fresh_start", 0.5, {"batches": "documents"}),
        ("valid_limit", 100, {"valid": "held_out.txt"}),
        ("block", "residual", {"family": "transformer"}),
    ],
)
def test_what_usually_has_an_effect_is_told_where_it_has_none(name, value, where_it_is_idle):
    assert remarks(**{name: value}) == []
    (remark,) = remarks(**{name: value}, **where_it_is_idle)
    assert remark.startswith(f"{name} has no effect here: it is for ")


def test_a_name_may_be_dotted():
    assert list(idle_settings(["training.negatives"], resolve())) == remarks(negatives=512)


def test_a_training_tells_it_and_goes_on(elman, texts):
    outcome = elman(
        "train", "good.txt", *small(negatives=3, dropout=0.1), "--text-field", "body", "--out", "out"
    )
    assert outcome.code == 0
    notes = [line for line in outcome.err.splitlines() if "has no effect" in line]
    assert notes == [
        "note: negatives has no effect here: it is for --loss sampled",
        "note: text_field has no effect here: it is for jsonl, parquet and hf: records",
    ]
    assert Path("out/result.json").exists()
