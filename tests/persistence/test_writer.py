"""A writer and its CouchDB, which chokes on one message: the others are stored, that one is refused; but not in vain."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.persistence.examples import result
from tests.persistence.proxy import Exchange, running
from tests.servers.processes import wait_until
from vogeler import messaging, persistence, topology, writer
from vogeler.messages import STORED, encode
from vogeler.messaging import Delivery
from vogeler.persistence import Outcome
from vogeler.server import Options, Server
from vogeler.writer import Entry, Writer


class Couch:
    """CouchDB, but for what chokes it."""

    def __init__(self) -> None:
        self.chokes_on = b"poison"
        self.choked = 0
        self.asked_for_views = 0

    def behave(self, exchange: Exchange) -> None:
        if exchange.path.endswith("_history/_bulk_docs") and self.chokes_on in exchange.body:
            self.choked += 1
            exchange.reply(500, b'{"error":"badarith","reason":"internal"}')
        elif "/_view/" in exchange.path:
            self.asked_for_views += 1
            exchange.reply(503, b"not now", "text/plain")
        else:
            exchange.pass_on()


class Writing:
    """A writer, and what became of which message."""

    def __init__(self, url: str, couch: Couch) -> None:
        self.couch = couch
        self.outcomes: dict[str, Outcome] = {}
        self._writer = Writer(lambda: persistence.connect(url), lambda: None, 500, 10**6, None, None)
        self._writer.start()

    def add(self, *nodes: str) -> None:
        for node in nodes:
            message = result(time.time_ns() // 1000, [node, "poison" if node.startswith("bad") else "food"], node)
            self._writer.add(Entry(Delivery(encode(message)), message))

    def settled(self) -> dict[str, Outcome]:
        self._writer.hand_over()
        for written in self._writer.settle():
            for entry, outcome in zip(written.entries, written.outcomes):
                self.outcomes[entry.message.node] = outcome
        return self.outcomes

    @property
    def is_idle(self) -> bool:
        return self._writer.is_idle

    def end(self) -> None:
        self._writer.end()
        assert self._writer.bug is None


@pytest.fixture
def writing(couch_url: str, monkeypatch: Any) -> Iterator[Writing]:
    monkeypatch.setattr(writer, "_TRIES", 2)
    monkeypatch.setattr(writer, "_READY_AFTER_S", 0.01)
    parts, couch = urlsplit(couch_url), Couch()
    with running(couch.behave, (str(parts.hostname), int(parts.port or 0))) as proxy:
        made = Writing(couch_url.replace(f":{parts.port}/", f":{proxy.port}/"), couch)
        yield made
        made.end()


def test_what_chokes_the_store_is_refused_and_the_others_are_stored(writing: Writing) -> None:
    writing.add("web01", "bad01", "web02")
    wait_until(lambda: {"web01", "web02"} <= writing.settled().keys(), "the others are stored")
    writing.add("web03")  # while it is in trouble
    wait_until(lambda: len(writing.settled()) == 4, "one more is stored, and the bad one refused")
    assert {node: outcome.stage for node, outcome in writing.outcomes.items() if node != "bad01"} == dict.fromkeys(
        ["web01", "web02", "web03"], STORED
    )
    refused = writing.outcomes["bad01"]
    assert refused.refused
    assert "badarith" in str(refused.reason)
    wait_until(lambda: writing.is_idle, "nothing is left")
    writing.add("web04", "web05")
    wait_until(lambda: len(writing.settled()) == 6, "it goes on")


def test_a_server_goes_on_however_little_comes(couch_url: str, tmp_path: Path, monkeypatch: Any) -> None:
    """Also where all results are one writer's: the writer in trouble is given what there is."""
    monkeypatch.setattr(writer, "_TRIES", 2)
    qhost, parts, couch = f"local://{tmp_path}/bus.db", urlsplit(couch_url), Couch()
    with running(couch.behave, (str(parts.hostname), int(parts.port or 0))) as proxy:
        dbhost = couch_url.replace(f":{parts.port}/", f":{proxy.port}/")
        server = Server(Options(), lambda: messaging.connect(qhost), lambda: persistence.connect(dbhost))
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            with closing(messaging.connect(qhost)) as transport, closing(persistence.connect(couch_url)) as store:
                transport.setup()
                store.setup()
                for node in ("bad01", "web01", "web02", "web03"):
                    value = "poison" if node == "bad01" else "food"
                    transport.publish_result(encode(result(time.time_ns() // 1000, value, node)), node)
                    if node != "bad01":
                        wait_until(lambda node=node: store.record(node), f"{node} is stored")
                wait_until(
                    lambda: transport.depths()[topology.DEAD_QUEUE].messages == 1, "the bad one is a dead letter"
                )
        finally:
            server.stop()
            thread.join()


def test_while_the_store_takes_nothing_nothing_is_refused(writing: Writing) -> None:
    writing.couch.chokes_on = b"docs"  # all that is written
    writing.add("web01", "bad01", "web02")
    wait_until(lambda: bool(writing.settled()) or writing.couch.choked > 5, "it was tried together and apart")
    assert writing.outcomes == {}
    writing.couch.chokes_on = b"nothing any more"
    wait_until(lambda: len(writing.settled()) == 3, "all are stored")
    assert {outcome.stage for outcome in writing.outcomes.values()} == {STORED}
    wait_until(lambda: writing.is_idle, "nothing is left")


def test_a_store_that_can_not_bring_its_views_up_to_date_goes_on_storing(writing: Writing) -> None:
    for node in ("web01", "web02", "web03"):
        asked = writing.couch.asked_for_views
        writing.add(node)
        wait_until(lambda node=node: writing.settled().get(node), f"{node} is stored")
        wait_until(lambda asked=asked: writing.couch.asked_for_views > asked, "it is tried after each")
    assert {outcome.stage for outcome in writing.outcomes.values()} == {STORED}
