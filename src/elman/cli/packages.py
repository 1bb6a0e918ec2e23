"""What has to be installed beside elman, and what is said where it is missing, broken or too old."""

import re
import traceback
from importlib import metadata

FLOORS = {
    "torch": "2.9",
    "numpy": "1.26",
    "tokenizers": "0.21",
    "safetensors": "0.4",
    "cyclopts": "4.0",
    "rich": "13.7",
    "tomli-w": "1.0",
}
"""The oldest version of each package that elman works with, as in pyproject.toml."""


def outdated() -> str | None:
    """What to say of the first package that is older than its floor. None of them is imported to find out."""
    for name, floor in FLOORS.items():
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # perhaps there without its description; if not, importing it says so
        if _numbers(found) < _numbers(floor):
            return f"{name} {found} is too old for elman; install a newer one with: {_install(name)}"
    return None


def not_importable(error: BaseException) -> str | None:
    """What to say of an error that a package ended its own import with; None for any other error.

    A library that lacks a file raises OSError, one that lacks another package ImportError, and some whatever they like.
    """
    modules = [
        str(frame.f_globals.get("__name__", "")).partition(".")[0]
        for frame, _ in traceback.walk_tb(error.__traceback__)
        if frame.f_code.co_name == "<module>"
    ]
    if isinstance(error, ImportError) and error.name:
        modules.append(error.name.partition(".")[0])
    broken = [name for name in modules if name.replace("_", "-") in FLOORS]
    if not broken:
        return None
    name = broken[0].replace("_", "-")
    return f"{name} cannot be imported ({error}); install it with: {_install(name)}"


def _install(name: str) -> str:
    return f"pip install --upgrade '{name}>={FLOORS[name]}'"


def _numbers(version: str) -> tuple[int, ...]:
    """Of `2.10.1+cpu`: 2, 10, 1."""
    release = re.match(r"[\d.]*", version)
    return tuple(int(part) for part in release[0].split(".") if part) if release else ()
