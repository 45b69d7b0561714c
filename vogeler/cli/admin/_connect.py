"""Open the broker or the store that the settings name. Imports what it opens only then."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vogeler.config import Settings

if TYPE_CHECKING:
    from vogeler.messaging import Transport
    from vogeler.persistence import Store


def open_store(settings: Settings) -> Store:
    """The store; the caller closes it."""
    from vogeler import persistence

    return persistence.connect(settings.dbhost, settings.dbpassword or None, settings.store_timeout)


def open_transport(settings: Settings) -> Transport:
    """A connection to the broker; the caller closes it."""
    from vogeler import messaging

    return messaging.connect(settings.qhost, settings.qpassword or None, settings.connect_timeout, "vogeler-admin")
