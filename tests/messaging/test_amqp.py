"""What is particular to RabbitMQ: its queues, its refusals, its ways to go away."""

from __future__ import annotations

import hashlib
import logging
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any

import pika
import pytest
from pika import exceptions as pika_errors
from pika import frame, spec

from tests.messaging.conftest import LIMIT_S, body_of, eventually, message, next_body
from tests.messaging.unconfirmed import without_confirms
from tests.servers.forwarding import before
from tests.servers.rabbitmq import RabbitMQ
from vogeler import messaging, topology
from vogeler.errors import TransportError, TransportUnavailable, UsageError, VogelerError
from vogeler.messages import OMITTED, Result, encode, new_id, now
from vogeler.messaging import Transport
from vogeler.messaging._amqp_answers import limited
from vogeler.messaging._amqp_consumer import properties_of

SECRET = "pa55/w@rd:é"
SECRET_IN_URL = "pa55%2Fw%40rd%3A%C3%A9"
WEEK_MS = 7 * 24 * 3600 * 1000


@pytest.fixture
def transport(amqp_url: str) -> Iterator[Transport]:
    opened = messaging.connect(amqp_url, name="vogeler-test@here")
    opened.setup()
    yield opened
    opened.close()


@pytest.fixture
def unconfirmed(amqp_url: str, rabbitmq: RabbitMQ) -> Iterator[Transport]:
    """To the same broker, by way of somebody who keeps its confirms."""
    between = before(("127.0.0.1", rabbitmq.port), back=without_confirms)
    with between as port, closing(messaging.connect(amqp_url.replace(f":{rabbitmq.port}/", f":{port}/"))) as opened:
        yield opened


@pytest.fixture
def raw_channel(amqp_url: str) -> Iterator[Any]:
    """A pika channel, to do what Vogeler does not."""
    connection = pika.BlockingConnection(pika.URLParameters(amqp_url))
    yield connection.channel()
    connection.close()


def failure(qhost: str, timeout_s: float = 5.0) -> VogelerError:
    """How connecting fails."""
    with pytest.raises(VogelerError) as caught:
        messaging.connect(qhost, timeout_s=timeout_s)
    return caught.value


@pytest.fixture
def fresh(amqp_url: str) -> Iterator[Transport]:
    """To a broker that nobody has set up."""
    opened = messaging.connect(amqp_url)
    yield opened
    opened.close()


@pytest.mark.parametrize(
    "action",
    [
        lambda transport: transport.publish_command(message("x"), ["all"], 60.0),
        lambda transport: transport.publish_result(message("x"), "web01"),
        lambda transport: transport.publish_receipts([("run", message("x"))]),
        lambda transport: transport.consume_commands("web01", ()),
        lambda transport: transport.consume_results(1),
        lambda transport: transport.consume_receipts("run"),
        lambda transport: transport.consume_dead(),
    ],
    ids=["command", "result", "receipts", "consume-commands", "consume-results", "consume-receipts", "consume-dead"],
)
def test_before_setup_everything_is_refused_with_the_remedy(
    fresh: Transport, action: Callable[[Transport], object]
) -> None:
    with pytest.raises(TransportError) as caught:
        action(fresh)
    assert not isinstance(caught.value, TransportUnavailable)
    assert "vogeler-admin setup" in (caught.value.remedy or "")


def test_what_is_not_there_has_no_depth(fresh: Transport) -> None:
    assert fresh.depths() == {}


def test_after_a_refusal_the_transport_goes_on(fresh: Transport) -> None:
    with pytest.raises(TransportError):
        fresh.publish_result(message("early"), "web01")
    fresh.setup()
    fresh.publish_result(message("now"), "web01")
    assert next_body(fresh.consume_results(1)) == "now"


# --- what is made in the broker --------------------------------------------------------------------


def test_results_and_dead_letters_are_quorum_queues_and_keep_what_is_rejected(
    transport: Transport, rabbitmq: RabbitMQ, vhost: str
) -> None:
    queues = rabbitmq.queues(vhost)
    for name in (topology.RESULTS_QUEUE, topology.DEAD_QUEUE):
        assert queues[name]["durable"]
        assert queues[name]["arguments"]["x-queue-type"] == "quorum"
    assert queues[topology.RESULTS_QUEUE]["arguments"]["x-dead-letter-exchange"] == topology.DEAD_EXCHANGE


