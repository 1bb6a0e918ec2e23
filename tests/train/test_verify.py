"""A run that is what it says is found sound, to the bit; whatever was changed in it since is found and named."""

import json
import math
import os
import shutil
import signal
from functools import partial
from pathlib import Path

import pytest
import torch

from elman.errors import ConfigError, InputError, StoppedError
from elman.settings import resolve
from elman.train import fit
from elman.train.budget import Budget
from elman.train.metrics import read_metrics
from elman.train.run import resume_training, run_training
from elman.train.verify import Verification, verify_run
from elman.train.watcher import Watcher
from tests.small_run import SMALL, TEXT
from tests.switches import torch_as_before  # noqa: F401 - autouse

SETTINGS = SMALL | {
    "max_steps": 12,
    "validations": 3,
    "valid_tokens": 200,
    "dropout": 0.2,
    "yardstick_order": "none",
    "checkpoint_seconds": 0,
}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("texts") / "text.txt"
    path.write_text(TEXT)
    return path


def settings(text, **given):
    return resolve(overrides={"corpus": text, **SETTINGS, **given})


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Of every file: what is in it, and when it was written."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def verify(run: Path, steps: int = 20) -> Verification:
    """Verify, and see that nothing in the folder has changed."""
    before = contents(run)
    verification = verify_run(run, steps)
    assert contents(run) == before
    return verification


def found_wrong(verification: Verification) -> list[str]:
    return [check.what for check in verification.checks if check.sound is False]


def assert_steps_not_checked(verification: Verification, why: str) -> None:
    assert verification.sound
    assert [check.what for check in verification.checks if check.sound is None] == ["first steps"]
    assert why in verification.checks[-1].found


def assert_equal_to_the_bit(verification: Verification, last: int) -> None:
    assert found_wrong(verification) == []
    assert verification.sound
    checks = {check.what: check.found for check in verification.checks}
    assert next(iter(checks)) == "model"
    assert sum(what.startswith("checkpoint step-") for what in checks) == 2
    assert checks["first steps"] == f"{last} steps again: losses and gradients are equal to the bit"


# ---- sound ------------------------------------------------------------------------------------------------

