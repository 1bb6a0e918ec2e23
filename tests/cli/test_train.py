"""`elman train`: what it prints and writes, and what it says to settings and texts that cannot be."""

import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import pytest

from elman import errors
from elman.cli.train import gather_settings
from elman.config import SECTIONS
from elman.settings import from_toml, setting_sections
from elman.text_model import load
from elman.train import run as running
from elman.train.watcher import Watcher
from tests.command_line import SMALL, options

KEYS = {
    *("schema", "run", "model", "preset", "steps", "tokens", "seconds", "tokens_per_second", "parameters"),
    *("valid", "yardstick", "samples"),
}


def everything_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_json_is_one_document_with_what_is_promised(elman, texts):
    outcome = elman("train", "good.txt", *SMALL, "--out", "out", "--json")
    document = outcome.document
    assert set(document) == KEYS
    assert document["schema"] == "elman.train/1"
    assert (document["run"], document["model"], document["preset"]) == ("out", "out/model", "default")
    assert document["steps"] == 4
    assert document["tokens"] == 4 * 4 * 16
    assert document["tokens_per_second"] == pytest.approx(document["tokens"] / document["seconds"])
    assert document["parameters"] == sum(p.numel() for p in load("out").model.parameters())
    assert document["valid"]["targets"] == document["valid"]["bytes"] + document["valid"]["documents"]
    assert len(document["samples"]) == 3
    assert "step 4" in outcome.err


def test_a_table_a_sample_and_where_it_lies(elman, texts):
    outcome = elman("train", "good.txt", *SMALL, "--out", "out", "--quiet")
    assert outcome.code == 0
    assert outcome.err == ""
    for part in ("bits/byte", "perplexity", "lstm", "\nsample 1 ", "out/model", "out/report.html"):
        assert part in outcome.out


def test_without_out_the_first_free_name_is_taken(elman, texts):
    for number in (1, 2):
        document = elman("train", "good.txt", *SMALL, "-q", "--json").document
        assert document["run"] == f"runs/good-lstm-{number}"


def test_the_flags_reach_the_run(elman, texts):
    given = {
        "cell": "elman",
        "hidden_size": 12,
        "embedding_dim": 6,
        "num_layers": 2,
        "learning_rate": 0.5,
        "batch_size": 3,
        "bptt": 7,
        "max_time": "1m",
        "max_steps": 2,
        "epochs": 3.0,
        "documents": "line",
        "valid": "0.2",
        "tokenizer": "char",
        "vocab_size": 30,
        "encoding_errors": "replace",
        "seed": 5,
        "device": "cpu",
        "precision": "float32",
    }
    options = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
    assert elman("train", "good.txt", "--preset", "chapter", *options, "--out", "out", "-q").code == 0
    config = from_toml(Path("out/config.toml"))
    assert config.preset == "chapter"
    found = {
        name: getattr(getattr(config, section), name)
        for name, section in setting_sections().items()
        if name in given
    }
    assert found == given | {"max_time": 60.0}


def test_every_setting_has_a_name(elman, texts):
    given = ["--dropout=0.25", *("--optimizer.weight-decay", "0.5"), *("--tie-embeddings", "false")]
    assert elman("train", "good.txt", *SMALL, *given, "--mask-digits", "--out", "out", "-q").code == 0
    config = from_toml(Path("out/config.toml"))
    assert config.model.dropout == 0.25
    assert config.optimizer.weight_decay == 0.5
    assert not config.model.tie_embeddings
    assert config.data.mask_digits


@pytest.mark.parametrize("name", sorted(set(setting_sections()) - {"corpus"}))
def test_a_setting_may_be_spelt_in_six_ways(name):
    section = setting_sections()[name]
    option = name.replace("_", "-")
    spellings = [[f"--{prefix}{word}", "1"] for prefix in ("", f"{section}.") for word in (name, option)]
    spellings += [[f"--{prefix}{option}=1"] for prefix in ("", f"{section}.")]
    gathered = [gather_settings(["train", "text", *spelling, "--json"]) for spelling in spellings]
    own = [words for words in gathered if not any(word.startswith("--setting=") for word in words)]
    settings = [words for words in gathered if words not in own]
    assert settings
    assert all(words == ["train", "text", f"--setting={section}.{name}=1", "--json"] for words in settings)
    assert all(words[2].startswith(f"--{option}") for words in own)