def test_a_node_queue_is_durable_classic_and_goes_after_a_week(
    transport: Transport, rabbitmq: RabbitMQ, vhost: str
) -> None:
    transport.consume_commands("web01", ())
    queue = rabbitmq.queues(vhost)[topology.node_queue("web01")]
    assert queue["durable"]
    assert queue["arguments"] == {"x-queue-type": "classic", "x-expires": WEEK_MS}


def test_a_queue_of_that_name_with_other_properties_is_named(amqp_url: str, raw_channel: Any) -> None:
    raw_channel.queue_declare(topology.RESULTS_QUEUE, durable=True)
    transport = messaging.connect(amqp_url)
    with pytest.raises(TransportError, match=r"vogeler\.results") as caught:
        transport.setup()
    assert "delete_queue" in (caught.value.remedy or "")
    transport.close()


def test_commands_and_results_are_persistent_and_receipts_are_not(transport: Transport, raw_channel: Any) -> None:
    modes = []
    for exchange, key in ((topology.BROADCAST_EXCHANGE, "all"), (topology.RECEIPTS_EXCHANGE, "run")):
        raw_channel.queue_declare(f"spy.{key}", exclusive=True)
        raw_channel.queue_bind(f"spy.{key}", exchange, key)
    transport.publish_command(message("c", type="command", message_id="i"), ["all"], 60.0)
    transport.publish_receipts([("run", message("r"))])
    transport.publish_result(message("r"), "web01")

    def arrived(queue: str) -> bool:
        _, properties, body = raw_channel.basic_get(queue, auto_ack=True)
        if body is not None:
            modes.append((queue, properties.delivery_mode, properties.content_type, properties.app_id))
        return body is not None

    for queue in ("spy.all", "spy.run", topology.RESULTS_QUEUE):
        eventually(lambda queue=queue: arrived(queue))
    described = ("application/json", "vogeler")
    assert modes == [("spy.all", 2, *described), ("spy.run", 1, *described), (topology.RESULTS_QUEUE, 2, *described)]


def test_what_the_broker_itself_dead_letters_has_a_reason_and_a_source(transport: Transport, raw_channel: Any) -> None:
    transport.publish_result(message("rejected"), "web01")

    def rejected() -> bool:
        method, _, _ = raw_channel.basic_get(topology.RESULTS_QUEUE)
        if method is not None:
            raw_channel.basic_nack(method.delivery_tag, requeue=False)
        return method is not None

    eventually(rejected)
    letter = transport.consume_dead().receive(LIMIT_S)
    assert body_of(letter) == "rejected"
    assert letter is not None
    assert (letter.reason, letter.source) == ("rejected", topology.RESULTS_QUEUE)


def test_a_client_needs_no_right_but_to_its_own_queue_and_two_exchanges(
    transport: Transport, rabbitmq: RabbitMQ, vhost: str
) -> None:
    """A node that was broken into can't give commands, read results or write into others' queues."""
    rabbitmq.create_user("agent", "agent")
    try:
        own = r"^vogeler\.node\.web01$"
        write = r"^(vogeler\.node\.web01|vogeler\.results|vogeler\.receipts)$"
        rabbitmq.set_permissions(vhost, "agent", own, write, r"^(vogeler\.node\.web01|vogeler\.broadcast)$")
        client = messaging.connect(f"amqp://agent:agent@{rabbitmq.host}:{rabbitmq.port}/{vhost}")
        consumer = client.consume_commands("web01", ("g",))
        client.publish_result(message("result"), "web01")
        client.publish_receipts([("run", message("receipt"))])
        transport.publish_command(message("garbage"), ["group.g"], 60.0)
        delivery = consumer.receive(LIMIT_S)
        assert delivery is not None
        consumer.dead_letter(delivery, "garbage")
        for forbidden in (
            lambda: client.publish_command(message("x"), ["all"], 1.0),
            lambda: client.consume_results(1),
            lambda: client.consume_dead(),
            lambda: client.consume_commands("web02", ()),
        ):
            with pytest.raises(TransportError, match="ACCESS_REFUSED") as caught:
                forbidden()
            assert not isinstance(caught.value, TransportUnavailable)
            assert "permission" in (caught.value.remedy or "")
        client.close()
    finally:
        rabbitmq.delete_user("agent")


