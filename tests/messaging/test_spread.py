"""Results spread by node over several queues of RabbitMQ, each taken by one server at a time."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.messaging.conftest import LIMIT_S, NOTHING_S, Connect, ConsumerProcess, eventually, message
from tests.servers.rabbitmq import RabbitMQ
from vogeler import messaging, topology
from vogeler.errors import TransportError, UsageError
from vogeler.messages import Envelope
from vogeler.messaging import Consumer, Delivery, Transport

NODES = [f"web{number:02d}" for number in range(24)]
QUEUES = [topology.numbered_queue(number) for number in (1, 2, 3)]
PLUGIN = "rabbitmq_consistent_hash_exchange"


@pytest.fixture
def qhost(amqp_url: str) -> str:
    """RabbitMQ alone has queues to spread over."""
    return amqp_url


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers look every 0.1 s whether they have more than their share."""
    monkeypatch.setattr("vogeler.messaging._amqp_results._LOOK_EVERY_S", 0.1)


def publish(transport: Transport, times: int = 1) -> list[str]:
    """Results of every node; their bodies."""
    bodies = [(node, f"{node}:{number}") for number in range(times) for node in NODES]
    for node, body in bodies:
        transport.publish_result(message(body), node)
    return [body for _, body in bodies]


def took(consumer: Consumer, count: int, wait_s: float = LIMIT_S) -> list[Delivery]:
    """The next deliveries, acked; fewer when nothing comes for so long."""
    found: list[Delivery] = []
    while len(found) < count and (delivery := consumer.receive(wait_s)) is not None:
        consumer.ack([delivery])
        found.append(delivery)
    return found


def bodies(deliveries: list[Delivery]) -> list[str]:
    return [delivery.envelope.body.decode() for delivery in deliveries]


def queue_of(delivery: Delivery) -> str:
    return str(delivery.tag[0].queue)


class Server(threading.Thread):
    """Takes and acks results, over a connection of its own, until stopped."""

    def __init__(self, transport: Transport) -> None:
        super().__init__(daemon=True)
        self._transport = transport
        self._stopping = threading.Event()
        self.taken: list[tuple[str, str]] = []  # queue, body
        self.consumer = transport.consume_results(50)
        self.start()

    def run(self) -> None:
        while not self._stopping.is_set():
            delivery = self.consumer.receive(0.05)
            if delivery is not None:
                self.taken.append((queue_of(delivery), delivery.envelope.body.decode()))
                self.consumer.ack([delivery])

    def stop(self) -> None:
        self._stopping.set()
        self.join(LIMIT_S)
        self._transport.close()

    @property
    def queues(self) -> set[str]:
        return {queue for queue, _ in self.taken}


@pytest.fixture
def serve(connect: Connect) -> Iterator[Callable[[], Server]]:
    servers: list[Server] = []

    def starter() -> Server:
        servers.append(Server(connect()))
        return servers[-1]

    yield starter
    for server in servers:
        server.stop()


def test_the_results_of_a_node_go_to_one_queue_and_every_queue_has_some(transport: Transport) -> None:
    assert transport.spread_results(3) == [
        f"created exchange {topology.BY_NODE_EXCHANGE}", *(f"created queue {queue}" for queue in QUEUES)
    ]  # fmt: skip
    sent = publish(transport, 3)
    deliveries = took(transport.consume_results(10), len(sent))
    assert sorted(bodies(deliveries)) == sorted(sent)
    of_node = defaultdict(set)
    for delivery in deliveries:
        of_node[delivery.envelope.body.partition(b":")[0]].add(queue_of(delivery))
    assert {len(queues) for queues in of_node.values()} == {1}
    assert {queue for queues in of_node.values() for queue in queues} == set(QUEUES)


def test_the_queues_are_quorum_queues_of_one_consumer_and_keep_what_is_rejected(
    transport: Transport, rabbitmq: RabbitMQ, vhost: str
) -> None:
    transport.spread_results(2)
    assert rabbitmq.queues(vhost)[QUEUES[1]]["arguments"] == {
        "x-queue-type": "quorum", "x-dead-letter-exchange": topology.DEAD_EXCHANGE, "x-single-active-consumer": True,
    }  # fmt: skip


