"""The logins of a fleet: at the broker by roles.py, at the store as writers and readers; and their passwords.

A login has one name at both. Who has it already keeps its password.
"""

from __future__ import annotations

import argparse
import configparser
import io
import secrets
import stat
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Optional
from urllib.parse import urlencode

from vogeler import persistence, roles, topology, urls
from vogeler.cli.admin import _files
from vogeler.config import Settings
from vogeler.errors import TransportUnavailable, UsageError
from vogeler.messages import check_node_name
from vogeler.messaging._amqp_management import Management, url_beside
from vogeler.persistence._couch_access import READER, WRITER, Access
from vogeler.persistence.couch import CouchStore
from vogeler.urls import Url

STORE_READER = "vogeler.reader"
_PASSWORD_BYTES = 24
_HOSTS_OWN = ("certfile", "keyfile")  # options of a URL that are for one login alone


@dataclass(frozen=True)
class Login:
    """``role``: at the broker; ``access``: at the store. None: nothing there."""

    user: str
    role: Optional[roles.Role] = None
    access: Optional[str] = None


class Logins:
    """What ``setup --roles`` is asked for. Raises UsageError for what makes no sense, before anything is done."""

    def __init__(self, arguments: argparse.Namespace, settings: Settings) -> None:
        self._settings = settings
        self._brokers = urls.parse_many(settings.qhost, settings.qpassword or None)
        self._apis = _apis(self._brokers, settings)
        self._vhost = self._brokers[0].path[1:] or "/"
        self._logins = list(_wanted(arguments))
        self._removed = [_ours(user) for user in arguments.remove]
        self._passwords = Passwords(arguments.passwords)

    def commands(self) -> Iterator[str]:
        """What ``make`` does at the broker, as commands of rabbitmqctl, which asks for the passwords."""
        for login in self._logins:
            if login.role is not None:
                yield f"rabbitmqctl add_user {login.user}"
                yield from login.role.commands(self._vhost)
        for user in self._removed:
            yield f"rabbitmqctl delete_user {user}"

    def make(self) -> list[str]:
        """Make and grant what is missing, remove what is to go; what was done, a line each."""
        broker = self._management()
        dbhost, password = self._settings.dbhost, self._settings.dbpassword or None
        with closing(persistence.connect(dbhost, password, self._settings.store_timeout)) as store:
            access = store.access() if isinstance(store, CouchStore) else None
            done = access.protect() if access else []
            for login in self._logins:
                done += self._make(login, broker, access)
            for user in self._removed:
                there = [broker.delete_user(user), access is not None and access.delete_user(user)]
                done.append(f"removed the login {user}" if any(there) else f"there was no login {user}")
        return done

    def _make(self, login: Login, broker: Management, access: Optional[Access]) -> list[str]:
        """A password is written down before it is anybody's: what is interrupted is made with it by the next try."""
        at_broker = login.role is not None and not broker.has_user(login.user)
        at_store = access is not None and login.access is not None and not access.has_user(login.user)
        lines: dict[str, str] = {}
        if at_broker:
            lines.update(qhost=",".join(_as(url, login.user) for url in self._brokers), qpassword="")
        if at_store:
            lines.update(dbhost=_as(urls.parse(self._settings.dbhost), login.user), dbpassword="")
        made = self._passwords.of(login.user, lines) if lines else {}
        if at_broker:
            broker.make_user(login.user, made["qpassword"])
        if login.role is not None:
            broker.grant(self._vhost, login.role)
        if at_store and access is not None and login.access is not None:
            access.make_user(login.user, made["dbpassword"], login.access)
        places = " and ".join(place for place, is_new in (("broker", at_broker), ("store", at_store)) if is_new)
        return [f"made the login {login.user} at the {places}"] if places else []

    def _management(self) -> Management:
        """The API of the first member that answers."""
        managements = [Management(url, self._settings.connect_timeout) for url in self._apis]
        for management in managements[:-1]:
            with suppress(TransportUnavailable):
                management.check()
                return management
        managements[-1].check()
        return managements[-1]


