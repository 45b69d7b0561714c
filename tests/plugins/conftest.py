"""Plugin directories made for a test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from vogeler import plugins
from vogeler.plugins import Plugin

Write = Callable[..., Path]
Make = Callable[..., Plugin]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a plugin file, or a script beside it; returns its path."""

    def write(name: str, content: str | bytes, mode: int = 0o644) -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        path.chmod(mode)
        return path

    return write


@pytest.fixture
def make(write: Write) -> Make:
    """The one plugin of a section [probe] with these lines."""

    def make(*lines: str) -> Plugin:
        path = write("probe.cfg", "\n".join(["[probe]", *lines]) + "\n")
        loaded = plugins.load([path.parent])
        assert loaded.problems == ()
        return loaded.plugins[0]

    return make
