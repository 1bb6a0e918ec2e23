"""Settings come from preset, file, environment and command line, in that order, and survive their file."""

import dataclasses
import math
import string
import typing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elman.config import PRESETS, RECIPES, SECTIONS, CellName, RunConfig, TrainingConfig
from elman.errors import ConfigError
from elman.settings import (
    from_toml,
    parse_count,
    parse_duration,
    resolve,
    setting_sections,
    to_dict,
    to_toml,
)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    """A file for the property tests, which cannot have one each."""
    return tmp_path_factory.mktemp("settings") / "config.toml"


@pytest.fixture
def toml(tmp_path):
    """Writes settings to a file and gives its path."""

    def write(content: str | bytes):
        path = tmp_path / "my.toml"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


# ---- layers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
def test_nothing_given_is_the_preset(name):
    assert resolve(name) == PRESETS[name]


def test_later_layers_win(toml):
    path = toml("[model]\nnum_layers = 3\nhidden_size = 3\nembedding_dim = 3\n")
    environment = {"ELMAN_HIDDEN_SIZE": "4", "ELMAN_EMBEDDING_DIM": "4", "PATH": "/bin"}
    model = resolve("chapter", path, environment, {"embedding_dim": 5}).model
    assert model.cell == PRESETS["chapter"].model.cell
    assert (model.num_layers, model.hidden_size, model.embedding_dim) == (3, 4, 5)


def test_a_file_may_name_its_preset(toml):
    resolved = resolve(toml=toml('preset = "chapter"\n[training]\nbatch_size = 64\n'))
    assert resolved.preset == "chapter"
    assert resolved.training.batch_size == 64
    assert resolved.optimizer == PRESETS["chapter"].optimizer


def test_a_preset_that_is_given_wins_over_that_of_the_file(toml):
    path = toml('preset = "chapter"\n[model]\nnum_layers = 5\n')
    for preset, expected in ((None, "chapter"), ("default", "default"), ("chapter", "chapter")):
        resolved = resolve(preset, path)
        assert resolved.preset == expected
        assert resolved.optimizer == PRESETS[expected].optimizer
        assert resolved.model.num_layers == 5


@pytest.mark.parametrize(
    "name",
    ["optimizer.learning_rate", "learning_rate", "learning-rate", "optimizer.learning-rate"],
)
def test_dotted_and_bare_names_with_either_dash_are_one_setting(name):
    assert resolve(overrides={name: "0.25"}).optimizer.learning_rate == 0.25


@pytest.mark.parametrize(
    ("given", "left"),
    [
        ({"max_steps": 7}, {"max_steps": 7, "max_time": None, "epochs": None}),
        ({"epochs": "0.5"}, {"max_steps": None, "max_time": None, "epochs": 0.5}),
        ({"max_time": "2m"}, {"max_steps": None, "max_time": 120.0, "epochs": None}),
        ({"max_steps": 7, "max_time": 9}, {"max_steps": 7, "max_time": 9.0, "epochs": None}),
    ],
)
@pytest.mark.parametrize("preset", PRESETS)
def test_a_budget_replaces_that_of_the_preset(preset, given, left):
    training = resolve(preset, overrides=given).training
    assert {name: getattr(training, name) for name in left} == left


def test_budgets_of_several_layers_hold_together(toml):
    path = toml("[training]\nepochs = 2.0\n")
    training = resolve("default", path, {"ELMAN_MAX_STEPS": "9"}).training
    assert (training.epochs, training.max_steps, training.max_time) == (2.0, 9, None)


def test_taking_every_budget_away_is_refused():
    with pytest.raises(ConfigError, match="needs a budget"):
        resolve(overrides={"max_time": None})


