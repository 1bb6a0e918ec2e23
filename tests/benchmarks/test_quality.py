"""Baselines compute what they are said to, points come when they are due, curves are read as they are drawn."""

import json
import re
from xml.etree import ElementTree

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from benchmarks import baselines, chart, curve, quality, recipe
from benchmarks.goals import CHAPTER
from elman import chapter
from elman.models.convert import from_chapter
from elman.pages.chart import Line
from elman.settings import resolve
from elman.train.budget import Budget
from elman.train.metrics import read_metrics
from tests.switches import torch_as_before  # noqa: F401 - autouse

TEXT = "".join(f"line {i} of a small text, {i * i} and so on\n" for i in range(90))

TINY = {"embedding_dim": 8, "hidden_size": 8, "batch_size": 4, "bptt": 8, "negatives": 8}


# Curves ------------------------------------------------------------------------------------------------------


@given(
    st.lists(st.floats(1, 1e4), min_size=2, max_size=9, unique=True),
    st.floats(-1.5, -0.1),
    st.floats(0, 1),
)
def test_a_power_law_is_read_off_exactly_between_its_points(times, slope, share):
    points = [curve.Point(t, 1e6 * t**slope) for t in sorted(times)]
    first, last = points[0].seconds, points[-1].seconds
    seconds = min(first * (last / first) ** share, last)
    assert curve.perplexity_at(points, seconds) == pytest.approx(1e6 * seconds**slope, rel=1e-6)
    assert curve.seconds_to(points, 1e6 * seconds**slope) == pytest.approx(seconds, rel=1e-4)


def test_nothing_is_read_off_outside_a_curve():
    points = [curve.Point(2.0, 100.0), curve.Point(8.0, 50.0)]
    assert curve.perplexity_at(points, 2.0 / curve.CLOSE) == 100.0
    assert curve.perplexity_at(points, 1.5) is None
    assert curve.perplexity_at(points, 8.1) is None
    assert curve.seconds_to(points, 49.0) is None
    assert curve.seconds_to(points, 200.0) == 2.0
    assert curve.perplexity_at([], 1.0) is curve.seconds_to([], 1.0) is None


def test_a_curve_that_rises_again_is_at_its_perplexity_when_it_first_was():
    points = [
        curve.Point(1.0, 100.0),
        curve.Point(2.0, 50.0),
        curve.Point(4.0, 100.0),
        curve.Point(8.0, 25.0),
    ]
    assert curve.seconds_to(points, 50.0) == pytest.approx(2.0)
    assert 1 < curve.seconds_to(points, 70.0) < 2


@given(st.floats(0.01, 1e5))
def test_times_double_up_to_the_end(seconds):
    times = curve.doubling(seconds)
    assert times[-1] == seconds
    assert times == sorted(set(times))
    assert times[:-1] == [2.0**k for k in range(len(times) - 1)]
    assert len(times) == 1 or times[-2] * 2 >= seconds


def test_points_without_a_finite_perplexity_are_no_points():
    results = [{"seconds": 2.0, "perplexity": 9.0}, {"seconds": 1.0, "perplexity": None}]
    assert curve.curve(results) == [curve.Point(2.0, 9.0)]


@pytest.mark.parametrize(("seconds", "met"), [(9.9, True), (10.1, False)])
def test_c5_is_met_within_ten_seconds(seconds, met):
    peer = [curve.Point(1.0, 900.0), curve.Point(600.0, 100.0)]
    found = curve.time_to_quality([curve.Point(1.0, 200.0), curve.Point(seconds, 100.0)], peer)
    assert found["ours_seconds"] == pytest.approx(seconds)
    assert found["ratio"] == pytest.approx(600 / seconds)
    assert (found["peer_seconds"], found["perplexity"], found["goal"]) == (600.0, 100.0, 60.0)
    assert found["met"] is met is (found["ratio"] >= found["goal"])


def test_c5_is_missed_by_what_never_arrives_and_not_measured_without_a_curve():
    peer = [curve.Point(600.0, 100.0)]
    found = curve.time_to_quality([curve.Point(1.0, 200.0)], peer)
    assert found["ratio"] is found["ours_seconds"] is None
    assert found["met"] is False
    assert "never, goal 10 s: missed" in quality.verdict_line(found)
    assert curve.time_to_quality([], peer) is curve.time_to_quality(peer, []) is None


# Baselines ---------------------------------------------------------------------------------------------------


def batches(pad=0, vocab_size=23):
    draw = torch.Generator().manual_seed(1)
    for length in (7, 3, 5):
        inputs = torch.randint(1, vocab_size, (5, length), generator=draw)
        targets = torch.randint(1, vocab_size, (5, length), generator=draw)
        inputs[1:3, 2:], targets[1:3, 2:] = pad, pad
        yield inputs, targets


