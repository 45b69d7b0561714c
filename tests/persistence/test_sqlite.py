"""What only the SQLite store can get wrong: its file, its locks, its views."""

from __future__ import annotations

import signal
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.persistence.examples import EARLIER, FACT_RECORDS, FACTS, PACKAGE_RECORDS, PACKAGES, deep, heartbeat, result
from vogeler import persistence
from vogeler.errors import StoreError, StoreUnavailable, UsageError


def rows(url: str, query: str) -> list[tuple[object, ...]]:
    """What somebody sees at the sqlite3 shell."""
    with closing(sqlite3.connect(url.partition("://")[2])) as shell:
        return shell.execute(query).fetchall()


def refused(url: str) -> StoreError:
    """The error that opening the store ends in: a refusal, with a remedy."""
    with pytest.raises(StoreError) as caught:
        persistence.connect(url)
    assert not caught.value.retryable
    assert caught.value.remedy
    assert url.partition("://")[2] in caught.value.message
    return caught.value


# --- the file -------------------------------------------------------------------------------------


def test_the_file_and_its_folders_are_made_for_this_user_only(tmp_path):
    """What is collected from a machine is nobody else's business."""
    path = tmp_path / "one" / "two" / "vogeler.db"
    with closing(persistence.connect(f"sqlite://{path}")) as store:
        assert store.setup() == [f"created database {path}"]
        store.apply([heartbeat()], EARLIER)
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert set(modes.values()) == {0o600}
    assert [stat.S_IMODE(folder.stat().st_mode) for folder in list(path.parents)[:2]] == [0o700, 0o700]


def test_the_store_works_without_setup_and_keeps_what_it_has(sqlite_url):
    for seq in (1, 2):
        with closing(persistence.connect(sqlite_url)) as store:
            store.apply([result(seq, f"v{seq}")], EARLIER)
    with closing(persistence.connect(sqlite_url)) as store:
        assert [change["seq"] for change in store.history("web01")] == [2, 1]


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///", "sqlite://vogeler.db", "sqlite://host/vogeler.db"])
def test_a_url_without_a_file_is_a_usage_error(url):
    with pytest.raises(UsageError, match="three slashes|names no file"):
        persistence.connect(url)


def test_a_file_that_is_no_database_is_left_as_it_is(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("my notes\n" * 200)
    assert "not a database" in refused(f"sqlite://{path}").message
    assert path.read_text() == "my notes\n" * 200


def test_a_folder_is_no_database(tmp_path):
    refused(f"sqlite://{tmp_path}")


def test_a_path_below_a_file_is_no_database(tmp_path):
    (tmp_path / "file").touch()
    refused(f"sqlite://{tmp_path}/file/vogeler.db")


def test_the_database_of_another_program_is_left_as_it_is(tmp_path):
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as other, other:
        other.execute("CREATE TABLE songs (title)")
    assert "another program" in refused(f"sqlite://{path}").message
    assert rows(f"sqlite://{path}", "SELECT name FROM sqlite_master") == [("songs",)]


def test_a_later_schema_is_left_to_a_later_vogeler(sqlite_url):
    persistence.connect(sqlite_url).close()
    rows(sqlite_url, "PRAGMA user_version = 99")
    assert "99" in refused(sqlite_url).message


def test_a_broken_file_is_told_apart_from_one_that_is_busy(sqlite_url):
    with closing(persistence.connect(sqlite_url)) as store:
        store.apply([result(1, "x" * 50_000)], EARLIER)
    path = Path(sqlite_url.partition("://")[2])
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(StoreError, match="malformed") as caught, closing(persistence.connect(sqlite_url)) as store:
        store.apply([result(2, "y")], EARLIER)
    assert not caught.value.retryable


def test_a_file_that_may_not_be_written_is_a_refusal(sqlite_url):
    with closing(persistence.connect(sqlite_url)) as store:
        store._connection.execute("PRAGMA query_only = ON")  # as root, no mode of the file would do
        with pytest.raises(StoreError, match="readonly") as caught:
            store.apply([heartbeat()], EARLIER)
    assert not caught.value.retryable
    assert "writable" in caught.value.remedy


def test_a_lock_that_another_program_keeps_is_waited_for_and_then_may_be_retried(sqlite_url):
    with closing(persistence.connect(sqlite_url, timeout_s=0.05)) as store:
        with closing(sqlite3.connect(sqlite_url.partition("://")[2])) as shell:
            shell.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreUnavailable, match="locked"):
                store.apply([heartbeat()], EARLIER)
        assert store.apply([heartbeat()], EARLIER)[0].stage == "stored"


def test_a_full_disk_may_be_retried_and_nothing_half_is_left(sqlite_url):
    with closing(persistence.connect(sqlite_url)) as store:
        store.apply([heartbeat()], EARLIER)
        pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
        store._connection.execute(f"PRAGMA max_page_count = {pages + 2}")
        with pytest.raises(StoreUnavailable, match="full"):
            store.apply([result(1, "small", "web02"), result(1, "x" * 100_000)], EARLIER)
        assert store.record("web02") is None
        store._connection.execute("PRAGMA max_page_count = 100000")
        assert store.apply([result(1, "x" * 100_000)], EARLIER)[0].stage == "stored"


_WRITER = """
import sys
from tests.persistence.examples import EARLIER, result
from vogeler import persistence
store = persistence.connect(sys.argv[1])
for seq in range(1, 100_000):
    store.apply([result(seq, f"v{seq}", node) for node in ("web01", "web02")], EARLIER)
    print(seq, flush=True)
"""


def test_what_was_acknowledged_before_kill_9_is_there(sqlite_url):
    """And a batch is there for all of its nodes, or for none."""
    command = [sys.executable, "-c", _WRITER, sqlite_url]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        while int(writer.stdout.readline()) < 20:
            pass
        writer.send_signal(signal.SIGKILL)
        acknowledged = [int(line) for line in writer.stdout.read().splitlines()] or [20]
    with closing(persistence.connect(sqlite_url)) as store:
        newest = [store.record(node)["vogeler"]["keys"]["rpms"]["seq"] for node in ("web01", "web02")]
        assert newest[0] == newest[1] >= acknowledged[-1]
        assert len(list(store.history("web01", "rpms"))) == newest[0]


# --- the views for people -------------------------------------------------------------------------


def test_the_views_of_packages_read_every_shape_of_list(sqlite_url):
    with closing(persistence.connect(sqlite_url)) as store:
        store.apply(PACKAGE_RECORDS, EARLIER)
    assert set(rows(sqlite_url, "SELECT node, package, version FROM packages_by_node")) == PACKAGES
    found = rows(sqlite_url, "SELECT node, version FROM nodes_by_package WHERE package = 'bash'")
    assert set(found) == {(node, version) for node, package, version in PACKAGES if package == "bash"}


def test_the_view_of_values_holds_every_fact(sqlite_url):
    with closing(persistence.connect(sqlite_url)) as store:
        store.apply([*FACT_RECORDS, result(9, deep(200), "web05", "facter")], EARLIER)
    assert set(rows(sqlite_url, "SELECT key, subkey, value, node FROM nodes_by_value")) == FACTS


def test_the_view_by_name_lists_the_records(sqlite_url):
    with closing(persistence.connect(sqlite_url)) as store:
        store.apply([result(1, "a", "web02"), result(1, "a", "web01")], EARLIER)
    found = rows(sqlite_url, "SELECT node, created_at, updated_at FROM by_name")
    assert found == [("web01", EARLIER, EARLIER), ("web02", EARLIER, EARLIER)]
