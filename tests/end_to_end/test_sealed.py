"""From a plugin to those who have the key: what is sealed is nowhere else."""

from __future__ import annotations

import json
import re
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.servers.processes import Daemon, Fleet, wait_until
from vogeler.errors import ExitCode
from vogeler.messages import Result, digest_of, encode, now
from vogeler.sealed import is_sealed

pytestmark = pytest.mark.parametrize("fleet", [("local", "sqlite")], indirect=True, ids=["local"])
SECRET = "T0p-secret"


@dataclass
class Sealed:
    """A node whose plugin ``app`` seals a password, and alice, who may read it."""

    fleet: Fleet
    source: Path
    readers: Path
    key: Path
    said: str = ""

    def write(self, password: str) -> None:
        self.source.write_text(json.dumps({"password": password, "keys": {"a": {"private": password, "public": 1}}}))

    def ask(self, alias: str = "app") -> str:
        """How the run ended on the node."""
        done = self.fleet.runner("-c", alias, "-n", "web01", "--format", "json", "--loglevel", "debug")
        self.said += done.stdout + done.stderr
        return str(json.loads(done.stdout)[0]["stage"])

    def admin(self, *words: str, code: int = 0) -> tuple[str, str]:
        done = self.fleet.admin(*words)
        assert done.returncode == code, (words, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        if "--unseal" not in words:
            self.said += done.stdout + done.stderr
        return done.stdout, done.stderr

    def shown(self, *words: str, code: int = 0) -> Any:
        return json.loads(self.admin("show", "web01", "app", "--format", "json", *words, code=code)[0])

    def new_key(self, name: str, file: str) -> tuple[Path, str]:
        path = self.fleet.directory / file
        line, _ = self.admin("key", "new", name, "--reader", str(path))
        return path, line.strip()

    def trust(self, line: str, *words: str) -> None:
        self.admin("key", "trust", *line.split(), "--readers", str(self.readers), *words)

    def client(self, *words: str) -> Daemon:
        flags = ("--readers", str(self.readers), "--redact-key", str(self.fleet.directory / "redact.key"))
        client = self.fleet.client("web01", *flags, "--loglevel", "debug", *words)
        client.wait_for("ready")
        self.fleet.wait_known("web01")
        return client


@pytest.fixture
def it(fleet: Fleet) -> Sealed:
    source, readers = fleet.directory / "app.json", fleet.directory / "readers"
    fleet.plugin("app", f"cat {source}", "json", seal="password, keys.*.private")
    made = Sealed(fleet, source, readers, fleet.directory / "alice.key")
    _, line = made.new_key("alice", "alice.key")
    made.trust(line)
    fleet.server("--loglevel", "debug").wait_for("ready")
    return made


def test_what_is_sealed_is_nowhere_and_its_reader_has_it(it: Sealed) -> None:
    """A change is seen, what is unchanged stays unchanged, also over a restart of the client; and no file has it."""
    it.fleet.plugin("lines", f"cat {it.source}")
    client = it.client("--seal", "lines")
    it.write(SECRET)
    assert [it.ask(), it.ask("lines"), it.ask(), it.ask("lines")] == ["stored", "stored", "unchanged", "unchanged"]
    client.kill()
    client = it.client("--seal", "lines")
    assert [it.ask(), it.ask("lines")] == ["unchanged", "unchanged"]
    first, at = it.shown(), now()
    it.write(SECRET + "2")
    assert [it.ask(), it.ask("lines")] == ["stored", "stored"]
    second, unseal = it.shown(), ("--unseal", str(it.key))

    assert all(map(is_sealed, (first["password"], second["password"], second["keys"]["a"]["private"])))
    assert first["password"] != second["password"]
    assert second["keys"]["a"]["public"] == 1
    assert it.shown(*unseal) == json.loads(it.source.read_text())
    assert it.shown("--at", at, *unseal)["password"] == SECRET
    assert json.loads(it.admin("show", "web01", "--format", "json", *unseal)[0])["app"] == it.shown(*unseal)
    assert SECRET in it.admin("show", "web01", "lines", *unseal)[0]

    digest = second["password"]["digest"]
    assert "web01" in it.admin("find", f"app.password.digest = {digest}")[0]
    assert it.admin("show", "web01", "app")[0].splitlines()[1] == f"password  {digest} for alice"
    assert re.search(r"^lines +sealed ", it.admin("show", "web01")[0], re.MULTILINE)
    assert (
        f"~ password {first['password']['digest']} for alice → {digest} for alice"
        in it.admin("history", "web01", "app")[0]
    )
    assert f"~ password {SECRET} → {SECRET}2" in it.admin("history", "web01", "app", *unseal)[0]
    assert f"~ password {SECRET} → {SECRET}2" in it.admin("diff", "web01", "--between", at, now(), "app", *unseal)[0]
    assert f"password {SECRET} → {SECRET}2" in it.admin("changes", "--key", "app", *unseal)[0]
    for words in (
        ["changes", "--details"],
        ["diff", "web01", "--between", at, now()],
        ["dead", "list"],
        ["find", "app"],
    ):
        it.admin(*words)

    it.said += "".join(daemon.log for daemon in it.fleet.daemons)
    files = [path for path in it.fleet.directory.rglob("*") if path.is_file() and path != it.source]
    assert len(files) > 6
    assert SECRET not in it.said
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []


def test_a_key_is_replaced_without_a_value_that_nobody_can_read(it: Sealed) -> None:
    it.client()
    it.write(SECRET)
    assert it.ask() == "stored"
    before, digest = now(), it.shown()["password"]["digest"]
    anew, line = it.new_key("alice", "alice2.key")
    it.trust(line)
    assert it.ask() == "stored", "sealed for another key: a change, with the same digest in it"
    both = it.shown()["password"]
    assert (both["digest"], len(both["for"]["alice"])) == (digest, 2)
    for key in (it.key, anew):
        assert it.shown("--unseal", str(key))["password"] == SECRET
    rows = json.loads(it.admin("key", "show", "--readers", str(it.readers), "--format", "json")[0])
    assert [row["use"] for row in rows] == ["reads", "reads"]
    (old,) = {row["id"] for row in rows} - {row["id"] for row in rows if row["key"] == line.split()[1]}
    it.admin("key", "revoke", old, "--readers", str(it.readers))
    assert it.ask() == "stored"
    assert is_sealed(it.shown("--unseal", str(it.key))["password"])
    said = it.admin("show", "web01", "app", "--unseal", str(it.key))[1]
    assert said == "2 values stay sealed: for alice, and not for these keys\n"
    assert it.shown("--at", before, "--unseal", str(anew), "--unseal", str(it.key))["password"] == SECRET
    assert it.admin("history", "web01", "app", "--unseal", str(it.key), "--unseal", str(anew))[1] == ""


def test_what_somebody_else_has_put_there_is_told_and_stays_as_it_is(it: Sealed) -> None:
    """Who may write to the store or speak for the node can move what is sealed, and is found out; or break it."""
    it.client()
    it.write(SECRET)
    assert it.ask() == "stored"
    value = it.shown()
    moved = {**value, "password": value["keys"]["a"]["private"], "keys": {"b": value["keys"]["a"]}}
    cut = json.loads(json.dumps(value))
    cut["password"]["for"]["alice"] = {name: text[:40] for name, text in cut["password"]["for"]["alice"].items()}
    nonsense = {"pass\nword": {"sealed": [], "digest": {}, "for": {"\x1b[31m": {"x": "\x1b"}, "alice": 5}}}
    for made, words in (
        (moved, ["at another place", "at another place"]),
        (cut, ["cut short"]),
        (nonsense, ["not known"]),
    ):
        with closing(it.fleet.transport()) as transport:
            result = Result(
                "web01", "app", "app", time.time_ns() // 1000, "ok", now(), value=made, digest=digest_of(made)
            )
            transport.publish_result(encode(result), "web01")
        wait_until(lambda made=made: it.shown() == made, "stored", it.fleet.logs)  # type: ignore[misc]
        for format in ("json", "table"):
            flags = ("--format", format, "--unseal", str(it.key))
            out, said = it.admin("show", "web01", "app", *flags, code=ExitCode.SOME_FAILED)
            lines = said.splitlines()
            assert len(lines) == len(words)
            for line, word in zip(lines, words):
                assert re.match(r"web01, app\..+: can't be unsealed: ", line)
                assert word in line
            assert "\x1b" not in out + said
    it.admin("history", "web01", "app", "--unseal", str(it.key), code=ExitCode.SOME_FAILED)


def test_readers_that_are_broken_while_a_client_runs_fail_the_plugin_and_keep_the_value(it: Sealed) -> None:
    it.client()
    it.write(SECRET)
    assert it.ask() == "stored"
    before = it.shown()
    it.readers.write_text("nonsense\n")
    it.write(SECRET + "2")
    assert it.ask() == "failed"
    assert "can't seal" in it.said
    assert it.shown() == before
    it.said += "".join(daemon.log for daemon in it.fleet.daemons)
    assert SECRET not in it.said


def test_a_plugin_that_can_not_seal_is_not_there_for_a_runner(it: Sealed) -> None:
    it.readers.unlink()
    client = it.client()
    assert "can't seal" in client.wait_for("bad_plugin")["message"]
    it.write(SECRET)
    assert it.ask() == "unavailable"


def test_a_private_key_that_others_may_read_opens_nothing(it: Sealed) -> None:
    it.key.chmod(0o644)
    _, said = it.admin("show", "web01", "app", "--unseal", str(it.key), code=ExitCode.USAGE)
    assert "is open to others: its mode is 0644" in said
    _, said = it.admin("show", "web01", "app", "--unseal", str(it.readers), code=ExitCode.USAGE)
    assert "is open to others" in said or "not a private key" in said


def test_the_keys_of_readers_are_kept_beside_those_that_sign(it: Sealed) -> None:
    fleet, readers, trusted = it.fleet, str(it.readers), str(it.fleet.directory / "trusted")
    both = ("--readers", readers, "--trusted-keys", trusted)
    signs, _ = it.admin("key", "new", "alice", "--signing-key", str(fleet.directory / "alice.sign"))
    it.admin("key", "trust", *signs.split(), *both)
    _, bob = it.new_key("bob", "bob.key")
    it.trust(bob, "--keys", "app*,users")
    rows = json.loads(it.admin("key", "show", *both, "--format", "json")[0])
    assert [(row["use"], row["name"], row["keys"]) for row in rows] == [
        ("trusted", "alice", None), ("reads", "alice", ""), ("reads", "bob", "app*,users"),
    ]  # fmt: skip
    for words in ([*bob.split(), "--aliases", "x"], [*bob.split(), "--expires", "1d"], [*signs.split(), "--keys", "x"]):
        it.admin("key", "trust", *words, *both, code=ExitCode.USAGE)
    it.admin("key", "revoke", "carol", *both, code=ExitCode.NOT_FOUND)
    it.admin("key", "revoke", "alice", *both)
    assert it.admin("key", "show", *both, "--format", "csv")[0].count("alice") == 0
    it.admin("key", "new", "bob", "--reader", str(fleet.directory / "bob.key"), code=ExitCode.USAGE)
    it.admin("key", "trust", *bob.split(), code=ExitCode.USAGE)
