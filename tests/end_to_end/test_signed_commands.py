"""A node that was given keys runs what they have signed and nothing else, whatever the broker hands it.

The test's own connection to the broker is the compromised broker: it delivers what was signed for something else.
"""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.servers.processes import COMMANDS, Daemon, Fleet, wait_until
from vogeler import signing
from vogeler.errors import ExitCode
from vogeler.messages import Command, Envelope, Receipt, decode, encode
from vogeler.messaging import Transport
from vogeler.runner import Limits, Runner
from vogeler.signing import PrivateKey
from vogeler.units import to_timestamp

on_one_machine = pytest.mark.parametrize("fleet", [("local", "sqlite")], indirect=True, ids=["local"])
ALICE, MALLORY = signing.new("alice"), signing.new("mallory")


class Node:
    """A client with keys, and what it has run."""

    def __init__(self, fleet: Fleet, name: str = "web01") -> None:
        self.fleet, self.name = fleet, name
        self.trusted = fleet.directory / f"trusted-{name}"
        self.runs = fleet.directory / f"runs-{name}"
        self.trust(ALICE)
        self.client = self.start()

    def trust(self, *keys: PrivateKey) -> None:
        anew = self.trusted.with_suffix(".new")
        anew.write_text("".join(f"{key.public().line}\n" for key in keys))
        anew.replace(self.trusted)

    def start(self) -> Daemon:
        environment = {"VOGELER_STATE": str(self.fleet.directory / "state"), "RUNS": str(self.runs)}
        self.client = self.fleet.client(self.name, "--trusted-keys", str(self.trusted), environment=environment)
        self.client.wait_for("ready")
        return self.client

    def end(self) -> None:
        """What is slow ends now."""
        (self.fleet.directory / "end").touch()

    def ran(self) -> list[str]:
        return self.runs.read_text().splitlines() if self.runs.exists() else []


@pytest.fixture
def node(fleet: Fleet) -> Node:
    fleet.plugin("facts", f"sh -c 'echo facts >> {fleet.directory}/runs-web01; echo fact'")
    waiting = f"while [ ! -e {fleet.directory}/end ]; do sleep 0.05; done"
    fleet.plugin("slow", f"sh -c 'echo slow >> {fleet.directory}/runs-web01; {waiting}; echo ended'")
    fleet.server().wait_for("ready")
    node = Node(fleet)
    fleet.wait_known("web01")
    return node


@pytest.fixture
def broker(node: Node) -> Iterator[Transport]:
    with closing(node.fleet.transport()) as opened:
        yield opened


def command(**changes: Any) -> Command:
    soon = to_timestamp(time.time() + 60)
    return Command(**{"alias": "facts", "requested_by": "alice", "expires_at": soon, **changes})


def signed(asked: Command, key: PrivateKey = ALICE) -> Envelope:
    return key.sign(encode(asked), "command")


def answer(broker: Transport, asked: Command, envelope: Envelope, key: str = "node.web01") -> Receipt:
    """The first receipt of the command's id."""
    with closing(broker.consume_receipts(asked.id)) as receipts:
        assert broker.publish_command(envelope, [key], 60.0)
        delivery = receipts.receive(20.0)
    assert delivery is not None, "no receipt"
    return decode(delivery.envelope, Receipt)


def tampered(envelope: Envelope) -> Envelope:
    return replace(envelope, body=envelope.body.replace(b'"facts"', b'"slow"'))


def plain(asked: Command) -> Envelope:
    """Without compression, so that there is something to tamper with."""
    body = json.dumps({"v": 1, "type": "command", **vars(asked)}).encode()
    return ALICE.sign(Envelope(body, None, asked.id, "command"), "command")


OTHER = signing.new("alice")  # somebody made a key in her name
FORGERIES: dict[str, tuple[Callable[[Command], Envelope], str]] = {
    "unsigned": (encode, "not signed"),
    "signed with another key": (lambda asked: signed(asked, MALLORY), "which is not in"),
    "signed with another key of that name": (lambda asked: signed(asked, OTHER), "which is not in"),
    "another alias": (lambda asked: tampered(plain(asked)), "changed, or forged"),
    "for everybody": (lambda asked: replace(encode(replace(asked, targets=None)), signature=signed(asked).signature), "changed"),
    "valid for longer": (
        lambda asked: replace(encode(replace(asked, expires_at="2099-01-01T00:00:00.000Z")), signature=signed(asked).signature),
        "changed",
    ),
    "in full": (lambda asked: replace(encode(replace(asked, full=True)), signature=signed(asked).signature), "changed"),
    "at once": (lambda asked: replace(encode(replace(asked, splay_s=0.5)), signature=signed(asked).signature), "changed"),
    "in another's name": (lambda asked: signed(replace(asked, requested_by="bob")), "requested by 'bob', but signed by alice"),
    "signed as a result": (lambda asked: ALICE.sign(encode(asked), "result"), "changed, or forged"),
    "no signature": (lambda asked: replace(encode(asked), signature="v1"), "not of the kind known here"),
    "expired": (lambda asked: signed(replace(asked, expires_at="2020-01-01T00:00:00.000Z")), "expired at 2020"),
    "of tomorrow": (lambda asked: signed(replace(asked, at=to_timestamp(time.time() + 86400))), "sent in the future"),
}  # fmt: skip


