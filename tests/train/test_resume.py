"""A run is taken up as what it was: each setting may be changed or is refused by name, and its text is compared."""

import copy
import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elman.config import BUDGETS, SECTIONS, RunConfig
from elman.errors import ConfigError, InputError, ModelError
from elman.settings import resolve, to_dict, to_toml
from elman.train.checkpoint import Checkpoint
from elman.train.resume import (
    CHANGEABLE,
    Earlier,
    change,
    differences,
    find_unfinished,
    machines,
    open_run,
    recorded_dtype,
    require_place,
    require_same_data,
    require_same_machine,
    with_precision,
)

CONFIG = resolve(overrides={"corpus": "a.txt", "tokenizer": "bpe", "vocab_size": 300, "max_steps": 20})

ENVIRONMENT = {
    "elman": "0.1.0",
    "python": "3.11.7",
    "platform": "Linux",
    "processor": "x86_64",
    "cores": 2,
    "packages": {"torch": "2.13.0", "numpy": "2.0.0"},
    "threads": 1,
    "device": "cpu",
    "product_dtype": "torch.float32",
    "instructions": "AVX2",
    "ranks": 1,
    "choices": {"loss": "exact, 64 rows by 512 words at a time", "recurrence": "a loop over the steps"},
    "data": {"content_sha256": "c" * 64, "valid_sha256": "a" * 64, "tokenizer_sha256": "d" * 64},
    "command": "elman train a.txt",
}


def earlier(folder="run", config: RunConfig = CONFIG, environment=ENVIRONMENT) -> Earlier:
    return Earlier(folder, config, environment, False)


def leave(folder, config=CONFIG, environment=ENVIRONMENT, finished=False):
    """A run folder as far as it is looked at here."""
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(to_toml(config))
    if environment is not None:
        (folder / "environment.json").write_text(json.dumps(environment))
    if finished:
        (folder / "result.json").write_text("{}")
    return folder


# ---- which run --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize("environment", [ENVIRONMENT, None])
def test_a_run_is_opened_as_it_was_left(tmp_path, finished, environment):
    folder = leave(tmp_path / "run", environment=environment, finished=finished)
    assert open_run(folder) == Earlier(folder, CONFIG, environment, finished)


def test_what_is_no_run_is_said(tmp_path):
    with pytest.raises(InputError, match=r"gone: no such run folder; .*: elman train --out .*gone"):
        open_run(tmp_path / "gone")
    with pytest.raises(InputError, match="is not the folder of a run: it has no config.toml; give another$"):
        open_run(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="file: is a file, not the folder of a run"):
        open_run(tmp_path / "file")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    with pytest.raises(InputError, match="run: its config.toml is missing; put it back to go on"):
        open_run(tmp_path / "run")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"3", b"\xff\xfe", b"[" * 100_000, b'{"a": 1'], ids=repr
)
def test_a_damaged_environment_is_one_line(tmp_path, content):
    folder = leave(tmp_path / "run")
    (folder / "environment.json").write_bytes(content)
    with pytest.raises(InputError, match=r"environment.json: .*; set it aside to go on without it") as caught:
        open_run(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["[model]\nhiden_size = 3\n", "x = = 3", "model = 3"])
def test_damaged_settings_are_named(tmp_path, content):
    folder = leave(tmp_path / "run")
    (folder / "config.toml").write_text(content)
    with pytest.raises(InputError, match=r"config\.toml") as caught:
        open_run(folder)
    assert "\n" not in str(caught.value)


def test_the_one_unfinished_run_is_found(tmp_path):
    runs = tmp_path / "runs"
    with pytest.raises(InputError, match="runs: no unfinished run there; name one: elman train --resume RUN"):
        find_unfinished(runs)
    leave(runs / "a", finished=True)
    (runs / "no-run").mkdir()
    with pytest.raises(InputError, match="no unfinished run there"):
        find_unfinished(runs)
    leave(runs / "b")
    assert find_unfinished(runs) == runs / "b"
    leave(runs / "c", environment=None)
    with pytest.raises(InputError, match=r"^2 runs are unfinished: .*b, .*c; name one: .* --resume .*c$"):
        find_unfinished(runs)


# ---- what may be changed ----------------------------------------------------------------------------------

