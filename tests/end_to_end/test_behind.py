"""Who is out of line, who is behind, what happens now, and what has had its time; on each pair of engines."""

from __future__ import annotations

import csv
import io
import json
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.persistence.proxy import Exchange, Proxy, running
from tests.servers.processes import COMMANDS, Fleet, wait_until
from vogeler.errors import ExitCode
from vogeler.messages import Heartbeat, Result, now
from vogeler.units import to_timestamp

DAY_S = 86400.0
PACKAGES = {"openssl": "3.0.13", "curl": "7.88"}


def ago(age_s: float) -> str:
    return to_timestamp(time.time() - age_s)


def result(node: str, key: str, value: Any, seq: int = 1, age_s: float = 0.0, status: str = "ok") -> Result:
    return Result(node, key, key, seq, status, ago(age_s), value=value)


def heartbeat(node: str, *groups: str) -> Heartbeat:
    return Heartbeat(node, {"version": "1.0", "started_at": ago(DAY_S), "groups": list(groups), "plugins": []})


def store(fleet: Fleet, *messages: Result | Heartbeat, age_s: float = 0.0) -> None:
    with closing(fleet.store()) as opened:
        assert not [outcome for outcome in opened.apply(messages, ago(age_s)) if outcome.refused]


def rows(fleet: Fleet, *arguments: str) -> list[dict[str, Any]]:
    done = fleet.admin(*arguments, "--format", "json")
    assert done.returncode == ExitCode.OK, done.stderr
    listed: list[dict[str, Any]] = json.loads(done.stdout)
    return listed


@pytest.fixture
def five(fleet: Fleet) -> Fleet:
    """Four web servers, of which one is old, and a database that knows less of itself."""
    for number, version in enumerate(["3.0.13", "3.0.13", "3.0.13", "3.0.11"], 1):
        node = f"web{number:02}"
        packages = {**PACKAGES, "openssl": version, **({"telnetd": "0.17"} if version == "3.0.11" else {})}
        store(fleet, heartbeat(node, "web"), result(node, "packages", packages), result(node, "ports", [22, 80, 80]))
    store(fleet, heartbeat("db01"), result("db01", "ports", [22, 5432]))
    return fleet


# --- summary and outliers ---------------------------------------------------------------------------


def test_summary_counts_the_nodes_by_value_and_those_without(five: Fleet) -> None:
    assert rows(five, "summary", "packages.openssl") == [
        {"path": "packages.openssl", "value": "3.0.13", "nodes": 3, "share": 0.6},
        {"path": "packages.openssl", "value": "3.0.11", "nodes": 1, "share": 0.2},
        {"path": None, "value": "(absent)", "nodes": 1, "share": 0.2},
    ]
    table = five.admin("summary", "packages.openssl").stdout.splitlines()
    assert [line.split()[0] for line in table] == ["VALUE", "3.0.13", "3.0.11", "(absent)"]
    assert [line.count("█") for line in table] == [0, 18, 6, 6]


def test_summary_counts_a_node_for_each_entry_of_its_list_once(five: Fleet) -> None:
    counts = {row["value"]: row["nodes"] for row in rows(five, "summary", "ports")}
    assert counts == {22: 5, 80: 4, 5432: 1}


def test_summary_of_a_mapping_of_a_glob_and_of_some_nodes(five: Fleet) -> None:
    whole = [(row["path"], row["value"], row["nodes"]) for row in rows(five, "summary", "packages", "-n", "web*")]
    assert whole == [
        ("packages.curl", "7.88", 4), ("packages.openssl", "3.0.13", 3),
        ("packages.openssl", "3.0.11", 1), ("packages.telnetd", "0.17", 1),
    ]  # fmt: skip
    assert [row["path"] for row in rows(five, "summary", "packages.te*d", "-n", "web04")] == ["packages.telnetd"]
    top = five.admin("summary", "packages", "-n", "group:web", "--top", "2", "--format", "csv")
    assert list(csv.reader(io.StringIO(top.stdout))) == [
        ["path", "value", "nodes", "share"],
        ["packages.curl", "7.88", "4", "1.0"], ["packages.openssl", "3.0.13", "3", "0.75"],
    ]  # fmt: skip
    assert top.stderr == "and 2 more values\n"


