"""``vogeler-admin setup --roles`` as typed: what it makes, writes down, prints, keeps and removes."""

from __future__ import annotations

import re
import shlex
import stat
import subprocess
from pathlib import Path

import pytest

from tests.roles.conftest import Logins
from tests.servers.certificates import Authority, tls_before
from tests.servers.couchdb import CouchServer
from tests.servers.rabbitmq import RabbitMQ
from vogeler import messaging, roles
from vogeler.errors import ExitCode, TransportError

BASE = ["vogeler.admin", "vogeler.runner", "vogeler.server"]
EXAMPLES = (
    roles.node("web01.example"),
    roles.node("db01", ("db", "eu")),
    roles.all_nodes(),
    roles.server(),
    roles.runner(),
    roles.runner("alice"),
    roles.admin(),
)


def granted(logins: Logins) -> dict[str, tuple[str, str, str]]:
    """What RabbitMQ says of permissions in the virtual host."""
    rows = logins.rabbitmq.api("GET", f"/api/vhosts/{logins.vhost}/permissions")
    return {row["user"]: (row["configure"], row["write"], row["read"]) for row in rows}


def keys_granted(logins: Logins) -> set[tuple[str, str, str, str]]:
    rows = logins.rabbitmq.api("GET", f"/api/vhosts/{logins.vhost}/topic-permissions")
    return {(row["user"], row["exchange"], row["write"], row["read"]) for row in rows}


def test_logins_are_made_once_and_their_passwords_are_for_one_user_alone(logins: Logins) -> None:
    said = logins.make("--node", "web01")
    assert logins.users() == sorted([*BASE, "vogeler.node.web01"])
    assert "made the login vogeler.node.web01 at the broker" in said
    assert stat.S_IMODE(logins.passwords.stat().st_mode) == 0o600
    assert logins.settings("vogeler.node.web01")["qhost"].startswith("amqp://vogeler.node.web01@")
    passwords = {logins.password(user) for user in logins.users()}
    assert len(passwords) == 4
    assert not any(password in said for password in passwords)
    before = logins.passwords.read_bytes()
    assert "every login was there already" in logins.make("--node", "web01")
    assert logins.passwords.read_bytes() == before
    messaging.connect(logins.url("vogeler.node.web01")).close()


def test_a_node_is_added_later_and_removed_again(logins: Logins) -> None:
    logins.make()
    first = logins.password("vogeler.server")
    logins.make("--node", "web02:front,eu")
    assert logins.password("vogeler.server") == first
    transport = messaging.connect(logins.url("vogeler.node.web02"))
    transport.consume_commands("web02", ("front",))
    said = logins.make("--remove", "vogeler.node.web02", "--remove", "vogeler.node.web03")
    assert "removed the login vogeler.node.web02" in said
    assert "there was no login vogeler.node.web03" in said
    assert logins.users() == BASE
    with pytest.raises(TransportError):
        messaging.connect(logins.url("vogeler.node.web02"))
    transport.close()


def test_a_login_that_was_written_down_and_not_made_is_made_by_the_next_try(logins: Logins) -> None:
    """As after a crash in between, or when somebody deleted it: the node that has its password need not be told."""
    logins.make("--node", "web01")
    first = logins.password("vogeler.node.web01")
    logins.rabbitmq.delete_user("vogeler.node.web01")
    logins.make("--node", "web01")
    assert logins.password("vogeler.node.web01") == first
    messaging.connect(logins.url("vogeler.node.web01")).close()


def test_rights_that_somebody_widened_are_narrowed_again(logins: Logins) -> None:
    logins.make("--node", "web01")
    logins.rabbitmq.set_permissions(logins.vhost, "vogeler.node.web01")
    logins.make("--node", "web01")
    role = roles.node("web01")
    assert granted(logins)["vogeler.node.web01"] == (role.configure, role.write, role.read)


def test_without_a_place_for_passwords_nobody_is_made(nobodys: Logins) -> None:
    done = nobodys.setup("--roles")
    assert done.returncode == ExitCode.USAGE
    assert "--passwords FILE" in done.stderr
    assert nobodys.users() == []


