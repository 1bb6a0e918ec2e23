"""Where settings come from: preset, TOML file, environment, command line; the later ones win.

    elman train --config my.toml --learning-rate 0.002 --optimizer.weight-decay 0.1

A name that is no setting is an error that names the nearest one; a value is converted to its field's type.
"""

import dataclasses
import difflib
import math
import re
import reprlib
import tomllib
import types
import typing
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import tomli_w

from elman.config import BUDGETS, PRESETS, RECIPES, SECTIONS, CellName, ModelConfig, RunConfig, suggestion
from elman.errors import ConfigError, InputError
from elman.files import read_at_most

LARGEST_FILE = 1 << 18
"""Bytes of a TOML file; one with every setting and a sentence on each has a thirtieth of it."""

MOST_DOTS = 64
"""In a name of a TOML file. The time to read one grows with the square of its parts, and a setting has two."""

PREFIX = "ELMAN_"
"""Of a setting, in capitals, among the variables of the environment."""

OTHER_VARIABLES = ("CACHE",)
"""What is behind the prefix in those that are ours and no settings."""

LARGEST_NUMBER = 4096
"""Bits of a whole number, which Python still writes in decimal."""

Where = Callable[[str], str]
"""Where a setting was given, for messages: the command line, or a line of a file."""


def resolve(
    preset: str | None = None,
    toml: Path | None = None,
    environment: Mapping[str, str] | None = None,
    overrides: Mapping[str, object] | None = None,
) -> RunConfig:
    """The settings of a run: the preset, then `toml`, then `environment`, then `overrides`.

    Over the default preset comes first what its recipe for the model asked for changes.

    Args:
        preset: A name in PRESETS; None takes the one that `toml` names, or else "default".
        toml: A file with tables `[data]`, `[model]`, `[optimizer]` and `[training]`; it may name its `preset`.
        environment: Variables `ELMAN_<FIELD>`; those without the prefix are ignored.
        overrides: Settings by dotted or bare name; strings are converted to the field's type.

    Raises:
        ConfigError: An unknown name (with the nearest known one), a wrong type or an impossible value.
    """
    layers: list[tuple[Where, Mapping[str, object]]] = []
    if toml is not None:
        tables, where = _read_toml(toml)
        named = str(tables.pop("preset", "default"))
        preset = named if preset is None else preset
        layers.append((where, _flatten(tables, where)))
    if environment:
        layers += _from_environment(environment)
    layers.append((_everywhere("command line"), overrides or {}))
    layers = [(where, _with_family(layer, where)) for where, layer in layers]

    preset = "default" if preset is None else preset
    if preset not in PRESETS:
        raise ConfigError(
            f"unknown preset {_show(preset)}{suggestion(preset, PRESETS)}; there are: {', '.join(PRESETS)}"
        )
    values = {name: dict(section) for name, section in to_dict(PRESETS[preset]).items() if name in SECTIONS}
    if preset == "default":
        layers.insert(0, (_everywhere("recipe"), RECIPES.get(_name_of_model(values["model"], layers), {})))
    return _apply(preset, values, layers)


def amend(config: RunConfig, overrides: Mapping[str, object]) -> RunConfig:
    """The settings of a run with some of them changed; a budget given replaces the one that it has.

    Raises:
        ConfigError: As for `resolve`.
    """
    values = {name: section for name, section in to_dict(config).items() if name in SECTIONS}
    return _apply(config.preset, values, [(_everywhere("command line"), overrides)])


def _apply(
    preset: str, values: dict[str, dict[str, Any]], layers: list[tuple[Where, Mapping[str, object]]]
) -> RunConfig:
    budget_given = False
    for where, layer in layers:
        for name, value in layer.items():
            section, name_of_field, annotation = _find(name, where)
            if name_of_field in BUDGETS and not budget_given:
                values["training"] |= dict.fromkeys(BUDGETS)  # a budget given replaces that of the preset
                budget_given = True
            option = "family (--model)" if name_of_field == "family" else name_of_field
            values[section][name_of_field] = _convert(value, annotation, f"{where(name)}: {option}")
    return RunConfig(preset=preset, **{name: SECTIONS[name](**fields) for name, fields in values.items()})


def _from_environment(environment: Mapping[str, str]) -> list[tuple[Where, Mapping[str, object]]]:
    """A layer for each setting.

    Raises:
        ConfigError: A variable is called as if it were a setting, and is none.
    """
    known = {name.upper(): name for name in _fields_by_name()}
    ours = {key.removeprefix(PREFIX): value for key, value in environment.items() if key.startswith(PREFIX)}
    for key in sorted(ours.keys() - known.keys() - {*OTHER_VARIABLES}):
        # without the prefix, which would make everything look alike
        near = difflib.get_close_matches(key, [*known, *OTHER_VARIABLES], n=1)
        way_out = f"did you mean {PREFIX}{near[0]}?" if near else "unset it"
        raise ConfigError(f"environment: {_show(PREFIX + key)} is no setting; {way_out}")
    return [(_everywhere(PREFIX + key), {known[key]: value}) for key, value in ours.items() if key in known]