def test_a_switch_takes_a_truth_or_none():
    switches = [
        name
        for name, section in setting_sections().items()
        if SECTIONS[section].__annotations__[name] is bool
    ]
    assert len(switches) > 3
    for name in switches:
        full = f"--setting={setting_sections()[name]}.{name}"
        option = f"--{name.replace('_', '-')}"
        assert gather_settings(["train", option, "novel.txt"]) == ["train", f"{full}=true", "novel.txt"]
        assert gather_settings(["train", option, "No", "novel.txt"]) == ["train", f"{full}=No", "novel.txt"]
        assert gather_settings(["train", option]) == ["train", f"{full}=true"]
    assert gather_settings(["train", "--", "--dropout"]) == ["train", "--", "--dropout"]


def test_the_command_line_wins_over_the_environment_and_that_over_the_file(elman, texts, monkeypatch):
    Path("my.toml").write_text(
        'preset = "chapter"\n[model]\nhidden_size = 5\nembedding_dim = 6\n[data]\nvalid = "0.2"\n'
    )
    monkeypatch.setenv("ELMAN_EMBEDDING_DIM", "7")
    monkeypatch.setenv("ELMAN_VALID", "0.25")
    common = options(max_steps=1, batch_size=2, bptt=8, tokenizer="byte", documents="line")
    outcome = elman(
        "train", "good.txt", "--config", "my.toml", *common, "--valid", "0.3", "--out", "out", "-q"
    )
    assert outcome.code == 0, outcome.err
    config = from_toml(Path("out/config.toml"))
    assert (config.model.hidden_size, config.model.embedding_dim, config.data.valid) == (5, 7, "0.3")
    assert config.preset == "chapter"
    elman("train", "good.txt", "--config", "my.toml", "--preset", "default", *common, "--out", "other", "-q")
    assert from_toml(Path("other/config.toml")).preset == "default"


def test_a_run_can_be_had_again_from_its_config(elman, texts):
    first = elman(
        "train", "good.txt", *SMALL, "--precision", "float32", "--out", "one", "-q", "--json"
    ).document
    again = elman("train", "--config", "one/config.toml", "--out", "two", "-q", "--json").document
    assert again["valid"]["nats"] == first["valid"]["nats"]


def test_standard_input_is_a_corpus(elman, texts):
    good = texts["good.txt"].read_bytes()
    piped = elman("train", "-", *SMALL, "-q", "--json", stdin=good).document
    read = elman("train", "good.txt", *SMALL, "-q", "--json").document
    assert piped["valid"] == read["valid"]
    elman("eval", piped["run"]).refuses(4, "standard input", "give a TEXT")
    elman("train", "-", *SMALL).refuses(4, "standard input", "no text")
    held_out = elman("train", "good.txt", *SMALL, "--valid", "-", "-q", "--json", stdin=good).document
    assert held_out["valid"]["bytes"] == len(good)


def test_one_document_is_not_many(elman, texts):
    one, many = (
        [line for line in elman("train", "good.txt", *SMALL, *more).err.splitlines() if "document" in line]
        for more in ([], ["--documents", "line"])
    )
    assert [line.rpartition(", ")[2] for line in one] == ["1 document"] * 2
    assert [line.rpartition(" ")[2] for line in many] == ["documents"] * 2


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("bom.txt", "byte order mark removed"),
        ("crlf.txt", "CR and CRLF read as LF"),
        ("one_line.txt", None),
        ("sp ace ünï.txt", None),
        ("new\nline.txt", None),
        ("\x1b[31mred.txt", None),
    ],
)
def test_strange_texts_are_read_and_noted(elman, texts, name, note):
    elman("train", "good.txt", *SMALL, "-q")  # the same text in the cache hides no note
    outcome = elman("train", name, *SMALL, "--out", "out")
    assert outcome.code == 0, outcome.err
    assert (f"note: {name}: {note}" in outcome.err) == (note is not None)
    assert ("\nnote: " in outcome.err) == (note is not None)
    assert "\x1b" not in outcome.out + outcome.err


