"""JSON that knows its own checksum, so that a change of what it says is noticed, however it is laid out."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def sum_of(content: Mapping[str, Any]) -> str:
    """SHA-256 of what it says."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def seal(content: Mapping[str, Any], *, indent: int = 1) -> str:
    """As JSON, with its checksum in it."""
    return json.dumps({**content, "sha256": sum_of(content)}, indent=indent)


def unseal(text: bytes) -> dict[str, Any]:
    """What was sealed.

    Raises:
        ValueError: It is not as it was sealed.
    """
    try:
        content = json.loads(text)
        said = content.pop("sha256")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError("damaged") from error
    if said != sum_of(content):
        raise ValueError("damaged")
    return dict(content)
