"""The command line: parse, call, render; one file a verb.

stdout is the result and stderr is progress. `--json` on every verb prints one document with a `schema`.
Exit codes: 0 ok, 1 failed at run time, 2 usage, 3 missing extra, 4 bad input or settings, 5 bad model,
6 out of disk or memory, 7 diverged, 130 interrupted.
"""

import contextlib
import io
import os
import sys
import traceback
from collections.abc import Callable, Sequence

from cyclopts import App, CycloptsError

from elman import __version__
from elman.cli.arguments import DEFAULTS, explain, refuse_unknown_options, require_utf8
from elman.cli.arpa import arpa_command
from elman.cli.compare import compare_command
from elman.cli.data import data_app
from elman.cli.doctor import doctor_command
from elman.cli.evaluate import evaluate_command
from elman.cli.generate import generate_command
from elman.cli.packages import not_importable, outdated
from elman.cli.render import Output, say, visible
from elman.cli.settings import settings_command
from elman.cli.train import gather_settings, train_command
from elman.cli.verify import verify_command
from elman.errors import ElmanError, MissingExtraError, ResourceError, is_out_of_memory
from elman.files import disk_is_full

HELP = """\
Recurrent neural network language models: train, evaluate, compare, generate.

For example:

    elman train                       learn from the Python documentation, 90 s
    elman train novel.txt             learn from a text of yours
    elman eval runs/NAME text.txt     how well a model predicts a text
    elman compare                     ten kinds of model at an equal budget
    elman generate runs/NAME "The"    continue a prompt
    elman train --resume runs/NAME    go on with a training that was ended
    elman doctor runs/NAME            check that its probabilities are sound

Every command takes --help, and --debug, which shows where an error came from.
"""

VERBS: tuple[tuple[str, Callable[..., int], str], ...] = (
    ("train", train_command, "[CORPUS]"),
    ("eval", evaluate_command, "MODEL [MODEL ...] [TEXT]"),
    ("compare", compare_command, "[CORPUS]"),
    ("generate", generate_command, "MODEL [PROMPT]"),
    ("doctor", doctor_command, "[MODEL]"),
    ("verify", verify_command, "RUN"),
    ("arpa", arpa_command, "SOURCE TARGET"),
    ("settings", settings_command, "[PRESET]"),
)
"""Name, function, and what it takes; `data` has verbs of its own."""

LONGEST_MESSAGE = 1000
"""Characters of an error that are shown."""


def make_app() -> App:
    """All verbs. Their modules import no torch, so --help is there at once."""
    app = App(
        name="elman",
        help=HELP,
        help_format="plaintext",
        version=__version__,
        default_parameter=DEFAULTS,
        console=Output(),
        suppress_keyboard_interrupt=False,
    )
    for order, (name, command, takes) in enumerate(VERBS):
        app.command(command, name=name, usage=f"Usage: elman {name} {takes} [OPTIONS]", sort_key=order)
    app.command(data_app)
    return app


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    _make_streams_safe()
    sys.exit(run(list(sys.argv[1:] if arguments is None else arguments)))


def run(arguments: list[str]) -> int:
    """Run the command line; the exit code. Errors of elman's own are one line on stderr."""
    arguments, debug = _take_debug(arguments)
    try:
        require_utf8(arguments)
        app = make_app()
        if arguments[:1] == ["train"]:
            arguments = gather_settings(arguments)
        else:
            refuse_unknown_options(app, arguments)
        if arguments and not arguments[0].startswith("-") and (old := outdated()):
            return _fail(None, MissingExtraError.exit_code, debug, old)
        code = app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except CycloptsError as error:
        return _fail(error, 2, debug, explain(error))
    except ElmanError as error:
        return _fail(error, error.exit_code, debug)
    except KeyboardInterrupt:
        say("elman: interrupted")
        return 130
    except BrokenPipeError:  # the reader of stdout has gone, as `| head` does
        _give_up_stdout()
        return 0
    except OSError as error:
        if missing := not_importable(error):
            return _fail(error, MissingExtraError.exit_code, debug, missing)
        _give_up_stdout()
        message = f"{error.filename or 'output'}: {error.strerror or error}"
        return _fail(error, ResourceError.exit_code if disk_is_full(error) else 1, debug, message)
    except Exception as error:
        if missing := not_importable(error):
            return _fail(error, MissingExtraError.exit_code, debug, missing)
        if is_out_of_memory(error):
            message = "out of memory; make the model or the batch smaller"
            return _fail(error, ResourceError.exit_code, debug, message)
        message = f"{type(error).__name__}: {error}; this is a fault of elman's: --debug shows where"
        return _fail(error, 1, debug, message)


def _take_debug(arguments: list[str]) -> tuple[list[str], bool]:
    """The arguments without `--debug`, and whether it was there; after `--` it is text."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    options = [argument for argument in arguments[:end] if argument != "--debug"]
    return options + arguments[end:], len(options) < end


def _make_streams_safe() -> None:
    """A closed stream swallows what is written; a character that an encoding lacks is written by its number."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - lives as long as we
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _give_up_stdout() -> None:
    """Write what could not be written nowhere, or Python would try again at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        with contextlib.suppress(OSError):  # a stream that is no file has nothing to give up
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(error: BaseException | None, code: int, debug: bool, message: str | None = None) -> int:
    if debug and error is not None:
        with contextlib.suppress(OSError):  # stderr is gone
            print(visible("".join(traceback.format_exception(error))), end="", file=sys.stderr)
    text = " ".join(str(error if message is None else message).split())
    if len(text) > LONGEST_MESSAGE:  # a name or a value in it is; the way out stands at the end
        text = f"{text[: LONGEST_MESSAGE // 2]} ... {text[-LONGEST_MESSAGE // 2 :]}"
    say(f"elman: {text}")
    return code
