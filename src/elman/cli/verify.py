"""`elman verify`."""

from pathlib import Path

from elman.cli.arguments import Whole
from elman.cli.render import print_json, print_table, say
from elman.config import require_integer

OUTCOMES = {True: "sound", False: "NOT SOUND", None: "not checked"}
"""As people are shown them."""


def verify_command(run: Path, /, *, steps: Whole = 20, json: bool = False) -> int:
    """Check that a run is what it says: files, text, and its first steps.

    The model, the checkpoints and the prepared tokens are compared with their
    checksums, and the texts and the tokenizer with those of the run. Then the first
    steps are trained again and compared with what was recorded: on the same machine
    they are equal to the bit. An n-gram model is counted again. What cannot be
    compared is "not checked". Nothing in the folder is changed; the exit code is 1
    if something is not as it should be.

    Args:
        run: A run folder.
        steps: How many steps are trained again.
        json: Print one JSON document (elman.verify/1).
    """
    require_integer("steps", steps, at_least=1)

    from elman.train.verify import verify_run  # torch takes a second to import

    verification = verify_run(run, steps, say)
    if json:
        print_json(verification.as_dict())
    else:
        rows = [[check.what, OUTCOMES[check.sound], check.found] for check in verification.checks]
        print_table(["", "", "found"], rows, left=(0, 1, 2))
    return 0 if verification.sound else 1