def test_to_do_it_again_and_to_set_up_again_changes_nothing(transport: Transport) -> None:
    transport.spread_results(3)
    assert transport.spread_results(3) == []
    assert transport.setup() == []
    sent = publish(transport)
    with closing(transport.consume_results(100)) as consumer:
        assert sorted(bodies(took(consumer, len(sent) + 1, NOTHING_S))) == sorted(sent)


def test_back_to_one_queue_nothing_else_is_left(
    transport: Transport, connect: Connect, rabbitmq: RabbitMQ, vhost: str
) -> None:
    transport.spread_results(3)
    sent = publish(transport)
    lines = transport.spread_results(1)  # nobody takes what waits: it stays
    assert [line.split()[:2] for line in lines] == [["kept", QUEUES[2]]]
    with closing(connect()) as server:
        assert sorted(bodies(took(server.consume_results(10), len(sent)))) == sorted(sent)
    assert transport.spread_results(1) == [f"deleted queue {queue}" for queue in reversed(QUEUES)]
    assert rabbitmq.queues(vhost).keys() == {topology.RESULTS_QUEUE, topology.DEAD_QUEUE}
    publish(transport)
    eventually(lambda: transport.depths()[topology.RESULTS_QUEUE].messages == len(sent))


def test_queues_that_the_servers_have_left_are_taken_again(transport: Transport, serve: Callable[[], Server]) -> None:
    """The number was to be 1, and whoever did it was killed before the queues were deleted."""
    transport.spread_results(2)
    server = serve()
    for told in (b"not ours", b"0"):
        transport.publish_command(Envelope(told), [topology.SERVERS_KEY], 60.0)
    eventually(lambda: transport.depths()[QUEUES[0]].consumers == transport.depths()[QUEUES[1]].consumers == 0)
    assert transport.spread_results(2) == []
    sent = publish(transport)
    eventually(lambda: sorted(body for _, body in server.taken) == sorted(sent))


def test_a_server_that_comes_later_gets_its_share(
    transport: Transport, serve: Callable[[], Server], often: None
) -> None:
    transport.spread_results(2)
    first = serve()
    sent = publish(transport)
    eventually(lambda: len(first.taken) == len(sent))
    second = serve()

    def shared() -> bool:
        for server in (first, second):
            server.taken.clear()
        sent = publish(transport)
        eventually(lambda: len(first.taken) + len(second.taken) >= len(sent))
        return len(first.queues) == len(second.queues) == 1

    eventually(shared)
    assert first.queues | second.queues == set(QUEUES[:2])


def test_what_a_killed_server_had_comes_to_the_one_that_stands_by(transport: Transport, amqp_url: str) -> None:
    transport.spread_results(2)
    active = ConsumerProcess(amqp_url, "results", "10")
    standing_by = transport.consume_results(10)
    sent = publish(transport, 3)
    held = {active.line() for _ in range(20)}  # ten of each queue
    assert held < set(sent)
    assert standing_by.receive(NOTHING_S) is None
    active.kill()
    assert sorted(bodies(took(standing_by, len(sent)))) == sorted(sent)
    assert standing_by.receive(NOTHING_S) is None