# ---- names --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"hiden_size": 1}, r"command line: unknown setting 'hiden_size'; did you mean 'hidden_size'\?"),
        ({"model.hiden_size": 1}, r"'model\.hiden_size'; did you mean 'model\.hidden_size'\?"),
        ({"training.hidden_size": 1}, r"unknown setting 'training\.hidden_size'; did you mean"),
        ({"modle.hidden_size": 1}, r"did you mean 'model\.hidden_size'\?"),
        ({"": 1}, "unknown setting ''"),
        ({"model.": 1}, r"unknown setting 'model\.'"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(given, message):
    with pytest.raises(ConfigError, match=message):
        resolve(overrides=given)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "[model]\ncel = 'lstm'",
            r"my\.toml, line 2: unknown setting 'model\.cel'; did you mean 'model\.cell'\?",
        ),
        ("[modle]\ncell = 'lstm'", r"my\.toml, line 1: unknown table or key 'modle'; did you mean 'model'\?"),
        ("preste = 'chapter'", r"my\.toml, line 1: unknown table or key 'preste'; did you mean 'preset'\?"),
        ("model = 3", r"my\.toml, line 1: model must be a table"),
        ("[training]\ncell = 'lstm'", r"unknown setting 'training\.cell'"),
    ],
)
@pytest.mark.parametrize("read", [lambda path: resolve(toml=path), from_toml], ids=["resolve", "from_toml"])
def test_an_unknown_name_in_a_file_is_refused_with_the_nearest(toml, read, content, message):
    with pytest.raises(ConfigError, match=message):
        read(toml(content))


def test_an_unknown_preset_in_a_file_is_refused_with_the_nearest(toml):
    with pytest.raises(ConfigError, match=r"unknown preset 'chaptre'; did you mean 'chapter'\?"):
        resolve(toml=toml("preset = 'chaptre'"))


def test_an_unknown_preset_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r"'chaper'; did you mean 'chapter'\?; there are: default, chapter"):
        resolve("chaper")


def test_other_variables_of_the_environment_are_none_of_ours():
    assert resolve(environment={"ELMAN_CACHE": "/c", "SEED": "x", "elman_seed": "y"}) == resolve()


@pytest.mark.parametrize(
    ("name", "way_out"),
    [
        ("ELMAN_DROPOTU", "did you mean ELMAN_DROPOUT?"),
        ("ELMAN_CAHCE", "did you mean ELMAN_CACHE?"),
        ("ELMAN_X", "unset it"),
        ("ELMAN_", "unset it"),
    ],
)
def test_a_variable_that_looks_like_a_setting_and_is_none_is_refused(name, way_out):
    with pytest.raises(ConfigError) as caught:
        resolve(environment={"ELMAN_DROPOUT": "0.5", name: "a secret"})
    assert str(caught.value) == f"environment: {name!r} is no setting; {way_out}"


# ---- values -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("hidden_size", "64", 64),
        ("hidden_size", 64.0, 64),
        ("hidden_size", "1e3", 1000),
        ("seed", str(2**63 - 1), 2**63 - 1),
        ("seed", 2**63 - 1, 2**63 - 1),
        ("learning_rate", "1e-3", 1e-3),
        ("learning_rate", 1, 1.0),
        ("clip_norm", "none", None),
        ("clip_norm", None, None),
        ("vocab_size", "300", 300),
        ("documents", "line", "line"),
        ("documents", "none", None),
        ("mask_digits", "Yes", True),
        ("mask_digits", "false", False),
        ("mask_digits", True, True),
        ("valid", 0.1, "0.1"),
        ("corpus", "none", "none"),
        ("max_time", "1h", 3600.0),
        ("max_time", 90, 90.0),
    ],
)
def test_values_become_the_type_of_their_field(name, value, wanted):
    section = next(key for key, cls in SECTIONS.items() if name in typing.get_type_hints(cls))
    found = getattr(getattr(resolve(overrides={name: value}), section), name)
    assert found == wanted
    assert type(found) is type(wanted)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("hidden_size", "wide", "'wide' is not a number"),
        ("hidden_size", "1.5", "'1.5' is not a whole number"),
        ("hidden_size", True, "True is not a whole number"),
        ("hidden_size", None, "None is not a number"),
        ("hidden_size", [1], r"\[1\] is not a number"),
        ("hidden_size", 10**400, "is not a finite number"),
        ("learning_rate", "nan", "'nan' is not a finite number"),
        ("learning_rate", math.inf, "inf is not a finite number"),
        ("learning_rate", False, "False is not a float"),
        ("learning_rate", "-0.1", r"learning_rate \(-0.1\) must be above 0"),
        ("dropout", "1.5", r"dropout \(1.5\) must be at least 0 and below 1"),
        ("num_layers", 0, r"num_layers \(0\) must be at least 1"),
        ("cell", "lstn", "'lstn' is not one of elman, lstm, .*; did you mean 'lstm'"),
        ("cell", 3, "3 is not one of"),
        ("schedule", None, "None is not one of"),
        ("mask_digits", "maybe", "'maybe' is neither true nor false"),
        ("mask_digits", None, "None is neither true nor false"),
        ("corpus", None, "None is not a str"),
        ("corpus", True, "True is not a str"),
        ("corpus", {"a": 1}, "is not a str"),
        ("max_time", "5x", "'5x' is not a duration; write 90, 90s, 2m or 1h"),
        ("family", "rnn", r"family \(--model\): 'rnn' is not one of recurrent"),
        ("max_time", "-5", r"max_time \(-5.0\) must be above 0"),
        ("max_steps", "2m", "'2m' is not a number"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_by_name(name, value, message):
    with pytest.raises(ConfigError, match=message) as caught:
        resolve(overrides={name: value})
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), (" 1.5 m ", 90), ("2min", 120), ("2h", 7200), ("1e3", 1000), ("1e-1s", 0.1)],
)
def test_durations(text, seconds):
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "s", "1.2.3", ".", "-5", "5d", "1h30m", "1 2", "nan", "٣"])
def test_what_is_no_duration(text):
    assert math.isnan(parse_duration(text))


