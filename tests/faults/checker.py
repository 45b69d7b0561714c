"""Compares what really ran with what is stored and with what the runners said.

One command has *one effect*: each successful run of its plugin is one change in the history, and the record holds the
newest. A plugin runs once for a command, unless the client that ran it was killed before the broker knew that
it was done: then another process of the client runs it again, and both changes may be there. Within the life of
one process of a client there is never a second run for one command.

What may be missing is what somebody was told about: a successful run without a change in the history needs a row
of a runner (``failed``, ``refused``, ``silent``, ``unfinished``) for this node and alias, or a runner that said that it could
not send or follow its command, or a dead letter that holds the value, or it was made for a client that was killed
meanwhile; then the command is run again, and that run is looked at.

The plugin ``steady`` always gives the same, of which the digest alone is sent: it has one change in the history of each node,
and who is told that it is stored or unchanged finds it there.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional

from tests.faults.load import Asked
from tests.faults.stored import Document, Stored
from tests.faults.truth import FAILING, STEADY, PluginRun, steady_value
from vogeler.units import parse_timestamp

# As docs/reference.rst has them.
OK, SOME_FAILED, SOME_SILENT, NOBODY, NOWHERE, BROKER, STORE = 0, 3, 4, 5, 6, 7, 8
SLACK_S = 5.0  # between the time a batch was begun, which is when it says it was stored, and when it is there
_ANSWERED = {"stored", "unchanged"}
_NAMED = {"failed", "refused", "silent", "unfinished"}


@dataclass(frozen=True)
class DeadLetter:
    """``value``: of the result in it, where it is one."""

    message_id: str
    reason: Optional[str]
    value: Any = None


@dataclass(frozen=True)
class Seen:
    """All that the checker compares.

    ``poison``: message ids that must be dead letters; ``maybe_poison`` may. ``killed``: process ids of clients that
    the test killed. ``settled``: values that need no runner any more, which may be missing in ``asked``. ``codes``: exit codes that a runner may end with because of the fault, besides those that its rows
    explain. ``slack_s``: how long before it is there a change may say it was stored: a server takes the time
    when it begins to write. ``suspects``: the nodes that may be named as silent or unfinished; None: any.
    """

    runs: dict[str, PluginRun]
    stored: Stored
    asked: Sequence[Asked]
    dead: Sequence[DeadLetter] = ()
    poison: Collection[str] = ()
    maybe_poison: Collection[str] = ()
    killed: Collection[int] = ()
    settled: Collection[str] = ()
    codes: Collection[int] = ()
    slack_s: float = SLACK_S
    suspects: Optional[Collection[str]] = None
    changes: dict[tuple[str, str], list[Document]] = field(init=False, default_factory=lambda: defaultdict(list))

    def changes_of_key(self, node: str, key: str) -> list[Document]:
        """The history of one key."""
        return [change for change in self.stored.history if (change["node"], change["key"]) == (node, key)]

    def __post_init__(self) -> None:
        for change in self.stored.history:
            self.changes[change["run"], change["node"]].append(change)


def violations(seen: Seen) -> list[str]:
    """Everything that is not as it was promised, a line each."""
    checks = (_invented, _twice, _unsteady, _records, _ran_again, _lost, _runners, _dead)
    return [line for check in checks for line in check(seen)]


# --- the store against the log --------------------------------------------------------------------


def _invented(seen: Seen) -> Iterator[str]:
    for change in _traceable(seen):
        run = seen.runs.get(change["value"])
        if run is None or not run.succeeded or (run.node, run.key) != (change["node"], change["key"]):
            yield f"in the history, but no plugin made it: {_described(change)}; the log says: {run}"


def _twice(seen: Seen) -> Iterator[str]:
    times = Counter(change["value"] for change in _traceable(seen))
    yield from (f"{count} times in the history: {seen.runs.get(value)}" for value, count in times.items() if count > 1)


def _traceable(seen: Seen) -> Iterator[Document]:
    return (change for change in seen.stored.history if change["key"] != STEADY)


def _unsteady(seen: Seen) -> Iterator[str]:
    """What never changes has one change, its first; another may be there that never was in the record."""
    steady = [change for change in seen.stored.history if change["key"] == STEADY and not change.get("late")]
    times = Counter(change["node"] for change in steady)
    yield from (f"{count} times in the history: what is steady on {node}" for node, count in times.items() if count > 1)
    yield from (f"not what is steady: {_described(c)}" for c in steady if c["value"] != steady_value(c["node"]))


def _records(seen: Seen) -> Iterator[str]:
    newest: dict[tuple[str, str], Document] = {}
    for change in seen.stored.history:
        if change.get("late"):
            continue
        place = change["node"], change["key"]
        newest[place] = max(change, newest.get(place, change), key=lambda one: int(one["seq"]))
    for (node, key), change in newest.items():
        record = seen.stored.records.get(node, {})
        about = record.get("vogeler", {}).get("keys", {}).get(key, {})
        if (record.get(key), about.get("run")) != (change["value"], change["run"]):
            yield f"the record of {node} holds {record.get(key)} of run {about.get('run')}, not {_described(change)}"
    for node, record in seen.stored.records.items():
        for key in record.get("vogeler", {}).get("keys", {}):
            if (node, key) not in newest:
                yield f"the record of {node} holds {record.get(key)}, of which the history knows nothing"


def _ran_again(seen: Seen) -> Iterator[str]:
    """Two changes for one command: by two processes of the client, all but one of which were killed."""
    for (run, node), changes in seen.changes.items():
        clients = Counter(seen.runs[c["value"]].client_pid for c in changes if c["value"] in seen.runs)
        if any(count > 1 for count in clients.values()) or len(set(clients) - set(seen.killed)) > 1:
            made = "; ".join(str(seen.runs.get(change["value"])) for change in changes)
            yield f"run {run} had more than one effect on {node}: {made}"


def _lost(seen: Seen) -> Iterator[str]:
    """Each successful run that left no trace needs a runner of its own that said so."""
    there = {change["value"] for change in seen.stored.history} | {letter.value for letter in seen.dead}
    excuses = _excuses(seen)
    for run in sorted(seen.runs.values(), key=lambda run: run.begun_at):
        if (
            run.succeeded
            and run.key != STEADY
            and run.value not in there
            and run.value not in seen.settled
            and not _died_with_its_client(run, there, seen)
        ):
            fitting = [asked for asked in excuses[run.node, run.key] if _may_be_for(run, asked)]
            if fitting:
                excuses[run.node, run.key].remove(min(fitting, key=lambda asked: asked.ended_at))
            else:
                yield f"lost without a word: {run}"


def _died_with_its_client(run: PluginRun, there: Collection[str], seen: Seen) -> bool:
    """A client sends in the order in which plugins end: what it has sent is no longer lost with it."""
    if run.client_pid not in seen.killed:
        return False
    sent = [r.ended_at or 0.0 for r in seen.runs.values() if r.client_pid == run.client_pid and r.value in there]
    return float(run.ended_at or 0.0) > max(sent, default=0.0) - 0.5


def _excuses(seen: Seen) -> dict[tuple[str, str], list[Asked]]:
    named: dict[tuple[str, str], list[Asked]] = defaultdict(list)
    for asked in seen.asked:
        for node in asked.nodes:
            row = asked.rows.get(node)
            if _says_it_is_lost(row) if row else asked.exit_code in seen.codes:
                named[node, asked.alias].append(asked)
    return named


def _says_it_is_lost(row: dict[str, Any]) -> bool:
    return row["stage"] in _NAMED and "exit code" not in str(row["reason"])


def _may_be_for(run: PluginRun, asked: Asked) -> bool:
    """Nothing begins before it was asked for, nor after it has expired; clocks and lines take a moment."""
    return asked.started_at - 1 <= run.begun_at <= asked.ended_at + asked.timeout_s + 1


# --- the runners ----------------------------------------------------------------------------------


def _runners(seen: Seen) -> Iterator[str]:
    for asked in seen.asked:
        if not asked.killed:
            yield from (f"{asked}: {line}" for line in _runner(asked, seen))


def _runner(asked: Asked, seen: Seen) -> Iterator[str]:
    if "Traceback" in asked.talk:
        yield f"it crashed: {asked.talk}"
    if not asked.rows:
        if asked.exit_code not in seen.codes:
            yield f"it named no node: {asked.talk}"
        return
    if asked.rows.keys() != set(asked.nodes):
        yield f"it named {sorted(asked.rows)}, and was for {asked.nodes}"
    if asked.exit_code != exit_code_of(asked.rows):
        yield f"its rows mean exit code {exit_code_of(asked.rows)}: {asked.talk}"
    for node, row in asked.rows.items():
        yield from (f"{line}; it said {row}" for line in _row(asked, node, row, seen))


def _row(asked: Asked, node: str, row: dict[str, Any], seen: Seen) -> Iterator[str]:
    changes = seen.changes.get((asked.run or "", node), [])
    if row["stage"] in _ANSWERED:
        if not (seen.changes_of_key(node, STEADY) if asked.alias == STEADY else changes):
            yield f"nothing of this run was stored on {node}"
    elif row["stage"] not in _NAMED:
        yield f"nothing explains the stage on {node}"
    elif row["stage"] == "failed":
        yield from _failure(asked, node, row, seen)
    else:
        if row["stage"] != "refused" and seen.suspects is not None and node not in seen.suspects:
            yield f"nothing was done to {node}"
        before = asked.ended_at - seen.slack_s
        early = [change for change in changes if parse_timestamp(change["stored_at"]) < before]
        yield from (f"but it was stored on {node} before the runner ended: {_described(change)}" for change in early)


def _failure(asked: Asked, node: str, row: dict[str, Any], seen: Seen) -> Iterator[str]:
    """A plugin that fails says on its stderr which run it was."""
    reason = str(row["reason"] or "")
    failed = [run for run in seen.runs.values() if run.failed and run.node == node and run.value in reason]
    if not reason:
        yield f"no reason is given for {node}"
    elif asked.alias == FAILING and "exit code 3" in reason and not failed:
        yield f"no plugin failed so on {node}"
    elif asked.alias != FAILING and not reason.startswith("not stored:") and not seen.killed:
        yield f"the plugin does not fail on {node}"


def exit_code_of(rows: dict[str, dict[str, Any]]) -> int:
    """The exit code that belongs to these rows, as docs/reference.rst has it."""
    stages = {row["stage"] for row in rows.values()}
    if stages <= {"silent"}:
        return NOBODY
    if stages & {"failed", "refused"}:
        return SOME_FAILED
    if stages & {"silent", "unfinished"}:
        return SOME_SILENT
    return OK if stages & _ANSWERED else NOWHERE


# --- dead letters ---------------------------------------------------------------------------------


def _dead(seen: Seen) -> Iterator[str]:
    """All that belong there, each at least once, each with its reason, and no others."""
    there = {letter.message_id for letter in seen.dead}
    for letter in seen.dead:
        if letter.message_id not in seen.maybe_poison:
            yield f"a dead letter that nobody expects: {letter}"
        if not letter.reason:
            yield f"a dead letter without a reason: {letter}"
    yield from (f"neither stored nor a dead letter: message {name}" for name in sorted(set(seen.poison) - there))


def _described(change: Document) -> str:
    return f"{change['value']} of run {change['run']} on {change['node']}, stored at {change['stored_at']}"
