"""What one client sets for all its plugins: whatever takes too much is ended, says why, and stops nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers.processes import Fleet, wait_until

pytestmark = pytest.mark.parametrize("fleet", [("local", "sqlite")], indirect=True, ids=["local"])
PROGRAMS = {
    "hog": "held = bytearray(10**9)",
    "burner": "while True: pass",
    "hoarder": "held = [open('/dev/null') for _ in range(100)]",
}
# Not without an end, should the limit not hold.
BOMB = "i=0; while [ $i -lt 300 ]; do i=$((i+1)); sleep 30 & done; wait"
LIMITS = ("--max-memory", "400MB", "--max-cpu", "1s", "--max-files", "60", "--max-processes", "40")


@pytest.fixture
def limited(fleet: Fleet) -> Iterator[Fleet]:
    """A node with plugins that take what they can get, and limits for all of them."""
    for name, program in PROGRAMS.items():
        (fleet.plugins / f"{name}.py").write_text(program)
        fleet.plugin(name, f"{sys.executable} -S {name}.py", timeout="60s")
    fleet.plugin("facts", "echo fact")
    fleet.server().wait_for("ready")
    if os.geteuid() == 0:
        fleet.plugin("bomb", f"sh -c '{BOMB}'", user="nobody", timeout="60s")
        client = fleet.client("web01", *LIMITS)
    else:  # its own processes count, too
        client = fleet.client("web01", *LIMITS[:-2])
    fleet.wait_known("web01")
    yield fleet
    assert client.process.poll() is None
    assert fleet.ask("-c", "facts", "-n", "web01")["web01"]["stage"] == "stored", "the client goes on"


@pytest.mark.parametrize(
    ("alias", "reason"),
    [
        ("hog", "exit code 1; it seems to need more than its max_memory of 400000000 bytes"),
        ("burner", "killed by signal 24 (SIGXCPU); it used more than its max_cpu of 1.0s"),
        ("hoarder", "exit code 1; it seems to need more than its max_files of 60"),
    ],
)
def test_one_that_takes_too_much_is_ended_and_says_why(limited: Fleet, alias: str, reason: str) -> None:
    answer = limited.ask("-c", alias, "-n", "web01")["web01"]
    assert (answer["stage"], answer["reason"].partition(": ")[2][: len(reason)]) == ("failed", reason)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_fork_bomb_is_ended_with_all_that_it_has_started(limited: Fleet) -> None:
    answer = limited.ask("-c", "bomb", "-n", "web01")["web01"]
    assert answer["stage"] == "failed"
    assert "it seems to need more than its max_processes of 40" in answer["reason"]
    wait_until(lambda: not sleepers(), "all that it has started is gone")


def sleepers() -> list[str]:
    found = subprocess.run(["ps", "-eo", "user,args"], capture_output=True, text=True, check=True).stdout
    return [line for line in found.splitlines() if line.split() == ["nobody", "sleep", "30"]]


def test_a_plugin_file_has_the_last_word_for_less_for_more_and_for_none(fleet: Fleet) -> None:
    fleet.plugin("usual", "sh -c 'ulimit -n; ulimit -t; ulimit -v'")
    fleet.plugin("less", "sh -c 'ulimit -n'", max_files="30")
    fleet.plugin("more", "sh -c 'ulimit -n'", max_files="90")
    fleet.plugin("none", "sh -c 'ulimit -n; ulimit -v'", max_files="", max_memory="")
    assert shown(fleet, "usual", *LIMITS) == ["60", "1", "390625"]
    assert shown(fleet, "less", *LIMITS) == ["30"]
    assert shown(fleet, "more", *LIMITS) == ["90"]
    before = subprocess.run(["sh", "-c", "ulimit -n; ulimit -v"], capture_output=True, text=True, check=True).stdout
    assert shown(fleet, "none", *LIMITS) == before.split()


def test_without_any_limit_it_leaves_no_core_and_is_the_first_to_go_when_memory_is_short(fleet: Fleet) -> None:
    fleet.plugin("usual", "sh -c 'sleep 0.2; ulimit -c; ulimit -Hc; cat /proc/self/oom_score_adj'")
    assert shown(fleet, "usual") == ["0", "0", "1000"]
    assert Path("/proc/self/oom_score_adj").read_text().strip() != "1000"


@pytest.mark.skipif(os.geteuid() != 0, reason="it is root's plugins that the kernel does not limit in this")
def test_the_number_of_processes_is_no_limit_for_a_plugin_that_runs_as_root(fleet: Fleet) -> None:
    fleet.plugin("ours", "sh -c 'ulimit -p || ulimit -u'")
    fleet.plugin("theirs", "sh -c 'ulimit -p || ulimit -u'", user="nobody")
    assert shown(fleet, "ours", *LIMITS) != ["40"]
    assert shown(fleet, "theirs", *LIMITS) == ["40"]


def shown(fleet: Fleet, alias: str, *flags: str) -> list[str]:
    """What ``vogeler-client test`` shows, as lines."""
    command = [str(fleet.commands / "vogeler-client"), "test", alias, "--plugins", str(fleet.plugins), *flags]
    done = subprocess.run(command, env=fleet.environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return [line.strip(' ",') for line in done.stdout.splitlines() if line.strip() not in ("[", "]")]
