"""What is redacted never leaves the node; a change of it is seen all the same, and nobody can guess it."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.servers.processes import Fleet, wait_until
from vogeler.collect import collect
from vogeler.errors import PluginError
from vogeler.messages import FAILED, UNPARSABLE, canonical_json
from vogeler.redact import Redaction

from .conftest import Make

SECRET = "T0p-secret"
DIGEST = re.compile(r"redacted:[0-9a-f]{32}")


@pytest.fixture
def key(tmp_path: Path) -> Path:
    file = tmp_path / "redact.key"
    file.write_bytes(b"0123456789abcdef")
    file.chmod(0o600)
    return file


def redacted(value: Any, *below: str, key: Path, paths: tuple[str, ...] = ()) -> Any:
    return Redaction(key, paths).of(value, "app", below)[0]


def test_the_digest_is_hmac_sha256_of_the_canonical_json(key: Path) -> None:
    made = hmac.new(b"0123456789abcdef", canonical_json({"b": 1, "a": [2]}).encode(), hashlib.sha256).hexdigest()
    assert redacted({"x": {"a": [2], "b": 1}}, "x", key=key) == {"x": f"redacted:{made[:32]}"}


@pytest.mark.parametrize(
    ("paths", "where"),
    [
        (["password"], "password"),
        (["db.*.pw"], "db.main.pw"),
        (["users.hash"], "users.0.hash"),
        (["db.main"], "db.main"),
        (["pass*", "*.hash"], "users.1.hash"),
        (["none"], "none"),
        (["number"], "number"),
        (["."], ""),
    ],
)
def test_paths_are_those_of_volatile(key: Path, paths: list[str], where: str) -> None:
    value: Any = {
        "password": SECRET, "db": {"main": {"pw": SECRET, "host": "h"}}, "users": [{"hash": SECRET, "n": 1}, {"hash": 5}],
        "none": None, "number": 7, "other": "kept",
    }  # fmt: skip
    found = redacted(value, *paths, key=key)
    for part in filter(None, where.split(".")):
        found = found[int(part) if part.isdigit() else part]
    assert DIGEST.fullmatch(found)


def test_what_is_not_named_is_left_alone(key: Path) -> None:
    value = {"password2": 1, "a": {"password": 2}, "list": [1, "x", None]}
    assert redacted(value, "password", "b", key=key) == value


def test_settings_name_paths_in_the_record(key: Path) -> None:
    value = {"pw": SECRET, "deep": {"pw": SECRET}, "x": 1}
    assert SECRET not in str(redacted(value, key=key, paths=("app.pw", "*.deep")))
    assert redacted(value, key=key, paths=("other.*", "pw")) == value
    assert DIGEST.fullmatch(redacted("line", key=key, paths=("app",)))


def test_equal_values_have_equal_digests_under_one_key_and_others_under_another(key: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.key"  # made when it is needed
    one = [redacted({"a": value}, "a", key=key)["a"] for value in (1, 1, 2, "1", None, False)]
    assert one[0] == one[1]
    assert len(set(one)) == 5
    assert redacted({"a": 1}, "a", key=other)["a"] not in one
    assert other.stat().st_mode & 0o777 == 0o600
    assert len(other.read_bytes()) == 32


def test_many_who_make_the_key_at_once_have_the_same(tmp_path: Path) -> None:
    file, found = tmp_path / "new" / "redact.key", set()
    threads = [threading.Thread(target=lambda: found.add(redacted(1, ".", key=file))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 1
    assert [path.name for path in file.parent.iterdir()] == ["redact.key"]


@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [(b"short", 0o600, "at least 16"), (b"x" * 32, 0o644, "0644"), (None, 0o700, "directory")],
)
def test_without_a_good_key_nothing_is_sent(
    make: Make, tmp_path: Path, content: bytes | None, mode: int, said: str
) -> None:
    file = tmp_path / "bad.key"
    if content is None:
        file.mkdir()
    else:
        file.write_bytes(content)
    file.chmod(mode)
    plugin = make(f"command = echo {SECRET}", "redact = .")
    for redaction in (Redaction(file), None):
        collected = collect(plugin, redaction=redaction)
        assert (collected.status, collected.value) == (FAILED, None)
        assert SECRET not in str(collected)
        assert redaction is None or said in (collected.error or "")
    with pytest.raises(PluginError, match="can't redact"):
        Redaction(file).of("x", "app", ["."])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_key_that_somebody_else_has_put_there_is_not_used(key: Path) -> None:
    os.chown(key, 65534, -1)
    with pytest.raises(PluginError, match="belongs to another user, number 65534, who knows the key then"):
        redacted("secret", ".", key=key)


def test_a_plugin_that_redacts_lets_nothing_out_by_its_errors(make: Make, key: Path) -> None:
    """Neither what it said nor output that can't be read; the status and the exit code are told."""
    for command, status, said in (
        (f"sh -c 'echo {SECRET} >&2; exit 3'", FAILED, "exit code 3"),
        (f"echo {SECRET}", UNPARSABLE, "not quoted"),
        (f"sh -c 'echo {SECRET} >&2; exit 69'", "unavailable", "exit code 69"),
    ):
        plugin = make(f"command = {command}", "redact = password", "result_format = keyvalue")
        collected = collect(plugin, redaction=Redaction(key))
        assert collected.status == status
        assert said in (collected.error or "")
        assert SECRET not in str(collected)


