"""What only the SQLite store can get wrong: its file, its locks, its views."""

from __future__ import annotations

import json
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from pathlib import Path

import pytest

from tests.persistence.examples import (
    EARLIER,
    FACT_RECORDS,
    FACTS,
    PACKAGE_RECORDS,
    PACKAGES,
    at,
    deep,
    heartbeat,
    result,
)
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


def version_1(url: str) -> dict[str, object]:
    """A file as the first version left it, with two changes of a node; returns its record."""
    record = {
        "_id": "web01",
        "rpms": {"bash": "5.2"},
        "vogeler": {"schema": 1, "keys": {"rpms": {"seq": 2, "digest": "b"}}},
    }
    path = Path(url.partition("://")[2])
    path.parent.mkdir(mode=0o700)
    with closing(sqlite3.connect(path)) as file, file:
        file.executescript((Path(__file__).parent / "schema_1.sql").read_text())
        file.execute("INSERT INTO records VALUES ('web01', ?)", (json.dumps(record),))
        file.execute("INSERT INTO status VALUES ('web01', ?)", (json.dumps({"_id": "web01", "heard_at": EARLIER}),))
        for seq, late in ((1, {}), (2, {}), (0, {"late": True})):
            change = {"_id": f"web01:rpms:{seq}", "node": "web01", "key": "rpms", "seq": seq, "changed_at": at(seq)}
            body = json.dumps({**change, "value": seq, "event": "change", **late})
            values = (change["_id"], "web01", "rpms", seq, change["changed_at"], body)
            file.execute("INSERT INTO history VALUES (?, ?, ?, ?, ?, ?)", values)
    return record


def test_a_file_of_version_1_is_converted(sqlite_url):
    record = version_1(sqlite_url)
    with closing(persistence.connect(sqlite_url)) as store:
        assert store.setup() == [f"converted database {sqlite_url.partition('://')[2]} from version 1"]
        assert store.record("web01") == record
        assert list(store.leaves("rpms")) == [("rpms.bash", "web01", "5.2")]
        found = [(change["seq"], change["stored_at"], change.get("late")) for change in store.history("web01")]
        assert found == [(2, at(2), None), (1, at(1), None), (0, at(0), True)]
        store.apply([result(3, {"bash": "5.3"}), result(1, "x", "web02")], at(10))
        assert list(store.leaves("rpms.")) == [("rpms.bash", "web01", "5.3")]
        assert [change["seq"] for change in store.changes(at(2))] == [3, 1, 2]
        assert list(store.prune(at(10), 1, 10)) == [2]
    fresh = sqlite_url.replace("vogeler.db", "fresh.db")
    persistence.connect(fresh).close()
    schema = "SELECT type, name, sql FROM sqlite_master WHERE type IN ('table', 'index') ORDER BY name"
    assert rows(sqlite_url, schema) == rows(fresh, schema)
    assert rows(sqlite_url, "SELECT path, value FROM leaves WHERE node = 'web01'") == [("rpms.bash", '"5.3"')]
    assert rows(sqlite_url, "PRAGMA user_version") == rows(fresh, "PRAGMA user_version")


def test_processes_that_find_a_file_of_version_1_convert_it_once(sqlite_url):
    version_1(sqlite_url)
    barrier = threading.Barrier(4)

    def open_it(_: int) -> list[str]:
        barrier.wait(timeout=20)
        with closing(persistence.connect(sqlite_url)) as store:
            assert len(list(store.history("web01"))) == 3
            return store.setup()

    with ThreadPoolExecutor(4) as pool:
        assert len([done for found in pool.map(open_it, range(4)) for done in found]) == 1


def test_a_change_of_a_few_packages_touches_their_leaves_only(sqlite_url):
    """900 packages of which 3 change: what it costs must not be 900 rows."""
    packages = {f"package{number}": "1.0" for number in range(900)}
    with closing(persistence.connect(sqlite_url)) as store:
        store.apply([result(1, packages)], EARLIER)
        before = store._connection.total_changes
        store.apply([result(2, {**packages, "package7": "1.1", "package8": "1.1", "new": "1.0"})], EARLIER)
        assert store._connection.total_changes - before < 20
        assert len(list(store.leaves("rpms."))) == 901


