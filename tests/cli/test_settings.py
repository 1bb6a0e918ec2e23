"""`elman settings`: a file that says all there is to set, and that `--config` takes."""

import tomllib
from pathlib import Path

import pytest

from elman.cli.settings import describe_preset, field_sentences
from elman.config import PRESETS, SECTIONS
from elman.settings import resolve, setting_sections, to_dict


@pytest.mark.parametrize("preset", PRESETS)
def test_what_is_printed_is_the_preset(elman, preset):
    outcome = elman("settings", preset)
    assert outcome.code == 0
    assert outcome.err == ""
    assert outcome.out == describe_preset(preset)
    Path("all.toml").write_text(outcome.out)
    assert resolve(toml=Path("all.toml")) == PRESETS[preset]
    values = tomllib.loads(outcome.out)
    known = {
        section: {k: v for k, v in to_dict(PRESETS[preset])[section].items() if v is not None}
        for section in SECTIONS
    }
    assert values == {"preset": preset, **known}


def test_json_is_one_document_with_every_setting(elman):
    document = elman("settings", "--preset", "chapter", "--json").document
    assert document == {"schema": "elman.settings/1", **to_dict(PRESETS["chapter"])}


def test_every_setting_has_a_line_and_a_sentence():
    lines = describe_preset("default").splitlines()
    for name, section in setting_sections().items():
        (position,) = [at for at, line in enumerate(lines) if line.removeprefix("# ").startswith(f"{name} =")]
        sentence = field_sentences()[section, name]
        assert lines[position - 1] == f"# {sentence}"
        assert sentence[-1] in ".)`"
        assert len(sentence) > 10


def test_a_misspelt_preset_is_named(elman):
    elman("settings", "chaptr").refuses(4, "unknown preset 'chaptr'; did you mean 'chapter'?")
    elman("settings", "--jsn").refuses(2, "did you mean --json?")
