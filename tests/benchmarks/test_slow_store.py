"""The store that only takes time is CouchDB to a server, as far as that needs it."""

from __future__ import annotations

from contextlib import closing

from benchmarks.side_by_side import slow_store
from vogeler import persistence
from vogeler.messages import OK, Result, digest_of, now

PACKAGES = {f"package{number}": "1.0" for number in range(900)}


def test_two_servers_store_through_it_and_see_what_the_other_has_written() -> None:
    with slow_store() as server:
        url = server.url("records")
        with closing(persistence.connect(url)) as one, closing(persistence.connect(url)) as other:
            one.setup()
            assert "that only waits" in one.ping()
            stages = []
            for seq, (store, changed) in enumerate([(one, "1"), (other, "1"), (other, "2"), (one, "3"), (one, "3")]):
                value = {**PACKAGES, "changed": changed}
                batch = [
                    Result(node, "packages", "packages", seq + 1, OK, now(), value=value, digest=digest_of(value))
                    for node in ("web01", "web02")
                ]
                stages.append({outcome.stage for outcome in store.apply(batch, now())})
            assert stages == [{"stored"}, {"unchanged"}, {"stored"}, {"stored"}, {"unchanged"}]
