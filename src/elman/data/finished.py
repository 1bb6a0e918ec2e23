"""A prepared text: a folder that appears whole, and says of itself what is in it.

NAME.tokens, NAME.starts.npy, ...    a store (see `store`), for each of its names
tokenizer.json                       the vocabulary of the tokens
manifest.json                        format, what it was made of, facts, sizes and checksums of the other files,
                                     and its own checksum
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elman.data.store import TokenStore, open_store
from elman.data.sums import check_sizes, check_sums
from elman.data.tokenizer import Tokenizer, load_tokenizer
from elman.errors import ElmanError, InputError
from elman.files import write_atomically
from elman.sealed import seal, unseal

FORMAT = 3
"""Of the prepared folder; part of its name."""

MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class Finished:
    """What is in a prepared folder."""

    folder: Path
    manifest: dict[str, Any]
    tokenizer: Tokenizer
    stores: dict[str, TokenStore]


def write_manifest(folder: Path, facts: dict[str, Any]) -> None:
    """Write what `folder` is to say of itself."""
    write_atomically(folder / MANIFEST, seal({"format": FORMAT, **facts}))


def find_finished(folder: Path) -> Finished | None:
    """What is in `folder`, in the sizes that it says; None where nothing is.

    Raises:
        InputError: It is damaged: a file is missing or of another size, the tokens are of another tokenizer, or one is
            beyond its vocabulary.
    """
    if not (folder / MANIFEST).exists():
        return None
    manifest = _read_manifest(folder)
    try:
        tokenizer = load_tokenizer(str(folder / "tokenizer.json"))
    except ElmanError as error:
        raise InputError(str(error)) from error
    if tokenizer.sha256 != manifest["tokenizer_sha256"]:
        raise InputError(
            f"{folder}: tokens of the tokenizer {manifest['tokenizer_sha256'][:12]}, and its tokenizer.json is"
            f" {tokenizer.sha256[:12]}"
        )
    check_sizes(folder, manifest["files"])
    sizes = {"start_id": tokenizer.start_id, "vocab_size": tokenizer.vocab_size}
    try:
        stores = {
            name: open_store(folder, name, facts, **sizes) for name, facts in manifest["stores"].items()
        }
    except KeyError as error:  # a manifest of another make, although it is whole
        raise InputError(f"{folder / MANIFEST}: says nothing of {error}") from error
    return Finished(folder, manifest, tokenizer, stores)


def verify_store(folder: Path) -> dict[str, Any]:
    """Read every byte of a prepared folder and compare all checksums; its manifest.

    Raises:
        InputError: It is not a prepared folder, or a file is not as it was written.
    """
    if find_finished(folder) is None:
        raise InputError(f"{folder}: no {MANIFEST} there; give a folder that `elman data prepare` printed")
    manifest = _read_manifest(folder)
    check_sums(folder, manifest["files"])
    return manifest


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        content = unseal(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path}: damaged") from error
    if content["format"] != FORMAT:
        raise InputError(f"{path}: of format {content['format']}, and this version reads {FORMAT}")
    return content
