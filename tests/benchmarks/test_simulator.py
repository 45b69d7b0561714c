"""Simulated nodes answer as real ones do, and what they say they collected is what is stored."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from benchmarks.simulator import KEYS, Simulator, Slice, groups_of, node_name
from tests.servers.processes import Fleet
from vogeler.messages import digest_of

NAMES = tuple(node_name(number) for number in range(3))


def test_what_simulated_nodes_collected_is_stored_and_nothing_else(tmp_path: Path) -> None:
    fleet = Fleet(f"local://{tmp_path}/bus.db", f"sqlite://{tmp_path}/vogeler.db", tmp_path)
    fleet.server().wait_for("ready")
    simulator = Simulator(Slice(fleet.qhost, NAMES, seed=1, heartbeat_s=60.0))
    try:
        simulator.ask("start")
        fleet.wait_known(*NAMES)
        told = [fleet.ask("-c", "packages", "-n", "all"), fleet.ask("-c", "get_packages", "-n", "all")]
        simulator.ask("change", KEYS)
        told.append(fleet.ask("-c", "packages", "-n", f"group:{groups_of(NAMES[0])[0]}"))
        sent = simulator.ask("stop")
    finally:
        simulator.kill()
        fleet.stop()
    stages = [{node: row["stage"] for node, row in rows.items()} for rows in told]
    assert stages == [dict.fromkeys(NAMES, "stored"), dict.fromkeys(NAMES, "unchanged"), {NAMES[0]: "stored"}]
    assert {node: len(keys["packages"]) for node, keys in sent.items()} == dict(zip(NAMES, (2, 1, 1)))
    with closing(fleet.store()) as store:
        stored = {record["_id"]: digest_of(record["packages"]) for record in store.records()}
    assert stored == {node: keys["packages"][-1] for node, keys in sent.items()}
