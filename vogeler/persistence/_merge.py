"""How the messages of one node change its documents. Pure: no clock, no store.

Every store applies a batch through ``merge``, so they can't differ in what a result does. Merging is
idempotent and, for the values, independent of order: whatever comes twice or late, a key of the record
ends with the value of the highest ``seq`` that ended well, and every value is in the history.

What the record held at any time is in the history too: since ``stored_at``, until a later change of the
key or until the node was forgotten. So these times must have the order of the changes, whatever the
clocks of several servers say, and whichever of them dies between writing history and record.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote

from vogeler.leaves import deeper_than, without
from vogeler.messages import (
    FAILED,
    OK,
    OMITTED,
    REFUSED,
    STORED,
    UNAVAILABLE,
    UNCHANGED,
    Heartbeat,
    Result,
    digest_of,
    read,
)
from vogeler.persistence import LATE, Document, Outcome, Storable, checks_of, stored_keys
from vogeler.persistence._texts import unpacked
from vogeler.units import parse_timestamp, to_timestamp

SCHEMA = 1
CHANGE, FORGOTTEN, RETURNED = "change", "forgotten", "returned"  # the events of the history
# JSON numbers beyond are not exact for JavaScript readers (RFC 8259, 6), and order must not depend on the reader.
_MAX_SEQ = 2**53 - 1
# Far from the depth where Python, SQLite (1,000) or a JavaScript engine gives up reading what was written.
_MAX_DEPTH = 200
# How far a server's clock may be behind another's. A time further ahead is a clock that was set wrong, and
# not to be followed: all that comes until then would be stored at that time.
_CLOCK_SKEW_S = 300.0
_TICK_S = 0.001
_NEVER = ("", -1)
_PLACE = ("late", "stored_at", "previous")  # what says when the record held the value of a change


Age = tuple[str, int]  # stored_at and seq, which grow with every value that the record holds


@dataclass(frozen=True)
class Merged:
    """What to write for one node: history first, then record, then status. None: as it was."""

    record: Document | None
    status: Document | None
    history: list[Document]
    outcomes: list[Outcome]
    held: Mapping[str, Age] = field(default_factory=dict)  # by key, of what the record held before
    # Of results equal to the record: the id that one would have in the history, and that of the change that is held.
    doubtful: Sequence[tuple[str, str]] = ()


def merge(
    node: str,
    record: Document | None,
    status: Document | None,
    messages: Iterable[Storable],
    received_at: str,
    forgotten_at: str | None = None,
    former: Document | None = None,
) -> Merged:
    """Apply the messages of ``node``, in order, to its documents, which are left as they are.

    ``received_at`` is the server's clock. ``forgotten_at``: when the node was last forgotten, to be given where
    record or status are not there. ``former``: the record before an earlier try at these messages, which was
    overtaken before it wrote the status. An outcome per message, in their order.
    """
    if record is not None and forgotten_at is not None and _about(record).get("forgotten_at") != forgotten_at:
        record = {"_rev": record["_rev"]} if "_rev" in record else None  # written while the node was forgotten
    work = _Work(node, record, status, received_at, forgotten_at)
    work.restore(former or {})
    held = work.ages()
    outcomes = [work.hear(message) if isinstance(message, Heartbeat) else work.take(message) for message in messages]
    history = list(work.history.values())
    if status is None and work.changed_status is not None and forgotten_at is not None:
        history.insert(0, _returned(node, forgotten_at, received_at))
    return Merged(work.changed_record, work.changed_status, history, outcomes, held, work.doubtful)


def may_change(messages: Iterable[Storable]) -> bool:
    """Whether these messages may change any record. If not, the record of their node is not looked at."""
    return any(isinstance(message, Result) and message.status == OK for message in messages)


def may_rewrite(record: Document | None, messages: Iterable[Storable]) -> bool:
    """Whether these messages may change the record of their node. If not, no value in it is looked at.

    That a result is equal to what is stored, its digest says; only what is volatile may differ then.
    """
    stored = stored_keys(record or {})
    return any(
        isinstance(message, Result) and message.status == OK and _may_differ(message, stored.get(message.key))
        for message in messages
    )


def _may_differ(result: Result, stored: Document | None) -> bool:
    return stored is None or result.digest is None or stored.get("digest") != result.digest or bool(result.volatile)


def corrected(merged: Merged, existing: Mapping[str, Document]) -> list[Document]:
    """Which of the history documents that were there already have to be written anew, and as what.

    ``existing``: by id, with their ``_rev``. A try at the same results wrote them and got no further, so that the
    record holds them from now on, and not since then; or never, if a later result came in between. A node has
    returned when it was first heard, though.
    """
    ages = dict(merged.held)
    anew = []
    for change in merged.history:
        key, found = change["key"], existing.get(change["_id"])
        if key is None:
            if found is not None and found.get("stored_at", "") > change["stored_at"]:  # that server's clock is ahead
                anew.append({**change, "_rev": found["_rev"]})
        elif not change.get("late"):
            ages[key] = change["stored_at"], change["seq"]
            if found is not None and any(found.get(name) != change.get(name) for name in _PLACE):
                anew.append({**change, "_rev": found["_rev"]})
        elif found is not None and not found.get("late"):
            stored_at, seq = ages.get(key, _NEVER)
            was_held = found.get("stored_at", "") <= stored_at and found["seq"] <= seq
            anew += [] if was_held else [{**found, "late": True}]
    return anew


def never_held(merged: Merged, existing: Mapping[str, Document]) -> Iterator[Document]:
    """Changes that never were in the record, as they have to be written anew: late.

    A try at a result wrote its change and got no further, and another result brought the same value before it was
    tried again. Both changes then follow the same one, and one of them alone is held.
    """
    for name, held in merged.doubtful:
        change, now = existing.get(name), existing.get(held)
        if change and now and name != held and not change.get("late") and change.get("previous") == now.get("previous"):
            yield {**change, "late": True}


def by_node(batch: Sequence[Storable]) -> dict[str, list[int]]:
    """The positions in the batch of each node's messages, in order."""
    positions: dict[str, list[int]] = {}
    for position, message in enumerate(batch):
        positions.setdefault(message.node, []).append(position)
    return positions


