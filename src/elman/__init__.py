"""Recurrent neural network language models: train, evaluate, generate.

    import elman

    model = elman.load("runs/python-docs-lstm-1")
    model.generate("Return the", max_tokens=50)
    elman.evaluate(model, "text.txt").bits_per_byte

Names are imported when they are first used, so that `import elman` costs nothing.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from elman.version import __version__ as __version__

if TYPE_CHECKING:
    from elman.api import compare as compare
    from elman.api import evaluate as evaluate
    from elman.api import resume as resume
    from elman.api import train as train
    from elman.errors import ElmanError as ElmanError
    from elman.evaluate.score import Score as Score
    from elman.text_model import Sample as Sample
    from elman.text_model import TextModel as TextModel
    from elman.text_model import load as load

_HOMES = {
    "ElmanError": "elman.errors",
    "Sample": "elman.text_model",
    "Score": "elman.evaluate.score",
    "TextModel": "elman.text_model",
    "compare": "elman.api",
    "evaluate": "elman.api",
    "load": "elman.text_model",
    "resume": "elman.api",
    "train": "elman.api",
}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    """A public name, from the module that defines it."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'elman' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names."""
    return sorted([*__all__, "__version__"])


class _Package(ModuleType):
    """This package. The import system would bind rooms of the same name over the functions."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
