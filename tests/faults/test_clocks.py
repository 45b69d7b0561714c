"""Clocks that are wrong: what can't be ordered is refused, and the runner is told; nothing is mixed up.

The clocks of the processes are shifted by ``shifted/sitecustomize.py``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.servers.processes import Fleet, wait_until
from vogeler.errors import ExitCode

HOUR_S = 3600.0
MINUTE_S = 60.0  # clock_skew is five of them, by default


class Clock:
    """A wall clock for the processes that are started with its environment."""

    def __init__(self, file: Path, shift_s: float) -> None:
        self._file = file
        self.set(shift_s)

    def set(self, shift_s: float) -> None:
        """Ahead by so much, or behind."""
        new = self._file.with_suffix(".new")
        new.write_text(str(shift_s))
        new.replace(self._file)

    @property
    def environment(self) -> Mapping[str, str]:
        return {"CLOCK_SHIFT": str(self._file), "PYTHONPATH": str(Path(__file__).parent / "shifted")}


class Hall(Fleet):
    """A fleet with clocks on the wall."""

    def clock(self, name: str, shift_s: float) -> Clock:
        return Clock(self.directory / f"clock-{name}", shift_s)

    def ask_facts(self, *flags: str) -> tuple[dict[str, dict[str, Any]], int, str]:
        """The rows by node, the exit code, what was said."""
        done = self.runner("-c", "facts", "-n", "all", "--format", "json", *flags)
        assert done.stdout, done.stderr
        return {row["node"]: row for row in json.loads(done.stdout)}, done.returncode, done.stderr

    def record(self, node: str) -> dict[str, Any]:
        with closing(self.store()) as store:
            return store.record(node) or {}

    def changes(self, node: str, key: str) -> list[dict[str, Any]]:
        with closing(self.store()) as store:
            return list(store.history(node, key))

    def dead(self) -> list[str]:
        """The reasons of the dead letters."""
        with closing(self.transport()) as transport, closing(transport.consume_dead()) as consumer:
            letters = iter(lambda: consumer.receive(0.3), None)
            return [str(letter.reason) for letter in letters]


@pytest.fixture
def hall(amqp_url: str, couch_url: str, tmp_path: Path) -> Iterator[Hall]:
    """One plugin to ask for, which never says the same twice. No daemon runs yet."""
    made = Hall(amqp_url, couch_url, tmp_path)
    made.plugin("facts", "date +%s%N", result_format="string")
    try:
        assert made.admin("setup").returncode == 0
        yield made
    finally:
        made.stop()


def test_nodes_whose_clock_is_wrong_are_told_from_those_whose_clock_is_right(hall: Hall) -> None:
    """One run, seven clocks. By its own clock a node refuses what has expired and what comes from the future; by the
    server's clock what a node claims to have collected in the future would keep all later results out: dead letter."""
    hall.plugin("tick", "date +%s%N", result_format="string", interval="1s", splay="1ms")
    shifts = {"right": 0.0, "ahead-1h": HOUR_S, "behind-1h": -HOUR_S}
    shifts |= {"ahead-10m": 10 * MINUTE_S, "behind-10m": -10 * MINUTE_S}
    shifts |= {"ahead-4m": 4 * MINUTE_S, "behind-4m": -4 * MINUTE_S}
    hall.server()
    for node, shift_s in shifts.items():
        hall.client(node, environment=hall.clock(node, shift_s).environment)
    hall.wait_known(*shifts)  # heartbeats are heard whatever the clock says

    rows, code, talk = hall.ask_facts("--ttl", "30m")
    assert {node: row["stage"] for node, row in rows.items()} == {
        "right": "stored", "ahead-4m": "stored", "behind-4m": "stored",
        "ahead-10m": "failed", "ahead-1h": "refused", "behind-10m": "refused", "behind-1h": "refused",
    }  # fmt: skip
    assert code == ExitCode.SOME_FAILED
    assert "expired at" in rows["ahead-1h"]["reason"]
    assert "this node's clock says" in rows["ahead-1h"]["reason"]
    assert "sent in the future" in rows["behind-10m"]["reason"]
    assert "compare the clocks" in rows["behind-10m"]["reason"]
    assert "not stored: collected at" in rows["ahead-10m"]["reason"]
    assert "ahead of this server's" in rows["ahead-10m"]["reason"]
    assert all(f"{node}: {row['reason']}" in talk for node, row in rows.items() if row["stage"] != "stored")

    # What a plugin's own schedule gave: nobody waits for it, so it is stored or a dead letter.
    for node in ("right", "ahead-4m", "behind-4m", "behind-10m", "behind-1h"):
        wait_until(lambda node=node: "tick" in hall.record(node), f"{node} is stored", hall.logs)
    for node in ("ahead-10m", "ahead-1h"):
        reason = f"by the clock of {node}, ahead of this server's"
        wait_until(lambda reason=reason: any(reason in one for one in hall.dead()), reason, hall.logs)
        assert hall.record(node) == {}
    hall.stop()
    assert all("clock of ahead-10m" in reason or "clock of ahead-1h" in reason for reason in hall.dead())


