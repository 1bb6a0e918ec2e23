"""A run leaves a folder that holds everything, keeps its best model, and is the same when it is run again."""

import json
import os
import shlex
import shutil
import signal
import tempfile
import threading
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from elman import files
from elman.config import PRESETS
from elman.data.prepare import prepare
from elman.errors import ConfigError, DivergedError, InputError, ModelError, ResourceError, StoppedError
from elman.models.neural import NeuralLanguageModel
from elman.settings import from_toml, resolve
from elman.text_model import TextModel, load
from elman.train import fit
from elman.train import run as running
from elman.train.budget import Budget
from elman.train.metrics import read_metrics
from elman.train.result import SAMPLE_TEMPERATURE, SAMPLE_TOKENS, SAMPLES, read_result
from elman.train.row_adamw import RowAdamW
from elman.train.run import resume_training, run_training
from elman.train.signals import Signals
from elman.train.step import EagerStep
from elman.train.verify import verify_run
from elman.train.watcher import Watcher
from tests.small_run import SMALL, TEXT
from tests.switches import torch_as_before  # noqa: F401 - autouse

SETTINGS = SMALL | {"max_steps": 6, "validations": 3}

RESULT_KEYS = {
    *("schema", "run", "model", "preset", "steps", "tokens", "seconds", "tokens_per_second", "parameters"),
    *("valid", "yardstick", "samples"),
}
CHECKPOINT_FILES = (
    *("MANIFEST.json", "trainer.json", "model.safetensors", "best.safetensors"),
    *("optimizer.safetensors", "lanes.safetensors", "rng.safetensors"),
)
SCORE_KEYS = {
    *("nats", "targets", "characters", "bytes", "words", "documents", "truncated", "unknown", "state"),
    *("perplexity", "word_perplexity", "bits_per_character", "bits_per_byte"),
}


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """A training text and a held-out one."""
    folder = tmp_path_factory.mktemp("texts")
    (folder / "text.txt").write_text(TEXT)
    (folder / "valid.txt").write_text("another line, 17 of them\nand one more\n")
    return folder


def settings(texts, **given):
    preset = given.pop("preset", "default")
    return resolve(preset, overrides={"corpus": texts / "text.txt", **SETTINGS, **given})


@pytest.fixture(scope="module")
def finished(texts, tmp_path_factory):
    """A run, what it was given, and what it said."""
    config = settings(texts, valid=texts / "valid.txt")
    said: list[str] = []
    folder = tmp_path_factory.mktemp("runs") / "first"
    result = run_training(config, folder, command="elman train text.txt", say=said.append, quiet=True)
    return config, result, said


# ---- the folder -----------------------------------------------------------------------------------------


def test_a_run_leaves_its_files_and_no_others(finished):
    _, result, _ = finished
    assert {path.relative_to(result.run).as_posix() for path in result.run.rglob("*")} == {
        *("config.toml", "environment.json", "metrics.jsonl", "events.jsonl", "result.json", "report.html"),
        *("model", "checkpoints", "checkpoints/step-00000000", "checkpoints/step-00000006"),
        *(f"checkpoints/step-0000000{step}/{name}" for step in (0, 6) for name in CHECKPOINT_FILES),
        *("model/config.json", "model/model.safetensors", "model/tokenizer.json", "model/README.md"),
    }


def test_the_result_is_a_document_with_the_promised_keys(finished):
    _, result, _ = finished
    document = json.loads(json.dumps(result.as_dict()))
    assert set(document) == RESULT_KEYS
    assert set(document["valid"]) == SCORE_KEYS
    assert set(document["yardstick"]) == SCORE_KEYS
    same_text = ("targets", "characters", "bytes", "words", "documents")
    assert [document["yardstick"][key] for key in same_text] == [document["valid"][key] for key in same_text]
    assert document["schema"] == "elman.train/1"
    assert (document["run"], document["model"]) == (str(result.run), str(result.run / "model"))
    assert (document["preset"], document["steps"]) == ("default", 6)
    assert [sample["text"] for sample in document["samples"]] == [sample.text for sample in result.samples]
    assert document["tokens"] == 6 * 3 * 9
    assert document["tokens_per_second"] == pytest.approx(document["tokens"] / document["seconds"])
    assert document["parameters"] == sum(p.numel() for p in load(result.run).model.parameters())
    assert (document["valid"]["truncated"], document["valid"]["state"]) == (0, "reset")


