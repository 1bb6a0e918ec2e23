"""`elman settings`: every setting of a preset as a TOML file with a sentence on each."""

import ast
import inspect
from itertools import pairwise
from typing import Any

from elman import config as definitions
from elman.cli.render import print_json
from elman.config import PRESETS, SECTIONS, suggestion
from elman.errors import ConfigError
from elman.settings import to_dict


def settings_command(preset: str = "default", *, json: bool = False) -> int:
    """Print every setting as a TOML file, with a sentence on each.

    It is a file for `elman train --config`.

    Args:
        preset: default, or chapter.
        json: Print one JSON document (elman.settings/1); what is not set is null.
    """
    if preset not in PRESETS:
        raise ConfigError(
            f"unknown preset {preset!r}{suggestion(preset, PRESETS)}; there are: {', '.join(PRESETS)}"
        )
    if json:
        print_json({"schema": "elman.settings/1", **to_dict(PRESETS[preset])})
    else:
        print(describe_preset(preset), end="")
    return 0


def describe_preset(preset: str) -> str:
    """TOML with a comment above each key; settings that are None are comments too."""
    import tomli_w

    sentences = field_sentences()
    lines = [f'preset = "{preset}"']
    values = to_dict(PRESETS[preset])
    for section in SECTIONS:
        lines += ["", f"[{section}]"]
        for name, value in values[section].items():
            lines.append(f"# {sentences[section, name]}")
            lines.append(f"# {name} =" if value is None else tomli_w.dumps({name: value}).rstrip())
    return "\n".join(lines) + "\n"


def field_sentences() -> dict[tuple[str, str], str]:
    """The docstring under each field of the configuration, by section and name."""
    classes = {
        node.name: node
        for node in ast.parse(inspect.getsource(definitions)).body
        if isinstance(node, ast.ClassDef)
    }
    found: dict[tuple[str, str], str] = {}
    for section, cls in SECTIONS.items():
        body = classes[cls.__name__].body
        for statement, following in pairwise(body):
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                found[section, statement.target.id] = " ".join(_docstring(following).split())
    return found


def _docstring(node: Any) -> str:
    return str(ast.literal_eval(node.value))
