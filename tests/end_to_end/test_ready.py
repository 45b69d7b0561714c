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
    fleet, facts = Fleet(amqp_url, couch_url, tmp_path), tmp_path / "facts"
    fleet.plugin("facts", f"cat {facts}")
    view = f"{urlsplit(couch_url).path}/_design/leaves/_view/groups?stale=ok"
    try:
        fleet.server().wait_for("store")
        fleet.client("web01")
        fleet.wait_known("web01")
        for fact in ("old", "new"):  # the old one may be found because the server has just begun
            facts.write_text(fact)
            assert fleet.ask("-c", "facts", "-n", "web01")["web01"]["stage"] == "stored"
            wait_until(
                lambda text=f'["","{fact}"]': (
                    [row["value"] for row in couchdb_server.api("GET", view)["rows"]] == [text]
                ),
                f"{fact} is in the index",
            )
    finally:
        fleet.stop()