KINDS = {
    "streams": {},
    "documents": {"batches": "documents", "bucket": True},
    "sampled rows": {
        "loss": "sampled",
        "negatives": 16,
        "exact_share": 0.3,
        "row_sparse": True,
        "validations": 6,
        "tie_embeddings": False,
        "learning_rate": 0.05,
    },
    "epochs": {"max_steps": None, "epochs": 0.1},
    "in parts": {"accumulate": 2},
    "transformer": {
        "family": "transformer",
        "hidden_size": 8,
        "embedding_dim": 8,
        "num_heads": 2,
        "context": 5,
    },
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_is_sound_to_the_bit(text, tmp_path, kind):
    result = run_training(settings(text, **KINDS[kind]), tmp_path / "run", quiet=True)
    assert_equal_to_the_bit(verify(tmp_path / "run"), min(20, result.steps))


def test_so_is_one_that_was_limited_by_time(text, tmp_path, monkeypatch):
    now = [0.0]

    def step(self, result):
        now[0] += 1.0 + (result.step * 7 % 5) / 3  # no two runs would see this again
        return real(self, result)

    real = Watcher.__call__
    with monkeypatch.context() as patch:
        patch.setattr(Watcher, "__call__", step)
        patch.setattr(fit, "Budget", partial(Budget, clock=lambda: now[0]))
        config = settings(text, max_steps=None, max_time=50, learning_rate=0.05)
        result = run_training(config, tmp_path / "run", quiet=True)
    assert result.steps > 20
    rates = {
        record["learning_rate"]
        for record in read_metrics(tmp_path / "run" / "metrics.jsonl")
        if "loss" in record
    }
    assert len(rates) > 2  # the clock did decide something
    assert_equal_to_the_bit(verify(tmp_path / "run"), 20)


@pytest.fixture
def stop_at(monkeypatch):
    """Train until a signal comes after a step."""

    def train_until(step, train):
        def stopping(self, result):
            if result.step == step:
                os.kill(os.getpid(), signal.SIGTERM)
            return real(self, result)

        real = Watcher.__call__
        with monkeypatch.context() as patch, pytest.raises(StoppedError):
            patch.setattr(Watcher, "__call__", stopping)
            train()

    return train_until


@pytest.mark.parametrize("kind", ["streams", "sampled rows"])
def test_so_is_one_that_was_stopped_and_resumed(text, tmp_path, stop_at, kind):
    run = tmp_path / "run"
    stop_at(5, lambda: run_training(settings(text, **KINDS[kind]), run, quiet=True))
    assert_equal_to_the_bit(verify(run), 1)  # of which nothing more was recorded yet
    resume_training(run, quiet=True)
    assert_equal_to_the_bit(verify(run), 12)


def test_of_one_that_was_extended_the_part_before(text, tmp_path):
    run = tmp_path / "run"
    run_training(settings(text), run, quiet=True)
    resume_training(run, {"max_steps": 24, "learning_rate": 0.5}, quiet=True)
    assert_equal_to_the_bit(verify(run, 24), 12)
    resume_training(run, {"max_time": 1e-3}, quiet=True)
    assert_equal_to_the_bit(verify(run, 24), 12)


def test_of_one_that_was_changed_and_killed_before_it_was_kept_again(text, tmp_path, stop_at, monkeypatch):
    run = tmp_path / "run"
    stop_at(11, lambda: run_training(settings(text), run, quiet=True))

    def killed(self, result):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Watcher, "__call__", killed)
        resume_training(run, {"max_steps": 30, "learning_rate": 0.5}, quiet=True)
    resume_training(run, quiet=True)
    assert_equal_to_the_bit(verify(run, 30), 10)


def test_so_is_one_that_went_on_in_another_precision(text, tmp_path, stop_at):
    run = tmp_path / "run"
    stop_at(11, lambda: run_training(settings(text, precision="bfloat16"), run, quiet=True))
    resume_training(run, {"precision": "float32"}, quiet=True)
    assert_equal_to_the_bit(verify(run), 10)


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_one_that_went_on_with_other_threads_remembers_both(text, tmp_path, stop_at, threads):
    run, differing = tmp_path / "run", "threads 1 here and 2 there"
    threads(2)
    stop_at(5, lambda: run_training(settings(text), run, quiet=True))
    threads(1)
    said: list[str] = []
    stop_at(8, lambda: resume_training(run, say=said.append, quiet=True))
    assert any(line.endswith(differing) for line in said)
    said.clear()
    resume_training(run, say=said.append, quiet=True)
    assert any(line.endswith(differing) for line in said)
    with pytest.raises(ConfigError, match=differing):
        resume_training(run, {"max_steps": 14}, strict=True, quiet=True)
    rewrite(run, lambda records: records[0].update(loss=records[0]["loss"] * (1 + 1e-6)))
    verification = verify(run)
    assert verification.sound
    assert verification.checks[-1].found.endswith(differing)
    threads(2)  # with which it began, but not all of its steps were taken
    verification = verify(run)
    assert verification.sound
    assert verification.checks[-1].found.endswith("threads 2 here and 1 there")


def test_where_the_settings_were_changed_before_the_first_step_nothing_is_compared(
    text, tmp_path, monkeypatch
):
    def killed(self, result):
        raise KeyboardInterrupt

    run = tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Watcher, "__call__", killed)
        run_training(settings(text), run, quiet=True)
    shutil.copytree(run, tmp_path / "killed")
    (tmp_path / "killed" / "model").mkdir(exist_ok=True)
    resume_training(run, {"max_steps": 13}, quiet=True)
    assert_steps_not_checked(verify(run), "it was changed, or went back, before its first step")
    checks = {check.what: check for check in verify(tmp_path / "killed").checks}
    assert checks["first steps"].sound is None
    assert checks["first steps"].found == "no step was taken yet"


