"""The commands of README.rst, run as they stand there, line by line, by bash with ``set -e``.

The four hosts of the fleet are four folders; the broker and the store are those of the test fixtures. What is
substituted for that is in ``Hosts.substituted`` and ``SHIMS``; what is not run is in ``NOT_RUN``. A line of the README
that is in neither is run, and every line has to end well.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers.couchdb import CouchServer
from tests.servers.processes import wait_until
from tests.servers.rabbitmq import RabbitMQ

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.rst").read_text(encoding="utf-8")
COMMANDS = Path(sys.executable).parent

# Why a line is not run. A pattern that matches no line of the README any more is a mistake, too.
NOT_RUN = {
    r"make demo\b.*": "its recipe is run, by test_make_demo",
    r"make test\b.*": "that is what runs this",
    r"python3 -m venv /opt/vogeler && /opt/vogeler/bin/pip install \.": "needs a package index: what runs this is tried",
    r"docker run .*": "needs a container image: the fixture's server is used",
    r"useradd .*": "would change this machine",
    r"chgrp vogeler .*": "needs the user",
}

# Commands that mean the host, not the folder that stands for it: name → a script that is found before the real one.
SHIMS = {
    # systemctl starts what ExecStart of the copied unit says, and does what its ExecReload says.
    "systemctl": """
unit=$(echo "$*" | grep -o 'vogeler-[a-z]*')
file="$HOST_ROOT/etc/systemd/system/$unit.service"
case "$*" in
    "enable --now $unit")
        program=$(sed -n 's|^ExecStart=/opt/vogeler/bin/||p' "$file")
        "$program" >/dev/null 2>"$HOST_ROOT/$unit.log" & echo $! >"$HOST_ROOT/$unit.pid" ;;
    "reload $unit")
        MAINPID=$(cat "$HOST_ROOT/$unit.pid") && eval "$(sed -n 's|^ExecReload=/bin/||p' "$file")" ;;
    *) exit 1 ;;
esac
""",
    # rabbitmqctl talks to the fixture's node; add_user gets on its stdin what a person would type.
    "rabbitmqctl": """
case "$1" in add_user) exec <"$PASSWORD_FILE" ;; esac
exec env $RABBITMQ_ENVIRONMENT "$RABBITMQCTL" "$@"
""",
}


def segments() -> list[tuple[str, str]]:
    """(what the comment at its head says, text) of each piece of the README's literal blocks, in order."""
    found: list[tuple[str, list[str]]] = []
    for match in re.finditer(r"::\n\n( +)(?=\S)", README):
        indent = match.group(1)
        block = re.match(rf"(?:{indent}.*\n|\n)+", README[match.start(1) :])
        assert block is not None
        found.append(("", []))
        for line in (line[len(indent) :] for line in block.group().splitlines()):
            if re.fullmatch(r"# (?:/\S+ )?on .*", line):
                found.append((line[2:], []))
            else:
                found[-1][1].append(line)
    return [(head, "\n".join(lines).strip()) for head, lines in found if any(lines)]


def commands_of(text: str) -> list[str]:
    """The commands in a piece, without comments; continued lines are one command."""
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [command for command in (re.sub(r"\s+#.*", "", line).strip() for line in lines) if command]


def is_run(command: str) -> bool:
    return not any(re.fullmatch(pattern, command) for pattern in NOT_RUN)