def _everywhere(place: str) -> Where:
    return lambda name: place


def _name_of_model(preset: Mapping[str, object], layers: list[tuple[Where, Mapping[str, object]]]) -> str:
    """`ModelConfig.name` of what is asked for."""
    family, cell = preset["family"], preset["cell"]
    for where, layer in layers:
        given = {_find(name, where)[1]: value for name, value in layer.items()}
        family, cell = given.get("family", family), given.get("cell", cell)
    name = cell if family == "recurrent" else family
    return name if isinstance(name, str) else ""


def _with_family(layer: Mapping[str, object], where: Where) -> Mapping[str, object]:
    """The same settings, where a cell that is asked for asks for a recurrent model.

    Raises:
        ConfigError: A cell is asked for together with a family that has none. A file of a run may name both, as it
            names every setting.
    """
    given = {_find(name, where)[1]: value for name, value in layer.items()}
    if given.get("family") in typing.get_args(CellName):
        raise ConfigError(
            f"{where('model.family')}: {_show(given['family'])} is a cell, not a model: give --cell {given['family']}"
        )
    if "cell" not in given:
        return layer
    family = given.get("family", "recurrent")
    whole = {field.name for field in dataclasses.fields(ModelConfig)} <= given.keys()
    if family != "recurrent" and not whole:
        raise ConfigError(
            f"{where('model.cell')}: cell {_show(given['cell'])} is for model 'recurrent', not {_show(family)};"
            " leave one out"
        )
    return {"family": family, **layer}


def to_dict(config: RunConfig) -> dict[str, Any]:
    """The settings as plain nested dictionaries."""
    return dataclasses.asdict(config)


def from_dict(values: Mapping[str, Any]) -> RunConfig:
    """What `to_dict` gave."""
    sections = {name: read_section(name, values[name], "settings") for name in SECTIONS}
    return RunConfig(preset=values["preset"], **sections)


def to_toml(config: RunConfig) -> str:
    """The settings as TOML, every one of them, so that no preset shines through; None is written "none"."""
    tables = {
        name: {key: "none" if value is None else value for key, value in section.items()}
        for name, section in to_dict(config).items()
        if name in SECTIONS
    }
    return tomli_w.dumps({"preset": config.preset, **tables})


def from_toml(path: Path) -> RunConfig:
    """The settings that `to_toml` wrote: the file alone, no preset under it."""
    tables, where = _read_toml(path)
    preset = str(tables.pop("preset", "default"))
    values: dict[str, dict[str, Any]] = {name: {} for name in SECTIONS}
    for name, value in _flatten(tables, where).items():
        section, name_of_field, annotation = _find(name, where)
        values[section][name_of_field] = _convert(value, annotation, f"{where(name)}: {name_of_field}")
    return RunConfig(preset=preset, **{name: SECTIONS[name](**fields) for name, fields in values.items()})


def read_section(name: str, values: object, where: str) -> Any:
    """One section, `ModelConfig` for "model", from plain values that need not be trusted.

    Raises:
        ConfigError: An unknown name, a wrong type or an impossible value.
    """
    fields = {}
    for key, value in _flatten({name: values}, _everywhere(where)).items():
        _, name_of_field, annotation = _find(key, _everywhere(where))
        if isinstance(value, str) and annotation in (bool, int, float):  # only a command line spells numbers
            raise ConfigError(
                f"{where}: {name_of_field}: {_show(value)} is a string, not of type {annotation.__name__}"
            )
        fields[name_of_field] = _convert(value, annotation, f"{where}: {name_of_field}")
    return SECTIONS[name](**fields)


def parse_duration(text: str) -> float:
    """Seconds in `90`, `90s`, `1.5m` or `2h`."""
    match = re.fullmatch(r"\s*([0-9.]+(?:e-?\d+)?)\s*(s|m|min|h)?\s*", text)
    try:
        return (
            float(match[1]) * {"m": 60.0, "min": 60.0, "h": 3600.0}.get(match[2], 1.0) if match else math.nan
        )
    except ValueError:
        return math.nan


def parse_count(name: str, value: int | str) -> int:
    """A whole number, or one such as `500k`, `2M` or `1.5M`.

    Raises:
        ConfigError: It is none of them; `name` says of what.
    """
    match = re.fullmatch(r"\s*(\d{1,18}(?:\.\d{1,18})?)\s*([kM]?)\s*", str(value))
    number = Fraction(match[1]) * {"": 1, "k": 1_000, "M": 1_000_000}[match[2]] if match else Fraction(1, 2)
    if number.denominator != 1:
        raise ConfigError(f"{name}: {_show(value)} is not a whole number; write 500000, 500k or 2M")
    return number.numerator


def setting_sections() -> dict[str, str]:
    """Every setting by its bare name, and the section it is in."""
    return {name: section for name, (section, _) in _fields_by_name().items()}