def test_held_out_text_that_was_learnt_is_told(elman, texts):
    outcome = elman("train", "good.txt", *SMALL, "--valid", "good.txt")
    assert outcome.code == 0
    assert "warning: 1 held-out documents (100%) also stand in the training text" in outcome.err


BAD_TEXTS = [
    ("missing.txt", ["missing.txt: no such file"]),
    ("python-doc", ["did you mean 'python-docs'?"]),
    ("", ["no such file"]),
    (".", ["field 'text'", "--text-field"]),
    ("out_of/nothing", ["no such file"]),
    ("a\nb", ["a b: no such file"]),
    ("empty.txt", ["empty.txt: no text in it"]),
    ("short.txt", ["short.txt: no held-out text left"]),
    ("latin1.txt", ["latin1.txt: byte ", "(0xef) is not UTF-8", "--encoding-errors replace"]),
    ("binary.txt", ["binary.txt: a program, not text", "--force-binary"]),
    ("nuls.txt", ["nuls.txt: binary", "--force-binary"]),
    ("broken.jsonl", ["broken.jsonl, line 2: not valid JSON"]),
    ("field.jsonl", ["field.jsonl, line 1: no field 'text'", "--text-field", "there are: body"]),
    ("number.jsonl", ["number.jsonl, line 1", "is a number, not a string"]),
]


@pytest.mark.parametrize(("name", "parts"), BAD_TEXTS, ids=lambda value: repr(value))
def test_a_bad_text_is_one_line_and_leaves_nothing(elman, texts, name, parts):
    if name == ".":
        for path in set(texts.values()) - {texts["field.jsonl"]}:
            path.unlink()
    before = everything_in(Path())
    elman("train", name, *SMALL, "--out", "out").refuses(4, *parts)
    assert everything_in(Path()) == before


def test_the_offset_of_a_bad_byte_is_the_place_to_look(elman, texts):
    line = elman("train", "latin1.txt", *SMALL).refuses(4)
    offset = int(line.partition("byte ")[2].partition(" ")[0])
    assert texts["latin1.txt"].read_bytes()[offset : offset + 1] == b"\xef"
    outcome = elman("train", "latin1.txt", *SMALL, "--encoding-errors", "replace")
    assert outcome.code == 0
    assert "1 invalid bytes or sequences replaced" in outcome.err


def test_what_a_message_advises_works(elman, texts):
    assert elman("train", "nuls.txt", *SMALL, "--force-binary", "-q").code == 0
    Path("body.jsonl").write_text("".join(f'{{"body": "text number {n} {n * n}"}}\n' for n in range(60)))
    assert elman("train", "body.jsonl", *SMALL, "--text-field", "body", "-q").code == 0


def test_a_text_too_short_for_a_batch_says_what_would_do(elman, tmp_path):
    Path("little.txt").write_text("just a little text, no more\n")
    options = ["--max-steps", "2", "--tokenizer", "byte", "--hidden-size", "8", "--embedding-dim", "8"]
    refused = elman("train", "little.txt", *options, "--batch-size", "500", "--out", "out")
    advised = refused.refuses(4, "too few for 500 streams").partition("--batch-size ")[2].split()[0]
    assert elman("train", "little.txt", *options, "--batch-size", advised, "--out", "out", "-q").code == 0


