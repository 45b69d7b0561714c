"""What a node under somebody else's hand can send: stored or refused, shown harmlessly, and nobody else notices."""

from __future__ import annotations

import csv
import gzip
import io
import json
import subprocess
import time
import zlib
from contextlib import closing
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from tests.servers.processes import COMMANDS, Fleet, wait_until
from vogeler import topology
from vogeler.messages import MAX_MESSAGE_BYTES, Command, Envelope, Heartbeat, Result, encode, new_id, now
from vogeler.units import to_timestamp

# Clears the screen, sets the clipboard, writes a link, erases the line; C1; the direction of writing; lines of its own.
ESCAPES = "\x1b[2J\x1b]52;c;cm0=\x07\x1b]8;;http://x\x1b\\here\x9b2K\x7f\rok \u202egnp\u2066\u200b\u2028\x85a\nb"
FORMULA = "=HYPERLINK(A1)"
PROTOTYPE = {"__proto__": {"admin": "yes"}, "constructor": "c", "toString": "t", "hasOwnProperty": "h", "_id": "web66"}
KEYS: dict[str, Any] = {**PROTOTYPE, "": "empty", "x" * 5000: "long", ESCAPES: ESCAPES, "$ref": "r", "a.b": "dots"}
TEMPLATE = "{{ lookup('pipe', 'touch TOUCHED') }}"


def result(key: str, value: Any, **fields: Any) -> Envelope:
    """As a client with other intentions would write it: ``value`` may be JSON text."""
    content = {
        "v": 1, "type": "result", "id": new_id(), "at": now(), "node": "web66", "alias": ESCAPES, "key": key,
        "seq": time.time_ns() // 1000, "status": "ok", "collected_at": now(), "requested_by": ESCAPES, "value": "VALUE",
        **fields,
    }  # fmt: skip
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return Envelope(json.dumps(content).encode().replace(b'"VALUE"', text), message_id=content["id"], type="result")


on_one_machine = pytest.mark.parametrize("fleet", [("local", "sqlite")], indirect=True, ids=["local"])


@pytest.fixture
def hostile(fleet: Fleet) -> Fleet:
    """A server that has stored what two hostile nodes sent; web01 is one by its plugins, web66 by its client."""
    (fleet.directory / "hostile.json").write_text(json.dumps({"value": ESCAPES, "formula": FORMULA, **KEYS}))
    (fleet.directory / "hostile.txt").write_text(ESCAPES)
    fleet.plugin("facts", f"cat {fleet.directory}/hostile.json", "json", description=f"facts {ESCAPES[:4]}")
    fleet.plugin("broken", f"sh -c 'cat {fleet.directory}/hostile.txt >&2; exit 1'")
    fleet.server().wait_for("ready")
    fleet.client("web01").wait_for("ready")
    agent = {"version": ESCAPES, "started_at": ESCAPES, "groups": [], "plugins": [{"name": ESCAPES, "key": ESCAPES}]}
    with closing(fleet.transport()) as transport:
        transport.publish_result(encode(Heartbeat("web66", agent)), "web66")
        transport.publish_result(result("facts", {"value": ESCAPES, **KEYS}), "web66")
        transport.publish_result(result("broken", None, status="failed", error=ESCAPES), "web66")
        transport.publish_result(Envelope(b"{", message_id=ESCAPES, type=ESCAPES), "web66")
    fleet.wait_known("web01", "web66")
    answers = fleet.ask("-c", "facts", "-n", "web01")
    assert answers["web01"]["stage"] in ("stored", "unchanged"), answers
    return fleet


def check(done: subprocess.CompletedProcess[str]) -> None:
    """Only what is seen was written, and no command fell over it."""
    assert "Traceback" not in done.stderr
    for text in (done.stdout, done.stderr):
        unseen = {char for char in text if not char.isprintable() and char != "\n"}
        assert not unseen, (done.args, unseen)