OTHER: dict[str, dict[str, object]] = {
    "data": {
        "corpus": "b.txt",
        "documents": "line",
        "text_field": "body",
        "encoding_errors": "replace",
        "force_binary": True,
        "skip_bad": True,
        "valid": "0.1",
        "valid_limit": 1000,
        "tokenizer": "word",
        "vocab_size": 400,
        "mask_digits": True,
    },
    "model": {
        "family": "window",
        "cell": "gru",
        "block": "residual",
        "embedding_dim": 16,
        "hidden_size": 24,
        "num_layers": 3,
        "num_heads": 2,
        "context": 17,
        "mlp": "gelu",
        "order": 4,
        "prune": "0,1",
        "dropout": 0.25,
        "locked_dropout": True,
        "embedding_dropout": 0.5,
        "weight_dropout": 0.5,
        "tie_embeddings": False,
        "initialization": "xavier",
    },
    "optimizer": {
        "learning_rate": 0.5,
        "weight_decay": 0.125,
        "decay_vectors": True,
        "beta1": 0.5,
        "beta2": 0.75,
        "warmup": 0.5,
        "schedule": "constant",
        "clip_norm": None,
        "row_sparse": True,
    },
    "training": {
        "batches": "documents",
        "batch_size": 3,
        "bptt": 7,
        "fresh_start": 0.5,
        "max_length": 9,
        "shuffle": False,
        "bucket": True,
        "loss": "sampled",
        "negatives": 13,
        "exact_share": 0.5,
        "max_time": 3.0,
        "max_steps": 40,
        "epochs": 2.0,
        "accumulate": 2,
        "checkpoint_seconds": 1.5,
        "checkpoints_kept": 5,
        "validations": 3,
        "valid_tokens": 77,
        "yardstick_order": None,
        "seed": 9,
        "deterministic": False,
        "device": "cuda",
        "precision": "bfloat16",
        "tensorboard": True,
    },
}
"""Another value of every setting."""

SETTINGS = [(section, name) for section, fields in OTHER.items() for name in fields]

LATER = {
    *("corpus", "learning_rate", "weight_decay", "warmup", "schedule", "clip_norm"),
    *("max_time", "max_steps", "epochs", "accumulate", "checkpoint_seconds", "checkpoints_kept"),
    *("validations", "yardstick_order", "device", "precision", "tensorboard"),
}
"""What may be changed in a run; the rest would make another run of it. Where `valid` lies may be, but no fraction."""


def test_the_matrix_has_every_setting():
    fields = {name: {field.name for field in dataclasses.fields(kind)} for name, kind in SECTIONS.items()}
    assert {section: set(values) for section, values in OTHER.items()} == fields
    assert {name for names in CHANGEABLE.values() for name in names} == LATER | {"valid"}
    for section, names in CHANGEABLE.items():
        assert names <= fields[section]
    now = to_dict(CONFIG)
    assert all(now[section][name] != OTHER[section][name] for section, name in SETTINGS)


@pytest.mark.parametrize("dotted", [True, False])
@pytest.mark.parametrize(("section", "name"), SETTINGS)
def test_each_setting_may_be_changed_or_is_refused_by_name(section, name, dotted):
    value, old = OTHER[section][name], to_dict(CONFIG)[section][name]
    given = {f"{section}.{name}" if dotted else name: value}
    if name not in LATER:
        with pytest.raises(ConfigError) as caught:
            change(earlier(), given)
        assert f"{section}.{name} ({old} in the run, {value} given)" in str(caught.value)
        assert "leave it out, or start a new run" in str(caught.value)
        return
    config, changes = change(earlier(), given)
    assert changes[f"{section}.{name}"] == (old, value)
    others = set(changes) - {f"{section}.{name}"}
    assert others == ({"training.max_steps"} - {f"{section}.{name}"} if name in BUDGETS else set())
    expected = copy.deepcopy(to_dict(CONFIG))
    if name in BUDGETS:  # which takes the place of the one that there was
        expected["training"]["max_steps"] = None
    expected[section][name] = value
    assert to_dict(config) == expected


@given(chosen=st.sets(st.sampled_from(SETTINGS), min_size=1))
def test_all_that_is_refused_is_named_at_once(chosen):
    given = {f"{section}.{name}": OTHER[section][name] for section, name in chosen}
    refused = {name for name in given if name.partition(".")[2] not in LATER}
    try:
        _, changes = change(earlier(), given)
    except ConfigError as error:
        assert "\n" not in str(error)
        if "cannot be changed in a run" in str(error):  # else two of them contradict each other
            assert {name for name in given if f" {name} (" in str(error)} == refused
            assert refused
    else:
        assert not refused
        assert set(given) <= set(changes)