def _wanted(arguments: argparse.Namespace) -> Iterator[Login]:
    yield Login(topology.SERVER_USER, roles.server(), WRITER)
    yield Login(topology.ADMIN_USER, roles.admin(), WRITER)
    yield Login(topology.RUNNER_USER, roles.runner(), READER)
    for operator in map(_name, arguments.runner):
        yield Login(topology.runner_user(operator), roles.runner(operator), READER)
    yield Login(STORE_READER, None, READER)
    if arguments.shared:
        yield Login(topology.NODES_USER, roles.all_nodes())
    for text in arguments.node:
        name, colon, groups = text.partition(":")
        in_groups = tuple(_name(group) for group in groups.split(",") if group) if colon else None
        yield Login(topology.node_user(_name(name)), roles.node(name, in_groups))


def _name(text: str) -> str:
    try:
        check_node_name(text)
    except ValueError as error:
        raise UsageError(str(error), "names of nodes, groups and operators are of one kind") from None
    return text


def _apis(brokers: tuple[Url, ...], settings: Settings) -> list[Url]:
    """Where users are managed: beside the brokers, or as ``qapi`` says; with the broker's login."""
    beside = [url_beside(url) for url in brokers]
    if not settings.qapi:
        return beside
    named = urls.parse_many(settings.qapi)
    known = {url.user: url.password for url in reversed(brokers)}
    with_user = [url if url.user else replace(url, user=brokers[0].user) for url in named]
    return [url.with_password(known.get(url.user)) for url in with_user]


def _as(url: Url, user: str) -> str:
    """The URL with another login, and without its password."""
    options = urlencode([option for option in url.options if option[0] not in _HOSTS_OWN], safe="/")
    return str(replace(url, user=user, password=None)) + (f"?{options}" if options else "")


def _ours(user: str) -> str:
    if not user.startswith(("vogeler.", topology.NODES_USER)):
        raise UsageError(
            f"{user!r} is no login that is made here",
            f"for a node: {topology.node_user('NAME')}, for an operator: {topology.runner_user('NAME')}",
        )
    return user


class Passwords:
    """The settings of new logins, a section for each: appended to a file for this user alone, or printed.

    What such a file has already is taken: its password was made, and its login perhaps not.
    """

    def __init__(self, place: Optional[str]) -> None:
        """``place``: a file, or ``-`` for stdout. Raises UsageError for a file that others can read."""
        self._path = Path(place) if place and place != "-" else None
        self._printed = place == "-"
        self._known = configparser.ConfigParser(interpolation=None, default_section="")
        if self._path is not None and self._path.exists():
            self._read(self._path)

    def _read(self, path: Path) -> None:
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise UsageError(f"others may read {path}, which is to hold passwords", f"chmod 600 {path}")
        try:
            self._known.read_string(path.read_text(encoding="utf-8"), str(path))
        except (ValueError, configparser.Error) as error:
            raise UsageError(f"{path} holds no logins: {' '.join(str(error).split())}", "name another file") from None

    def of(self, user: str, lines: dict[str, str]) -> dict[str, str]:
        """The section of a login, with these lines in it; each password that is empty is made now."""
        if self._path is None and not self._printed:
            raise UsageError(
                f"the login {user} is to be made, and its password has to be written down",
                "--passwords FILE, which will be for this user alone; or --passwords - to have it on stdout",
            )
        there = dict(self._known[user]) if self._known.has_section(user) else {}
        made = {name: text or there.get(name) or secrets.token_urlsafe(_PASSWORD_BYTES) for name, text in lines.items()}
        self._known[user] = {**there, **made}
        self._write(user)
        return made

    def _write(self, user: str) -> None:
        text = io.StringIO()
        if self._path is None:
            printed = configparser.ConfigParser(interpolation=None, default_section="")
            printed[user] = self._known[user]
            printed.write(text)
            sys.stdout.write(text.getvalue())
            sys.stdout.flush()
            return
        self._known.write(text)
        _files.replace(self._path, text.getvalue(), 0o600)
