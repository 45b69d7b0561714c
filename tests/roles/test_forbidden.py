"""Everything that a login must not do is tried with it, and RabbitMQ refuses.

What each needs is tried by a fleet of real processes, in test_fleet.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pika
import pytest
from pika import exceptions as pika_errors

from tests.messaging.conftest import message
from tests.roles.conftest import Logins
from tests.servers.processes import wait_until
from tests.servers.rabbitmq import RabbitMQ
from vogeler import messaging, topology
from vogeler.errors import TransportError

Act = Callable[[Any], object]
Connection = Callable[[str], Any]
NODE, OTHER, SERVER, RUNNER, ADMIN, SHARED = (
    "vogeler.node.web01.example",
    "vogeler.node.web02",
    "vogeler.server",
    "vogeler.runner",
    "vogeler.admin",
    "vogeler-node",
)
OWN_QUEUE, OWN_SPARE = "vogeler.node.web01.example", "vogeler.spare.web01.example"
EXCHANGES = ("vogeler.broadcast", "vogeler.results", "vogeler.receipts", "vogeler.dead")
QUEUES = (
    "vogeler.results",
    "vogeler.dead",
    "vogeler.results.1",
    "vogeler.node.web02",
    "vogeler.spare.web02",
    "vogeler.run.somebodys",
)


@pytest.fixture(scope="module")
def fleet(rabbitmq: RabbitMQ, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Logins]:
    """Of two nodes, whose queues are there; web01.example is in one group."""
    made = Logins(rabbitmq, tmp_path_factory.mktemp("logins"))
    try:
        made.make("--node", "web01.example:front", "--node", "web02", "--shared", "--runner", "alice")
        with pika.BlockingConnection(pika.URLParameters(rabbitmq.url(made.vhost))) as connection:
            channel = connection.channel()
            for queue in (OWN_QUEUE, *QUEUES[3:]):
                channel.queue_declare(queue, durable=True)
        yield made
    finally:
        made.end()


@pytest.fixture(scope="module")
def connection(fleet: Logins) -> Iterator[Connection]:
    """The connection of a login, opened when it is first asked for."""
    opened: dict[str, Any] = {}

    def of(user: str) -> Any:
        if user not in opened:
            opened[user] = fleet.connect(user)
        return opened[user]

    yield of
    for one in opened.values():
        one.close()


def publish(exchange: str, key: str, **properties: Any) -> Act:
    def act(channel: Any) -> None:
        channel.confirm_delivery()
        channel.basic_publish(exchange, key, b"{}", pika.BasicProperties(**properties))

    return act


def consume(queue: str) -> Act:
    return lambda channel: channel.basic_consume(queue, print)


def fetch(queue: str) -> Act:
    return lambda channel: channel.basic_get(queue)


def purge(queue: str) -> Act:
    return lambda channel: channel.queue_purge(queue)


def declare(queue: str, **arguments: Any) -> Act:
    return lambda channel: channel.queue_declare(queue, durable=True, arguments=arguments or None)


def delete(queue: str) -> Act:
    return lambda channel: channel.queue_delete(queue)


def bind(queue: str, exchange: str, key: str) -> Act:
    return lambda channel: channel.queue_bind(queue, exchange, key)


def unbind(queue: str, exchange: str, key: str) -> Act:
    return lambda channel: channel.queue_unbind(queue, exchange, key)


def join(destination: str, source: str, key: str) -> Act:
    return lambda channel: channel.exchange_bind(destination, source, key)


def declare_exchange(exchange: str, **arguments: Any) -> Act:
    return lambda channel: channel.exchange_declare(exchange, "topic", durable=True, arguments=arguments or None)


def delete_exchange(exchange: str) -> Act:
    return lambda channel: channel.exchange_delete(exchange)


def by_the_default_exchange(*own: str) -> dict[str, Act]:
    """It has no name, takes no binding, and puts a message into any queue: the key is the queue's name."""
    return {f"put into {queue} by the default exchange": publish("", queue) for queue in (*QUEUES, *own)}


def into_other_exchanges() -> dict[str, Act]:
    there = ("amq.direct", "amq.fanout", "amq.topic", "amq.headers")
    return {f"publish to {exchange}": publish(exchange, "all") for exchange in there}


def exchanges_of_their_own() -> dict[str, Act]:
    named = {
        **{f"declare the exchange {exchange}": declare_exchange(exchange) for exchange in ("mine", "vogeler.mine")},
        **{f"declare {exchange} anew": declare_exchange(exchange) for exchange in EXCHANGES[:2]},
    }
    return {**named, **{f"delete the exchange {exchange}": delete_exchange(exchange) for exchange in EXCHANGES}}