def test_the_held_out_text_may_lie_elsewhere_but_is_not_drawn_anew():
    of_its_own = earlier(config=resolve(overrides={"corpus": "a.txt", "valid": "b.txt", "max_steps": 20}))
    config, changes = change(of_its_own, {"valid": "c.txt"})
    assert changes == {"data.valid": ("b.txt", "c.txt")}
    assert config.data.valid == "c.txt"
    for run, valid in ((of_its_own, "0.05"), (earlier(), "c.txt"), (earlier(), "0.1")):
        with pytest.raises(ConfigError, match=r"cannot be changed in a run: data\.valid \("):
            change(run, {"valid": valid})


def test_what_is_given_as_it_was_is_no_change():
    same = {f"{section}.{name}": to_dict(CONFIG)[section][name] for section, name in SETTINGS}
    assert change(earlier(), same) == (CONFIG, {})
    assert change(earlier(), {}) == (CONFIG, {})
    assert change(earlier(), {"max_steps": "20", "hidden_size": str(CONFIG.model.hidden_size)}) == (
        CONFIG,
        {},
    )


def test_a_name_that_is_none_is_refused():
    with pytest.raises(ConfigError, match="did you mean"):
        change(earlier(), {"max_stps": 3})


# ---- whether it is the same ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "what"),
    [("content_sha256", "text"), ("valid_sha256", "held-out text"), ("tokenizer_sha256", "tokenizer")],
)
def test_another_text_or_tokenizer_is_refused_with_both_sums(key, what):
    manifest = ENVIRONMENT["data"] | {"notes": []}
    start = Checkpoint(
        Path("run/checkpoints/step-00000001"), 1, {}, ENVIRONMENT["data"] | {"torch": "2.13.0"}
    )
    for known in ((earlier(), None), (earlier(environment=None), start), (earlier(), start)):
        require_same_data(*known, manifest)
        with pytest.raises(InputError, match=f"run: the {what} is not that of the run: ") as caught:
            require_same_data(*known, manifest | {key: "e" * 64})
        assert "e" * 16 in str(caught.value)
        assert ENVIRONMENT["data"][key][:16] in str(caught.value)


def test_the_checkpoint_is_believed_before_what_lies_beside_it():
    now = ENVIRONMENT["data"] | {"content_sha256": "e" * 64}
    edited = earlier(environment=ENVIRONMENT | {"data": now})
    start = Checkpoint(Path("run/checkpoints/step-00000001"), 1, {}, ENVIRONMENT["data"])
    require_same_data(edited, None, now)
    with pytest.raises(InputError, match="the text is not that of the run"):
        require_same_data(edited, start, now)


@pytest.mark.parametrize("finished", [True, False])
def test_what_has_come_further_does_not_begin_again(tmp_path, finished):
    folder = leave(tmp_path / "run", finished=finished)
    run = open_run(folder)
    start = Checkpoint(tmp_path / "checkpoints" / "step-00000001", 1, {}, {})
    require_place(run, start)
    if finished:
        with pytest.raises(
            ModelError, match="none of its checkpoints is left .*: elman train --config .* --out NEW"
        ):
            require_place(run, None)
    else:
        require_place(run, None)
        (folder / "metrics.jsonl").write_text("")
        require_place(run, None)
    (folder / "metrics.jsonl").write_text("{}\n")
    require_place(run, start)
    with pytest.raises(ModelError, match="none of its checkpoints is left"):
        require_place(run, None)


@pytest.mark.parametrize(
    ("then", "now", "may"),
    [
        ("a/tokenizer.json", "b/tokenizer.json", True),
        ("somebody/gpt", "b/tokenizer.json", True),
        ("bpe", "b/tokenizer.json", False),
        ("b/tokenizer.json", "word", False),
    ],
)
def test_a_tokenizer_may_lie_elsewhere_but_be_no_other_kind(then, now, may):
    config = resolve(overrides={"corpus": "a.txt", "tokenizer": then, "max_steps": 20})
    if may:
        assert change(earlier(config=config), {"tokenizer": now})[1] == {"data.tokenizer": (then, now)}
    else:
        with pytest.raises(ConfigError, match="data.tokenizer"):
            change(earlier(config=config), {"tokenizer": now})


