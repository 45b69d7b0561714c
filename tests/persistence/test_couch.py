"""What only the CouchDB store can get wrong: the network, somebody else's answers, conflicts, views."""

from __future__ import annotations

import json
import re
import socket
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import islice
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from tests.persistence.examples import (
    EARLIER,
    FACT_RECORDS,
    FACTS,
    LATER,
    PACKAGE_RECORDS,
    PACKAGES,
    at,
    heartbeat,
    held,
    result,
)
from tests.persistence.proxy import Exchange, Proxy, running
from tests.servers.couchdb import CouchServer
from tests.servers.processes import wait_until
from vogeler import persistence
from vogeler.errors import StoreError, StoreUnavailable, UsageError
from vogeler.messages import REFUSED, STORED, UNCHANGED
from vogeler.persistence import LATE, Store, _couch_design

PASSWORD = "s3cret!"


@contextmanager
def instead(behave: Callable[[Exchange], None], timeout_s: float = 5.0) -> Iterator[tuple[Store, Proxy]]:
    """A store whose CouchDB is really ``behave``."""
    with running(behave) as server:
        url = f"couch://admin:{quote(PASSWORD)}@127.0.0.1:{server.port}/records"
        with closing(persistence.connect(url, timeout_s=timeout_s)) as store:
            yield store, server


@contextmanager
def between(couch_url: str, behave: Callable[[Exchange], None]) -> Iterator[tuple[Store, Proxy]]:
    """A store that talks to its CouchDB through ``behave``."""
    parts = urlsplit(couch_url)
    with running(behave, (str(parts.hostname), int(parts.port or 0))) as server:
        url = couch_url.replace(f":{parts.port}/", f":{server.port}/")
        with closing(persistence.connect(url)) as store:
            yield store, server


def error_of(behave: Callable[[Exchange], None], **options: Any) -> StoreError:
    """The error that applying a batch ends in. Whatever it is, it names the place and hides the password."""
    with instead(behave, **options) as (store, server), pytest.raises(StoreError) as caught:
        store.apply([heartbeat()], EARLIER)
    assert f"couch://admin:…@127.0.0.1:{server.port}/records" in caught.value.message
    assert PASSWORD not in "".join(traceback.format_exception(None, caught.value, caught.value.__traceback__))
    return caught.value


def nothing(exchange: Exchange) -> None:
    """None of the documents that were asked for is there."""
    rows = [{"key": key, "error": "not_found"} for key in json.loads(exchange.body)["keys"]]
    exchange.reply(200, json.dumps({"rows": rows}).encode())


# --- answers that are none ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "error", "remedy"),
    [
        (401, "unauthorized", "password"),
        (403, "forbidden", "password"),
        (404, "not_found", "vogeler-admin setup"),
        (405, "method_not_allowed", "log"),
    ],
)
def test_a_refusal_is_final_and_says_what_to_do(status, error, remedy):
    answer = json.dumps({"error": error, "reason": "because"}).encode()
    found = error_of(lambda exchange: exchange.reply(status, answer))
    assert not found.retryable
    assert "because" in found.message
    assert remedy in found.remedy


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
@pytest.mark.parametrize("kind", ["application/json", "text/html", None])
def test_an_overloaded_server_may_be_asked_again(status, kind):
    found = error_of(lambda exchange: exchange.reply(status, b'{"error":"busy","reason":"later"}', kind))
    assert isinstance(found, StoreUnavailable)
    assert str(status) in found.message


def test_a_stack_of_erlang_is_cut_to_a_line():
    """As CouchDB gives for a view when its disk is full."""
    reason = "{badmatch,{error,enospc}}\n" + " [{couch_btree,query_modify,4,[]}]\n" * 100
    body = json.dumps({"error": "unknown_error", "reason": reason}).encode()
    found = error_of(lambda exchange: exchange.reply(500, body))
    assert found.message.endswith("answers 500: unknown_error, {badmatch,{error,enospc}}")
    assert "disk full" in found.remedy


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (200, b"<html>It works!</html>", "text/html"),
        (200, b"", None),
        (200, b"", "application/json"),
        (200, b"{nonsense", "application/json"),
        (200, b"\xff\xfe", "application/json"),
        (200, b"[]", "application/json"),
        (200, b"3", "application/json"),
        (200, b'{"rows": [1]}', "application/json"),
        (200, b'{"rows": []}', "application/json"),
        (200, b'{"hits": []}', "application/json"),
        (204, b"", None),
        (302, b"", "text/html"),
        (400, b"<html>plain HTTP was sent to HTTPS port</html>", "text/html"),
        (404, b"<html>not here</html>", "text/html"),
        (404, b'"not here"', "application/json"),
        (404, b'{"message": "no such index"}', "application/json"),
        (501, b"<html>POST?</html>", "text/html"),
    ],
)
def test_another_program_on_that_port_is_not_taken_for_couchdb(status, body, kind):
    """It may be CouchDB that is still starting, or a proxy before it: that may be retried."""
    found = error_of(lambda exchange: exchange.reply(status, body, kind, Location="/elsewhere"))
    assert isinstance(found, StoreUnavailable)


