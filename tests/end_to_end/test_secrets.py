"""Passwords are in the configuration and on their way to a server, and nowhere else: whatever goes wrong is looked through.

So is a value that is sealed: it is where the plugin has it from, and on the screen of who has the key.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.persistence.proxy import Exchange, running
from tests.servers.couchdb import CouchServer
from tests.servers.processes import COMMANDS, Fleet, wait_until
from tests.servers.rabbitmq import RabbitMQ
from vogeler.errors import ExitCode

# With characters that mean something in URLs, and none that a grep would miss.
BROKER, STORE, WRONG, FLAG = "br0ker-S3CRET@/x", "st0re-S3CRET:#?y", "wr0ng-S3CRET%z", "fl4g-S3CRET"
SEALED = "s3aled-S3CRET"
PASSWORDS = (BROKER, STORE, WRONG, FLAG, SEALED)
# The network breaks in a way that nobody has thought of, and the traceback goes to the log.
BROKEN = "import socket\n\ndef broken(*words, **more):\n    raise RuntimeError('nobody has thought of this')\n\n"
BROKEN += "socket.getaddrinfo = broken\n"


def forms(password: str) -> set[bytes]:
    """How it might be written: as it is, in a URL, in JSON, and in a login of HTTP."""
    texts = {password, quote(password, safe=""), quote(password), json.dumps(password)[1:-1]}
    logins = {base64.b64encode(f"{user}:{password}".encode()).decode() for user in ("tester", "admin")}
    return {text.encode() for text in texts | logins}


@contextmanager
def watched() -> Iterator[set[bytes]]:
    """Every command line there is meanwhile, looked at again and again."""
    seen: set[bytes] = set()
    done = threading.Event()

    def look() -> None:
        while not done.wait(0.05):
            for entry in os.scandir("/proc"):
                if entry.name.isdecimal():
                    try:
                        seen.add(Path(entry.path, "cmdline").read_bytes())
                    except OSError:
                        continue

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


class Secretive:
    """A fleet whose URLs have passwords in them, and all that its programs have said."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.said: list[str] = []

    def run(self, program: str, *arguments: str, code: int | None, **environment: str) -> str:
        """One command at the most talkative, with settings of its own. None: any exit code but 0."""
        done = subprocess.run(
            [str(COMMANDS / f"vogeler-{program}"), *arguments, "--loglevel", "debug"],
            env={**self.fleet.environment, **environment}, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        self.said.append(done.stdout + done.stderr)
        assert done.returncode == code or (code is None and done.returncode), (
            arguments,
            environment,
            done.stdout,
            done.stderr,
        )
        return done.stdout + done.stderr

    def daemon(self, program: str, event: str, **environment: str) -> None:
        """One that goes on trying, until it has said so twice."""
        flags = ("--loglevel", "debug")
        if program == "client":
            started = self.fleet.client("web09", *flags, environment=environment)
        else:
            started = self.fleet.server(*flags, environment=environment)
        started.wait_for(event)
        started.stop()


@pytest.fixture
def secretive(
    rabbitmq: RabbitMQ, vhost: str, couchdb_server: CouchServer, couch_url: str, tmp_path: Path
) -> Iterator[Secretive]:
    rabbitmq.create_user("tester-secretive", BROKER)
    rabbitmq.set_permissions(vhost, "tester-secretive")
    broker = f"amqp://tester-secretive:{quote(BROKER, safe='')}@{rabbitmq.host}:{rabbitmq.port}/{vhost}"
    with running(
        lambda exchange: _let_in(exchange, couchdb_server), (couchdb_server.host, couchdb_server.port)
    ) as proxy:
        store = f"couch://tester:{quote(STORE, safe='')}@127.0.0.1:{proxy.port}/{couch_url.rpartition('/')[2]}"
        fleet = Fleet(broker, store, tmp_path)
        Path(fleet.environment["VOGELER_CONFIG"]).chmod(0o600)
        try:
            yield Secretive(fleet)
        finally:
            fleet.stop()
            rabbitmq.delete_user("tester-secretive")


def _let_in(exchange: Exchange, server: CouchServer) -> None:
    """Who knows the password; CouchDB has another one, or none."""
    given = exchange.headers["Authorization"] or ""
    del exchange.headers["Authorization"]
    if given != "Basic " + base64.b64encode(f"tester:{STORE}".encode()).decode():
        exchange.reply(401, b'{"error": "unauthorized", "reason": "Name or password is incorrect."}')
        return
    if server.user:
        login = base64.b64encode(f"{server.user}:{server.password}".encode()).decode()
        exchange.headers["Authorization"] = f"Basic {login}"
    exchange.pass_on()


def works(it: Secretive) -> None:
    """All is well. A plugin tells what it sees of its client."""
    fleet = it.fleet
    fleet.plugin("facts", 'sh -c \'env; tr "\\\\0" " " </proc/$PPID/cmdline\'')
    source, key, readers = (fleet.directory / name for name in ("sealed.json", "alice.key", "readers"))
    source.write_text(json.dumps({"password": SEALED}))
    fleet.plugin("app", f"cat {source}", "json", seal="password")
    line = it.run("admin", "key", "new", "alice", "--reader", str(key), code=0).splitlines()[0]
    it.run("admin", "key", "trust", *line.split(), "--readers", str(readers), code=0)
    it.run("admin", "setup", code=0)
    fleet.server("--loglevel", "debug").wait_for("ready")
    sealing = ("--readers", str(readers), "--redact-key", str(fleet.directory / "redact.key"))
    fleet.client("web01", "--loglevel", "debug", *sealing).wait_for("ready")
    fleet.wait_known("web01")
    for alias in ("facts", "app"):
        it.run("runner", "-c", alias, "-n", "web01", "--show", code=0)
    unsealed = fleet.admin("show", "web01", "app", "--unseal", str(key), "--loglevel", "debug")
    assert SEALED in unsealed.stdout
    it.said.append(unsealed.stderr)
    for words in (
        ["doctor"],
        ["setup"],
        ["nodes"],
        ["show", "web01", "facts"],
        ["show", "web01", "app"],
        ["history", "web01"],
    ):
        it.run("admin", *words, code=0)


def fails(it: Secretive) -> None:
    """In all the ways that logins and URLs have."""
    login = it.fleet.qhost.replace(quote(BROKER, safe=""), quote(WRONG, safe=""))
    away = f"amqp://tester:{quote(WRONG, safe='')}@127.0.0.1:1/x"
    no_store = f"couch://tester:{quote(WRONG, safe='')}@127.0.0.1:1/records"
    for url in (login, f"{away},{login}", away.replace("amqp://", "amqps://"), login + "-no-such-vhost"):
        it.run("admin", "dead", "list", code=ExitCode.BROKER, VOGELER_QHOST=url)
    it.run("runner", "-c", "facts", "-n", "web01", code=ExitCode.BROKER, VOGELER_QHOST=login)
    it.run("admin", "doctor", code=ExitCode.UNHEALTHY, VOGELER_QHOST=away)
    it.run("admin", "nodes", code=ExitCode.STORE, VOGELER_DBHOST=no_store)
    it.run("admin", "doctor", code=ExitCode.UNHEALTHY, VOGELER_DBHOST=no_store)
    it.run("runner", "-c", "facts", "-n", "web*", code=ExitCode.STORE, VOGELER_DBHOST=no_store)
    for status, body in ((401, b'{"error": "unauthorized", "reason": "no"}'), (500, b"<html>"), (200, b"nonsense")):
        with running(lambda exchange, status=status, body=body: exchange.reply(status, body)) as proxy:  # type: ignore[misc]
            url = f"couch://admin:{quote(WRONG, safe='')}@127.0.0.1:{proxy.port}/records"
            it.run("admin", "nodes", code=ExitCode.STORE, VOGELER_DBHOST=url)
            it.daemon("server", "retry", VOGELER_DBHOST=url)
    it.daemon("client", "retry", VOGELER_QHOST=login)
    it.daemon("client", "retry", VOGELER_QHOST=away)
    it.daemon("server", "retry", VOGELER_QHOST=login)


def is_misspelt(it: Secretive) -> None:
    """A password that was not encoded, a port that is none, an option that is none, and what has no scheme."""
    for scheme, name in (("amqp", "VOGELER_QHOST"), ("couch", "VOGELER_DBHOST")):
        for url in (
            f"{scheme}://tester:{BROKER}@h/x", f"{scheme}://tester:{STORE}@h/x", f"{scheme}://tester:{FLAG}@h:port/x",
            f"{scheme}x://tester:{FLAG}@h/x", f"{scheme}://tester:{FLAG}@h/x?opt=1", f"{scheme}//tester:{FLAG}@h",
            f"{scheme}s://tester:{FLAG}@h/x?cafile=/nowhere", f"{scheme}://tester:{FLAG}@h/x,other://h",
        ):  # fmt: skip
            it.run("admin", "doctor", code=None, **{name: url})
    it.fleet.directory.joinpath("bad.conf").write_text(f"[vogeler]\nqhost = amqp://tester:{FLAG}@h:port/\n")
    it.run("admin", "nodes", code=ExitCode.USAGE, VOGELER_CONFIG=str(it.fleet.directory / "bad.conf"))
    it.fleet.directory.joinpath("bad.conf").write_text(f"[vogeler]\nqpasword = {FLAG}\n")
    it.run("admin", "nodes", code=ExitCode.USAGE, VOGELER_CONFIG=str(it.fleet.directory / "bad.conf"))
    it.fleet.directory.joinpath("bad.conf").write_text(f"[vogeler]\nqpassword {FLAG}\n")
    it.run("admin", "nodes", code=ExitCode.USAGE, VOGELER_CONFIG=str(it.fleet.directory / "bad.conf"))
    it.fleet.directory.joinpath("bad.conf").unlink()


def has_bugs(it: Secretive) -> None:
    """Tracebacks say where, and not with what."""
    folder = it.fleet.directory / "broken"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(BROKEN)
    said = it.run("admin", "dead", "list", code=1, PYTHONPATH=str(folder))
    assert "Traceback" in said
    said = it.run("admin", "nodes", code=1, PYTHONPATH=str(folder))
    assert "Traceback" in said


def is_poisoned(it: Secretive) -> None:
    """Dead letters hold what came and why it was refused."""
    from vogeler.messages import Envelope

    with closing(it.fleet.transport()) as transport:
        transport.publish_result(Envelope(b"{", message_id="p", type="result"), "web01")
        wait_until(lambda: "p" in it.run("admin", "dead", "list", code=0).split(), "a dead letter", it.fleet.logs)
    it.run("admin", "dead", "show", "p", code=0)


def test_no_password_is_anywhere_but_where_it_was_written(secretive: Secretive, couchdb_server: CouchServer) -> None:
    fleet = secretive.fleet
    with watched() as command_lines:
        works(secretive)
        fails(secretive)
        is_misspelt(secretive)
        has_bugs(secretive)
        is_poisoned(secretive)
    said = "\n".join(secretive.said) + "".join(daemon.log for daemon in fleet.daemons)
    database = fleet.dbhost.rpartition("/")[2]
    stored = [
        json.dumps(couchdb_server.api("GET", f"/{name}/_all_docs?include_docs=true"))
        for name in couchdb_server.api("GET", "/_all_dbs") if name.startswith(database)
    ]  # fmt: skip
    assert "VOGELER_PLUGIN" in said + "".join(stored), "the plugin's view of its client is in the store"
    config = Path(fleet.environment["VOGELER_CONFIG"])
    own = {config, fleet.directory / "sealed.json"}
    files = [path.read_bytes() for path in fleet.directory.rglob("*") if path.is_file() and path not in own]
    places = {"said": [said.encode()], "files": files, "store": [text.encode() for text in stored], "ps": command_lines}
    found = {
        (name, password) for name, texts in places.items() for password in PASSWORDS for form in forms(password)
        for text in texts if form in text
    }  # fmt: skip
    assert found == set(), [line for line in said.splitlines() if "S3CRET" in line]
    assert "S3CRET" not in said, "not even a part of one"


def test_a_password_in_a_flag_is_refused_and_not_repeated(tmp_path: Path) -> None:
    """The process list has shown it by then: it says so."""
    fleet = Fleet("local:///nowhere", "sqlite:///nowhere", tmp_path)
    for program, flag, scheme in (("admin", "--dbhost", "couch"), ("client", "--qhost", "amqp")):
        words = ["nodes"] if program == "admin" else []
        done = fleet._run(program, *words, flag, f"{scheme}://tester:{FLAG}@h/x")
        assert done.returncode == ExitCode.USAGE
        assert "process list" in done.stderr
        assert FLAG not in done.stderr + done.stdout


def test_a_plugin_does_not_inherit_the_settings_of_its_client(tmp_path: Path) -> None:
    fleet = Fleet(f"local://{tmp_path}/bus.db", f"sqlite://{tmp_path}/v.db", tmp_path)
    fleet.environment.update(VOGELER_QPASSWORD=BROKER, SOME_TOKEN=STORE)
    fleet.plugin("env", "env")
    done = fleet._run("client", "test", "env", "--plugins", str(fleet.plugins), "--node", "x")
    assert done.returncode == 0
    names = {line.partition("=")[0] for line in json.loads(done.stdout)}
    assert names <= {"PATH", "LC_ALL", "HOME", "TZ", "VOGELER_PLUGIN"}
