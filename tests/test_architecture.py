"""Imports point one way between the rooms of the package, and importing it costs and says nothing.

A room is a folder under `elman`, or a module that stands beside them.
"""

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import elman

PLAN = Path(__file__).parents[1] / "CONTRIBUTING.md"
SOURCE = Path(elman.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))

ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "version": set(),
    "sealed": set(),
    "config": {"errors"},
    "settings": {"config", "errors", "files"},
    "files": {"errors"},
    "chapter": {"errors"},
    "ranks": {"errors", "version"},
    "pages": set(),
    "data": {"config", "errors", "files", "ranks", "sealed"},
    "ops": {"errors"},
    "cells": {"errors", "ops"},
    "models": {"cells", "chapter", "config", "errors", "files", "ops", "sealed"},
    "generate": {"errors", "models"},
    "evaluate": {"data", "errors", "models", "ranks"},
    "text_model": {
        "config",
        "data",
        "errors",
        "evaluate",
        "files",
        "generate",
        "models",
        "ranks",
        "settings",
    },
    "train": {
        "chapter",
        "config",
        "data",
        "errors",
        "evaluate",
        "files",
        "models",
        "ops",
        "pages",
        "ranks",
        "settings",
        "text_model",
        "version",
    },
    "compare": {
        "config",
        "data",
        "errors",
        "evaluate",
        "files",
        "generate",
        "models",
        "pages",
        "settings",
        "text_model",
        "train",
    },
    "api": {"compare", "config", "data", "errors", "evaluate", "ranks", "settings", "text_model", "train"},
    "__init__": {"api", "errors", "evaluate", "text_model", "version"},
    "cli": {
        "__init__",
        "api",
        "cells",
        "chapter",
        "compare",
        "config",
        "data",
        "errors",
        "evaluate",
        "files",
        "generate",
        "models",
        "ops",
        "ranks",
        "settings",
        "text_model",
        "train",
    },
    "__main__": {"cli"},
}
"""What each room may import beside itself."""

ONLY_FILES = {
    ("models", "config"): {"build.py"},
    ("models", "chapter"): {"convert.py"},
    ("models", "files"): {"arpa_text.py", "store.py"},
    ("models", "sealed"): {"store.py"},
    ("models", "cells"): {"build.py", "convert.py", "recurrent.py", "transformer.py"},
}
"""Where a room may be imported by some files of another only."""

HEAVY = {"torch", "numpy", "tokenizers", "safetensors"}
OPTIONAL = {
    "datasets",
    "pyarrow",
    "zstandard",
    "tensorboard",
    "matplotlib",
    "transformers",
    "fastapi",
    "onnx",
}


def room_of(path: Path) -> str:
    """The room that a file under SOURCE belongs to."""
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


ROOMS = {room_of(path) for path in FILES}


