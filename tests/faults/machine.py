"""A world on the engines of one machine, which no service serves, with files of its own."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from tests.faults.world import World
from tests.servers.processes import Fleet

DISK_BYTES = 64 * 1024 * 1024


class MachineWorld(World):
    """A world that knows its files, ``bus`` and ``database``, which are in a folder of their own."""

    bus: Path
    database: Path


@contextmanager
def machine_world(folder: Path, chance: random.Random, clients: int) -> Iterator[MachineWorld]:
    """On the local engines, not started yet."""
    bus, database = folder / "data" / "bus.db", folder / "data" / "vogeler.db"
    fleet = Fleet(f"local://{bus}", f"sqlite://{database}", folder)
    if os.geteuid() == 0:  # root may write what is read-only, but for this capability
        fleet.prefix = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    world = MachineWorld(fleet, chance, lambda: local_queues(bus), clients)
    world.bus, world.database = bus, database
    with small_disk(bus.parent):
        try:
            yield world
        finally:
            world.stop()


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A folder on a disk of its own, where we may mount one; else it is a folder like others."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "vogeler-test", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        yield
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], capture_output=True, check=True)


def local_queues(bus: Path) -> dict[str, int]:
    """All queues of a bus, with what is handed out."""
    with closing(sqlite3.connect(f"file:{bus}?mode=ro", uri=True, timeout=30)) as db:
        return dict(db.execute("SELECT name, (SELECT count(*) FROM messages WHERE queue = name) FROM queues"))
