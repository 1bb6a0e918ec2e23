"""The command line as a whole: help, versions, slips, streams, and no way to make it stumble."""

import contextlib
import errno
import io
import itertools
import re
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import elman as package
from elman.cli import run
from elman.cli.arguments import options_in
from elman.cli.render import visible
from tests.command_line import Outcome

VERBS = ["train", "eval", "compare", "generate", "doctor", "verify", "arpa", "settings", "data"]
DATA_VERBS = ["prepare", "inspect", "tokenizer", "duplicates"]
ALL_VERBS = [[verb] for verb in VERBS] + [["data", verb] for verb in DATA_VERBS]

FLAGS = {
    "train": """
        --preset --model --cell --order --hidden-size --embedding-dim --num-layers --learning-rate --batch-size --bptt
        --max-steps --max-time --epochs --seed --documents --valid --tokenizer --vocab-size --out --config
        --encoding-errors --device --precision --json --quiet""",
    "eval": """
        --documents --batch-size --state --text-field --encoding-errors --force-binary --mix --valid --out
        --json""",
    "generate": """
        --max-tokens --temperature --top-k --top-p --min-p --repetition-penalty --stop --seed --samples
        --json""",
    "doctor": "--seed --json",
    "settings": "--json",
}


def test_help_lists_every_verb(elman):
    for arguments in (["--help"], ["-h"], []):
        outcome = elman(*arguments)
        assert outcome.code == 0
        assert outcome.err == ""
        listed = re.findall(r"^│ ([a-z]+) ", outcome.out, flags=re.MULTILINE)
        assert listed == VERBS
        assert "    elman train novel.txt" in outcome.out


@pytest.mark.parametrize("verb", ALL_VERBS, ids=" ".join)
def test_help_of_a_verb_reads_well(elman, verb):
    outcome = elman(*verb, "--help")
    assert outcome.code == 0
    assert outcome.err == ""
    lines = outcome.out.splitlines()
    assert lines[0].startswith(f"Usage: elman {' '.join(verb)} ")
    assert max(len(line.rstrip()) for line in lines) <= 80
    assert "Default: False" not in outcome.out
    assert "[default: False]" not in outcome.out
    assert "--no-" not in outcome.out
    # prose that was broken by hand is not broken once more
    prose = outcome.out.partition("╭")[0].splitlines()
    assert not [line for line, after in itertools.pairwise(prose) if 0 < len(after) < 12 and len(line) > 60]


@pytest.mark.parametrize("verb", FLAGS)
def test_the_promised_flags_are_there(elman, verb):
    shown = re.findall(r"--[a-z-]+", elman(verb, "--help").out)
    for flag in FLAGS[verb].split():
        assert flag in shown


@pytest.mark.parametrize(
    "verb", [verb for verb in ALL_VERBS if verb not in (["data"], ["arpa"])], ids=" ".join
)
def test_every_verb_speaks_json(elman, verb):
    assert re.search(r"--json +Print one JSON document \(elman\.[a-z]+/1\)", elman(*verb, "--help").out)


@pytest.mark.parametrize("verb", ALL_VERBS, ids=" ".join)
def test_an_unknown_option_is_named_with_the_nearest(elman, verb):
    elman(*verb, "--hepl").refuses(2, "unknown option --hepl; did you mean --help?")
    elman(*verb, "--zzzzzzzz").refuses(2, "unknown option --zzzzzzzz", f"elman {' '.join(verb)} --help")


def test_an_unknown_verb_is_named_with_the_nearest(elman):
    for wrong, right in (
        ("trian", "train"),
        ("evaluate", "eval"),
        ("genrate", "generate"),
        ("setting", "settings"),
    ):
        line = elman(wrong, "novel.txt", "--json").refuses(2, f'"{wrong}"', "train, eval, compare, generate")
        assert wrong == "evaluate" or f'Did you mean "{right}"?' in line
    elman("--verson").refuses(2, "did you mean --version?")


def test_version(elman):
    assert elman("--version").out == f"{package.__version__}\n"


