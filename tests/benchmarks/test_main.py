"""The command: what it prints, what it writes, and the code it ends with."""

import json

import pytest

from benchmarks import __main__ as command
from benchmarks.agreement import DisagreementError
from benchmarks.parts import PARTS, data
from benchmarks.record import Record


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
