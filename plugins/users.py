"""The plugin ``users``: who is in /etc/passwd, and the groups of /etc/group they are in.

The files and not the name service: a directory server may know a hundred thousand, and none of them
belongs to this node. Passwords are in neither file, and nothing of their field is kept.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def parse(passwd: str, group: str) -> dict[str, dict[str, Any]]:
    """``{name: {uid, gid, home, shell, groups}}``; groups sorted by name, the user's own first one included."""
    groups = [fields for fields in _fields(group, 4) if fields[2].isdigit()]
    return {
        name: {
            "uid": int(uid),
            "gid": int(gid),
            "home": home,
            "shell": shell,
            "groups": sorted({g[0] for g in groups if g[2] == gid or name in g[3].split(",")}),
        }
        for name, _, uid, gid, _, home, shell in _fields(passwd, 7)
        if uid.isdigit() and gid.isdigit()
    }


def _fields(text: str, count: int) -> list[list[str]]:
    """Lines of that many fields; comments and the ``+`` lines of NIS have fewer, or no number."""
    rows = (line.split(":") for line in text.splitlines() if not line.startswith(("#", "+", "-")))
    return [row for row in rows if len(row) == count]


if __name__ == "__main__":
    files = [Path(name).read_text(encoding="utf-8", errors="replace") for name in ("/etc/passwd", "/etc/group")]
    json.dump(parse(*files), sys.stdout, indent=1)
