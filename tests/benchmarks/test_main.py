"""The command: what it prints, what it writes, and the code it ends with."""

import json
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from subprocess import CalledProcessError

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks.agreement import DisagreementError
from benchmarks.goals import GOALS
from benchmarks.parts import MEASURED_BY, PARTS, data, summary
from benchmarks.record import Record
from elman.errors import ConfigError


@pytest.fixture
def parts(monkeypatch):
    """Parts that cost nothing, and one that is refused."""

    def refused(settings):
        yield Record(part="C6", what="measured before", peer="nobody")
        raise DisagreementError("'a' and 'b' differ")

    def fine(name):
        return lambda settings: iter(
            [Record(part="C1", what=name, peer="nobody", note="not measured: a test")]
        )

    monkeypatch.setattr(command, "load", lambda name: refused if name == "recurrence" else fine(name))


def test_the_list_names_every_part(capsys):
    assert command.main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(PARTS)
    assert [line.endswith("(only when asked for)") for line in lines] == [
        not default for default in PARTS.values()
    ]


def test_a_part_becomes_a_table_and_lines(tmp_path, capsys):
    path = tmp_path / "lines.jsonl"
    assert command.main(["--quick", "--threads", "1", "--part", "data", "--json", str(path)]) == 0
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["part"] for line in lines] == ["C8"] * len(lines)
    assert {line["threads"] for line in lines} == {1}
    assert {line["quick"] for line in lines} == {True}
    out = capsys.readouterr().out
    assert out.count("| C8 |") == len(lines) > 2
    assert "tiny shapes" in out


def test_the_default_run_has_all_parts_but_those_only_asked_for(parts, capsys):
    command.main(["--quick"])
    out = capsys.readouterr().out
    for name, default in PARTS.items():
        assert (f"| {name} |" in out) == (default and name != "recurrence")


def test_parts_may_be_chosen(parts, capsys):
    command.main(["--quick", "--part", "loss", "--part", "convergence"])
    out = capsys.readouterr().out
    assert [name for name in PARTS if f"| {name} |" in out] == ["loss", "convergence"]


def test_a_refused_part_reports_nothing_and_the_others_go_on(parts, tmp_path, capsys):
    path = tmp_path / "lines.jsonl"
    assert command.main(["--quick", "--part", "recurrence", "--part", "loss", "--json", str(path)]) == 1
    out = capsys.readouterr().out
    assert "recurrence: refused: 'a' and 'b' differ" in out
    assert "measured before" not in out + path.read_text()
    assert "| loss |" in out


def test_a_wrong_peer_is_refused_to_the_end(monkeypatch, capsys):
    monkeypatch.setattr(data, "prepared", lambda text, tokenizer: [1, 2, 3])
    assert command.main(["--quick", "--part", "data"]) == 1
    out = capsys.readouterr().out
    assert "refused" in out
    assert "| C8 |" not in out


@pytest.mark.parametrize(
    "arguments",
    [["--part", "lost"], ["--threads", "0"], ["--text", "/nowhere.txt"], ["--lmplz", "/nowhere"], ["what"]],
    ids=" ".join,
)
def test_what_cannot_be_understood_ends_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        command.main(arguments)
    assert ended.value.code == 2
    assert "error" in capsys.readouterr().err


ERRORS = [
    ConfigError("text.txt: empty; give another"),
    OSError("no space left"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    CalledProcessError(1, ["lmplz"]),
    BrokenProcessPool("a process died"),
    torch.OutOfMemoryError("out of memory\nTried to allocate 2 GiB"),
    RuntimeError(),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_part_that_fails_is_one_line_and_what_is_finished_is_shown(error, monkeypatch, tmp_path, capsys):
    def fails(settings):
        yield Record(part="C3", what="measured before", peer="nobody", note="not measured: a test")
        raise error

    def fine(settings):
        yield Record(part="C1", what="measured after", peer="nobody", note="not measured: a test")

    monkeypatch.setattr(command, "load", lambda name: fails if name == "loss" else fine)
    path = tmp_path / "lines.jsonl"
    assert command.main(["--quick", "--part", "loss", "--part", "step", "--json", str(path)]) == 1
    *_, before, after, failed = capsys.readouterr().out.splitlines()
    assert "measured before" in before
    assert "measured after" in after
    assert failed.startswith("loss: failed: ")
    assert failed != "loss: failed: "
    assert len(path.read_text().splitlines()) == 2


def test_an_error_of_the_program_itself_is_not_hidden(monkeypatch):
    def broken(settings):
        raise KeyError("a bug")

    monkeypatch.setattr(command, "load", lambda name: broken)
    with pytest.raises(KeyError):
        command.main(["--quick", "--part", "loss"])


def test_goals_stand_for_the_parts_that_measure_them(parts, capsys):
    assert list(MEASURED_BY) == [*(f"C{k}" for k in range(1, 10)), "G1"]
    assert {part for parts in MEASURED_BY.values() for part in parts} == set(PARTS)
    command.main(["--quick", "--part", "C1", "--part", "C2", "--part", "step", "--part", "G1"])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| C")]
    assert [row.split(" | ")[1] for row in rows] == ["step", "convergence", "cuda"]


@pytest.mark.parametrize("goal", [goal for goal in MEASURED_BY if goal != "C5"])
def test_a_part_measures_the_goals_that_it_stands_for(goal):
    own = {line.what for line in GOALS if line.part == goal}
    assert own
    texts = [summary(part) for part in MEASURED_BY[goal]]
    assert all(goal in text for text in texts)


def test_who_asks_for_c5_is_told_where_it_is_measured(parts, monkeypatch, capsys):
    monkeypatch.setattr(command, "measure_limits", None)
    assert command.main(["--part", "C5"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert "python -m benchmarks.quality" in line


def test_a_program_given_by_name_is_that_of_this_folder(parts, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        command, "load", lambda name: lambda settings: seen.append(settings.lmplz) or iter(())
    )
    monkeypatch.chdir(tmp_path)
    Path("lmplz").touch()
    command.main(["--quick", "--part", "ngram", "--lmplz", "lmplz"])
    assert seen == [tmp_path.resolve() / "lmplz"]
