"""A tiny comparison from its plan to its page: its numbers, and that it goes on where it was stopped."""

import errno
import json
import math
import os
import re
import shutil
import signal
import statistics
from dataclasses import asdict, replace
from pathlib import Path

import pytest

import elman
from elman.compare import job as working
from elman.compare import run as running
from elman.compare.job import Result
from elman.compare.plan import base_config
from elman.compare.run import duration
from elman.config import TrainingConfig
from elman.data.prepare import prepare
from elman.errors import ConfigError, DivergedError, InputError, ResourceError, StoppedError
from elman.text_model import load
from elman.train.machine import choose_machine
from elman.train.watcher import Watcher
from tests.comparison.tiny import MODELS, SETTINGS, compare, results_in, tiny_plan, write_text
from tests.switches import torch_as_before  # noqa: F401 - autouse

TIMING = {"seconds", "peak_memory_bytes", "generation_tokens_per_second"}
TRIALS = [f"{model}-lr-{rate}" for model in ("elman", "window") for rate in ("0.003", "0.008", "0.02")]
ROWS = ["ngram-counts", *(f"{model}-seed-{seed}" for model in ("elman", "window") for seed in (0, 1))]
JOBS = {*TRIALS, *ROWS}
MACHINE = choose_machine(TrainingConfig(max_steps=1, device="cpu", precision="float32")).describe()


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    return write_text(tmp_path_factory.mktemp("text") / "text.txt")


@pytest.fixture(scope="module")
def finished(text, tmp_path_factory, torch_as_before):  # noqa: F811
    """A comparison, what it returned, and what it said."""
    out, said = tmp_path_factory.mktemp("finished") / "deep" / "out", []
    return out, compare(text, out, say=said.append), said


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    """The comparison, for a test to spoil."""
    return shutil.copytree(finished[0], tmp_path / "copied")


@pytest.fixture
def done(monkeypatch) -> list[str]:
    """The jobs that are really done from here on, by name."""
    names: list[str] = []
    original = running.do_job

    def do_job(job, *others):
        names.append(job.name)
        return original(job, *others)

    monkeypatch.setattr(running, "do_job", do_job)
    return names


def without_timing(result: Result) -> dict:
    plain = asdict(result)
    if plain["measures"] is not None:
        plain["measures"] = {key: value for key, value in plain["measures"].items() if key not in TIMING}
        plain["measures"]["curve"] = [point[1:] for point in plain["measures"]["curve"]]
    return plain


def assert_same_results(one: Path, other: Path) -> None:
    first, second = results_in(one), results_in(other)
    assert set(first) == set(second) == JOBS
    for name in JOBS:
        assert without_timing(first[name]) == without_timing(second[name]), name


