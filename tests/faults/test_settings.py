"""Settings, surroundings and command lines of somebody who slips, has little, or means harm."""

import dataclasses
import errno
import json
import os
import pty
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import elman
from elman.cli.packages import FLOORS
from elman.cli.render import command_line, say, visible
from elman.config import SECTIONS, RunConfig
from elman.data.tokenizer import train_tokenizer
from elman.errors import ConfigError
from elman.settings import LARGEST_FILE, from_toml, read_section, resolve, setting_sections
from tests.command_line import call, options
from tests.faults.hostile import write_counts, write_network, write_text
from tests.faults.sweep import cases
from tests.switches import torch_as_before  # noqa: F401 - autouse

ROOT = Path(__file__).parents[2]
SOURCE = str(Path(elman.__file__).parents[1])
BARE = {"PATH": os.environ["PATH"], "PYTHONPATH": SOURCE, "OMP_NUM_THREADS": "1"}
"""No HOME, no locale, no settings."""


def process(*arguments: object, code: str | None = None, **options) -> subprocess.CompletedProcess[bytes]:
    """A verb, or some Python, in a process of its own that has next to nothing."""
    command = ["-m", "elman"] if code is None else ["-c", code]
    options = {"env": BARE, "stdin": subprocess.DEVNULL, "timeout": 60} | options
    return subprocess.run([sys.executable, *command, *map(str, arguments)], **options)


@pytest.fixture(autouse=True)
def beside_a_text(plain_surroundings, tmp_path):
    write_text(tmp_path)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_network(tmp_path_factory.mktemp("model"))


# ---- E01: names that are no settings ---------------------------------------------------------------------

SLIPS_IN_FILES = {
    "setting": ('preset = "default"\n\n[model]\nhiden_size = 3\n', 4, "'model.hidden_size'"),
    "table": ("# mine\n[modle]\ncell = 'lstm'\n", 2, "'model'"),
    "dotted": ("model.cel = 'lstm'\n", 1, "'model.cell'"),
    "key": ("\nprest = 'chapter'\n", 2, "'preset'"),
    "value": ("[model]\n# of Elman\n  cell = 'lstn'\n", 3, "'lstm'"),
    "type": ("[optimizer]\nbeta1 = 0.5\nlearning_rate = 'fast'\n", 3, "'fast' is not a number"),
    "syntax": ("[model]\ncell = \n", 2, "not valid TOML"),
}


@pytest.mark.parametrize("name", SLIPS_IN_FILES)
def test_e01_a_slip_in_a_file_is_shown_with_its_line(name):
    content, line, part = SLIPS_IN_FILES[name]
    Path("my.toml").write_text(content)
    told = call("train", "novel.txt", "--config", "my.toml").refuses(4, "my.toml", f"line {line}", part)
    assert "did you mean" in told or name in ("type", "syntax")


