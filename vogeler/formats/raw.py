"""``raw``: one text, exactly as printed, such as a configuration file."""

from __future__ import annotations


def parse(text: str) -> str:
    """The text itself."""
    return text
