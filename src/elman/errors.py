"""Every error that elman raises on purpose, and the exit code each one ends a command with.

    ElmanError                    1   failed at run time
    ├── NetworkError              1   a download did not come, or not whole
    ├── UsageError                2   the command line cannot be understood
    ├── MissingExtraError         3   an optional package is not installed
    ├── InputError                4   a text, a corpus or a prompt cannot be used
    │   ├── ConfigError           4   a setting is unknown, impossible, or contradicts another
    │   └── TokenizerError        4   a tokenizer cannot be read, or does not fit
    ├── ModelError                5   a model folder is missing, incomplete or damaged
    ├── ResourceError             6   out of disk or memory
    ├── DivergedError             7   the loss is no longer a number
    └── RankError                 1   a process of the job has ended or hangs

A message is one line: what is wrong, where, and the way out.
"""

import textwrap


class ElmanError(Exception):
    """Base of the tree; catch this to catch all that elman raises on purpose."""

    exit_code = 1


class NetworkError(ElmanError):
    """What was to come over the network did not, or something else did."""


class UsageError(ElmanError):
    """The command line cannot be understood."""

    exit_code = 2


class MissingExtraError(ElmanError):
    """An optional package is needed for this and is not installed."""

    exit_code = 3

    def __init__(self, what: str, package: str, extra: str) -> None:
        super().__init__(
            f"{what} needs the package {package!r}; install it with: pip install 'elman[{extra}]'"
        )


class InputError(ElmanError):
    """A text, a corpus, a prompt or an output folder cannot be used."""

    exit_code = 4


class ConfigError(InputError):
    """A setting is unknown, impossible, or contradicts another."""


class TokenizerError(InputError):
    """A tokenizer cannot be read, or does not fit the model or the text."""


class ModelError(ElmanError):
    """A model folder is missing, incomplete, damaged, or written by a newer version."""

    exit_code = 5


class ResourceError(ElmanError):
    """Not enough memory or disk for what was asked."""

    exit_code = 6


class DivergedError(ElmanError):
    """Training produced a loss or a gradient that is not a number."""

    exit_code = 7


class RankError(ElmanError):
    """Another process of the same job has ended or does not answer."""


class StoppedError(ElmanError):
    """A signal asked a training to stop; what it had is saved."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was asked for that is not there; torch says so by a class of its own, or by words."""
    of_torch = type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)
    return isinstance(error, MemoryError) or of_torch


def first_line(error: BaseException) -> str:
    """What an error of a library says, as part of one line."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return textwrap.shorten(line, 160, placeholder=" ...")