def test_from_plugin_to_store_there_is_no_secret_anywhere_and_a_change_is_seen(fleet: Fleet) -> None:
    """In no log, message, document or file but the plugin's own; the history has both digests."""
    source = fleet.directory / "app.json"
    fleet.plugin("app", f"cat {source}", "json", redact="password, keys.*.private")
    fleet.plugin("lines", f"cat {source}", unordered="true")
    key = fleet.directory / "fleet.key"
    flags = ("--redact-key", str(key), "--redact", "lines", "--loglevel", "debug")
    fleet.server("--loglevel", "debug").wait_for("ready")
    fleet.client("web01", *flags).wait_for("ready")
    fleet.wait_known("web01")
    said = ""
    for password in (SECRET, SECRET + "2"):
        source.write_text(json.dumps({"password": password, "keys": {"a": {"private": password, "public": 1}}}))
        for alias in ("app", "lines"):
            done = fleet.runner("-c", alias, "-n", "web01", "--show", "--loglevel", "debug")
            assert done.returncode == 0, done.stderr
            said += done.stdout + done.stderr
    shown = json.loads(fleet.admin("show", "web01", "app", "--format", "json").stdout)
    assert DIGEST.fullmatch(shown["password"])
    assert shown["keys"]["a"] == {"private": shown["password"], "public": 1}
    history = fleet.admin("history", "web01", "--details")
    assert len(set(DIGEST.findall(history.stdout))) == 4
    wait_until(lambda: len(fleet.daemons[1].events("collected")) == 4, "all were collected", fleet.logs)
    said += history.stdout + "".join(daemon.log for daemon in fleet.daemons)
    said += "".join(fleet.admin(*words).stdout for words in (["show", "web01"], ["dead", "list"], ["changes"]))
    files = [path for path in fleet.directory.rglob("*") if path.is_file() and path != source]
    assert SECRET not in said
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []


def test_who_writes_a_plugin_is_told_what_was_redacted(fleet: Fleet) -> None:
    fleet.plugin("app", 'echo {"a": 1}'.replace('"', '\\"'), "json", redact="a")
    fleet.plugin("typo", 'echo {"a": 1}'.replace('"', '\\"'), "json", redact="b")
    words = ("--plugins", str(fleet.plugins), "--node", "x", "--redact-key", str(fleet.directory / "k"))
    tried = fleet._run("client", "test", "app", *words)
    assert DIGEST.fullmatch(json.loads(tried.stdout)["a"])
    assert tried.stderr.endswith("redacted: 1\n")
    assert "redacted: nothing, there is nothing at b" in fleet._run("client", "test", "typo", *words).stderr
