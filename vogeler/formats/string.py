"""``string``: one text without its final newline, such as a version or a date."""

from __future__ import annotations


def parse(text: str) -> str:
    r"""The whole text; one ``\n`` or ``\r\n`` at the end is the terminal's, not the value's."""
    if text.endswith("\r\n"):
        return text[:-2]
    return text[:-1] if text.endswith("\n") else text