BAD_SETTINGS = [
    (["--hiden-size", "3"], 2, ["unknown option --hiden-size", "did you mean --hidden-size?"]),
    (["--dropuot", "0.3"], 2, ["did you mean --dropout?"]),
    (["--modl.dropout", "0.3"], 2, ["did you mean --model.dropout?"]),
    (["--model", "ngramm"], 4, ["family (--model): 'ngramm' is not one of", "did you mean 'ngram'?"]),
    (["--model", "3"], 4, ["family (--model): '3' is not one of recurrent, transformer, window, ngram"]),
    (["--max-time", "5x"], 4, ["max_time: '5x' is not a duration; write 90, 90s, 2m or 1h"]),
    (["--valid", "0"], 4, ["valid (0) must be a fraction between 0 and 0.9, or a file", "held out"]),
    (["--cell", "lstm", "--model", "ngram"], 4, ["cell 'lstm' is for model 'recurrent', not 'ngram'"]),
    (["--model", "ngram", "--order", "7"], 4, ["order (7) must be at least 1 and at most 6"]),
    (["--model", "ngram", "--prune", "1;2"], 4, ["prune ('1;2') must be counts with commas"]),
    (["--model", "ngram", "--prune", "2,1"], 4, ["prune is [2, 1]"]),
    (["--model", "window", "--order", "1"], 4, ["order (1) leaves a window without context"]),
    (["--model", "transformer", "--num-heads", "7"], 4, ["must be a multiple of num_heads (7)"]),
    (["--cell", "elman", "--block", "xlstm"], 4, ["block 'xlstm' is for cells slstm and mlstm"]),
    (["--a.b.c", "3"], 2, ["unknown option --a.b.c"]),
    (["--setting", "3"], 2, ["unknown option --setting"]),
    (["-x"], 2, ["unknown option -x"]),
    (["--dropout"], 2, ["--dropout needs a value"]),
    (["--seed"], 2, ["--seed needs a value"]),
    (["lines.txt"], 2, ["unexpected argument 'lines.txt'", "elman train --help"]),
    (["--hidden-size", "3", "--hidden-size", "4"], 2, ["--hidden-size"]),
    (["--hidden-size", "3", "--model.hidden-size", "4"], 2, ["hidden_size is given twice"]),
    (["--num-layers", "1.5"], 2, ["--num-layers", "'1.5' is not a whole number"]),
    (["--seed", "x"], 2, ["--seed", "'x' is not a whole number"]),
    (["--learning-rate", "abc"], 2, ["--learning-rate", "abc"]),
    (["--documents", "lines"], 2, ["lines", "line"]),
    (["--preset", "chaptr"], 4, ["unknown preset 'chaptr'; did you mean 'chapter'?"]),
    (["--cell", "lsmt"], 4, ["'lsmt'", "did you mean 'lstm'?"]),
    (["--learning-rate", "-1"], 4, ["learning_rate (-1.0) must be above 0"]),
    (["--learning-rate", "nan"], 4, ["learning_rate", "nan is not a finite number"]),
    (["--learning-rate", "inf"], 4, ["learning_rate"]),
    (["--num-layers", "0"], 4, ["num_layers (0) must be at least 1"]),
    (["--hidden-size", "-5"], 4, ["hidden_size (-5)"]),
    (["--dropout", "1.5"], 4, ["dropout (1.5)"]),
    (["--dropout", "abc"], 4, ["dropout", "'abc' is not a number"]),
    (["--tie-embeddings=maybe"], 4, ["tie_embeddings", "'maybe' is neither true nor false"]),
    (["--valid", "1.5"], 4, ["valid (1.5)"]),
    (["--valid", "missing.txt"], 4, ["missing.txt: no such file"]),
    (["--epochs", "0"], 4, ["epochs (0.0)"]),
    (["--max-time", "0"], 4, ["max_time (0.0)"]),
    (["--max-time", "soon"], 4, ["max_time", "'soon'"]),
    (["--max-steps", "0"], 4, ["max_steps (0)"]),
    (["--bptt", "0"], 4, ["bptt (0)"]),
    (["--batch-size", "0"], 4, ["batch_size (0)"]),
    (["--seed", "-1"], 4, ["seed (-1)"]),
    (["--device", "cdua"], 4, ["'cdua'", "auto, cpu"]),
    (["--precision", "float16"], 4, ["'float16'", "bfloat16"]),
    (["--tokenizer", "missing"], 4, ["'missing': no such file", "byte, char, word, bpe, auto"]),
    (["--tokenizer", "."], 4, ["no tokenizer.json"]),
    (["--tokenizer", "good.txt"], 4, ["good.txt: not a tokenizer.json"]),
    (["--vocab-size", "3"], 4, ["vocab_size (3)"]),
    (["--vocab-size", "300", "--tokenizer", "byte"], 4, ["vocab_size (300)", "'byte' has a size of its own"]),
    (["--config", "missing.toml"], 4, ["missing.toml: cannot be read"]),
    (["--hidden-size", "9" * 30], 4, ["hidden_size"]),
    (["--hidden-size", "2000000"], 6, ["this machine has", "reduce hidden_size (2000000)"]),
    (["--tensorboard"], 3, ["tensorboard", "pip install 'elman[track]'"]),
]


