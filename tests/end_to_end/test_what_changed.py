"""What changed, when, and who asked: vogeler-admin history, show --at, changes and diff, on each pair of engines."""

from __future__ import annotations

import csv
import json
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.persistence.examples import result
from tests.servers.processes import Fleet
from vogeler.errors import ExitCode
from vogeler.history import apply_patch
from vogeler.messages import now
from vogeler.units import parse_timestamp, to_timestamp

OLD = {"openssl": "3.0.11", "telnetd": "0.17"}
NEW = {"openssl": "3.0.13", "jq": "1.6"}


class Web:
    """web01 and db01, whose packages are what a file of each says."""

    def __init__(self, fleet: Fleet, directory: Path) -> None:
        self.fleet = fleet
        self._directory = directory
        fleet.server().wait_for("ready")
        for node in ("web01", "db01"):
            self.holds(node, OLD)
            plugins = directory / f"plugins-{node}"
            plugins.mkdir()
            lines = ["[packages]", "name = packages", "result_format = json", f"command = cat {directory}/{node}.json"]
            (plugins / "packages.cfg").write_text("\n".join(lines))
            fleet.client(node, "--plugins", str(plugins), "--groups", node[:-2])
        fleet.wait_known("web01", "db01")

    def holds(self, node: str, packages: object) -> None:
        """From now on these are the packages of a node."""
        (self._directory / f"{node}.json").write_text(json.dumps(packages))

    def ask(self, user: str, nodes: str = "all") -> str:
        """Ask as that user. Returns a time when the answers were stored."""
        self.fleet.environment["LOGNAME"] = user
        stages = {row["stage"] for row in self.fleet.ask("-c", "packages", "-n", nodes, "--discovery", "5s").values()}
        assert stages <= {"stored", "unchanged"}
        return self.pause()

    def pause(self) -> str:
        """A time with nothing stored at it or right before and after."""
        time.sleep(0.01)
        at = now()
        time.sleep(0.01)
        return at

    def data(self, *arguments: str) -> Any:
        done = self.fleet.admin(*arguments, "--format", "json")
        assert done.returncode == ExitCode.OK, done.stderr
        return json.loads(done.stdout)

    def lines(self, *arguments: str) -> list[str]:
        done = self.fleet.admin(*arguments)
        assert done.returncode == ExitCode.OK, done.stderr
        return done.stdout.splitlines()

    def fails(self, *arguments: str) -> str:
        done = self.fleet.admin(*arguments)
        assert done.returncode == ExitCode.NOT_FOUND, done.stdout + done.stderr
        assert done.stdout == ""
        return done.stderr


@pytest.fixture
def web(fleet: Fleet, tmp_path: Path) -> Web:
    return Web(fleet, tmp_path)


def user_of(row: dict[str, Any]) -> str:
    return str(row["requested_by"]).partition("@")[0]


def test_what_changed_last_night_and_who_asked(web: Web) -> None:
    """alice asks the evening before, bob at night, when only web01 has changed: one change, and bob asked."""
    evening = web.ask("alice")
    web.holds("web01", NEW)
    web.ask("bob")
    (row,) = web.data("changes", "--since", evening)
    assert (row["node"], row["key"], user_of(row)) == ("web01", "packages", "bob")
    assert row["what"] == "+jq 1.6, -telnetd 0.17, openssl 3.0.11 → 3.0.13"
    assert apply_patch(OLD, row["patch"]) == NEW
    assert row["changed"] == [{"name": "openssl", "old": "3.0.11", "new": "3.0.13"}]
    assert parse_timestamp(row["stored_at"]) >= parse_timestamp(evening)
    table = web.lines("changes", "--since", evening)
    assert table[0].split() == ["STORED", "AT", "NODE", "KEY", "REQUESTED", "BY", "WHAT"]
    assert table[1].split()[1:3] == ["web01", "packages"]
    detailed = web.lines("changes", "--since", evening, "--details")
    assert detailed[1:] == ["    + jq 1.6", "    ~ openssl 3.0.11 → 3.0.13", "    - telnetd 0.17"]