@cache
def imports(path: Path) -> tuple[tuple[str, int], ...]:
    """Dotted name of everything that a file imports, at any depth in it, and the line."""
    found = []
    package = ["elman", *path.relative_to(SOURCE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            found += [(f"{module}.{alias.name}", node.lineno) for alias in node.names]
    return tuple(found)


def rooms_imported(path: Path) -> list[tuple[str, int]]:
    """Room and line of every import of the package's own, those of the file's own room left out."""
    found = []
    for name, line in imports(path):
        parts = name.split(".")
        if parts[0] == "elman":
            room = parts[1] if len(parts) > 1 and parts[1] in ROOMS else "__init__"
            if room != room_of(path):
                found.append((room, line))
    return found


def relative(path: Path) -> str:
    return str(path.relative_to(SOURCE))


def test_the_table_has_every_room_and_no_other():
    assert set(ALLOWED) == ROOMS
    assert set().union(*ALLOWED.values()) <= ROOMS
    assert all(room not in allowed for room, allowed in ALLOWED.items())


def test_the_table_has_no_circle():
    left = dict(ALLOWED)
    while left:
        done = {room for room, allowed in left.items() if not allowed & set(left)}
        assert done, f"these rooms import one another: {sorted(left)}"
        left = {room: allowed for room, allowed in left.items() if room not in done}


def test_nobody_imports_the_command_line():
    assert [room for room, allowed in ALLOWED.items() if "cli" in allowed] == ["__main__"]


def plan() -> dict[str, str]:
    """What the plan of the house says of each room, in its order."""
    text = PLAN.read_text(encoding="utf-8")
    listed = re.search(r"^src/elman/\n((?:  .*\n)+)", text, re.MULTILINE)
    assert listed is not None, "CONTRIBUTING.md has no plan of src/elman/"
    entries = re.findall(r"^  (\w+)(?:\.py|/) +((?:.*\n)(?:   .*\n)*)", listed[1], re.MULTILINE)
    return {room: " ".join(said.split()) for room, said in entries}


def test_the_plan_has_every_room_after_those_that_it_imports():
    order = list(plan())
    assert set(order) == ROOMS - {"__init__", "__main__"}
    for room in order:
        later = set(order[order.index(room) :])
        assert not ALLOWED[room] & later, f"CONTRIBUTING.md has {room} before what it imports"


@pytest.mark.parametrize("room", sorted(room for room in ROOMS if (SOURCE / room).is_dir()))
def test_the_plan_names_every_module_and_no_other(room):
    """A room's line is `what it is for: module, module (what it does); module`."""
    named = re.findall(r"\w+", re.sub(r"\(.*?\)", "", plan()[room]).partition(": ")[2])
    modules = {path.stem for path in FILES if room_of(path) == room and path.stem != "__init__"}
    assert len(named) == len(set(named))
    assert set(named) == modules, f"CONTRIBUTING.md and src/elman/{room}: {sorted(set(named) ^ modules)}"


def test_imports_are_found():
    """The other tests would pass on an empty list."""
    assert len(FILES) > 40
    found = {(relative(path), room) for path in FILES for room, _ in rooms_imported(path)}
    assert ("models/build.py", "config") in found
    assert ("models/neural.py", "ops") in found  # from elman import ops
    assert ("cli/train.py", "train") in found  # inside a function
    assert ("__init__.py", "api") in found  # for type checkers only
    assert ("cli/__init__.py", "__init__") in found  # from elman import __version__


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_imports_point_one_way(path):
    room = room_of(path)
    for target, line in rooms_imported(path):
        assert target in ALLOWED[room], (
            f"{relative(path)}:{line} imports {target}; {room} may import {sorted(ALLOWED[room])}"
        )
        files = ONLY_FILES.get((room, target))
        assert files is None or path.name in files, (
            f"{relative(path)}:{line} imports {target}; of {room}, only {sorted(files)} may"
        )


@pytest.mark.parametrize(("room", "target"), ONLY_FILES)
def test_every_exception_is_used(room, target):
    users = {p.name for p in FILES if room_of(p) == room and target in {to for to, _ in rooms_imported(p)}}
    assert users == ONLY_FILES[room, target]


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_optional_packages_are_imported_where_they_are_used(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    at_import = [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
        for node in ast.walk(function)
    }
    for node in at_import:
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
        optional = {name.split(".")[0] for name in names} & OPTIONAL
        assert not optional or id(node) in inside, f"{relative(path)}:{node.lineno} imports {optional}"


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_a_file_opens_with_what_it_is_and_is_named_for_an_idea(path):
    assert path.stem not in {"utils", "util", "helpers", "misc", "common"}
    module = ast.parse(path.read_text(encoding="utf-8"))
    if module.body:
        assert ast.get_docstring(module), f"{relative(path)} has no docstring"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A fresh Python, in which a warning is an error."""
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def test_importing_the_package_loads_nothing_heavy_and_says_nothing():
    done = run("-c", f"import sys, elman\nassert not {HEAVY!r} & set(sys.modules), sys.modules.keys()")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_help_does_not_load_torch():
    code = (
        "import sys\n"
        "from elman.cli import main\n"
        "sys.argv = ['elman', '--help']\n"
        "try:\n"
        "    main()\n"
        "finally:\n"
        "    loaded = {'torch', 'tokenizers', 'safetensors'} & set(sys.modules)\n"
        "    print('loaded:', sorted(loaded), file=sys.stderr)\n"
    )
    done = run("-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == "loaded: []"
    direct = run("-m", "elman", "--help")
    assert (direct.returncode, direct.stderr) == (0, "")
    assert direct.stdout == done.stdout
    for verb in ("train", "eval", "generate"):
        assert verb in direct.stdout


def test_importing_every_module_says_nothing_and_leaves_torch_as_it_is():
    modules = [
        ".".join(["elman", *path.relative_to(SOURCE).with_suffix("").parts]).removesuffix(".__init__")
        for path in FILES
    ]
    code = (
        "import importlib, torch\n"
        "def settings():\n"
        "    return (torch.are_deterministic_algorithms_enabled(), torch.get_default_dtype(),\n"
        "            torch.get_num_threads(), torch.get_rng_state().sum().item(), torch.is_grad_enabled())\n"
        "before = settings()\n"
        f"for name in {modules!r}:\n"
        "    importlib.import_module(name)\n"
        "assert settings() == before\n"
    )
    done = run("-c", code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
