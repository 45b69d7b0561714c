"""Commands a client must not run, or can't read: refused with a receipt that says why, and nothing stops."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from tests.servers.processes import Fleet
from vogeler.messages import Command, Envelope, Receipt, decode, new_id, now
from vogeler.messaging import Transport
from vogeler.units import to_timestamp


@pytest.fixture
def node(fleet: Fleet) -> Fleet:
    fleet.plugin("facts", "echo fact")
    fleet.server().wait_for("ready")
    fleet.client("web01")
    fleet.wait_known("web01")
    return fleet


@pytest.fixture
def transport(node: Fleet) -> Iterator[Transport]:
    with closing(node.transport()) as opened:
        yield opened


def first_receipt(transport: Transport, content: dict[str, Any]) -> Receipt:
    receipts = transport.consume_receipts(content["id"])
    body = json.dumps(content).encode()
    assert transport.publish_command(Envelope(body, message_id=content["id"], type="command"), ["all"], 60.0)
    delivery = receipts.receive(20.0)
    assert delivery is not None, "no receipt"
    return decode(delivery.envelope, Receipt)


def content(**changes: Any) -> dict[str, Any]:
    soon = to_timestamp(time.time() + 60)
    plain = {"v": 1, "type": "command", "id": new_id(), "at": now(), "alias": "facts", "requested_by": "a@b"}
    return {**plain, "expires_at": soon, "targets": None, "splay_s": 0, "full": False, **changes}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"expires_at": "2020-01-01T00:00:00.000Z"}, "expired at 2020-01-01T00:00:00.000Z; this node's clock says"),
        ({"at": "2099-01-01T00:00:00.000Z", "expires_at": "2099-01-01T01:00:00.000Z"}, "sent in the future"),
        ({"v": 2}, "protocol version 2"),
        ({"only_if": "idle"}, "unknown field 'only_if'"),
        ({"targets": ["web01"]}, "field 'targets'"),
    ],
)
def test_a_refused_command_is_answered_with_the_reason(
    transport: Transport, changes: dict[str, Any], reason: str
) -> None:
    receipt = first_receipt(transport, content(**changes))
    assert (receipt.stage, receipt.node) == ("refused", "web01")
    assert reason in receipt.detail["reason"]
    assert first_receipt(transport, content()).stage == "accepted"


def test_bytes_that_are_no_command_go_to_the_dead_letters_and_stop_nothing(node: Fleet, transport: Transport) -> None:
    assert transport.publish_command(Envelope(b"\x00\x01", message_id="noise", type="command"), ["all"], 60.0)
    assert first_receipt(transport, content()).stage == "accepted"
    rows = json.loads(node.admin("dead", "list", "--format", "json").stdout)
    assert [(row["id"], row["source"]) for row in rows] == [("noise", "vogeler.node.web01")]


def test_a_command_published_twice_runs_once(node: Fleet, transport: Transport) -> None:
    log = node.directory / "runs"
    node.plugin("counted", f"sh -c 'echo ran >> {log}; echo ok'")
    node.client("once01")
    node.wait_known("once01")
    command = Command("counted", "a@b", to_timestamp(time.time() + 60), {"nodes": ["once01"]})
    again = {"v": 1, "type": "command", **vars(command)}
    assert first_receipt(transport, again).stage == "accepted"
    body = json.dumps(again).encode()
    assert transport.publish_command(Envelope(body, message_id=command.id, type="command"), ["node.once01"], 60.0)
    assert node.ask("-c", "counted", "-n", "once01")["once01"]["stage"] in ("stored", "unchanged")
    assert log.read_text() == "ran\nran\n"  # once for the doubled command, once for the question after
