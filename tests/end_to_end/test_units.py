"""The systemd units: nothing in them hides from plugins what they are to describe, and what is left open is known."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
UNITS = ROOT / "etc/systemd"
# Each gives a service something of its own in place of the node's: systemd.exec(5).
HIDES = {
    "ProtectSystem", "ProtectHome", "PrivateTmp", "PrivateDevices", "PrivateNetwork", "PrivateUsers", "PrivateIPC",
    "PrivateMounts", "PrivatePIDs", "ProtectHostname", "ProtectClock", "ProtectKernelTunables", "ProtectKernelModules",
    "ProtectKernelLogs", "ProtectControlGroups", "ProtectProc", "ProcSubset", "RootDirectory", "RootImage", "DeviceAllow",
    "DevicePolicy", "ReadOnlyPaths", "InaccessiblePaths", "TemporaryFileSystem", "BindPaths", "BindReadOnlyPaths",
    "MountAPIVFS", "DynamicUser", "MemoryDenyWriteExecute", "IPAddressDeny", "User",
}  # fmt: skip
# What is read where by the shipped plugins and the commonest others; each runs as root.
PROBES = {
    "dpkg": "dpkg -l", "dpkg-query": "dpkg-query -W", "rpm": "rpm -qa", "ps": "ps -ef", "ss": "ss -tlnp",
    "ip": "ip addr", "df": "df", "findmnt": "findmnt", "sysctl": "sysctl -n kernel.ostype", "crontab": "crontab -l || true",
    "cat": "cat /etc/shadow /proc/1/environ /proc/1/cmdline /proc/meminfo /sys/kernel/mm/transparent_hugepage/enabled",
    "ls": "ls -l /proc/1/exe /proc/1/fd /root /home /tmp /boot /dev", "id": "id nobody",
}  # fmt: skip


def settings(unit: str) -> dict[str, list[str]]:
    """Every setting of the unit's [Service], with the values of all its lines."""
    found: dict[str, list[str]] = {}
    text = (UNITS / f"vogeler-{unit}.service").read_text().partition("[Service]")[2].partition("[Install]")[0]
    for line in text.splitlines():
        if line and not line.startswith("#"):
            found.setdefault(line.partition("=")[0], []).append(line.partition("=")[2])
    return found


def capabilities() -> list[str]:
    """What the client keeps, in small letters, without cap_."""
    words = " ".join(settings("client")["CapabilityBoundingSet"]).split()
    assert not any(word.startswith("~") for word in words)
    return [word.lower().partition("_")[2] for word in words]


def test_plugins_see_the_node_and_no_copy_of_it() -> None:
    assert settings("client").keys() & HIDES == set()
    assert settings("client")["NoNewPrivileges"] == ["yes"]


@pytest.mark.parametrize("program", [name for name in PROBES if shutil.which(name)])
def test_with_what_the_client_is_left_plugins_read_the_same_as_without(program: str) -> None:
    """Its capabilities and no new privileges, as the kernel enforces them; who is not root has none to lose."""
    kept = ",".join(f"+{name}" for name in capabilities())
    flags = ["--bounding-set", f"-all,{kept}", "--inh-caps=-all"] if os.geteuid() == 0 else []
    command = ["sh", "-c", f"{PROBES[program]} >/dev/null"]
    free = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    bound = subprocess.run(
        ["setpriv", "--no-new-privs", *flags, *command], capture_output=True, text=True, timeout=60, check=False
    )
    assert (bound.returncode, bound.stderr) == (free.returncode, free.stderr)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_with_what_the_client_is_left_it_becomes_a_user_and_ends_what_runs_as_one(tmp_path: Path) -> None:
    (tmp_path / "probe.cfg").write_text(
        "[probe]\ncommand = sh -c 'id -un; sleep 99'\nuser = nobody\ntimeout = 1s\nmax_files = 64\nmax_processes = 99\n"
    )
    kept = ",".join(f"+{name}" for name in capabilities())
    client = [str(Path(sys.executable).parent / "vogeler-client"), "test", "probe", "--strict-modes", "no"]
    done = subprocess.run(
        ["setpriv", "--no-new-privs", "--bounding-set", f"-all,{kept}", "--inh-caps=-all", *client,
         "--plugins", str(tmp_path), "--node", "x"],
        env={**os.environ, "VOGELER_CONFIG": "/dev/null"}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "probe: timeout after" in done.stderr
    assert "can't be killed" not in done.stderr


def test_the_figures_in_the_documentation_are_what_systemd_says() -> None:
    """Of systemd 252, as in Debian 12. Where there is no systemd, that the figures are there."""
    text = (ROOT / "docs/security.md").read_text(encoding="utf-8")
    figures = dict(re.findall(r"^\| `vogeler-(client|server)\.service` \| ([\d.]+) \|", text, re.MULTILINE))
    assert figures.keys() == {"client", "server"}
    tool = shutil.which("systemd-analyze")
    version = subprocess.run([tool, "--version"], capture_output=True, text=True, check=True).stdout if tool else ""
    for unit, figure in figures.items():
        if tool and version.startswith("systemd 252"):
            command = [tool, "security", "--offline=true", "--no-pager", str(UNITS / f"vogeler-{unit}.service")]
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
            assert re.findall(r"exposure level for \S+: ([\d.]+)", done.stdout) == [figure], done.stdout[-2000:]