def test_summary_of_what_nobody_has_says_so(five: Fleet) -> None:
    done = five.admin("summary", "package", "--format", "json")
    assert [row["value"] for row in json.loads(done.stdout)] == ["(absent)"]
    assert "no node has anything at package;" in done.stderr
    assert five.admin("summary", "*.openssl").returncode == ExitCode.USAGE


def test_outliers_are_those_that_differ_from_most_of_the_nodes_that_have_the_key(five: Fleet) -> None:
    found = rows(five, "outliers", "packages")
    assert [tuple(row.values()) for row in found] == [
        ("web04", 2, "packages.openssl", "differs", "3.0.11", "3.0.13"),
        ("web04", 2, "packages.telnetd", "extra", "0.17", None),
    ]
    assert [tuple(row.values()) for row in rows(five, "outliers", "ports")] == [
        ("db01", 2, "ports", "extra", 5432, None),
        ("db01", 2, "ports", "misses", None, 80),
    ]
    done = five.admin("outliers", "packages", "--top", "1")
    assert done.stdout.splitlines()[0].split() == ["NODE", "DEVIATIONS", "PATH", "HOW", "VALUE", "USUAL"]
    assert done.stderr == "1 of the 4 nodes that have packages differ from the majority\n"


def test_outliers_of_what_nobody_has_is_not_found(five: Fleet) -> None:
    assert five.admin("outliers", "nothing").returncode == ExitCode.NOT_FOUND
    assert five.admin("outliers", "packages", "-n", "db*").returncode == ExitCode.NOT_FOUND


# --- nodes ------------------------------------------------------------------------------------------


@pytest.fixture
def behind(fleet: Fleet) -> Fleet:
    """One node that is there, one that is late, one that is silent; each with facts of another age."""
    for node, age_s in (("web01", 5.0), ("web02", 200.0), ("db01", 2 * DAY_S)):
        messages = [result(node, "packages", PACKAGES, age_s=age_s), result(node, "broken", None, status="failed")]
        store(fleet, heartbeat(node, node[:-2]), *messages, age_s=age_s)
    return fleet


def test_nodes_tells_who_is_online_late_or_silent_and_since_when(behind: Fleet) -> None:
    found = {row["node"]: row for row in rows(behind, "nodes")}
    assert {node: row["state"] for node, row in found.items()} == {"db01": "silent", "web01": "online", "web02": "late"}
    assert found["db01"]["since"] == found["db01"]["heard_at"] < found["web02"]["since"]
    assert found["web01"]["since"] < found["web01"]["heard_at"]
    assert {row["problems"] for row in found.values()} == {"broken"}
    assert {node: row["stale"] for node, row in found.items()} == {"db01": "packages", "web01": "", "web02": ""}


def test_nodes_lists_only_those_asked_for(behind: Fleet) -> None:
    def names(*arguments: str) -> list[str]:
        return [row["node"] for row in rows(behind, "nodes", *arguments)]

    assert names("-n", "group:web") == names("-n", "web*") == ["web01", "web02"]
    assert names("--silent") == ["db01"]
    assert names("--late") == ["web02"]
    assert names("--late", "--silent") == ["db01", "web02"]
    assert names("--late", "--late-after", "1s", "--silent-after", "1h") == ["web01", "web02"]
    assert names("--silent", "--silent-after", "3d") == []
    assert behind.admin("nodes", "--silent-after", "1s").returncode == ExitCode.USAGE
    assert behind.admin("nodes", "--stale", "often").returncode == ExitCode.USAGE