def test_fewer_steps_are_trained_when_fewer_are_asked_for(text, tmp_path):
    run_training(settings(text), tmp_path / "run", quiet=True)
    assert_equal_to_the_bit(verify(tmp_path / "run", 10), 10)
    assert_equal_to_the_bit(verify(tmp_path / "run", 9), 1)


# ---- not sound --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(text, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "run"
    run_training(settings(text), run, quiet=True)
    return run


@pytest.fixture
def run(finished, tmp_path):
    """The run, for a test to spoil."""
    return shutil.copytree(finished, tmp_path / "spoilt")


def flip(path: Path, place: float = 0.9) -> None:
    content = bytearray(path.read_bytes())
    content[int(len(content) * place)] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_changed_model_is_found(run, name):
    if name == "config.json":
        path = run / "model" / name
        path.write_text(path.read_text().replace('"dropout": 0.2', '"dropout": 0.3'))
        assert "0.3" in path.read_text()
    else:
        flip(run / "model" / name)
    assert found_wrong(verify(run)) == ["model"]


@pytest.mark.parametrize(
    "name", ["MANIFEST.json", "lanes.safetensors", "trainer.json", "optimizer.safetensors"]
)
@pytest.mark.parametrize("which", [0, 1])
def test_a_damaged_checkpoint_is_found_and_named(run, name, which):
    damaged = sorted((run / "checkpoints").iterdir())[which]
    flip(damaged / name, 0.5)
    assert found_wrong(verify(run)) == [f"checkpoint {damaged.name}"]