def test_changes_of_a_day_are_newest_first_and_of_the_nodes_the_keys_and_the_time_that_were_asked_for(web: Web) -> None:
    first = web.ask("alice")
    web.holds("web01", NEW)
    second = web.ask("bob")
    web.holds("db01", NEW)
    web.ask("carol", "db*")
    assert [(row["node"], user_of(row)) for row in web.data("changes")[:2]] == [("db01", "carol"), ("web01", "bob")]
    assert [row["what"] for row in web.data("changes")[2:]] == ["first time: 2 entries"] * 2
    assert len(web.data("changes", "--limit", "3")) == 3
    assert {row["node"] for row in web.data("changes", "-n", "group:web")} == {"web01"}
    assert {row["node"] for row in web.data("changes", "-n", "db*")} == {"db01"}
    assert {user_of(row) for row in web.data("changes", "--until", first)} == {"alice"}
    assert [user_of(row) for row in web.data("changes", "--since", first, "--until", second)] == ["bob"]
    assert web.data("changes", "--key", "nothing") == []
    assert len(web.data("changes", "--key", "packages")) == 4
    rows = list(csv.DictReader(web.lines("changes", "--format", "csv")))
    assert [row["node"] for row in rows[:2]] == ["db01", "web01"]
    assert "did you mean 'web01'?" in web.fails("changes", "-n", "web1")


def test_history_tells_each_change_with_run_and_user_and_what_came_late(web: Web) -> None:
    web.ask("alice", "web01")
    web.holds("web01", NEW)
    at = web.ask("bob", "web01")
    web.holds("web01", ["not", "a", "mapping"])
    web.ask("carol", "web01")
    with closing(web.fleet.store()) as store:
        late = result(
            1, {"openssl": "3.0.9"}, key="packages", requested_by="dave@ops1", collected_at="2026-01-31T08:00:00.000Z"
        )
        store.apply([late], now())
    rows = web.data("history", "web01", "packages")
    assert [user_of(row) for row in rows] == ["dave", "carol", "bob", "alice"]
    assert [(row["late"], row["what"]) for row in rows] == [
        (True, "came late: in the history only"),
        (False, rows[1]["what"]),
        (False, "+jq 1.6, -telnetd 0.17, openssl 3.0.11 → 3.0.13"),
        (False, "first time: 2 entries"),
    ]
    assert " → " in rows[1]["what"]
    value = None
    for row in reversed(rows[1:]):
        value = apply_patch(value, row["patch"])
    assert value == ["not", "a", "mapping"]
    assert rows[0]["patch"] is None
    assert len({row["run"] for row in rows}) == 4
    assert [user_of(row) for row in web.data("history", "web01", "--until", at)] == ["bob", "alice"]
    assert [user_of(row) for row in web.data("history", "web01", "--since", at, "--limit", "1")] == ["dave"]
    blocks = web.lines("history", "web01", "packages")
    assert f"run {rows[2]['run']}" in blocks[blocks.index("    + jq 1.6") - 1]
    assert "  collected 2026-01-31T08:00:00.000Z  " in blocks[0]
    table = web.lines("history", "web01")
    assert table[0].split() == ["STORED", "AT", "CHANGED", "AT", "KEY", "REQUESTED", "BY", "RUN", "WHAT"]
    assert len(table) == 5
    assert "no changes" in web.fleet.admin("history", "web01", "--until", "2026-01-31").stderr


def test_history_and_show_say_what_there_is_instead_of_what_is_not(web: Web) -> None:
    assert "has no history yet" in web.fails("history", "web01")
    web.ask("alice")
    assert "did you mean 'web01'?" in web.fails("history", "web1")
    assert "did you mean 'packages'?" in web.fails("history", "web01", "package")
    assert "did you mean 'packages'?" in web.fails("show", "web01", "package", "--at", "now")
    assert "did you mean 'web01'?" in web.fails("show", "web1", "--at", "now")
    bad = web.fleet.admin("show", "web01", "--at", "the day before")
    assert bad.returncode == ExitCode.USAGE
    assert "argument --at: 'the day before' is not a time such as" in bad.stderr