@pytest.mark.parametrize(("options", "code", "parts"), BAD_SETTINGS, ids=lambda value: repr(value))
def test_a_bad_setting_is_one_line_and_leaves_nothing(elman, texts, options, code, parts, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # as where it is not installed
    before = everything_in(Path())
    elman("train", "good.txt", *options, "--out", "out").refuses(code, *parts)
    assert everything_in(Path()) == before


BAD_FILES = [
    ("[model]\nhiden_size = 3\n", ["unknown setting 'model.hiden_size'; did you mean 'model.hidden_size'?"]),
    ("[modl]\nhidden_size = 3\n", ["unknown table or key 'modl'; did you mean 'model'?"]),
    ("model = 3\n", ["model must be a table"]),
    ("x = = 3\n", ["not valid TOML", "line 1"]),
    ('[model]\nhidden_size = "big"\n', ["hidden_size: 'big' is not a number"]),
    ('preset = "chaptr"\n', ["unknown preset 'chaptr'; did you mean 'chapter'?"]),
]


@pytest.mark.parametrize(("content", "parts"), BAD_FILES)
def test_a_bad_file_of_settings_is_named(elman, texts, content, parts):
    Path("my.toml").write_text(content)
    elman("train", "good.txt", "--config", "my.toml").refuses(4, *parts)


def test_a_bad_variable_is_named(elman, texts, monkeypatch):
    monkeypatch.setenv("ELMAN_HIDDEN_SIZE", "big")
    elman("train", "good.txt").refuses(4, "ELMAN_HIDDEN_SIZE", "'big' is not a number")


def test_a_device_that_is_missing_is_not_replaced(elman, texts, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    elman("train", "good.txt", "--device", "cuda").refuses(4, "'cuda' is not available here", "cpu")


def test_a_run_folder_that_exists_stays_as_it_is(elman, texts):
    Path("out").mkdir()
    Path("out/precious").write_text("data")
    elman("train", "good.txt", *SMALL, "--out", "out").refuses(4, "out: exists already", "--out")
    assert everything_in(Path("out")) == {"precious"}
    elman("train", "good.txt", *SMALL, "--out", "good.txt").refuses(4, "good.txt: exists already")
    elman("train", "good.txt", *SMALL, "--out", "").refuses(4, "exists already")


def test_a_place_that_cannot_be_written_is_named(elman, texts, monkeypatch):
    elman("train", "good.txt", *SMALL, "--out", "good.txt/run").refuses(4, "good.txt/run", "--out")
    monkeypatch.setenv("ELMAN_CACHE", "good.txt")
    elman("train", "good.txt", *SMALL, "--out", "out").refuses(4, "good.txt/prepared", "ELMAN_CACHE")
    assert not Path("out").exists()


def test_a_pipe_is_no_file(elman):
    os.mkfifo("pipe")
    elman("train", "pipe", *SMALL).refuses(4, "pipe: neither a regular file nor a folder", "give -")


def test_a_run_folder_that_is_removed_meanwhile_is_one_line_and_the_training_is_kept(
    elman, texts, monkeypatch, tmp_path
):
    validate = Watcher.validate

    def validate_and_remove(watcher, step):
        validate(watcher, step)
        shutil.rmtree("out")

    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(Watcher, "validate", validate_and_remove)
    outcome = elman("train", "good.txt", *SMALL, "--out", "out", "--validations", "1")
    outcome.refuses(4, "out: was moved or removed", "elman train --resume ")
    kept = outcome.err.rstrip().rpartition(" ")[2]
    monkeypatch.setattr(Watcher, "validate", validate)
    assert elman("train", "--resume", kept).code == 0
    assert load(kept).generate(max_tokens=3)


# ---- stopped and resumed ----------------------------------------------------------------------------------


@pytest.fixture
def stopped(elman, texts, monkeypatch):
    """A run that a signal ended after its second step."""

    def stop(watcher, result):
        if result.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(watcher, result)

    real = Watcher.__call__
    with monkeypatch.context() as patch:
        patch.setattr(Watcher, "__call__", stop)
        return elman("train", "good.txt", *SMALL, "--out", "runs/one", "--json")


def test_a_stopped_training_says_how_to_go_on_and_goes_on(elman, stopped):
    assert (stopped.code, stopped.out) == (143, "")
    message = stopped.err.splitlines()[-1]
    assert message == "elman: stopped by SIGTERM after step 2; go on with: elman train --resume runs/one"
    assert load("runs/one").generate(max_tokens=3)
    outcome = elman(*message.partition("elman train ")[1:][0].split()[1:], *message.split()[-2:], "--json")
    assert outcome.document["steps"] == 4
    assert "going on from step 2" in outcome.err


def test_the_only_unfinished_run_needs_no_name(elman, stopped):
    for again in (elman("train", "--resume", "--json"), elman("train", "--resume=runs/one", "--json")):
        assert (again.document["run"], again.document["steps"]) == ("runs/one", 4)
    elman("train", "--resume").refuses(4, "runs: no unfinished run there", "--resume RUN")


def test_of_several_unfinished_runs_one_is_to_be_named(elman, stopped):
    shutil.copytree("runs/one", "runs/two")
    elman("train", "--resume").refuses(4, "2 runs are unfinished: runs/one, runs/two")
    assert elman("train", "--resume", "runs/two", "-q").code == 0


def test_a_run_that_goes_on_may_be_given_more(elman, stopped):
    document = elman("train", "--resume", "runs/one", "--max-steps", "6", "--json").document
    assert document["steps"] == 6
    outcome = elman("train", "--resume", "runs/one", "--json")
    assert outcome.document == document
    assert (
        "runs/one is finished, after 6 steps: nothing to do; more of it: elman train --resume" in outcome.err
    )


@pytest.mark.parametrize(
    ("options", "code", "parts"),
    [
        (["--out", "x"], 2, ["leave out --out"]),
        (["--preset", "chapter"], 2, ["leave out --preset"]),
        (
            ["--cell", "gru", "--dropout", "0.5"],
            4,
            ["model.cell (lstm in the run, gru given), model.dropout"],
        ),
        (["other.txt"], 4, ["the text is not that of the run: SHA-256", "here", "there"]),
    ],
)
def test_another_run_cannot_be_made_of_it(elman, stopped, options, code, parts):
    Path("other.txt").write_text("".join(f"other line {i}\n" for i in range(200)))
    before = everything_in(Path("runs"))
    arguments = (
        [*options, "--resume", "runs/one"]
        if options[0] == "other.txt"
        else ["--resume", "runs/one", *options]
    )
    elman("train", *arguments).refuses(code, *parts)
    assert everything_in(Path("runs")) == before


def test_what_is_no_run_cannot_be_resumed(elman, texts):
    elman("train", "--resume", "nowhere").refuses(4, "nowhere: no such run folder")
    elman("train", "--resume", ".").refuses(4, "is not the folder of a run: it has no config.toml")
    elman("train", "good.txt", "--strict-resume").refuses(2, "add --resume RUN")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (error, error.exit_code)
        for error in (errors.ElmanError, errors.ModelError, errors.ResourceError, errors.DivergedError)
    ]
    + [(MemoryError, 6), (KeyboardInterrupt, 130)],
)
def test_every_kind_of_error_has_its_code(elman, texts, monkeypatch, error, code):
    def fail(*_, **__):
        raise error("because")

    monkeypatch.setattr(running, "run_training", fail)
    elman("train", "good.txt").refuses(code)