def test_a_program_that_does_not_speak_http_is_not_taken_for_couchdb():
    def babble(exchange: Exchange) -> None:
        exchange.wfile.write(b"220 mail ready\r\n")
        exchange.close_connection = True

    assert isinstance(error_of(babble), StoreUnavailable)


def test_half_an_answer_is_none():
    assert isinstance(error_of(lambda exchange: _half(exchange, 10)), StoreUnavailable)


def test_half_of_a_large_answer_is_none():
    """Beyond 8 KiB the library would hand it out unread."""
    assert isinstance(error_of(lambda exchange: _half(exchange, 20_000)), StoreUnavailable)


def _half(exchange: Exchange, size: int) -> None:
    exchange.reply(200, b'{"rows": [' + b" " * size, Content_Length=str(size * 2 + 100))
    exchange.hang_up()


def test_a_store_works_on_after_half_an_answer():
    """What is left of it is not taken for the next answer."""
    first = [True]

    def once(exchange: Exchange) -> None:
        if first:
            first.pop()
            exchange.reply(200, b'{"rows": [', Content_Length="100")
        else:
            nothing(exchange)

    with instead(once, timeout_s=0.2) as (store, _):
        with pytest.raises(StoreUnavailable):
            store.record("web01")
        assert store.record("web01") is None


def test_half_of_a_chunked_answer_is_none():
    def cut(exchange: Exchange) -> None:
        exchange.send_response(200)
        exchange.send_header("Content-Type", "application/json")
        exchange.send_header("Transfer-Encoding", "chunked")
        exchange.end_headers()
        exchange.wfile.write(b'40\r\n{"rows": [')
        exchange.hang_up()

    assert isinstance(error_of(cut), StoreUnavailable)


def test_a_chunked_error_answer_is_read():
    """couchdb-python itself ends in an AttributeError on it."""

    def answer(exchange: Exchange) -> None:
        exchange.send_response(401)
        exchange.send_header("Content-Type", "application/json")
        exchange.send_header("Transfer-Encoding", "chunked")
        exchange.end_headers()
        text = b'{"error":"unauthorized","reason":"who?"}'
        exchange.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(text), text))

    assert "who?" in error_of(answer).message


def test_a_server_that_says_nothing_is_given_up_after_the_timeout():
    done = threading.Event()
    try:
        found = error_of(lambda exchange: done.wait(20) or None, timeout_s=0.1)
    finally:
        done.set()
    assert isinstance(found, StoreUnavailable)
    assert "timed out" in found.message


def test_nobody_on_the_port_may_be_retried():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"couch://127.0.0.1:{free.getsockname()[1]}/records"
        store = persistence.connect(url)
        for call in (store.setup, store.ping, lambda: store.record("web01"), lambda: list(store.nodes())):
            with pytest.raises(StoreUnavailable, match="refused"):
                call()


def test_a_host_without_an_address_may_be_retried():
    """The name server may be what is down."""
    store = persistence.connect("couch://no-such-host.invalid/records")
    with pytest.raises(StoreUnavailable, match=r"no-such-host\.invalid"):
        store.ping()


def test_a_server_that_refuses_before_it_has_read_all_is_understood():
    """A proxy answers 413 and closes while we are still sending."""

    def refuse(exchange: Exchange) -> None:
        if exchange.path.endswith("_all_docs?include_docs=true"):
            exchange.body = exchange.rfile.read(int(exchange.headers["Content-Length"]))
            nothing(exchange)
        else:
            exchange.reply(413, b"<html>too large</html>", "text/html", Connection="close")
            exchange.close_connection = True

    with instead(refuse) as (store, server):
        server.reads_bodies = False
        (outcome,) = store.apply([result(1, "x" * 8_000_000)], EARLIER)
    assert outcome.refused
    assert "413" in outcome.reason


def test_a_lost_connection_is_made_again(couch_url):
    """A server that closes idle connections, or was started again, costs nothing."""
    hung_up = []

    def close_after_each(exchange: Exchange) -> None:
        exchange.pass_on()
        exchange.close_connection = True  # without announcing it
        hung_up.append(exchange.path)

    with between(couch_url, close_after_each) as (store, _):
        store.setup()
        assert store.apply([result(1, "a")], EARLIER)[0].stage == STORED
        assert store.apply([result(2, "a")], EARLIER)[0].stage == UNCHANGED
    assert len(hung_up) > 5


# --- the URL --------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["couch://db1/Upper", "couch://db1/_users", "couch://db1/a b", "couch://db1/1st"])
def test_a_name_that_no_database_can_have_is_a_usage_error(url):
    with pytest.raises(UsageError, match="database"):
        persistence.connect(url)


def test_an_unknown_option_is_a_usage_error():
    with pytest.raises(UsageError, match="timeout") as caught:
        persistence.connect("couch://db1/records?timeout=3")
    assert "cafile" in caught.value.remedy


def test_a_missing_certificate_file_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="cafile"):
        persistence.connect(f"couchs://db1/records?cafile={tmp_path}/none.pem")