@pytest.mark.parametrize(
    ("arguments", "code", "near"),
    [
        (["train", "--hiden-size", "3"], 2, "--hidden-size"),
        (["train", "--model.hiden-size", "3"], 2, "--model.hidden-size"),
        (["train", "--dropuot", "0.1"], 2, "--dropout"),
        (["eval", "model", "--batchsize", "3"], 2, "--batch-size"),
        (["generate", "model", "--temprature", "3"], 2, "--temperature"),
        (["trian"], 2, "train"),
        (["train", "--preset", "chaper"], 4, "chapter"),
        (["train", "--cell", "lstn"], 4, "lstm"),
        (["settings", "defualt"], 4, "default"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_e01_a_slip_on_the_command_line_is_shown_with_the_nearest(arguments, code, near):
    assert near in call(*arguments).refuses(code).lower().partition("did you mean")[2]


def test_e01_a_slip_in_the_environment_names_the_variable(monkeypatch):
    monkeypatch.setenv("ELMAN_CELL", "lstn")
    call("train", "novel.txt").refuses(4, "ELMAN_CELL", "did you mean 'lstm'?")


# ---- E02: values that cannot be --------------------------------------------------------------------------

NUMBERS = st.sampled_from([0, -1, 1, 2, 10**9, 2**31, 2**63, 2**64, 10**30, 10**400, 10**5000]) | st.floats()
NEARLY_NUMBERS = [
    *("nan", "inf", "-inf", "1e999", "-0", "1_0", "0x10", "none", "None", "true"),
    *("½", "٣", "1.5.5s", "9" * 5000, "1e400h"),
]
WORDS = st.text(max_size=12) | st.sampled_from(NEARLY_NUMBERS)
PLAIN = NUMBERS | WORDS | st.booleans() | st.none() | st.binary(max_size=3)
VALUES = PLAIN | st.lists(PLAIN, max_size=2) | st.dictionaries(WORDS, PLAIN, max_size=2) | st.dates()


@pytest.mark.parametrize("section", SECTIONS)
def test_e02_any_value_of_a_setting_is_taken_or_refused(section, full, count):
    names = [name for name, its in setting_sections().items() if its == section]
    examples = (1000 if full else 10) * len(names)

    @settings(max_examples=examples)
    @given(name=st.sampled_from(names), value=VALUES)
    def holds(name, value):
        words = value if isinstance(value, str) else "[]"  # an environment has nothing else
        for read in (
            lambda: resolve(overrides={name: value}),
            lambda: resolve(environment={f"ELMAN_{name.upper()}": words}),
            lambda: read_section(section, {name: value}, "config.json"),
        ):
            try:
                found = read()
            except ConfigError as error:
                assert len(str(error)) < 600
                assert "\n" not in str(error)
            else:
                taken = getattr(found, section) if isinstance(found, RunConfig) else found
                assert dataclasses.replace(taken) == taken  # its ranges, checked once more

    holds()
    count(examples)


@pytest.mark.parametrize("section", SECTIONS)
@given(value=VALUES)
def test_e02_a_section_that_is_anything_is_refused(section, value):
    for read in (
        lambda: read_section(section, value, "config.json"),
        lambda: read_section(section, {"": value}, "x"),
    ):
        try:
            assert isinstance(read(), SECTIONS[section])
            assert value in ({}, None) or isinstance(value, dict)
        except ConfigError:
            pass


IMPOSSIBLE = {
    "--learning-rate": ["nan", "inf", "-1", "0", "1e9"],
    "--dropout": ["1.5", "-0.1", "nan", "much"],
    "--num-layers": ["0", "-1", "257", "1.5"],
    "--hidden-size": ["0", "-3", "1e9", "10000000001"],
    "--max-time": ["0", "-1s", "nan", "soon", "1e400"],
    "--epochs": ["0", "inf", "nan"],
    "--seed": ["-1", "9223372036854775808", "1.5"],
    "--valid": ["0", "0.95", "nan", "-1", "inf"],
    "--vocab-size": ["4", "-1", "1000001"],
}


@pytest.mark.parametrize(("option", "value"), [(o, v) for o, values in IMPOSSIBLE.items() for v in values])
def test_e02_an_impossible_value_is_refused_by_its_name(option, value):
    outcome = call("train", "novel.txt", f"{option}={value}", "--out", "out")
    assert outcome.code in (2, 4)
    assert option.strip("-").replace("-", "_") in outcome.refuses(outcome.code).replace("-", "_")
    assert not Path("out").exists()


@cases(
    "options",
    [
        ["--hidden-size", 10**9],
        ["--embedding-dim", 10**9],
        ["--model", "transformer", "--hidden-size", 10**9],
        ["--model", "window", "--order", 64, "--hidden-size", 10**8],
        ["--hidden-size", 200_000, "--num-layers", 256],
        ["--batch-size", 10**9, "--bptt", 10**9],
        ["--bptt", 10**9],
        ["--batches", "documents", "--batch-size", 10**9, "--max-length", 10**6],
    ],
    ["--hidden-size", 10**9],
    ["--bptt", 10**9],
    ids=str,
)
def test_e02_an_absurd_size_is_refused_before_memory_is_taken(options):
    outcome = call("train", "novel.txt", "--tokenizer", "byte", *options, "--out", "out", "--quiet")
    assert outcome.code in (4, 6)
    assert "reduce" in outcome.refuses(outcome.code)
    assert not Path("out").exists()


# ---- E03: what contradicts -------------------------------------------------------------------------------

CONFLICTS = [
    (["train", "--cell", "lstm", "--model", "transformer"], 4, ["'lstm'", "'transformer'"]),
    (["train", "--model", "gru"], 4, ["'gru'", "--cell gru"]),
    (["train", "--tokenizer", "byte", "--vocab-size", "300"], 4, ["vocab_size (300)", "'byte'"]),
    (["train", "--model", "ngram", "--weight-dropout", "0.1"], 4, ["weight_dropout", "ngram"]),
    (["train", "--model", "window", "--order", "1"], 4, ["order (1)", "window"]),
    (["train", "--row-sparse", "--beta1", "0.99", "--beta2", "0.9"], 4, ["row_sparse", "beta1", "beta2"]),
    (["train", "--seed", "1", "--seed", "2"], 2, ["--seed", "twice"]),
    (["train", "--seed", "1", "--training.seed", "2"], 2, ["seed", "twice"]),
    (["train", "--dropout", "0.1", "--model.dropout", "0.2"], 2, ["model.dropout", "twice"]),
    (["train", "novel.txt", "other.txt"], 2, ["'other.txt'"]),
    (["eval", "model", "--valid", "novel.txt"], 2, ["--valid", "--mix"]),
    (["eval", "model", "--out", "x"], 2, ["--out", "--mix"]),
    (["compare", "--time", "1", "--tokens", "5"], 4, ["time", "tokens"]),
    (["compare", "--models", "lstm,lstm"], 4, ["models (lstm, lstm)"]),
    (["data", "tokenizer", "novel.txt", "--out", "t", "--kind", "byte", "--vocab-size", "300"], 4, ["vocab_size", "'byte'"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "code", "parts"), CONFLICTS, ids=lambda v: " ".join(v) if isinstance(v, list) else ""
)
def test_e03_what_contradicts_is_named_in_one_message(arguments, code, parts):
    call(*arguments).refuses(code, *parts)
    assert [path.name for path in Path().iterdir()] == ["novel.txt"]


# ---- E04: TOML that is none ------------------------------------------------------------------------------

WRONG_TOML = {
    "duplicate table": (b"[model]\nnum_layers = 1\n[model]\nnum_layers = 2\n", "line 3"),
    "duplicate key": (b"[model]\nnum_layers = 1\nnum_layers = 2\n", "line 3"),
    "UTF-16": "[model]\nnum_layers = 3\n".encode("utf-16"),
    "not UTF-8": b"# na\xefve\n",
    "NUL": b"[model]\0\n",
    "nested lists": b"x = " + b"[" * 50_000,
    "nested tables": b"x = " + b"{a=" * 50_000,
    "a name of many parts": b"a." * 100_000 + b"a = 1\n",
    "tables of many parts": b"\n".join(b"[" + b"a." * 2000 + b"%d]" % n for n in range(60)),
    "parts in a table within": b"x = {" + b"a." * 100_000 + b"a = 1}\n",
    "a number of 5,000 digits": b"[model]\nnum_layers = " + b"9" * 5000 + b"\n",
    "a line without end": b"#" * (LARGEST_FILE + 1),
    "a list of tables": b"[[model]]\nnum_layers = 1\n",
    "a date": b"[model]\nnum_layers = 1979-05-27\n",
}


@pytest.mark.parametrize("name", WRONG_TOML)
def test_e04_toml_that_cannot_be_used_is_one_line(name):
    content = WRONG_TOML[name]
    content, part = content if isinstance(content, tuple) else (content, "")
    Path("my.toml").write_bytes(content)
    assert len(call("train", "novel.txt", "--config", "my.toml").refuses(4, "my.toml", part)) < 700
    with pytest.raises(ConfigError):
        from_toml(Path("my.toml"))


def test_e04_fifty_megabytes_are_not_read(monkeypatch):
    with Path("my.toml").open("wb") as file:
        file.truncate(50_000_000)
    monkeypatch.setattr(tomllib, "loads", lambda text: pytest.fail("parsed"))
    call("train", "novel.txt", "--config", "my.toml").refuses(4, "my.toml: 50,000,000 bytes")


def test_e04_what_is_no_file_is_not_waited_for():
    os.mkfifo("pipe")
    for path in ("pipe", "/dev/zero", ".", "nowhere.toml"):
        call("train", "novel.txt", "--config", path).refuses(4, path)


def test_e04_a_byte_order_mark_is_no_harm():
    Path("my.toml").write_bytes(b"\xef\xbb\xbf[model]\nnum_layers = 3\n")
    assert resolve(toml=Path("my.toml")).model.num_layers == 3


# ---- E05: poor surroundings ------------------------------------------------------------------------------

POOR = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "COLUMNS": "20", "TERM": "dumb"}

ALL_VERBS = """
import contextlib, sys
from elman.cli import main
for number, arguments in enumerate(eval(sys.argv[1])):
    print(f"\\n== {number}", flush=True)
    try:
        main(arguments)
    except SystemExit as end:
        print(f"\\n=> {number} {end.code}", flush=True)
"""


def test_e05_poor_surroundings_are_no_trouble_to_any_verb(model, tmp_path, own_cache):
    """ASCII, no HOME, no terminal, twenty columns; one process for all verbs, as each takes seconds to begin."""
    write_counts(tmp_path / "counts")
    Path("née.txt").write_text("née — naïve 語\n" * 30, encoding="utf-8")
    calls = [
        ([], 0),
        (["--help"], 0),
        (["train", "--help"], 0),
        (["data", "--help"], 0),
        (["settings"], 0),
        (["data", "inspect", "née.txt"], 0),
        (["data", "tokenizer", "née.txt", "--out", "t.json", "--kind", "char"], 0),
        (["data", "duplicates", "née.txt", "novel.txt"], 0),
        (["eval", str(model), "née.txt"], 0),
        (["generate", str(model), "née", "--max-tokens", "20", "--samples", "2"], 0),
        (["doctor", str(model)], 0),
        (["arpa", "counts", "née.arpa"], 0),
        (["eval", "né"], 5),
        (["train", "né"], 4),
    ]
    done = process(
        repr([arguments for arguments, _ in calls]),
        code=ALL_VERBS,
        env=BARE | POOR | {"ELMAN_CACHE": str(own_cache)},
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    assert re.findall(rb"=> (\d+) (\d+)", done.stdout) == [
        (b"%d" % number, b"%d" % code) for number, (_, code) in enumerate(calls)
    ], done.stderr
    assert done.stdout.isascii()
    assert done.stderr.isascii()
    assert b"n\\xe9e" in done.stdout
    assert b"Traceback" not in done.stderr
    assert b"\x1b" not in done.stdout + done.stderr
    assert len([line for line in done.stderr.splitlines() if line.startswith(b"elman: ")]) == 2


# ---- E06: a reader that goes -----------------------------------------------------------------------------


@cases(
    "arguments",
    [["--help"], ["settings"], ["data", "inspect", "novel.txt"], ["generate", "MODEL", "--max-tokens", 3000], ["eval", "MODEL", "novel.txt"]],
    ["settings"],
    ["data", "inspect", "novel.txt"],
    ids=lambda arguments: " ".join(map(str, arguments)),
)  # fmt: skip
def test_e06_a_reader_that_has_gone_is_a_quiet_end(arguments, model, own_cache):
    arguments = [model if argument == "MODEL" else argument for argument in arguments]
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = process(
            *arguments, stdout=writing, stderr=subprocess.PIPE, env=BARE | {"ELMAN_CACHE": str(own_cache)}
        )
    finally:
        os.close(writing)
    assert done.returncode == 0, done.stderr
    assert b"elman:" not in done.stderr
    assert b"Exception ignored" not in done.stderr
    assert b"BrokenPipe" not in done.stderr


def test_e06_the_first_line_is_enough():
    shell = f"set -o pipefail; {sys.executable} -m elman settings | head -1"
    done = subprocess.run(["bash", "-c", shell], env=BARE, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == b'preset = "default"\n'


# ---- E07: packages ---------------------------------------------------------------------------------------

BROKEN = {
    "missing": "raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')",
    "broken": "raise OSError('libcudart.so.12: cannot open shared object file')",
    "incomplete": "import a_package_that_is_nowhere",
    "strange": "raise RuntimeError('no such device')",
}


@cases("name", BROKEN, "missing", "broken")
def test_e07_a_torch_that_cannot_be_imported_is_said(name, tmp_path):
    Path("torch.py").write_text(BROKEN[name])
    path = {"PYTHONPATH": f"{tmp_path}:{SOURCE}"}
    done = process("eval", "model", env=BARE | path, capture_output=True)
    assert done.returncode == 3, done.stderr
    assert done.stdout == b""
    (line,) = done.stderr.splitlines()
    assert line.startswith(b"elman: torch cannot be imported (")
    assert line.endswith(b"install it with: pip install --upgrade 'torch>=2.9'")
    assert process("settings", env=BARE | path, capture_output=True).returncode == 0


@pytest.mark.parametrize(
    ("package", "version", "fits"),
    [("torch", "2.8.1", False), ("torch", "2.10.0+cu128", True), ("numpy", "1.25.9", False), ("tokenizers", "0.9", False)],
)  # fmt: skip
def test_e07_a_package_below_its_floor_is_refused_before_it_is_used(
    package, version, fits, tmp_path, monkeypatch
):
    info = tmp_path / f"{package}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
    monkeypatch.syspath_prepend(tmp_path)
    outcome = call("eval", "nowhere")
    if fits:
        outcome.refuses(5, "nowhere")
    else:
        outcome.refuses(
            3, f"{package} {version} is too old", f"pip install --upgrade '{package}>={FLOORS[package]}'"
        )
    assert call("--help").code == 0


def test_e07_the_floors_are_those_of_the_package():
    required = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert dict(each.split(">=") for each in required) == FLOORS


def test_e07_a_missing_extra_is_said_with_how_to_get_it(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "pyarrow"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    Path("x.parquet").write_bytes(b"PAR1" + bytes(64) + b"PAR1")
    call("data", "inspect", "x.parquet").refuses(3, "'pyarrow'", "pip install 'elman[data]'")


# ---- E08: what a terminal would obey ---------------------------------------------------------------------

COPY = "\x1b]52;c;cm0gLXJmIH4K\x07"
"""OSC 52: puts a command into the clipboard."""

HOSTILE = f"{COPY}\x1b[2J\x9b31m\u202ecba\x1b]8;;http://x\x1b\\"


@pytest.fixture(scope="module")
def hostile_model(tmp_path_factory) -> Path:
    """A model that can say little but control sequences."""
    folder = tmp_path_factory.mktemp("hostile") / f"model{COPY}"
    return write_network(folder, train_tokenizer("char", [HOSTILE * 2], vocab_size=None))


def test_e08_what_a_model_says_on_a_terminal_is_written_out(hostile_model):
    outer, inner = pty.openpty()
    try:
        environment = BARE | {"TERM": "xterm", "COLUMNS": "80"}
        options = {"stdout": inner, "stderr": inner, "env": environment}
        done = process("generate", hostile_model, HOSTILE, "--max-tokens", 300, "--temperature", 9, **options)
        os.close(inner)
        shown = b""
        try:
            while chunk := os.read(outer, 1 << 16):
                shown += chunk
        except OSError as error:
            assert error.errno == errno.EIO  # how Linux says that the other side has gone
    finally:
        os.close(outer)
    assert done.returncode == 0, shown
    text = shown.decode()
    assert text.startswith(visible(HOSTILE))
    assert text.removeprefix(visible(HOSTILE)).count("\\x1b") > 1  # of what it drew itself
    assert not re.search("[\x00-\x09\x0b\x0c\x0e-\x1f\x7f-\x9f\u202e]", text)


HOSTILE_NAMES = [
    ["eval", "MODEL", "novel.txt"],
    ["eval", "MODEL", "FILE"],
    ["eval", "NOWHERE"],
    ["doctor", "NOWHERE"],
    ["generate", "MODEL", "é\x1b"],
    ["data", "inspect", "FILE"],
    ["data", "duplicates", "FILE", "FILE"],
    ["data", "prepare", "FILE", "--tokenizer", "byte"],
    ["data", "tokenizer", "FILE", "--kind", "char", "--out", "NOWHERE"],
    ["train", "FILE", "--tokenizer", "NOWHERE"],
    ["train", "--config", "TOML"],
    ["train", "--cell", "NOWHERE"],
    ["train", "--NOWHERE"],
    ["NOWHERE"],
    ["settings", "NOWHERE"],
    ["arpa", "MODEL", "NOWHERE"],
]


@pytest.mark.parametrize("arguments", HOSTILE_NAMES, ids=" ".join)
def test_e08_names_are_written_out_wherever_they_are_shown(arguments, hostile_model):
    name = "\x1b[31m\x9b2Jred\nelman: all is well\u202e"
    Path(f"{name}.txt").write_text("a text\n" * 20 + HOSTILE)
    Path(f"{name}.toml").write_text(f"{json.dumps(HOSTILE)} = 1\n")
    names = {"MODEL": str(hostile_model), "FILE": f"{name}.txt", "TOML": f"{name}.toml"}
    said = call(*[names.get(each, each.replace("NOWHERE", name)) for each in arguments])
    for shown in (said.out, said.err):
        assert visible(shown) == shown
        assert "elman: all is well" not in shown.splitlines()
    assert "\\x1b" in said.out + said.err or arguments[1] in ("MODEL", "prepare")  # which show none of them
    assert "fault of elman's" not in said.err


def test_e08_progress_is_one_line_whatever_is_in_it(capsys):
    say(f"reading {HOSTILE}\nelman: all is well")
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert visible(err) == err


# ---- E09: secrets ----------------------------------------------------------------------------------------

CANARY = "CANARY0123456789abcdef"

SECRETS = [
    ["--api-key", CANARY],
    [f"--api-key={CANARY}"],
    ["--hub-token", CANARY],
    [f"--setting=hub.token={CANARY}"],
    [f"AWS_SECRET_ACCESS_KEY={CANARY}"],
    ["--password", CANARY],
    [f"https://user:{CANARY}@host/text.txt"],
    [f"https://{CANARY}@host/text.txt"],
    ["--valid", f"s3://{CANARY}@bucket/x"],
    [f"--valid=ftp://user:{CANARY}@host/"],
    [f"https://host/x?a=1&access_token={CANARY}&b=2"],
    [f"https://host/x?X-Amz-Signature={CANARY}"],
    [f"hf_{CANARY}"],
    [f"sk-proj-{CANARY}"],
]


@pytest.mark.parametrize("secret", SECRETS, ids=str)
def test_e09_a_command_line_is_recorded_without_its_secrets(monkeypatch, secret):
    monkeypatch.setattr(sys, "argv", ["elman", "train", *secret, "novel.txt", "--seed", "3"])
    recorded = command_line()
    assert CANARY not in recorded
    assert "***" in recorded
    assert recorded.startswith("elman train ")
    assert recorded.endswith(" novel.txt --seed 3")


def test_e09_what_is_no_secret_is_recorded(monkeypatch):
    plain = [*["--tokenizer", "byte", "--max-tokens", "3", "--valid-tokens", "5", "key", "token=s", "--keyword", "x", "hf:org/name", "./a@b"],
             "https://host/x?page=2&keys=3", "--monkey=1", "sk-short"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["elman", *plain])
    assert command_line() == "elman " + " ".join(
        f"'{each}'" if "&" in each else each for each in plain
    ).replace("token=s", "'token=***'")


def test_e09_a_run_keeps_nothing_of_the_environment(tmp_path, monkeypatch):
    for key in ("HF_TOKEN", "API_KEY", "AWS_SECRET_ACCESS_KEY", "WANDB_API_KEY"):
        monkeypatch.setenv(key, CANARY)
    small = options(max_steps=2, hidden_size=4, embedding_dim=4, batch_size=2, bptt=8, tokenizer="byte")
    done = call("train", "novel.txt", *small, "--out", "run")
    assert done.code == 0, done.err
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"environment.json", "README.md", "report.html", "metrics.jsonl"} <= {p.name for p in written}
    for content in (done.out.encode(), done.err.encode(), *(path.read_bytes() for path in written)):
        assert CANARY.encode() not in content


def test_e09_an_option_that_is_refused_is_named_without_its_value():
    for arguments in (["--api-key", CANARY], [f"--api-key={CANARY}"]):
        assert CANARY not in call("train", "novel.txt", *arguments).refuses(2, "--api-key")


# ---- E10: what importing does ----------------------------------------------------------------------------

GUARD = """
import sys
def guard(event, arguments):
    if event.split(".")[0] in ("socket", "ssl", "urllib", "http", "ftplib", "smtplib"):
        raise SystemExit(f"{event} {arguments}")
    if WRITES and event in ("os.mkdir", "os.remove", "os.rename", "os.system", "subprocess.Popen", "shutil.rmtree"):
        raise SystemExit(f"{event} {arguments}")
    if WRITES and event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
        raise SystemExit(f"{event} {arguments}")
sys.dont_write_bytecode = True
sys.addaudithook(guard)
"""


def test_e10_help_and_settings_touch_no_network_and_write_nothing():
    code = f"WRITES = True\n{GUARD}\nfrom elman.cli import run\n" + "".join(
        f"assert run({arguments!r}) == 0\n"
        for arguments in (["--help"], ["--version"], ["train", "--help"], ["data", "--help"], ["settings"])
    )
    done = process(code=code, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"Usage: elman" in done.stdout


def test_e10_importing_everything_touches_no_network():
    modules = sorted(
        ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
        for path in Path(elman.__file__).parent.rglob("*.py")
        if path.name != "__main__.py"
    )
    assert len(modules) > 60
    code = (
        f"WRITES = False\n{GUARD}\nimport importlib\nfor name in {modules!r}: importlib.import_module(name)"
    )
    done = process(code=code, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_e10_the_guard_guards():
    for act in ("import socket; socket.socket()", "open('x', 'w')", "import os; os.mkdir('x')"):
        assert process(code=f"WRITES = True\n{GUARD}\n{act}", capture_output=True).returncode == 1