def test_clocks_that_are_set_while_the_fleet_runs(hall: Hall) -> None:
    """Three nodes, asked three times; between, the clocks jump.

    ``runs-on``: its client numbers its results on from where they were, and notices nothing.
    ``set-right``: an hour ahead at first, as after a boot before the time was synchronised. What was numbered by that
    clock was refused, and is past: its results count at once.
    ``restarts``: its client has forgotten its numbers, and begins with the clock's. They are lower, so what comes is
    history, the record stays as it is until the clock has caught up, and the runner is told.
    """
    hall.plugin("tick", "date +%s%N", result_format="string", interval="1s", splay="1ms")
    clocks = {"runs-on": hall.clock("a", 0.0), "set-right": hall.clock("b", HOUR_S), "restarts": hall.clock("c", 0.0)}
    hall.server()
    clients = {node: hall.client(node, environment=clock.environment) for node, clock in clocks.items()}
    hall.wait_known(*clocks)

    def ask() -> dict[str, tuple[str, Any]]:
        return {node: (row["stage"], row["reason"]) for node, row in hall.ask_facts("--ttl", "30m")[0].items()}

    def refused() -> bool:
        return any("by the clock of set-right, ahead" in reason for reason in hall.dead())

    def restart(shift_s: float) -> None:
        assert clients["restarts"].stop() == ExitCode.OK
        clocks["restarts"].set(shift_s)
        clients["restarts"] = hall.client("restarts", environment=clocks["restarts"].environment)
        clients["restarts"].wait_for("ready")

    first = ask()
    assert first["runs-on"] == first["restarts"] == ("stored", None)
    assert first["set-right"][0] == "refused"
    wait_until(refused, "what was collected in the future is a dead letter", hall.logs)
    facts = hall.record("restarts")["facts"]

    clocks["runs-on"].set(-4 * MINUTE_S)
    clocks["set-right"].set(0.0)
    restart(-4 * MINUTE_S)
    second = ask()
    assert second["runs-on"] == second["set-right"] == ("stored", None)
    assert second["restarts"] == ("stored", "older than what is stored: kept in the history only")
    assert hall.record("restarts")["facts"] == facts
    assert [bool(change.get("late")) for change in hall.changes("restarts", "facts")] == [True, False]
    wait_until(lambda: "tick" in hall.record("set-right"), "what comes by schedule counts, too", hall.logs)

    clocks["runs-on"].set(4 * MINUTE_S)
    restart(0.0)
    assert set(ask().values()) == {("stored", None)}
    assert hall.record("restarts")["facts"] != facts
    assert [bool(change.get("late")) for change in hall.changes("runs-on", "facts")] == [False] * 3


@pytest.mark.long
def test_a_server_whose_clock_is_behind_refuses_everybody_and_what_it_refused_can_be_put_back(hall: Hall) -> None:
    """To it, the whole fleet is ahead. The runner is told for each node; nothing is lost."""
    clock = hall.clock("server", -HOUR_S)
    server = hall.server(environment=clock.environment)
    for node in ("web01", "web02"):
        hall.client(node)
    hall.wait_known("web01", "web02")
    rows, code, _ = hall.ask_facts()
    assert code == ExitCode.SOME_FAILED
    assert all("ahead of this server's" in row["reason"] for row in rows.values())
    assert len(hall.dead()) == 2

    clock.set(0.0)
    assert hall.admin("dead", "requeue", "--all").returncode == ExitCode.OK
    wait_until(lambda: hall.record("web01") and hall.record("web02"), "both are stored", lambda: server.log)
    assert hall.dead() == []