def refused(reason: str) -> Outcome:
    """The outcome of a message that the store will never take."""
    return Outcome(REFUSED, reason, refused=True)


def forgotten(node: str, record: Document | None, requested_by: str, at: str) -> Document:
    """The history document that says who forgot a node, stored after all that its record holds."""
    newest, _ = max(_ages(stored_keys(record or {})).values(), default=_NEVER)
    stored_at = _not_before(at, _next_tick(newest))
    return _of_no_key(node, FORGOTTEN, stored_at, at, stored_at, requested_by)


def _returned(node: str, forgotten_at: str, received_at: str) -> Document:
    """The history document that says that a forgotten node has spoken again. One for each time it was forgotten."""
    stored_at = _not_before(received_at, _next_tick(forgotten_at))
    return _of_no_key(node, RETURNED, forgotten_at, received_at, stored_at, None)


def _of_no_key(node: str, event: str, forgotten_at: str, at: str, stored_at: str, requested_by: str | None) -> Document:
    return {
        "_id": id_prefix(node, event) + quote(forgotten_at, safe=""),
        "node": node,
        "key": None,
        "value": None,
        "digest": None,
        "changed_at": at,
        "stored_at": stored_at,
        "run": None,
        "requested_by": requested_by,
        "seq": 0,
        "event": event,
    }


def id_prefix(node: str, event: str) -> str:
    """What the ids of a node's documents FORGOTTEN and RETURNED begin with.

    The rest, percent-encoded, is when it was forgotten.
    """
    return f"{node}::{event}:"