@given(st.floats(1e-3, 1e6), st.sampled_from([("", 1), ("s", 1), ("m", 60), ("min", 60), ("h", 3600)]))
def test_a_duration_is_its_number_times_its_unit(number, unit):
    assert parse_duration(f"{number!r}{unit[0]}") == pytest.approx(number * unit[1])


# ---- files --------------------------------------------------------------------------------------------


def values(annotation: object) -> st.SearchStrategy:
    """Any value of a field's type that its file can hold."""
    if type(None) in typing.get_args(annotation):
        (inner,) = [choice for choice in typing.get_args(annotation) if choice is not type(None)]
        return st.none() | values(inner)
    if typing.get_origin(annotation) is typing.Literal:
        return st.sampled_from(typing.get_args(annotation))
    return {
        int: st.integers(0, 300) | st.integers(0, 2**63 - 1),
        float: st.floats(0, 2) | st.floats(0, allow_infinity=False, allow_nan=False),
        bool: st.booleans(),
        str: st.text(st.characters(codec="utf-8"), max_size=8)
        | st.text(string.printable, max_size=8)
        | st.sampled_from(["0.1", "none", "cpu", "cuda:1", "byte", '"""', "\\"]),
    }[annotation]


@st.composite
def configs(draw) -> RunConfig:
    """Any settings that are within their ranges."""
    sections = {}
    for name, cls in SECTIONS.items():
        chosen = dataclasses.asdict(getattr(PRESETS[draw(st.sampled_from([*PRESETS]))], name))
        hints = typing.get_type_hints(cls)
        for field in draw(st.sets(st.sampled_from([*hints]))):
            trial = chosen | {field: draw(values(hints[field]))}
            try:
                cls(**trial)
            except ConfigError:
                continue  # out of range: leave this field as it was
            chosen = trial
        sections[name] = cls(**chosen)
    return RunConfig(preset=draw(st.sampled_from([*PRESETS])), **sections)


@given(configs())
def test_settings_come_back_from_their_file(scratch, config):
    scratch.write_text(to_toml(config), encoding="utf-8")
    assert from_toml(scratch) == config
    assert resolve(toml=scratch) == config  # and given as --config, whatever preset it names


def test_what_was_resolved_comes_back_from_its_file(tmp_path):
    config = resolve("chapter", overrides={"cell": "lstm", "max_steps": 3, "clip_norm": 0.5})
    (tmp_path / "config.toml").write_text(to_toml(config))
    assert from_toml(tmp_path / "config.toml") == config


def test_a_setting_switched_off_stays_off_in_its_file(tmp_path):
    config = resolve("default", overrides={"clip_norm": "none"})
    (tmp_path / "config.toml").write_text(to_toml(config))
    assert resolve(toml=tmp_path / "config.toml").optimizer.clip_norm is None


def test_a_file_with_less_is_filled_from_the_preset_or_from_the_defaults(toml):
    path = toml("[training]\nmax_steps = 5\n")
    assert resolve("chapter", path).model == PRESETS["chapter"].model
    assert from_toml(path).training == TrainingConfig(max_steps=5)


