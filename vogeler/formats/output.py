"""``output``: a list of lines. Nothing printed is an empty list."""

from __future__ import annotations


def parse(text: str) -> list[str]:
    r"""The lines without their ends (``\n`` or ``\r\n``); blank lines between others are kept.

    Not ``str.splitlines``, which would also cut at form feeds and U+2028 inside a line.
    """
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    return [line[:-1] if line.endswith("\r") else line for line in lines] if "\r" in text else lines
