-- The tables of version 1, of Vogeler 0.1, without its views but one.
CREATE TABLE records (node TEXT PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE status (node TEXT PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE history (
    id TEXT PRIMARY KEY,
    node TEXT NOT NULL,
    key TEXT,
    seq INTEGER NOT NULL,
    changed_at TEXT NOT NULL,
    body TEXT NOT NULL
);
CREATE INDEX history_by_key ON history (node, key, seq, id);
CREATE INDEX history_by_node ON history (node, changed_at, id);
CREATE INDEX history_by_time ON history (changed_at, id);
PRAGMA application_id = 1987012453;
PRAGMA user_version = 1;
CREATE VIEW by_name AS
SELECT node, json_extract(body, '$.created_at') AS created_at, json_extract(body, '$.updated_at') AS updated_at, body
FROM records ORDER BY node;
