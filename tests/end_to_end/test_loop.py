"""From a runner's command to a document per node, with real processes on each pair of engines."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.servers.processes import Fleet, wait_until
from vogeler.errors import ExitCode
from vogeler.messages import Command, now
from vogeler.runner import Limits, Runner


@pytest.fixture
def running(fleet: Fleet) -> Fleet:
    """Two servers and three clients with a plugin whose output a test can change."""
    (fleet.directory / "facts").write_text("alpha\nbeta\n")
    fleet.plugin("facts", f"cat {fleet.directory}/facts", command_alias="get_facts", result_key="things")
    fleet.plugin("broken", "sh -c 'echo it is late >&2; exit 3'")
    fleet.plugin("unparsable", "echo {", result_format="json")
    fleet.plugin("slow", f"{sys.executable} -c 'import time; time.sleep(60)'", timeout="300ms")
    fleet.plugin("chatty", "yes", max_output="100kB")
    fleet.plugin("elsewhere", "no-such-program", requires="no-such-program")
    for daemon in [fleet.server(), fleet.server()]:
        daemon.wait_for("ready")
    for node, flags in (("web01", ["--groups", "web,prod"]), ("web02", ["--groups", "web"]), ("db01", [])):
        fleet.client(node, *flags)
    fleet.wait_known("web01", "web02", "db01")
    return fleet


def test_a_command_becomes_a_document_per_node_and_the_runner_ends_by_itself(running: Fleet) -> None:
    done = running.runner("-c", "get_facts", "-n", "all", "--format", "json")
    assert done.returncode == ExitCode.OK, done.stderr
    rows = json.loads(done.stdout)
    assert [(row["node"], row["stage"], row["key"]) for row in rows] == [
        (node, "stored", "things") for node in ("db01", "web01", "web02")
    ]
    assert "3 stored" in done.stderr
    with closing(running.store()) as store:
        record = store.record("web01")
    assert record is not None
    assert record["things"] == ["alpha", "beta"]
    assert record["system_name"] == record["_id"] == "web01"
    assert "@" in record["vogeler"]["keys"]["things"]["requested_by"]


def test_of_nodes_that_have_all_answered_the_store_is_not_asked_again(running: Fleet) -> None:
    with closing(running.store()) as store:  # in SQLite it answers no more once it is closed
        runner = Runner(running.transport, store, Limits(), lambda tally: store.close())
        tally = runner.run(Command("facts", "test", now(), {"nodes": ["web01", "db01"]}))
    assert {row.node: row.stage for row in tally.rows()} == {"web01": "stored", "db01": "stored"}


def test_what_has_not_changed_is_not_stored_again_and_what_has_is(running: Fleet) -> None:
    def ask() -> set[str]:
        return {row["stage"] for row in running.ask("-c", "facts", "-n", "all").values()}

    assert [ask(), ask()] == [{"stored"}, {"unchanged"}]
    (running.directory / "facts").write_text("gamma\n")
    assert ask() == {"stored"}
    with closing(running.store()) as store:
        assert [change["value"] for change in store.history("web01", "things")] == [["gamma"], ["alpha", "beta"]]


def test_only_the_nodes_that_are_meant_answer(running: Fleet) -> None:
    for nodes, answering in {
        "web01": {"web01"},
        "web*": {"web01", "web02"},
        "db01,group:prod": {"db01", "web01"},
        "group:web,web01": {"web01", "web02"},
    }.items():
        answers = running.ask("-c", "facts", "-n", nodes)
        assert {node for node, row in answers.items() if row["stage"] in ("stored", "unchanged")} == answering, nodes


WAYS_TO_FAIL = [
    ("broken", "failed", "it is late", ExitCode.SOME_FAILED),
    ("unparsable", "failed", "unparsable", ExitCode.SOME_FAILED),
    ("slow", "failed", "timeout", ExitCode.SOME_FAILED),
    ("chatty", "failed", "too_large", ExitCode.SOME_FAILED),
    ("elsewhere", "unavailable", "no-such-program", ExitCode.NOWHERE_AVAILABLE),
    ("fact", "unavailable", "did you mean 'facts'", ExitCode.NOWHERE_AVAILABLE),
]


def test_every_way_to_fail_has_its_own_honest_answer(running: Fleet) -> None:
    for alias, stage, reason, code in WAYS_TO_FAIL:
        done = running.runner("-c", alias, "-n", "web*", "--format", "json")
        assert done.returncode == code, done.stderr
        rows = json.loads(done.stdout)
        assert [(row["node"], row["stage"]) for row in rows] == [("web01", stage), ("web02", stage)]
        assert all(reason in row["reason"] for row in rows), rows
    with closing(running.store()) as store:
        assert not {alias for alias, *_ in WAYS_TO_FAIL} & (store.record("web01") or {}).keys()


def test_a_node_that_is_gone_is_named_with_when_it_was_last_heard(running: Fleet) -> None:
    dead = running.client("gone01")
    running.wait_known("gone01")
    dead.kill()
    done = running.runner("-c", "facts", "-n", "all", "--discovery", "500ms", "--format", "json")
    rows = {row["node"]: row for row in json.loads(done.stdout)}
    assert done.returncode == ExitCode.SOME_SILENT
    assert rows["gone01"]["stage"] == "silent"
    assert rows["gone01"]["heard_at"].startswith("20")
    assert "silent: gone01: last heard 20" in done.stderr


def test_a_name_that_nobody_ever_heard_of_is_silent_too(running: Fleet) -> None:
    done = running.runner("-c", "facts", "-n", "web99", "--discovery", "200ms")
    assert done.returncode == ExitCode.NOBODY_ANSWERED
    assert "silent: web99: never heard" in done.stderr


def test_show_prints_the_values(running: Fleet) -> None:
    shown = running.runner("-c", "facts", "-n", "web01", "--show")
    assert shown.stdout == "== web01  stored\nalpha\nbeta\n"
    rows = json.loads(running.runner("-c", "facts", "-n", "web01", "--show", "--format", "json").stdout)
    assert rows[0]["value"] == ["alpha", "beta"]
    table = running.runner("-c", "facts", "-n", "web01", "--show", "--format", "csv").stdout.splitlines()
    assert table[0] == "node,stage,key,duration_s,reason,heard_at,value"


def test_no_wait_prints_the_run_and_leaves_and_the_result_is_stored_all_the_same(running: Fleet) -> None:
    done = running.runner("-c", "facts", "-n", "db01", "--no-wait")
    assert done.returncode == ExitCode.OK
    run = done.stdout.strip()
    with closing(running.store()) as store:
        wait_until(lambda: (store.status("db01") or {}).get("keys", {}).get("things", {}).get("run") == run, "stored")


def test_several_runners_at_once_do_not_see_each_other(running: Fleet) -> None:
    running.plugin("other", "echo other")
    aliases = ["facts", "broken", "unparsable"]
    runners = [running.start_runner("-c", alias, "-n", "all", "--format", "json") for alias in aliases]
    answers = [json.loads(runner.communicate(timeout=60)[0]) for runner in runners]
    assert [{row["stage"] for row in rows} for rows in answers] == [{"stored"}, {"failed"}, {"failed"}]
    assert all(len(rows) == 3 for rows in answers)


def test_splay_spreads_and_the_runner_waits_for_it(running: Fleet) -> None:
    answers = running.ask("-c", "facts", "-n", "all", "--splay", "1s")
    assert {row["stage"] for row in answers.values()} == {"stored"}


def test_rereading_the_plugins_needs_no_restart(running: Fleet) -> None:
    client = running.client("new01")
    running.wait_known("new01")
    assert running.ask("-c", "fresh", "-n", "new01")["new01"]["stage"] == "unavailable"
    running.plugin("fresh", "echo here")
    client.signal(signal.SIGHUP)
    client.wait_for("reload")
    assert running.ask("-c", "fresh", "-n", "new01")["new01"]["stage"] == "stored"


def test_a_stopping_client_finishes_what_runs(running: Fleet, tmp_path: Path) -> None:
    started, go_on = tmp_path / "started", tmp_path / "go-on"
    running.plugin("patient", f"sh -c 'touch {started}; while [ ! -e {go_on} ]; do sleep 0.02; done; echo done'")
    client = running.client("last01")
    running.wait_known("last01")
    runner = running.start_runner("-c", "patient", "-n", "last01", "--format", "json")
    wait_until(started.exists, "the plugin runs")
    client.process.terminate()
    go_on.touch()
    assert json.loads(runner.communicate(timeout=60)[0])[0]["stage"] == "stored"
    assert client.process.wait(30) == 0


def test_a_client_killed_while_its_plugin_runs_runs_it_again_when_it_is_back(running: Fleet, tmp_path: Path) -> None:
    started, go_on = tmp_path / "started", tmp_path / "go-on"
    running.plugin("patient", f"sh -c 'touch {started}; while [ ! -e {go_on} ]; do sleep 0.02; done; echo done'")
    client = running.client("back01")
    running.wait_known("back01")
    runner = running.start_runner("-c", "patient", "-n", "back01", "--format", "json", "--timeout", "60s")
    wait_until(started.exists, "the plugin runs")
    client.kill()
    go_on.touch()
    running.client("back01")
    assert json.loads(runner.communicate(timeout=90)[0])[0]["stage"] == "stored"


def test_a_second_client_of_one_name_says_so_and_stops(running: Fleet) -> None:
    second = running.client("web01")
    assert second.process.wait(30) == ExitCode.NAME_TAKEN
    assert "web01" in second.log
    assert running.ask("-c", "facts", "-n", "web01")["web01"]["stage"] == "stored"


def test_a_plugin_with_an_interval_runs_by_itself(running: Fleet) -> None:
    running.plugin("clock", "date +%s%N", interval="200ms", splay="10ms")
    running.client("tick01")
    with closing(running.store()) as store:
        wait_until(lambda: len(list(store.history("tick01", "clock"))) >= 3, "three runs by schedule")
        record = store.record("tick01")
    assert record is not None
    assert record["vogeler"]["keys"]["clock"]["requested_by"] is None


def test_the_daemons_stop_on_sigterm_with_exit_code_0(fleet: Fleet) -> None:
    fleet.plugin("facts", "echo fact")
    server, client = fleet.server(), fleet.client("web01")
    fleet.wait_known("web01")
    assert [client.stop(), server.stop()] == [0, 0]


def test_results_wait_for_a_server_that_comes_late(fleet: Fleet) -> None:
    fleet.plugin("facts", "echo fact")
    assert fleet.admin("setup").returncode == 0
    client = fleet.client("web01")
    client.wait_for("ready")
    runner = fleet.start_runner("-c", "facts", "-n", "web01", "--format", "json")
    client.wait_for("collected")
    fleet.server()
    assert json.loads(runner.communicate(timeout=60)[0])[0]["stage"] == "stored"


def test_a_server_killed_at_any_moment_loses_nothing(fleet: Fleet) -> None:
    fleet.plugin("random", "sh -c 'head -c 8 /dev/urandom | od -A n -t x1'")
    fleet.server().wait_for("ready")
    nodes = [f"n{number}" for number in range(4)]
    for node in nodes:
        fleet.client(node)
    fleet.wait_known(*nodes)
    victim = fleet.server()
    victim.wait_for("ready")
    for _ in range(5):
        runner = fleet.start_runner("-c", "random", "-n", "all", "--format", "json")
        victim.kill()
        victim = fleet.server()
        rows = json.loads(runner.communicate(timeout=90)[0])
        assert [(row["node"], row["stage"]) for row in rows] == [(node, "stored") for node in nodes]


def test_progress_is_quiet_in_a_pipe(running: Fleet) -> None:
    assert "\r" not in running.runner("-c", "facts", "-n", "all").stderr


def test_no_password_in_the_process_list_or_any_log(running: Fleet) -> None:
    secrets = [url.split(":")[2].split("@")[0] for url in (running.qhost, running.dbhost) if "@" in url]
    listing = subprocess.run(["ps", "-eww", "-o", "args"], capture_output=True, text=True, check=True).stdout
    texts = listing + "".join(path.read_text() for path in running.directory.glob("*.log"))
    vogeler_lines = "\n".join(line for line in texts.splitlines() if "vogeler" in line)
    assert not [secret for secret in secrets if secret and secret in vogeler_lines]
