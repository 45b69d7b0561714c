"""The questions of README.rst: asked of a fleet that was made for them, the answers are those that stand there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.servers.processes import Daemon, Fleet, wait_until

README = (Path(__file__).resolve().parents[2] / "README.rst").read_text(encoding="utf-8")
OLD, NEW = "openssl: 3.0.15-1~deb12u1", "openssl: 3.0.17-1~deb12u2"
TELNETD = "telnetd: 0.17+2.4-2+deb12u1"


def asked_in_readme() -> dict[str, list[str]]:
    """By command, the lines that follow it."""
    found: dict[str, list[str]] = {}
    for block in README.split("\n\n"):
        for line in block.splitlines() if block.startswith("  $ ") else ():
            if line.startswith("  $ "):
                found[line[4:].partition("#")[0].strip()] = lines = []
            else:
                lines.append(line)
    return found


def plain(lines: list[str]) -> list[str]:
    """Without what is of a time or this machine, and however wide the columns are."""
    text = "\n".join(re.sub(r" {2,}|\t", " ", line).strip() for line in lines)
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "TIME", text)
    text = re.sub(r"alice@\w+", "alice@HOST", text)
    return re.sub(r"\b\d+(\.\d+)?(ms|s|m|h|d)\b", "AGE", text).splitlines()


def asked(fleet: Fleet, command: str) -> list[str]:
    """What a command of the README prints, of data."""
    program, *arguments = shlex.split(command)
    assert program == "vogeler-admin"
    done = fleet.admin(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("fleet", [("local", "sqlite")], indirect=True, ids=["local"])
def test_the_questions_of_the_readme_have_these_answers(fleet: Fleet) -> None:
    """The web servers are updated in the night, and on one telnetd turns up; db01 was switched off before."""
    fleet.environment.update(LOGNAME="alice", VOGELER_LATE_AFTER="5s", VOGELER_SILENT_AFTER="5s")
    fleet.server()
    clients = {node: client_of(fleet, node) for node in ("db01", "web01", "web02")}
    fleet.wait_known(*clients)
    fleet.ask("-c", "packages", "-n", "all")
    clients["db01"].stop()
    facts(fleet, "web01", NEW)
    facts(fleet, "web02", NEW, TELNETD)
    assert {row["stage"] for row in fleet.ask("-c", "packages", "-n", "web*").values()} == {"stored"}
    for command, answer in asked_in_readme().items():
        if "--silent" in command:
            wait_until(lambda: len(asked(fleet, command)) > 1, "db01 is silent")  # noqa: B023
        assert plain(asked(fleet, command)) == plain(answer), command


def client_of(fleet: Fleet, node: str) -> Daemon:
    """A client with a plugin folder of its own, whose plugin reads a file."""
    folder = fleet.directory / node
    folder.mkdir()
    (folder / "packages.cfg").write_text(
        f"[packages]\nname = packages\ncommand = cat {folder}/packages\nresult_format = keyvalue\n"
    )
    facts(fleet, node, OLD)
    return fleet.client(node, "--heartbeat", "1s", "--plugins", str(folder))


def facts(fleet: Fleet, node: str, *packages: str) -> None:
    (fleet.directory / node / "packages").write_text("\n".join(packages) + "\n")