def test_the_yardstick_can_be_left_out(texts, tmp_path):
    config = settings(texts, valid=texts / "valid.txt", yardstick_order="none")
    assert run_training(config, tmp_path / "run", quiet=True).yardstick is None


def test_the_settings_of_a_run_can_be_run_again(finished, tmp_path):
    config, result, _ = finished
    assert from_toml(result.run / "config.toml") == config
    assert resolve(toml=result.run / "config.toml") == config
    again = run_training(from_toml(result.run / "config.toml"), tmp_path / "again", quiet=True)
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (again.model / name).read_bytes() == (result.model / name).read_bytes(), name
    assert again.valid == result.valid
    assert again.samples == result.samples


def test_another_seed_is_another_model(finished, texts, tmp_path):
    _, result, _ = finished
    other = run_training(settings(texts, valid=texts / "valid.txt", seed=1), tmp_path / "other", quiet=True)
    assert other.valid.nats != result.valid.nats


def test_the_folder_scores_what_the_run_reported(finished, texts):
    _, result, _ = finished
    for folder in (result.run, result.model):
        score = load(folder).score(texts / "valid.txt", documents="line")
        assert score == result.valid
    assert (score.documents, score.characters) == (2, 36)


def test_the_samples_are_those_of_the_folder(finished):
    _, result, _ = finished
    assert len(result.samples) == SAMPLES
    again = load(result.run).generate(
        samples=SAMPLES,
        max_tokens=SAMPLE_TOKENS,
        temperature=SAMPLE_TEMPERATURE,
        seed=0,
    )
    assert [sample.text for sample in again] == [sample.text for sample in result.samples]


def test_the_environment_is_recorded(finished):
    _, result, _ = finished
    environment = json.loads((result.run / "environment.json").read_text())
    assert environment["packages"]["torch"] == torch.__version__
    assert (environment["device"], environment["product_dtype"]) == ("cpu", "torch.float32")
    assert environment["choices"]["loss"].startswith("exact, 27 rows by 259 words")
    assert environment["data"]["vocab_size"] == 259
    assert environment["data"]["train"]["documents"] == 120
    assert environment["data"]["valid"]["documents"] == 2


def test_the_card_and_the_report_tell_the_score(finished):
    _, result, _ = finished
    card = (result.model / "README.md").read_text()
    assert f"{result.valid.bits_per_byte:.4f}" in card
    assert "elman train text.txt" in card
    assert (result.run / "config.toml").read_text() in card
    report = (result.run / "report.html").read_text()
    assert f"{result.valid.bits_per_byte:.3f}" in report
    assert "elman train text.txt" in report


def test_the_choices_are_said(finished):
    _, result, said = finished
    assert "train: " in "\n".join(said)
    assert any(line.startswith("lstm, 1 x 8, on cpu") for line in said)
    assert f"{result.parameters:,} parameters" in said
    assert "loss: exact, 27 rows by 259 words at a time" in said
    assert any(line.startswith("recurrence: ") for line in said)
    assert not any("\n" in line for line in said)


def test_documents_of_the_held_out_text_that_were_trained_on_are_warned_of(texts, tmp_path):
    said: list[str] = []
    run_training(settings(texts, valid=texts / "text.txt"), tmp_path / "run", say=said.append, quiet=True)
    assert any(
        "warning: 120 held-out documents (100%) also stand in the training text" in line for line in said
    )


# ---- validation -----------------------------------------------------------------------------------------


def validations(run) -> list[dict]:
    return [record for record in read_metrics(run / "metrics.jsonl") if "valid_bits_per_byte" in record]


def test_validations_are_spread_evenly_and_the_last_is_at_the_end(finished):
    _, result, _ = finished
    assert [record["step"] for record in validations(result.run)] == [2, 4, 6]