def test_a_converted_stock_model_predicts_what_it_predicted():
    torch.manual_seed(0)
    model = baselines.StockModel(23, 6, 3, 0).double()
    tokens = torch.randint(1, 23, (3, 9))
    logits, _ = baselines.from_stock(model).double()(tokens)
    assert_close(logits, model(tokens), atol=1e-6, rtol=1e-6)  # converted in float32


def test_the_stock_loop_is_the_arithmetic_of_the_chapter():
    torch.manual_seed(0)
    ours, theirs = chapter.RecurrentLanguageModel(23, 6, 2, 0), baselines.StockModel(23, 6, 2, 0)
    with torch.no_grad():
        theirs.embedding.weight.copy_(ours.embedding.weight)
        theirs.fc.weight.copy_(ours.fc.weight)
        theirs.fc.bias.copy_(ours.fc.bias)
        for k, unit in enumerate(ours.rnn.rnn_units):
            getattr(theirs.rnn, f"weight_ih_l{k}").copy_(unit.Wh.T)
            getattr(theirs.rnn, f"weight_hh_l{k}").copy_(unit.Uh.T)
            getattr(theirs.rnn, f"bias_ih_l{k}").copy_(unit.b)
            getattr(theirs.rnn, f"bias_hh_l{k}").zero_().requires_grad_(False)  # AdamW would move it as well
    before = from_chapter(ours).state_dict()
    baselines.train_chapter(ours, batches(), 0)
    baselines.train_stock(theirs, batches(), 0)
    after = from_chapter(ours).state_dict()
    assert_close(baselines.from_stock(theirs).state_dict(), after, atol=2e-5, rtol=1e-4)
    assert all((after[name] - before[name]).abs().max() > 1e-3 for name in after)


@pytest.fixture
def task(tmp_path, monkeypatch):
    """A small text, and networks of a size that suits it."""
    (tmp_path / "text.txt").write_text(TEXT)
    for name, value in {"WIDTH": 8, "BATCH": 16}.items():
        monkeypatch.setattr(quality, name, value)
    monkeypatch.setattr(quality, "ELMAN", quality.ELMAN | TINY)
    settings = {"corpus": str(tmp_path / "text.txt"), "documents": "line", "tokenizer": "byte", "seed": 3}
    return quality.make_task({**settings, **quality.HELD_OUT}, tmp_path / "work")


class SteadyClock:
    """On which every look costs a quarter of a second, whatever is done between two of them."""

    now = 0.0

    def __call__(self):
        self.now += 0.25
        return self.now


@pytest.fixture
def steady(monkeypatch):
    """The clock of the budgets of this test."""
    clock = SteadyClock()
    monkeypatch.setattr(quality, "Budget", lambda config, steps: Budget(config, steps, clock))
    return clock


@pytest.mark.parametrize("name", baselines.BASELINES)
def test_points_come_at_the_first_step_after_they_are_due(task, steady, name):
    quality.train_baseline(task, name, 6.0)
    points = read_metrics(task.work / f"{name}.jsonl")
    assert [point["final"] for point in points] == [False, False, False, True]
    for due, point in zip(curve.doubling(6.0), points, strict=True):
        assert due <= point["seconds"] < due + 2 * 0.25  # a pause costs two looks
    assert sorted({point["steps"] for point in points}) == [point["steps"] for point in points]
    assert all(0 < point["tokens"] <= point["steps"] * quality.BATCH * quality.LENGTH for point in points)
    assert points[-1]["perplexity"] < points[0]["perplexity"]


def test_time_stands_still_while_a_model_is_scored(task, steady, monkeypatch):
    score = quality.score_store

    def slow_score(*arguments, **given):
        steady.now += 50
        return score(*arguments, **given)

    monkeypatch.setattr(quality, "score_store", slow_score)
    quality.train_baseline(task, "stock", 6.0)
    points = read_metrics(task.work / "stock.jsonl")
    assert len(points) == 4
    assert points[-1]["seconds"] < 6.5


@pytest.mark.parametrize("name", baselines.BASELINES)
def test_to_look_at_a_model_does_not_change_its_training(task, steady, name, monkeypatch):
    seen = []
    quality.run_baseline(task, baselines.BASELINES[name], 6.0, seen.append)
    # Of the steady clock: one tick to begin with, and one a step.
    monkeypatch.setattr(quality, "doubling", lambda seconds: [(seen[-1]["steps"] + 1) * 0.25 - 0.1])
    unseen = []
    quality.run_baseline(task, baselines.BASELINES[name], 6.0, unseen.append)
    assert len(seen) == 4
    assert len(unseen) == 1
    assert unseen[0]["steps"] == seen[-1]["steps"]
    assert unseen[0]["perplexity"] == pytest.approx(seen[-1]["perplexity"], rel=1e-6)


