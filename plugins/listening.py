"""The plugin ``listening``: ports somebody listens on, with process and user where we may see them.

Neither process ids nor the passing UDP ports of clients (those in the kernel's local port range) are in it,
so that the list changes when a service does. ``--raw`` prints what ``parse`` is given, for a bug report.
"""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import psutil

Row = tuple[str, str, int, Optional[str], Optional[str]]
FIELDS = ("protocol", "address", "port", "process", "user")


def parse(text: str) -> list[dict[str, Any]]:
    """Sorted objects from lines of JSON: ``[low, high]`` local ports first, then one list per socket."""
    (low, high), *rows = (json.loads(line) for line in text.splitlines())
    kept = {tuple(row) for row in rows if not (row[0] == "udp" and low <= row[2] <= high)}
    order = sorted(kept, key=lambda row: (row[0], row[2], row[1], row[3] or "", row[4] or ""))
    return [dict(zip(FIELDS, row)) for row in order]


def raw() -> str:
    """What the kernel knows, as ``parse`` takes it."""
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in (_local_ports(), *_sockets()))
    return lines.encode("utf-8", "replace").decode()  # the name of a process can hold any bytes


def _sockets() -> Iterator[Row]:
    for found in psutil.net_connections("inet"):
        udp = found.type == socket.SOCK_DGRAM
        if found.laddr and (not found.raddr if udp else found.status == psutil.CONN_LISTEN):
            yield ("udp" if udp else "tcp", found.laddr.ip, found.laddr.port, *_owner(found.pid))


def _owner(pid: int | None) -> tuple[str | None, str | None]:
    if pid is None:
        return None, None
    try:
        process = psutil.Process(pid)
        return process.name(), process.username()
    except psutil.Error:
        return None, None


def _local_ports() -> tuple[int, int]:
    try:
        low, high = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()
    except OSError:
        return 32768, 60999
    return int(low), int(high)


if __name__ == "__main__":
    text = raw()
    print(text if "--raw" in sys.argv else json.dumps(parse(text), indent=1))