def test_what_alice_has_not_signed_so_is_refused_with_the_reason_and_never_runs(node: Node, broker: Transport) -> None:
    for forge, reason in FORGERIES.values():
        asked = command(targets={"nodes": ["web01"]})
        receipt = answer(broker, asked, forge(asked))
        assert (receipt.stage, receipt.node) == ("refused", "web01")
        assert reason in receipt.detail["reason"]
    assert node.ran() == []
    node.client.wait_for("refused", len(FORGERIES))
    asked = command(targets={"nodes": ["web*"]})
    assert answer(broker, asked, signed(asked)).stage == "accepted"
    wait_until(node.ran, "the command that she has signed runs")


def test_a_command_for_one_node_does_nothing_on_another(node: Node, broker: Transport) -> None:
    """The targets are signed, and each node looks for itself whether it is among them."""
    asked = command(targets={"nodes": ["db01"]})
    assert broker.publish_command(signed(asked), ["node.web01"], 60.0)
    node.end()
    for_web01 = command(alias="slow", targets={"nodes": ["web01"]})
    assert answer(broker, for_web01, signed(for_web01)).stage == "accepted"  # its queue is in order
    assert "facts" not in node.ran()
    assert node.client.wait_for("accepted")["run"] == for_web01.id
    assert len(node.client.events("accepted")) == 1


def test_receipts_do_not_choose_whom_a_command_is_signed_for(node: Node, broker: Transport) -> None:
    """A runner asks again, and signs it, where the store wants the value in full: so says a receipt, which anybody did."""
    other = Node(node.fleet, "db01")
    node.fleet.wait_known("db01")
    asked = command(alias="slow", targets={"nodes": ["web01"]})

    def ask() -> None:
        with closing(node.fleet.store()) as store:
            runner = Runner(node.fleet.transport, store, Limits(5.0, 1.0), sign=lambda it: ALICE.sign(it, "command"))
            runner.run(asked)

    running = threading.Thread(target=ask)
    running.start()
    try:
        node.client.wait_for("accepted")
        for victim in ("db01", "web01"):
            receipt = Receipt(asked.id, victim, "failed", {"key": "slow", "wanted": True})
            broker.publish_receipts([(asked.id, encode(receipt))])
        node.client.wait_for("accepted", 2)  # for web01 the runner believed it
    finally:
        node.end()
        running.join()
    mine = command(targets={"nodes": ["db01"]})
    assert answer(broker, mine, signed(mine), "node.db01").stage == "accepted"
    assert other.client.wait_for("accepted")["run"] == mine.id
    assert len(other.client.events("accepted")) == 1


def test_what_was_done_is_not_done_again_by_the_next_process_either(node: Node, broker: Transport) -> None:
    """The same bytes again: to the process that did it, after SIGKILL, and after that with a full memory."""
    asked = command()
    assert answer(broker, asked, signed(asked)).stage == "accepted"
    wait_until(lambda: node.fleet.directory.joinpath("state", "seen-web01").read_text(), "it is remembered")
    assert broker.publish_command(signed(asked), ["all"], 60.0)
    node.client.wait_for("repeated")
    node.client.kill()
    assert broker.publish_command(signed(asked), ["all"], 60.0)
    node.start().wait_for("repeated")
    assert node.ran() == ["facts"]
    again = command()
    assert answer(broker, again, signed(again)).stage == "accepted"


def test_what_was_not_finished_when_the_process_died_is_done_by_the_next(node: Node, broker: Transport) -> None:
    asked = command(alias="slow")
    assert answer(broker, asked, signed(asked)).stage == "accepted"
    wait_until(node.ran, "it runs")
    node.client.kill()
    node.end()
    node.start().wait_for("collected")
    assert node.ran() == ["slow", "slow"]


def test_a_key_that_is_revoked_while_its_command_waits_does_not_run_it(node: Node, broker: Transport) -> None:
    """Four plugins run at once, so that the fifth has to wait."""
    with closing(broker.consume_receipts("fifth")) as receipts:
        for number in range(5):
            asked = command(alias="slow", id="fifth" if number == 4 else f"slow-{number}")
            assert broker.publish_command(signed(asked), ["node.web01"], 60.0)
        delivery = receipts.receive(20.0)
        assert delivery is not None
        assert decode(delivery.envelope, Receipt).stage == "accepted"
        node.trust(MALLORY)
        node.end()
        delivery = receipts.receive(20.0)
        assert delivery is not None
        receipt = decode(delivery.envelope, Receipt)
    assert receipt.stage == "refused"
    assert "which is not in" in receipt.detail["reason"]
    assert node.ran() == ["slow"] * 4