def test_the_default_database_a_path_before_it_and_any_password():
    seen = []

    def record(exchange: Exchange) -> None:
        seen.append((exchange.path, exchange.headers["Authorization"]))
        nothing(exchange)

    with running(record) as server:
        for login, path in (("", ""), ("a%40b:p%2F%3A%40ß@", "/behind/a/proxy/facts")):
            with closing(persistence.connect(f"couch://{login}127.0.0.1:{server.port}{path}")) as store:
                store.record("web01")
    assert [path for path, _ in seen] == [
        "/system_records/_all_docs?include_docs=true",
        "/behind/a/proxy/facts/_all_docs?include_docs=true",
    ]
    assert [login for _, login in seen] == [None, "Basic YUBiOnAvOkDDnw=="]


def test_tls_is_spoken_to_couchs_and_never_given_up(couch_url):
    """A server without TLS, or with a certificate that nobody vouches for, is not talked to."""
    with running(lambda exchange: exchange.reply(200, b"{}")) as server:
        store = persistence.connect(f"couchs://127.0.0.1:{server.port}/records", timeout_s=5.0)
        with pytest.raises(StoreUnavailable, match="SSL"):
            store.ping()
    assert server.requests == []


# --- CouchDB itself -------------------------------------------------------------------------------


def test_a_missing_database_says_how_to_make_it(couch_url):
    with closing(persistence.connect(couch_url)) as store:
        for call in (
            store.ping,
            lambda: store.apply([heartbeat()], EARLIER),
            lambda: store.record("web01"),
            lambda: list(store.nodes()),
            lambda: list(store.history("web01")),
            lambda: list(store.records()),
            lambda: list(store.leaves("rpms")),
            lambda: list(store.changes(EARLIER)),
            store.follow,
            lambda: list(store.prune(EARLIER, 1, 1)),
            lambda: list(store.absences("web01")),
            lambda: store.forget("web01", "alice", EARLIER),
        ):
            with pytest.raises(StoreError) as caught:
                call()
            assert not caught.value.retryable
            assert caught.value.remedy == "run: vogeler-admin setup"


def test_a_missing_design_document_says_how_to_load_it(couch_store, couchdb_server, couch_url):
    name = urlsplit(couch_url).path[1:]
    design = couchdb_server.api("GET", f"/{name}_history/_design/vogeler")
    couchdb_server.api("DELETE", f"/{name}_history/_design/vogeler?rev={design['_rev']}")
    with pytest.raises(StoreError) as caught:
        list(couch_store.history("web01"))
    assert caught.value.remedy == "run: vogeler-admin setup"


def test_setup_tells_what_it_did_and_repairs_what_changed(couch_url, couchdb_server):
    """What an administrator added to our design document stays in it."""
    name = urlsplit(couch_url).path[1:]
    with closing(persistence.connect(couch_url)) as store:
        assert store.setup() == [
            f"created database {name}",
            f"created database {name}_status",
            f"created database {name}_history",
            f"created database {name}_audit",
            f"loaded design document leaves into {name} (1 view)",
            f"loaded design document vogeler into {name} (4 views)",
            f"loaded design document vogeler into {name}_history (3 views)",
        ]
        design = couchdb_server.api("GET", f"/{name}/_design/vogeler")
        views = design.pop("views")
        couchdb_server.api("PUT", f"/{name}/_design/vogeler", {**design, "views": {}, "note": "mine"})
        assert store.setup() == [f"loaded design document vogeler into {name} (4 views)"]
    design = couchdb_server.api("GET", f"/{name}/_design/vogeler")
    assert (design["views"], design["note"]) == (views, "mine")


def test_setup_needs_no_administrator_where_everything_is_there(couch_url):
    with closing(persistence.connect(couch_url)) as store:
        store.setup()

    def read_only(exchange: Exchange) -> None:
        if exchange.command == "GET":
            exchange.pass_on()
        else:
            exchange.reply(401, b'{"error":"unauthorized","reason":"You are not a server admin."}')

    with between(couch_url, read_only) as (store, _):
        assert store.setup() == []


def test_design_documents_can_come_from_any_folder(couch_url, tmp_path):
    with closing(persistence.connect(couch_url)) as store:
        for part in _couch_design.DATABASES:
            view = tmp_path / part / "mine" / "views" / "all"
            view.mkdir(parents=True)
            (view / "map.js").write_text("function (doc) { emit(doc._id, null); }\n")
            (view / "options.json").write_text('{"collation": "raw"}')
        assert store.setup(tmp_path)[-1].startswith("loaded design document mine into")
        (tmp_path / "status" / "mine" / "views" / "all" / "map.js").write_bytes(b"\xff")
        with pytest.raises(StoreError, match="can't be read"):
            store.setup(tmp_path)
        (tmp_path / "records" / "mine" / "design.json").write_text("[]")
        with pytest.raises(StoreError, match=r"design\.json holds no JSON object"):
            store.setup(tmp_path)