def test_limits_are_settings_for_nodes_and_doctor_alike(behind: Fleet) -> None:
    def found(*flags: str) -> tuple[list[str], str, str]:
        doctor = {row["check"]: row for row in json.loads(behind.admin("doctor", *flags, "--format", "json").stdout)}
        listed = rows(behind, "nodes", *flags)
        states = [row["state"] for row in listed]
        assert doctor["nodes"]["state"] == ("ok" if states == ["online"] * 3 else "warn")
        assert doctor["keys"]["state"] == ("warn" if any(row["stale"] for row in listed) else "ok")
        return states, doctor["nodes"]["finding"], doctor["keys"]["finding"]

    assert found() == (["silent", "online", "late"], "3 known, 1 late, 1 silent", "stale on 1 of 3 nodes")
    flags = ("--late-after", "3d", "--silent-after", "4d", "--stale-after", "1m")
    assert found(*flags) == (["online"] * 3, "3 known, 0 late, 0 silent", "stale on 2 of 3 nodes")
    behind.environment["VOGELER_LATE_AFTER"] = "1ms"
    with Path(behind.environment["VOGELER_CONFIG"]).open("a") as file:
        file.write("[admin]\nsilent_after = 2m\nstale_after = 3d\n")
    assert found() == (["silent", "late", "silent"], "3 known, 1 late, 2 silent", "stale on 0 of 3 nodes")
    assert behind.admin("doctor", "--silent-after", "0.5ms").returncode == ExitCode.USAGE


def test_a_key_is_stale_after_three_intervals_of_its_plugin(fleet: Fleet) -> None:
    fleet.plugin("facts", "echo fact", interval="1s", splay="1ms")
    fleet.plugin("rare", "echo fact")
    server = fleet.server()
    client = fleet.client("web01")
    client.wait_for("collected")
    store(fleet, result("web01", "rare", 1, age_s=3600.0))
    wait_until(lambda: "facts" in checks_of_node(fleet, "web01"), "facts are stored", fleet.logs)
    client.stop()
    wait_until(lambda: [row["stale"] for row in rows(fleet, "nodes", "--stale")] == ["facts"], "facts are stale")
    assert [row["stale"] for row in rows(fleet, "nodes", "--stale", "--stale-after", "5m")] == ["facts,rare"]
    assert [row["stale"] for row in rows(fleet, "nodes", "--stale", "5m")] == ["rare"]
    assert rows(fleet, "nodes", "--stale", "1d") == []
    assert server.stop() == ExitCode.OK


def checks_of_node(fleet: Fleet, node: str) -> dict[str, Any]:
    with closing(fleet.store()) as opened:
        return dict((opened.status(node) or {}).get("keys", {}))


def test_nodes_lists_those_with_old_facts_and_which(behind: Fleet) -> None:
    assert [(row["node"], row["stale"]) for row in rows(behind, "nodes", "--stale", "1m")] == [
        ("db01", "packages"), ("web02", "packages"),
    ]  # fmt: skip
    assert [row["node"] for row in rows(behind, "nodes", "--stale", "2h")] == ["db01"]
    assert rows(behind, "nodes", "--stale", "10d") == []


# --- retention --------------------------------------------------------------------------------------


def history(fleet: Fleet, node: str) -> list[dict[str, Any]]:
    with closing(fleet.store()) as opened:
        return list(opened.history(node))


def test_a_server_removes_old_history_and_keeps_the_newest_versions(fleet: Fleet) -> None:
    for seq in range(1, 9):
        store(fleet, result("web01", "kernel", f"6.1.{seq}", seq, age_s=(110 - seq) * DAY_S), age_s=(110 - seq) * DAY_S)
    store(fleet, result("web01", "kernel", "6.1.9", 9, age_s=DAY_S), age_s=DAY_S)
    server = fleet.server("--retention-check", "200ms", "--history-versions", "3")
    assert server.wait_for("pruned")["message"].endswith(": 6 removed")
    assert [change["value"] for change in history(fleet, "web01")] == ["6.1.9", "6.1.8", "6.1.7"]


def test_the_value_before_the_horizon_stays_even_with_one_version(fleet: Fleet) -> None:
    for seq, age_s in enumerate([100 * DAY_S, 95 * DAY_S, 2 * DAY_S, DAY_S], 1):
        store(fleet, result("web01", "kernel", seq, seq, age_s=age_s), age_s=age_s)
    server = fleet.server("--retention-check", "200ms", "--history-versions", "1")
    assert server.wait_for("pruned")["message"].endswith(": 1 removed")
    assert [change["value"] for change in history(fleet, "web01")] == [4, 3, 2]