def test_a_curve_that_was_cut_off_begins_again_and_one_that_is_whole_does_not(task, steady, monkeypatch):
    quality.train_baseline(task, "stock", 2.0)
    quality.train_baseline(task, "stock", 3.0)
    path = task.work / "stock.jsonl"
    whole = path.read_text()
    assert len(quality.read_curve(task, "stock", 2.0)) == 2
    assert len(quality.read_curve(task, "stock", 3.0)) == 3

    path.write_text("".join(whole.splitlines(keepends=True)[:-1]))
    quality.train_baseline(task, "stock", 3.0)
    assert path.read_text() == whole

    monkeypatch.setattr(quality, "run_baseline", None)
    quality.train_baseline(task, "stock", 3.0)
    quality.train_baseline(task, "stock", 2.0)
    assert path.read_text() == whole


def test_the_points_of_elman_are_the_ends_of_trainings_of_their_own(task, monkeypatch):
    monkeypatch.setattr(quality, "doubling", lambda seconds: [0.1, 0.2])
    quality.train_elman(task, 0.2)
    results = read_metrics(task.work / "elman.jsonl")
    assert [result["asked"]["max_time"] for result in results] == [0.1, 0.2]
    assert all(result["seconds"] >= result["asked"]["max_time"] for result in results)
    assert quality.read_curve(task, "elman", 0.2) == [
        curve.Point(result["seconds"], result["perplexity"]) for result in results
    ]
    monkeypatch.setattr(recipe.elman, "train", None)
    quality.train_elman(task, 0.2)


def test_the_recipe_is_made_of_settings_and_trains_on_the_text_of_the_others(task):
    asked = quality.trainings(task, "elman", 1.0)[0]
    config = resolve(overrides={name: value for name, value in asked.items() if name != "corpus"})
    assert config.training.loss == "sampled"
    assert config.model.tie_embeddings
    assert {name: asked[name] for name in task.settings} == task.settings


# All of it ---------------------------------------------------------------------------------------------------


def test_everything_ends_in_a_table_and_a_chart(task, tmp_path, capsys):
    command = [str(tmp_path / "text.txt"), "--tokenizer", "byte", "--work", str(task.work)]
    command += ["--seconds", "0.3", "--ours-seconds", "0.2"]
    assert quality.main([*command, "--only", "stock"]) == 0
    out = capsys.readouterr().out
    assert "stock torch" in out
    assert "chapter" not in out
    assert not (task.work / "c5.jsonl").exists()

    quality.main(command)
    out = capsys.readouterr().out
    head, _, *rows, goal, _, verdict = out.splitlines()
    assert head == "| seconds | the chapter’s loop | stock torch, plain loss | elman |"
    assert [row.split("|")[1].strip() for row in rows] == ["0.2", "0.3"]
    final = json.loads((task.work / "chapter.jsonl").read_text().splitlines()[-1])
    assert re.search(rf"at {final['perplexity']:,.0f} after \| \*\*{final['seconds']:.1f} s\*\*", goal)

    (line,) = map(json.loads, (task.work / "c5.jsonl").read_text().splitlines())
    assert (line["part"], line["peer"], line["peer_seconds"]) == ("C5", CHAPTER, final["seconds"])
    assert line["goal"] == final["seconds"] / 10
    assert {"ours_seconds", "ratio", "met", "threads", "processor"} <= line.keys()
    assert verdict.startswith("C5: ")
    assert verdict.endswith(": met" if line["met"] else ": missed")

    svg = (task.work / "quality.svg").read_text()
    words = " ".join(ElementTree.fromstring(svg).itertext())
    assert all(label in words for label in quality.LABELS.values())


def test_a_chart_stands_alone():
    lines = [Line(label=f"<{k}>", points=[(1.0, 10.0), (90.0, 4.0 - k)], style=k) for k in range(3)]
    svg = chart.svg_file(lines, title="a & b", x_label="seconds", notes=["one <i>", "two"])
    root = ElementTree.fromstring(svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    left, top, width, height = map(float, root.get("viewBox").split())
    assert (float(root.get("width")), float(root.get("height"))) == (width, height)
    for text in root.iter("{http://www.w3.org/2000/svg}text"):
        assert left <= float(text.get("x")) <= left + width
        assert top < float(text.get("y")) < top + height
    words = list(root.itertext())
    assert {"<0>", "<1>", "<2>", "a & b", "one <i>", "two"} <= set(words)
    style = words[0]
    light = style.split("@media")[0] + "".join(re.findall(r"\n:root \{[^}]*\}", style))
    used = {name for name in re.findall(r"var\((--\w+)\)", svg) if name not in ("--accent", "--second")}
    assert used <= set(re.findall(r"(--\w+):", light))
    dark = "".join(re.findall(r"prefers-color-scheme: dark\) \{ :root \{[^}]*\}", style))
    assert used - {"--sans"} <= set(re.findall(r"(--\w+):", dark))


def test_what_cannot_be_read_is_one_line_and_4(tmp_path, capsys):
    nowhere = str(tmp_path / "nowhere.txt")
    assert quality.main([nowhere, "--work", str(tmp_path / "work")]) == 4
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert nowhere in line
