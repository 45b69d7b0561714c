"""Log lines to stderr, as text or JSON."""

from __future__ import annotations

import json
import logging
from typing import Any

from vogeler.cli._output import printable, printable_lines
from vogeler.config import Settings
from vogeler.units import to_timestamp


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = f"{to_timestamp(record.created)} {record.levelname.lower()} {printable(record.getMessage())}"
        return text if not record.exc_info else f"{text}\n{printable_lines(self.formatException(record.exc_info))}"


class _JsonFormatter(logging.Formatter):
    _EXTRA = ("event", "run", "node", "alias", "status", "user", "counts")

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "at": to_timestamp(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update((name, getattr(record, name)) for name in self._EXTRA if hasattr(record, name))
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


def start_logging(settings: Settings) -> None:
    """From here on, what the loggers of this package are told.

    Nobody is told from where in the code, nor from which thread, so none of it is found out: logging, "Optimization".
    """
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = logging.StreamHandler()
    handler.setFormatter(_JsonFormatter() if settings.logformat == "json" else _TextFormatter())
    root = logging.getLogger("vogeler")
    root.handlers[:] = [handler]
    root.setLevel(settings.loglevel.upper())
    root.propagate = False