def test_show_at_gives_what_there_was_across_a_forget_and_before_there_was_anything(web: Web) -> None:
    before = web.pause()
    first = web.ask("alice", "web01")
    web.holds("web01", NEW)
    second = web.ask("bob", "web01")
    web.fleet.environment["LOGNAME"] = "carol"
    assert web.fleet.admin("forget", "web01").returncode == ExitCode.OK
    gone = web.pause()
    back = web.ask("dave", "web01")
    assert web.data("show", "web01", "packages", "--at", first) == OLD
    assert web.data("show", "web01", "packages", "--at", second) == NEW
    assert web.data("show", "web01", "packages", "--at", back) == NEW
    assert web.data("show", "web01", "packages", "--at", "now") == NEW
    record = web.data("show", "web01", "--at", first)
    assert (record["system_name"], record["packages"]) == ("web01", OLD)
    assert record["vogeler"]["keys"]["packages"]["requested_by"].startswith("alice@")
    row = web.lines("show", "web01", "--at", first, "--format", "csv")[1].split(",")
    assert row[:2] == ["packages", "2 entries"]
    assert row[-1].startswith("alice@")
    for at in (before, gone):
        assert "nothing was known of web01 at" in web.fails("show", "web01", "--at", at)
        assert "nothing was known of web01 at" in web.fails("show", "web01", "packages", "--at", at)
    for arguments in (["web01"], ["web01", "packages"]):
        rows = web.data("history", *arguments)
        assert [(row["event"], row["requested_by"] and user_of(row)) for row in rows] == [
            ("change", "dave"), ("returned", None), ("forgotten", "carol"), ("change", "bob"), ("change", "alice"),
        ]  # fmt: skip
        assert [row["patch"] is None for row in rows] == [False, True, True, False, False]
    assert len(web.data("history", "web01", "packages", "--since", second, "--limit", "2")) == 2
    assert web.lines("history", "web01", "packages")[1].split("  ")[1:] == ["the node returned"]
    assert [row["what"] for row in web.data("changes", "--since", second)] == [
        "first time: 2 entries", "the node returned", "the node was forgotten",
    ]  # fmt: skip


def test_a_forgotten_node_has_its_history(web: Web) -> None:
    at = web.ask("alice", "web01")
    with closing(web.fleet.store()) as store:
        store.apply([result(1, ["a"], "gone01")], now())
    held = web.pause()
    assert web.fleet.admin("forget", "gone01").returncode == ExitCode.OK
    assert [row["event"] for row in web.data("history", "gone01")] == ["forgotten", "change"]
    assert web.lines("show", "gone01", "rpms", "--at", held) == ["a"]
    assert [row["event"] for row in web.data("changes", "-n", "gone01", "--since", at)] == ["forgotten", "change"]
    assert "vogeler-admin history gone01" in web.fails("show", "gone01")
    assert "vogeler-admin history gone01" in web.fails("diff", "gone01", "web01")
    assert web.lines("diff", "gone01", "--between", at, held) == ['+ rpms ["a"]']