def test_one_document_that_a_rule_of_the_database_forbids_stops_no_other(couch_store, couchdb_server, couch_url):
    """validate_doc_update refuses it for good: it is a dead letter, the rest of the batch is stored."""
    rule = "function (doc) { if (doc.secret) { throw({forbidden: 'no secrets here'}); } }"
    database = urlsplit(couch_url).path
    couchdb_server.api("PUT", f"{database}/_design/rules", {"validate_doc_update": rule})
    batch = [
        result(1, "a", "web01"),
        result(1, "hush", "web02", "secret"),
        result(2, "b", "web02"),
        heartbeat("web02"),
        result(1, "c", "web03"),
    ]
    outcomes = couch_store.apply(batch, EARLIER)
    assert [outcome.stage for outcome in outcomes] == [STORED, REFUSED, STORED, STORED, STORED]
    assert outcomes[1].refused
    assert "no secrets here" in outcomes[1].reason
    assert couch_store.record("web02")["rpms"] == "b"
    assert "secret" not in couch_store.record("web02")


def test_a_request_that_is_too_large_goes_in_parts(couch_url):
    """A proxy in front of CouchDB takes 20 kB; one document alone is larger than that."""

    def narrow(exchange: Exchange) -> None:
        if len(exchange.body) > 20_000:
            exchange.reply(413, b"<html>Request Entity Too Large</html>", "text/html")
        else:
            exchange.pass_on()

    batch = [result(1, "x" * 3000, f"web{number:02d}") for number in range(20)]
    batch[7:7] = [result(1, "x" * 30_000, "large"), result(2, "small", "large")]
    with between(couch_url, narrow) as (store, _):
        store.setup()
        outcomes = store.apply(batch, EARLIER)
        assert [outcome.stage for outcome in outcomes] == [STORED] * 7 + [REFUSED] + [STORED] * 14
        assert "413" in outcomes[7].reason
        assert store.record("web19")["rpms"] == "x" * 3000
        assert store.record("large")["rpms"] == "small"


def test_a_value_that_couchdb_does_not_take_for_json_stops_no_other(couch_store):
    """Half a surrogate pair: CouchDB refuses the whole request for it, other servers take it."""
    batch = [result(1, "a"), result(1, "\ud800", "web02", digest="sha256:0"), result(1, "c", "web03")]
    outcomes = couch_store.apply(batch, EARLIER)
    assert [outcomes[0].stage, outcomes[2].stage] == [STORED, STORED]
    assert outcomes[1].refused or couch_store.record("web02")["rpms"] == "\ud800"


@pytest.mark.parametrize(("first", "second"), [(1, 2), (2, 1)])
def test_what_another_result_has_stored_before_it_is_tried_again_is_no_second_change(couch_url, first, second):
    """A server wrote the change and died; another one stored a later, or an earlier, result of the same value."""

    records = couch_url.rpartition("/")[2]

    def stop_at_the_record(exchange: Exchange) -> None:
        if exchange.path == f"/{records}/_bulk_docs":
            exchange.reply(503)
        else:
            exchange.pass_on()

    with between(couch_url, stop_at_the_record) as (store, _):
        store.setup()
        with pytest.raises(StoreUnavailable):
            store.apply([result(first, "a")], EARLIER)
    with closing(persistence.connect(couch_url)) as store:
        assert [outcome.stage for outcome in store.apply([result(second, "a")], LATER)] == [STORED]
        assert [outcome.stage for outcome in store.apply([result(first, "a")], LATER, again=True)] == [UNCHANGED]
        changes = {change["seq"]: bool(change.get("late")) for change in store.history("web01", "rpms")}
        assert changes == {first: True, second: False}
        assert store.record("web01")["vogeler"]["keys"]["rpms"]["seq"] == second


def test_what_was_held_before_stays_a_change_when_it_is_tried_again(couch_url):
    with closing(persistence.connect(couch_url)) as store:
        store.setup()
        for seq, value in enumerate("aba", 1):
            store.apply([result(seq, value)], EARLIER)
        assert [outcome.stage for outcome in store.apply([result(1, "a")], LATER, again=True)] == [UNCHANGED]
        assert not any(change.get("late") for change in store.history("web01", "rpms"))


@pytest.mark.parametrize("database", ["", "_status", "_history"])
def test_a_write_whose_answer_is_lost_is_written_once(couch_url, database):
    """It is sent again, and looks like a conflict: read again, it is what we wanted."""
    path, lost = f"{urlsplit(couch_url).path}{database}/_bulk_docs", []

    def lose_first_answer(exchange: Exchange) -> None:
        if exchange.path == path and not lost:
            lost.append(exchange.forward())
            exchange.hang_up()
        else:
            exchange.pass_on()

    with between(couch_url, lose_first_answer) as (store, _):
        store.setup()
        outcomes = store.apply([result(1, "a"), result(2, "b"), result(1, "c", "web02")], EARLIER)
        assert [outcome.stage for outcome in outcomes] == [STORED] * 3
        assert store.record("web01")["rpms"] == "b"
        assert [change["value"] for change in store.history("web01")] == ["b", "a"]
    assert lost


