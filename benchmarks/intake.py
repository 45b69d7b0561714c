"""How fast a server takes in results, beside the broker and the store without Vogeler.

    python benchmarks/intake.py [--nodes 600] [--rounds 5] [--value map|list]

Starts a RabbitMQ and a `vogeler-server` of its own. CouchDB is the one that VOGELER_TEST_COUCHDB_URL names, with an
administrator's login, else a pouchdb-server. A round, for each node one result of 900 packages a case:

- changed: every value differs from what is stored. Floor: the same documents, history and record, to `_bulk_docs` by
  a bare HTTP client, from bodies that were made before; of the batch sizes tried the best.
- unchanged: whole values, and messages of some 400 bytes that hold the digest alone. Floor: the same messages
  consumed and acked by a bare pika consumer.
- lone: one result at a time, from its publish to its receipt.

The results lie in the queue before the server, which is stopped by a signal meanwhile, goes on. The databases have no
views, so that CouchDB does not index in the background what was measured before. Prints medians over the rounds;
the ratio is that of the two medians. CPU is that of the processes, in milliseconds per result.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Optional

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import pika
import psutil

from tests.servers.couchdb import VARIABLE, CouchServer, private_server
from tests.servers.processes import Daemon, Fleet
from tests.servers.rabbitmq import RabbitMQ, running_rabbitmq
from vogeler import messages, topology
from vogeler.messages import Envelope, Result, decode, digest_of, encode
from vogeler.messaging import Transport
from vogeler.messaging._amqp_consumer import properties_of

FLOOR_BATCHES = (12, 25, 50, 100)
ACK_EVERY = 100
PREFETCH = 1000
FLOOR_QUEUE = "floor"
FLOORS_OF_UNCHANGED = ("floor of unchanged, whole", "floor of unchanged, digest")
Case = list[Envelope]


def main() -> None:
    """Start the servers, measure, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--value", choices=("map", "list"), default="map")
    parser.add_argument("--keys", type=int, default=1, help="of a record, each with a value of this size")
    parser.add_argument("--profile", action="store_true", help="where the server's time goes, instead of the rates")
    parser.add_argument("--repeat", type=int, default=4, help="unchanged results of each node in a round")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vogeler-benchmark-")))
        couch = stack.enter_context(_couchdb(folder))
        broker = stack.enter_context(contextmanager(running_rabbitmq)())
        broker.create_vhost("intake")
        name = f"intake_{os.getpid()}"
        for database in (name, *(_floor(name, size) for size in FLOOR_BATCHES)):
            stack.callback(couch.delete, database)
        fleet = Fleet(broker.url("intake"), couch.url(name), folder)
        stack.callback(fleet.stop)
        Intake(arguments, fleet, broker, couch, name).measure()


@contextmanager
def _couchdb(folder: Path) -> Iterator[CouchServer]:
    named = os.environ.get(VARIABLE)
    if named:
        yield CouchServer(named)
    else:
        with private_server(folder) as server:
            yield server