def test_a_node_that_is_silent_for_long_is_forgotten_and_comes_back_when_it_speaks(fleet: Fleet) -> None:
    store(fleet, heartbeat("gone01"), result("gone01", "facts", ["old"], age_s=DAY_S), age_s=DAY_S)
    store(fleet, heartbeat("web02"), age_s=600.0)
    fleet.plugin("facts", "echo fact")
    server = fleet.server("--retention-check", "200ms", "--decommission", "1h")
    fleet.client("web01")
    fleet.wait_known("web01")
    assert server.wait_for("forgotten")["node"] == "gone01"
    assert [row["node"] for row in rows(fleet, "nodes")] == ["web01", "web02"]
    assert [(entry["event"], entry["requested_by"]) for entry in history(fleet, "gone01")] == [
        ("forgotten", "retention"), ("change", None),
    ]  # fmt: skip
    fleet.client("gone01")
    fleet.wait_known("gone01")
    assert fleet.ask("-c", "facts", "-n", "gone01")["gone01"]["stage"] == "stored"
    assert len(server.events("forgotten")) == 1
    events = [(entry["event"], entry["requested_by"] is None) for entry in history(fleet, "gone01")]
    assert events[1:] == [("returned", True), ("forgotten", False), ("change", True)]


def test_retention_does_not_keep_results_from_being_stored(fleet: Fleet) -> None:
    """A check without end, and a pile to remove: what comes in is stored all the same."""
    for start in range(0, 3000, 500):
        pile = [result("web02", "kernel", seq, seq, age_s=100 * DAY_S) for seq in range(start, start + 500)]
        store(fleet, *pile, age_s=100 * DAY_S)
    fleet.plugin("facts", "date +%N")
    server = fleet.server("--retention-check", "1ms", "--decommission", "365d")
    fleet.client("web01")
    fleet.wait_known("web01")
    for _ in range(5):
        assert fleet.ask("-c", "facts", "-n", "web01")["web01"]["stage"] == "stored"
    wait_until(lambda: len(history(fleet, "web02")) == 10, "the pile is gone", fleet.logs)
    assert server.stop() == ExitCode.OK


# --- watch ------------------------------------------------------------------------------------------