def test_what_another_server_wrote_meanwhile_is_kept(couch_url, other):
    """It writes between our read and our write, first into the record, then into the status."""
    meanwhile = [[result(7, "newer"), result(1, "d", key="dpkg")], [result(8, status="failed"), heartbeat()]]

    def interfere(exchange: Exchange) -> None:
        if meanwhile and exchange.path.endswith("_history/_bulk_docs"):
            other.apply(meanwhile.pop(0), LATER)
        exchange.pass_on()

    with between(couch_url, interfere) as (store, _):
        outcomes = store.apply([result(5, "older"), result(6, "f", key="facter"), result(1, "x", "web02")], EARLIER)
        assert [outcome.stage for outcome in outcomes] == [STORED] * 3
        assert "older" in outcomes[0].reason
        record, status = store.record("web01"), store.status("web01")
        assert (record["rpms"], record["dpkg"], record["facter"]) == ("newer", "d", "f")
        assert status["keys"]["rpms"]["seq"] == 8
        assert status["agent"]["version"] == "2.0"
        assert meanwhile == []


@pytest.mark.parametrize("warm", [False, True])
def test_a_result_that_another_server_stores_between_our_two_reads_is_held(couch_url, other, warm):
    """Of a server that was frozen, another one has the same results: record and status are of different times then."""
    other.apply([result(1, "a")], at(1))
    meanwhile = []

    def interfere(exchange: Exchange) -> None:
        if meanwhile and "_status/" in exchange.path:
            other.apply([meanwhile.pop()], at(2))
        exchange.pass_on()

    with between(couch_url, interfere) as (store, _):
        if warm:
            store.apply([result(1, "a")], at(1))
            other.apply([result(1, "a"), heartbeat()], at(1))
        meanwhile.append(result(2, "b"))
        assert [outcome.stage for outcome in store.apply([result(2, "b")], at(3), again=True)] == [STORED]
        assert meanwhile == []
        assert store.record("web01")["rpms"] == held(store.history("web01", "rpms"), at(9)) == "b"


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("noise", [False, True])
def test_a_value_that_another_server_confirms_while_we_store_an_older_one_stays(couch_url, other, warm, noise):
    """It finds the record as it was before our write, and its status is there before ours."""
    other.apply([result(1, "a"), result(1, "x", key="dpkg")], at(1))
    records, meanwhile, noises = urlsplit(couch_url).path, [], []

    def interfere(exchange: Exchange) -> None:
        if meanwhile and exchange.path == f"{records}/_bulk_docs":
            (outcome,) = other.apply([meanwhile.pop()], at(2))
            assert outcome.stage == UNCHANGED
        if noises and exchange.path == f"{records}_status/_bulk_docs":
            other.apply(noises.pop(), at(4))
        exchange.pass_on()

    with between(couch_url, interfere) as (store, _):
        if warm:
            store.apply([heartbeat(), result(2, "a"), result(2, "x", key="dpkg")], at(1))
        meanwhile.append(result(8, "a"))
        noises += [[heartbeat(), result(9, "y", key="dpkg")]] if noise else []
        assert [outcome.reason for outcome in store.apply([result(5, "b")], at(3))] == [LATE]
        assert meanwhile == noises == []
        record, status = store.record("web01"), store.status("web01")
        assert record["rpms"] == held(store.history("web01", "rpms"), at(9)) == "a"
        assert record["dpkg"] == ("y" if noise else "x")
        assert record["vogeler"]["keys"]["rpms"]["seq"] == 1
        assert status["keys"]["rpms"]["ok_seq"] == 8
        assert {change["value"]: bool(change.get("late")) for change in store.history("web01", "rpms")} == {
            "a": False,
            "b": True,
        }


def test_a_value_that_another_server_confirms_after_we_stored_it_stays(couch_url, other):
    """It finds the record as we wrote it, and its status is there before ours."""
    other.apply([result(1, "a")], at(1))
    meanwhile = [result(8, "b")]

    def interfere(exchange: Exchange) -> None:
        if meanwhile and exchange.path.endswith("_status/_bulk_docs"):
            (outcome,) = other.apply([meanwhile.pop()], at(2))
            assert outcome.stage == UNCHANGED
        exchange.pass_on()

    with between(couch_url, interfere) as (store, _):
        assert [outcome.reason for outcome in store.apply([result(5, "b")], at(3))] == [None]
        assert store.record("web01")["rpms"] == held(store.history("web01", "rpms"), at(9)) == "b"


def test_history_that_a_server_wrote_in_vain_does_not_tell_what_the_record_never_held(couch_url, other):
    """Another server, whose clock is behind, stores a later result first: ours is late, and its history said no."""
    other.apply([result(1, "a")], at(0))
    meanwhile = [result(3, "c")]

    def interfere(exchange: Exchange) -> None:
        exchange.pass_on()
        if meanwhile and exchange.path.endswith("_history/_bulk_docs"):
            other.apply([meanwhile.pop()], at(50))

    with between(couch_url, interfere) as (store, _):
        (outcome,) = store.apply([result(2, "b")], at(100))
        assert "older" in outcome.reason
        assert held(store.history("web01", "rpms"), at(1000)) == store.record("web01")["rpms"] == "c"


def test_a_first_result_that_is_stored_while_its_node_is_forgotten_stays_known(couch_url, other):
    """The record did not exist, so that writing it is no conflict; the history must tell of it after the forget."""
    other.apply([heartbeat()], at(0))
    forgets = [at(20)]

    def interfere(exchange: Exchange) -> None:
        if forgets and exchange.path.endswith("_history/_bulk_docs"):
            assert admin.forget("web01", "alice", forgets.pop())
        exchange.pass_on()

    with closing(persistence.connect(couch_url)) as admin, between(couch_url, interfere) as (store, _):
        store.apply([result(1, "a")], at(10))
        assert store.record("web01")["rpms"] == "a"
        assert held(store.history("web01"), at(1000)) == "a"


