"""TensorBoard: every number of a record as a scalar, at record["step"].

It may not end a training: what goes wrong is reported once.
"""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from elman.errors import MissingExtraError
from elman.train.say import Say, once


def require_tensorboard() -> None:
    """Raise MissingExtraError where the package tensorboard is not installed."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("TensorBoard output", "tensorboard", "track") from error


class TensorBoardLog:
    """The same `write`, into TensorBoard event files.

    Args:
        folder: Where the event files go.
        warn: Told once, in one line, if they can no longer be written.

    Raises:
        MissingExtraError: The package tensorboard is not installed.
    """

    def __init__(self, folder: Path, warn: Say = warnings.warn) -> None:
        require_tensorboard()
        from torch.utils.tensorboard import SummaryWriter

        self._folder = folder
        self._warn = once(warn)
        self._writer: Any = SummaryWriter(str(folder))  # type: ignore[no-untyped-call, unused-ignore]

    def write(self, record: Mapping[str, Any]) -> None:
        """Every number of `record` but its step, as a scalar at that step."""
        step = record["step"]
        numbers = {
            name: value
            for name, value in record.items()
            if name != "step" and isinstance(value, int | float) and not isinstance(value, bool)
        }
        self._attempt(lambda: [self._writer.add_scalar(name, value, step) for name, value in numbers.items()])

    def close(self) -> None:
        """Flush and close the event file."""
        self._attempt(self._writer.close)

    def _attempt(self, action: Callable[[], object]) -> None:
        try:
            action()
        except Exception as error:  # whatever another's package raises, it ends no training
            why = error.strerror if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
            self._warn(f"{self._folder}: TensorBoard events are being lost, training goes on: {why}")

    def __enter__(self) -> Self:
        """Itself; leaving closes the event file."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the event file."""
        self.close()