@on_one_machine
def test_the_command_lines_make_trust_and_revoke_keys(node: Node) -> None:
    """Alice makes a key, the node trusts it, she asks; it is revoked, and she is refused, without a restart."""
    fleet, private = node.fleet, node.fleet.directory / "alice.key"
    made = fleet.admin("key", "new", "alice", "--signing-key", str(private))
    assert made.returncode == ExitCode.OK, made.stderr
    assert private.stat().st_mode & 0o777 == 0o600
    name, key = made.stdout.split()
    ask = ("-c", "facts", "-n", "web01", "--signing-key", str(private))
    assert fleet.ask(*ask)["web01"]["stage"] == "refused"
    assert fleet.admin("key", "trust", name, key, "--trusted-keys", str(node.trusted)).returncode == ExitCode.OK
    assert fleet.ask(*ask)["web01"]["stage"] == "stored"
    with closing(fleet.store()) as store:
        record = store.record("web01")
    assert record is not None
    assert record["vogeler"]["keys"]["facts"]["requested_by"] == "alice"
    unsigned = fleet.runner("-c", "facts", "-n", "web01")
    assert unsigned.returncode == ExitCode.SOME_FAILED
    assert "not signed" in unsigned.stderr
    rows = json.loads(fleet.admin("key", "show", "--trusted-keys", str(node.trusted), "--format", "json").stdout)
    assert {row["key"] for row in rows} == {ALICE.public().text, key}
    (identity,) = [row["id"] for row in rows if row["key"] == key]
    assert fleet.admin("key", "revoke", identity, "--trusted-keys", str(node.trusted)).returncode == ExitCode.OK
    assert fleet.ask(*ask)["web01"]["stage"] == "refused"
    assert fleet.admin("key", "revoke", identity, "--trusted-keys", str(node.trusted)).returncode == ExitCode.NOT_FOUND


def test_a_key_is_replaced_under_load_without_a_command_refused(node: Node) -> None:
    """As docs/security.md has it: the nodes trust both, the runners change, the nodes trust the new one alone."""
    old, new = ALICE, signing.new("alice")
    in_use, stages, ended = [old], [], threading.Event()

    def ask() -> None:
        with closing(node.fleet.store()) as store:
            while not ended.is_set():
                key = in_use[0]
                runner = Runner(
                    node.fleet.transport,
                    store,
                    Limits(20.0, 5.0),
                    sign=lambda envelope: key.sign(envelope, "command"),  # noqa: B023
                )
                asked = command(targets={"nodes": ["web01"]})
                stages.append((key, runner.run(asked).rows()[0]))

    askers = [threading.Thread(target=ask) for _ in range(3)]
    for asker in askers:
        asker.start()

    def asked_with(key: PrivateKey, times: int) -> None:
        count = sum(used == key for used, _ in stages)
        wait_until(lambda: sum(used == key for used, _ in stages) >= count + times, "commands go on")

    try:
        asked_with(old, 10)
        node.trust(old, new)
        asked_with(old, 10)
        in_use[0] = new
        asked_with(new, 10)  # by then none that the old one has signed is on its way
        node.trust(new)
        asked_with(new, 10)
    finally:
        ended.set()
        for asker in askers:
            asker.join()
    assert {row.stage for _, row in stages} <= {"stored", "unchanged"}, stages


@on_one_machine
def test_a_client_whose_keys_can_not_be_used_does_not_start(fleet: Fleet, tmp_path: Path) -> None:
    (tmp_path / "trusted").write_text("alice ed25519:no\n")
    for path, reason in (("trusted", "line 1"), ("missing", "can't read")):
        client = fleet.client("web01", "--trusted-keys", str(tmp_path / path), "--state", str(tmp_path / "state"))
        assert client.process.wait(20) == ExitCode.USAGE
        assert reason in client.log


@on_one_machine
def test_without_the_library_every_program_that_needs_it_says_so_at_once(fleet: Fleet) -> None:
    keys = {"signing_key": fleet.directory / "alice.key", "trusted_keys": fleet.directory / "trusted"}
    signing.save(ALICE, keys["signing_key"])
    keys["trusted_keys"].write_text(f"{ALICE.public().line}\n")
    (fleet.directory / "without" / "cryptography").mkdir(parents=True)
    (fleet.directory / "without" / "cryptography" / "__init__.py").write_text("raise ImportError('not installed')\n")
    environment = {**fleet.environment, "PYTHONPATH": str(fleet.directory / "without")}
    for command in (
        ["vogeler-admin", "key", "new", "bob", "--signing-key", fleet.directory / "bob.key"],
        ["vogeler-admin", "key", "show", "--signing-key", keys["signing_key"]],
        ["vogeler-runner", "-c", "facts", "-n", "all", "--signing-key", keys["signing_key"]],
        ["vogeler-client", "--node", "web01", "--trusted-keys", keys["trusted_keys"]],
        ["vogeler-server", "--trusted-keys", keys["trusted_keys"]],
    ):
        program, *words = map(str, command)
        done = subprocess.run(
            [f"{COMMANDS}/{program}", *words], env=environment, capture_output=True, text=True, timeout=30, check=False
        )
        assert done.returncode == ExitCode.USAGE, (command, done.stderr)
        assert "signatures need the Python library cryptography" in done.stderr, command
        assert "Traceback" not in done.stderr
    assert not (fleet.directory / "bob.key").exists()
