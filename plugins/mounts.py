"""The plugin ``mounts``: mounted file systems, without those of the kernel, of containers and of sessions."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

_PASSING = re.compile(
    r"/(?:proc|sys|dev|run|snap)(?:/.*)?"
    r"|/var/lib/(?:docker|containers|containerd|kubelet|lxcfs)/.*"
    r"|/var/snap/.*"
)
_ESCAPED = re.compile(r"\\([0-7]{3})")


def parse(text: str) -> list[dict[str, Any]]:
    """Objects sorted by mount point, from the lines of /proc/self/mounts (fstab(5))."""
    found = []
    for line in text.splitlines():
        device, mountpoint, kind, options = (_unescaped(field) for field in line.split(" ")[:4])
        if not _PASSING.fullmatch(mountpoint):
            found.append(
                {"device": device, "mountpoint": mountpoint, "type": kind, "options": sorted(options.split(","))}
            )
    return sorted(found, key=lambda mount: (mount["mountpoint"], mount["device"]))


def _unescaped(field: str) -> str:
    return _ESCAPED.sub(lambda match: chr(int(match.group(1), 8)), field)


if __name__ == "__main__":
    mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace")
    json.dump(parse(mounts), sys.stdout, indent=1)