def test_time_and_tokens_never_run_backwards(finished):
    _, result, _ = finished
    records = read_metrics(result.run / "metrics.jsonl")
    assert {"loss", "learning_rate", "gradient_norm", "tokens_per_second"} <= set(records[0])
    for name in ("step", "seconds", "tokens"):
        assert all(before[name] <= after[name] for before, after in pairwise(records)), name
    assert records[-1]["seconds"] <= result.seconds + 0.01


def test_the_model_that_is_kept_is_the_best_and_not_the_last(texts, tmp_path):
    # A step far too large for the last third: the loss rises again.
    config = settings(
        texts, learning_rate=30.0, schedule="constant", warmup=0.9, max_steps=12, validations=12
    )
    result = run_training(config, tmp_path / "run", quiet=True)
    found = [record["valid_bits_per_byte"] for record in validations(result.run)]
    assert found[-1] > min(found) + 0.1
    assert result.valid.bits_per_byte == pytest.approx(min(found))
    assert load(result.run).model.embedding.weight.isfinite().all()


def test_a_part_of_the_held_out_text_is_enough_on_the_way_and_all_of_it_at_the_end(texts, tmp_path):
    result = run_training(settings(texts, valid="0.5", valid_tokens=50), tmp_path / "run", quiet=True)
    on_the_way = validations(result.run)[-1]["valid_bits_per_byte"]
    assert result.valid.documents > 50
    assert result.valid.bits_per_byte != on_the_way
    assert result.valid.bits_per_byte == pytest.approx(on_the_way, rel=0.2)


@pytest.mark.parametrize("rate", [0.001, 30.0])
def test_dropout_acts_after_a_validation_too(texts, tmp_path, monkeypatch, rate):
    modes = []

    def watch(self, result):
        stop = real(self, result)
        modes.append(self.text_model.model.training)
        return stop

    real = Watcher.__call__
    monkeypatch.setattr(Watcher, "__call__", watch)
    # Whether the model gets better from one validation to the next, or worse.
    config = settings(texts, learning_rate=rate, schedule="constant", validations=6)
    run_training(config, tmp_path / "run", quiet=True)
    assert modes == [True] * 6


def test_validation_takes_no_time_from_training(texts, tmp_path, monkeypatch):
    now = [0.0]

    def score_slowly(self, store, **arguments):
        now[0] += 1000
        return real_score(self, store, **arguments)

    def step(self, result):
        now[0] += 1
        return real_step(self, result)

    real_score, real_step = TextModel.score_store, Watcher.__call__
    monkeypatch.setattr(TextModel, "score_store", score_slowly)
    monkeypatch.setattr(Watcher, "__call__", step)
    monkeypatch.setattr(fit, "Budget", partial(Budget, clock=lambda: now[0]))
    result = run_training(settings(texts, max_steps=None, max_time=10), tmp_path / "run", quiet=True)
    assert result.seconds == result.steps == 11  # what the tenth took is seen after the eleventh
    records = read_metrics(result.run / "metrics.jsonl")
    assert [record["seconds"] for record in records] == sorted(record["seconds"] for record in records)
    assert all(record["seconds"] <= 11 for record in records)


# ---- documents, and the chapter ---------------------------------------------------------------------------


