"""TLS to broker and store: what can't be trusted is refused in words, and what can works from end to end."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Optional

import pytest

from tests.servers.certificates import Authority, Pair, tls_before
from tests.servers.couchdb import CouchServer
from tests.servers.processes import Fleet, wait_until
from tests.servers.rabbitmq import RabbitMQ, server_script
from vogeler.errors import ExitCode

SECRET = "Wh1sper-of-the-test"
_CONFIG = """
ssl_options.cacertfile = {cafile}
ssl_options.certfile = {pair.certfile}
ssl_options.keyfile = {pair.keyfile}
ssl_options.verify = verify_peer
ssl_options.fail_if_no_peer_cert = true
auth_mechanisms.1 = PLAIN
auth_mechanisms.2 = EXTERNAL
ssl_cert_login_from = common_name
"""


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The authority that we and the servers trust."""
    return Authority(tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """One that nobody knows."""
    return Authority(tmp_path_factory.mktemp("theirs"), "Somebody")


@pytest.fixture(scope="module")
def demanding(ours: Authority) -> Iterator[RabbitMQ]:
    """A broker that lets in who shows a certificate of ours, and takes it for a login."""
    with tempfile.TemporaryDirectory(prefix="vogeler-rabbitmq-") as folder:
        broker = RabbitMQ(server_script(), Path(folder))
        broker.enable("rabbitmq_auth_mechanism_ssl")
        broker.configure(_CONFIG.format(cafile=ours.cafile, pair=ours.issue("broker", "localhost")))
        try:
            broker.start()
            broker.create_vhost("fleet")
            for name in ("server", "web01"):
                broker.create_user(name, "")
                broker.set_permissions("fleet", name)
            yield broker
        finally:
            broker.end()


@pytest.fixture
def bad(request: pytest.FixtureRequest, ours: Authority, theirs: Authority) -> tuple[Pair, str, str]:
    """A certificate of a server, what is to be said of it, and what is to be done."""
    made: dict[str, tuple[Pair, str, str]] = {
        "expired": (ours.issue("s", "localhost", begins=-9, ends=-1), "certificate has expired", "renew"),
        "not yet": (ours.issue("s", "localhost", begins=5, ends=9), "not yet valid", "clocks"),
        "other name": (ours.issue("s", "elsewhere"), "Hostname mismatch", "name the server in the URL as its"),
        "unknown": (theirs.issue("s", "localhost"), "unable to get local issuer", "?cafile="),
    }
    return made[request.param]


def options(authority: Authority, pair: Optional[Pair] = None) -> str:
    shown = "" if pair is None else f"&certfile={pair.certfile}&keyfile={pair.keyfile}"
    return f"?cafile={authority.cafile}{shown}"


def refused(directory: Path, setting: str, url: str, *arguments: str) -> tuple[int, str]:
    """The exit code and what is said of it; the password is not."""
    fleet = Fleet("amqp://127.0.0.1:1/", "couch://127.0.0.1:1/", directory)
    fleet.environment[f"VOGELER_{setting}"] = url
    done = fleet.admin(*arguments)
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert SECRET not in done.stderr
    return done.returncode, done.stderr


@pytest.mark.parametrize("bad", ["expired", "not yet", "other name", "unknown"], indirect=True)
def test_a_server_that_can_not_be_trusted_is_told_nothing(
    bad: tuple[Pair, str, str], ours: Authority, rabbitmq: RabbitMQ, couchdb_server: CouchServer, tmp_path: Path
) -> None:
    """Neither broker nor store: what, where, what to do, and the exit code; the password stays here."""
    pair, said, remedy = bad
    for number, (setting, scheme, upstream, command, code) in enumerate((
        ("QHOST", "amqps", rabbitmq, ["dead", "list"], ExitCode.BROKER),
        ("DBHOST", "couchs", couchdb_server, ["nodes"], ExitCode.STORE),
    )):  # fmt: skip
        (tmp_path / str(number)).mkdir()
        with tls_before((upstream.host, upstream.port), pair) as port:
            url = f"{scheme}://tester:{SECRET}@localhost:{port}/records{options(ours)}"
            ended, text = refused(tmp_path / str(number), setting, url, *command)
        assert ended == code, text
        assert f"{scheme}://tester:…@localhost:{port}/records" in text
        assert said in text
        assert remedy in text


def test_without_a_cafile_the_authorities_of_the_system_are_asked(
    ours: Authority, couchdb_server: CouchServer, tmp_path: Path
) -> None:
    with tls_before((couchdb_server.host, couchdb_server.port), ours.issue("s", "localhost")) as port:
        ended, text = refused(tmp_path, "DBHOST", f"couchs://localhost:{port}/records", "nodes")
    assert ended == ExitCode.STORE
    assert "not trusted" in text


@pytest.mark.parametrize(
    ("whose", "said"),
    [
        (None, "demands a client certificate, and was shown none"),
        ("expired", "refuses our certificate: it has expired"),
        ("stranger", "refuses our certificate: it does not know who signed it"),
        ("nobody", "ACCESS_REFUSED"),
    ],
)
def test_a_broker_that_demands_a_certificate_lets_in_nobody_else(
    whose: Optional[str], said: str, demanding: RabbitMQ, ours: Authority, theirs: Authority, tmp_path: Path
) -> None:
    pair = {
        None: None, "expired": ours.issue("web01", begins=-9, ends=-1), "stranger": theirs.issue("web01"),
        "nobody": ours.issue("nobody"),
    }[whose]  # fmt: skip
    url = f"amqps://localhost:{demanding.tls_port}/fleet{options(ours, pair)}"
    ended, text = refused(tmp_path, "QHOST", url, "dead", "list")
    assert ended == ExitCode.BROKER, text
    # TLS 1.3: the broker may hang up on what we send before its reason is read.
    assert said in text or "does it demand a client certificate (?certfile=), or not trust ours?" in text
    assert ("certfile" if whose != "nobody" else "rabbitmq_auth_mechanism_ssl") in text


def test_a_store_that_demands_a_certificate_lets_in_nobody_else(
    ours: Authority, theirs: Authority, couchdb_server: CouchServer, tmp_path: Path
) -> None:
    pair = ours.issue("store", "localhost")
    with tls_before((couchdb_server.host, couchdb_server.port), pair, clients=ours) as port:
        for number, shown in enumerate((None, theirs.issue("server"))):
            (tmp_path / str(number)).mkdir()
            url = f"couchs://tester:{SECRET}@localhost:{port}/records{options(ours, shown)}"
            ended, text = refused(tmp_path / str(number), "DBHOST", url, "nodes")
            assert ended == ExitCode.STORE, text
            assert "client certificate" in text or "our certificate" in text


def test_a_broker_that_knows_no_logins_by_certificate_says_what_it_lacks(
    rabbitmq: RabbitMQ, ours: Authority, tmp_path: Path
) -> None:
    with tls_before((rabbitmq.host, rabbitmq.port), ours.issue("s", "localhost")) as port:
        url = f"amqps://localhost:{port}/{options(ours, ours.issue('web01'))}"
        ended, text = refused(tmp_path, "QHOST", url, "dead", "list")
    assert ended == ExitCode.BROKER, text
    assert "rabbitmq_auth_mechanism_ssl" in text


@pytest.mark.parametrize("scheme", ["amqp", "couch"])
def test_files_that_can_not_be_used_are_named(scheme: str, ours: Authority, theirs: Authority, tmp_path: Path) -> None:
    """A key behind a password asks nobody for it; certificates without TLS are not passed over."""
    pair, locked, other = ours.issue("web01"), ours.issue("web01", password=b"x"), theirs.issue("web01")
    (tmp_path / "text").write_text("no PEM")
    setting, command = ("QHOST", ["dead", "list"]) if scheme == "amqp" else ("DBHOST", ["nodes"])
    for number, (url, said) in enumerate((
        (f"{scheme}s://localhost:1/?cafile=/nowhere", "cafile in the URL"),
        (f"{scheme}s://localhost:1/?cafile={tmp_path}/text", f"{tmp_path}/text"),
        (f"{scheme}s://localhost:1/?certfile=/nowhere", "/nowhere: No such file"),
        (f"{scheme}s://localhost:1/{options(ours, locked)}", f"{locked.keyfile}: "),
        (f"{scheme}s://localhost:1/{options(ours, Pair(pair.certfile, other.keyfile))}", f"{other.keyfile}: "),
        (f"{scheme}s://localhost:1/?keyfile={pair.keyfile}", "keyfile without a certfile"),
        (f"{scheme}://localhost:1/{options(ours)}", f"write {scheme}s://"),
    )):  # fmt: skip
        (tmp_path / str(number)).mkdir()
        ended, text = refused(tmp_path / str(number), setting, url, *command)
        assert ended == ExitCode.USAGE, (url, text)
        assert said in text, (url, text)


def test_with_certificates_all_round_a_fleet_needs_no_password_for_the_broker(
    demanding: RabbitMQ, ours: Authority, couchdb_server: CouchServer, couch_url: str, tmp_path: Path
) -> None:
    """They log in by what their certificates say, and name themselves in the URL; the store demands one as well."""
    server, web01 = ours.issue("server"), ours.issue("web01")
    store = (couchdb_server.host, couchdb_server.port)
    with ExitStack() as stack:
        port = stack.enter_context(tls_before(store, ours.issue("store", "localhost"), clients=ours))
        dbhost = couch_url.replace("couch://", "couchs://").replace(f"{store[0]}:{store[1]}", f"localhost:{port}")
        broker = f"amqps://localhost:{demanding.tls_port}/fleet"
        fleet = Fleet(
            broker.replace("localhost", "server@localhost") + options(ours, server),
            dbhost + options(ours, server),
            tmp_path,
        )
        stack.callback(fleet.stop)
        fleet.plugin("facts", "echo fact")
        assert fleet.admin("setup").returncode == 0
        fleet.server().wait_for("ready")
        environment = {"VOGELER_QHOST": broker.replace("localhost", "web01@localhost") + options(ours, web01)}
        fleet.client("web01", environment=environment).wait_for("ready")
        fleet.wait_known("web01")
        assert fleet.ask("-c", "facts", "-n", "web01")["web01"]["stage"] == "stored"
        assert fleet.admin("doctor").returncode == 0

        def users() -> set[str]:
            return {connection["user"] for connection in demanding.connections("fleet")}

        wait_until(lambda: users() >= {"server", "web01"}, "both are connected by their own names", fleet.logs)
