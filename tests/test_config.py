"""Settings have one name, a sentence and a range; the chapter's preset is the chapter."""

import ast
import dataclasses
import inspect
import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elman import config
from elman.config import (
    BUDGETS,
    PRESETS,
    SECTIONS,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    TrainingConfig,
    suggestion,
)
from elman.errors import ConfigError

FIELDS = [(cls, field) for cls in SECTIONS.values() for field in dataclasses.fields(cls)]


def make(cls: type, **values: object) -> object:
    """A section with its defaults, and a budget where it needs one."""
    return cls(**({"epochs": 1.0} | values if cls is TrainingConfig else values))


def test_a_bare_name_means_one_field():
    counts = Counter(field.name for _, field in FIELDS)
    assert counts.most_common(1)[0][1] == 1
    assert not set(counts) & set(SECTIONS)


def test_there_is_a_sentence_under_every_field():
    classes = [node for node in ast.parse(inspect.getsource(config)).body if isinstance(node, ast.ClassDef)]
    described = set()
    for node in classes:
        for statement, following in zip(node.body, node.body[1:], strict=False):
            if isinstance(statement, ast.AnnAssign) and isinstance(following, ast.Expr):
                sentence = ast.literal_eval(following.value)
                if sentence.endswith("."):
                    described.add((node.name, statement.target.id))
    wanted = {(cls.__name__, field.name) for cls, field in FIELDS}
    assert wanted - described == set()


def test_a_run_has_exactly_these_sections():
    assert [field.name for field in dataclasses.fields(RunConfig)] == ["preset", *SECTIONS]


def test_budgets_are_optional_fields_of_training():
    assert all(getattr(TrainingConfig(max_time=1), name) in (None, 1) for name in BUDGETS)


@pytest.mark.parametrize(("cls", "field"), FIELDS, ids=lambda value: getattr(value, "name", None))
def test_settings_are_frozen_and_given_by_name(cls, field):
    section = make(cls)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(section, field.name, None)
    with pytest.raises(TypeError):
        cls("positional")


NUMBERS = [(cls, field.name) for cls, field in FIELDS if field.type in (float, float | None)]


@pytest.mark.parametrize(("cls", "name"), NUMBERS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -0.5])
def test_numbers_are_finite_and_not_negative(cls, name, value):
    with pytest.raises(ConfigError, match=rf"^{name} \({value}\) must be "):
        make(cls, **{name: value})


@pytest.mark.parametrize(
    ("cls", "name", "value"),
    [
        (ModelConfig, "num_layers", 0),
        (ModelConfig, "num_layers", 257),
        (ModelConfig, "hidden_size", 0),
        (ModelConfig, "embedding_dim", -1),
        (ModelConfig, "dropout", 1.5),
        (ModelConfig, "dropout", 1.0),
        (OptimizerConfig, "learning_rate", 0.0),
        (OptimizerConfig, "learning_rate", 101.0),
        (OptimizerConfig, "weight_decay", 11.0),
        (OptimizerConfig, "beta1", 1.0),
        (OptimizerConfig, "beta2", 1.0),
        (OptimizerConfig, "warmup", 1.0),
        (OptimizerConfig, "clip_norm", 0.0),
        (DataConfig, "vocab_size", 4),
        (TrainingConfig, "batch_size", 0),
        (TrainingConfig, "bptt", 0),
        (TrainingConfig, "max_length", 1),
        (TrainingConfig, "negatives", 0),
        (TrainingConfig, "exact_share", 1.5),
        (TrainingConfig, "seed", -1),
        (TrainingConfig, "seed", 2**63),
        (TrainingConfig, "max_steps", 0),
        (TrainingConfig, "max_time", 0.0),
        (TrainingConfig, "epochs", 0.0),
        (TrainingConfig, "validations", 0),
        (TrainingConfig, "valid_tokens", 0),
    ],
)
def test_what_is_out_of_range_is_refused_and_quoted(cls, name, value):
    with pytest.raises(ConfigError, match=rf"^{name} \({value}\) must be "):
        make(cls, **{name: value})


@pytest.mark.parametrize("valid", ["0", "-0.1", "0.9", "1", "nan", "inf"])
def test_a_held_out_share_lies_between_0_and_0_9(valid):
    with pytest.raises(ConfigError, match=r"^valid \("):
        DataConfig(valid=valid)


def test_held_out_text_is_a_share_or_a_corpus():
    assert DataConfig(valid="0.25").valid_fraction == 0.25
    assert DataConfig(valid="held-out.txt").valid_fraction is None


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "CPU", "", "cpu\n"])
def test_a_device_that_is_none_is_refused(device):
    with pytest.raises(ConfigError, match=r"^device \("):
        make(TrainingConfig, device=device)


@pytest.mark.parametrize("device", ["auto", "cpu", "mps", "cuda", "cuda:3"])
def test_devices(device):
    assert make(TrainingConfig, device=device).device == device


def test_training_needs_a_budget():
    with pytest.raises(ConfigError, match="max_time, max_steps or epochs"):
        TrainingConfig()


@pytest.mark.parametrize("tokenizer", ["byte", "tokenizer.json", "microsoft/Phi-3.5-mini-instruct"])
def test_a_size_for_a_vocabulary_that_has_its_own_is_refused_not_ignored(tokenizer):
    with pytest.raises(ConfigError, match=r"^vocab_size \(1000\)"):
        DataConfig(tokenizer=tokenizer, vocab_size=1000)


@given(st.sampled_from([field.name for _, field in FIELDS]), st.data())
def test_a_slip_of_one_letter_is_understood(name, data):
    at = data.draw(st.integers(0, len(name) - 1))
    slip = name[:at] + name[at + 1 :]
    names = [field.name for _, field in FIELDS]
    if len(slip) > 3:
        assert "did you mean" in suggestion(slip, names)


def test_nothing_near_suggests_nothing():
    assert suggestion("zzzz", ["cell", "bptt"]) == ""


def test_the_default_preset_is_named_so():
    assert all(preset.preset == name for name, preset in PRESETS.items())


def test_the_chapter_preset_is_the_chapter_to_the_letter():
    chapter = PRESETS["chapter"]
    data, model, optimizer, training = chapter.data, chapter.model, chapter.optimizer, chapter.training

    assert (data.corpus, data.documents) == ("thelmbook:news", "line")
    assert data.tokenizer == "microsoft/Phi-3.5-mini-instruct"
    assert data.mask_digits
    assert (model.cell, model.num_layers, model.embedding_dim, model.hidden_size) == ("elman", 2, 128, 128)
    assert (model.dropout, model.tie_embeddings, model.initialization) == (0.0, False, "xavier")
    # torch.optim.AdamW(model.parameters(), lr=0.001) and nothing else
    assert (optimizer.learning_rate, optimizer.beta1, optimizer.beta2) == (1e-3, 0.9, 0.999)
    assert (optimizer.weight_decay, optimizer.decay_vectors) == (0.01, True)
    assert (optimizer.clip_norm, optimizer.schedule, optimizer.warmup) == (None, "constant", 0.0)
    assert (training.batches, training.batch_size, training.max_length) == ("documents", 128, 30)
    assert (training.epochs, training.max_steps, training.max_time) == (1.0, None, None)