def test_the_chapters_preset_trains(texts, tmp_path):
    small = {"corpus": texts / "text.txt", "tokenizer": "word", "batch_size": 16, "device": "cpu"}
    config = resolve("chapter", overrides=small)
    result = run_training(config, tmp_path / "run", quiet=True)
    manifest = json.loads((result.run / "environment.json").read_text())["data"]
    assert result.steps == -(-manifest["train"]["documents"] // 16)  # one pass
    assert result.tokens == manifest["train"]["targets"]
    assert result.preset == "chapter"
    assert load(result.run).config == PRESETS["chapter"].model
    assert load(result.run).tokenizer.encode_prompt("line 4")  # digits are masked, so every number is known


@pytest.mark.parametrize(
    ("batches", "changes"),
    [
        ("streams", [{"seed": 1}, {"shuffle": False}, {"batch_size": 4}, {"bptt": 8}]),
        ("documents", [{"seed": 1}, {"shuffle": False}, {"batch_size": 4}, {"max_length": 8}]),
    ],
)
def test_the_settings_reach_the_batches(texts, batches, changes):
    def first_batch(**given):
        config = settings(texts, batches=batches, **given)
        return next(iter(fit.make_loader(config, prepare(config.data)))).inputs

    plain = first_batch()
    assert torch.equal(first_batch(), plain)
    for change in changes:
        assert not torch.equal(first_batch(**change), plain), change


@pytest.mark.parametrize("changes", [{}, {"row_sparse": True}, {"tie_embeddings": False}], ids=str)
@pytest.mark.parametrize("batches", ["streams", "documents"])
def test_a_sampled_training_learns_and_ends_with_the_exact_loss(
    texts, tmp_path, monkeypatch, batches, changes
):
    drawn = []
    real = NeuralLanguageModel.loss

    def loss(self, tokens, targets, state, reset=None, counted=None, negatives=None):
        drawn.append(0 if negatives is None else len(negatives.ids))
        return real(self, tokens, targets, state, reset, counted, negatives)

    monkeypatch.setattr(NeuralLanguageModel, "loss", loss)
    given = {"loss": "sampled", "negatives": 32, "exact_share": 0.25, "max_steps": 60, "batches": batches}
    config = settings(texts, learning_rate=0.02, **given, **changes)
    result = run_training(config, tmp_path / "run", quiet=True)
    assert drawn == [32] * 45 + [0] * 15
    assert result.valid.perplexity < 80  # of 259
    assert not load(result.run).model.embedding.weight[load(result.run).tokenizer.pad_id].any()


def test_rows_are_brought_up_to_date_before_they_are_scored_or_saved(texts, tmp_path, monkeypatch):
    settled = []
    real = RowAdamW.catch_up
    monkeypatch.setattr(RowAdamW, "catch_up", lambda self: settled.append(real(self)))
    run_training(settings(texts, row_sparse=True), tmp_path / "run", quiet=True)
    assert len(settled) == SETTINGS["validations"]


# ---- what cannot be run -----------------------------------------------------------------------------------


def test_a_folder_that_exists_is_refused_and_untouched(texts, tmp_path):
    for content in (None, "precious"):
        folder = tmp_path / str(content)
        folder.mkdir()
        if content:
            (folder / "file").write_text(content)
        with pytest.raises(InputError, match="exists already; give another --out"):
            run_training(settings(texts), folder, quiet=True)
        assert [path.read_text() for path in folder.iterdir()] == ([content] if content else [])


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (
            {"batch_size": 10_000},
            InputError,
            r"training tokens are too few for 10000 streams; .*--batch-size \d+",
        ),
        ({"corpus": "missing.txt"}, InputError, "no such file"),
        ({"tokenizer": "missing.json"}, InputError, "no such file"),
        ({"hidden_size": 10**7}, ResourceError, "reduce hidden_size"),
    ],
)
def test_what_cannot_be_trained_leaves_no_folder(texts, tmp_path, given, error, message):
    with pytest.raises(error, match=message):
        run_training(settings(texts, **given), tmp_path / "run", quiet=True)
    assert list(tmp_path.iterdir()) == []


def test_the_way_out_of_too_few_tokens_works(texts, tmp_path):
    (tmp_path / "short.txt").write_text("a\n" * 20 + "b\nc\nd\n")
    config = settings(texts, corpus=tmp_path / "short.txt", batch_size=1000, valid="0.3")
    with pytest.raises(InputError) as caught:
        run_training(config, tmp_path / "run", quiet=True)
    size = int(str(caught.value).split("--batch-size ")[1].split()[0])
    config = settings(texts, corpus=tmp_path / "short.txt", batch_size=size, valid="0.3")
    assert run_training(config, tmp_path / "run", quiet=True).steps == 6


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is such a device")
def test_a_device_that_is_missing_is_refused_before_anything_is_made(texts, tmp_path):
    with pytest.raises(ConfigError, match="device 'cuda' is not available here; usable: "):
        run_training(settings(texts, device="cuda"), tmp_path / "run", quiet=True)
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_diverges_keeps_what_it_had(texts, tmp_path, monkeypatch):
    def poison(self, result):
        if result.step == 5:
            with torch.no_grad():
                self.text_model.model.head.bias.fill_(torch.nan)
        return real(self, result)

    real = Watcher.__call__
    monkeypatch.setattr(Watcher, "__call__", poison)
    with pytest.raises(DivergedError, match="not finite"):
        run_training(settings(texts, max_steps=24, validations=12), tmp_path / "run", quiet=True)
    assert load(tmp_path / "run").generate(max_tokens=3)
    diagnosis = json.loads((tmp_path / "run" / "diverged.json").read_text())
    assert diagnosis["weights"]["head.bias"]["not_finite"] == 259
    assert [event["event"] for event in read_metrics(tmp_path / "run" / "events.jsonl")].count(
        "went back"
    ) == 1
    assert "after 4 steps" in (tmp_path / "run" / "model" / "README.md").read_text()