class Hosts:
    """Folders that stand for hosts, and bash for each."""

    def __init__(self, folder: Path, replacements: dict[str, str], environment: dict[str, str]) -> None:
        self.folder = folder
        self._replacements = replacements
        self._environment = environment
        self.outputs: dict[str, str] = {}
        self.ran: list[str] = []
        shims = folder / "shims"
        shims.mkdir()
        for name, script in SHIMS.items():
            (shims / name).write_text("#!/bin/bash\nset -eu\n" + script)
            (shims / name).chmod(0o755)

    def root(self, host: str) -> Path:
        root = self.folder / host
        for name in ("etc/vogeler/plugins", "etc/systemd/system"):
            (root / name).mkdir(parents=True, exist_ok=True)
        return root

    def substituted(self, text: str, host: str) -> str:
        """The commands of /opt/vogeler are those of this Python; paths below /etc are in the host's folder."""
        text = text.replace("export PATH=/opt/vogeler/bin:$PATH", ":").replace("/opt/vogeler/bin", str(COMMANDS))
        text = re.sub(r"(?<![\w.])/etc/", f"{self.root(host)}/etc/", text)
        for old, new in self._replacements.items():
            text = text.replace(old, new)
        return text

    def write(self, path: str, host: str, text: str) -> None:
        (self.root(host) / path.lstrip("/")).write_text(self.substituted(text, host) + "\n")

    def run(self, command: str, host: str) -> None:
        """One command, as typed on the host."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", self.substituted(command, host)],
            cwd=ROOT, env=self.environment(host), capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        self.ran.append(command)
        self.outputs[command] = done.stdout + done.stderr
        assert done.returncode == 0, f"on {host}: {command}\n{done.stdout}{done.stderr}{self.logs()}"

    def environment(self, host: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("VOGELER_")}
        root = self.root(host)
        return {
            **kept,
            "PATH": f"{self.folder}/shims:{COMMANDS}:{kept['PATH']}",
            "HOST_ROOT": str(root),
            "VOGELER_CONFIG": str(root / "etc/vogeler/vogeler.conf"),
            "VOGELER_PLUGINS": f"{ROOT}/plugins,{root}/etc/vogeler/plugins",
            "VOGELER_NODE": host,
            "VOGELER_STRICT_MODES": "no",  # what is made here is in /tmp
            **self._environment,
        }

    def log(self, host: str, unit: str) -> str:
        path = self.root(host) / f"{unit}.log"
        return path.read_text() if path.exists() else ""

    def logs(self) -> str:
        return "\n".join(f"== {path}\n{path.read_text()[-2000:]}" for path in self.folder.glob("*/*.log"))

    def stop(self) -> None:
        for path in self.folder.glob("*/*.pid"):
            subprocess.run(["kill", path.read_text().strip()], check=False)


def ctl_of(rabbitmq: RabbitMQ) -> dict[str, str]:
    """What rabbitmqctl needs to find the fixture's node."""
    names = ("HOME=", "RABBITMQ_", "ERL_")
    settings = [f"{name}={value}" for name, value in rabbitmq._environment().items() if f"{name}=".startswith(names)]
    script = shutil.which("rabbitmqctl", path="/usr/lib/rabbitmq/bin:/usr/local/sbin:/usr/sbin")
    return {
        "RABBITMQCTL": script or "rabbitmqctl",
        "RABBITMQ_ENVIRONMENT": " ".join(setting for setting in settings if " " not in setting),
    }


@pytest.fixture
def fleet_hosts(rabbitmq: RabbitMQ, couchdb_server: CouchServer, couch_url: str, tmp_path: Path) -> Iterator[Hosts]:
    password = tmp_path / "password"
    password.write_text("typed-by-a-person\n")
    login = f"{couchdb_server.user}@" if couchdb_server.user else ""
    replacements = {
        "@mq1/": f"@{rabbitmq.host}:{rabbitmq.port}/",
        "admin@db1/system_records": f"{login}{couch_url.rpartition('@')[2].removeprefix('couch://')}",
        "the password of admin on db1": couchdb_server.password or "none",
        "the password of vogeler on mq1": "typed-by-a-person",
        "the password of vogeler-node on mq1": "typed-by-a-person",
    }
    hosts = Hosts(tmp_path, replacements, {"PASSWORD_FILE": str(password), **ctl_of(rabbitmq)})
    yield hosts
    hosts.stop()
    rabbitmq.delete_vhost("vogeler")
    for user in ("vogeler", "vogeler-node"):
        rabbitmq.api("DELETE", f"/api/users/{user}")