def test_history_of_a_version_without_stored_at_is_told_by_changed_at(couch_store, couchdb_server, couch_url):
    old = {"node": "web01", "key": "rpms", "value": "old", "changed_at": at(0), "seq": 1, "event": "change"}
    couchdb_server.api("PUT", f"{urlsplit(couch_url).path}_history/web01:rpms:00000000000000000001:x", old)
    couch_store.apply([result(2, "new")], at(10))
    assert [change["stored_at"] for change in couch_store.history("web01", "rpms")] == [at(10), at(0)]
    assert [change["value"] for change in couch_store.changes(at(0), at(10))] == ["old"]
    assert list(couch_store.prune(at(11), 1, 10)) == [1]


def test_leaves_can_be_paged_on_a_server_that_knows_no_startkey_docid(couch_url, monkeypatch):
    def forgetful(exchange: Exchange) -> None:
        exchange.path = re.sub(r"startkey_docid=[^&]*&?", "", exchange.path)
        exchange.pass_on()

    monkeypatch.setattr("vogeler.persistence.couch._GROUPS_PAGE", 3)
    with between(couch_url, forgetful) as (store, _):
        store.setup()
        store.apply([result(1, [1, 2, 3, 4, 5], f"web{number}", "k") for number in range(4)], EARLIER)
        assert sorted(store.leaves("k")) == [("k", f"web{number}", v) for number in range(4) for v in range(1, 6)]


@pytest.mark.parametrize("gone", ["web1", "web2", "web3"])
def test_records_that_change_while_leaves_are_read_cost_no_other_its_own(couch_store, monkeypatch, gone):
    """At the end of a page a value changes, and a node is forgotten: one that was read, the last, or the next."""
    monkeypatch.setattr("vogeler.persistence.couch._GROUPS_PAGE", 3)
    couch_store.apply([result(1, {"x": 1}, f"web{number}", "k") for number in range(9)], EARLIER)
    found = couch_store.leaves("k.x", exact=True)
    begun = [next(found) for _ in range(3)]
    couch_store.forget(gone, "alice", LATER)
    couch_store.apply([result(2, {"x": 2}, "web2", "k")] if gone != "web2" else [], LATER)
    nodes = [node for _, node, _ in (*begun, *found)]
    assert nodes == [f"web{number}" for number in range(9) if number != 3 or gone != "web3"]


def test_views_are_brought_up_to_date_before_anybody_asks(couch_store, couchdb_server, couch_url):
    """By whoever stores, and not by CouchDB, which would do it while it has more to store."""
    shipped = _couch_design.find_folder()
    assert all(d["autoupdate"] is False for part in _couch_design.DATABASES for d in _couch_design.load(shipped, part))
    name = urlsplit(couch_url).path
    couch_store.apply([result(1, {"bash": "5.2"})], EARLIER)
    couch_store.refresh()
    for view in (f"{name}/_design/leaves/_view/groups", f"{name}_history/_design/vogeler/_view/by_key"):
        rows = wait_until(lambda at=view: couchdb_server.api("GET", f"{at}?stale=ok")["rows"], f"{view} is up to date")
        assert [row["id"].partition(":")[0] for row in rows] == ["web01"]


@pytest.mark.parametrize("running", [True, False])
def test_who_asks_while_a_view_is_brought_up_to_date_waits(couch_url, running):
    """CouchDB answers so after a minute. Without a reason it is an error like any other."""
    answers = [b'{"view_index":{"updater_running":%b}}' % (b"true" if running else b"false")]

    def busy(exchange: Exchange) -> None:
        if answers and exchange.path.endswith("/_info"):
            exchange.reply(200, answers.pop())
        elif answers and "/_view/groups" in exchange.path:
            exchange.reply(500, b'{"error":"timeout","reason":"The request could not be processed"}')
        else:
            exchange.pass_on()

    with between(couch_url, busy) as (store, _):
        store.setup()
        store.apply([result(1, ["bash"])], EARLIER)
        if running:
            assert list(store.leaves("rpms")) == [("rpms", "web01", "bash")]
        else:
            with pytest.raises(StoreUnavailable):
                list(store.leaves("rpms"))


def test_who_prunes_does_not_wait_for_a_view(couch_url):
    """A server has results to store meanwhile."""

    def busy(exchange: Exchange) -> None:
        if exchange.path.endswith("/_info"):
            exchange.reply(200, b'{"view_index":{"updater_running":true}}')
        elif "/_view/" in exchange.path:
            exchange.reply(500, b'{"error":"timeout","reason":"The request could not be processed"}')
        else:
            exchange.pass_on()

    with between(couch_url, busy) as (store, _):
        store.setup()
        with pytest.raises(StoreUnavailable):
            list(store.prune(EARLIER, 1, 10))


