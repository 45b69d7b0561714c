"""The engines of one machine under load: processes die at any moment, the disk is full, the files can't be written."""

from __future__ import annotations

import os
import resource
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

import pytest

from tests.faults.checker import BROKER, STORE
from tests.faults.machine import MachineWorld
from tests.servers.processes import wait_until

NAMED_WITHIN_S = 60.0


def test_any_process_may_be_killed_at_any_moment(local_world: MachineWorld, long: bool) -> None:
    world = local_world
    killed = set()
    for _ in range(40 if long else 6):
        world.moment()
        killed.add(kill_somebody(world))
    world.fault_ended()
    world.prove(suspects=killed)
    assert integrity(world) == ["ok", "ok"]


def kill_somebody(world: MachineWorld) -> str:
    """And start it again, if it is a daemon. The node whose client it was, if it was one."""
    kind = world.chance.choice(("client", "server", "runner"))
    if kind == "runner":
        wait_until(lambda: [p for p in world.runners.processes() if world.runners.kill(p)], "a runner to kill")
    elif kind == "server":
        world.kill_server(world.chance.choice(world.servers))
        world.start_server()
    else:
        node = world.chance.choice(world.nodes)
        world.kill_client(node)
        world.start_client(node)
        return node
    return ""


def integrity(world: MachineWorld) -> list[str]:
    """What SQLite finds in the bus and in the store."""
    found = []
    for path in (world.bus, world.database):
        with closing(sqlite3.connect(path)) as db:
            found += [row[0] for row in db.execute("PRAGMA integrity_check")]
    return found


def test_a_full_disk_is_named_and_nothing_is_lost(local_world: MachineWorld) -> None:
    """Of everybody, where the test may mount a disk of its own; else of a server."""
    world = local_world
    folder = world.bus.parent
    if not os.path.ismount(folder):
        limit_files(world)
        return
    world.moment()
    ballast = folder / "ballast"
    said = complaints(world)
    fill(ballast)
    try:
        names_it(world, said, "disk is full", "no space left")
    finally:
        ballast.unlink()
    world.fault_ended()
    world.prove(codes={BROKER, STORE})
    assert integrity(world) == ["ok", "ok"]


@pytest.mark.long
def test_files_that_may_not_grow_are_named_and_nothing_is_lost(local_world: MachineWorld) -> None:
    limit_files(local_world)


def limit_files(world: MachineWorld) -> None:
    """No file of a server may grow beyond what its log needs for a while."""
    world.moment()
    server = world.chance.choice(world.servers)
    said = complaints(world)
    room = len(server.log) + 300_000
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
    try:
        names_it(world, said, "disk i/o error", "the disk reports an error")
    finally:
        unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, unlimited)
    world.fault_ended()
    world.prove(codes={BROKER, STORE})
    assert integrity(world) == ["ok", "ok"]


def complaints(world: MachineWorld) -> list[str]:
    """Why daemons have tried again so far, and what runners have said."""
    retries = [event["message"] for daemon in world.daemons() for event in daemon.events("retry")]
    return [line.lower() for line in (*retries, *(asked.talk for asked in world.runners.asked))]


def names_it(world: MachineWorld, said: list[str], *words: str) -> None:
    """Until somebody says one of the words, who has not ``said`` it before."""

    def named() -> bool:
        return any(word in line for word in words for line in complaints(world) if line not in said)

    wait_until(named, f"somebody says {words}", world.fleet.logs, NAMED_WITHIN_S)


def fill(ballast: Path) -> None:
    """Take all the space that there is on a disk."""
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            with suppress(OSError):
                while True:
                    file.write(b"x" * size)


@pytest.mark.long
def test_files_that_can_t_be_written_are_named_and_used_as_soon_as_they_can(local_world: MachineWorld) -> None:
    """By those who open them now: who has them open may go on."""
    world = local_world
    world.moment()
    node = world.chance.choice(world.nodes)
    for path in (world.bus, world.database):
        path.chmod(0o400)
    try:
        world.kill_server(world.chance.choice(world.servers))
        world.kill_client(node)
        for daemon in (world.start_server(), world.start_client(node)):
            assert "can't be written" in daemon.wait_for("retry")["message"]
        asked = world.runners.ask("quick", world.nodes)
        assert asked.exit_code == BROKER
        assert "it can't be written" in asked.talk
    finally:
        for path in (world.bus, world.database):
            path.chmod(0o600)
    world.fault_ended()
    world.prove(codes={BROKER, STORE})
    assert integrity(world) == ["ok", "ok"]