def test_a_file_that_others_may_read_gets_no_passwords(logins: Logins) -> None:
    logins.passwords.write_text("")
    logins.passwords.chmod(0o644)
    done = logins.setup("--roles", "--passwords", str(logins.passwords))
    assert done.returncode == ExitCode.USAGE
    assert f"chmod 600 {logins.passwords}" in done.stderr
    assert logins.users() == []


def test_passwords_may_go_to_stdout_and_nowhere_else(logins: Logins) -> None:
    done = logins.setup("--roles", "--node", "web01", "--passwords", "-")
    assert done.returncode == 0, done.stderr
    logins.passwords.write_text(done.stdout)
    assert len({logins.password(user) for user in [*BASE, "vogeler.node.web01"]}) == 4
    messaging.connect(logins.url("vogeler.node.web01")).close()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--roles", "--node", "a/b"), "not a node name"),
        (("--roles", "--node", "web01:a b"), "not a node name"),
        (("--roles", "--runner", ""), "not a node name"),
        (("--roles", "--remove", "guest"), "no login that is made here"),
        (("--node", "web01"), "add --roles"),
        (("--print",), "add --roles"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_made(nobodys: Logins, flags: list[str], said: str) -> None:
    done = nobodys.setup(*flags, "--passwords", str(nobodys.passwords))
    assert (done.returncode, said in done.stderr) == (ExitCode.USAGE, True), done.stderr
    assert nobodys.users() == []


@pytest.mark.parametrize(
    ("qapi", "said"),
    [
        ("http://127.0.0.1:1", "can't be reached"),
        ("http://tester:wrong@127.0.0.1:{api}", "answers 401"),
        ("http://127.0.0.1:{amqp}", "can't be reached"),
        ("http://127.0.0.1:{api}/elsewhere", "answers 404"),
    ],
)
def test_a_management_api_that_is_not_there_is_named_with_the_way_without(
    nobodys: Logins, rabbitmq: RabbitMQ, qapi: str, said: str
) -> None:
    nobodys.write_config(rabbitmq.url(nobodys.vhost), qapi.format(api=rabbitmq.api_port, amqp=rabbitmq.port))
    done = nobodys.setup("--roles", "--passwords", str(nobodys.passwords))
    assert done.returncode == ExitCode.BROKER
    assert said in done.stderr
    assert "--print" in done.stderr
    assert "wrong" not in done.stderr
    assert not nobodys.passwords.exists()


def test_the_api_over_tls_is_trusted_as_its_url_says(logins: Logins, rabbitmq: RabbitMQ, tmp_path: Path) -> None:
    ours = Authority(tmp_path / "ours")
    with tls_before((rabbitmq.host, rabbitmq.api_port), ours.issue("api", "localhost")) as port:
        logins.write_config(rabbitmq.url(logins.vhost), f"https://localhost:{port}")
        done = logins.setup("--roles", "--passwords", str(logins.passwords))
        assert done.returncode == ExitCode.BROKER
        assert "shows a certificate that is not trusted" in done.stderr
        assert "?cafile=" in done.stderr
        assert logins.users() == []
        logins.write_config(rabbitmq.url(logins.vhost), f"https://localhost:{port}/?cafile={ours.cafile}")
        logins.make()
    assert "vogeler.server" in logins.users()


def test_a_password_in_a_flag_is_refused(nobodys: Logins) -> None:
    done = nobodys.setup("--roles", "--print", "--qapi", "http://me:secret@mq1:15672")
    assert done.returncode == ExitCode.USAGE
    assert "process list" in done.stderr


def test_the_local_engine_has_no_roles(logins: Logins, tmp_path: Path) -> None:
    logins.write_config(f"local://{tmp_path}/bus.db")
    for flags in (("--roles", "--print"), ("--roles", "--passwords", str(logins.passwords))):
        done = logins.setup(*flags)
        assert done.returncode == ExitCode.USAGE
        assert "RabbitMQ" in done.stderr


def test_what_is_printed_does_the_same_as_what_is_made(logins: Logins) -> None:
    """The commands are run on the broker's host, but for those that ask for a password: two seconds each."""
    flags = ("--node", "web01.example:front", "--runner", "alice")
    printed = logins.setup("--roles", "--print", *flags)
    assert printed.returncode == 0, printed.stderr
    assert logins.users() == []
    commands = [shlex.split(line) for line in printed.stdout.splitlines()]
    for _, act, *arguments in commands:
        if act == "add_user":
            logins.rabbitmq.create_user(*arguments, "typed")
    node = [c for c in commands if "vogeler.node.web01.example" in c and c[1] != "add_user"]
    for _, *arguments in node:
        logins.rabbitmq.ctl(*arguments)
    by_hand = granted(logins)["vogeler.node.web01.example"], keys_granted(logins)
    logins.make(*flags)
    assert granted(logins)["vogeler.node.web01.example"] == by_hand[0]
    assert {row for row in keys_granted(logins) if row[0] == "vogeler.node.web01.example"} == by_hand[1]
    made = {user: rights for user, rights in granted(logins).items() if user != logins.rabbitmq.user}
    shown = {c[4]: tuple(c[5:]) for c in commands if c[1] == "set_permissions"}
    assert shown == made
    assert {tuple(c[4:]) for c in commands if c[1] == "set_topic_permissions"} == keys_granted(logins)


@pytest.mark.parametrize("role", EXAMPLES, ids=lambda role: role.user)
def test_what_is_printed_is_fit_for_a_shell(role: roles.Role) -> None:
    for command in role.commands("a b"):
        echoed = subprocess.run(["bash", "-c", f"printf '%s\\n' {command}"], capture_output=True, text=True, check=True)
        assert echoed.stdout.splitlines() == shlex.split(command)
        assert "a b" in shlex.split(command)


@pytest.mark.parametrize("role", EXAMPLES, ids=lambda role: role.user)
def test_permissions_are_whole_regular_expressions(role: roles.Role) -> None:
    topics = [pattern for topic in role.topics for pattern in (topic.write, topic.read)]
    for pattern in (role.configure, role.write, role.read, *topics):
        assert pattern.startswith("^")
        assert re.compile(pattern).search("") is None or pattern == roles.NOTHING
        assert not re.search(pattern, "amq.default")
        assert not re.search(pattern, "#")


def test_the_stores_logins_are_made_and_removed_with_the_brokers(
    logins: Logins, couchdb_with_logins: CouchServer, couch_url_with_logins: str
) -> None:
    logins.dbhost = couch_url_with_logins
    logins.write_config(logins.rabbitmq.url(logins.vhost))
    said = logins.make("--runner", "alice", "--node", "web01")
    assert "made the login vogeler.runner.alice at the broker and store" in said
    assert "made the login vogeler.node.web01 at the broker\n" in said
    assert "made the login vogeler.reader at the store" in said
    roles_of = {
        name: couchdb_with_logins.api("GET", f"/_users/org.couchdb.user:{name}")["roles"]
        for name in ("vogeler.server", "vogeler.admin", "vogeler.runner", "vogeler.runner.alice", "vogeler.reader")
    }
    assert roles_of == {
        "vogeler.server": ["vogeler"],
        "vogeler.admin": ["vogeler"],
        "vogeler.runner": ["vogeler-reader"],
        "vogeler.runner.alice": ["vogeler-reader"],
        "vogeler.reader": ["vogeler-reader"],
    }
    settings = logins.settings("vogeler.runner.alice")
    assert settings["dbhost"].startswith("couch://vogeler.runner.alice@")
    assert settings["dbpassword"] != settings["qpassword"]
    assert "every login was there already" in logins.make("--runner", "alice")
    assert "removed the login vogeler.runner.alice" in logins.make("--remove", "vogeler.runner.alice")
    left = [row["id"] for row in couchdb_with_logins.api("GET", "/_users/_all_docs")["rows"]]
    assert "org.couchdb.user:vogeler.runner.alice" not in left
