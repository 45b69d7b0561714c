"""How the messages of one node change its documents. Pure: no clock, no store.

Every store applies a batch through ``merge``, so they can't differ in what a result does. Merging is
idempotent and, for the values, independent of order: whatever comes twice or late, a key of the record
ends with the value of the highest ``seq`` that ended well, and every value is in the history.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from vogeler.messages import FAILED, OK, REFUSED, STORED, UNAVAILABLE, UNCHANGED, Heartbeat, Result, digest_of
from vogeler.persistence import Document, NodeSummary, Outcome, Storable

SCHEMA = 1
LATE = "older than what is stored: kept in the history only"
# Statuses of a check that are no problem: a plugin that is unavailable on a node is no error there.
WELL = (OK, UNAVAILABLE)
# JSON numbers beyond are not exact for JavaScript readers (RFC 8259, 6), and order must not depend on the reader.
_MAX_SEQ = 2**53 - 1
# Far from the depth where Python, SQLite (1,000) or a JavaScript engine gives up reading what was written.
_MAX_DEPTH = 200


@dataclass(frozen=True)
class Merged:
    """What to write for one node: history first, then record, then status. None: as it was."""

    record: Document | None
    status: Document | None
    history: list[Document]
    outcomes: list[Outcome]


def merge(
    node: str, record: Document | None, status: Document | None, messages: Iterable[Storable], received_at: str
) -> Merged:
    """Apply the messages of ``node``, in order, to its documents, which are left as they are.

    ``received_at`` is the server's clock. An outcome per message, in their order.
    """
    work = _Work(node, record, status, received_at)
    outcomes = [work.hear(message) if isinstance(message, Heartbeat) else work.take(message) for message in messages]
    return Merged(work.changed_record, work.changed_status, list(work.history.values()), outcomes)


def by_node(batch: Sequence[Storable]) -> dict[str, list[int]]:
    """The positions in the batch of each node's messages, in order."""
    positions: dict[str, list[int]] = {}
    for position, message in enumerate(batch):
        positions.setdefault(message.node, []).append(position)
    return positions


def refused(reason: str) -> Outcome:
    """The outcome of a message that the store will never take."""
    return Outcome(REFUSED, reason, refused=True)


def forgotten(node: str, requested_by: str, at: str) -> Document:
    """The history document that says who forgot a node."""
    return {
        "_id": f"{node}::forgotten:{quote(at, safe='')}",
        "node": node,
        "key": None,
        "value": None,
        "digest": None,
        "changed_at": at,
        "run": None,
        "requested_by": requested_by,
        "seq": 0,
        "event": "forgotten",
    }


def history_prefix(node: str, key: str) -> str:
    """What the ids of a key's history documents begin with. ':' and '%' occur in no part of it."""
    return f"{node}:{quote(key, safe='')}:"


def to_json(document: Document) -> str:
    """The JSON text of a document, in ASCII: half a surrogate pair, which UTF-8 can't hold, stays what it was.

    Raises ValueError or RecursionError for what JSON can't hold.
    """
    return json.dumps(document, separators=(",", ":"), allow_nan=False)


def summary(status: Document) -> NodeSummary:
    """The line of a listing that a status document makes."""
    agent = status.get("agent") or {}
    return NodeSummary(
        node=status["_id"],
        heard_at=status.get("heard_at"),
        version=agent.get("version"),
        started_at=agent.get("started_at"),
        groups=tuple(agent.get("groups") or ()),
        problems=problems(status),
    )


def problems(status: Document) -> tuple[str, ...]:
    """The keys of a status document whose last check did not end well, sorted."""
    checks: dict[str, Any] = status.get("keys") or {}
    return tuple(sorted(key for key, check in checks.items() if check.get("status") not in WELL))