def test_a_delivery_tells_whose_login_sent_it(transport: Transport, raw_channel: Any, rabbitmq: RabbitMQ) -> None:
    """A dead letter, who sent it in the first place. A header says nothing where letters are not dead yet."""
    transport.publish_result(message("named"), "web01")
    claims = pika.BasicProperties(headers={"x-vogeler-user": "vogeler.node.web01"})
    raw_channel.basic_publish(topology.RESULTS_EXCHANGE, "result.web01", b"nameless", claims)
    results = transport.consume_results(10)
    for body, user in (("named", rabbitmq.user), ("nameless", "")):
        delivery = results.receive(LIMIT_S)
        assert delivery is not None
        assert (body_of(delivery), delivery.user) == (body, user)
        results.dead_letter(delivery, "why not")
    dead = transport.consume_dead()
    assert [getattr(dead.receive(LIMIT_S), "user", None) for _ in range(2)] == [rabbitmq.user, ""]


def test_a_login_that_the_broker_has_another_name_for_is_told_so(amqp_url: str) -> None:
    """As with a certificate, when the URL names somebody else."""
    transport = messaging.connect(amqp_url)
    transport.setup()
    vars(transport)["_user"] = "somebody"
    with pytest.raises(TransportError, match="user_id") as caught:
        transport.publish_result(message("x"), "web01")
    assert "name the user in the URL" in (caught.value.remedy or "")
    transport.close()


def test_a_login_that_may_declare_nothing_is_enough_once_everything_is_there(
    transport: Transport, rabbitmq: RabbitMQ, vhost: str
) -> None:
    rabbitmq.create_user("modest", "modest")
    try:
        rabbitmq.set_permissions(vhost, "modest", configure="^$")
        modest = messaging.connect(f"amqp://modest:modest@{rabbitmq.host}:{rabbitmq.port}/{vhost}")
        assert modest.setup() == []
        rabbitmq.delete_queue(vhost, topology.DEAD_QUEUE)
        with pytest.raises(TransportError, match="ACCESS_REFUSED"):
            modest.setup()
        assert transport.setup() == [f"created queue {topology.DEAD_QUEUE}"]
        modest.close()
    finally:
        rabbitmq.delete_user("modest")


def test_a_node_name_too_long_for_the_broker_is_refused_with_the_reason(transport: Transport) -> None:
    with pytest.raises(UsageError, match="too long"):
        transport.consume_commands("n" * 250, ())
    transport.consume_commands("n" * 242, ())


# --- connecting ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "there"),
    [("", True), ("/", True), ("/%2F", True), ("/%2f", True), ("/nowhere", False), ("//nowhere", False)],
)
def test_the_path_is_the_virtual_host(rabbitmq: RabbitMQ, path: str, there: bool) -> None:
    url = f"amqp://{rabbitmq.user}:{rabbitmq.password}@{rabbitmq.host}:{rabbitmq.port}{path}"
    if there:
        messaging.connect(url).close()
    else:
        error = failure(url)
        assert not error.retryable
        assert "virtual host" in (error.remedy or "")


def test_a_wrong_password_is_refused_with_a_remedy(rabbitmq: RabbitMQ) -> None:
    error = failure(f"amqp://{rabbitmq.user}:{SECRET_IN_URL}@{rabbitmq.host}:{rabbitmq.port}/")
    assert isinstance(error, TransportError)
    assert not error.retryable
    assert "password" in (error.remedy or "")


def test_guest_is_who_connects_when_nobody_is_named(rabbitmq: RabbitMQ) -> None:
    rabbitmq.create_user("guest", "guest")
    try:
        rabbitmq.set_permissions("/", "guest")
        messaging.connect(f"amqp://{rabbitmq.host}:{rabbitmq.port}").close()
    finally:
        rabbitmq.delete_user("guest")


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that accepts and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def answering_port(words: bytes) -> int:
    """A port whose service says ``words`` once and hangs up."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with server:
            connection, _ = server.accept()
            with connection:
                connection.sendall(words)

    threading.Thread(target=serve, daemon=True).start()
    return int(server.getsockname()[1])


@pytest.mark.parametrize(
    "words", [b"220 smtp.example.org ESMTP\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0" * 99, b""]
)
def test_a_service_that_does_not_speak_amqp_is_called_that(words: bytes) -> None:
    error = failure(f"amqp://127.0.0.1:{answering_port(words)}/")
    assert isinstance(error, TransportUnavailable)
    assert "does not speak AMQP" in str(error)


@pytest.fixture
def resetting_port() -> Iterator[int]:
    """A port that resets every connection as soon as it is made, as a broker that goes, or a firewall."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = server.accept()
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield int(server.getsockname()[1])
    server.shutdown(socket.SHUT_RDWR)
    thread.join()
    server.close()