def test_who_has_views_of_their_own_may_be_without_ours(couch_url, tmp_path):
    for part in ("records", "status", "history"):
        (tmp_path / part).mkdir()
    with closing(persistence.connect(couch_url)) as store:
        store.setup(tmp_path)
        store.refresh()
        assert store.apply([result(1)], EARLIER)[0].stage == STORED


def test_leaves_of_a_prefix_are_all_that_begin_so(couch_store):
    """Whatever comes after it, and nothing else, also where people would sort otherwise."""
    names = ["a", "A", "a1", "a\u00e4", "a\u1ea9", "a\ud7ff", "a~", "a-", "b", "\u00e4", "B"]
    couch_store.apply([result(1, dict.fromkeys(names, 1))], EARLIER)
    assert {path for path, _, _ in couch_store.leaves("rpms.a")} == {f"rpms.{n}" for n in names if n[0] == "a"}


def test_a_feed_that_breaks_off_may_be_followed_again(couch_url):
    broken = []

    def break_off(exchange: Exchange) -> None:
        if broken and "_changes" in exchange.path:
            exchange.reply(503, b"<html>starting</html>", "text/html")
        else:
            exchange.pass_on()

    with between(couch_url, break_off) as (store, _):
        store.setup()
        feed = store.follow()
        position, _ = next(feed)
        broken.append(True)
        with pytest.raises(StoreUnavailable, match="503"):
            next(feed)
        store.apply([result(1, "a")], EARLIER)
        with pytest.raises(StoreUnavailable, match="503"):
            store.follow(position)
        broken.clear()
        feed = store.follow(position)
        assert [next(feed)[1], next(feed)[1]["value"]] == [None, "a"]


def test_a_node_that_is_heard_while_it_is_forgotten_is_forgotten(couch_url, other):
    """Else its record would be gone and its status stay."""
    other.apply([result(1, "a"), heartbeat()], EARLIER)
    meanwhile = [heartbeat()]

    def interfere(exchange: Exchange) -> None:
        if meanwhile and exchange.path.endswith("_history/_bulk_docs"):
            other.apply([meanwhile.pop()], LATER)
        exchange.pass_on()

    with between(couch_url, interfere) as (store, _):
        assert store.forget("web01", "alice@ops1", LATER) is True
        assert (store.record("web01"), store.status("web01")) == (None, None)
        assert [change["event"] for change in store.history("web01")] == ["forgotten", "change"]
        other.apply([heartbeat()], LATER)
        assert [change["event"] for change in store.history("web01")] == ["returned", "forgotten", "change"]


def test_a_document_that_never_stops_changing_may_be_retried_later(couch_url, monkeypatch):
    monkeypatch.setattr("vogeler.persistence.couch._TRIES", 3)
    monkeypatch.setattr("vogeler.persistence.couch._CONFLICT_PAUSE_S", 0.0)

    def conflict(exchange: Exchange) -> None:
        if exchange.path.endswith("/_bulk_docs"):
            documents = json.loads(exchange.body)["docs"]
            exchange.reply(201, json.dumps([{"id": d["_id"], "error": "conflict"} for d in documents]).encode())
        else:
            exchange.pass_on()

    with between(couch_url, conflict) as (store, _):
        store.setup()
        for call in (
            lambda: store.apply([result(1, "a"), heartbeat("web02")], EARLIER),
            lambda: store.forget("web01", "alice", EARLIER) or store.apply([heartbeat()], EARLIER),
        ):
            with pytest.raises(StoreUnavailable, match="web01"):
                call()


@pytest.mark.parametrize("error", ["internal_server_error", "timeout", "unknown_error"])
def test_a_row_that_fails_for_now_is_no_dead_letter(couch_url, error):
    """A cluster without a quorum says so in the row."""

    def fail(exchange: Exchange) -> None:
        if exchange.path.endswith("/_bulk_docs"):
            exchange.reply(202, json.dumps([{"id": "web01", "error": error, "reason": "no quorum"}]).encode())
        else:
            exchange.pass_on()

    with between(couch_url, fail) as (store, _):
        store.setup()
        with pytest.raises(StoreUnavailable, match="no quorum"):
            store.apply([heartbeat()], EARLIER)


def test_a_write_that_is_answered_for_in_part_is_not_taken_for_whole(couch_url):
    def forgetful(exchange: Exchange) -> None:
        if exchange.path.endswith("/_bulk_docs"):
            exchange.reply(201, b'[{"ok": true, "id": "web01", "rev": "1-x"}]')
        else:
            exchange.pass_on()

    with between(couch_url, forgetful) as (store, _):
        store.setup()
        with pytest.raises(StoreUnavailable, match="1 of 2"):
            store.apply([heartbeat(), heartbeat("web02")], EARLIER)


def test_an_unchanged_batch_is_two_requests_and_a_changed_one_five(couch_url):
    """What a fleet costs CouchDB: most results are equal to what is stored."""
    with between(couch_url, Exchange.pass_on) as (store, server):
        store.setup()
        for seq, value, expected in ((1, "a", 5), (2, "a", 2), (3, "b", 5)):
            server.requests.clear()
            store.apply([result(seq, value, f"web{number}") for number in range(50)], EARLIER)
            assert len(server.requests) == expected


