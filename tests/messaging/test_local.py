"""What is particular to the bus in a file: the file itself, its bells, and the death of processes."""

from __future__ import annotations

import os
import sqlite3
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.messaging.conftest import LIMIT_S, ConsumerProcess, eventually, message, next_body
from vogeler import messaging, topology
from vogeler.errors import NodeNameTaken, TransportError, TransportUnavailable, UsageError
from vogeler.messages import Envelope
from vogeler.messaging import QueueDepth, Transport, _local_consumer


@pytest.fixture
def bus(tmp_path: Path) -> Path:
    return tmp_path / "bus.db"


@pytest.fixture
def transport(bus: Path) -> Iterator[Transport]:
    opened = messaging.connect(f"local://{bus}", timeout_s=5.0)
    opened.setup()
    yield opened
    opened.close()


def bells(bus: Path) -> list[Path]:
    return list(bus.with_name("bus.db.d").iterdir())


def failure(path: object) -> TransportError:
    """How opening the bus fails: for good, and with a remedy."""
    with pytest.raises(TransportError) as caught:
        messaging.connect(f"local://{path}", timeout_s=0.5)
    assert not caught.value.retryable
    assert str(path) in str(caught.value)
    assert caught.value.remedy
    return caught.value


def test_nobody_can_tell_who_wrote_into_a_file(transport: Transport) -> None:
    transport.publish_result(message("x"), "web01")
    delivery = transport.consume_results(1).receive(LIMIT_S)
    assert delivery is not None
    assert delivery.user is None


# --- the file ----------------------------------------------------------------------------------------