def test_a_connection_that_is_reset_at_any_moment_of_its_making_may_be_tried_again(resetting_port: int) -> None:
    """Some of the many are reset between pika's looking and its asking who is on the other side: a ValueError of its."""
    for _ in range(500):
        assert isinstance(failure(f"amqp://127.0.0.1:{resetting_port}/"), TransportUnavailable)


def test_a_value_that_is_left_out_takes_less_than_500_bytes_in_frames() -> None:
    node, digest = "web01.example.org", "sha256:" + hashlib.sha256(b"packages").hexdigest()
    about = {"run": new_id(), "requested_by": "alice@ops01.example.org", "exit_code": 0, "duration_s": 0.187}
    result = Result(node, "packages", "packages", 1795260662943104, "ok", now(), value=OMITTED, digest=digest, **about)
    envelope = encode(result)
    method = spec.Basic.Publish(
        exchange=topology.RESULTS_EXCHANGE, routing_key=topology.result_key(node), mandatory=True
    )
    properties = properties_of(envelope, user_id=topology.node_user(node))
    frames = [frame.Method(1, method), frame.Header(1, len(envelope.body), properties)]
    assert sum(len(one.marshal()) for one in [*frames, frame.Body(1, envelope.body)]) < 500


def test_a_limit_that_is_over_after_the_connection_was_lost_is_no_matter(amqp_url: str) -> None:
    """Both have happened when a process that was frozen goes on: pika knows of the one, and our timer of the other."""
    connection = pika.BlockingConnection(pika.URLParameters(amqp_url))
    with limited(connection, 0.0):
        connection._impl._terminate_stream(pika_errors.StreamLostError("while it was frozen"))
        with pytest.raises(pika_errors.StreamLostError, match="while it was frozen"):
            connection.process_data_events(1.0)


def test_a_silent_service_is_given_up_on_in_time(silent_port: int) -> None:
    started_at = time.monotonic()
    error = failure(f"amqp://127.0.0.1:{silent_port}/", timeout_s=0.5)
    assert time.monotonic() - started_at < 5
    assert isinstance(error, TransportUnavailable)
    assert "nothing that speaks AMQP" in str(error)


def test_no_error_shows_the_password(rabbitmq: RabbitMQ, silent_port: int) -> None:
    ports = [1, silent_port, rabbitmq.port, rabbitmq.api_port, answering_port(b"220 smtp\r\n")]
    hosts = [f"127.0.0.1:{port}" for port in ports] + ["host.invalid"]
    for host in hosts:
        for options in ("", "?hearbeat=1", "?heartbeat=often"):
            error = failure(f"amqp://alice:{SECRET_IN_URL}@{host}/v{options}", timeout_s=0.5)
            for text in (str(error), repr(error), error.remedy or "", repr(error.__cause__)):
                assert SECRET not in text
                assert SECRET_IN_URL not in text
            assert f"alice:…@{host}" in str(error)


def test_an_unreachable_broker_is_named_with_the_reason() -> None:
    error = failure("amqp://alice:secret@127.0.0.1:1/vogeler")
    assert isinstance(error, TransportUnavailable)
    assert str(error) == "broker unreachable at amqp://alice:…@127.0.0.1:1/vogeler: connection refused"
    assert "host name" in str(failure("amqp://host.invalid/"))


