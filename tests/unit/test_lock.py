"""What a release is installed with: the lock is what setup.py asks for, and what is known against it fails the audit."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
PYTHONS = ["3.9.2", "3.10.0", "3.11.0", "3.12.0", "3.13.0"]


def asked_for() -> list[Requirement]:
    """What setup.py asks for, the extras included."""
    call = next(
        node
        for node in ast.walk(ast.parse((ROOT / "setup.py").read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "setup"
    )
    words = {word.arg: word.value for word in call.keywords}
    lists = [ast.literal_eval(words["install_requires"]), *ast.literal_eval(words["extras_require"]).values()]
    return [Requirement(text) for texts in lists for text in texts]


def pins() -> list[tuple[Requirement, list[str], str]]:
    """Each pin with its marker, its hashes, and who wants it."""
    found = re.findall(r"^(\S.*?) \\\n((?: +--hash=\S+(?: \\)?\n)+)((?: +#.*\n?)+)", LOCK, re.MULTILINE)
    return [(Requirement(pin), re.findall(r"--hash=(\S+)", hashes), why) for pin, hashes, why in found]


@pytest.mark.parametrize("python", PYTHONS)
def test_what_setup_asks_for_is_pinned_once_for_every_python(python: str) -> None:
    here = {"python_full_version": python, "python_version": python.rpartition(".")[0]}
    locked = [pin for pin, _, _ in pins() if pin.marker is None or pin.marker.evaluate(here)]
    names = [canonicalize_name(pin.name) for pin in locked]
    assert len(names) == len(set(names))
    versions = {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in locked}
    for wanted in asked_for():
        assert versions[canonicalize_name(wanted.name)] in wanted.specifier, f"{wanted}: make lock"


def test_nothing_is_pinned_that_nobody_asks_for() -> None:
    direct = {canonicalize_name(pin.name) for pin, _, why in pins() if "vogeler (setup.py)" in why}
    assert direct == {canonicalize_name(wanted.name) for wanted in asked_for()}, "make lock"


def test_every_pin_is_exact_and_has_hashes_and_comes_from_no_place_in_particular() -> None:
    assert len(pins()) == len(re.findall(r"^\S+==", LOCK, re.MULTILINE)) > 4
    for pin, hashes, _ in pins():
        assert re.fullmatch(r"==[\w.]+", str(pin.specifier))
        assert hashes
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", value) for value in hashes)
    assert not re.search(r"://|--[a-z-]*(?:index|links|host)", LOCK)


# --- the audit --------------------------------------------------------------------------------------

audited = pytest.mark.skipif(sys.version_info < (3, 10), reason="pip-audit is for Python 3.10 and later")
Answer = Callable[[dict[str, Any]], tuple[int, str]]
HOLE = {
    "id": "GHSA-1", "summary": "runs what it is sent",
    "affected": [{"package": {"name": "pycparser", "ecosystem": "PyPI"},
                  "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "2.24"}]}]}],
}  # fmt: skip


class Database:
    """An advisory database that speaks as OSV does, and says what a test wants."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answer: Answer = lambda query: (200, "{}")
        database = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                database.asked.append(f"{query['package']['name']}=={query['version']}")
                code, text = database.answer(query)
                self.send_response(code)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"


@pytest.fixture
def database() -> Iterator[Database]:
    database = Database()
    thread = threading.Thread(target=database.server.serve_forever, args=(0.01,))
    thread.start()
    yield database
    database.server.shutdown()
    thread.join()
    database.server.server_close()


def audit(database: Database, *flags: str) -> tuple[int, str]:
    command = [sys.executable, ".ci/audit.py", "requirements.lock", "-s", "osv", "--osv-url", database.url, *flags]
    done = subprocess.run(
        command, cwd=ROOT, env={"NO_PROXY": "*", "HOME": "/nonexistent", "XDG_CACHE_HOME": "/nonexistent"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.returncode, done.stderr


@audited
def test_an_audit_asks_for_every_pin_that_of_another_python_too(database: Database) -> None:
    code, said = audit(database)
    assert (code, said) == (0, f"requirements.lock: {len(pins())} pins audited, 0 vulnerabilities are known\n")
    assert sorted(database.asked) == sorted(f"{canonicalize_name(pin.name)}{pin.specifier}" for pin, _, _ in pins())


@audited
def test_a_hole_in_a_pin_for_one_python_alone_fails_it(database: Database) -> None:
    oldest = next(str(pin.specifier)[2:] for pin, _, _ in pins() if pin.name == "pycparser")
    database.answer = lambda query: (200, json.dumps({"vulns": [HOLE]}) if query["version"] == oldest else "{}")
    code, said = audit(database, "--tolerate-unreachable")
    assert code == 1
    assert f"pycparser {oldest}: GHSA-1, mended in 2.24: runs what it is sent\n" in said


@audited
def test_a_database_that_is_not_there_is_said_and_may_be_tolerated(database: Database) -> None:
    database.url = "http://127.0.0.1:9/"
    assert audit(database)[0] == 3
    code, said = audit(database, "--tolerate-unreachable")
    assert code == 0
    assert said.startswith("NOT AUDITED: the advisory database can't be reached: ")
    assert said.count("\n") == 1


@audited
@pytest.mark.parametrize("answer", [(500, ""), (200, "<html>log in first</html>")])
def test_one_that_answers_something_else_is_not_tolerated(database: Database, answer: tuple[int, str]) -> None:
    database.answer = lambda query: answer
    assert audit(database, "--tolerate-unreachable")[0] == 2


@audited
def test_nor_is_a_lock_that_pins_nothing(database: Database, tmp_path: Path) -> None:
    (tmp_path / "empty.lock").write_text("pika>=1\n")
    done = subprocess.run(
        [sys.executable, ".ci/audit.py", str(tmp_path / "empty.lock"), "--tolerate-unreachable"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