def test_diff_compares_two_nodes(web: Web) -> None:
    web.holds("db01", NEW)
    web.ask("alice")
    assert web.lines("diff", "web01", "db01") == [
        "+ packages.jq 1.6", "~ packages.openssl 3.0.11 → 3.0.13", "- packages.telnetd 0.17",
    ]  # fmt: skip
    assert web.lines("diff", "web01", "db01", "packages")[0] == "+ jq 1.6"
    data = web.data("diff", "web01", "db01")
    assert apply_patch({"packages": OLD}, data["patch"]) == {"packages": NEW}
    assert (data["from"]["node"], data["to"]["node"]) == ("web01", "db01")
    assert apply_patch(OLD, web.data("diff", "web01", "db01", "packages")["patch"]) == NEW
    rows = web.lines("diff", "web01", "db01", "packages", "--format", "csv")
    assert rows == ["change,name,old,new", "added,jq,,1.6", "removed,telnetd,0.17,", "changed,openssl,3.0.11,3.0.13"]
    same = web.fleet.admin("diff", "web01", "web01")
    assert (same.returncode, same.stdout, same.stderr) == (ExitCode.OK, "", "no difference\n")
    assert "did you mean 'packages'?" in web.fails("diff", "web01", "db01", "package")
    assert "did you mean 'db01'?" in web.fails("diff", "web01", "db1")
    for wrong in (["web01"], ["web01", "--between", "1d"], ["web01", "db01", "a", "b"], ["--between", "1d", "now"]):
        assert web.fleet.admin("diff", *wrong).returncode == ExitCode.USAGE


def test_diff_compares_a_node_between_two_times(web: Web) -> None:
    before = web.pause()
    first = web.ask("alice", "web01")
    web.holds("web01", NEW)
    second = web.ask("bob", "web01")
    lines = ["+ jq 1.6", "~ openssl 3.0.11 → 3.0.13", "- telnetd 0.17"]
    assert web.lines("diff", "web01", "packages", "--between", first, second) == lines
    assert web.lines("diff", "web01", "--between", first, second, "packages") == lines
    back = web.data("diff", "web01", "--between", second, first)
    assert apply_patch({"packages": NEW}, back["patch"]) == {"packages": OLD}
    assert (back["from"]["at"], back["to"]["at"]) == (second, first)
    assert web.fleet.admin("diff", "web01", "--between", second, "now").stderr == "no difference\n"
    new = web.fleet.admin("diff", "web01", "--between", before, first)
    assert new.stdout == '+ packages {"openssl": "3.0.11", "telnetd": "0.17"}\n'
    assert new.stderr == f"nothing was known of web01 at {before}\n"
    assert web.fleet.admin("diff", "web01", "--between", first, "soon").returncode == ExitCode.USAGE


def test_what_a_node_reports_is_no_command_to_the_terminal(web: Web) -> None:
    first = web.ask("alice", "web01")
    web.holds("web01", {**OLD, "\x1b[2Jname": "\x1b]0;title\x07" + "x" * 200})
    at = web.ask("bob", "web01")
    for arguments in (["changes"], ["changes", "--details"], ["history", "web01", "packages"],
                      ["diff", "web01", "--between", first, at, "packages"]):  # fmt: skip
        done = web.fleet.admin(*arguments)
        assert "\x1b" not in done.stdout
        assert "\\x1b" in done.stdout
        assert max(map(len, done.stdout.splitlines())) < 250


def test_a_night_with_many_changes_of_the_same_keys_is_told_whole_and_in_order(fleet: Fleet) -> None:
    """Each change is compared with the one right before it, also with the one before the period."""
    begin_s = parse_timestamp(now()) - 3600
    with closing(fleet.store()) as store:
        for step in range(12):
            batch = [
                result(1000 + step, {"step": step}, f"node{number}", key)
                for number in range(15) for key in ("a", "b")
            ]  # fmt: skip
            store.apply(batch, to_timestamp(begin_s + step))
    done = fleet.admin("changes", "--since", to_timestamp(begin_s + 5), "--format", "json")
    rows = json.loads(done.stdout)
    assert len(rows) == 7 * 30
    assert done.stderr == "210 changes\n"
    assert [row["stored_at"] for row in rows] == sorted((row["stored_at"] for row in rows), reverse=True)
    steps = {row["stored_at"]: int(parse_timestamp(row["stored_at"]) - begin_s + 0.5) for row in rows}
    assert all(row["what"] == f"step {steps[row['stored_at']] - 1} → {steps[row['stored_at']]}" for row in rows)
