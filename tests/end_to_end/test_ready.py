"""Who asks need not wait for what was stored long ago."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from tests.servers.couchdb import CouchServer
from tests.servers.processes import Fleet, wait_until


def test_the_index_follows_what_is_stored_though_nobody_asks(
    amqp_url: str, couch_url: str, couchdb_server: CouchServer, tmp_path: Path
) -> None:
    """The server sees to it when it has nothing to store."""
    fleet = Fleet(amqp_url, couch_url, tmp_path)
    fleet.plugin("facts", "echo fact")
    view = f"{urlsplit(couch_url).path}/_design/leaves/_view/groups?stale=ok"
    try:
        fleet.server().wait_for("store")
        fleet.client("web01")
        fleet.wait_known("web01")
        assert fleet.ask("-c", "facts", "-n", "web01")["web01"]["stage"] == "stored"
        (row,) = wait_until(lambda: couchdb_server.api("GET", view)["rows"], "the index is up to date")
        assert (row["id"], row["key"], row["value"]) == ("web01", "facts", '["","fact"]')
    finally:
        fleet.stop()
