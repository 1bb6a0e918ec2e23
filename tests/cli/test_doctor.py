"""`elman doctor`: exit code 0 for a sound model, 1 where a check fails."""

import math

import pytest

from elman.cli.doctor import check_folder
from elman.evaluate import doctor
from elman.evaluate.doctor import Check
from elman.text_model import load

ENVIRONMENT = ["arithmetic", "cache"]
FOLDER = ["save and load", "framing tokens", "padding row"]


def test_json_is_one_document_with_what_is_promised(elman, desk):
    outcome = elman("doctor", desk / "run", "--json")
    document = outcome.document
    assert outcome.code == 0
    assert outcome.err == ""
    assert set(document) == {"schema", "checks"}
    assert document["schema"] == "elman.doctor/1"
    for check in document["checks"]:
        assert {"name", "pass", "value", "limit"} <= set(check)
        assert check["pass"] is True
        assert check["value"] <= check["limit"]
    names = [check["name"] for check in document["checks"]]
    assert names[: len(ENVIRONMENT)] == ENVIRONMENT
    assert names[-3:] == FOLDER
    assert {"sums to one", "causality", "cutting", "reset", "batch size"} < set(names)


def test_without_a_model_the_environment_is_checked(elman):
    assert [check["name"] for check in elman("doctor", "--json").document["checks"]] == ENVIRONMENT
    assert elman("doctor").code == 0


@pytest.mark.parametrize("value", [2.0, math.nan])
def test_a_check_that_fails_is_exit_code_one(elman, desk, monkeypatch, value):
    monkeypatch.setattr(
        doctor, "check_model", lambda model, seed: [Check("truth", value, 1.0, "how far from it")]
    )
    outcome = elman("doctor", desk / "run", "--json")
    assert outcome.code == 1
    (failed,) = [check for check in outcome.document["checks"] if not check["pass"]]
    assert failed["name"] == "truth"
    assert failed["value"] == (None if math.isnan(value) else value)
    table = elman("doctor", desk / "run")
    assert table.code == 1
    assert [line.split()[:2] for line in table.out.splitlines() if "FAIL" in line] == [["truth", "FAIL"]]


def test_a_padding_row_that_is_not_zero_is_found(desk):
    text_model = load(desk / "run")
    assert all(check.passed for check in check_folder(text_model))
    text_model.model.embedding.weight.data[text_model.tokenizer.pad_id, 0] = 0.5
    assert [check.name for check in check_folder(text_model) if not check.passed] == ["padding row"]


def test_the_seed_has_a_range(elman, desk):
    assert elman("doctor", desk / "run", "--seed", 2**63 - 1).code == 0
    elman("doctor", "--seed", -1).refuses(4, "seed (-1)")
    elman("doctor", desk / "run", "--seed", 10**30).refuses(4, "seed (1000")
    elman("doctor", "nowhere").refuses(5, "nowhere: no such model")