def test_a_dictionary_holds_every_field():
    assert {name: set(section) for name, section in to_dict(resolve()).items() if name in SECTIONS} == {
        name: {field.name for field in dataclasses.fields(cls)} for name, cls in SECTIONS.items()
    }


def test_a_byte_order_mark_is_no_setting(toml):
    assert resolve(toml=toml(b"\xef\xbb\xbf[model]\nnum_layers = 7\n")).model.num_layers == 7


@pytest.mark.parametrize(
    "content",
    [
        b"[model]\ncell = 'elman'\n[model]\nhidden_size = 3\n",
        b"[model]\nhidden_size = 1\nhidden_size = 2\n",
        b"\xff\xfe\x00garbage",
        b"\x00\x01\x02",
        b"[model\n",
        b"hello",
        b"a = " + b"[" * 5000,
        b"[training]\nseed = " + b"1" * 5000,
        b"[data]\ncorpus = 2020-13-45\n",
    ],
)
@pytest.mark.parametrize("read", [lambda path: resolve(toml=path), from_toml], ids=["resolve", "from_toml"])
def test_a_file_that_is_no_toml_is_one_line_that_names_it(toml, read, content):
    path = toml(content)
    with pytest.raises(ConfigError) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.binary(max_size=60) | st.text("[]={}\"'.\n#_0a", max_size=60).map(str.encode))
def test_no_bytes_are_an_unexpected_error(scratch, content):
    scratch.write_bytes(content)
    try:
        assert isinstance(resolve(toml=scratch), RunConfig)
    except ConfigError as error:
        assert str(scratch) in str(error)


@pytest.mark.parametrize("name", ["missing.toml", "."])
def test_a_file_that_cannot_be_read_is_named(tmp_path, name):
    with pytest.raises(ConfigError, match="cannot be read"):
        resolve(toml=tmp_path / name)


# ---- recipes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_for_the_default_preset_and_gives_way_to_what_is_given(name):
    asked = {"cell": name} if name in typing.get_args(CellName) else {"family": name}
    model = resolve(overrides=asked).model
    assert model.name == name
    for field, value in RECIPES[name].items():
        section = setting_sections()[field]
        assert getattr(getattr(resolve(overrides=asked), section), field) == value
        chapter = resolve("chapter", overrides=asked)
        assert getattr(getattr(chapter, section), field) == getattr(
            getattr(PRESETS["chapter"], section), field
        )
    assert resolve(overrides=asked | {"num_layers": 7}).model.num_layers == 7


def test_a_cell_that_is_asked_for_as_a_model_is_told():
    with pytest.raises(ConfigError, match="'lstm' is a cell, not a model: give --cell lstm"):
        resolve(overrides={"family": "lstm"})


@pytest.mark.parametrize("family", ["transformer", "window", "ngram"])
def test_a_cell_is_for_a_recurrent_model(family, scratch):
    for both in ({"cell": "gru", "family": family}, {"model.cell": "gru", "model.family": family}):
        with pytest.raises(ConfigError, match=f"command line: cell 'gru' .* not '{family}'; leave one out"):
            resolve(overrides=both)
    # The last word decides: a file of another model gives way to a cell that is asked for.
    scratch.write_text(to_toml(resolve(overrides={"family": family})), encoding="utf-8")
    assert resolve(toml=scratch).model.name == family
    assert resolve(toml=scratch, overrides={"cell": "gru"}).model.name == "gru"
    assert resolve(environment={"ELMAN_CELL": "gru"}, overrides={"family": family}).model.name == family


@pytest.mark.parametrize(
    ("text", "count"), [("7", 7), (7, 7), ("500k", 500_000), ("2M", 2_000_000), (" 1.5M ", 1_500_000)]
)
def test_a_count_may_be_short(text, count):
    assert parse_count("params", text) == count


@pytest.mark.parametrize("text", ["", "k", "1.5", "0.0001k", "-3", "1e3", "2G", "two", "nan"])
def test_what_is_no_count(text):
    with pytest.raises(ConfigError, match="params: .* is not a whole number; write 500000, 500k or 2M"):
        parse_count("params", text)