def whole_queues(*names: str) -> dict[str, Act]:
    acts: dict[str, Callable[..., Act]] = {"consume": consume, "get from": fetch, "purge": purge, "delete": delete}
    return {f"{word} {name}": act(name) for name in names for word, act in acts.items()}


def named_queues(*names: str) -> dict[str, Act]:
    return {f"declare the queue {name or 'of no name'}": declare(name) for name in names}


def commands() -> dict[str, Act]:
    keys = ("all", "node.web01.example", "node.web02", "group.front", "probe", "servers")
    return {f"send a command to {key}": publish("vogeler.broadcast", key) for key in keys}


def results() -> dict[str, Act]:
    return {f"send a result as {key}": publish("vogeler.results", key) for key in ("result.web02", "dead.web02", "x")}


OF_A_NODE: dict[str, Act] = {
    **commands(),
    **results(),
    "send a result under a wildcard": publish("vogeler.results", "result.#"),
    "send a result as a name that its own begins": publish("vogeler.results", "result.web01.example.org"),
    "send a result as a name that looks like its own": publish("vogeler.results", "result.web01Xexample"),
    "publish to vogeler.dead": publish("vogeler.dead", ""),
    **by_the_default_exchange(OWN_QUEUE),
    **into_other_exchanges(),
    **exchanges_of_their_own(),
    **whole_queues(*QUEUES),
    **named_queues(
        "mine",
        "vogeler.node.web03",
        "vogeler.node.web01",
        "vogeler.node.web01Xexample",
        "vogeler.run.1",
        "vogeler.server.1",
        "",
    ),
    **{
        f"bind its queue to {exchange} by {key}": bind(OWN_QUEUE, exchange, key)
        for exchange, key in (
            ("vogeler.broadcast", "node.web02"),
            ("vogeler.broadcast", "node.*"),
            ("vogeler.broadcast", "#"),
            ("vogeler.broadcast", "*.web02"),
            ("vogeler.broadcast", "group.back"),
            ("vogeler.broadcast", "group.*"),
            ("vogeler.results", "result.#"),
            ("vogeler.results", "result.web01.example"),
            ("vogeler.receipts", "run"),
            ("vogeler.dead", ""),
            ("amq.topic", "#"),
        )
    },
    "bind another's queue": bind("vogeler.node.web02", "vogeler.broadcast", "all"),
    "take another's queue off": unbind("vogeler.node.web02", "vogeler.broadcast", "node.web02"),
    "bind the results' queue": bind("vogeler.results", "vogeler.broadcast", "node.web02"),
    "let dead commands of its queue into another queue": declare(OWN_SPARE, **{"x-dead-letter-exchange": ""}),
    "let dead commands of its queue into broadcasts": declare(
        OWN_SPARE, **{"x-dead-letter-exchange": "vogeler.broadcast"}
    ),
    "let broadcasts into the results": join("vogeler.results", "vogeler.broadcast", "result.web02"),
    "let all broadcasts into the results": join("vogeler.results", "vogeler.broadcast", "#"),
    "let results into the receipts": join("vogeler.receipts", "vogeler.results", "result.web02"),
    "let receipts into the broadcasts": join("vogeler.broadcast", "vogeler.receipts", "all"),
    "let receipts into the results": join("vogeler.results", "vogeler.receipts", "result.web02"),
}
OF_THE_SERVER: dict[str, Act] = {
    **commands(),
    **results(),
    **by_the_default_exchange(),
    **into_other_exchanges(),
    **exchanges_of_their_own(),
    **whole_queues("vogeler.dead", "vogeler.node.web02", "vogeler.run.somebodys"),
    **named_queues("mine", "vogeler.node.web03", "vogeler.run.1", "vogeler.results", ""),
    "delete the results' queue": delete("vogeler.results"),
    "bind a node's queue": bind("vogeler.node.web02", "vogeler.broadcast", "all"),
    "take the results' queue off": unbind("vogeler.results", "vogeler.results", "result.#"),
    "watch the broadcasts": bind("vogeler.server.mine", "vogeler.broadcast", "#"),
    "watch the commands to all": bind("vogeler.server.mine", "vogeler.broadcast", "all"),
    "bind its queue to the results": bind("vogeler.server.mine", "vogeler.results", "result.#"),
    "bind its queue to the receipts": bind("vogeler.server.mine", "vogeler.receipts", "run"),
    "let dead notices into any queue": declare("vogeler.server.mine", **{"x-dead-letter-exchange": ""}),
    "let dead notices into the broadcasts": declare(
        "vogeler.server.mine", **{"x-dead-letter-exchange": "vogeler.broadcast"}
    ),
    "let broadcasts into the receipts": join("vogeler.receipts", "vogeler.broadcast", "all"),
    "copy results to the dead letters": bind("vogeler.dead", "vogeler.results", "result.#"),
    "let results into the receipts": join("vogeler.receipts", "vogeler.results", "result.#"),
    "let results into the broadcasts": join("vogeler.broadcast", "vogeler.results", "#"),
}
OF_A_RUNNER: dict[str, Act] = {
    **results(),
    "tell the servers something": publish("vogeler.broadcast", "servers"),
    "listen to what servers are told": declare("vogeler.server.1"),
    "send a receipt": publish("vogeler.receipts", "run"),
    "publish to vogeler.dead": publish("vogeler.dead", ""),
    "send a command to a wildcard": publish("vogeler.broadcast", "node.*"),
    **by_the_default_exchange(),
    **into_other_exchanges(),
    **exchanges_of_their_own(),
    **whole_queues("vogeler.results", "vogeler.results.1", "vogeler.dead", "vogeler.node.web02", "vogeler.spare.web02"),
    **named_queues("mine", "vogeler.node.web03", "vogeler.results", ""),
    "bind the queue of its run to the results": bind("vogeler.run.somebodys", "vogeler.results", "result.#"),
    "bind the queue of its run to the broadcasts": bind("vogeler.run.somebodys", "vogeler.broadcast", "#"),
    "bind the results' queue": bind("vogeler.results", "vogeler.receipts", "run"),
    "let dead receipts into the results": declare("vogeler.run.1", **{"x-dead-letter-exchange": "vogeler.results"}),
    "let dead receipts into any queue": declare("vogeler.run.1", **{"x-dead-letter-exchange": ""}),
    "let results into the broadcasts": join("vogeler.broadcast", "vogeler.results", "#"),
}
OF_THE_ADMIN: dict[str, Act] = {
    **{word: act for word, act in commands().items() if not word.endswith(("probe", "servers"))},
    "send a receipt": publish("vogeler.receipts", "run"),
    **by_the_default_exchange(),
    **into_other_exchanges(),
    **whole_queues("vogeler.node.web02", "vogeler.spare.web02", "vogeler.run.somebodys"),
    **named_queues("mine", "vogeler.node.web03", "vogeler.run.1", ""),
    "bind a node's queue": bind("vogeler.node.web02", "vogeler.results", "result.#"),
    "watch the broadcasts": bind("vogeler.dead", "vogeler.broadcast", "#"),
    "watch the receipts": bind("vogeler.dead", "vogeler.receipts", "run"),
}
OF_ALL_NODES: dict[str, Act] = {
    **commands(),
    "send a result under a wildcard": publish("vogeler.results", "result.#"),
    "publish to vogeler.dead": publish("vogeler.dead", ""),
    **by_the_default_exchange(OWN_QUEUE),
    **into_other_exchanges(),
    **exchanges_of_their_own(),
    **whole_queues("vogeler.results", "vogeler.dead", "vogeler.run.somebodys"),
    **named_queues("mine", "vogeler.run.1", ""),
    "bind a queue by a wildcard": bind(OWN_QUEUE, "vogeler.broadcast", "#"),
    "bind a queue to the results": bind(OWN_QUEUE, "vogeler.results", "result.#"),
    "bind a queue to the receipts": bind(OWN_QUEUE, "vogeler.receipts", "run"),
}
FORBIDDEN = {
    NODE: OF_A_NODE,
    SHARED: OF_ALL_NODES,
    SERVER: OF_THE_SERVER,
    RUNNER: OF_A_RUNNER,
    f"{RUNNER}.alice": OF_A_RUNNER,
    ADMIN: OF_THE_ADMIN,
}


