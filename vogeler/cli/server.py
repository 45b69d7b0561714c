"""vogeler-server: the daemon that stores what the nodes send."""

from __future__ import annotations

from vogeler.cli._program import guarded, parser_for, settings_from
from vogeler.config import Settings
from vogeler.errors import ExitCode


def main() -> int:
    """The command line. Returns the exit code."""

    def run() -> int:
        parser = parser_for("server", "Take results off the queue and store them, until stopped.")
        return _run(settings_from("server", parser.parse_args()))

    return guarded("server", run)


def _run(settings: Settings) -> ExitCode:
    import signal

    from vogeler import messaging, persistence
    from vogeler.cli._daemon import LEAVE_AFTER_S, leave_within, on_signals
    from vogeler.cli._log import start_logging
    from vogeler.cli._rights import trusted_keys
    from vogeler.retention import Limits
    from vogeler.server import Options, Server

    start_logging(settings)
    server = Server(
        Options(
            settings.prefetch,
            settings.batch_count,
            settings.batch_bytes,
            settings.batch_age,
            persistence.writers(settings.dbhost),
            settings.stop_timeout,
            settings.clock_skew,
            settings.design_docs,
            Limits(
                settings.history_keep,
                settings.history_versions,
                settings.retention_check,
                settings.decommission,
                settings.audit_keep,
            ),
        ),
        lambda: messaging.connect(
            settings.qhost, settings.qpassword or None, settings.connect_timeout, "vogeler-server"
        ),
        lambda: persistence.connect(settings.dbhost, settings.dbpassword or None, settings.store_timeout),
        trusted_keys(settings),
    )

    def stop() -> None:
        leave_within(settings.stop_timeout + LEAVE_AFTER_S)
        server.stop()

    on_signals([signal.SIGTERM, signal.SIGINT], stop)
    server.run()
    return ExitCode.OK
