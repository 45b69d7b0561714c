"""The plugins that come with Vogeler: they load, they run where they can, and they read what others recorded.

``recorded/<plugin>[.<function>]/<case>.txt`` is what a tool printed, ``<case>.json`` what is to be made of it:
a bug report becomes two files, and no code.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

from vogeler import formats, plugins
from vogeler.collect import collect
from vogeler.leaves import leaves, without
from vogeler.messages import FAILED, OK, UNAVAILABLE
from vogeler.plugins import Plugin

from .conftest import Write

SHIPPED = Path(__file__).parents[2] / "plugins"
RECORDED = Path(__file__).parent / "recorded"
LOADED = plugins.load([SHIPPED])
NAMES = [plugin.name for plugin in LOADED.plugins]


class Address(NamedTuple):
    """As psutil gives them."""

    family: int
    address: str


def shipped(name: str) -> Plugin:
    plugin = LOADED.find(name)
    assert plugin is not None
    return plugin


def script(name: str) -> Any:
    """One of the Python scripts, imported: nothing in it runs by that."""
    spec = importlib.util.spec_from_file_location(f"shipped_{name}", SHIPPED / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def awk(name: str) -> Callable[[str], Any]:
    def run(text: str) -> Any:
        lines = sorted(text.splitlines(keepends=True))
        command = ["awk", "-f", str(SHIPPED / f"{name}.awk")]
        done = subprocess.run(command, input="".join(lines), stdout=subprocess.PIPE, check=True, text=True)
        return formats.parse("keyvalue", done.stdout.encode())

    return run


def parser(name: str) -> Callable[[str], Any]:
    if name == "packages":
        return awk(name)
    if name == "users":
        return lambda text: script(name).parse(*text.split("# /etc/group\n"))
    plugin, _, function = name.partition(".")
    parse: Callable[[str], Any] = getattr(script(plugin), function or "parse")
    return parse


def test_they_load_without_a_problem() -> None:
    assert LOADED.problems == ()
    assert sorted(path.stem for path in SHIPPED.glob("*.cfg")) == NAMES
    assert all(plugin.description and plugin.alias for plugin in LOADED.plugins)


def test_the_names_of_2010_are_still_answered_to() -> None:
    words = {"rpms": "rpms", "get_rpms": "rpms", "facter": "facter", "get_facts": "facter", "ohai": "ohai",
             "ps": "ps", "get_procs": "ps"}  # fmt: skip
    assert {word: shipped(word).name for word in words} == words


@pytest.mark.parametrize("name", NAMES)
def test_they_run_here_or_say_why_not(name: str) -> None:
    plugin = shipped(name)
    collected = collect(plugin)
    if plugins.unavailable_reason(plugin) is not None:
        assert (collected.status, collected.exit_code) == (UNAVAILABLE, None)
    elif name == "services" and not Path("/run/systemd/system").is_dir():
        assert (collected.status, collected.exit_code) == (UNAVAILABLE, 69)
        assert "systemd" in (collected.error or "")
    else:
        assert (collected.status, collected.error) == (OK, None)


@pytest.mark.parametrize("name", ["system", "mounts", "users", "packages", "dpkg"])
def test_the_same_facts_twice_are_no_change(name: str) -> None:
    first, second = collect(shipped(name)), collect(shipped(name))
    assert first.digest == second.digest


@pytest.mark.parametrize(
    "recorded", sorted(RECORDED.glob("*/*.txt")), ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_recorded(recorded: Path) -> None:
    expected = json.loads(recorded.with_suffix(".json").read_text(encoding="utf-8"))
    assert parser(recorded.parent.name)(recorded.read_text(encoding="utf-8")) == expected


# --- Red Hat, played by a script --------------------------------------------------------------------

RPM = """\
#!/bin/sh
[ -e "{directory}/broken" ] && {{ echo 'error: rpmdb: damaged header' >&2; exit 1; }}
case "$*" in
    "-qa") cut -f2-4 "{rows}" | sed 's/\\t/-/' ;;
    "-qa --qf "*) cat "{rows}" ;;
    *) exit 64 ;;