@pytest.mark.parametrize("user", FORBIDDEN)
def test_rabbitmq_refuses_everything_that_a_login_must_not_do(fleet: Logins, connection: Connection, user: str) -> None:
    done = []
    for what, act in FORBIDDEN[user].items():
        channel = connection(user).channel()
        try:
            act(channel)
        except pika_errors.ChannelClosedByBroker as error:
            if error.reply_code == 403 and "ACCESS_REFUSED" in error.reply_text:
                continue
            done.append(f"{what}: {error}")
        except pika_errors.AMQPError as error:
            done.append(f"{what}: {error!r}")
        else:
            done.append(what)
    assert done == []


@pytest.mark.parametrize("user", [NODE, SHARED, SERVER, RUNNER, ADMIN])
def test_nobody_sends_in_the_name_of_another_login(fleet: Logins, connection: Connection, user: str) -> None:
    exchange, key = {
        NODE: ("vogeler.results", "result.web01.example"),
        SHARED: ("vogeler.results", "result.web01.example"),
        SERVER: ("vogeler.receipts", "run"),
        RUNNER: ("vogeler.broadcast", "all"),
        ADMIN: ("vogeler.results", "result.web01.example"),
    }[user]
    channel = connection(user).channel()
    with pytest.raises(pika_errors.ChannelClosedByBroker, match="user_id property set to"):
        publish(exchange, key, user_id=OTHER)(channel)


