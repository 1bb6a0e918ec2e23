"""The command line: parse, call, render; one file a verb.

stdout is the result and stderr is progress. `--json` on every verb prints one document with a `schema`.
Exit codes: 0 ok, 1 failed at run time, 2 usage, 3 missing extra, 4 bad input or settings, 5 bad model,
6 out of disk or memory, 7 diverged, 130 interrupted.
"""

import os
import sys
import traceback
from collections.abc import Sequence

from cyclopts import App, CycloptsError

from elman import __version__
from elman.errors import ElmanError, ResourceError

HELP = """\
Recurrent neural network language models: train, evaluate, generate.

    elman train                       train on the Python documentation, in 90 seconds
    elman train novel.txt             train on a text of yours
    elman eval runs/NAME text.txt     how well a model predicts a text
    elman generate runs/NAME "The"    continue a prompt
    elman doctor runs/NAME            check that a model's probabilities are sound
"""


VERBS = {
    "train": ("train:train_command", "Train a language model and score it on held-out text."),
    "eval": ("evaluate:evaluate_command", "Score a text with a model."),
    "generate": ("generate:generate_command", "Continue a prompt."),
    "doctor": ("doctor:doctor_command", "Check the environment and the soundness of a model."),
    "settings": ("settings:settings_command", "Print every setting as a TOML file, with a sentence on each."),
    "data": ("data:data_app", "Prepare and inspect corpora, train tokenizers, find duplicates."),
}
"""Name, where it is, and a line for the list of commands."""


def make_app() -> App:
    """All verbs, each imported when it is called."""
    app = App(name="elman", help=HELP, version=__version__, help_format="plaintext")
    for name, (target, summary) in VERBS.items():
        app.command(f"elman.cli.{target}", name=name, help=summary)
    return app


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    sys.exit(run(list(sys.argv[1:] if arguments is None else arguments)))


def run(arguments: list[str]) -> int:
    """Run the command line; the exit code. Errors of elman's own are one line on stderr."""
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        if arguments[:1] == ["train"]:
            from elman.cli.train import qualify_settings

            arguments = qualify_settings(arguments)
        code = make_app()(arguments, exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except CycloptsError as error:
        return _fail(error, 2, debug)
    except ElmanError as error:
        return _fail(error, error.exit_code, debug)
    except MemoryError as error:
        return _fail(
            error, ResourceError.exit_code, debug, "out of memory; make the model or the batch smaller"
        )
    except KeyboardInterrupt:
        print("elman: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of stdout has gone, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        message = f"{type(error).__name__}: {error}; this is a fault of elman's: --debug shows where"
        return _fail(error, 1, debug, message)


def _fail(error: BaseException, code: int, debug: bool, message: str | None = None) -> int:
    if debug:
        traceback.print_exception(error)
    text = " ".join(str(error if message is None else message).split())
    print(f"elman: {text}", file=sys.stderr)
    return code