esac
"""


@pytest.fixture
def red_hat(write: Write) -> Path:
    """A PATH with rpm and the usual tools, and without dpkg-query."""
    rows = RECORDED / "packages/rocky9-kernels.txt"
    directory = write("bin/rpm", "", 0o755).parent
    write("bin/rpm", RPM.format(directory=directory, rows=rows), 0o755)
    for tool in ("sh", "awk", "sort", "dirname", "cat", "cut", "sed"):
        found = shutil.which(tool)
        assert found is not None
        (directory / tool).symlink_to(found)
    return directory


def test_packages_on_red_hat(red_hat: Path) -> None:
    collected = collect(replace(shipped("packages"), env={"PATH": str(red_hat)}))
    assert collected.error is None
    assert collected.value == json.loads((RECORDED / "packages/rocky9-kernels.json").read_text())


@pytest.mark.parametrize("name", ["packages", "rpms"])
def test_a_broken_rpm_database_is_a_failure_and_not_an_empty_list(red_hat: Path, name: str) -> None:
    (red_hat / "broken").touch()
    collected = collect(replace(shipped(name), env={"PATH": str(red_hat)}))
    assert (collected.status, collected.exit_code) == (FAILED, 1)
    assert collected.error == "exit code 1: error: rpmdb: damaged header"


def test_rpms_are_sorted(red_hat: Path) -> None:
    collected = collect(replace(shipped("get_rpms"), env={"PATH": str(red_hat)}))
    assert collected.status == OK
    assert len(collected.value) == 10
    assert collected.value == sorted(collected.value)


def test_packages_where_there_is_neither(write: Write) -> None:
    directory = write("bin/none", "").parent
    collected = collect(replace(shipped("packages"), env={"PATH": str(directory)}))
    assert collected.status == UNAVAILABLE
    assert "dpkg-query or rpm" in (collected.error or "")


def test_services_of_a_node_with_systemd(write: Write) -> None:
    recorded = RECORDED / "services/debian12.txt"
    directory = write("bin/systemctl", f"#!/bin/sh\nexec /bin/cat {recorded}\n", 0o755).parent
    collected = collect(replace(shipped("services"), env={"PATH": str(directory)}))
    assert collected.value == json.loads(recorded.with_suffix(".json").read_text())


# --- the parts that ask the kernel ------------------------------------------------------------------


def test_a_port_of_ours_is_listened_on() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        value = collect(shipped("listening")).value
        port = server.getsockname()[1]
        (found,) = (row for row in value if row["port"] == port)
    process = psutil.Process()
    expected = {"protocol": "tcp", "address": "127.0.0.1", "port": port}
    assert found == {**expected, "process": process.name(), "user": process.username()}


def test_a_java_machine_is_found(tmp_path: Path) -> None:
    """Played by a program under the name of java: what counts is the command line."""
    (tmp_path / "java").symlink_to(sys.executable)
    argv = [str(tmp_path / "java"), "-c", "input()", "-Dcom.sun.management.jmxremote.port=12345", "Main"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE) as machine:
        rows = [json.loads(line) for line in script("jmx").raw().splitlines()]
        machine.communicate(b"\n")
    assert [psutil.Process().username(), argv] in rows


def test_disks(tmp_path: Path) -> None:
    system = script("system")
    for name, size in (("sda", "2048\n"), ("loop0", "8\n"), ("sdb", "0\n")):
        (tmp_path / name / "queue").mkdir(parents=True)
        (tmp_path / name / "size").write_text(size)
        (tmp_path / name / "queue/rotational").write_text("1\n")
    assert system.disks(tmp_path) == {"sda": {"size_bytes": 1048576, "model": None, "rotational": True}}
    assert system.disks(tmp_path / "none") == {}


def test_the_volatile_facts_of_a_system_are_in_it() -> None:
    """Named as they are in the value: else each check would be a change."""
    plugin = shipped("system")
    value = collect(plugin).value
    found = dict(leaves(value, "system"))
    assert all(isinstance(found[f"system.{path}"], int) for path in plugin.volatile)
    assert {"uptime_s"} < set(plugin.volatile)
    assert without(value, plugin.volatile)["memory"].keys() == {"total_bytes", "swap_bytes"}


def test_networks() -> None:
    rows = {
        "eth0": [
            Address(socket.AF_INET6, "fe80::1%eth0"),
            Address(socket.AF_INET, "10.0.0.2"),
            Address(psutil.AF_LINK, "02:00:00:00:00:01"),
        ],
        "veth12": [Address(socket.AF_INET, "10.0.0.3")],
        "lo": [],
    }
    assert script("system").networks(rows, {}) == {
        "eth0": {"mac": "02:00:00:00:00:01", "ipv4": ["10.0.0.2"], "ipv6": ["fe80::1"], "mtu": None, "up": None}
    }


def test_boot_time_is_to_the_minute() -> None:
    boot_time = script("system").boot_time
    assert boot_time(1_800_000_001.4) == boot_time(1_800_000_002.9) == "2027-01-15T08:00Z"


def test_no_script_is_left_without_a_plugin_file() -> None:
    scripts = {path.stem for path in SHIPPED.iterdir() if path.suffix in (".py", ".sh", ".awk")}
    assert scripts <= set(NAMES)
    assert os.access(SHIPPED / "packages.sh", os.X_OK)
