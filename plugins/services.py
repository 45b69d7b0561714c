"""The plugin ``services``: the services systemd has loaded, what they do, and whether they start at boot.

Without the units of sessions and ``systemd-run``, which come and go with people logging in.
Where systemd is installed but not running, as in most containers, the plugin is unavailable.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

COMMAND = ("systemctl", "show", "--no-pager", "--property=Id,LoadState,ActiveState,SubState,UnitFileState", "*.service")
_PASSING = re.compile(r"(user|user-runtime-dir|session|systemd-coredump)[@-].*|run-.*")


def parse(text: str) -> dict[str, dict[str, str]]:
    """``{name: {active, state, enabled}}`` from blocks of ``Property=value``, divided by blank lines."""
    units = {}
    for block in text.strip().split("\n\n"):
        unit = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        name = unit.get("Id", "").rpartition(".service")[0]
        passing = _PASSING.fullmatch(name) or unit.get("UnitFileState") == "transient"
        if name and not passing and unit.get("LoadState") == "loaded":
            units[name] = {
                "active": unit.get("ActiveState", ""),
                "state": unit.get("SubState", ""),
                "enabled": unit.get("UnitFileState", ""),
            }
    return units


def main() -> int:
    """Print the services; the exit code is systemctl's, or says that the plugin is unavailable."""
    done = subprocess.run(COMMAND, stdout=subprocess.PIPE, check=False)  # noqa: S603 - a constant
    if done.returncode == 0:
        print(json.dumps(parse(done.stdout.decode("utf-8", "replace")), indent=1))
    elif not Path("/run/systemd/system").is_dir():  # sd_booted(3)
        return os.EX_UNAVAILABLE
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