class _Work:
    """One node's documents while its messages are merged into them: copied when first changed."""

    def __init__(
        self,
        node: str,
        record: Document | None,
        status: Document | None,
        received_at: str,
        forgotten_at: str | None,
    ) -> None:
        self._node = node
        self._received_at = received_at
        new: Document = {"_id": node, "system_name": node, "created_at": received_at}
        self._record: Document = record if record and "_id" in record else {**new, **(record or {})}
        self._stored: dict[str, Document] = stored_keys(self._record)
        known = forgotten_at or (status or {}).get("forgotten_at")  # of a node that never had a record
        self._forgotten_at = _valid_time(_about(self._record).get("forgotten_at", known)) or None
        self._status: Document = status or {"_id": node, "node": node, "heard_at": None, "agent": {}}
        if status is None and forgotten_at is not None:
            self._status["forgotten_at"] = forgotten_at
        self._checks: dict[str, Document] = checks_of(self._status)
        self.changed_record: Document | None = None
        self.changed_status: Document | None = None
        self.history: dict[str, Document] = {}
        self.doubtful: list[tuple[str, str]] = []

    def ages(self) -> dict[str, Age]:
        """Since when the record holds the value of each key."""
        return _ages(self._stored)

    def restore(self, former: Document) -> None:
        """Of keys that hold an older value than the last one confirmed, put back what they held before, if it is that.

        Another server has confirmed it after we had read the status, and before we wrote the record.
        """
        before = stored_keys(former)
        for key, check in self._checks.items():
            now, confirmed = self._stored.get(key), check.get("ok_digest")
            if key not in before or now is None or _number(now.get("seq")) >= _number(check.get("ok_seq")):
                continue
            if now.get("digest") != confirmed == before[key].get("digest"):
                self._hold(key, former[key], before[key])

    def hear(self, heartbeat: Heartbeat) -> Outcome:
        if deeper_than(heartbeat.agent, _MAX_DEPTH):
            return refused(f"what the agent says of itself is nested deeper than {_MAX_DEPTH}")
        self._touch_status()["agent"] = heartbeat.agent
        return Outcome(STORED)

    def take(self, result: Result) -> Outcome:
        if not 0 <= result.seq <= _MAX_SEQ:
            return refused(f"seq {result.seq} is not between 0 and {_MAX_SEQ}")
        outcome = self._take_value(result) if result.status == OK else _ended(result)
        if outcome.wanted:
            self._touch_status(heard=self._is_news(result))
        elif not outcome.refused:
            self._note_check(result)
        return outcome

    def _take_value(self, result: Result) -> Outcome:
        stored = self._stored.get(result.key)
        try:
            if _may_differ(result, stored):
                result = read(result)
            digest = result.digest or digest_of(without(result.value, result.volatile or ()))
        except (ValueError, RecursionError) as error:  # half a surrogate pair; a tower of brackets
            return refused(f"no digest can be made of the value of {result.key}: {error}")
        late = stored is not None and result.seq <= self._newest_seq(result.key, stored)
        if stored is not None and stored.get("digest") == digest:
            return self._refresh(result, stored, late)
        if result.value is OMITTED:
            reason = f"the value of {result.key} is not stored, and was not sent: ask for it in full"
            return Outcome(FAILED, reason, wanted=True)
        if deeper_than(result.value, _MAX_DEPTH):
            return self._too_deep(result)
        stored_at = self._received_at if late else self._stored_after(stored)
        name = self._id_of(result.key, result.seq, digest)
        change = {"_id": name, **_change(result, digest, stored_at)}
        if late:
            change["late"] = True
        elif stored is not None:
            change["previous"] = self._id_of(result.key, stored.get("seq"), stored.get("digest"))
        self.history.setdefault(name, change)
        if late:
            return Outcome(STORED, LATE)
        self._put(result, digest, stored_at)
        return Outcome(STORED)

    def _refresh(self, result: Result, stored: Document, late: bool) -> Outcome:
        """A result equal to the record: at most its volatile paths hold something else."""
        sent = result.volatile and result.value is not OMITTED
        if sent and not late and unpacked(self._record[result.key]) != result.value:
            if deeper_than(result.value, _MAX_DEPTH):
                return self._too_deep(result)
            self._record = self.changed_record = {**self._record, result.key: result.value}
        if stored.get("seq") == result.seq:
            return Outcome(STORED)
        digest = stored.get("digest")
        self.doubtful.append(
            (self._id_of(result.key, result.seq, digest), self._id_of(result.key, stored.get("seq"), digest))
        )
        return Outcome(UNCHANGED)

    def _too_deep(self, result: Result) -> Outcome:
        return refused(f"the value of {result.key} is nested deeper than {_MAX_DEPTH}")

    def _id_of(self, key: str, seq: object, digest: object) -> str:
        """The id of a change, made from its content: written twice is written once.

        Of a node that was forgotten, what is delivered once more is stored once more.
        """
        short = str(digest).rpartition(":")[2][:16]
        name = [self._node, key, f"{_number(seq):020d}", short, *([self._forgotten_at] if self._forgotten_at else [])]
        return ":".join(quote(part, safe="") for part in name)

    def _newest_seq(self, key: str, stored: Document) -> int:
        """A result equal to the record leaves no trace in it; that one came is in the status."""
        return max(_number(stored.get("seq")), _number(self._checks.get(key, {}).get("ok_seq")))

    def _stored_after(self, stored: Document | None) -> str:
        """The server's time, but not before what it follows was stored: by a server whose clock is ahead."""
        not_before = _not_before(self._received_at, _next_tick(self._forgotten_at))
        return _not_before(not_before, _valid_time((stored or {}).get("stored_at")))

    def _put(self, result: Result, digest: str, stored_at: str) -> None:
        about = {
            "changed_at": result.collected_at,
            "stored_at": stored_at,
            "digest": digest,
            "run": result.run,
            "requested_by": result.requested_by,
            "seq": result.seq,
        }
        self._hold(result.key, result.value, about)

    def _hold(self, key: str, value: object, about: Document) -> None:
        self._stored = {**self._stored, key: about}
        ours: Document = {"schema": SCHEMA, "keys": self._stored}
        if self._forgotten_at is not None:
            ours["forgotten_at"] = self._forgotten_at
        self._record = {**self._record, "updated_at": self._received_at, key: value, "vogeler": ours}
        self.changed_record = self._record

    def _note_check(self, result: Result) -> None:
        before = self._checks.get(result.key)
        check = _check(result) if before is None or result.seq >= _number(before.get("seq")) else dict(before)
        latest = {name: (before or {}).get(name) for name in ("ok_seq", "ok_digest")}
        if result.status == OK and result.seq > _number(latest["ok_seq"]):
            latest = {"ok_seq": result.seq, "ok_digest": self._stored[result.key]["digest"]}
        check.update({name: value for name, value in latest.items() if value is not None})
        heard = self._is_news(result)
        self._checks = {**self._checks, result.key: check}
        self._touch_status(heard)

    def _is_news(self, result: Result) -> bool:
        """Whether it tells that its node is there: not one that was delivered before, nor one from before that."""
        return result.seq > _number(self._checks.get(result.key, {}).get("seq"))

    def _touch_status(self, heard: bool = True) -> Document:
        heard_at = self._received_at if heard else self._status.get("heard_at")
        self._status = {**self._status, "heard_at": heard_at, "keys": self._checks}
        self.changed_status = self._status
        return self._status


