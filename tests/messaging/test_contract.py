"""What every transport must do. Runs over each module in vogeler/messaging; the words are those of its docstrings.

Nothing here waits by luck: that a message does not come is shown by the one sent after it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from tests.messaging.conftest import (
    LIMIT_S,
    NOTHING_S,
    Connect,
    ConsumerProcess,
    all_bodies,
    body_of,
    eventually,
    message,
    next_body,
)
from vogeler import messaging, topology
from vogeler.errors import NodeNameTaken, TransportUnavailable
from vogeler.messages import Envelope
from vogeler.messaging import Delivery, QueueDepth, Transport

Processes = Callable[..., ConsumerProcess]
TTL_S = 60.0


def received(consumer: messaging.Consumer) -> Delivery:
    delivery = consumer.receive(LIMIT_S)
    assert delivery is not None, "nothing came"
    return delivery


# --- setup ---------------------------------------------------------------------------------------


def test_setup_reports_each_thing_it_made_and_the_second_time_nothing(connect: Connect) -> None:
    first, second = connect(), connect()
    made = first.setup()
    assert f"created queue {topology.RESULTS_QUEUE}" in made
    assert f"created queue {topology.DEAD_QUEUE}" in made
    assert second.setup() == []


def test_setup_keeps_what_is_in_the_queues(transport: Transport) -> None:
    transport.publish_result(message("kept"), "web01")
    transport.setup()
    assert next_body(transport.consume_results(1)) == "kept"


def test_one_queue_of_results_is_what_there_is_anyway(transport: Transport) -> None:
    assert transport.spread_results(1) == []
    transport.publish_result(message("there"), "web01")
    assert next_body(transport.consume_results(1)) == "there"


# --- commands ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "reached"),
    [
        (["all"], {"web01", "db01"}),
        (["node.web01"], {"web01"}),
        (["group.jboss"], {"db01"}),
        (["node.web01", "group.jboss"], {"web01", "db01"}),
        (["node.web01", "node.gone"], {"web01"}),
        (["node.gone", "node.db01"], {"db01"}),
        (["node.web", "node.web01.example", "group.web01", "node.*", "node.#"], set()),
    ],
)
def test_a_command_reaches_exactly_the_nodes_bound_to_its_keys(
    transport: Transport, keys: list[str], reached: set[str]
) -> None:
    consumers = {
        "web01": transport.consume_commands("web01", ()),
        "db01": transport.consume_commands("db01", ("jboss", "linux")),
    }
    assert transport.publish_command(message("command"), keys, TTL_S) is bool(reached)
    transport.publish_command(message("end"), ["all"], TTL_S)
    for node, consumer in consumers.items():
        assert all_bodies(consumer, 2 if node in reached else 1) == (["command"] if node in reached else []) + ["end"]


def test_a_node_meant_by_several_keys_gets_the_command_once(transport: Transport) -> None:
    consumer = transport.consume_commands("web01", ("g1", "g2"))
    transport.publish_command(message("command"), ["group.g1", "all", "node.web01", "group.g2"], TTL_S)
    transport.publish_command(message("end"), ["all"], TTL_S)
    assert all_bodies(consumer, 2) == ["command", "end"]


def test_a_command_can_name_thousands_of_nodes(transport: Transport) -> None:
    consumer = transport.consume_commands("node4999.example.org", ())
    keys = [f"node.node{number}.example.org" for number in range(5000)]
    assert transport.publish_command(message("command"), keys, TTL_S)
    transport.publish_command(message("end"), ["all"], TTL_S)
    assert all_bodies(consumer, 2) == ["command", "end"]


def test_a_command_that_nobody_will_see_is_reported(transport: Transport) -> None:
    assert transport.publish_command(message("x"), ["node.nobody"], TTL_S) is False
    assert transport.publish_command(message("x"), [], TTL_S) is False


def test_a_command_waits_for_a_node_that_is_away(transport: Transport, connect: Connect) -> None:
    away = connect()
    away.consume_commands("web01", ())
    away.close()
    assert transport.publish_command(message("later"), ["node.web01"], TTL_S)
    assert next_body(connect().consume_commands("web01", ())) == "later"


def test_an_expired_command_is_never_delivered(transport: Transport) -> None:
    transport.consume_commands("web01", ()).close()
    published_at = time.monotonic()
    transport.publish_command(message("late"), ["all"], ttl_s=0.05)
    transport.publish_command(message("end"), ["all"], TTL_S)
    eventually(lambda: time.monotonic() > published_at + 0.2)
    assert next_body(transport.consume_commands("web01", ())) == "end"


def test_the_second_client_of_a_node_is_told_so(transport: Transport, connect: Connect) -> None:
    first = transport.consume_commands("web01", ())
    with pytest.raises(NodeNameTaken, match="web01") as caught:
        connect().consume_commands("web01", ())
    assert "--node" in (caught.value.remedy or "")
    transport.publish_command(message("to the first"), ["node.web01"], TTL_S)
    assert next_body(first) == "to the first"


def test_a_name_is_free_again_when_its_client_closes(transport: Transport, connect: Connect) -> None:
    transport.consume_commands("web01", ()).close()
    second = connect()
    second.consume_commands("web01", ())
    second.close()
    connect().consume_commands("web01", ())


def test_a_name_is_free_again_when_its_client_is_killed(transport: Transport, process: Processes) -> None:
    first = process("commands", "web01")
    transport.publish_command(message("command"), ["node.web01"], TTL_S)
    assert first.line() == "command"
    first.kill()

    consumer = None

    def taken_over() -> bool:
        nonlocal consumer
        try:
            consumer = transport.consume_commands("web01", ())
        except NodeNameTaken:  # the broker has not noticed yet
            return False
        return True

    eventually(taken_over)
    assert consumer is not None
    again = received(consumer)
    assert body_of(again) == "command"
    assert again.redelivered


# --- results -------------------------------------------------------------------------------------


def test_what_describes_a_message_arrives_with_it(transport: Transport) -> None:
    envelope = Envelope(b"\x00\xff" * 3, "gzip", "0190-abc", "result", "v1 0123 c2lnbmVk")
    transport.publish_result(envelope, "web01")
    delivery = received(transport.consume_results(1))
    assert delivery.envelope == envelope
    assert (delivery.redelivered, delivery.reason, delivery.source) == (False, None, None)


def test_a_large_message_arrives_whole(transport: Transport) -> None:
    body = bytes(range(256)) * 8192
    transport.publish_result(Envelope(body), "web01")
    assert received(transport.consume_results(1)).envelope.body == body


def test_results_come_in_the_order_they_were_published(transport: Transport) -> None:
    for number in range(200):
        transport.publish_result(message(str(number)), "web01")
    assert all_bodies(transport.consume_results(30), 200) == [str(number) for number in range(200)]


def test_an_unacked_result_comes_again_after_close_and_an_acked_one_does_not(
    transport: Transport, connect: Connect
) -> None:
    for word in ("acked", "held", "unread"):
        transport.publish_result(message(word), "web01")
    first = transport.consume_results(10)
    first.ack([received(first)])
    assert next_body(first) == "held"
    first.close()
    second = connect().consume_results(10)
    again = received(second)
    assert (body_of(again), again.redelivered) == ("held", True)
    assert next_body(second) == "unread"


def test_what_a_killed_server_held_comes_to_the_next(transport: Transport, process: Processes) -> None:
    server = process("results", "10")
    for number in range(3):
        transport.publish_result(message(str(number)), "web01")
    assert [server.line() for _ in range(3)] == ["0", "1", "2"]
    heir = transport.consume_results(10)
    server.kill()
    again = [received(heir) for _ in range(3)]
    assert [body_of(delivery) for delivery in again] == ["0", "1", "2"]
    assert all(delivery.redelivered for delivery in again)


def test_a_confirmed_result_survives_the_death_of_its_publisher(transport: Transport, process: Processes) -> None:
    client = process("publish", "web01")
    for number in range(20):
        assert client.line() == f"web01:{number}"
    client.kill()
    assert all_bodies(transport.consume_results(5), 20) == [f"web01:{number}" for number in range(20)]


def test_acking_in_any_order_acks_exactly_those(transport: Transport) -> None:
    for number in range(8):
        transport.publish_result(message(str(number)), "web01")
    consumer = transport.consume_results(8)
    held = [received(consumer) for _ in range(8)]
    consumer.ack([held[5], held[2]])
    consumer.ack([held[1], held[0], held[4]])
    consumer.ack([held[7], held[7]])
    consumer.ack([held[0]])
    consumer.ack([])
    consumer.close()
    again = transport.consume_results(8)
    assert all_bodies(again, 2) == ["3", "6"]
    assert again.receive(NOTHING_S) is None


def test_a_delivery_of_an_earlier_connection_is_passed_over(transport: Transport, connect: Connect) -> None:
    transport.publish_result(message("mine"), "web01")
    earlier = connect()
    stale = received(earlier.consume_results(1))
    earlier.close()
    consumer = transport.consume_results(2)
    fresh = received(consumer)
    consumer.ack([stale])
    consumer.dead_letter(stale, "not mine any more")
    assert transport.depths()[topology.DEAD_QUEUE].messages == 0
    consumer.ack([stale, fresh])
    consumer.close()
    assert transport.consume_results(1).receive(NOTHING_S) is None


def test_several_servers_share_the_results(transport: Transport, connect: Connect) -> None:
    servers = [connect().consume_results(5) for _ in range(2)]
    for number in range(100):
        transport.publish_result(message(str(number)), "web01")
    seen: list[list[str]] = [[], []]
    deadline = time.monotonic() + LIMIT_S
    while len(seen[0]) + len(seen[1]) < 100 and time.monotonic() < deadline:
        for bodies, server in zip(seen, servers):
            delivery = server.receive(0.05)
            if delivery is not None:
                bodies.append(body_of(delivery))
                server.ack([delivery])
    assert sorted(map(int, seen[0] + seen[1])) == list(range(100))
    assert seen[0]
    assert seen[1]


def test_no_more_than_the_prefetch_is_handed_out_unacked(transport: Transport, connect: Connect) -> None:
    for number in range(4):
        transport.publish_result(message(str(number)), "web01")
    greedy = transport.consume_results(2)
    held = [received(greedy), received(greedy)]
    assert greedy.receive(NOTHING_S) is None
    other = connect().consume_results(1)
    assert next_body(other) == "2"
    greedy.ack(held[:1])
    assert next_body(greedy) == "3"


# --- receipts ------------------------------------------------------------------------------------


def test_each_run_gets_its_own_receipts(transport: Transport, connect: Connect) -> None:
    one, two = connect(), connect()
    first, second = one.consume_receipts("run-1"), two.consume_receipts("run-2")
    receipts = [("run-1", "a"), ("run-2", "b"), ("run-3", "nobody"), ("run-1", "c"), ("run-2", "d")]
    transport.publish_receipts([(run, message(body, type="receipt", message_id="i")) for run, body in receipts])
    delivery = received(first)
    assert delivery.envelope == message("a", type="receipt", message_id="i")
    first.ack([delivery])
    assert next_body(first) == "c"
    assert [next_body(second), next_body(second)] == ["b", "d"]
    assert first.receive(NOTHING_S) is None


def test_receipts_for_a_runner_that_left_are_dropped(transport: Transport, connect: Connect) -> None:
    runner = connect()
    runner.consume_receipts("run-1").close()
    transport.publish_receipts([("run-1", message("late"))])
    runner.close()
    transport.publish_receipts([("run-1", message("later"))])
    transport.publish_receipts([])
    watcher = connect().consume_receipts("run-1")
    transport.publish_receipts([("run-1", message("new"))])
    assert next_body(watcher) == "new"


def test_many_receipts_arrive_in_order(transport: Transport, connect: Connect) -> None:
    watcher = connect().consume_receipts("run-1")
    transport.publish_receipts([("run-1", message(str(number))) for number in range(500)])
    assert [next_body(watcher) for _ in range(500)] == [str(number) for number in range(500)]


def test_receipts_for_a_killed_runner_are_dropped(transport: Transport, process: Processes) -> None:
    runner = process("receipts", "run-1")
    transport.publish_receipts([("run-1", message("seen"))])
    assert runner.line() == "seen"
    runner.kill()
    transport.publish_receipts([("run-1", message("unseen"))])
    transport.publish_receipts([("run-1", message("unseen"))])


# --- dead letters --------------------------------------------------------------------------------


def bury(transport: Transport, *bodies: str) -> None:
    """Dead-letter results with these bodies; the reason is "no ..."."""
    for body in bodies:
        transport.publish_result(message(body, message_id=f"id-{body}", type="result"), "web01")
    server = transport.consume_results(len(bodies))
    for body in bodies:
        server.dead_letter(received(server), f"no {body}")
    server.close()


def test_a_dead_letter_says_why_and_where_it_was_meant_to_go(transport: Transport) -> None:
    bury(transport, "one", "two")
    dead = transport.consume_dead()
    for body in ("one", "two"):
        letter = received(dead)
        assert letter.envelope == message(body, message_id=f"id-{body}", type="result")
        assert (letter.reason, letter.source) == (f"no {body}", topology.RESULTS_QUEUE)
    assert transport.consume_results(1).receive(NOTHING_S) is None


def test_a_signature_travels_with_a_command_and_stays_with_it_among_the_dead_letters(transport: Transport) -> None:
    client = transport.consume_commands("web01", ("jboss",))
    envelope = Envelope(b"{}", signature="v1 0123456789abcdef c2lnbmVk")
    assert transport.publish_command(envelope, ["node.web01", "group.jboss"], TTL_S)
    delivery = received(client)
    assert delivery.envelope == envelope
    client.dead_letter(delivery, "why not")
    assert received(transport.consume_dead()).envelope == envelope


def test_a_client_dead_letters_what_it_does_not_understand(transport: Transport) -> None:
    client = transport.consume_commands("web01", ())
    transport.publish_command(Envelope(b"\x1f\x8b", "gzip"), ["all"], TTL_S)
    client.dead_letter(received(client), "not gzip: é – " + "x" * 200_000)
    letter = received(transport.consume_dead())
    assert letter.envelope == Envelope(b"\x1f\x8b", "gzip")
    assert (letter.reason or "").startswith("not gzip: é – xxx")
    assert letter.source == topology.node_queue("web01")


def test_an_acked_dead_letter_is_gone_and_the_others_are_kept(transport: Transport) -> None:
    bury(transport, "one", "two", "three")
    dead = transport.consume_dead()
    held = [received(dead) for _ in range(3)]
    dead.ack([held[1]])
    dead.close()
    eventually(lambda: transport.depths()[topology.DEAD_QUEUE].messages == 2)
    rest = transport.consume_dead()
    assert [next_body(rest), next_body(rest)] == ["one", "three"]


def test_a_dead_letter_can_be_sent_back_to_its_queue(transport: Transport) -> None:
    bury(transport, "mended")
    dead = transport.consume_dead()
    letter = received(dead)
    transport.publish_result(letter.envelope, "web01")
    dead.ack([letter])
    dead.close()
    result = received(transport.consume_results(1))
    assert body_of(result) == "mended"
    assert (result.reason, result.source) == (None, None)
    assert transport.depths()[topology.DEAD_QUEUE] == QueueDepth(0, 0)


# --- waiting -------------------------------------------------------------------------------------


def test_receive_returns_none_after_the_wait(transport: Transport) -> None:
    consumer = transport.consume_results(1)
    started_at = time.monotonic()
    assert consumer.receive(0.3) is None
    assert 0.25 < time.monotonic() - started_at < 5
    assert consumer.receive(0.0) is None


def test_receive_returns_what_is_there_without_waiting(transport: Transport) -> None:
    transport.publish_result(message("there"), "web01")
    consumer = transport.consume_results(1)
    eventually(lambda: consumer.receive(0.0) is not None)


def test_a_message_ends_the_wait_at_once(transport: Transport, connect: Connect, qhost: str) -> None:
    def publish() -> None:
        publisher = messaging.connect(qhost)
        publisher.publish_result(message("news"), "web01")
        publisher.close()

    consumer = transport.consume_results(1)
    thread = threading.Timer(0.3, publish)
    started_at = time.monotonic()
    thread.start()
    assert next_body(consumer) == "news"
    assert time.monotonic() - started_at < 5
    thread.join()


def test_wake_from_another_thread_ends_the_wait(transport: Transport) -> None:
    consumer = transport.consume_results(1)
    thread = threading.Timer(0.3, consumer.wake)
    thread.start()
    started_at = time.monotonic()
    assert consumer.receive(LIMIT_S) is None
    assert time.monotonic() - started_at < 5
    thread.join()


def test_a_wake_just_before_the_wait_is_not_lost(transport: Transport) -> None:
    consumer = transport.consume_results(1)
    consumer.wake()
    transport.publish_result(message("in between"), "web01")  # does I/O, which must not swallow it
    started_at = time.monotonic()
    seen = [consumer.receive(LIMIT_S), consumer.receive(1.0)]
    assert None in seen
    assert time.monotonic() - started_at < 5


def test_wakes_from_many_threads_do_not_disturb_the_stream(transport: Transport) -> None:
    consumer = transport.consume_results(10)
    over = threading.Event()

    def keep_waking() -> None:
        while not over.wait(0.001):
            consumer.wake()

    threads = [threading.Thread(target=keep_waking) for _ in range(3)]
    for thread in threads:
        thread.start()
    bodies: list[str] = []
    deadline = time.monotonic() + LIMIT_S
    for number in range(100):
        transport.publish_result(message(str(number)), "web01")
    while len(bodies) < 100 and time.monotonic() < deadline:
        delivery = consumer.receive(1.0)
        if delivery is not None:
            bodies.append(body_of(delivery))
            consumer.ack([delivery])
    over.set()
    for thread in threads:
        thread.join()
    assert bodies == [str(number) for number in range(100)]


def test_wake_and_close_never_raise_after_close(transport: Transport) -> None:
    consumer = transport.consume_results(1)
    consumer.close()
    consumer.wake()
    consumer.close()
    transport.close()
    consumer.wake()
    consumer.close()
    transport.close()


def test_a_waiting_consumer_uses_next_to_no_cpu(transport: Transport) -> None:
    consumer = transport.consume_results(1)
    used_s = time.process_time()
    assert consumer.receive(1.0) is None
    assert time.process_time() - used_s < 0.1


# --- depths and errors ---------------------------------------------------------------------------


def test_depths_count_what_waits_and_who_consumes(transport: Transport) -> None:
    assert transport.depths() == {topology.RESULTS_QUEUE: QueueDepth(0, 0), topology.DEAD_QUEUE: QueueDepth(0, 0)}
    for _ in range(3):
        transport.publish_result(message("x"), "web01")
    eventually(lambda: transport.depths()[topology.RESULTS_QUEUE] == QueueDepth(3, 0))
    assert next_body(transport.consume_results(1)) == "x"
    eventually(lambda: transport.depths()[topology.RESULTS_QUEUE] == QueueDepth(2, 1))


def test_after_close_every_call_says_unavailable(transport: Transport) -> None:
    transport.publish_result(message("x"), "web01")
    consumer = transport.consume_results(1)
    delivery = received(consumer)
    transport.close()
    for call in (
        lambda: consumer.receive(0.1),
        lambda: consumer.ack([delivery]),
        lambda: transport.publish_result(message("x"), "web01"),
        lambda: transport.publish_receipts([("run", message("x"))]),
        lambda: transport.publish_command(message("x"), ["all"], TTL_S),
        lambda: transport.consume_results(1),
        lambda: transport.depths(),
    ):
        with pytest.raises(TransportUnavailable):
            call()


def test_two_transports_set_up_at_once(connect: Connect, qhost: str) -> None:
    errors: list[BaseException] = []

    def set_up() -> None:
        try:
            one = messaging.connect(qhost)
            one.setup()
            one.close()
        except BaseException as error:  # shown by the assertion below
            errors.append(error)

    threads = [threading.Thread(target=set_up) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_S)
    assert errors == []
    assert set(connect().depths()) == {topology.RESULTS_QUEUE, topology.DEAD_QUEUE}