def rewrite(run: Path, change) -> None:
    records = read_metrics(run / "metrics.jsonl")
    change(records)
    (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


@pytest.mark.parametrize("name", ["loss", "gradient_norm", "learning_rate", "used"])
@pytest.mark.parametrize(("step", "towards"), [(1, 0), (10, 0), (10, math.inf), (12, 0)])
def test_a_record_that_was_changed_by_the_last_bit_is_found(run, name, step, towards):
    def change(records):
        (record,) = [record for record in records if record["step"] == step and "loss" in record]
        record[name] = math.nextafter(record[name], towards)

    rewrite(run, change)
    verification = verify(run)
    assert found_wrong(verification) == ["first steps"]
    assert f"{name} at step {step}" in verification.checks[-1].found


def test_records_of_another_step_are_found(run):
    def change(records):
        for record in records:
            record["step"] += record["step"] > 1

    rewrite(run, change)
    assert found_wrong(verify(run)) == ["first steps"]


def test_no_records_of_steps_that_were_taken_are_found(run):
    (run / "metrics.jsonl").write_text("")
    verification = verify(run)
    assert found_wrong(verification) == ["first steps"]
    assert verification.checks[-1].found == "no record of step 1"


@pytest.mark.parametrize("step", [1, 10])
def test_a_single_record_that_is_missing_is_found(run, step):
    def change(records):
        records[:] = [record for record in records if record["step"] != step or "loss" not in record]

    rewrite(run, change)
    verification = verify(run)
    assert found_wrong(verification) == ["first steps"]
    assert verification.checks[-1].found == f"no record of step {step}"


@pytest.mark.parametrize("content", ["{}", '{"event": "went back"}', '{"event": "resumed", "changes": 3}'])
def test_an_event_that_is_none_is_named(run, content):
    (run / "events.jsonl").write_text(content + "\n")
    with pytest.raises(InputError, match=r"events.jsonl: no event: "):
        verify_run(run)


@pytest.mark.parametrize("name", ["step", "used", "loss", "gradient_norm"])
@pytest.mark.parametrize("value", ["x", None, -1, [1], {}], ids=repr)
def test_a_record_that_is_none_is_found(run, name, value):
    rewrite(run, lambda records: records[0].update({name: value}))
    assert found_wrong(verify(run)) == ["first steps"]


@pytest.mark.parametrize("name", ["step", "used", "gradient_norm"])
def test_a_record_that_lacks_something_is_found(run, name):
    rewrite(run, lambda records: records[0].pop(name))
    assert found_wrong(verify(run)) == ["first steps"]


def test_a_line_that_is_no_record_is_named(run):
    with (run / "metrics.jsonl").open("a") as file:
        file.write("no record\n")
    with pytest.raises(InputError, match=r"metrics.jsonl, line \d+: not JSON"):
        verify_run(run)


def test_another_text_is_found(finished, text, tmp_path):
    other = tmp_path / "text.txt"
    other.write_text(TEXT)
    run = tmp_path / "run"
    run_training(settings(other), run, quiet=True)
    assert verify(run).sound
    other.write_text(TEXT.replace("line 7 ", "line 8 "))
    verification = verify(run)
    assert found_wrong(verification) == ["text"]
    (check,) = [check for check in verification.checks if not check.sound]
    assert " here, " in check.found
    other.unlink()  # and the tokens are still there
    verification = verify(run)
    assert verification.sound
    (away,) = [check for check in verification.checks if check.sound is None]
    assert away.what == "text"
    assert "no such file" in away.found
    assert verification.checks[-1].what == "first steps"


def began_with(run: Path, name: str, value: object) -> None:
    environment = json.loads((run / "environment.json").read_text())
    environment["machines"][0][name] = value
    (run / "environment.json").write_text(json.dumps(environment))


@pytest.mark.parametrize(("name", "value"), [("ranks", 2), ("device", "cuda:0")])
def test_where_dropout_draws_other_numbers_the_steps_are_not_compared(run, name, value):
    began_with(run, name, value)
    rewrite(run, lambda records: records[0].update(loss=1.05 * records[0]["loss"]))
    assert_steps_not_checked(verify(run), f"dropout draws other numbers: {name}")


@pytest.mark.parametrize(("precision", "close"), [("float32", 1e-6), ("bfloat16", 1e-2)])
def test_without_dropout_those_of_ranks_are_close(text, tmp_path, precision, close):
    run = tmp_path / "run"
    run_training(settings(text, dropout=0, precision=precision), run, quiet=True)
    began_with(run, "ranks", 2)
    for factor, sound in ((1 + close, True), (1.1, False)):
        rewrite(run, lambda records, factor=factor: records[0].update(loss=factor * records[0]["loss"]))
        verification = verify(run)
        assert verification.sound == sound
        assert verification.checks[-1].found.endswith("with ranks 1 here and 2 there")


def test_a_loss_in_other_pieces_is_another_machine(run):
    began_with(run, "loss", "exact, 1 rows by 1 words at a time")
    rewrite(run, lambda records: records[0].update(loss=(1 + 1e-6) * records[0]["loss"]))
    verification = verify(run)
    assert verification.sound
    assert 'and "exact, 1 rows by 1 words at a time" there' in verification.checks[-1].found


def test_damaged_tokens_are_found(text, tmp_path, monkeypatch):
    monkeypatch.setenv("ELMAN_CACHE", str(tmp_path / "cache"))
    run = tmp_path / "run"
    run_training(settings(text), run, quiet=True)
    assert {check.what: check.sound for check in verify(run).checks}["prepared tokens"]
    folder = Path(json.loads((run / "environment.json").read_text())["data"]["folder"])
    flip(folder / "valid.tokens")
    assert found_wrong(verify(run)) == ["prepared tokens", "result"]  # which was scored on them
    shutil.rmtree(folder)
    verification = verify(run)
    assert verification.sound
    (check,) = [check for check in verification.checks if check.sound is None]
    assert check.what == "prepared tokens"
    assert check.found.endswith("is no longer there")


def test_another_held_out_text_is_found_and_refused(text, tmp_path):
    run, held_out, other = tmp_path / "run", tmp_path / "held.txt", tmp_path / "other.txt"
    held_out.write_text("line 1000 of a small text\n" * 9)
    run_training(settings(text, valid=held_out), run, quiet=True)
    assert "held-out text" in {check.what for check in verify(run).checks}
    shutil.copy(held_out, other)
    resume_training(run, {"valid": other, "max_steps": 13}, quiet=True)  # the same elsewhere
    other.write_text("line 1001 of a small text\n" * 9)
    assert found_wrong(verify(run)) == ["held-out text"]
    with pytest.raises(InputError, match="the held-out text is not that of the run"):
        resume_training(run, {"max_steps": 14}, quiet=True)
    with pytest.raises(InputError, match="the held-out text is not that of the run"):
        resume_training(run, {"max_steps": 14, "valid": text}, quiet=True)


def test_on_another_machine_the_steps_are_close(run):
    began_with(run, "instructions", "of another")
    assert_equal_to_the_bit(verify(run), 12)  # by chance they may be

    def change(factor):
        def apply(records):
            records[-2]["loss"] *= factor

        return apply

    for factor, sound in ((1 + 1e-6, True), (1 + 1e-2, False)):
        rewrite(run, change(factor))
        verification = verify(run)
        assert verification.sound == sound
        assert "instructions" in verification.checks[-1].found
        assert "apart by up to" in verification.checks[-1].found
        rewrite(run, change(1 / factor))


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such run folder"):
        verify_run(tmp_path / "nothing")


def test_a_run_that_never_began_is_refused(run):
    (run / "environment.json").unlink()
    with pytest.raises(
        InputError, match="there is no record of where it began to train; go on with: elman train --resume"
    ):
        verify_run(run)


# ---- counts -----------------------------------------------------------------------------------------------


def test_the_model_of_another_run_and_a_score_that_was_changed_are_found(text, tmp_path):
    for seed in (0, 1):
        run_training(settings(text, seed=seed), tmp_path / str(seed), quiet=True)
    run, result = tmp_path / "0", tmp_path / "0" / "result.json"
    assert verify(run).sound
    kept = result.read_text()
    said = json.loads(kept)
    said["valid"]["nats"] *= 0.99
    result.write_text(json.dumps(said))
    assert found_wrong(verify(run)) == ["result"]
    result.write_text("{")
    assert found_wrong(verify(run)) == ["result"]
    result.write_text(kept)
    shutil.rmtree(run / "model")
    shutil.copytree(tmp_path / "1" / "model", run / "model")
    assert found_wrong(verify(run)) == ["result", "weights"]
    result.unlink()
    shutil.rmtree(run / "model")
    unfinished = {check.what: check.sound for check in verify(run).checks}
    assert (unfinished["model"], unfinished["result"]) == (None, None)


def test_counts_are_counted_again(text, tmp_path):
    run = tmp_path / "run"
    config = resolve(overrides={"corpus": text, "family": "ngram", "order": 3, "tokenizer": "byte"})
    run_training(config, run, quiet=True)
    verification = verify(run)
    assert verification.sound
    assert [check.what for check in verification.checks] == [
        *("model", "prepared tokens", "text", "tokenizer", "result", "counted again")
    ]
    assert verification.checks[-1].found == "equal to the bit"


def test_other_counts_are_found(text, tmp_path):
    for order in (2, 3):
        given = {"corpus": text, "family": "ngram", "order": order, "tokenizer": "byte"}
        run_training(resolve(overrides=given), tmp_path / str(order), quiet=True)
    shutil.rmtree(tmp_path / "2" / "model")
    shutil.copytree(tmp_path / "3" / "model", tmp_path / "2" / "model")
    assert found_wrong(verify(tmp_path / "2")) == ["result", "counted again"]