# ---- names ------------------------------------------------------------------------------------------------


def test_a_run_without_a_name_takes_the_first_free_one(texts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = [run_training(settings(texts), quiet=True).run for _ in range(2)]
    assert [str(run) for run in runs] == ["runs/text-lstm-1", "runs/text-lstm-2"]


@pytest.mark.parametrize(
    ("corpus", "name"),
    [
        ("-", "stdin"),
        ("hf:some/data", "data"),
        ("thelmbook:news", "thelmbook-news"),
        ("/a b/ü&.txt.gz", "ü--txt"),
    ],
)
def test_a_corpus_of_any_name_names_a_folder(tmp_path, monkeypatch, corpus, name):
    monkeypatch.chdir(tmp_path)
    folder = running._make_run_folder(None, resolve(overrides={"corpus": corpus}))
    assert str(folder) == f"runs/{name}-lstm-1"
    assert folder.is_dir()


# ---- stopped and resumed ----------------------------------------------------------------------------------


def stop_at(step, number, monkeypatch, from_a_thread=False):
    """Let a signal arrive at a step."""

    def stopping(self, result):
        if result.step == step:
            send = threading.Thread(target=os.kill, args=(os.getpid(), number))
            send.start() if from_a_thread else os.kill(os.getpid(), number)
            if from_a_thread:
                send.join()
        return real(self, result)

    real = Watcher.__call__
    monkeypatch.setattr(Watcher, "__call__", stopping)


def read_run(run) -> dict[str, bytes]:
    """What two runs that are the same have in common to the bit."""
    newest = max(path for path in (run / "checkpoints").iterdir() if path.name.startswith("step-"))
    files = [*newest.glob("*.safetensors"), *(run / "model").glob("*.safetensors"), run / "config.toml"]
    records = [
        {key: value for key, value in record.items() if key not in ("seconds", "tokens_per_second")}
        for record in read_metrics(run / "metrics.jsonl")
    ]
    return {path.name: path.read_bytes() for path in files} | {"records": json.dumps(records).encode()}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("from_a_thread", [False, True])
def test_a_signal_ends_the_run_and_resumed_it_is_as_if_there_had_been_none(
    texts, tmp_path, monkeypatch, number, from_a_thread
):
    config = settings(texts, max_steps=20, dropout=0.1, yardstick_order="none")
    run_training(config, tmp_path / "whole", quiet=True)
    before = signal.getsignal(number)
    said: list[str] = []
    with monkeypatch.context() as patch:
        stop_at(7, number, patch, from_a_thread)
        with pytest.raises(
            StoppedError, match=f"stopped by {number.name} after step [78]; .*--resume"
        ) as error:
            run_training(config, tmp_path / "run", say=said.append, quiet=True)
    assert error.value.exit_code == 128 + number
    assert sum("finishing the step and saving" in line for line in said) == 1
    assert signal.getsignal(number) is before
    assert load(tmp_path / "run").generate(max_tokens=3)  # the best so far
    assert not (tmp_path / "run" / "result.json").exists()
    resume_training(tmp_path / "run", quiet=True)
    assert read_run(tmp_path / "run") == read_run(tmp_path / "whole")


def test_a_finished_run_has_nothing_to_do_and_says_how_to_extend_it(texts, tmp_path):
    config = settings(texts, yardstick_order=3)
    first = run_training(config, tmp_path / "run", quiet=True)
    files = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    said: list[str] = []
    again = resume_training(tmp_path / "run", say=said.append, quiet=True)
    assert again == first
    assert files == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert len(said) == 1
    assert "--max-steps 12" in said[0]
    longer = resume_training(tmp_path / "run", {"max_steps": 12}, quiet=True)
    assert longer.steps == 12
    assert longer.tokens == 12 * 3 * 9
    assert from_toml(tmp_path / "run" / "config.toml").training.max_steps == 12
    steps = [record["step"] for record in read_metrics(tmp_path / "run" / "metrics.jsonl")]
    assert steps == sorted(steps)
    (event,) = read_metrics(tmp_path / "run" / "events.jsonl")
    assert event["changes"] == {"training.max_steps": [6, 12]}


def test_what_makes_another_run_of_it_is_refused_and_nothing_changes(texts, tmp_path):
    run_training(settings(texts), tmp_path / "run", quiet=True)
    files = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    changes = {"hidden_size": 9, "seed": 3, "max_steps": 12}
    with pytest.raises(ConfigError, match=r"hidden_size \(8 in the run, 9 given\), training.seed \(0 "):
        resume_training(tmp_path / "run", changes, quiet=True)
    (tmp_path / "other.txt").write_text(TEXT + "and a line more\n")
    with pytest.raises(InputError, match="the text is not that of the run: SHA-256 .* here, .* there"):
        resume_training(tmp_path / "run", {"corpus": tmp_path / "other.txt", "max_steps": 12}, quiet=True)
    assert files == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}