def test_a_text_held_out_of_the_corpus_is_not_one_of_its_own():
    manifest = ENVIRONMENT["data"] | {"valid_sha256": None}
    require_same_data(earlier(environment=ENVIRONMENT | {"data": manifest}), None, manifest)
    with pytest.raises(InputError, match="held-out text .*: SHA-256 none here, aaaaaaaaaaaaaaaa... there"):
        require_same_data(earlier(), None, manifest)


def test_a_run_that_had_no_text_yet_takes_any():
    require_same_data(earlier(environment=None), None, ENVIRONMENT["data"])
    assert differences(earlier(environment=None), ENVIRONMENT) == ""


def with_fact(name: str, value):
    changed = copy.deepcopy(ENVIRONMENT)
    if name in changed["packages"]:
        changed["packages"][name] = value
    elif name in changed["choices"]:
        changed["choices"][name] = value
    else:
        changed[name] = value
    return changed


def fact(name: str):
    return {**ENVIRONMENT, **ENVIRONMENT["packages"], **ENVIRONMENT["choices"]}[name]


MATTERS = (
    *("elman", "torch", "numpy", "processor", "threads", "device", "product_dtype", "instructions", "ranks"),
    *("loss", "recurrence"),
)


@pytest.mark.parametrize("name", MATTERS)
def test_what_the_last_bits_depend_on_is_told_or_refused(name):
    there = f'"{fact(name)}"' if name in ENVIRONMENT["choices"] else fact(name)
    here = with_fact(name, "another")
    assert differences(earlier(), here) == f"{name} another here and {there} there"
    with pytest.raises(
        ConfigError, match=f"run: the run would not go on to the bit: {name} another here and"
    ):
        require_same_machine(earlier(), here)


@pytest.mark.parametrize("name", sorted(set(ENVIRONMENT) - set(MATTERS) - {"packages", "choices"}))
def test_what_they_do_not_depend_on_is_not(name):
    assert differences(earlier(), with_fact(name, "another")) == ""
    require_same_machine(earlier(), with_fact(name, "another"))


def test_all_differences_are_told():
    here = with_fact("threads", 4) | {"ranks": 2}
    assert differences(earlier(), here) == "threads 4 here and 1 there, ranks 2 here and 1 there"


def test_every_start_is_remembered_once_and_the_first_one_first():
    twos, threes = (with_fact("threads", number) for number in (2, 3))
    environment = ENVIRONMENT | {"machines": machines(None, ENVIRONMENT)}
    assert environment["machines"] == [{name: fact(name) for name in MATTERS}]
    for now in (twos, ENVIRONMENT, threes, twos):
        environment = now | {"machines": machines(earlier(environment=environment), now)}
    assert [facts["threads"] for facts in environment["machines"]] == [1, 2, 3]
    again = earlier(environment=json.loads(json.dumps(environment)))
    assert differences(again, twos) == "threads 2 here and 1 and 3 there"
    with pytest.raises(ConfigError, match="threads 2 here and 1 and 3 there"):
        require_same_machine(again, twos)
    assert differences(again, twos, ["ranks"]) == ""


def test_a_run_before_starts_were_remembered_has_the_one():
    assert [each["threads"] for each in machines(earlier(), with_fact("threads", 2))] == [1, 2]
    assert [each["threads"] for each in machines(earlier(environment=None), ENVIRONMENT)] == [1]


# ---- precision --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["auto", "float32", "bfloat16"])
@pytest.mark.parametrize("chosen", ["float32", "bfloat16"])
def test_what_auto_chose_is_not_chosen_again(precision, chosen):
    run = earlier(environment=with_fact("product_dtype", f"torch.{chosen}"))
    config = with_precision(CONFIG, precision)
    kept = recorded_dtype(run, config)
    assert kept == (chosen if precision == "auto" else None)
    used = with_precision(config, kept)
    assert used.training.precision == (chosen if precision == "auto" else precision)
    assert with_precision(used, "auto") == CONFIG


def test_what_was_chosen_when_the_run_began_outlives_another_start():
    begun = with_fact("product_dtype", "torch.bfloat16")
    later = ENVIRONMENT | {"machines": machines(earlier(environment=begun), ENVIRONMENT)}
    assert recorded_dtype(earlier(environment=later), with_precision(CONFIG, "auto")) == "bfloat16"


def test_where_nothing_was_chosen_it_is_chosen_now():
    assert recorded_dtype(earlier(environment=None), CONFIG) is None
    assert recorded_dtype(earlier(environment={}), CONFIG) is None
    assert with_precision(CONFIG, None) is CONFIG
