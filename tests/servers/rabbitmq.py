"""A private RabbitMQ for the tests: its own ports, data, cookie and name; gone when the tests are done.

It starts in some seconds, once per session, on first use. Every test gets a virtual host of its own. Without
RabbitMQ on the machine the tests are skipped, but where ``CI`` is set they fail.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Optional
from urllib.parse import quote

import pytest

from tests.servers.ports import HOST, free_ports

# Debian's script in /usr/sbin insists on running as the user rabbitmq; these are the ones behind it.
_SCRIPTS = ("/usr/lib/rabbitmq/bin/rabbitmq-server", "/usr/local/sbin/rabbitmq-server", "/usr/sbin/rabbitmq-server")
START_LIMIT_S = 240.0  # some 5 s, but not on a machine with more to do than it can
STOP_LIMIT_S = 20.0

_CONFIG = """
listeners.tcp.1 = 127.0.0.1:{port}
management.tcp.ip = 127.0.0.1
management.tcp.port = {api_port}
default_user = {user}
default_pass = {password}
loopback_users = none
log.console = false
log.file.level = info
management.rates_mode = none
collect_statistics_interval = 1000
disk_free_limit.absolute = 50MB
"""
_TLS_CONFIG = """
listeners.ssl.1 = 127.0.0.1:{tls_port}
ssl_options.cacertfile = {folder}/cert.pem
ssl_options.certfile = {folder}/cert.pem
ssl_options.keyfile = {folder}/key.pem
ssl_options.verify = verify_none
"""


class RabbitMQ:
    """One broker node. ``start`` and ``stop`` may be called again and again; the data stay."""

    user = "tester"

    def __init__(self, script: str, folder: Path, like: Optional[RabbitMQ] = None) -> None:
        """``like``: a node whose password, cookie and port mapper it has, so that the two can be a cluster."""
        self.host = HOST
        self.port, self.api_port, self.tls_port, self._dist_port, self._epmd_port = free_ports(5)
        self.name = f"vogeler-{self.port}@localhost"
        self.password, self._cookie = secrets.token_hex(8), secrets.token_hex(16)
        if like is not None:
            self.password, self._cookie, self._epmd_port = like.password, like._cookie, like._epmd_port
        self._script = script
        self._folder = folder
        self._process: Optional[subprocess.Popen[bytes]] = None
        self._write_files()

    def configure(self, lines: str) -> None:
        """Add to the configuration, before the start."""
        with (self._folder / "rabbitmq.conf").open("a") as file:
            file.write(lines)

    def enable(self, plugin: str) -> None:
        """Start with this plugin of RabbitMQ's, too."""
        (self._folder / "enabled_plugins").write_text(f"[rabbitmq_management,{plugin}].\n")

    def _write_files(self) -> None:
        for name in ("data", "log", "home"):
            (self._folder / name).mkdir()
        values = {**vars(self), "user": self.user, "folder": self._folder}
        template = _CONFIG + (_TLS_CONFIG if self._make_certificate() else "")
        (self._folder / "rabbitmq.conf").write_text(template.format(**values))
        (self._folder / "enabled_plugins").write_text("[rabbitmq_management,rabbitmq_consistent_hash_exchange].\n")
        cookie = self._folder / "home" / ".erlang.cookie"
        cookie.write_text(self._cookie)
        cookie.chmod(0o400)

    def _make_certificate(self) -> bool:
        """A certificate for localhost that signs itself, if openssl is here."""
        openssl = shutil.which("openssl")
        if openssl is None:
            return False
        names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", "key.pem"]
        command = [openssl, "req", "-x509", "-days", "2", "-out", "cert.pem", *key, *names]
        subprocess.run(command, cwd=self._folder, capture_output=True, timeout=30, check=True)
        return True

    @property
    def ca_file(self) -> Optional[Path]:
        """The certificate to trust, or None where there is no TLS."""
        path = self._folder / "cert.pem"
        return path if path.exists() else None

    def _environment(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RABBITMQ_", "ERL_"))}
        return {
            **inherited,
            "HOME": str(self._folder / "home"),
            "RABBITMQ_NODENAME": self.name,
            "RABBITMQ_CONF_ENV_FILE": str(self._folder / "no-environment-file"),
            "RABBITMQ_CONFIG_FILE": str(self._folder / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self._folder / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(self._folder / "data"),
            "RABBITMQ_LOG_BASE": str(self._folder / "log"),
            "RABBITMQ_PID_FILE": str(self._folder / "pid"),
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} +S 2:2",
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": HOST,
            "ERL_EPMD_RELAXED_COMMAND_CHECK": "true",  # it may be stopped while it still knows our dead node
        }

    # --- the process ---------------------------------------------------------------------------

    def start(self) -> None:
        """Start it, and return when AMQP and the management API answer."""
        self.begin()
        self.wait_up()

    def begin(self) -> None:
        """Start it, and don't wait."""
        with (self._folder / "output").open("ab") as output:
            self._process = subprocess.Popen(
                [self._script],
                env=self._environment(),
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_up(self) -> None:
        """Until AMQP and the management API of what ``begin`` started answer."""
        assert self._process is not None
        deadline = time.monotonic() + START_LIMIT_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                pytest.fail("RabbitMQ did not start:\n" + (self._folder / "output").read_text()[-4000:])
            time.sleep(0.1)

    def _answers(self) -> bool:
        try:
            socket.create_connection((self.host, self.port), 1.0).close()
            self.api("GET", "/api/overview")
        except OSError:
            return False
        return True

    @property
    def up(self) -> bool:
        """Whether it was started, and neither stopped nor killed."""
        return self._process is not None

    def stop(self) -> None:
        """Stop it in an orderly way, else with force."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_LIMIT_S)
        _kill_group(process.pid)
        process.wait()

    def ensure_running(self) -> None:
        """Start it, if a test has left it stopped."""
        if self._process is None:
            self.start()

    def kill(self) -> None:
        """Kill -9, as a crash would."""
        process, self._process = self._process, None
        if process is not None:
            _kill_group(process.pid)
            process.wait()

    def lose_data(self) -> None:
        """What it had on its disk is gone, and our user with it until the next ``start``. To be stopped before."""
        assert self._process is None
        shutil.rmtree(self._folder / "data")
        (self._folder / "data").mkdir()

    def ctl(self, *arguments: str, program: str = "rabbitmqctl") -> None:
        """rabbitmqctl, as an operator on its machine would call it. Takes about two seconds."""
        command = [str(Path(self._script).with_name(program)), *arguments]
        done = subprocess.run(
            command, env=self._environment(), cwd=self._folder, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"

    def enable_plugin(self, plugin: str, enabled: bool = True) -> None:
        """On the running broker."""
        self.ctl("enable" if enabled else "disable", plugin, program="rabbitmq-plugins")

    def raise_alarm(self, what: str) -> None:
        """Run out of ``memory``, or of free space on the ``disk``: it takes no messages until ``clear_alarms``."""
        limit = (
            ("set_vm_memory_high_watermark", "0.000001") if what == "memory" else ("set_disk_free_limit", "900000GB")
        )
        self.ctl(*limit)

    def clear_alarms(self) -> None:
        """There is memory and space again."""
        self.ctl("set_vm_memory_high_watermark", "0.4")
        self.ctl("set_disk_free_limit", "50MB")

    def pause(self) -> None:
        """Freeze the process: connections stay, nobody answers."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused broker go on."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGCONT)

    def end(self) -> None:
        """Done with it: nothing of it is needed any more, so it need not stop in an orderly way.

        Its port mapper, on a port of its own, would be left behind.
        """
        self.kill()
        epmd = shutil.which("epmd")
        if epmd is not None:
            environment = {**os.environ, "ERL_EPMD_PORT": str(self._epmd_port)}
            subprocess.run([epmd, "-kill"], env=environment, capture_output=True, timeout=10, check=False)

    # --- the management API --------------------------------------------------------------------

    def api(self, method: str, path: str, content: object = None) -> Any:
        """One call of the HTTP API; the decoded JSON of the answer, or None."""
        login = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        request = urllib.request.Request(
            f"http://{self.host}:{self.api_port}{path}",
            data=None if content is None else json.dumps(content).encode(),
            method=method,
            headers={"Authorization": f"Basic {login}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            body = answer.read()
        return json.loads(body) if body else None

    def create_vhost(self, vhost: str) -> None:
        """Make a virtual host that our user may do anything in."""
        self.api("PUT", f"/api/vhosts/{quote(vhost, safe='')}", {})
        self.set_permissions(vhost, self.user)

    def delete_vhost(self, vhost: str) -> None:
        """Delete it with all that is in it; its connections are closed."""
        self.api("DELETE", f"/api/vhosts/{quote(vhost, safe='')}")

    def create_user(self, user: str, password: str) -> None:
        """Make a user without any permission."""
        self.api("PUT", f"/api/users/{user}", {"password": password, "tags": ""})

    def delete_user(self, user: str) -> None:
        """Delete a user; its connections are closed."""
        self.api("DELETE", f"/api/users/{user}")

    def set_permissions(
        self, vhost: str, user: str, configure: str = ".*", write: str = ".*", read: str = ".*"
    ) -> None:
        """What a user may do in a virtual host: regular expressions over names."""
        permissions = {"configure": configure, "write": write, "read": read}
        self.api("PUT", f"/api/permissions/{quote(vhost, safe='')}/{user}", permissions)

    def connections(self, vhost: str) -> list[dict[str, Any]]:
        """The connections to a virtual host; a new one shows up after about a second."""
        return [c for c in self.api("GET", "/api/connections") if c.get("vhost") == vhost]

    def channels(self, vhost: str) -> list[dict[str, Any]]:
        """The open channels of a virtual host; what has changed shows up after some seconds."""
        found: list[dict[str, Any]] = self.api("GET", f"/api/vhosts/{quote(vhost, safe='')}/channels")
        return found

    def close_connection(self, name: str, reason: str = "closed by the operator") -> None:
        """Close a connection as an operator would."""
        request_path = f"/api/connections/{quote(name, safe='')}"
        self.api("DELETE", request_path + "?reason=" + quote(reason))

    def queues(self, vhost: str) -> dict[str, dict[str, Any]]:
        """The queues of a virtual host by name: ``type``, ``durable``, ``arguments`` and more."""
        return {queue["name"]: queue for queue in self.api("GET", f"/api/queues/{quote(vhost, safe='')}")}

    def delete_queue(self, vhost: str, queue: str) -> None:
        """Delete a queue; its consumers are cancelled."""
        self.api("DELETE", f"/api/queues/{quote(vhost, safe='')}/{quote(queue, safe='')}")

    def url(self, vhost: str) -> str:
        """The AMQP URL of a virtual host, with the login."""
        return f"amqp://{self.user}:{self.password}@{self.host}:{self.port}/{quote(vhost, safe='')}"


def _kill_group(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _missing(what: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(f"{what} is not installed, and CI must not skip its tests")
    pytest.skip(f"{what} is not installed")


def server_script() -> str:
    """What starts a RabbitMQ; without one the test is skipped, or fails."""
    script = next((path for path in _SCRIPTS if os.access(path, os.X_OK)), None)
    if script is None:
        _missing("RabbitMQ (apt-get install rabbitmq-server)")
    assert script is not None
    return script


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[RabbitMQ]:
    """The session's broker, running."""
    yield from running_rabbitmq()


def running_rabbitmq() -> Iterator[RabbitMQ]:
    """A broker, running, and its end."""
    script = server_script()
    with tempfile.TemporaryDirectory(prefix="vogeler-rabbitmq-") as folder:
        broker = RabbitMQ(script, Path(folder))
        try:
            broker.start()
            yield broker
        finally:
            broker.end()


@pytest.fixture
def vhost(rabbitmq: RabbitMQ) -> Iterator[str]:
    """A fresh virtual host, deleted afterwards."""
    name = "test-" + secrets.token_hex(4)
    rabbitmq.create_vhost(name)
    yield name
    rabbitmq.delete_vhost(name)


@pytest.fixture
def amqp_url(rabbitmq: RabbitMQ, vhost: str) -> str:
    """The URL of a fresh virtual host."""
    return rabbitmq.url(vhost)