def test_half_a_surrogate_pair_in_a_name_is_no_obstacle_to_the_index(sqlite_url):
    with closing(persistence.connect(sqlite_url)) as store:
        assert store.apply([result(1, {"\ud800": "\udfff"}, digest="sha256:0")], EARLIER)[0].stage == "stored"
        assert list(store.leaves("rpms.")) == [("rpms.?", "web01", "\udfff")]


def test_nothing_is_left_in_the_index_of_what_was_forgotten(sqlite_url):
    with closing(persistence.connect(sqlite_url)) as store:
        store.apply([result(1, {"a": {"b": 1}}), result(1, {"a": {}}, "web02")], EARLIER)
        store.forget("web01", "alice", EARLIER)
    assert rows(sqlite_url, "SELECT path FROM leaf_paths") == [("rpms.a",)]
    assert rows(sqlite_url, "SELECT node FROM leaf_nodes") == [("web02",)]


def test_a_number_of_the_history_is_not_given_twice(sqlite_url):
    """Else somebody who follows would miss what is stored after the newest entry was pruned."""
    with closing(persistence.connect(sqlite_url)) as store:
        store.apply([result(5, "a")], at(5))
        store.apply([result(4, "late")], at(1))
        feed = store.follow()
        position, _ = next(feed)
        assert list(store.prune(at(3), 0, 10)) == [1]
        store.apply([result(6, "b")], at(6))
        assert next(feed)[1]["value"] == "b"
        assert [change and change["value"] for _, change in islice(store.follow(position), 2)] == [None, "b"]


def test_a_file_that_was_moved_away_is_followed_when_it_is_back(sqlite_url):
    """Else somebody who follows would see no change for ever, and make a file where none should be."""
    path = Path(sqlite_url.partition("://")[2])
    with closing(persistence.connect(sqlite_url)) as store:
        feed = store.follow()
        position, _ = next(feed)
        path.parent.rename(path.parents[1] / "away")
        with pytest.raises(StoreUnavailable, match="removed or replaced"):
            next(feed)
        with pytest.raises(StoreUnavailable, match="removed or replaced"):
            store.follow(position)
        with closing(persistence.connect(f"sqlite://{path.parents[1]}/away/vogeler.db")) as other:
            other.apply([result(1, "a")], at(1))
        (path.parents[1] / "away").rename(path.parent)
        assert [change and change["value"] for _, change in islice(store.follow(position), 2)] == [None, "a"]


def test_a_file_that_was_replaced_is_followed_from_its_beginning(sqlite_url):
    """Its entries have other numbers."""
    path = Path(sqlite_url.partition("://")[2])
    with closing(persistence.connect(sqlite_url)) as store:
        store.apply([result(seq, seq) for seq in range(5)], at(1))
        position, _ = next(store.follow())
        path.parent.rename(path.parents[1] / "away")
        with closing(persistence.connect(sqlite_url)) as other:
            other.apply([result(9, "new")], at(2))
        assert [change and change["value"] for _, change in islice(store.follow(position), 2)] == [None, "new"]
        assert store.record("web01")["rpms"] == "new"


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


@pytest.mark.parametrize("replaced", [False, True])
def test_a_batch_is_not_written_to_a_file_that_was_removed_or_replaced(sqlite_url, replaced):
    """The next connection has it, in the file that is there by now."""
    path = Path(sqlite_url.partition("://")[2])
    with closing(persistence.connect(sqlite_url)) as store:
        store.apply([result(1, "a")], EARLIER)
        path.parent.rename(path.parents[1] / "away")
        if replaced:
            persistence.connect(sqlite_url).close()
        with pytest.raises(StoreUnavailable, match="removed or replaced") as caught:
            store.apply([result(2, "b")], at(1))
        assert caught.value.retryable
    with closing(persistence.connect(sqlite_url)) as again:
        assert again.apply([result(2, "b")], at(1))[0].stage == "stored"
        assert [change["value"] for change in again.history("web01")] == ["b"]