def _about(record: Document) -> Document:
    about = record.get("vogeler")
    return about if isinstance(about, dict) else {}


def _ages(keys: Mapping[str, Document]) -> dict[str, Age]:
    return {key: (_valid_time(meta.get("stored_at")), _number(meta.get("seq"))) for key, meta in keys.items()}


def _number(value: object) -> int:
    """A seq; -1 where there is none."""
    return value if isinstance(value, int) else -1


def _valid_time(value: object) -> str:
    """A timestamp; "" where there is none, in a record of before there was that, or that was edited by hand."""
    try:
        parse_timestamp(str(value))
    except ValueError:
        return ""
    return str(value)


def _next_tick(at: str | None) -> str:
    return to_timestamp(parse_timestamp(at) + _TICK_S) if at else ""


def _not_before(at: str, other: str) -> str:
    """The later of two times, unless the other is so far ahead that it can't be right."""
    if other <= at or parse_timestamp(other) > parse_timestamp(at) + _CLOCK_SKEW_S:
        return at
    return other


def _change(result: Result, digest: str, stored_at: str) -> Document:
    """The history document of a result, but for its id."""
    return {
        "node": result.node,
        "key": result.key,
        "value": without(result.value, result.volatile or ()),
        "digest": digest,
        "changed_at": result.collected_at,
        "stored_at": stored_at,
        "run": result.run,
        "requested_by": result.requested_by,
        "seq": result.seq,
        "event": CHANGE,
    }


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
