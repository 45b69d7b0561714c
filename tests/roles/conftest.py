"""Logins as ``vogeler-admin setup --roles`` makes them, at a RabbitMQ of the tests' own."""

from __future__ import annotations

import configparser
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pika
import pytest

from tests.servers.processes import COMMANDS
from tests.servers.rabbitmq import RabbitMQ

LOGINS = ("vogeler.", "vogeler-node")


class Logins:
    """A virtual host, and the passwords of those who may do something in it."""

    def __init__(self, rabbitmq: RabbitMQ, folder: Path, dbhost: str = "") -> None:
        self.rabbitmq = rabbitmq
        self.vhost = "roles-" + secrets.token_hex(4)
        self.passwords = folder / "passwords"
        self.dbhost = dbhost or f"sqlite://{folder}/vogeler.db"
        self._config = folder / "admin.conf"
        rabbitmq.create_vhost(self.vhost)
        self.write_config(rabbitmq.url(self.vhost))

    def write_config(self, qhost: str, qapi: str = "") -> None:
        """Whose login sets everything up."""
        qapi = qapi or f"http://{self.rabbitmq.host}:{self.rabbitmq.api_port}"
        self._config.write_text(f"[vogeler]\nqhost = {qhost}\ndbhost = {self.dbhost}\n[admin]\nqapi = {qapi}\n")

    def setup(self, *flags: str) -> subprocess.CompletedProcess[str]:
        """``vogeler-admin setup``, as typed."""
        command = [str(COMMANDS / "vogeler-admin"), "setup", "--config", str(self._config), *flags]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    def make(self, *flags: str) -> str:
        """What it says to do with ``--roles``."""
        done = self.setup("--roles", "--passwords", str(self.passwords), *flags)
        assert done.returncode == 0, done.stderr
        return done.stderr

    def settings(self, user: str) -> dict[str, str]:
        """What the file of the passwords says for a login."""
        parser = configparser.ConfigParser(interpolation=None)
        parser.read(self.passwords)
        return dict(parser[user])

    def password(self, user: str) -> str:
        return self.settings(user)["qpassword"]

    def url(self, user: str) -> str:
        """With the password."""
        return f"amqp://{user}:{self.password(user)}@{self.rabbitmq.host}:{self.rabbitmq.port}/{quote(self.vhost)}"

    def connect(self, user: str) -> Any:
        """A connection that does what it likes."""
        return pika.BlockingConnection(pika.URLParameters(self.url(user)))

    def users(self) -> list[str]:
        """Those that there are for Vogeler."""
        names = [user["name"] for user in self.rabbitmq.api("GET", "/api/users")]
        return sorted(name for name in names if name.startswith(LOGINS))

    def end(self) -> None:
        self.rabbitmq.delete_vhost(self.vhost)
        for user in self.users():
            self.rabbitmq.delete_user(user)


@pytest.fixture(scope="module")
def nobodys(rabbitmq: RabbitMQ, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Logins]:
    """Of which none is made: for what is refused."""
    made = Logins(rabbitmq, tmp_path_factory.mktemp("nobodys"))
    yield made
    made.end()


@pytest.fixture
def logins(rabbitmq: RabbitMQ, tmp_path: Path) -> Iterator[Logins]:
    """Nobody's yet."""
    made = Logins(rabbitmq, tmp_path)
    yield made
    made.end()
