"""What really ran: a plugin that writes its own log, and the reading of that log.

Each node has a folder of plugins with the same few aliases. All of them are one shell script that appends a line to a
log of the whole fleet when it begins and another when it ends, each in one write to a file opened for appending, so
that lines don't mix. What it prints is a value that no other run of any plugin prints. So whatever is found in
the store can be traced to the one run of a plugin that made it, and whatever ran can be looked for in the store.

One alias, ``steady``, prints the same on a node each time: what is in the store can't be traced, but is known.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Optional

# No forks but the sleep: a fleet runs hundreds of these. $PPID is the client's process.
_SCRIPT = """#!/bin/sh
read -r up rest </proc/uptime
value="$NODE-$KEY-$$-$up"
note() {
    read -r up rest </proc/uptime
    echo "$1 $NODE $KEY $value $PPID $$ $up" >>"$LOG"
}
note begin
[ -z "$PAUSE_S" ] || sleep "$PAUSE_S"
while [ -e "$HOLD" ]; do sleep 0.05; done
case "$MOODY$$" in
yes*[02468]) note failed; echo "$value" >&2; exit 3 ;;
esac
echo "${STEADY:-$value}"
note end
"""

# alias → the environment that makes it what it is. The alias is the key in the record, too.
ALIASES: dict[str, dict[str, str]] = {
    "quick": {},
    "slow": {"PAUSE_S": "0.7"},
    "moody": {"MOODY": "yes"},  # every other run fails
    "patient": {},  # for what a test holds up
    "probe": {},
    "steady": {},
}
FAILING, STEADY = "moody", "steady"


def steady_value(node: str) -> str:
    """What ``steady`` prints there."""
    return f"as ever on {node}"


@dataclass(frozen=True)
class PluginRun:
    """One run of a plugin, by its own account. Times in seconds on the wall clock."""

    node: str
    key: str
    value: str
    client_pid: int
    pid: int
    begun_at: float
    ended_at: Optional[float] = None
    failed: bool = False

    @property
    def succeeded(self) -> bool:
        return self.ended_at is not None and not self.failed

    def __str__(self) -> str:
        how = "did not end" if self.ended_at is None else "failed" if self.failed else "ended"
        begun = time.strftime("%H:%M:%S", time.gmtime(self.begun_at)) + f"{self.begun_at % 1:.2f}"[1:]
        return f"{self.value} of {self.node}, begun at {begun}, client {self.client_pid}: {how}"


class TruthLog:
    """The log of a fleet, and the folders of plugins that write it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.path = folder / "truth.log"
        self.path.touch()
        self._script = folder / "truth.sh"
        self._script.write_text(_SCRIPT)
        self._booted_at = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
        self._runs: dict[str, PluginRun] = {}
        self._read_bytes, self._lines = 0, 0

    def plugins_of(self, node: str) -> Path:
        """Make the folder of plugins of a node."""
        folder = self._folder / "nodes" / node
        folder.mkdir(parents=True, exist_ok=True)
        for alias, environment in ALIASES.items():
            steady = {"STEADY": steady_value(node)} if alias == STEADY else {}
            variables = {
                **steady,
                "NODE": node,
                "KEY": alias,
                "LOG": self.path,
                "HOLD": self.hold_of(node, alias),
                **environment,
            }
            lines = [f"[{alias}]", f"name = {alias}", f"command = sh {self._script}", "result_format = string"]
            lines += [f"env.{name} = {value}" for name, value in variables.items()]
            (folder / f"{alias}.cfg").write_text("\n".join([*lines, ""]))
        return folder

    def hold_of(self, node: str, alias: str) -> Path:
        """While this file is there, a run of the plugin on the node goes on."""
        return self._folder / "nodes" / node / f"{alias}.hold"

    def runs(self) -> dict[str, PluginRun]:
        """Every run so far, by value."""
        self._read_on()
        return dict(self._runs)

    def running(self) -> list[PluginRun]:
        """Those that have begun and not ended; some may have been killed."""
        return [run for run in self.runs().values() if run.ended_at is None]

    def count(self) -> int:
        """How many lines there are."""
        self._read_on()
        return self._lines

    def _read_on(self) -> None:
        """What was written since the last time."""
        with self.path.open("rb") as file:
            file.seek(self._read_bytes)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._read_bytes += len(whole) + len(newline)
        for line in whole.decode().splitlines():
            self._lines += 1
            self._take(line)

    def _take(self, line: str) -> None:
        event, node, key, value, client, pid, up = line.split()
        at = self._booted_at + float(up)
        if event == "begin":
            assert value not in self._runs, f"two runs made {value}"
            self._runs[value] = PluginRun(node, key, value, int(client), int(pid), at)
        else:
            self._runs[value] = replace(self._runs[value], ended_at=at, failed=event == "failed")
