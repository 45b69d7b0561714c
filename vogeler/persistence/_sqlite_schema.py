"""The tables of the SQLite store, and the views for people at the ``sqlite3`` shell. Pure SQL.

A change of the tables raises ``VERSION`` and comes with the statements that lead to it, in ``MIGRATIONS``.
"""

from __future__ import annotations

VERSION = 3
APPLICATION_ID = 0x766F6765  # "voge": `file` and we know the file by it (sqlite.org/fileformat.html, 1.3.13)

_TABLES = """
CREATE TABLE records (node TEXT PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE status (node TEXT PRIMARY KEY, body TEXT NOT NULL)
"""

# number: in the order of writing, and never given twice, so that it can be asked for what is new.
_HISTORY = """
CREATE TABLE history (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    node TEXT NOT NULL,
    key TEXT,
    seq INTEGER NOT NULL,
    stored_at TEXT NOT NULL,
    changed_at TEXT NOT NULL,
    late INTEGER NOT NULL,
    body TEXT NOT NULL
);
CREATE INDEX history_by_key ON history (node, key, stored_at, seq, id, late);
CREATE INDEX history_by_node ON history (node, stored_at, seq, id);
CREATE INDEX history_by_time ON history (stored_at, seq, id)
"""

# id begins with stored_at.
_AUDIT = "CREATE TABLE audit (id TEXT PRIMARY KEY, body TEXT NOT NULL) WITHOUT ROWID"

# The leaves of all records, by path. Numbers for paths and nodes: most of it is names, of packages and of nodes,
# and a batch of nodes that are new is written side by side. value is a JSON text, as 1, "1" and true differ.
_LEAVES = """
CREATE TABLE leaf_paths (id INTEGER PRIMARY KEY, path TEXT NOT NULL UNIQUE);
CREATE TABLE leaf_nodes (id INTEGER PRIMARY KEY, node TEXT NOT NULL UNIQUE);
CREATE TABLE leaf (path INTEGER NOT NULL, node INTEGER NOT NULL, value TEXT NOT NULL, PRIMARY KEY (path, node, value))
WITHOUT ROWID;
CREATE VIEW leaves AS
SELECT leaf_paths.path AS path, leaf_nodes.node AS node, leaf.value AS value
FROM leaf_paths JOIN leaf ON leaf.path = leaf_paths.id JOIN leaf_nodes ON leaf_nodes.id = leaf.node
"""

_BY_NAME = """
CREATE VIEW by_name AS
SELECT node, json_extract(body, '$.created_at') AS created_at, json_extract(body, '$.updated_at') AS updated_at, body
FROM records ORDER BY node
"""

# A package list is an object {name: version}, or a list of "name-version", "name version" or "name=version".
# rtrim(x, replace(x, '-', '')) cuts x behind its last dash.
_PACKAGES_BY_NODE = """
CREATE VIEW packages_by_node AS
WITH items AS (
    SELECT node, item.type AS type, item.value AS value, item.key AS name,
           json_type(body, '$.' || lists.key) AS shape,
           replace(replace(trim(item.value), char(9), ' '), '=', ' ') AS line
    FROM records, (SELECT 'packages' AS key UNION SELECT 'rpms' UNION SELECT 'dpkg') AS lists,
         json_each(records.body, '$.' || lists.key) AS item
    WHERE json_type(body, '$.' || lists.key) IN ('object', 'array')
), lines AS (
    SELECT node, line, rtrim(line, replace(line, '-', '')) AS one FROM items WHERE shape = 'array' AND type = 'text'
), parts AS (
    SELECT node, line, one, rtrim(substr(one, 1, length(one) - 1), replace(line, '-', '')) AS two FROM lines
)
SELECT node, name AS package, value AS version FROM items WHERE shape = 'object' AND type NOT IN ('object', 'array')
UNION ALL
SELECT node,
    CASE WHEN instr(line, ' ') THEN substr(line, 1, instr(line, ' ') - 1)
         WHEN substr(line, length(two) + 1) GLOB '[0-9]*' AND two <> '' THEN substr(two, 1, length(two) - 1)
         WHEN substr(line, length(one) + 1) GLOB '[0-9]*' AND one <> '' THEN substr(one, 1, length(one) - 1)
         ELSE line END,
    CASE WHEN instr(line, ' ') THEN trim(substr(line, instr(line, ' ')))
         WHEN substr(line, length(two) + 1) GLOB '[0-9]*' AND two <> '' THEN substr(line, length(two) + 1)
         WHEN substr(line, length(one) + 1) GLOB '[0-9]*' AND one <> '' THEN substr(line, length(one) + 1)
         ELSE '' END
FROM parts
"""

_NODES_BY_PACKAGE = "CREATE VIEW nodes_by_package AS SELECT DISTINCT package, version, node FROM packages_by_node"

_NODES_BY_VALUE = """
CREATE VIEW nodes_by_value AS
SELECT top.key AS key, sub.key AS subkey, sub.atom AS value, node
FROM records, json_each(records.body) AS top, json_each(top.value) AS sub
WHERE top.type = 'object' AND top.key <> 'vogeler' AND sub.type NOT IN ('object', 'array')
"""

SCHEMA: tuple[str, ...] = (
    *_TABLES.split(";"),
    *_HISTORY.split(";"),
    *_LEAVES.split(";"),
    _AUDIT,
    _BY_NAME,
    _PACKAGES_BY_NODE,
    _NODES_BY_PACKAGE,
    _NODES_BY_VALUE,
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {VERSION}",
)

# What was stored before there was stored_at was so by the node's clock, as well as can be told.
_HISTORY_WITH_STORED_AT = """
ALTER TABLE history RENAME TO history_1;
DROP INDEX history_by_key;
DROP INDEX history_by_node;
DROP INDEX history_by_time
"""
_HISTORY_COPIED = """
INSERT INTO history (id, node, key, seq, stored_at, changed_at, late, body)
SELECT id, node, key, seq, changed_at, changed_at, json_extract(body, '$.late') IS 1,
       json_set(body, '$.stored_at', changed_at)
FROM history_1 ORDER BY rowid;
DROP TABLE history_1
"""

# From each version to the next. After them the leaves are made anew from the records.
MIGRATIONS: dict[int, tuple[str, ...]] = {
    1: (
        *_HISTORY_WITH_STORED_AT.split(";"),
        *_HISTORY.split(";"),
        *_HISTORY_COPIED.split(";"),
        *_LEAVES.split(";"),
    ),
    2: (_AUDIT,),
}