def test_missing_directories_are_made_for_this_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "state" / "vogeler" / "bus.db"
    messaging.connect(f"local://{path}").close()
    for folder in (path.parent, path.parent.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.fixture
def no_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("no_umask")
def test_what_is_made_is_for_this_user_alone_whatever_the_umask(tmp_path: Path) -> None:
    with closing(messaging.connect(f"local://{tmp_path}/bus.db")) as transport:
        transport.consume_results(1)
        made = [*tmp_path.iterdir(), *(tmp_path / "bus.db.d").iterdir()]
        assert {path.name: oct(path.stat().st_mode & 0o077) for path in made} == {path.name: "0o0" for path in made}
        assert len(made) == 5


def test_files_in_the_folder_of_bells_that_are_none_are_left_alone(bus: Path, transport: Transport) -> None:
    """It may be a link, and lead to a folder of something else."""
    other = bus.with_name("bus.db.d") / "passwd"
    other.write_text("root:x:0:0")
    transport.setup()
    assert other.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("name", ["bus.db", "bus.db.d"])
def test_what_another_user_has_put_where_the_bus_is_to_be_is_refused(tmp_path: Path, name: str) -> None:
    """In /tmp, for example, where everybody can: a link to a folder that we then tidy up."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "7.bell").touch()
    link = tmp_path / name
    link.symlink_to(elsewhere if name.endswith(".d") else tmp_path / "made-by-root")
    os.lchown(link, 65534, 65534)
    with pytest.raises(TransportError, match=f"{name} belongs to another user, number 65534"):
        messaging.connect(f"local://{tmp_path}/bus.db")
    assert (elsewhere / "7.bell").exists()
    assert not (tmp_path / "made-by-root").exists()


def test_what_is_not_a_bus_is_left_alone(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("not a database, " * 100)
    assert "not a message bus" in str(failure(text))
    assert text.read_text() == "not a database, " * 100
    assert "is a directory" in str(failure(tmp_path))
    assert "not a directory" in str(failure(text / "bus.db")).lower()
    assert "broker unusable" in str(failure("/proc/bus.db"))


def test_the_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE records (id TEXT)")
    before = path.read_bytes()
    assert "another program" in str(failure(path))
    assert path.read_bytes() == before


def test_a_bus_of_a_later_version_is_refused(bus: Path, transport: Transport) -> None:
    transport.close()
    with closing(sqlite3.connect(bus)) as later:
        later.execute("PRAGMA user_version = 99")
    assert "later Vogeler (schema 99" in str(failure(bus))


def test_a_bus_of_the_first_schema_keeps_its_messages(bus: Path) -> None:
    with closing(messaging.connect(f"local://{bus}")) as transport:
        transport.publish_result(Envelope(b"kept", message_id="one", type="result"), "web01")
    with closing(sqlite3.connect(bus)) as earlier:
        earlier.execute("ALTER TABLE messages DROP COLUMN signature")
        earlier.execute("PRAGMA user_version = 1")
    with closing(messaging.connect(f"local://{bus}")) as transport:
        delivery = transport.consume_results(1).receive(5.0)
        assert delivery is not None
        assert delivery.envelope == Envelope(b"kept", message_id="one", type="result")


@pytest.mark.parametrize("qhost", ["local://", "local:///", "local://bus.db", "local://host/bus.db"])
def test_a_url_that_names_no_file_is_a_usage_error(qhost: str) -> None:
    with pytest.raises(UsageError):
        messaging.connect(qhost)


def test_a_bus_is_one_file_without_options(bus: Path) -> None:
    for qhost in (f"local://{bus},local://{bus}2", f"local://{bus}?heartbeat=3"):
        with pytest.raises(UsageError):
            messaging.connect(qhost)


def test_processes_that_make_the_bus_at_the_same_moment_all_get_it(tmp_path: Path) -> None:
    errors: list[BaseException] = []
    together = threading.Barrier(4)

    def open_all() -> None:
        for number in range(25):
            together.wait(LIMIT_S)
            try:
                messaging.connect(f"local://{tmp_path}/{number}/bus.db").close()
            except BaseException as error:  # shown by the assertion below
                errors.append(error)

    threads = [threading.Thread(target=open_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


@pytest.fixture
def not_root() -> Iterator[Path]:
    """A folder of an ordinary user, and for the test's duration that user: root is refused nothing."""
    nobody = 65534
    with tempfile.TemporaryDirectory() as folder:
        was_root = os.geteuid() == 0
        if was_root:
            os.chown(folder, nobody, nobody)
            os.seteuid(nobody)
        try:
            yield Path(folder)
        finally:
            if was_root:
                os.seteuid(0)


def test_a_bus_that_may_not_be_written_is_said(not_root: Path) -> None:
    path = not_root / "bus.db"
    messaging.connect(f"local://{path}").close()
    path.chmod(0o444)
    assert "can't be written" in str(failure(path))
    path.chmod(0o000)
    assert "can't be opened" in str(failure(path))
    (not_root / "closed").mkdir(0o500)
    assert "permission denied" in str(failure(not_root / "closed" / "bus.db"))
    assert "permission denied" in str(failure(not_root / "closed" / "deeper" / "bus.db"))


def test_a_file_that_was_replaced_is_noticed(bus: Path, transport: Transport) -> None:
    consumer = transport.consume_results(1)
    bus.unlink()
    with pytest.raises(TransportUnavailable, match="removed or replaced"):
        transport.publish_result(message("into the void"), "web01")
    with pytest.raises(TransportUnavailable):
        consumer.receive(LIMIT_S)
    messaging.connect(f"local://{bus}").close()
    with pytest.raises(TransportUnavailable):
        consumer.receive(LIMIT_S)


def test_a_lock_held_for_too_long_is_unavailable_and_passes(bus: Path, transport: Transport) -> None:
    hasty = messaging.connect(f"local://{bus}", timeout_s=0.1)
    with closing(sqlite3.connect(bus, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(TransportUnavailable, match="another process"):
            hasty.publish_result(message("x"), "web01")
        other.execute("ROLLBACK")
    hasty.publish_result(message("x"), "web01")
    hasty.close()


def test_a_full_disk_is_unavailable_and_passes(bus: Path, transport: Transport) -> None:
    database = transport._bus._db  # type: ignore[attr-defined]  # a real full disk takes root
    (pages,) = database.execute("PRAGMA page_count").fetchone()
    database.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(TransportUnavailable, match="disk is full"):
        transport.publish_result(message("x" * 100_000), "web01")
    database.execute("PRAGMA max_page_count = 100000")
    transport.publish_result(message("x" * 100_000), "web01")
    assert transport.depths()[topology.RESULTS_QUEUE].messages == 1


def test_the_file_does_not_grow_with_what_passed_through(bus: Path, transport: Transport) -> None:
    consumer = transport.consume_results(50)

    def pass_through() -> None:
        for _ in range(50):
            transport.publish_result(message("x" * 2000), "web01")
        deliveries = [consumer.receive(LIMIT_S) for _ in range(50)]
        consumer.ack([delivery for delivery in deliveries if delivery is not None])

    def size_pages() -> int:
        with closing(sqlite3.connect(bus)) as other:
            return int(other.execute("PRAGMA page_count").fetchone()[0])

    pass_through()
    once = size_pages()
    for _ in range(20):
        pass_through()
    assert size_pages() <= once + 5


# --- queues that end -----------------------------------------------------------------------------------


def make_older(bus: Path, days: float) -> None:
    with closing(sqlite3.connect(bus)) as other, other:
        other.execute("UPDATE queues SET used_at = used_at - ?", (days * 86400,))


def test_a_node_queue_goes_a_week_after_its_last_consumer(bus: Path, transport: Transport) -> None:
    transport.consume_commands("away", ()).close()
    transport.consume_commands("here", ())
    transport.publish_command(message("x"), ["all"], 1e6)
    make_older(bus, 6.9)
    transport.setup()
    assert transport.publish_command(message("x"), ["node.away"], 1e6)
    make_older(bus, 0.2)
    transport.setup()
    assert not transport.publish_command(message("x"), ["node.away"], 1e6)
    assert transport.publish_command(message("x"), ["node.here"], 1e6)
    with closing(sqlite3.connect(bus)) as other:
        rows = other.execute("SELECT count(*) FROM messages WHERE queue LIKE '%away'").fetchall()
    assert rows == [(0,)]


def test_expired_commands_do_not_pile_up_for_a_node_that_is_away(bus: Path, transport: Transport) -> None:
    transport.consume_commands("away", ()).close()
    for _ in range(20):
        transport.publish_command(message("x"), ["all"], ttl_s=0.0)
    with closing(sqlite3.connect(bus)) as other:
        assert other.execute("SELECT count(*) FROM messages").fetchone()[0] <= 1


def test_a_group_that_the_node_left_no_longer_reaches_it(transport: Transport) -> None:
    transport.consume_commands("web01", ("old", "kept")).close()
    consumer = transport.consume_commands("web01", ("kept", "new"))
    assert not transport.publish_command(message("old"), ["group.old"], 60.0)
    assert transport.publish_command(message("new"), ["group.new"], 60.0)
    assert next_body(consumer) == "new"


# --- bells ---------------------------------------------------------------------------------------------


def test_a_message_rings_instead_of_waiting_for_the_poll(
    bus: Path, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_local_consumer, "POLL_S", 60.0)
    consumer = transport.consume_results(1)
    published_at: list[float] = []

    def publish() -> None:
        other = messaging.connect(f"local://{bus}")
        for _ in range(10):
            time.sleep(0.02)
            published_at.append(time.monotonic())
            other.publish_result(message("x"), "web01")
        other.close()

    thread = threading.Thread(target=publish)
    thread.start()
    delays_s = []
    for number in range(10):
        delivery = consumer.receive(LIMIT_S)
        delays_s.append(time.monotonic() - published_at[number])
        assert delivery is not None
        consumer.ack([delivery])
    thread.join()
    assert sorted(delays_s)[5] < 0.1


def test_what_a_server_gives_back_rings_the_others(
    bus: Path, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_local_consumer, "POLL_S", 60.0)
    transport.publish_result(message("x"), "web01")
    leaving = transport.consume_results(1)
    assert next_body(leaving) == "x"
    waiting = messaging.connect(f"local://{bus}")
    heir = waiting.consume_results(1)
    assert heir.receive(0.0) is None
    leaving.close()
    assert next_body(heir) == "x"
    waiting.close()


def test_the_next_publisher_notices_a_killed_server(
    bus: Path, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_local_consumer, "POLL_S", 60.0)
    server = ConsumerProcess(f"local://{bus}", "results", "10")
    transport.publish_result(message("held"), "web01")
    assert server.line() == "held"
    server.kill()
    heir = transport.consume_results(10)
    assert next_body(heir) == "held"


def test_no_bell_is_left_by_who_closes_or_dies(bus: Path, transport: Transport) -> None:
    consumers = [transport.consume_results(1), transport.consume_receipts("run"), transport.consume_commands("n", ())]
    assert len(bells(bus)) == 3
    for consumer in consumers:
        consumer.close()
    assert bells(bus) == []
    killed = [ConsumerProcess(f"local://{bus}", "results", "1"), ConsumerProcess(f"local://{bus}", "receipts", "run")]
    for process in killed:
        process.kill()
    (bus.with_name("bus.db.d") / "77.bell").touch()  # of a process that died between making it and saying so
    assert len(bells(bus)) == 3
    transport.setup()
    assert bells(bus) == []
    assert transport.depths()[topology.RESULTS_QUEUE] == QueueDepth(0, 0)


def test_the_refusal_names_the_other_process(bus: Path, transport: Transport) -> None:
    first = ConsumerProcess(f"local://{bus}", "commands", "web01")
    with pytest.raises(NodeNameTaken, match=rf"process {first.pid}\b"):
        transport.consume_commands("web01", ())
    first.kill()
    transport.consume_commands("web01", ())  # at once: the kernel has closed its bell


# --- many processes --------------------------------------------------------------------------------------


def test_publishers_killed_at_any_moment_lose_nothing_confirmed(bus: Path, transport: Transport) -> None:
    for _ in range(3):
        publishers = [ConsumerProcess(f"local://{bus}", "publish", node) for node in ("web01", "web02")]
        confirmed = [[publisher.line() for _ in range(30)] for publisher in publishers]
        for publisher in publishers:
            publisher.kill()
        consumer = transport.consume_results(1000)
        bodies = []
        while True:
            delivery = consumer.receive(0.0)
            if delivery is None:
                break
            bodies.append(delivery.envelope.body.decode())
            consumer.ack([delivery])
        consumer.close()
        for numbers in confirmed:
            for number in numbers:
                bodies.remove(number)  # once for each publisher
    with closing(sqlite3.connect(bus)) as other:
        assert other.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_threads_with_a_transport_each_do_not_disturb_one_another(bus: Path, transport: Transport) -> None:
    def publish(name: str) -> None:
        own = messaging.connect(f"local://{bus}")
        for number in range(50):
            own.publish_result(message(f"{name}-{number}"), name)
        own.close()

    threads = [threading.Thread(target=publish, args=(f"node{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    consumer = transport.consume_results(100)
    bodies = []
    for _ in range(200):
        delivery = consumer.receive(LIMIT_S)
        assert delivery is not None
        bodies.append(delivery.envelope.body.decode())
        consumer.ack([delivery])
    for thread in threads:
        thread.join()
    assert len(set(bodies)) == 200
    eventually(lambda: transport.depths()[topology.RESULTS_QUEUE].messages == 0)