def test_a_server_that_can_store_nothing_gives_its_queues_to_another(
    transport: Transport, serve: Callable[[], Server], often: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its way to the store may be cut, and that of the others not."""
    monkeypatch.setattr("vogeler.messaging._amqp_results._STUCK_AFTER_S", 0.3)
    transport.spread_results(2)
    stuck = transport.consume_results(50)
    sent = publish(transport)
    held = [stuck.receive(LIMIT_S) for _ in range(5)]
    other = serve()

    def all_taken() -> bool:
        stuck.receive(0.05)
        return sorted(body for _, body in other.taken) == sorted(sent)

    eventually(all_taken)
    stuck.ack([delivery for delivery in held if delivery is not None])  # passed over
    stuck.receive(NOTHING_S)


def test_from_one_to_three_and_back_to_one_under_load_nothing_is_lost(
    transport: Transport, serve: Callable[[], Server], amqp_url: str, rabbitmq: RabbitMQ, vhost: str
) -> None:
    servers = [serve(), serve()]
    publishers = [ConsumerProcess(amqp_url, "publish", node) for node in NODES[:4]]
    try:
        for queues in (2, 3, 2, 1):
            lines = transport.spread_results(queues)
            assert not [line for line in lines if line.startswith(("kept", "no server"))]
            numbered = {name for name in rabbitmq.queues(vhost) if name.startswith(topology.RESULTS_QUEUE + ".")}
            assert len(numbered) == (queues if queues > 1 else 0)
            time.sleep(0.3)  # some load in between
    finally:
        for publisher in publishers:
            publisher.kill()
    confirmed = {line for publisher in publishers for line in publisher.rest()}
    assert len(confirmed) > len(publishers)

    def taken() -> set[str]:
        return {body for server in servers for _, body in server.taken}

    eventually(lambda: taken() >= confirmed)
    used = {queue for server in servers for queue in server.queues}
    assert topology.RESULTS_QUEUE in used
    assert len(used) > 2
    assert transport.depths().keys() == {topology.RESULTS_QUEUE, topology.DEAD_QUEUE}
    assert transport.depths()[topology.DEAD_QUEUE].messages == 0


def test_a_server_needs_no_right_but_those_in_the_documentation(
    transport: Transport, rabbitmq: RabbitMQ, vhost: str
) -> None:
    rabbitmq.create_user("server", "server")
    try:
        rabbitmq.set_permissions(
            vhost, "server",
            r"^vogeler\.((broadcast|results|receipts|dead)$|server\.)",
            r"^vogeler\.((results|receipts|dead)$|server\.)",
            r"^vogeler\.(broadcast$|results|dead$|server\.)",
        )  # fmt: skip
        with closing(messaging.connect(f"amqp://server:server@{rabbitmq.host}:{rabbitmq.port}/{vhost}")) as server:
            assert server.setup() == []
            transport.spread_results(2)
            sent = publish(transport)
            consumer = server.consume_results(100)
            deliveries = [consumer.receive(LIMIT_S) for _ in sent]
            assert deliveries[0] is not None
            consumer.dead_letter(deliveries[0], "a test")
            consumer.ack([each for each in deliveries if each is not None])
            server.publish_receipts([("run", message("receipt"))])
            assert transport.depths()[topology.DEAD_QUEUE].messages == 1
    finally:
        rabbitmq.delete_user("server")


def test_without_the_plugin_it_says_what_to_do_and_loses_nothing(
    transport: Transport, connect: Connect, rabbitmq: RabbitMQ
) -> None:
    """Also where it is taken away later: a client keeps its result, and sends it when the plugin is there again."""
    transport.spread_results(2)
    sent = publish(transport)
    try:
        rabbitmq.enable_plugin(PLUGIN, False)
        for action in (lambda: connect().spread_results(3), lambda: publish(connect())):
            with pytest.raises(TransportError, match="exchange type") as caught:
                action()
            assert f"rabbitmq-plugins enable {PLUGIN}" in (caught.value.remedy or "")
    finally:
        rabbitmq.enable_plugin(PLUGIN)
    assert connect().depths().keys() == {topology.RESULTS_QUEUE, topology.DEAD_QUEUE, *QUEUES[:2]}
    sent += publish(connect())
    assert sorted(bodies(took(connect().consume_results(10), len(sent)))) == sorted(sent)


def test_the_local_engine_has_one_queue(tmp_path: Path) -> None:
    with closing(messaging.connect(f"local://{tmp_path}/bus.db")) as local:
        assert local.spread_results(1) == []
        with pytest.raises(UsageError, match="one queue"):
            local.spread_results(2)