def _fields_by_name() -> dict[str, tuple[str, Any]]:
    """Every field: its section and its annotation."""
    found: dict[str, tuple[str, Any]] = {}
    for section, cls in SECTIONS.items():
        found |= {name: (section, annotation) for name, annotation in typing.get_type_hints(cls).items()}
    return found


def _find(name: str, where: Where) -> tuple[str, str, Any]:
    """Section, field and annotation of a dotted or bare setting name."""
    fields = _fields_by_name()
    section, _, bare = name.replace("-", "_").rpartition(".")
    if bare in fields and section in ("", fields[bare][0]):
        return fields[bare][0], bare, fields[bare][1]
    dotted = [f"{found[0]}.{key}" for key, found in fields.items()]
    near = suggestion(f"{section}.{bare}", dotted) if section else suggestion(bare, fields)
    raise ConfigError(f"{where(name)}: unknown setting {_show(name)}{near}")


def _flatten(tables: Mapping[str, object], where: Where) -> dict[str, object]:
    """`{"model": {"cell": ...}}` as `{"model.cell": ...}`."""
    flat: dict[str, object] = {}
    for name, table in tables.items():
        if name not in SECTIONS:
            known = [*SECTIONS, "preset"]
            raise ConfigError(f"{where(name)}: unknown table or key {_show(name)}{suggestion(name, known)}")
        if not isinstance(table, Mapping):
            raise ConfigError(f"{where(name)}: {name} must be a table, [{name}]")
        flat |= {f"{name}.{key}": value for key, value in table.items()}
    return flat


def _read_toml(path: Path) -> tuple[dict[str, Any], Where]:
    """The tables of a file, and where each name in it stands."""
    try:
        text = read_at_most(path, LARGEST_FILE).decode("utf-8-sig")
        if any(part.count(".") > MOST_DOTS for line in text.splitlines() for part in line.split("=")):
            raise ValueError(f"a name or a value has more than {MOST_DOTS} dots")
        return tomllib.loads(text), lambda name: _line_of(name, text, path)
    except InputError as error:
        raise ConfigError(str(error)) from error
    except (ValueError, RecursionError) as error:  # among them a bare one, for a number of 5,000 digits
        raise ConfigError(f"{path}: not valid TOML: {error}") from error


def _line_of(name: str, text: str, path: Path) -> str:
    """`path`, and the line on which a table or a setting, `model.cell`, begins where it is written plainly."""
    table = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if header := re.match(r"\s*\[\s*([\w.-]+)\s*\]", line):
            table = header[1]
            found = [table]
        else:
            key = re.match(r"\s*([\w.-]+)\s*=", line)
            found = [".".join(filter(None, [table, key[1]]))] if key else []
        if name in found:
            return f"{path}, line {number}"
    return str(path)


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80


def _show(value: object) -> str:
    """A value as Python writes it, cut where it is long."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # Python writes no number of 5,000 digits
        return f"a {type(value).__name__} too long to be shown"


def _convert(value: object, annotation: Any, where: str) -> object:
    """`value`, which may be a string from the command line, as the type that a field wants."""
    if isinstance(value, int) and value.bit_length() > LARGEST_NUMBER:
        raise ConfigError(f"{where}: {_show(value)} is beyond any setting")
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        if value is None or value == "none":
            return None
        (annotation,) = [choice for choice in typing.get_args(annotation) if choice is not type(None)]
    if typing.get_origin(annotation) is Literal:
        choices = typing.get_args(annotation)
        if not isinstance(value, str) or value not in choices:
            near = suggestion(value, choices) if isinstance(value, str) else ""
            raise ConfigError(f"{where}: {_show(value)} is not one of {', '.join(choices)}{near}")
        return value
    if annotation is bool:
        words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if isinstance(value, bool):
            return value
        if isinstance(value, str | int) and str(value).lower() in words:
            return words[str(value).lower()]
        raise ConfigError(f"{where}: {_show(value)} is neither true nor false")
    if annotation is str and isinstance(value, str | int | float | Path) and not isinstance(value, bool):
        return str(value)
    if annotation in (int, float) and not isinstance(value, bool):
        number = _number(value, where)
        if annotation is float:
            return number
        if number == int(number):
            return int(str(value)) if str(value).lstrip("+-").isdigit() else int(number)
    raise ConfigError(
        f"{where}: {_show(value)} is not a {'whole number' if annotation is int else annotation.__name__}"
    )


def _number(value: object, where: str) -> float:
    """A finite number, from a number or a string; `where` ends in the name of the field."""
    if not isinstance(value, str | int | float):
        raise ConfigError(f"{where}: {_show(value)} is not a number")
    is_time = where.endswith("max_time")
    duration = parse_duration(str(value)) if is_time else math.nan
    try:
        number = float(str(value)) if math.isnan(duration) else duration
    except ValueError:
        wanted = "duration; write 90, 90s, 2m or 1h" if is_time else "number"
        raise ConfigError(f"{where}: {_show(value)} is not a {wanted}") from None
    if not math.isfinite(number):
        raise ConfigError(f"{where}: {_show(value)} is not a finite number")
    return number
