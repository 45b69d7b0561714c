"""What a batch tells of commands, and the log of a node."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest

from vogeler.audit import AuditLog, entries_of
from vogeler.errors import ConfigError
from vogeler.messages import ACCEPTED, OK, REFUSED, Decision, Heartbeat, Result, now

NOW = "2026-11-21T11:31:02.957Z"


def result(node: str, run: str | None = "run-1", by: str = "alice") -> Result:
    return Result(node, "rpms", "packages", 1, OK, now(), run=run, requested_by=by if run else None)


def test_what_many_nodes_decided_alike_is_one_entry() -> None:
    batch = [result(f"web{number}") for number in range(500)]
    batch.append(result("web0", "run-2"))
    refusals = [Decision(f"db{number}", "run-1", "rpms", "alice", REFUSED, "not here") for number in range(3)]
    entries = entries_of([*batch, *refusals], NOW)
    found = {(entry["run"], entry["stage"], entry["reason"]): list(entry["nodes"]) for entry in entries}
    assert found == {
        ("run-1", ACCEPTED, None): [f"web{number}" for number in range(500)],
        ("run-2", ACCEPTED, None): ["web0"],
        ("run-1", REFUSED, "not here"): ["db0", "db1", "db2"],
    }
    assert {entry["alias"] for entry in entries} == {"rpms"}
    assert len({entry["_id"] for entry in entries}) == 3
    assert all(entry["_id"].startswith(NOW) for entry in entries)


def test_what_nobody_asked_for_is_in_no_audit() -> None:
    assert entries_of([result("web01", None), Heartbeat("web01", {})], NOW) == []


def test_the_same_batch_makes_the_same_entries() -> None:
    batch = [result("web01"), result("web02", "run-2")]
    assert entries_of(batch, NOW) == entries_of(batch, NOW)


def test_a_line_holds_no_second_one_whatever_is_in_it(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.log")
    entries = [{"alias": "a\nb\u2028c\x1b[2J", "stage": REFUSED}, {"alias": "é", "stage": ACCEPTED}]
    for entry in entries:
        log.write(entry)
    text = (tmp_path / "audit.log").read_text()
    assert text.isascii()
    assert [json.loads(line) for line in text.splitlines()] == entries


def test_a_full_disk_stops_nothing_and_the_line_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        AuditLog(Path("/dev/full")).write({"alias": "rpms"})
    assert "No space left" in caplog.text
    assert '"rpms"' in caplog.text


def test_the_log_follows_no_link_and_joins_no_file_that_others_can_write(tmp_path: Path) -> None:
    target, link, open_to_all, pipe = (tmp_path / name for name in ("target", "link", "open", "pipe"))
    target.write_text("root:x:0:0\n")
    link.symlink_to(target)
    open_to_all.touch()
    open_to_all.chmod(0o666)
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    for path, reason in ((link, "is a link"), (open_to_all, "others can write it"), (pipe, "not a file")):
        with pytest.raises(ConfigError, match=rf"can't write {path}: .*{reason}"):
            AuditLog(path)
    os.close(reader)
    assert target.read_text() == "root:x:0:0\n"


def test_a_link_that_takes_the_place_of_the_log_later_is_not_followed_either(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log, target = AuditLog(tmp_path / "audit.log"), tmp_path / "target"
    target.touch()
    (tmp_path / "audit.log").unlink()
    (tmp_path / "audit.log").symlink_to(target)
    log.write({"alias": "rpms"})
    assert target.read_text() == ""
    assert '"alias": "rpms"' in caplog.text