def test_no_command_shows_what_a_terminal_obeys(hostile: Fleet) -> None:
    """Each command in one of the formats, in turn; the formats by themselves are in tests/unit/test_output.py."""
    formats = cycle(("table", "json", "csv"))
    for arguments in (
        ["show", "web01"], ["show", "web66"], ["show", "web01", "facts"], ["show", "web66", "facts"], ["nodes"],
        ["nodes", "--stale", "0s"], ["history", "web66"], ["history", "web66", "facts"], ["changes"], ["doctor"],
        ["find", "facts.value", "--fields", f"facts,facts.value,{ESCAPES.partition(chr(10))[0]}"], ["outliers", "facts"],
        ["diff", "web01", "web66"], ["summary", "facts"], ["dead", "list"], ["show", "web66", "--at", "now"],
    ):  # fmt: skip
        check(hostile.admin(*arguments, "--format", next(formats)))
    check(hostile.admin("dead", "show", ESCAPES))
    check(hostile.runner("-c", "facts", "-n", "web01", "--show"))
    failed = hostile.runner("-c", "broken", "-n", "web01")
    check(failed)
    assert "gnp" in failed.stdout
    listed = subprocess.run(
        [str(COMMANDS / "vogeler-client"), "list", "--plugins", str(hostile.plugins), "--node", "x"],
        env=hostile.environment, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    check(listed)


def test_what_is_stored_is_what_was_sent_under_the_node_that_sent_it(hostile: Fleet) -> None:
    """Keys that mean something to JavaScript or CouchDB are names like others below a key of ours."""
    shown = json.loads(hostile.admin("show", "web01", "facts", "--format", "json").stdout)
    lost = (
        {} if "__proto__" in shown else {"__proto__": KEYS["__proto__"]}
    )  # by the server of the tests; CouchDB keeps it
    assert {**shown, **lost} == {"value": ESCAPES, "formula": FORMULA, **KEYS}
    assert json.loads(hostile.admin("show", "web01", "--format", "json").stdout)["_id"] == "web01"
    found = hostile.admin("find", "facts.constructor = c", "--format", "json")
    assert [row["node"] for row in json.loads(found.stdout)] == ["web01", "web66"]
    found = hostile.admin("find", "facts.formula", "--fields", "facts.formula", "--format", "csv")
    assert list(csv.reader(io.StringIO(found.stdout))) == [["node", "facts.formula"], ["web01", "'" + FORMULA]]


@on_one_machine
def test_a_log_line_is_one_line_and_says_it_visibly(hostile: Fleet) -> None:
    client = hostile.client("web02", "--logformat", "text")
    wait_until(lambda: "is ready" in client.log, "a log in text", hostile.logs)
    hostile.wait_known("web02")
    hostile.runner("-c", "broken", "-n", "web02")
    assert all(char.isprintable() or char == "\n" for char in client.log), ascii(client.log)
    with closing(hostile.transport()) as transport:
        asked = Command(alias=ESCAPES, requested_by=ESCAPES, expires_at=to_timestamp(time.time() + 60))
        transport.publish_command(encode(asked), ["node.web02"], 60.0)
    wait_until(lambda: "gnp" in client.log.splitlines()[-1], "the command in the log", hostile.logs)
    assert all(char.isprintable() or char == "\n" for char in client.log), ascii(client.log)


def lying(body: bytes) -> bytes:
    """The same, but its end claims that it is empty."""
    return body[:-4] + b"\0\0\0\0"


@pytest.fixture(scope="module")
def poison() -> dict[str, Envelope]:
    bomb = gzip.compress(b"[" * (4 * MAX_MESSAGE_BYTES), 1)
    return {
        "a bomb": Envelope(bomb, "gzip"),
        "a bomb that claims to be small": Envelope(lying(bomb), "gzip"),
        "a bomb in a bomb": Envelope(gzip.compress(bomb), "gzip"),
        "many members": Envelope(gzip.compress(b"{}") * 50_000, "gzip"),
        "gzip without an end": Envelope(zlib.compress(b"{}"), "gzip"),
        "a tower": result("facts", b"[" * 100_000 + b"]" * 100_000),
        "a tower that Python can read": result("facts", b"[" * 900 + b"]" * 900),
        "a number of many digits": result("facts", b"9" * 100_000),
        "more than a double": result("facts", b"1e999"),
        "an integer beyond a double": result("facts", {"a": [10**309]}),
        "a negative one": result("facts", -(10**400)),
        "an exit code beyond a double": result("facts", None, status="failed", exit_code=10**309),
        "NaN": result("facts", b"NaN"),
        "Infinity": result("facts", b"[-Infinity]"),
        "a key of ours": result("vogeler", 1),
        "a key of CouchDB": result("_id", 1),
        "a key of JavaScript": result("__proto__", {"a": 1}),
        "no key": result("", 1),
        "a long key": result("x" * 200, 1),
        "a key with an escape": result("a\x1b[2J", 1),
        "a node that is a path": result("facts", 1, node="../_users"),
        "a node that is a design": result("facts", 1, node="_design"),
        "a deep heartbeat": Envelope(
            json.dumps({"v": 1, "type": "heartbeat", "id": "i", "at": now(), "node": "web66", "agent": {"x": "DEEP"}})
            .replace('"DEEP"', "[" * 500 + "]" * 500).encode()
        ),
    }  # fmt: skip


def test_whatever_is_poison_is_a_dead_letter_and_the_server_stays_small(
    hostile: Fleet, poison: dict[str, Envelope]
) -> None:
    """A bomb is unpacked no further than a message may be large."""
    before = json.loads(hostile.admin("dead", "list", "--format", "json").stdout)
    with closing(hostile.transport()) as transport:
        for number, (name, envelope) in enumerate(poison.items()):
            marked = Envelope(envelope.body, envelope.content_encoding, f"poison-{number}", name)
            transport.publish_result(marked, "web66")
        count = len(before) + len(poison)
        wait_until(lambda: transport.depths()[topology.DEAD_QUEUE].messages >= count, "dead letters", hostile.logs)
    assert hostile.ask("-c", "facts", "-n", "web01", "--full")["web01"]["stage"] in ("stored", "unchanged")
    letters = json.loads(hostile.admin("dead", "list", "--format", "json").stdout)
    assert {letter["type"] for letter in letters} >= set(poison)
    server = hostile.daemons[0]
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    peak_kb = int(status.partition("VmHWM:")[2].split()[0])
    assert peak_kb < 400_000, f"{peak_kb} kB: 64 MiB of brackets are 64 MiB, and what reads them some more"


def test_huge_numbers_are_values_like_others(hostile: Fleet) -> None:
    """Stored as the store can, or a dead letter; every question about them is answered."""
    numbers = [10**308, 2**63, -(2**64), 1e308, 5e-324]
    with closing(hostile.transport()) as transport, closing(hostile.store()) as store:
        for place, number in enumerate(numbers):
            transport.publish_result(result(f"big{place}", {"number": number}), "web66")

        def settled() -> bool:
            found = {key for key in store.record("web66") or {} if key.startswith("big")}
            return len(found) + transport.depths()[topology.DEAD_QUEUE].messages - 1 >= len(numbers)

        wait_until(settled, "each is stored or refused", hostile.logs)
    for place in range(len(numbers)):
        for arguments in (["find", f"big{place}.number > 5"], ["show", "web66", f"big{place}"]):
            done = hostile.admin(*arguments)
            check(done)
            assert done.returncode in (0, 9), done.stderr
    for arguments in (["summary", "big*"], ["outliers", "big*"], ["history", "web66"], ["changes"]):
        done = hostile.admin(*arguments)
        check(done)
        assert done.returncode == 0, done.stderr


@on_one_machine
def test_ansible_runs_nothing_that_a_node_reports(fleet: Fleet) -> None:
    """A template in an inventory would be run on the machine that Ansible runs on."""
    touched = fleet.directory / "touched"
    template = TEMPLATE.replace("TOUCHED", str(touched))
    value = {"text": template, "deep": [{"a": template}], "__ansible_vault": "x", "b": {"__ansible_unsafe": 5}}
    with closing(fleet.store()) as store:
        store.apply([Result("web67", "t", "t", 1, "ok", now(), value=value)], now())
    done = fleet.admin("find", "t.text", "--fields", "t,t.text", "--format", "ansible")
    (fleet.directory / "hosts.json").write_text(done.stdout)
    ran = subprocess.run(
        [str(COMMANDS / "ansible"), "-i", "hosts.json", "web67", "-c", "local", "-m", "debug", "-a", "msg={{ t_text }}{{ t }}"],
        cwd=fleet.directory, env={**fleet.environment, "HOME": str(fleet.directory), "ANSIBLE_LOCALHOST_WARNING": "false"},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert "lookup(" in ran.stdout, ran.stderr
    assert not touched.exists()


@on_one_machine
def test_prometheus_is_sent_to_no_other_host(fleet: Fleet) -> None:
    with closing(fleet.store()) as store:
        ports = [9100, "9101", "1@elsewhere:22", "80/x", "\u0661", -1, ESCAPES, None]
        store.apply([Result("web67", "t", "t", 1, "ok", now(), value={"port": ports})], now())
    done = fleet.admin("find", "t.port", "--fields", "t.port", "--format", "prometheus", "--port", "t.port")
    check(done)
    assert set(json.loads(done.stdout)[0]["targets"]) == {"web67:9100", "web67:9101"}
