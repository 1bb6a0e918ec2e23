"""Preparing a text, and saying what is done and what there is to know of it."""

from collections.abc import Callable

from elman.config import DataConfig
from elman.data.prepare import Prepared, prepare
from elman.ranks import ALONE, Ranks
from elman.train.say import Say


def prepare_aloud(config: DataConfig, say: Say, ranks: Ranks = ALONE) -> Prepared:
    """The text as tokens; `say` is told what is done, and what there is to know of the text.

    Raises:
        ElmanError: As for `data.prepare.prepare`.
    """
    data = prepare(config, report=_reporter(say), ranks=ranks)
    _say_what_was_prepared(say, data)
    return data


def _reporter(say: Say) -> Callable[[str, float], None]:
    """Say each stage of preparation once, and every tenth of the long ones."""
    said: set[tuple[str, int]] = set()

    def report(what: str, share: float) -> None:
        stage = (what, int(share * 10))
        if stage not in said:
            said.add(stage)
            say(f"{what}{f' {share:.0%}' if share else ''}")

    return report


def _say_what_was_prepared(say: Say, data: Prepared) -> None:
    manifest = data.manifest
    for name in ("train", "valid"):
        sizes = manifest[name]
        documents = f"{sizes['documents']:,} document{'s' * (sizes['documents'] != 1)}"
        say(f"{name}: {sizes['targets']:,} tokens, {sizes['bytes']:,} bytes, {documents}")
    say(f"vocabulary: {manifest['vocab_size']:,}")
    for note in manifest["notes"]:
        say(f"note: {note}")
    shared = manifest["valid_documents_also_in_train"]
    if shared:
        share = shared / manifest["valid"]["documents"]
        say(f"warning: {shared:,} held-out documents ({share:.0%}) also stand in the training text")