def test_where_two_servers_take_turns_there_is_one_conflict_and_not_one_each_time(couch_url, other):
    """A conflict costs CouchDB several times what looking first does."""
    with between(couch_url, Exchange.pass_on) as (store, server):
        for seq in (1, 2, 3, 4, 5):
            server.requests.clear()
            store.apply([result(2 * seq, "a")], EARLIER)
            written = sum(path.endswith("_status/_bulk_docs") for _, path in server.requests)
            assert written == (2 if seq == 2 else 1)
            other.apply([result(2 * seq + 1, "a")], EARLIER)
        assert store.status("web01")["keys"]["rpms"]["seq"] == 11


def test_who_needs_one_change_reads_few(couch_url):
    """A key with a long history, and large values. Who needs all of it reads large pages soon."""
    with between(couch_url, Exchange.pass_on) as (store, server):
        store.setup()
        store.apply([result(seq, f"v{seq}") for seq in range(100)], EARLIER)
        for count, limits in ((1, ["2"]), (3, ["2", "8"]), (100, ["2", "8", "32"])):
            server.requests.clear()
            found = islice(store.history("web01", "rpms"), count)
            assert [change["seq"] for change in found] == list(range(99, 99 - count, -1))
            asked = [limit for _, path in server.requests for limit in re.findall(r"limit=(\d+)", path)]
            assert asked[:3] == limits
            assert len(asked) <= 6


def test_what_somebody_else_put_into_the_history_is_not_told(couch_store, couchdb_server, couch_url):
    begin, _ = next(couch_store.follow())
    for name, document in (("note", {"text": "mine"}), ("odd", {"node": "web01", "key": "rpms", "seq": 7})):
        couchdb_server.api("PUT", f"{urlsplit(couch_url).path}_history/{name}", document)
    couch_store.apply([result(1, "a")], at(0))
    assert [change["value"] for _, change in islice(couch_store.follow(begin), 1, 2)] == ["a"]
    assert [change["value"] for change in couch_store.history("web01")] == ["a"]
    assert [change["value"] for change in couch_store.history("web01", "rpms")] == ["a"]
    assert list(couch_store.prune(at(10), 0, 10)) == [0]


# --- the views ------------------------------------------------------------------------------------


@pytest.fixture
def view(couch_store: Store, couchdb_server: CouchServer, couch_url: str) -> Callable[..., Any]:
    """The rows of a view, as somebody else's dashboard would ask for them."""

    def rows(database: str, name: str, query: str = "reduce=false", design: str = "vogeler") -> Any:
        path = f"{urlsplit(couch_url).path}{database}/_design/{design}/_view/{name}?{query}"
        return couchdb_server.api("GET", path)["rows"]

    return rows


def test_the_views_of_packages_read_every_shape_of_list(couch_store, view):
    couch_store.apply(PACKAGE_RECORDS, EARLIER)
    assert {(*row["key"], row["value"]) for row in view("", "packages_by_node")} == PACKAGES
    assert {(row["value"], *row["key"]) for row in view("", "nodes_by_package")} == PACKAGES
    counts = {tuple(row["key"]): row["value"] for row in view("", "nodes_by_package", "group_level=1")}
    assert counts[("bash",)] == 3


def test_the_view_of_values_finds_the_nodes_with_a_fact(couch_store, view):
    couch_store.apply(FACT_RECORDS, EARLIER)
    assert {(*row["key"], row["value"]) for row in view("", "nodes_by_value")} == FACTS
    query = "reduce=false&key=" + quote('["facter","os","Debian"]')
    assert [row["value"] for row in view("", "nodes_by_value", query)] == ["web01"]


def test_the_view_by_name_lists_the_records(couch_store, view):
    couch_store.apply([result(1, "a", "web02"), result(1, "a", "web01")], EARLIER)
    assert [(row["key"], row["value"]) for row in view("", "by_name", "")] == [("web01", EARLIER), ("web02", EARLIER)]


def test_the_views_of_the_history_sort_by_time(couch_store, view):
    couch_store.apply([result(3, "c")], at(0))
    couch_store.apply([result(1, "a", "web02"), result(2, "b", key="facter")], at(1))
    assert [row["value"] for row in view("_history", "by_time", "")] == [
        {"node": "web01", "key": "rpms"},
        {"node": "web02", "key": "rpms"},
        {"node": "web01", "key": "facter"},
    ]
    assert [row["value"] for row in view("_history", "by_node", "")] == ["rpms", "facter", "rpms"]
    assert [row["key"][:3] for row in view("_history", "by_key", "")] == [
        ["web01", "facter", at(1)],
        ["web01", "rpms", at(0)],
        ["web02", "rpms", at(1)],
    ]


def test_the_design_documents_are_es5(couch_store, view):
    """Every view answers on documents of any shape: CouchDB's engine knows no later JavaScript."""
    couch_store.apply([result(1, None), result(1, 3, key="packages"), result(1, {}, key="dpkg")], EARLIER)
    folder = _couch_design.find_folder()
    for part, database in zip(_couch_design.DATABASES, ("", "_status", "_history")):
        for design in _couch_design.load(folder, part):
            for name in design["views"]:
                view(database, name, "", design["_id"].partition("/")[2])
