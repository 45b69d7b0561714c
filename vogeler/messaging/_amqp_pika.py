"""pika, without its adapter for asyncio.

pika 1.4 imports that adapter whether anybody uses it or not, and with it asyncio: 2.5 MiB in every client, and a
quarter of the time that importing pika takes. So while pika is imported, an empty module stands in for it.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

_ADAPTER = "pika.adapters.asyncio_connection"
_stands_in: Any = ModuleType(_ADAPTER)
_stands_in.AsyncioConnection = None
sys.modules.setdefault(_ADAPTER, _stands_in)

import pika  # type: ignore[import-untyped]  # noqa: E402 - with what is above; pika has no type information
from pika import exceptions as pika_errors  # noqa: E402
from pika.adapters.utils.connection_workflow import AMQPConnectorException  # type: ignore[import-untyped]  # noqa: E402

if sys.modules[_ADAPTER] is _stands_in:
    del sys.modules[_ADAPTER]  # whoever wants the real one gets it

__all__ = ["AMQPConnectorException", "pika", "pika_errors"]