class Values:
    """The values of a round: of a node alike, so that a fleet of the same packages differs in some."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        rng = random.Random(1)
        self._names = [f"package{n}-{rng.randrange(10**5)}" for n in range(900)]

    def of(self, node: int, salt: str) -> Any:
        """What a node has, at one time."""
        rng = random.Random(f"{node} {salt}")
        found = {name: f"{n % 9}.{n % 50}-{n % 7}+deb12u{n % 5}" for n, name in enumerate(self._names)}
        for name in rng.sample(self._names, 20):
            found[name] = f"9.{rng.randrange(10**4)}-{salt}"
        return found if self._kind == "map" else [f"{name} {version}" for name, version in found.items()]


class Bare:
    """One kept-alive connection to CouchDB, bodies sent as they are."""

    def __init__(self, couch: CouchServer) -> None:
        self._connection = HTTPConnection(couch.host, couch.port, timeout=600)
        login = base64.b64encode(f"{couch.user}:{couch.password}".encode()).decode()
        self._headers = {
            "Content-Type": "application/json",
            **({"Authorization": f"Basic {login}"} if couch.user else {}),
        }

    def post(self, path: str, body: bytes) -> bytes:
        """The answer, which must be a success."""
        self._connection.request("POST", path, body, self._headers)
        answer = self._connection.getresponse()
        content = answer.read()
        assert answer.status in (200, 201), content[:300]
        return content


class Intake:
    """One server, and what stands beside it."""

    def __init__(
        self, arguments: argparse.Namespace, fleet: Fleet, broker: RabbitMQ, couch: CouchServer, name: str
    ) -> None:
        self._arguments, self._fleet, self._broker, self._couch, self._name = arguments, fleet, broker, couch, name
        self._store_process, self._broker_process = _listening(couch.port), _listening(broker.port)
        self._nodes = [f"bench{number:05d}" for number in range(arguments.nodes)]
        self._values = Values(arguments.value)
        self._seq = 1
        self._server: Optional[Daemon] = None
        self._rates: dict[str, list[float]] = defaultdict(list)
        self._cpu: dict[str, list[dict[str, float]]] = defaultdict(list)
        self._requests: dict[str, list[float]] = defaultdict(list)
        self._floor_revs: dict[int, dict[str, str]] = defaultdict(dict)  # by batch size: of the records

    def measure(self) -> None:
        """All rounds, and the table."""
        _say(f"CouchDB: {self._couch.api('GET', '/')}")
        for part in ("records", "status", "history"):
            (self._fleet.directory / "no-views" / part).mkdir(parents=True)
        for size in FLOOR_BATCHES:
            for part in ("", "_history"):
                self._couch.api("PUT", f"/{_floor(self._name, size)}{part}")
        self._start()
        if self._arguments.profile:
            self._profile()
            return
        with closing(self._fleet.transport()) as transport:
            for key in self._keys():
                self._timed(transport, "first", self._results(f"first {key}", key))
            for number in range(self._arguments.rounds):
                self._round(transport, number)
            self._lone(transport)
        self._report()

    def _keys(self) -> list[str]:
        return ["packages", *(f"packages{number}" for number in range(1, self._arguments.keys))]

    def _start(self, *program: str) -> None:
        """The server; or another program, with its flags."""
        flags = ("--design-docs", str(self._fleet.directory / "no-views"))
        if program:
            environment = {**self._fleet.environment, "SAMPLES": str(self._samples)}
            log = self._fleet.directory / f"profiled-{len(self._fleet.daemons)}.log"
            self._server = Daemon([*program, *flags], environment, log)
            self._fleet.daemons.append(self._server)
        else:
            self._server = self._fleet.server(*flags)
        self._server.wait_for("ready")

    # --- where the time goes -----------------------------------------------------------------------

    @property
    def _samples(self) -> Path:
        return self._fleet.directory / "samples.json"

    def _profile(self) -> None:
        """Microseconds a result of every stage of the server, by case."""
        found: dict[str, dict[str, float]] = {}
        with closing(self._fleet.transport()) as transport:
            for case, full in (("changed", True), ("unchanged, whole", True), ("unchanged, digest", False)):
                assert self._server is not None
                self._server.stop()
                self._start(sys.executable, str(Path(__file__).with_name("sampled_server.py")))
                self._timed(transport, "first", self._results(case, "packages"))
                rounds = range(self._arguments.rounds)
                salts = [f"{case} {number}" if case == "changed" else case for number in rounds]
                batches = [self._results(salt, "packages", full) for salt in salts]
                self._server.signal(signal.SIGUSR1)
                for results in batches:
                    self._timed(transport, case, results)
                self._server.stop()
                counts = json.loads(self._samples.read_text())
                wall_s = sum(len(results) for results in batches) / statistics.mean(self._rates[case])
                each = 1e6 * wall_s / counts.pop("samples") / sum(map(len, batches))
                found[case] = {stage: count * each for stage, count in counts.items() if stage}
        print("stage | " + " | ".join(f"{case}, µs" for case in found))
        for stage in sorted({stage for stages in found.values() for stage in stages}):
            print(f"{stage} | " + " | ".join(f"{stages.get(stage, 0.0):.0f}" for stages in found.values()))

    def _round(self, transport: Transport, number: int) -> None:
        key = self._keys()[number % len(self._keys())]
        salt = f"round {number}"
        changed = self._results(salt, key)
        self._timed(transport, "changed", changed)
        self._floor_store(changed, key)
        repeat = range(self._arguments.repeat)
        for case, full in (("unchanged, whole", True), ("unchanged, digest", False)):
            same = [envelope for _ in repeat for envelope in self._results(salt, key, full)]
            self._timed(transport, case, same)
            self._floor_consume(case, same)
        assert self._server is not None
        self._server.stop()
        self._start()
        self._timed(transport, "changed, server just started", self._results(f"again {number}", key))
        _say(f"round {number + 1}: " + ", ".join(f"{case} {found[-1]:.0f}/s" for case, found in self._rates.items()))

    def _results(self, salt: str, key: str, full: bool = True) -> Case:
        found = []
        for number, node in enumerate(self._nodes):
            self._seq += 1
            value = self._values.of(number, salt)
            about = {"duration_s": 0.02, "exit_code": 0, "digest": digest_of(value)}
            found.append(
                encode(Result(node, key, key, self._seq, "ok", messages.now(), value=value if full else None, **about))
            )
        return found

    # --- ours --------------------------------------------------------------------------------------

    def _timed(self, transport: Transport, case: str, results: Case) -> None:
        """The server finds them all in the queue; until the receipt of the last."""
        assert self._server is not None
        run = messages.new_id()
        last = decode(results[-1], Result)
        results = [*results[:-1], encode(Result(**{**vars(last), "run": run, "requested_by": "bench"}))]
        receipts = transport.consume_receipts(run)
        self._server.signal(signal.SIGSTOP)
        try:
            self._publish(results, topology.RESULTS_EXCHANGE, topology.result_key("bench"))
            before, requests = self._spent(), self._asked()
            began_s = time.monotonic()
        finally:
            self._server.signal(signal.SIGCONT)
        while receipts.receive(30.0) is None:
            _say(f"waiting: {transport.depths()}")
        took_s = time.monotonic() - began_s
        receipts.close()
        self._rates[case].append(len(results) / took_s)
        self._note_cpu(case, before, len(results))
        if requests is not None:
            self._requests[case].append(((self._asked() or 0) - requests) / len(results))

    def _publish(self, results: Case, exchange: str, key: str) -> None:
        """Until the broker has them all."""
        with closing(pika.BlockingConnection(pika.URLParameters(self._broker.url("intake")))) as connection:
            channel = connection.channel()
            channel.confirm_delivery()  # what is not confirmed may be lost
            for envelope in results:
                properties = properties_of(envelope, user_id=self._broker.user)
                channel.basic_publish(exchange, key, envelope.body, properties)

    def _asked(self) -> Optional[int]:
        """How many requests CouchDB has served; None: it does not say."""
        with suppress(OSError):
            return int(self._couch.api("GET", "/_node/_local/_stats/couchdb/httpd/requests")["value"])
        return None

    def _note_cpu(self, case: str, before: dict[str, float], count: int) -> None:
        self._cpu[case].append({name: (ms - before[name]) / count for name, ms in self._spent().items()})

    def _spent(self) -> dict[str, float]:
        """Milliseconds of processor time, so far."""
        assert self._server is not None
        return {
            "bare": _cpu_ms(psutil.Process()),
            "server": _cpu_ms(psutil.Process(self._server.process.pid)),
            "store": _cpu_ms(self._store_process),
            "broker": _cpu_ms(self._broker_process),
        }

    # --- the floors --------------------------------------------------------------------------------

    def _floor_store(self, results: Case, key: str) -> None:
        """As the server stored them, in databases of their own, in batches; every batch size in turn."""
        bare = Bare(self._couch)
        names = [*self._nodes]
        rows = json.loads(bare.post(f"/{self._name}/_all_docs?include_docs=true", _json({"keys": names})))["rows"]
        records = [row["doc"] for row in rows]
        ids = [_change_id(record, key) for record in records]
        rows = json.loads(bare.post(f"/{self._name}_history/_all_docs?include_docs=true", _json({"keys": ids})))["rows"]
        history = [row["doc"] for row in rows]
        rates = []
        for size in FLOOR_BATCHES:
            revs = self._floor_revs[size]
            texts = [
                _json({**_plain(record), **({"_rev": revs[record["_id"]]} if record["_id"] in revs else {})})
                for record in records
            ]
            changes = [_json(_plain(change)) for change in history]
            bodies = [
                (_bulk(changes[start : start + size]), _bulk(texts[start : start + size]))
                for start in range(0, len(texts), size)
            ]
            answers = []
            before, began_s = self._spent(), time.monotonic()
            for change, record in bodies:
                bare.post(f"/{_floor(self._name, size)}_history/_bulk_docs", change)
                answers.append(bare.post(f"/{_floor(self._name, size)}/_bulk_docs", record))
            rates.append(len(texts) / (time.monotonic() - began_s))
            self._note_cpu(f"floor: _bulk_docs by {size}", before, len(texts))
            revs.update({row["id"]: row["rev"] for answer in answers for row in json.loads(answer)})
            self._rates[f"floor: _bulk_docs by {size}"].append(rates[-1])

    def _floor_consume(self, case: str, results: Case) -> None:
        """The same messages, from a queue like ours, by pika alone."""
        with closing(pika.BlockingConnection(pika.URLParameters(self._broker.url("intake")))) as connection:
            channel = connection.channel()
            channel.queue_declare(FLOOR_QUEUE, durable=True, arguments={"x-queue-type": "quorum"})
            self._publish(results, "", FLOOR_QUEUE)
            channel.basic_qos(prefetch_count=PREFETCH)
            seen = 0

            def take(_channel: Any, method: Any, _properties: Any, _body: bytes) -> None:
                nonlocal seen
                seen += 1
                if seen % ACK_EVERY == 0 or seen == len(results):
                    channel.basic_ack(method.delivery_tag, multiple=True)
                if seen == len(results):
                    channel.stop_consuming()

            before, began_s = self._spent(), time.monotonic()
            channel.basic_consume(FLOOR_QUEUE, take)
            channel.start_consuming()
            self._rates[f"floor of {case}"].append(len(results) / (time.monotonic() - began_s))
            self._note_cpu(f"floor of {case}", before, len(results))

    # --- one result alone --------------------------------------------------------------------------

    def _lone(self, transport: Transport) -> None:
        """Seconds from the publish to the receipt."""
        for number in range(30):
            self._rates["lone, s"].append(self._trip(transport, number))

    def _trip(self, transport: Transport, number: int) -> float:
        run = messages.new_id()
        receipts = transport.consume_receipts(run)
        self._seq += 1
        value = self._values.of(0, f"lone {number}")
        node = self._nodes[0]
        envelope = encode(Result(node, "packages", "packages", self._seq, "ok", messages.now(), run=run, value=value))
        began_s = time.monotonic()
        transport.publish_result(envelope, node)
        while receipts.receive(30.0) is None:
            _say("waiting")
        took_s = time.monotonic() - began_s
        receipts.close()
        return took_s

    # --- the table ---------------------------------------------------------------------------------

    def _report(self) -> None:
        def median(case: str) -> float:
            return statistics.median(self._rates[case])

        def row(case: str, floor: Optional[str] = None) -> str:
            spent = {name: statistics.median(row[name] for row in self._cpu[case]) for name in self._cpu[case][0]}
            ours = spent["bare" if floor is None else "server"]
            ratio = f"{median(case) / median(floor):.2f}" if floor else "1"
            requests = f"{statistics.median(self._requests[case]):.3f}" if self._requests[case] else "–"
            return (
                f"{case} | {median(case):.0f} | {ratio} | {requests} | {ours:.2f} | {spent['store']:.2f}"
                f" | {spent['broker']:.2f}"
            )

        print("case | results/s | × floor | requests per result | CPU of the program, ms | of CouchDB | of RabbitMQ")
        best = max((f"floor: _bulk_docs by {size}" for size in FLOOR_BATCHES), key=median)
        for case, floor in (
            ("changed", best),
            ("changed, server just started", best),
            ("unchanged, whole", "floor of unchanged, whole"),
            ("unchanged, digest", "floor of unchanged, digest"),
        ):
            print(row(case, floor))
        for floor in (*(f"floor: _bulk_docs by {size}" for size in FLOOR_BATCHES), *FLOORS_OF_UNCHANGED):
            print(row(floor))
        lone = sorted(self._rates["lone, s"])
        print(f"a lone result: {statistics.median(lone) * 1000:.0f} ms, at most {lone[-1] * 1000:.0f} ms")
        print(
            f"unchanged / changed: {median('unchanged, whole') / median('changed'):.1f} whole, "
            f"{median('unchanged, digest') / median('changed'):.1f} digest"
        )


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _floor(name: str, size: int) -> str:
    """The database for the floor by batches of a size."""
    return f"{name}_floor{size}"


def _json(content: object) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode()


def _bulk(texts: list[bytes]) -> bytes:
    return b'{"docs":[' + b",".join(texts) + b"]}"


def _change_id(record: dict[str, Any], key: str) -> str:
    """Of the history document of what the record holds: docs/formats.rst."""
    about = record["vogeler"]["keys"][key]
    return f"{record['_id']}:{key}:{about['seq']:020d}:{about['digest'].rpartition(':')[2][:16]}"


def _plain(document: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name != "_rev"}


def _listening(port: int) -> psutil.Process:
    """The process that listens on a port of this machine."""
    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
            return psutil.Process(connection.pid)
    raise LookupError(f"nobody listens on port {port}")


def _cpu_ms(process: psutil.Process) -> float:
    spent = process.cpu_times()
    return 1000 * float(spent.user + spent.system)


if __name__ == "__main__":
    main()
