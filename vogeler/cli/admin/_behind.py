"""Who is behind, by the limits of the settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vogeler.config import Settings
from vogeler.errors import UsageError
from vogeler.summary import stale_keys, state_of

if TYPE_CHECKING:
    from vogeler.persistence import NodeSummary


def check_limits(settings: Settings) -> None:
    """Raises UsageError for limits that make no sense together."""
    if settings.silent_after < settings.late_after:
        raise UsageError("a node can't be silent before it is late", "silent_after is to be longer than late_after")


def state(node: NodeSummary, now_s: float, settings: Settings) -> str:
    """``online``, ``late`` or ``silent``."""
    return state_of(node.heard_at, now_s, settings.late_after, settings.silent_after)


def stale(node: NodeSummary, now_s: float, settings: Settings) -> list[str]:
    """The keys whose last check is longer ago than it should be."""
    return stale_keys(node.checked, node.intervals, now_s, settings.stale_after)
