"""Compares what simulated nodes collected with what is stored, and that with what the runners said.

Every value that a node collected and that was unlike its last one is one change in the history, and there is no
other; the record holds the last one. A runner names each node it was for, once: as ``stored`` where the history has a
change of its run, else as ``unchanged``; and it sums up what it lists.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from urllib.parse import quote, unquote

from tests.faults.load import Asked
from tests.servers.couchdb import CouchServer
from vogeler import persistence
from vogeler.messages import digest_of
from vogeler.persistence import stored_keys

# node → key → digests, each unlike the one before
Sent = Mapping[str, Mapping[str, Sequence[str]]]

_PAGE = 500
_SHOWN = 20


@dataclass(frozen=True)
class Change:
    """What the id of a change and its run tell. ``digest``: the first 16 digits."""

    node: str
    key: str
    seq: int
    digest: str
    run: str | None


def history(dbhost: str) -> list[Change]:
    """Every change there is, without its value, in the order of each node."""
    return sorted(_changes(dbhost), key=lambda change: change.seq)


def repeated(changes: Sequence[Change]) -> set[Change]:
    """Those that hold what the one before them held.

    Two servers that have a result each of a node, with the same new value, both write a change, and one of them
    then finds the record written by the other.
    """
    found, last = set(), dict[tuple[str, str], str]()
    for change in changes:
        if last.get((change.node, change.key)) == change.digest:
            found.add(change)
        last[change.node, change.key] = change.digest
    return found


def violations(dbhost: str, changes: Sequence[Change], sent: Sent, asked: Sequence[Asked]) -> list[str]:
    """Everything that is not as it must be, a line each. ``changes``: the history."""
    again = repeated(changes)
    checks = (
        _history([change for change in changes if change not in again], sent),
        _records(dbhost, sent),
        _runners(changes, again, asked),
    )
    return [line for check in checks for line in _shown(check)]


def _shown(lines: Iterator[str]) -> Iterator[str]:
    yield from islice(lines, _SHOWN)
    more = sum(1 for _ in lines)
    if more:
        yield f"... and {more} more of these"


def _changes(dbhost: str) -> Iterator[Change]:
    """The history without its values."""
    address, _, database = dbhost.partition("://")[2].rpartition("/")
    server, last = CouchServer(f"http://{address}"), ""
    while True:
        wanted = {"selector": {"_id": {"$gt": last}}, "fields": ["_id", "run"], "limit": _PAGE}
        documents = server.api("POST", f"/{quote(database)}_history/_find", wanted)["docs"]
        for document in documents:
            if not document["_id"].startswith("_design/"):
                node, key, seq, digest = map(unquote, document["_id"].split(":")[:4])
                yield Change(node, key, int(seq), digest, document["run"])
        if len(documents) < _PAGE:
            return
        last = documents[-1]["_id"]


def _history(changes: Sequence[Change], sent: Sent) -> Iterator[str]:
    there: dict[tuple[str, str], list[str]] = defaultdict(list)
    for change in changes:
        there[change.node, change.key].append(change.digest)
    ours = {(node, key): [d[7:23] for d in digests] for node, keys in sent.items() for key, digests in keys.items()}
    for place in sorted(there.keys() | ours.keys()):
        if there.get(place) != ours.get(place):
            collected, found = ours.get(place, []), there.get(place, [])
            lost, more = [d for d in collected if d not in found], [d for d in found if d not in collected]
            yield f"{place}: of {len(collected)} values {lost} are not in the history, and {more} are there besides"


def _records(dbhost: str, sent: Sent) -> Iterator[str]:
    missing = {node for node, keys in sent.items() if keys}
    with closing(persistence.connect(dbhost)) as store:
        for record in store.records():
            node, about = record["_id"], stored_keys(record)
            missing.discard(node)
            for key, digests in sent.get(node, {}).items():
                stored = about.get(key, {}).get("digest")
                if not stored == digests[-1] == digest_of(record.get(key)):
                    yield f"the record of {node} holds {stored} under {key}, and it collected {digests[-1]}"
    yield from (f"there is no record of {node}" for node in sorted(missing))


def _runners(changes: Sequence[Change], again: Collection[Change], asked: Sequence[Asked]) -> Iterator[str]:
    changed: dict[tuple[str | None, str], set[str]] = defaultdict(set)
    perhaps: dict[tuple[str | None, str], set[str]] = defaultdict(set)
    twice = {(change.node, change.key, change.digest) for change in again}
    for change in changes:
        doubtful = (change.node, change.key, change.digest) in twice
        (perhaps if doubtful else changed)[change.run, change.key].add(change.node)
    for one in asked:
        if one.rows.keys() != set(one.nodes) or one.exit_code != 0:
            missing = sorted(set(one.nodes) - one.rows.keys())[:3]
            yield f"{one} named {len(one.rows)} nodes of {len(one.nodes)}, not {missing}: {one.talk[-500:]}"
        place = one.run, one.alias
        for node, row in one.rows.items():
            stages = {"stored"} if node in changed[place] else {"unchanged"}
            if row["stage"] not in (stages | {"stored"} if node in perhaps[place] else stages):
                yield f"{one} said {row}, and by the history it is {stages}"
        counts = Counter(row["stage"] for row in one.rows.values())
        summed = {stage: int(count) for count, stage in re.findall(r"[:,] (\d+) (\w+)", one.talk.split("(run")[0])}
        if summed != counts:
            yield f"{one} summed up {one.talk.splitlines()[:1]}, and listed {dict(counts)}"
