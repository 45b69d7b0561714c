"""A sealed value as it is stored: what those see of it who can't open it, and a walk for those who can.

``{"sealed": "v1", "digest": "sealed:...", "for": {READER: {ID OF A KEY: what only that key opens}}}``
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

VERSION = "v1"
_NAMES = {"sealed", "digest", "for"}


def is_sealed(value: Any) -> bool:
    """Whether it looks like one; who sent it may have made it up."""
    return isinstance(value, dict) and value.keys() == _NAMES and isinstance(value["for"], dict)


def readers(value: dict[str, Any]) -> list[str]:
    """The names of those who can open it."""
    return sorted(map(str, value["for"]))


def brief(value: Any) -> Any:
    """A value for a table, with ``sealed:... for alice, bob`` in place of everything that is sealed in it."""
    return walked(value, "", lambda path, found: f"{found['digest']} for {', '.join(readers(found))}")


def walked(value: Any, path: str, open: Callable[[str, dict[str, Any]], Any]) -> Any:
    """A value, which is at ``path``, with ``open(path, sealed)`` in place of everything that is sealed in it.

    Paths are those of leaves.replaced, by which they were sealed.
    """
    if isinstance(value, dict):
        if is_sealed(value):
            return open(path, value)
        return {name: walked(item, f"{path}.{name}", open) for name, item in value.items()}
    if isinstance(value, list):
        return [walked(item, path, open) for item in value]
    return value
