"""RabbitMQ, through pika: ``amqp://user:password@host:5672/vhost``, ``amqps://`` for TLS.

Several URLs are the members of one cluster. pika reconnects nothing by itself, and neither does this: after
TransportUnavailable, open a new transport.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from typing import Any

from vogeler import topology
from vogeler.errors import NodeNameTaken, TransportError, TransportUnavailable, UsageError
from vogeler.messages import Envelope, new_id
from vogeler.messaging import COMMANDS_PREFETCH, DEAD_PREFETCH, NODE_QUEUE_EXPIRES_S, SETUP_REMEDY, QueueDepth
from vogeler.messaging._amqp_answers import CLOSE_LIMIT_S, Answers, limited
from vogeler.messaging._amqp_consumer import AmqpConsumer, properties_of
from vogeler.messaging._amqp_errors import is_away, is_forbidden, translated
from vogeler.messaging._amqp_pika import pika, pika_errors
from vogeler.messaging._amqp_results import ResultsConsumer
from vogeler.messaging._amqp_spare import SpareConsumer
from vogeler.messaging._amqp_spread import Spread, numbered
from vogeler.messaging._amqp_url import login, open_any
from vogeler.urls import Url

log = logging.getLogger(__name__)

_EXCHANGES = {
    topology.BROADCAST_EXCHANGE: "topic",
    topology.RESULTS_EXCHANGE: "topic",
    topology.RECEIPTS_EXCHANGE: "direct",
    topology.DEAD_EXCHANGE: "fanout",
}
# Quorum queues survive the loss of a cluster node. There is no delivery limit, because a result that was returned
# many times says nothing about the result: servers come and go. (RabbitMQ 4 sets a limit of 20 by itself; what
# passes it goes to the dead letters, and a policy can raise it.)
_QUEUES: dict[str, dict[str, Any]] = {
    topology.RESULTS_QUEUE: {"x-queue-type": "quorum", "x-dead-letter-exchange": topology.DEAD_EXCHANGE},
    topology.DEAD_QUEUE: {"x-queue-type": "quorum"},
}
_RESULTS_BINDING = (topology.RESULTS_QUEUE, topology.RESULTS_EXCHANGE, topology.RESULTS_BINDING)
_BINDINGS = (
    (topology.DEAD_QUEUE, topology.RESULTS_EXCHANGE, topology.DEAD_BINDING),
    (topology.DEAD_QUEUE, topology.DEAD_EXCHANGE, ""),
)
# A classic queue lives on one cluster node and costs next to nothing: what it loses is repeated by the next run.
_NODE_QUEUE = {"x-queue-type": "classic", "x-expires": int(NODE_QUEUE_EXPIRES_S * 1000)}
_SPARE_QUEUE = {"x-queue-type": "classic", "x-expires": 3_600_000}
_NOTICE_TTL_S = 60.0
_PROBE_LIMIT_S, _PROBE_QUIET_S = 5.0, 0.5
_NAME_BYTES = 255  # of a queue or a routing key: AMQP 0-9-1, "short string"
# All headers of a message must fit into one frame, 128 KiB by default.
_CC_BYTES = 64 * 1024


def connect(cluster: tuple[Url, ...], timeout_s: float, name: str) -> AmqpTransport:
    """Open a connection to one member of the cluster, at most ``timeout_s`` for each tried."""
    connection, url = open_any(cluster, timeout_s, name)
    return AmqpTransport(connection, url, clustered=len(cluster) > 1)


class AmqpTransport:
    """The Transport contract over one pika BlockingConnection."""

    def __init__(self, connection: pika.BlockingConnection, url: Url, clustered: bool) -> None:
        self._connection = connection
        self._clustered = clustered
        self._where = str(url)
        self._answers = Answers(connection, self._where)
        self._user, _ = login(url)
        self._confirmed: Any = None
        self._unconfirmed: Any = None

    # --- what is there -------------------------------------------------------------------------

    def setup(self) -> list[str]:
        """Declare what is missing. What is there with other properties is a TransportError.

        Where results are spread over numbered queues the bindings stay as they are. A login that may declare nothing
        finds nothing to do where everything is there.
        """
        missing = [f"exchange {name}" for name in _EXCHANGES if self._passive("exchange_declare", name) is None]
        missing += [f"queue {name}" for name in _QUEUES if self._passive("queue_declare", name) is None]
        try:
            for exchange, kind in _EXCHANGES.items():
                self._once("exchange_declare", exchange, kind, durable=True)
        except TransportError as error:
            if missing or not is_forbidden(error.__cause__):
                raise
            return []
        for queue, arguments in _QUEUES.items():
            self._once("queue_declare", queue, durable=True, arguments=arguments)
        for binding in _BINDINGS:
            self._once("queue_bind", *binding)
        if self._passive("queue_declare", topology.numbered_queue(1)) is None:
            self._once("queue_bind", *_RESULTS_BINDING)
        return [f"created {name}" for name in missing]

    def spread_results(self, queues: int) -> list[str]:
        """With RabbitMQ's plugin for exchanges of the type x-consistent-hash."""
        arguments = {**_QUEUES[topology.RESULTS_QUEUE], "x-single-active-consumer": True}
        calls = self._once, self._passive, self._tell_servers, self._is_empty
        return Spread(*calls, _RESULTS_BINDING, arguments).over(queues)

    def _tell_servers(self, numbered: int) -> bool:
        """How many numbered queues there are. False: no server is connected."""
        return self.publish_command(Envelope(str(numbered).encode()), [topology.SERVERS_KEY], _NOTICE_TTL_S)

    def _is_empty(self, queue: str) -> bool:
        """Whether what we put into it comes out here, and nothing else: nobody else is active on it. Nothing that is
        published leads to it any more."""
        consumer = self._consumer(queue)
        probe = Envelope(b"", message_id=new_id(), type=topology.PROBE_KEY)
        with closing(consumer):
            with translated(self._where):
                consumer.start(prefetch=2)
            binding = queue, topology.RESULTS_EXCHANGE, f"{topology.PROBE_KEY}.{probe.message_id}"
            self._once("queue_bind", *binding)
            self._publish_safely(topology.RESULTS_EXCHANGE, binding[2], probe, {})
            self._once("queue_unbind", *binding)
            first = consumer.receive(_PROBE_LIMIT_S)
            if first is None or first.envelope.message_id != probe.message_id:
                return False
            consumer.ack([first])
            return consumer.receive(_PROBE_QUIET_S) is None

    def depths(self) -> Mapping[str, QueueDepth]:
        """What waits in the queues of results and dead letters; what is handed out and unacked is not counted."""
        answers = {queue: self._passive("queue_declare", queue) for queue in _QUEUES}
        answers.update(numbered(self._passive))
        return {
            queue: QueueDepth(answer.method.message_count, answer.method.consumer_count)
            for queue, answer in answers.items()
            if answer is not None
        }

    def _once(self, method: str, *args: Any, **options: Any) -> Any:
        """A call on a channel of its own: the broker closes the channel of whoever asks for what it refuses."""
        with translated(self._where), self._answers.awaited():
            channel = self._connection.channel()
            answer = getattr(channel, method)(*args, **options)
            channel.close()
            return answer

    def _passive(self, method: str, name: str) -> Any:
        """The answer to a passive declaration, or None where there is nothing of that name."""
        try:
            return self._once(method, name, passive=True)
        except TransportError as error:
            if isinstance(error.__cause__, pika_errors.ChannelClosed) and error.__cause__.reply_code == 404:
                return None
            raise

    # --- consuming -----------------------------------------------------------------------------

    def consume_commands(self, node: str, groups: tuple[str, ...]) -> AmqpConsumer:
        """Make the node's queue, take it for this connection alone, and bind it.

        A group that the node has left stays bound until the queue expires, because AMQP can't list
        bindings: the client passes over commands that are not for it. A client that died without a word keeps
        its queue until the broker has missed two or three of its heartbeats.
        """
        queue = topology.node_queue(node)
        if len(queue.encode()) > _NAME_BYTES:
            raise UsageError(
                f"the node name {node!r} is too long for RabbitMQ: its queue would be {len(queue)} characters",
                f"names of nodes end at {_NAME_BYTES - len(topology.node_queue(''))} characters",
            )
        if self._has_left_spare(node):
            return self._spare(queue, node, groups)
        consumer = self._consumer(queue, _dead_route(node))
        try:
            self._take_commands(consumer, node, groups, _NODE_QUEUE)
        except TransportUnavailable as error:
            if not is_away(error.__cause__):
                raise
            log.warning("%s; %s stands in", error, topology.spare_queue(node), extra={"event": "spare"})
            try:
                return self._spare(queue, node, groups)
            except NodeNameTaken:
                raise
            except TransportError:  # not for this login, or away as well
                raise error from None
        return consumer

    def _has_left_spare(self, node: str) -> bool:
        """Whether there is a spare queue from before, whose commands come first."""
        with suppress(TransportError):
            return self._clustered and self._passive("queue_declare", topology.spare_queue(node)) is not None
        return False

    def _spare(self, away: str, node: str, groups: tuple[str, ...]) -> AmqpConsumer:
        """Commands by way of another queue."""
        spare = SpareConsumer(
            self._connection, self._where, topology.spare_queue(node), self._publish_safely, _dead_route(node)
        )
        self._take_commands(spare, node, groups, _SPARE_QUEUE)
        spare.stand_in(away, topology.client_bindings(node, groups), self._once)
        return spare

    def _take_commands(
        self, consumer: AmqpConsumer, node: str, groups: tuple[str, ...], arguments: dict[str, Any]
    ) -> None:
        with translated(self._where):
            consumer.channel.queue_declare(consumer.queue, durable=True, arguments=arguments)
            try:
                consumer.start(COMMANDS_PREFETCH, exclusive=True)
            except pika_errors.ChannelClosed as error:
                if "exclusive use" in error.reply_text:
                    raise _taken(node, self._where) from error
                raise
            for key in topology.client_bindings(node, groups):
                consumer.channel.queue_bind(consumer.queue, topology.BROADCAST_EXCHANGE, key)

    def consume_results(self, prefetch: int) -> AmqpConsumer:
        """Results and heartbeats, shared with every other server."""
        consumer = ResultsConsumer(self._connection, self._where, topology.RESULTS_QUEUE, self._publish_safely)
        with translated(self._where), self._answers.awaited():
            consumer.begin(prefetch, self._once, self._passive)
        return consumer

    def consume_receipts(self, run: str) -> AmqpConsumer:
        """A queue of this connection, gone with the consumer."""
        consumer = self._consumer(topology.receipts_queue(run))
        with translated(self._where):
            queue = topology.receipts_queue(run)
            consumer.channel.queue_declare(queue, exclusive=True, auto_delete=True)
            consumer.channel.queue_bind(queue, topology.RECEIPTS_EXCHANGE, run)
            consumer.start(prefetch=0, auto_ack=True)
        return consumer

    def consume_dead(self) -> AmqpConsumer:
        """The dead letters: all of them are held by whoever looks, until it closes."""
        return self._started(self._consumer(topology.DEAD_QUEUE), DEAD_PREFETCH)

    def _consumer(self, queue: str, *dead_route: tuple[str, str]) -> AmqpConsumer:
        return AmqpConsumer(self._connection, self._where, queue, self._publish_safely, *dead_route)

    def _started(self, consumer: AmqpConsumer, prefetch: int) -> AmqpConsumer:
        with translated(self._where), self._answers.awaited():
            consumer.start(prefetch)
        return consumer

    # --- publishing ----------------------------------------------------------------------------

    def publish_command(self, envelope: Envelope, keys: Sequence[str], ttl_s: float) -> bool:
        """One message under the first key with the others in its CC header: a queue takes it once.

        (RabbitMQ, "Sender-selected Distribution".) More keys than fit into a header take several messages of one
        id; a queue bound to keys of two of them gets it twice.
        """
        expiration = str(max(int(ttl_s * 1000), 0))
        routed = [self._routed(envelope, portion, expiration, ttl_s) for portion in _header_sized(keys)]
        return any(routed)

    def _routed(self, envelope: Envelope, keys: Sequence[str], expiration: str, ttl_s: float) -> bool:
        """Before it is confirmed thousands of queues write it to the disk, which may take as long as it is valid."""
        properties = self._properties(envelope, expiration=expiration, headers={"CC": list(keys[1:])})
        try:
            with translated(self._where), self._answers.awaited(valid_s=ttl_s):
                self._confirming().basic_publish(
                    topology.BROADCAST_EXCHANGE, keys[0], envelope.body, properties, mandatory=True
                )
        except TransportError as error:
            if isinstance(error.__cause__, pika_errors.UnroutableError):
                return False
            raise
        return True

    def publish_result(self, envelope: Envelope, node: str) -> None:
        """Returns when the broker has it on disk, on a majority of a cluster."""
        self._publish_safely(topology.RESULTS_EXCHANGE, topology.result_key(node), envelope, {})

    def publish_receipts(self, receipts: Sequence[tuple[str, Envelope]]) -> None:
        """Transient and unconfirmed: for whoever is watching."""
        transient = pika.DeliveryMode.Transient.value
        with translated(self._where):
            for run, envelope in receipts:
                properties = self._properties(envelope, delivery_mode=transient)
                self._unconfirming().basic_publish(topology.RECEIPTS_EXCHANGE, run, envelope.body, properties)

    def _publish_safely(self, exchange: str, key: str, envelope: Envelope, headers: dict[str, str]) -> None:
        properties = self._properties(envelope, headers=headers or None)
        try:
            with translated(self._where), self._answers.awaited(len(envelope.body)):
                self._confirming().basic_publish(exchange, key, envelope.body, properties, mandatory=True)
        except TransportError as error:
            if isinstance(error.__cause__, pika_errors.UnroutableError):
                raise TransportError(
                    f"no queue at {self._where} takes {key!r} from the exchange {exchange}", SETUP_REMEDY
                ) from error
            raise

    def _properties(self, envelope: Envelope, **more: Any) -> pika.BasicProperties:
        """With our login, which the broker compares with that of the connection (its "Validated User-ID")."""
        return properties_of(envelope, user_id=self._user, **more)

    def _confirming(self) -> Any:
        if self._confirmed is None or not self._confirmed.is_open:
            self._confirmed = self._connection.channel()
            self._confirmed.confirm_delivery()
        return self._confirmed

    def _unconfirming(self) -> Any:
        """The channel for receipts. Without confirms a missing exchange would go unnoticed: it is asked for first."""
        if self._unconfirmed is None or not self._unconfirmed.is_open:
            self._unconfirmed = self._connection.channel()
            self._unconfirmed.exchange_declare(topology.RECEIPTS_EXCHANGE, passive=True)
        return self._unconfirmed

    def close(self) -> None:
        """Close the connection, within five seconds also when the broker does not answer."""
        with suppress(TransportError), translated(self._where), limited(self._connection, CLOSE_LIMIT_S):
            if self._connection.is_open:
                self._answers.end()
                self._connection.close()


def _dead_route(node: str) -> tuple[str, str]:
    """What a node can't make sense of goes through the results' exchange, the only one that it may publish to."""
    return topology.RESULTS_EXCHANGE, topology.dead_key(node)


def _taken(node: str, where: str) -> NodeNameTaken:
    return NodeNameTaken(
        f"another client runs as node {node!r} at {where}",
        "stop the other one, or choose another name with --node; one that has just died is noticed within 90 s",
    )


def _header_sized(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    """The keys in portions that fit into the headers of one message."""
    portion: list[str] = []
    size_bytes = 0
    for key in keys:
        size_bytes += len(key.encode()) + 5  # the type and the length before each
        if portion and size_bytes > _CC_BYTES:
            yield portion
            portion, size_bytes = [], len(key.encode()) + 5
        portion.append(key)
    if portion:
        yield portion