@pytest.mark.parametrize("user", [NODE, SHARED, SERVER, RUNNER, ADMIN])
def test_a_login_is_for_one_virtual_host_and_not_for_the_management_api(fleet: Logins, user: str) -> None:
    host = f"{fleet.rabbitmq.host}:{fleet.rabbitmq.port}"
    with pytest.raises(TransportError, match="NOT_ALLOWED|refused"):
        messaging.connect(f"amqp://{user}:{fleet.password(user)}@{host}/%2F")
    fleet.write_config(fleet.url(user))
    refused = fleet.setup("--roles", "--passwords", str(fleet.passwords))
    fleet.write_config(fleet.rabbitmq.url(fleet.vhost))
    assert refused.returncode != 0
    assert "administrator" in refused.stderr or "ACCESS_REFUSED" in refused.stderr


def test_what_a_node_lets_into_the_results_reaches_no_queue(fleet: Logins, connection: Connection) -> None:
    """RabbitMQ lets whoever may write to one exchange and read from another join them, by the keys that it may bind."""
    node = connection(NODE).channel()
    for key in ("all", "node.web01.example", "group.front"):
        join("vogeler.results", "vogeler.broadcast", key)(node)
        join("vogeler.receipts", "vogeler.broadcast", key)(node)
    runner = messaging.connect(fleet.url(RUNNER))
    runner.publish_command(message("x"), ["all", "node.web01.example", "group.front"], 60.0)
    assert {name: depth.messages for name, depth in runner.depths().items()} == {
        "vogeler.results": 0,
        "vogeler.dead": 0,
    }
    runner.close()


# --- what the broker's permissions leave open, and the programs refuse ---------------------------------------


def send_by_expiry(connection: Any, queue: str, exchange: str, key: str, body: bytes, user: str) -> None:
    """To any key of an exchange that the login may write to: RabbitMQ compares no topic permission for dead letters."""
    channel = connection.channel()
    channel.exchange_declare(f"{queue}.exchange", "fanout", auto_delete=True)
    route = {"x-dead-letter-exchange": exchange, "x-dead-letter-routing-key": key, "x-message-ttl": 0}
    channel.queue_declare(queue, exclusive=True, arguments=route)
    channel.queue_bind(queue, f"{queue}.exchange")
    channel.basic_publish(f"{queue}.exchange", "", body, pika.BasicProperties(user_id=user))


def test_a_runner_can_not_tell_the_servers_that_there_are_no_queues_of_results(
    fleet: Logins, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(messaging.connect(fleet.url(SERVER))) as transport, closing(transport.consume_results(10)) as results:
        send_by_expiry(connection(RUNNER), "vogeler.run.forged", "vogeler.broadcast", "servers", b"0", RUNNER)

        def noticed() -> bool:
            results.receive(0.1)
            return any(getattr(record, "event", "") == "bad_notice" for record in caplog.records)

        wait_until(noticed, "the server says that it does not believe it")
    assert "b'0' from the user vogeler.runner" in caplog.text


def test_of_the_roles_runners_alone_may_send_commands_and_who_sets_up_tells_the_servers() -> None:
    everybody = {None, "", "admin", "vogeler", NODE, SERVER, RUNNER, "vogeler.runner.alice", ADMIN, SHARED}
    assert {user for user in everybody if topology.may_command(user)} == {
        None, "admin", "vogeler", RUNNER, "vogeler.runner.alice"
    }  # fmt: skip
    assert {user for user in everybody if topology.may_tell_servers(user)} == {None, "admin", "vogeler", ADMIN}