def all_files(run) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_a_budget_that_is_used_up_leaves_a_finished_run_as_it_is(texts, tmp_path):
    first = run_training(settings(texts), tmp_path / "run", quiet=True)
    before, said = all_files(tmp_path / "run"), []
    assert resume_training(tmp_path / "run", {"max_steps": 5}, say=said.append, quiet=True) == first
    assert "nothing to do" in said[0]
    assert all_files(tmp_path / "run") == before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("{", ""),
        ("elman.train/1", "elman.train/9"),
        ('"samples"', '"samp\\nles"'),
        ('"nats"', '"na\\nts"'),
        ('"text": ', '"te\\nxt": '),
    ],
)
def test_a_damaged_result_is_one_line(finished, tmp_path, old, new):
    _, result, _ = finished
    text = (result.run / "result.json").read_text()
    assert old in text
    (tmp_path / "result.json").write_text(text.replace(old, new))
    with pytest.raises(
        InputError, match=r"result.json: damaged: .*; remove it, and the run is finished again"
    ) as error:
        read_result(tmp_path)
    assert "\n" not in str(error.value)


def test_a_finished_run_without_its_checkpoints_is_not_trained_anew(texts, tmp_path):
    run_training(settings(texts), tmp_path / "run", quiet=True)
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    before = all_files(tmp_path / "run")
    with pytest.raises(ModelError, match="none of its checkpoints is left to go on from; .*--config .*--out"):
        resume_training(tmp_path / "run", {"max_steps": 12}, quiet=True)
    assert all_files(tmp_path / "run") == before


def edit(run, old: str, new: str) -> None:
    path = run / "config.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new"), [("seed = 0", "seed = 3"), ("bptt = 9", "bptt = 8"), ("batch_size = 3", "batch_size = 6")]
)
def test_settings_that_were_edited_are_refused_as_those_that_are_given(texts, tmp_path, old, new):
    run_training(settings(texts), tmp_path / "run", quiet=True)
    edit(tmp_path / "run", old, new)
    before = all_files(tmp_path / "run")
    name, then, now = old.partition(" ")[0], old.rpartition(" ")[2], new.rpartition(" ")[2]
    with pytest.raises(ConfigError, match=rf"training.{name} \({then} in the run, {now} given\)"):
        resume_training(tmp_path / "run", {"max_steps": 12}, quiet=True)
    assert all_files(tmp_path / "run") == before
    assert {check.what: check.sound for check in verify_run(tmp_path / "run").checks}["settings"] is False