class Watch:
    """A running ``vogeler-admin watch``, whose stdout is a pipe into a file."""

    def __init__(self, process: subprocess.Popen[bytes], out: Path, err: Path):
        self.process, self._out, self._err = process, out, err
        wait_until(lambda: "watching" in self.talk(), "watching", self.talk)

    def talk(self) -> str:
        """What it has said to stderr."""
        return self._err.read_text()

    def lines(self, count: int) -> list[str]:
        """All lines, once there are as many."""
        wait_until(lambda: self._out.read_text().count("\n") >= count, f"{count} lines", self.talk)
        return self._out.read_text().splitlines()

    def interrupt(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(10)


@contextmanager
def watching(fleet: Fleet, *arguments: str) -> Iterator[Watch]:
    out, err = fleet.directory / "watch.out", fleet.directory / "watch.err"
    with out.open("wb") as stdout, err.open("wb") as stderr:
        process = subprocess.Popen(
            [str(COMMANDS / "vogeler-admin"), "watch", *arguments],
            env=fleet.environment, stdout=stdout, stderr=stderr,
        )  # fmt: skip
    try:
        yield Watch(process, out, err)
    finally:
        process.kill()
        process.wait()


def test_watch_prints_each_change_as_it_is_stored_until_interrupted(fleet: Fleet) -> None:
    store(fleet, result("web01", "packages", PACKAGES, 1))
    with watching(fleet) as watch:
        store(fleet, result("web01", "packages", {**PACKAGES, "openssl": "3.0.14"}, 2))
        (line,) = watch.lines(1)
        assert line.split("  ")[1:] == ["web01", "packages", "schedule", "openssl 3.0.13 → 3.0.14"]
        store(fleet, result("web02", "packages", PACKAGES, 1))
        assert watch.lines(2)[1].endswith("web02  packages  schedule  first time: 2 entries")
        store(fleet, result("web02", "packages", PACKAGES, 2), result("web01", "packages", PACKAGES, 1))
        fleet.admin("forget", "web02")
        third = watch.lines(3)[2].split("  ")
        assert (third[1], third[2], third[4]) == ("web02", "-", "the node was forgotten")
        assert watch.interrupt() == ExitCode.INTERRUPTED


def test_watch_as_json_is_an_object_a_line_with_a_patch(fleet: Fleet) -> None:
    store(fleet, result("web01", "packages", PACKAGES, 1))
    with watching(fleet, "--format", "json", "--key", "packages") as watch:
        store(fleet, result("web01", "other", 1, 1), result("web01", "packages", {"curl": "7.88"}, 2))
        line: Mapping[str, Any] = json.loads(watch.lines(1)[0])
        assert (line["node"], line["key"], line["event"], line["late"]) == ("web01", "packages", "change", False)
        assert line["what"] == "-openssl 3.0.13"
        assert line["patch"] == [{"op": "remove", "path": "/openssl"}]
        store(fleet, result("web01", "packages", PACKAGES, 1, age_s=60.0), result("web01", "packages", PACKAGES, 3))
        assert json.loads(watch.lines(2)[-1])["what"] == "+openssl 3.0.13"
        assert line["stored_at"] <= now()
        store(fleet, result("web01", "packages", ["another", "shape"], 4))
        store(fleet, result("web01", "packages", ["shape", "another"], 5), result("web02", "packages", None))
        fleet.admin("forget", "web02")
        store(fleet, result("web02", "packages", {}, 2))
        shown = [json.loads(text) for text in watch.lines(6)[1:]]
        listed = rows(fleet, "changes", "--key", "packages")
        assert sorted(shown, key=str) == sorted(
            (row for row in listed if row["stored_at"] > line["stored_at"]), key=str
        )


class Outage:
    """A store that is away for those who have the fleet's settings, until it is back. It can be written to all along."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet

    @property
    def tries(self) -> int:
        """How often somebody has asked in vain, where that is known."""
        return 1000

    def away(self) -> None: ...

    def back(self) -> None: ...


class MovedFile(Outage):
    """The folder of an SQLite file, renamed."""

    def __init__(self, fleet: Fleet) -> None:
        super().__init__(fleet)
        self._there, self._elsewhere = fleet.directory / "there", fleet.directory / "elsewhere"
        self._there.mkdir()
        fleet.dbhost = f"sqlite://{self._there}/vogeler.db"
        fleet.environment["VOGELER_DBHOST"] = fleet.dbhost

    def away(self) -> None:
        self._there.rename(self._elsewhere)
        self.fleet.dbhost = f"sqlite://{self._elsewhere}/vogeler.db"

    def back(self) -> None:
        self._elsewhere.rename(self._there)
        self.fleet.dbhost = f"sqlite://{self._there}/vogeler.db"


class CutConnection(Outage):
    """A proxy in front of CouchDB that hangs up; or only on some requests."""

    def __init__(self, fleet: Fleet, proxy: Proxy) -> None:
        super().__init__(fleet)
        self._proxy, self._tries = proxy, 0
        parts = urlsplit(fleet.dbhost)
        proxy.upstream = (str(parts.hostname), int(parts.port or 0))
        proxy.behave = Exchange.pass_on
        fleet.environment["VOGELER_DBHOST"] = fleet.dbhost.replace(f":{parts.port}/", f":{proxy.port}/")

    @property
    def tries(self) -> int:
        return self._tries

    def away(self, which: str = "") -> None:
        def hang_up(exchange: Exchange) -> None:
            if which in exchange.path:
                self._tries += 1
                exchange.hang_up()
            else:
                exchange.pass_on()

        self._tries, self._proxy.behave = 0, hang_up

    def back(self) -> None:
        self._proxy.behave = Exchange.pass_on

    def tell_again(self) -> None:
        """The feed of changes begins anew, once: as in a cluster that has lost a member."""

        def rewind(exchange: Exchange) -> None:
            if "since=now" not in exchange.path and "_changes" in exchange.path:
                exchange.path = re.sub(r"since=[^&]*", "since=0", exchange.path)
                self.back()
            exchange.pass_on()

        self._proxy.behave = rewind


@pytest.fixture
def outage(fleet: Fleet) -> Iterator[Outage]:
    if fleet.dbhost.startswith("sqlite"):
        yield MovedFile(fleet)
    else:
        with running(Exchange.pass_on) as proxy:
            yield CutConnection(fleet, proxy)


def test_watch_waits_for_a_store_that_is_away_and_tells_what_was_stored_meanwhile(fleet: Fleet, outage: Outage) -> None:
    """Nothing is lost, nothing is told twice, and of the outage once."""
    with closing(fleet.store()) as opened:
        opened.setup()
    store(fleet, result("web01", "kernel", 0, 1))
    with watching(fleet, "--format", "json") as watch:
        store(fleet, result("web01", "kernel", 1, 2))
        watch.lines(1)
        outage.away()
        wait_until(lambda: "; trying again in " in watch.talk(), "it is said that the store is away", watch.talk)
        for seq in range(3, 6):
            store(fleet, result("web01", "kernel", seq - 1, seq), result("web02", "kernel", seq, seq))
        with closing(fleet.store()) as opened:
            opened.forget("web02", "alice", now())
        store(fleet, heartbeat("web02"))
        wait_until(lambda: outage.tries > 2, "it tries again", watch.talk)
        outage.back()
        watch.lines(9)
        store(fleet, result("web02", "kernel", 0, 9))
        told = [json.loads(line) for line in watch.lines(10)]
        assert [row["what"] for row in told if row["node"] == "web01"] == [f"{n} → {n + 1}" for n in range(4)]
        assert [row["event"] for row in told if row["node"] == "web02"] == [
            "change", "change", "change", "forgotten", "returned", "change",
        ]  # fmt: skip
        assert watch.talk().count("trying again in ") == 1
        assert watch.talk().endswith("the store is back\n")
        assert watch.interrupt() == ExitCode.INTERRUPTED
    assert len(watch.lines(10)) == 10


@pytest.mark.parametrize("fleet", [("local", "couch")], indirect=True, ids=["couch"])
def test_watch_tells_each_change_once_also_where_the_store_fails_in_between(
    fleet: Fleet, outage: CutConnection
) -> None:
    store(fleet, result("web01", "kernel", 0, 1))
    with watching(fleet) as watch:
        outage.away("_history/_all_docs")
        store(fleet, result("web01", "kernel", 1, 2))
        wait_until(lambda: outage.tries > 2, "it tries again", watch.talk)
        outage.back()
        assert watch.lines(1)[0].endswith("0 → 1")
        wait_until(lambda: "the store is back" in watch.talk(), "it is said that the store is back", watch.talk)
        assert watch.talk().count("trying again in ") == watch.talk().count("the store is back") == 1
        store(fleet, result("web01", "kernel", 2, 3))
        watch.lines(2)
        outage.tell_again()
        store(fleet, result("web01", "kernel", 3, 4))
        lines = watch.lines(4)  # the one from before it began, too
        assert sorted(line.split("  ")[-1] for line in lines) == ["0 → 1", "1 → 2", "2 → 3", "first time: 0"]


def test_watch_ends_where_there_is_no_store_to_begin_with(fleet: Fleet) -> None:
    done = fleet.admin("watch", "--dbhost", "couch://127.0.0.1:1/x")
    assert (done.returncode, done.stdout) == (ExitCode.STORE, "")


def test_watch_shows_only_nodes_that_match_with_the_change_in_their_record(fleet: Fleet) -> None:
    expression = "packages.openssl < 3.0.13 and group = web"
    with watching(fleet, expression, "--format", "csv") as watch:
        store(fleet, heartbeat("web01", "web"), heartbeat("db01", "db"))
        store(fleet, *(result(node, "packages", {"openssl": "3.0.11"}) for node in ("db01", "web01")))
        assert watch.lines(2)[1].split(",")[1:3] == ["web01", "packages"]
        store(fleet, result("web01", "packages", {"openssl": "3.0.13"}, 2))
        store(fleet, result("web01", "packages", {"openssl": "3.0.9"}, 3))
        assert watch.lines(3)[2].split(",")[4] == "openssl 3.0.13 → 3.0.9"
        assert len(watch.lines(3)) == 3
    assert fleet.admin("watch", "packages <").returncode == ExitCode.USAGE