def test_failing_to_connect_leaves_the_log_to_us(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        failure("amqp://127.0.0.1:1/")
    assert [record.name for record in caplog.records if record.name.startswith("pika")] == []


def test_of_a_cluster_any_member_will_do(amqp_url: str) -> None:
    for _ in range(5):  # the order is random
        messaging.connect(f"amqp://127.0.0.1:1/,{amqp_url},amqp://127.0.0.1:2/", timeout_s=5.0).close()


def test_of_a_cluster_that_is_away_every_member_is_named() -> None:
    error = failure("amqp://127.0.0.1:1/,amqp://127.0.0.1:2/")
    assert isinstance(error, TransportUnavailable)
    assert "127.0.0.1:1/" in str(error)
    assert "127.0.0.1:2/" in str(error)


def test_a_refusal_counts_more_than_a_member_that_is_away(rabbitmq: RabbitMQ) -> None:
    error = failure(f"amqp://127.0.0.1:1/,amqp://nobody:wrong@127.0.0.1:{rabbitmq.port}/")
    assert not error.retryable


@pytest.mark.parametrize("options", ["heartbeat=x", "heartbeat=-1", "heartbeat=99999", "cafiel=/ca.pem", "tls=off"])
def test_an_option_that_makes_no_sense_is_a_usage_error(options: str) -> None:
    assert isinstance(failure(f"amqp://127.0.0.1:1/?{options}"), UsageError)


def test_a_tls_file_that_is_not_there_is_a_usage_error() -> None:
    error = failure("amqps://127.0.0.1:1/?cafile=/nowhere/ca.pem")
    assert isinstance(error, UsageError)


def test_over_tls_the_certificate_must_be_trusted(rabbitmq: RabbitMQ, vhost: str) -> None:
    if rabbitmq.ca_file is None:
        pytest.skip("openssl is not installed")
    login = f"{rabbitmq.user}:{rabbitmq.password}"
    url = f"amqps://{login}@localhost:{rabbitmq.tls_port}/{vhost}"
    error = failure(url)
    assert not error.retryable
    assert "not trusted" in str(error)
    assert "cafile" in (error.remedy or "")
    assert "not trusted" in str(failure(url.replace("localhost", "127.0.0.1") + f"?cafile={rabbitmq.ca_file}"))
    trusting = messaging.connect(f"{url}?cafile={rabbitmq.ca_file}")
    trusting.setup()
    trusting.close()


def test_tls_on_a_port_without_it_is_said(rabbitmq: RabbitMQ) -> None:
    assert "TLS" in str(failure(f"amqps://127.0.0.1:{rabbitmq.port}/"))


# --- losing it -------------------------------------------------------------------------------------


def test_a_deleted_queue_ends_the_consumer(transport: Transport, rabbitmq: RabbitMQ, vhost: str) -> None:
    consumer = transport.consume_commands("web01", ())
    rabbitmq.delete_queue(vhost, topology.node_queue("web01"))
    with pytest.raises(TransportUnavailable, match=r"vogeler\.node\.web01"):
        consumer.receive(LIMIT_S)
    again = transport.consume_commands("web01", ())
    transport.publish_command(message("again"), ["node.web01"], 60.0)
    assert next_body(again) == "again"


def test_the_operator_sees_the_connection_by_its_name_and_can_close_it(
    transport: Transport, rabbitmq: RabbitMQ, vhost: str
) -> None:
    consumer = transport.consume_results(1)
    eventually(lambda: bool(rabbitmq.connections(vhost)))
    (connection,) = rabbitmq.connections(vhost)
    assert connection["client_properties"]["connection_name"] == "vogeler-test@here"
    rabbitmq.close_connection(connection["name"])
    with pytest.raises(TransportUnavailable, match="connection lost"):
        consumer.receive(LIMIT_S)
    consumer.wake()
    with pytest.raises(TransportUnavailable):
        consumer.receive(0.0)
    with pytest.raises(TransportUnavailable):
        transport.publish_result(message("x"), "web01")


def test_close_does_not_wait_for_a_broker_that_hangs(
    transport: Transport, rabbitmq: RabbitMQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vogeler.messaging.amqp.CLOSE_LIMIT_S", 0.5)
    consumer = transport.consume_results(1)
    rabbitmq.pause()
    try:
        started_at = time.monotonic()
        transport.close()
        assert time.monotonic() - started_at < 3
    finally:
        rabbitmq.resume()
    with pytest.raises(TransportUnavailable):
        consumer.receive(0.0)


def test_a_confirm_that_will_never_come_is_given_up_and_the_broker_said_to_be_slow(
    transport: Transport, unconfirmed: Transport, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As a quorum queue may do after it had no majority, while the broker answers everything else."""
    monkeypatch.setattr("vogeler.messaging._amqp_answers._TELL_AFTER_S", 0.2)
    monkeypatch.setattr("vogeler.messaging._amqp_answers._ANSWER_LIMIT_S", 0.5)
    monkeypatch.setattr("vogeler.messaging._amqp_answers._ONCE_MORE_AFTER_S", 0.1)
    with pytest.raises(TransportUnavailable, match=r"no answer within (0\.[5-9]|1\.\d) s"):
        unconfirmed.publish_result(message("x"), "web01")
    assert [record.event for record in caplog.records if hasattr(record, "event")] == ["waiting"]
    assert next_body(transport.consume_results(1)) == "x"


@contextmanager
def resumed_after(rabbitmq: RabbitMQ, pause_s: float) -> Iterator[None]:
    """A broker that does nothing for so long."""
    resume = threading.Timer(pause_s, rabbitmq.resume)
    rabbitmq.pause()
    resume.start()
    try:
        yield
    finally:
        resume.join()


def test_a_broker_that_is_only_busy_is_not_left(
    amqp_url: str, rabbitmq: RabbitMQ, vhost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who left it to connect anew would keep it so. It answers no question at once either, nor any soon after."""
    monkeypatch.setattr("vogeler.messaging._amqp_answers._ANSWER_LIMIT_S", 0.2)
    with closing(messaging.connect(amqp_url)) as transport:
        transport.setup()
        consumer = transport.consume_results(10)
        for number in range(3):
            with resumed_after(rabbitmq, 1.0):
                transport.publish_result(message(str(number)), "web01")
            assert next_body(consumer) == str(number)
        eventually(lambda: len(rabbitmq.channels(vhost)) == 3)  # to consume, of notices, to publish: none was left open


def test_a_connection_can_be_closed_while_a_busy_broker_is_asked(
    amqp_url: str, rabbitmq: RabbitMQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer comes while its channels are closed one after the other."""
    monkeypatch.setattr("vogeler.messaging._amqp_answers._ANSWER_LIMIT_S", 0.1)
    transport = messaging.connect(amqp_url)
    transport.setup()
    transport.consume_results(10)
    for _ in range(5):
        with resumed_after(rabbitmq, 0.3):
            transport.publish_result(message("x"), "web01")
    transport.close()


def test_a_broker_that_is_busy_for_ever_is_given_up(
    transport: Transport, rabbitmq: RabbitMQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vogeler.messaging._amqp_answers._ANSWER_LIMIT_S", 0.2)
    monkeypatch.setattr("vogeler.messaging._amqp_answers._MOST_PATIENCE_S", 0.6)
    rabbitmq.pause()
    try:
        with pytest.raises(TransportUnavailable, match=r"no answer within (0\.[89]|1\.\d) s"):
            transport.publish_result(message("x"), "web01")
    finally:
        rabbitmq.resume()


def test_a_command_for_a_large_fleet_may_take_as_long_to_be_confirmed_as_it_is_valid(
    transport: Transport, unconfirmed: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A queue for each node writes it to the disk first. And no longer: nobody would run it."""
    monkeypatch.setattr("vogeler.messaging._amqp_answers._ANSWER_LIMIT_S", 0.2)
    monkeypatch.setattr("vogeler.messaging._amqp_answers._ONCE_MORE_AFTER_S", 0.1)
    transport.consume_commands("web01", ())
    with pytest.raises(TransportUnavailable, match=r"no answer within 1\.\d s"):
        unconfirmed.publish_command(message("x"), ["all"], 1.0)


def test_working_through_a_backlog_serves_the_heartbeats(amqp_url: str) -> None:
    """RabbitMQ hangs up on who is silent for two or three times the heartbeat."""
    transport = messaging.connect(amqp_url + "?heartbeat=1")
    transport.setup()
    for number in range(7):
        transport.publish_result(message(str(number)), "web01")
    consumer = transport.consume_results(7)
    for _ in range(7):  # all are prefetched: no delivery makes us read from the connection
        next_body(consumer)
        time.sleep(0.6)
    transport.publish_result(message("still here"), "web01")
    transport.close()