class _Work:
    """One node's documents while its messages are merged into them: copied when first changed."""

    def __init__(self, node: str, record: Document | None, status: Document | None, received_at: str) -> None:
        self._node = node
        self._received_at = received_at
        self._record: Document = record or {"_id": node, "system_name": node, "created_at": received_at}
        self._stored: dict[str, Document] = _stored_keys(self._record)
        self._status: Document = status or {"_id": node, "node": node, "heard_at": None, "agent": {}}
        self._checks: dict[str, Document] = self._status.get("keys") or {}
        self.changed_record: Document | None = None
        self.changed_status: Document | None = None
        self.history: dict[str, Document] = {}

    def hear(self, heartbeat: Heartbeat) -> Outcome:
        if _deeper_than(heartbeat.agent, _MAX_DEPTH):
            return refused(f"what the agent says of itself is nested deeper than {_MAX_DEPTH}")
        self._touch_status()["agent"] = heartbeat.agent
        return Outcome(STORED)

    def take(self, result: Result) -> Outcome:
        if not 0 <= result.seq <= _MAX_SEQ:
            return refused(f"seq {result.seq} is not between 0 and {_MAX_SEQ}")
        outcome = self._take_value(result) if result.status == OK else _ended(result)
        if not outcome.refused:
            self._note_check(result)
        return outcome

    def _take_value(self, result: Result) -> Outcome:
        try:
            digest = result.digest or digest_of(result.value)
        except (ValueError, RecursionError) as error:  # half a surrogate pair; a tower of brackets
            return refused(f"no digest can be made of the value of {result.key}: {error}")
        stored = self._stored.get(result.key)
        if stored is not None and stored.get("digest") == digest:
            return Outcome(STORED if stored.get("seq") == result.seq else UNCHANGED)
        if _deeper_than(result.value, _MAX_DEPTH):
            return refused(f"the value of {result.key} is nested deeper than {_MAX_DEPTH}")
        late = stored is not None and result.seq <= self._newest_seq(result.key, stored)
        change = _change(result, digest, late)
        self.history.setdefault(change["_id"], change)
        if late:
            return Outcome(STORED, LATE)
        self._put(result, digest)
        return Outcome(STORED)

    def _newest_seq(self, key: str, stored: Document) -> int:
        """A result equal to the record leaves no trace in it; that one came is in the status."""
        return max(int(stored.get("seq", -1)), int(self._checks.get(key, {}).get("ok_seq", -1)))

    def _put(self, result: Result, digest: str) -> None:
        about = {
            "changed_at": result.collected_at,
            "digest": digest,
            "run": result.run,
            "requested_by": result.requested_by,
            "seq": result.seq,
        }
        self._stored = {**self._stored, result.key: about}
        self._record = {
            **self._record,
            "updated_at": self._received_at,
            result.key: result.value,
            "vogeler": {"schema": SCHEMA, "keys": self._stored},
        }
        self.changed_record = self._record

    def _note_check(self, result: Result) -> None:
        before = self._checks.get(result.key)
        check = _check(result) if before is None or result.seq >= before.get("seq", -1) else dict(before)
        ok_seq = max((before or {}).get("ok_seq", -1), result.seq if result.status == OK else -1)
        if ok_seq >= 0:
            check["ok_seq"] = ok_seq
        self._checks = {**self._checks, result.key: check}
        self._touch_status()

    def _touch_status(self) -> Document:
        self._status = {**self._status, "heard_at": self._received_at, "keys": self._checks}
        self.changed_status = self._status
        return self._status


def _deeper_than(value: object, levels: int) -> bool:
    if not isinstance(value, (dict, list)):
        return False
    inner = [item for item in (value.values() if isinstance(value, dict) else value) if isinstance(item, (dict, list))]
    return levels == 0 or any(_deeper_than(item, levels - 1) for item in inner)


def _stored_keys(record: Document) -> dict[str, Document]:
    """What the record says about its keys; a key whose value somebody took out by hand is not stored."""
    about = record.get("vogeler")
    keys = about.get("keys") if isinstance(about, dict) else None
    return {key: meta for key, meta in keys.items() if key in record} if isinstance(keys, dict) else {}


def _change(result: Result, digest: str, late: bool) -> Document:
    """The history document of a result. Its id is made from its content: written twice is written once."""
    short = digest.rpartition(":")[2][:16]
    change = {
        "_id": f"{history_prefix(result.node, result.key)}{result.seq:020d}:{quote(short, safe='')}",
        "node": result.node,
        "key": result.key,
        "value": result.value,
        "digest": digest,
        "changed_at": result.collected_at,
        "run": result.run,
        "requested_by": result.requested_by,
        "seq": result.seq,
        "event": "change",
    }
    return {**change, "late": True} if late else change


def _check(result: Result) -> Document:
    return {
        "alias": result.alias,
        "checked_at": result.collected_at,
        "run": result.run,
        "requested_by": result.requested_by,
        "duration_s": result.duration_s,
        "status": result.status,
        "exit_code": result.exit_code,
        "error": result.error,
        "seq": result.seq,
    }


def _ended(result: Result) -> Outcome:
    """The outcome of a result without a value."""
    detail = result.error or (f"exit code {result.exit_code}" if result.exit_code is not None else None)
    if result.status == UNAVAILABLE:
        return Outcome(UNAVAILABLE, detail)
    return Outcome(FAILED, f"{result.status}: {detail}" if detail else result.status)