def everything_under(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_the_folder_holds_what_is_promised(finished):
    out, _, _ = finished
    assert {path.name for path in out.iterdir()} == {
        *(
            "plan.json",
            "environment.json",
            "compare.json",
            "table.csv",
            "table.md",
            "report.html",
            "runs",
            "results",
        )
    }
    assert set(results_in(out)) == JOBS
    assert {path.name for path in (out / "runs").iterdir()} == set(ROWS)  # nothing is left of trials


def test_the_json_has_what_is_promised(finished):
    out, result, _ = finished
    document = json.loads((out / "compare.json").read_text(), parse_constant=pytest.fail)
    assert document == json.loads(json.dumps(result.as_dict()))
    assert document["schema"] == "elman.compare/1"
    assert document["out"] == str(out)
    assert {row["model"] for row in document["rows"]} == set(MODELS)
    for row in document["rows"]:
        assert {"model", "parameters", "seconds", "tokens_per_second", "perplexity", "bits_per_byte"} <= set(
            row
        )
        assert {"bits_per_byte_sd", "difference", "interval"} <= set(row)


def test_the_rows_are_means_over_the_seeds_and_differences_to_the_best(finished):
    out, result, _ = finished
    found = results_in(out)
    bits = [row.bits_per_byte for row in result.rows]
    assert bits == sorted(bits)
    for row in result.rows:
        trainings = [found[name].measures for name in ROWS if name.startswith(row.model)]
        assert len(trainings) == row.seeds == (1 if row.model == "ngram" else 2)
        scores = [training.score for training in trainings]
        [targets] = {score.targets for score in scores}
        nats = statistics.fmean(score.nats for score in scores)
        assert row.perplexity == pytest.approx(math.exp(nats / targets), rel=1e-12)
        assert row.bits_per_byte == pytest.approx(nats / math.log(2) / scores[0].bytes, rel=1e-12)
        assert row.difference == pytest.approx(row.bits_per_byte - bits[0], abs=1e-12)
        assert row.interval[0] <= row.difference <= row.interval[1]
        assert row.tokens_per_second == pytest.approx(row.tokens / row.seconds, rel=0.5)
    assert result.rows[0].difference == 0


def test_the_rate_of_a_row_is_the_best_of_the_trials(finished):
    out, result, _ = finished
    found = results_in(out)
    for row in result.rows:
        tried = {
            float(name.rpartition("-")[2]): found[name].bits_per_byte
            for name in TRIALS
            if name.startswith(row.model)
        }
        assert row.learning_rate == (min(tried, key=tried.get) if tried else None)


@pytest.mark.parametrize("name", ["ngram-counts", "elman-seed-1", "window-seed-0"])
def test_the_model_kept_is_the_one_that_was_scored(finished, text, name):
    measures = results_in(finished[0])[name].measures
    valid = prepare(tiny_config(text).data).valid
    model = load(finished[0] / "runs" / name)
    assert model.score_store(valid).nats == pytest.approx(measures.score.nats, rel=1e-6)
    assert len(measures.document_nats) == valid.documents
    assert sum(measures.document_nats) == pytest.approx(measures.score.nats, rel=1e-9)
    assert (
        f"{measures.score.bits_per_byte:.4f}" in (finished[0] / "runs" / name / "model/README.md").read_text()
    )


def tiny_config(text):
    return base_config("elman", {**SETTINGS, "corpus": str(text)})


def test_everybody_read_the_budget_of_tokens(finished):
    for row in finished[1].rows:
        if row.model != "ngram":
            assert row.tokens == 640


def test_what_is_said(finished):
    said = finished[2]
    start = said.index(f"11 trainings on {MACHINE}")
    assert said[start - 3] == "ngram, order 5"
    assert re.fullmatch(r"elman, 1 x \d+, [\d,]+ parameters", said[start - 2])
    assert [line.partition(":")[0] for line in said[start + 1 :]] == [
        *TRIALS,
        *ROWS,
    ]
    *jobs, last = said[start + 1 :]
    assert all(re.fullmatch(r"\S+: \d+\.\d{3} bits per byte; about \d+ (s|min) left", line) for line in jobs)
    assert re.fullmatch(r"\S+: \d+\.\d{3} bits per byte", last)


def test_the_time_left_is_known_from_the_start_where_time_is_the_budget(text, tmp_path, monkeypatch):
    """Two models, three trials of a quarter and two seeds each: 5.5 budgets."""
    said = []

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "do_job", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compare(text, tmp_path / "out", tiny_plan(time=120.0, tokens=None), said.append)
    assert said[-1] == f"11 trainings on {MACHINE}; about 11 min left"


def test_what_is_found_done_costs_nothing(text, copied, done):
    said = []
    (copied / "results" / "window-seed-1.json").unlink()
    compare(text, copied, say=said.append)
    assert said[-2:] == [
        f"11 trainings on {MACHINE}, 10 of them done already",
        f"window-seed-1: {results_in(copied)['window-seed-1'].bits_per_byte:.3f} bits per byte",
    ]
    assert done == ["window-seed-1"]


def test_a_finished_comparison_trains_nothing_and_says_the_same(text, finished, copied, done):
    result = compare(text, copied)
    assert done == []
    assert result.rows == finished[1].rows
    for name in ("table.csv", "table.md"):
        assert (copied / name).read_bytes() == (finished[0] / name).read_bytes()


@pytest.mark.parametrize("damage", ["", "{", "[]", "null", '{"bits_per_byte": 1}', "truncated", "not utf-8"])
def test_a_damaged_result_is_done_again(text, finished, copied, done, damage):
    path = copied / "results" / "elman-seed-1.json"
    whole = path.read_bytes()
    contents = {"truncated": whole[: len(whole) // 2], "not utf-8": b"\xff" + whole}
    path.write_bytes(contents.get(damage, damage.encode()))
    compare(text, copied)
    assert done == ["elman-seed-1"]
    assert_same_results(copied, finished[0])


@pytest.mark.parametrize(("presses", "job"), [(1, "window-seed-0"), (2, "elman-lr-0.008")])
def test_interrupted_inside_a_training_and_gone_on_with_is_as_if_it_never_was(
    text, finished, tmp_path, monkeypatch, done, job, presses
):
    """Ctrl-C once ends the training early, twice at once; either way it is begun again. Also: deterministic."""
    out = tmp_path / "out"
    handler = signal.getsignal(signal.SIGINT)  # a shell has its background jobs ignore it
    original = Watcher.__call__

    def press(self, result):
        if self.folder.name == job and result.step == 2:
            for _ in range(presses):
                signal.raise_signal(signal.SIGINT)
        return original(self, result)

    monkeypatch.setattr(Watcher, "__call__", press)
    with pytest.raises(KeyboardInterrupt if presses == 2 else StoppedError):
        compare(text, out)
    before = set(results_in(out))
    assert job not in before
    assert before == set(done[:-1])
    assert not (out / "report.html").exists()
    assert signal.getsignal(signal.SIGINT) is handler

    monkeypatch.setattr(Watcher, "__call__", original)
    done.clear()
    compare(text, out)
    assert done[0] == job
    assert set(done) == JOBS - before
    assert_same_results(out, finished[0])
    assert everything_under(out) == everything_under(finished[0])


def test_another_seed_gives_another_model(finished):
    one, other = (results_in(finished[0])[f"elman-seed-{seed}"].measures for seed in (0, 1))
    assert one.document_nats != other.document_nats


@pytest.mark.parametrize(
    ("changes", "settings", "parts"),
    [
        ({"seeds": 3}, {}, ("seeds differs: 2 there, 3 here",)),
        ({"params": 30_000}, {}, ("params differs: 20000 there, 30000 here",)),
        ({"models": ("elman",)}, {}, ("models differs: ngram, elman, window there, elman here",)),
        ({"time": 3.0, "tokens": None}, {}, ("time differs: null there, 3.0 here",)),
        ({}, {"bptt": 8}, ("settings.ngram.training.bptt differs: 16 there, 8 here",)),
    ],
)
def test_the_folder_of_another_plan_is_refused(text, copied, done, changes, settings, parts):
    before = {name: (copied / name).stat().st_mtime_ns for name in everything_under(copied)}
    with pytest.raises(InputError) as caught:
        compare(text, copied, tiny_plan(**changes), **settings)
    for part in (str(copied), "--out", "remove", *parts):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert done == []
    assert {name: (copied / name).stat().st_mtime_ns for name in everything_under(copied)} == before


def test_another_text_under_the_same_name_is_refused(finished, copied, text):
    original = text.read_bytes()
    try:
        text.write_bytes(original.replace(b"cat", b"dog"))
        with pytest.raises(InputError, match="text differs;"):
            compare(text, copied)
    finally:
        text.write_bytes(original)


@pytest.mark.parametrize("content", ["{", "[]", "", "\x00"])
def test_a_damaged_plan_is_refused(text, copied, done, content):
    (copied / "plan.json").write_text(content)
    with pytest.raises(InputError, match=r"plan\.json: damaged; remove .*--out"):
        compare(text, copied)
    assert done == []


def test_a_folder_with_something_else_is_refused(text, tmp_path, done):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").touch()
    with pytest.raises(InputError, match="holds no comparison; give another folder with --out"):
        compare(text, tmp_path / "out")
    assert everything_under(tmp_path) == {"out", "out/thesis.tex"}
    assert done == []


def test_an_empty_folder_is_taken(text, tmp_path):
    (tmp_path / "out").mkdir()
    compare(text, tmp_path / "out", tiny_plan(models=("ngram",)))
    assert (tmp_path / "out" / "report.html").exists()


@pytest.mark.parametrize("inside", [False, True])
def test_out_that_is_a_file_is_refused(text, tmp_path, inside):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(InputError, match="--out") as caught:
        compare(text, tmp_path / "out" / "deep" if inside else tmp_path / "out")
    assert str(tmp_path / "out") in str(caught.value)
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.parametrize("there", [False, True])
def test_a_folder_that_cannot_be_written_is_refused(text, tmp_path, monkeypatch, there):
    original = Path.mkdir

    def mkdir(self, *arguments, **named):
        if self.is_relative_to(tmp_path / "out"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))
        original(self, *arguments, **named)

    if there:
        (tmp_path / "out").mkdir()
    monkeypatch.setattr(Path, "mkdir", mkdir)
    with pytest.raises(InputError, match=r"Permission denied; give another --out"):
        compare(text, tmp_path / "out")


def test_a_full_disk_costs_one_training(text, copied, finished, monkeypatch, done):
    (copied / "results" / "elman-seed-1.json").unlink()
    original = os.replace

    def replace(source, target):
        if Path(target).name == "elman-seed-1.json":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        original(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(ResourceError, match="the disk is full"):
        compare(text, copied)
    assert "elman-seed-1" not in results_in(copied)
    monkeypatch.setattr(os, "replace", original)
    compare(text, copied)
    assert done == ["elman-seed-1", "elman-seed-1"]
    assert_same_results(copied, finished[0])


def diverging(monkeypatch, *names):
    original = working._fit

    def fit(job, *others):
        if any(name in job.name for name in names):
            raise DivergedError("step 3: the gradient is not finite")
        return original(job, *others)

    monkeypatch.setattr(working, "_fit", fit)


def test_a_training_that_diverges_is_left_out_with_a_note(text, tmp_path, monkeypatch):
    said = []
    diverging(monkeypatch, "elman-seed-0", "elman-lr-0.02", "window-seed")
    plan = tiny_plan(models=("elman", "ngram", "window"))
    result = compare(text, tmp_path / "out", plan, said.append)
    rows = {row.model: row for row in result.rows}
    assert set(rows) == {"elman", "ngram"}
    assert rows["elman"].seeds == 1
    assert rows["elman"].learning_rate == 0.008
    assert math.isnan(rows["elman"].bits_per_byte_sd)
    assert "elman: 1 of 2 trainings diverged and are left out." in result.notes
    assert "window: 2 of 2 trainings diverged and are left out." in result.notes
    assert any(line.startswith("elman-seed-0: diverged") for line in said)
    kept = {path.name for path in (tmp_path / "out/runs").iterdir()}
    assert kept == {"elman-seed-1", "ngram-counts"}
    again: list[str] = []
    assert compare(text, tmp_path / "out", plan, again.append).rows == result.rows
    assert again[-1] == f"11 trainings on {MACHINE}, 11 of them done already"  # nor are they tried again


@pytest.mark.parametrize("nats", [math.inf, math.nan])
def test_a_score_that_is_no_number_has_diverged(text, tmp_path, monkeypatch, nats):
    original = working.summed
    monkeypatch.setattr(
        working, "summed", lambda *arguments, **named: replace(original(*arguments, **named), nats=nats)
    )
    with pytest.raises(DivergedError):
        compare(text, tmp_path / "out", tiny_plan(models=("ngram",)))
    assert results_in(tmp_path / "out") == {"ngram-counts": Result(bits_per_byte=None)}


def test_when_all_diverge_there_is_no_table(text, tmp_path, monkeypatch):
    diverging(monkeypatch, "elman")
    with pytest.raises(DivergedError, match="lower --learning-rate"):
        compare(text, tmp_path / "out", tiny_plan(models=("elman",)))
    assert not (tmp_path / "out/report.html").exists()


def test_a_text_too_short_for_the_streams_leaves_nothing(tmp_path):
    text = write_text(tmp_path / "text.txt", lines=5)
    with pytest.raises(InputError, match=r"text\.txt: .* too few for 400 streams; .*--batch-size"):
        compare(text, tmp_path / "out", batch_size=400)
    assert everything_under(tmp_path) == {"text.txt"}


def test_one_held_out_document_gives_no_interval(tmp_path):
    text, valid = write_text(tmp_path / "text.txt"), write_text(tmp_path / "valid.txt", lines=3)
    valid.write_text(valid.read_text().replace("\n", " "))
    plan = tiny_plan(models=("ngram", "elman"), learning_rate=0.01)
    result = compare(text, tmp_path / "out", plan, valid=str(valid))
    document = json.loads((tmp_path / "out/compare.json").read_text(), parse_constant=pytest.fail)
    assert [row["interval"] for row in document["rows"]] == [[None, None]] * 2
    assert all(math.isnan(end) for row in result.rows for end in row.interval)
    assert math.isfinite(result.rows[1].difference)


def test_the_page_is_whole_and_asks_nobody(finished):
    page = (finished[0] / "report.html").read_text(encoding="utf-8")
    assert page.startswith(("<!doctype html>", "<!DOCTYPE html>"))
    assert not re.search(r"<(script|link|iframe|img)\b|@import|url\(|\b(src|href)\s*=", page)
    assert set(re.findall(r"https?://[^\s\"'<>]+", page)) <= {"http://www.w3.org/2000/svg"}
    assert not re.search(
        r"\b(nan|inf|None)\b", re.sub(r"<style>.*?</style>|<pre.*?</pre>", "", page, flags=re.S)
    )
    for part in (*MODELS, "elman compare tiny", "FLOPs of the next token", "Validation over time"):
        assert part in page
    for name in ("ngram-counts", "elman-seed-0"):
        first = results_in(finished[0])[name].measures.sample.split()[0]
        assert first.replace("&", "&amp;").replace("<", "&lt;") in page


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "1 s"), (89, "89 s"), (90, "2 min"), (600, "10 min"), (5399, "90 min"), (9000, "2.5 h")],
)
def test_a_duration_is_said_in_its_unit(seconds, text):
    assert duration(seconds) == text


def test_from_python_it_is_the_same(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = elman.compare(
        text, models=["elman"], params="20k", tokens="0.64k", seeds=1, learning_rate=0.008, **SETTINGS
    )
    assert result.out == Path("runs/compare-text")
    [row] = result.rows
    assert (row.model, row.tokens, row.seeds, row.learning_rate) == ("elman", 640, 1, 0.008)
    assert row.parameters <= 20_000
    with pytest.raises(ConfigError, match="max_steps: a comparison decides it by time or tokens"):
        elman.compare(text, max_steps=3)
