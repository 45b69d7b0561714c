"""vogeler-server: the daemon that stores what the nodes send."""

from __future__ import annotations

import signal

from vogeler.cli._program import guarded, on_signals, parser_for, settings_from, start_logging
from vogeler.config import Settings
from vogeler.errors import ExitCode


def main() -> int:
    """The command line. Returns the exit code."""
    parser = parser_for("server", "Take results off the queue and store them, until stopped.")
    arguments = parser.parse_args()
    return guarded("server", lambda: _run(settings_from("server", arguments)))


def _run(settings: Settings) -> ExitCode:
    from vogeler import messaging, persistence
    from vogeler.server import Options, Server

    start_logging(settings)
    server = Server(
        Options(
            settings.prefetch,
            settings.batch_count,
            settings.batch_bytes,
            settings.batch_age,
            settings.stop_timeout,
            settings.design_docs,
        ),
        lambda: messaging.connect(
            settings.qhost, settings.qpassword or None, settings.connect_timeout, "vogeler-server"
        ),
        lambda: persistence.connect(settings.dbhost, settings.dbpassword or None, settings.store_timeout),
    )
    on_signals([signal.SIGTERM, signal.SIGINT], server.stop)
    server.run()
    return ExitCode.OK