def test_debug_shows_where(elman):
    plain = elman("eval", "nowhere")
    for arguments in (["--debug", "eval", "nowhere"], ["eval", "nowhere", "--debug"]):
        debugged = elman(*arguments)
        assert debugged.code == plain.code == 5
        assert "Traceback (most recent call last)" in debugged.err
        assert debugged.err.endswith(plain.err)
    assert "Traceback" in elman("eval", "--debug", "--stat").err


def test_a_fault_of_ours_is_called_so(elman, monkeypatch):
    def fail(_):
        raise RuntimeError("two\nlines \x1b[31m")

    monkeypatch.setattr("elman.cli.settings.describe_preset", fail)
    outcome = elman("settings")
    assert outcome.code == 1
    assert outcome.err == (
        r"elman: RuntimeError: two lines \x1b[31m; this is a fault of elman's: --debug shows where" + "\n"
    )


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 6, "elman: output: No space left on device"),
        (OSError(errno.EACCES, "Permission denied", "/x"), 1, "elman: /x: Permission denied"),
        (MemoryError(), 6, "elman: out of memory; make the model or the batch smaller"),
        (KeyboardInterrupt(), 130, "elman: interrupted"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
            6,
            "elman: out of memory; make the model or the batch smaller",
        ),
    ],
)
def test_what_the_machine_refuses_is_one_line(elman, monkeypatch, error, code, line):
    def fail(_):
        raise error

    monkeypatch.setattr("elman.cli.settings.describe_preset", fail)
    assert elman("settings") == Outcome(code, "", line + "\n")


def test_bytes_that_are_no_text_are_refused_at_the_door(elman):
    elman("train", "nov\udcff.txt").refuses(4, r"'nov\udcff.txt' is not UTF-8")
    elman("doctor", "nov\udcff").refuses(4, r"'nov\udcff' is not UTF-8")


def test_what_is_an_option():
    arguments = ["a", "-", "-1", "-.5", "--x=3", "-q", "--a.b", "", "--", "--not"]
    assert list(options_in(arguments)) == [(4, "--x"), (5, "-q"), (6, "--a.b")]


def test_a_narrow_or_dumb_terminal_is_none_of_our_troubles(elman, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    for width in ("20", "1", "junk"):
        monkeypatch.setenv("COLUMNS", width)
        for arguments in (["--help"], ["train", "--help"], ["settings"], ["doctor"]):
            outcome = elman(*arguments)
            assert outcome.code == 0, outcome.err
            assert outcome.out


CHEAP = [verb for verb in ALL_VERBS if verb not in (["data", "tokenizer"], ["data", "prepare"])]
"""Verbs that do nothing for long where the first thing they are given is not there."""

PIECES = """
--json --seed --samples --out --documents line --state - -- -q -x 3 --help --version --debug --dropout -1 nan
--model.dropout --dropout=x none --tie-embeddings --stop --max-tokens --valid --config = --= --- --x= nowhere é
--setting --setting=model.dropout=9 -1e999 --batch-size --top-k --seed=1_0 --reading --reading.documents=line
"""
TOKENS = st.sampled_from([*PIECES.split(), "", "\n", "\0"])


@settings(max_examples=150)
@given(verb=st.sampled_from(CHEAP), rest=st.lists(TOKENS | st.text(max_size=8), max_size=5))
def test_nothing_makes_it_stumble(tmp_path_factory, verb, rest):
    first = [] if verb in (["settings"], ["data"]) else ["nowhere.txt"]
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.getbasetemp())
        patch.setattr(sys, "stdin", io.StringIO(""))
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run([*verb, *first, *rest])
    told = [line for line in err.getvalue().splitlines() if line.startswith("elman: ")]
    assert code in (0, 2, 4, 5, 6), (code, err.getvalue())
    assert len(told) == (code != 0), err.getvalue()
    assert "fault of elman's" not in err.getvalue()
    assert visible(err.getvalue()) == err.getvalue()
