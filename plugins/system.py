"""The plugin ``system``: what this node is made of.

The size of disks and not their usage, the time of the boot to the minute: so that a change in the record
is a change of the node. What changes by the second is named volatile in the plugin file.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import psutil

# Interfaces and devices that come and go with containers and images.
_PASSING_INTERFACES = ("lo", "veth", "cali", "cni", "lxc", "tap", "vnet")
_PASSING_DEVICES = ("loop", "ram", "zram", "sr", "fd")


def collect() -> dict[str, Any]:
    """All of it, as the record keeps it."""
    kernel, memory, swap = os.uname(), psutil.virtual_memory(), psutil.swap_memory()
    return {
        "hostname": kernel.nodename,
        "os": os_release(_first_of("/etc/os-release", "/usr/lib/os-release")),
        "kernel": {"name": kernel.sysname, "release": kernel.release, "architecture": kernel.machine},
        "boot_at": boot_time(psutil.boot_time()),
        "uptime_s": int(time.time() - psutil.boot_time()),
        "cpu": {
            "model": cpu_model(_first_of("/proc/cpuinfo")),
            "logical": psutil.cpu_count(),
            "physical": psutil.cpu_count(logical=False),
        },
        "memory": {
            "total_bytes": memory.total,
            "available_bytes": memory.available,
            "swap_bytes": swap.total,
            "swap_free_bytes": swap.free,
        },
        "disks": disks(Path("/sys/block")),
        "networks": networks(psutil.net_if_addrs(), psutil.net_if_stats()),
    }


def os_release(text: str) -> dict[str, str]:
    """The main fields of os-release(5), in lower case."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, divided, value = line.strip().partition("=")
        if divided and key in ("ID", "ID_LIKE", "NAME", "PRETTY_NAME", "VERSION_ID", "VERSION_CODENAME"):
            fields[key.lower()] = value.strip("\"'")
    return fields


def cpu_model(text: str) -> str | None:
    """The processor's name in /proc/cpuinfo; there is none on most of ARM."""
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "cpu", "Model", "Processor") and value.strip():
            return " ".join(value.split())
    return None


def boot_time(epoch_s: float) -> str:
    """To the minute: the kernel's answer moves by a second or two when the clock is corrected."""
    return time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime(epoch_s))


def disks(block: Path) -> dict[str, dict[str, Any]]:
    """Block devices under /sys/block with a size; the kernel counts in sectors of 512 bytes."""
    found = {}
    for device in sorted(block.iterdir()) if block.is_dir() else ():
        size_bytes = int(_first_of(device / "size") or 0) * 512
        if size_bytes and not device.name.startswith(_PASSING_DEVICES):
            model = _first_of(device / "device/model").strip()
            rotational = _first_of(device / "queue/rotational").strip() == "1"
            found[device.name] = {"size_bytes": size_bytes, "model": model or None, "rotational": rotational}
    return found


def networks(addresses: Mapping[str, Iterable[Any]], stats: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Interfaces with their addresses, from what psutil knows of both."""
    found = {}
    for name in sorted(addresses):
        if name.startswith(_PASSING_INTERFACES):
            continue
        of_family: dict[int, list[str]] = {}
        for address in addresses[name]:
            of_family.setdefault(address.family, []).append(address.address.partition("%")[0])
        found[name] = {
            "mac": next(iter(of_family.get(psutil.AF_LINK, [])), None),
            "ipv4": sorted(of_family.get(socket.AF_INET, [])),
            "ipv6": sorted(of_family.get(socket.AF_INET6, [])),
            "mtu": stats[name].mtu if name in stats else None,
            "up": stats[name].isup if name in stats else None,
        }
    return found


def _first_of(*paths: str | Path) -> str:
    for path in paths:
        try:
            return Path(path).read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
    return ""


if __name__ == "__main__":
    json.dump(collect(), sys.stdout, indent=1)
