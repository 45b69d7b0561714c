"""What find writes for other programs, read by them where they are to be had."""

from __future__ import annotations

import csv
import json
import subprocess
from contextlib import closing
from io import StringIO
from typing import Any

import pytest

from tests.servers.processes import COMMANDS, Fleet
from vogeler.errors import ExitCode
from vogeler.messages import Heartbeat, Result, digest_of, now

RECORDS: dict[str, dict[str, Any]] = {
    "web01": {"system": {"os": {"id": "debian"}}, "jmx": [{"port": 9010}, {"port": 9999}]},
    "web02": {"system": {"os": {"id": "rocky, or not"}}, "jmx": []},
    "db-1.example": {"system": {"os": {"id": 'a "quoted"\nline'}}, "jmx": [{"port": 5433}]},
    "new01": {},
}
GROUPS = {"web01": ["web", "prod-eu"], "web02": ["web"], "db-1.example": [], "new01": ["web"]}


@pytest.fixture
def found(fleet: Fleet) -> Fleet:
    """A fleet that was heard of."""
    with closing(fleet.store()) as store:
        store.apply([Heartbeat(node, {"groups": groups}) for node, groups in GROUPS.items()], now())
        results = [
            Result(node, key, key, 1, "ok", now(), value=value, digest=digest_of(value))
            for node, record in RECORDS.items()
            for key, value in record.items()
        ]
        assert {outcome.stage for outcome in store.apply(results, now())} == {"stored"}
    return fleet


def exported(fleet: Fleet, *arguments: str) -> str:
    done = fleet.admin("find", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_ansible_takes_the_inventory(found: Fleet) -> None:
    """Groups with their hosts, fields as variables; what is no identifier becomes one."""
    inventory = found.directory / "hosts.json"
    inventory.write_text(exported(found, "name = *", "--fields", "system.os.id,jmx.port", "--format", "ansible"))
    done = subprocess.run(
        [str(COMMANDS / "ansible-inventory"), "-i", str(inventory), "--list"],
        env={**found.environment, "HOME": str(found.directory), "ANSIBLE_LOCALHOST_WARNING": "false"},
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert "WARNING" not in done.stderr
    listed = json.loads(done.stdout)
    assert listed["web"]["hosts"] == ["new01", "web01", "web02"]
    assert listed["prod_eu"]["hosts"] == ["web01"]
    assert listed["ungrouped"]["hosts"] == ["db-1.example"]
    variables = listed["_meta"]["hostvars"]
    assert variables["web01"] == {"system_os_id": "debian", "jmx_port": [9010, 9999]}
    assert variables["db-1.example"] == {"system_os_id": 'a "quoted"\nline', "jmx_port": 5433}
    assert variables["web02"] == {"system_os_id": "rocky, or not", "jmx_port": None}


def test_prometheus_gets_a_target_for_every_port(found: Fleet) -> None:
    """Of the nodes that have one; labels are texts with allowed names."""
    flags = ("--fields", "system.os.id", "--format", "prometheus", "--port")
    groups = json.loads(exported(found, "jmx", *flags, "jmx.port"))
    assert {group["labels"]["node"]: group["targets"] for group in groups} == {
        "web01": ["web01:9010", "web01:9999"],
        "db-1.example": ["db-1.example:5433"],
    }
    assert {"node": "web01", "groups": ",web,prod-eu,", "system_os_id": "debian"} in [g["labels"] for g in groups]
    fixed = json.loads(exported(found, "group = web", *flags, "9100"))
    assert [group["targets"] for group in fixed] == [["new01:9100"], ["web01:9100"], ["web02:9100"]]


def test_csv_json_and_json_lines_hold_the_same(found: Fleet) -> None:
    """A list in a CSV cell is JSON; nothing is an empty cell."""
    question = ("name = *", "--fields", "system.os.id,jmx.port", "--format")
    rows = json.loads(exported(found, *question, "json"))
    assert rows == [json.loads(line) for line in exported(found, *question, "jsonl").splitlines()]
    assert [row["node"] for row in rows] == sorted(RECORDS)
    written = list(csv.DictReader(StringIO(exported(found, *question, "csv"))))
    assert [row["system.os.id"] for row in written] == [row["system.os.id"] or "" for row in rows]
    assert [row["jmx.port"] for row in written] == ["5433", "", "[9010, 9999]", ""]


def test_nobody_found_is_an_empty_file_of_its_kind_and_an_exit_code(found: Fleet) -> None:
    """So that what reads it does not stumble, and a script can tell."""
    for format, empty in (("json", []), ("ansible", {"all": {"hosts": {}, "children": {}}})):
        done = found.admin("find", "packages.telnetd", "--format", format)
        assert (done.returncode, json.loads(done.stdout)) == (ExitCode.NOT_FOUND, empty), done.stderr