def test_the_fleet(fleet_hosts: Hosts) -> None:
    """Step by step, as the README has it; then the second node, by what was written for the first."""
    first_node: list[tuple[str, str]] = []
    for head, text in segments():
        path, _, host = head.rpartition("on ")
        if host not in ("mq1", "db1", "ops1", "web01"):
            continue
        if text.startswith("vogeler-runner -c packages"):
            follow(fleet_hosts, [(path, text) for path, text in first_node], "web02")
        follow(fleet_hosts, [(path.strip(), text)], host)
        first_node += [(path.strip(), text)] if host == "web01" else []
    packages = fleet_hosts.outputs["vogeler-runner -c packages -n all"]
    assert re.search(r"web01 +stored", packages)
    assert re.search(r"web02 +stored", packages)
    assert " bad " not in fleet_hosts.outputs["vogeler-admin doctor"]
    assert f"== web01  stored\n{os.uname().release}" in fleet_hosts.outputs["vogeler-runner -c kernel -n web01 --show"]


def follow(hosts: Hosts, pieces: list[tuple[str, str]], host: str) -> None:
    for path, text in pieces:
        if path:
            hosts.write(path, host, text)
            continue
        for command in filter(is_run, commands_of(text)):
            hosts.run(command, host)
            wait_as_a_person_would(hosts, command, host)


def wait_as_a_person_would(hosts: Hosts, command: str, host: str) -> None:
    """A script types the next line at once, a person does not."""
    if not command.startswith("systemctl"):
        return
    unit = command.split()[-1]
    expected = {
        "systemctl enable --now vogeler-server": "store: ",
        "systemctl enable --now vogeler-client": "is ready",
        "systemctl reload vogeler-client": "read the plugins again",
    }[command]
    wait_until(lambda: expected in hosts.log(host, unit), f"{expected!r} in the log of {unit} on {host}", hosts.logs)
    if expected == "is ready":
        check = f"vogeler-admin nodes | grep -q '^{host} '"
        run = ["bash", "-c", f"PATH={COMMANDS}:$PATH; {check}"]
        known = lambda: subprocess.run(run, env=hosts.environment("ops1"), check=False).returncode == 0  # noqa: E731
        wait_until(known, f"{host} known to the store", hosts.logs)


def test_one_machine(tmp_path: Path) -> None:
    """In one bash, as typed; the two files of the default engines are in a temporary folder."""
    (text,) = [text for head, text in segments() if head == "on this machine"]
    script = "set -meuo pipefail\n"
    for command in filter(is_run, commands_of(text)):
        script += command.replace("export PATH=/opt/vogeler/bin:$PATH", ":") + "\n"
        if command == "vogeler-client &":  # as a person would
            script += "for _ in $(seq 300); do vogeler-admin nodes | grep -q . && break; sleep 0.1; done\n"
    (tmp_path / "vogeler.conf").write_text("")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("VOGELER_")}
    environment = {
        **kept,
        "PATH": f"{COMMANDS}:{kept['PATH']}",
        "VOGELER_CONFIG": str(tmp_path / "vogeler.conf"),
        "VOGELER_QHOST": f"local://{tmp_path}/bus.db",
        "VOGELER_DBHOST": f"sqlite://{tmp_path}/vogeler.db",
        "VOGELER_NODE": "this",
        "VOGELER_STRICT_MODES": "no",
    }
    done = subprocess.run(
        ["bash", "-c", script + "wait\n"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"this +stored +packages", done.stdout)
    assert "== this  stored" in done.stdout
    assert "1 stored" in done.stderr


def test_make_demo(tmp_path: Path) -> None:
    """What the Makefile's recipe runs, with this Python and in a temporary folder."""
    recipe = re.search(r"^demo:.*\n\t@\$\(BIN\)/(.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe is not None
    command = f"{COMMANDS}/{recipe.group(1)}"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "packages" in done.stdout
    assert (tmp_path / ".demo" / "vogeler.db").exists()


def test_every_command_of_the_readme_is_run_or_excused() -> None:
    """No block is left out by a comment at its head that no test knows, and no excuse is out of date."""
    heads = {head.rpartition("on ")[2] for head, _ in segments()}
    assert heads <= {"", "this machine", "mq1", "db1", "ops1", "web01"}
    unheaded = [text for head, text in segments() if not head]
    # The two commands; the picture; the questions, which test_questions.py asks.
    assert [text.split()[0] for text in unheaded] == ["make", "vogeler-runner", "$"]
    commands = [command for _, text in segments() for command in commands_of(text)]
    for pattern in NOT_RUN:
        assert any(re.fullmatch(pattern, command) for command in commands), pattern