def test_what_may_be_changed_may_be_edited_and_is_remembered(texts, tmp_path):
    run_training(settings(texts), tmp_path / "run", quiet=True)
    edit(tmp_path / "run", "clip_norm = 1.0", "clip_norm = 0.5")
    resume_training(tmp_path / "run", {"max_steps": 12}, quiet=True)
    (event,) = read_metrics(tmp_path / "run" / "events.jsonl")
    assert event["changes"] == {"training.max_steps": [6, 12], "optimizer.clip_norm": [1.0, 0.5]}
    assert verify_run(tmp_path / "run").sound


def test_without_the_record_of_the_environment_the_text_is_compared_all_the_same(texts, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    run_training(settings(texts, corpus=text), tmp_path / "run", quiet=True)
    (tmp_path / "run" / "environment.json").unlink()
    text.write_text(TEXT.replace("line 7", "line 8"))
    with pytest.raises(InputError, match="the text is not that of the run"):
        resume_training(tmp_path / "run", {"max_steps": 12}, quiet=True)
    text.write_text(TEXT)
    assert resume_training(tmp_path / "run", {"max_steps": 12}, quiet=True).steps == 12


def test_what_is_rescued_from_a_folder_that_was_removed_has_its_records(texts, tmp_path, monkeypatch):
    name = "\N{GREEK SMALL LETTER ALPHA}" * 127  # as long as a name may be
    run_training(settings(texts), tmp_path / "whole", quiet=True)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def remove(self, result):
        if result.step == 4:
            shutil.rmtree(tmp_path / name)
        return real(self, result)

    real = Watcher.__call__
    with monkeypatch.context() as patch:
        patch.setattr(Watcher, "__call__", remove)
        with pytest.raises(InputError, match="what it learnt is kept") as error:
            run_training(settings(texts), tmp_path / name, quiet=True)
    kept = Path(shlex.split(str(error.value))[-1])
    resume_training(kept, quiet=True)
    assert read_run(kept)["records"] == read_run(tmp_path / "whole")["records"]
    assert verify_run(kept).sound


def test_a_state_without_elements_is_kept(texts, tmp_path):
    """A Transformer that sees one token has a cache of no places."""
    given = {"family": "transformer", "context": 1, "num_heads": 2, "checkpoint_seconds": 0}
    run_training(settings(texts, **given), tmp_path / "run", quiet=True)
    assert resume_training(tmp_path / "run", {"max_steps": 9}, quiet=True).steps == 9


def test_a_text_may_lie_elsewhere(texts, tmp_path):
    config = settings(texts)
    run_training(config, tmp_path / "run", quiet=True)
    (tmp_path / "moved.txt").write_text(TEXT)
    changes = {"corpus": tmp_path / "moved.txt", "max_steps": 8}
    assert resume_training(tmp_path / "run", changes, quiet=True).steps == 8


def test_rows_that_are_behind_are_settled_alike_after_a_stop_at_the_last_step(texts, tmp_path, monkeypatch):
    config = settings(texts, max_steps=7, row_sparse=True, yardstick_order="none")
    run_training(config, tmp_path / "whole", quiet=True)
    with monkeypatch.context() as patch:
        stop_at(7, signal.SIGTERM, patch)
        with pytest.raises(StoppedError, match="after step 7"):
            run_training(config, tmp_path / "run", quiet=True)
    resume_training(tmp_path / "run", quiet=True)
    assert read_run(tmp_path / "run") == read_run(tmp_path / "whole")


def test_a_batch_that_was_divided_stays_so_in_a_run_that_is_resumed(texts, tmp_path, monkeypatch):
    """Dropout tells one part from two."""
    config = settings(texts, max_steps=12, dropout=0.3, yardstick_order="none", batch_size=4)
    real = EagerStep._gradients

    def starve(self, inputs, state):
        starve.calls += 1
        if starve.calls == 4:
            raise RuntimeError(
                "[enforce fail at alloc_cpu.cpp:1] . DefaultCPUAllocator: can't allocate memory"
            )
        return real(self, inputs, state)

    def starved(folder, stop):
        starve.calls = 0
        said: list[str] = []
        with monkeypatch.context() as patch:
            patch.setattr(EagerStep, "_gradients", starve)
            if stop:
                stop_at(6, signal.SIGTERM, patch)
                with pytest.raises(StoppedError):
                    run_training(config, folder, say=said.append, quiet=True)
            else:
                run_training(config, folder, say=said.append, quiet=True)
        assert sum("in 2 parts from here on" in line for line in said) == 1

    starved(tmp_path / "whole", stop=False)
    starved(tmp_path / "run", stop=True)
    resume_training(tmp_path / "run", quiet=True)
    assert read_run(tmp_path / "run") == read_run(tmp_path / "whole")


def test_a_run_that_went_back_knows_it_when_it_is_resumed(texts, tmp_path, monkeypatch):
    """Steps 4 to 7 are not finite, once; then a signal, before any other checkpoint."""
    config = settings(texts, max_steps=16, yardstick_order="none", schedule="constant")
    real = EagerStep.__call__

    def spoil(self, inputs, state):
        spoil.calls += 1
        if spoil.calls in (4, 5, 6, 7):
            inputs = inputs._replace(targets_counted=inputs.targets_counted * float("nan"))
        return real(self, inputs, state)

    def spoiled(folder, stop):
        spoil.calls = 0
        with monkeypatch.context() as patch:
            patch.setattr(EagerStep, "__call__", spoil)
            if not stop:
                return run_training(config, folder, quiet=True)
            stop_at(9, signal.SIGKILL, patch)  # which the next line makes an exception of
            patch.setattr(os, "kill", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                run_training(config, folder, quiet=True)
        return resume_training(folder, quiet=True)

    spoiled(tmp_path / "whole", stop=False)
    spoiled(tmp_path / "run", stop=True)
    assert read_run(tmp_path / "run") == read_run(tmp_path / "whole")
    for folder in ("whole", "run"):
        events = [event["event"] for event in read_metrics(tmp_path / folder / "events.jsonl")]
        assert events[:5] == ["step is not finite"] * 4 + ["went back"]
    rates = {
        record["learning_rate"]
        for record in read_metrics(tmp_path / "run" / "metrics.jsonl")
        if "loss" in record
    }
    assert max(rates) == config.optimizer.learning_rate / 2


def test_another_run_in_the_place_of_this_one_is_left_alone(texts, tmp_path, monkeypatch):
    config = settings(texts, max_steps=12, yardstick_order="none", checkpoint_seconds=0)
    other = run_training(settings(texts, seed=5), tmp_path / "other", quiet=True)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def swap(self, result):
        if result.step == 4:
            (tmp_path / "run").rename(tmp_path / "moved")
            shutil.copytree(other.run, tmp_path / "run")
        return real(self, result)

    real = Watcher.__call__
    with monkeypatch.context() as patch:
        patch.setattr(Watcher, "__call__", swap)
        with pytest.raises(InputError, match="was moved or removed.*--resume") as error:
            run_training(config, tmp_path / "run", quiet=True)
    for path in other.run.rglob("*"):
        if path.is_file():
            assert (tmp_path / "run" / path.relative_to(other.run)).read_bytes() == path.read_bytes(), path
    kept = Path(str(error.value).rpartition(" ")[2])
    assert resume_training(kept, quiet=True).steps == 12


def test_a_disk_that_holds_no_checkpoint_is_found_out_at_the_start(texts, tmp_path, monkeypatch):
    monkeypatch.setattr(files.disk, "free", lambda path: 1000)
    with pytest.raises(ResourceError, match="too full for the checkpoint of step 0"):
        run_training(settings(texts), tmp_path / "run", quiet=True)
    assert not list((tmp_path / "run" / "checkpoints").glob("step-*"))


def test_a_second_ctrl_c_stops_at_once():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), Signals(lambda line: None) as signals:
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.asked
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("went on")
    assert signal.getsignal(signal.SIGINT) is before


def test_a_run_beside_the_main_thread_listens_to_nothing():
    found = []

    def listen():
        with Signals(lambda line: None) as signals:
            found.append(signals.asked)

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert found == [None]
