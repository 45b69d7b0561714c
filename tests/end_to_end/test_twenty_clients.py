"""The size that the project promises on one machine: 20 clients, three runners at once, two servers."""

from __future__ import annotations

import json
import shutil
import subprocess
from contextlib import closing

import pytest

from tests.servers.processes import Fleet

NODES = [f"node{number:02d}" for number in range(20)]


def test_every_runner_ends_with_20_of_20_and_the_documents_hold_what_the_machine_says(fleet: Fleet) -> None:
    if shutil.which("dpkg-query") is None:
        pytest.fail("this test compares with dpkg-query: run it on Debian")
    fleet.plugin("dpkg", "dpkg-query -W")
    fleet.plugin("kernel", "uname -a", result_format="string")
    fleet.plugin("accounts", "cat /etc/passwd")
    for server in [fleet.server(), fleet.server()]:
        server.wait_for("ready")
    for node in NODES:
        fleet.client(node)
    fleet.wait_known(*NODES)

    runners = [
        fleet.start_runner("-c", alias, "-n", "all", "--format", "json") for alias in ("dpkg", "kernel", "accounts")
    ]
    for runner in runners:
        rows = json.loads(runner.communicate(timeout=120)[0])
        assert [(row["node"], row["stage"]) for row in rows] == [(node, "stored") for node in NODES]
        assert runner.returncode == 0

    packages = subprocess.run(["dpkg-query", "-W"], capture_output=True, text=True, check=True).stdout.splitlines()
    with closing(fleet.store()) as store:
        for node in NODES:
            record = store.record(node)
            assert record is not None
            assert record["dpkg"] == packages
            assert record.keys() >= {"kernel", "accounts"}
