"""A store that only takes time: CouchDB's API as far as `vogeler-server` needs it, from memory, after a while.

    python benchmarks/slow_store.py PORT [--request-ms 1] [--document-ms 0.3] [--kilobyte-ms 0.05]

Any number of requests wait at the same time, and none of them takes a processor: it serves any number of servers as
fast as one. It does not look into documents beyond `_id` and `_rev`, has no views, and refuses an old revision as
CouchDB does. With the times above a changed value of 30 KB takes about as long as on Apache CouchDB 3.5.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections import defaultdict
from contextlib import suppress
from typing import Any

BEGINS, REVISION = b'{"_id":"', b'"_rev":"'


class Store:
    """Databases of documents as bytes."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._request_s = arguments.request_ms / 1000
        self._document_s = arguments.document_ms / 1000
        self._byte_s = arguments.kilobyte_ms / 1_000_000
        self._texts: dict[str, dict[str, bytes]] = defaultdict(dict)
        self._revs: dict[str, dict[str, str]] = defaultdict(dict)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One kept-alive connection."""
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                lines = head.lower().split("\r\n")
                length = next((int(line[15:]) for line in lines if line.startswith("content-length:")), 0)
                body = await reader.readexactly(length)
                method, target, _ = head.split(" ", 2)
                database, _, rest = target.strip("/").partition("?")[0].partition("/")
                status, answer, documents = self._answer(method, database, rest, body)
                await asyncio.sleep(self._request_s + documents * self._document_s + length * self._byte_s)
                writer.write(
                    b"HTTP/1.1 %d x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
                    % (status, len(answer), answer)
                )

    def _answer(self, method: str, database: str, path: str, body: bytes) -> tuple[int, bytes, int]:
        """Status, content, and how many documents it is about."""
        if method == "POST" and path == "_bulk_docs":
            rows = [self._write(database, text) for text in _split(body)]
            return 201, _json(rows), len(rows)
        if method == "POST" and path == "_changes":
            names, revs = json.loads(body)["doc_ids"], self._revs[database]
            found = [{"id": name, "seq": 1, "changes": [{"rev": revs[name]}]} for name in names if name in revs]
            return 200, _json({"results": found, "last_seq": 1}), 0
        if method == "POST" and path == "_all_docs":
            names = json.loads(body)["keys"]
            return 200, b'{"rows":[' + b",".join(self._row(database, name) for name in names) + b"]}", len(names)
        if method == "PUT":
            return 201, b'{"ok":true}', 0
        if path:
            return 404, b'{"error":"not_found","reason":"missing"}', 0
        return 200, b'{"couchdb":"Welcome","version":"that only waits"}', 0

    def _write(self, database: str, text: bytes) -> dict[str, Any]:
        name = text[len(BEGINS) : text.index(b'"', len(BEGINS))].decode()
        there = self._revs[database].get(name)
        at = text.rfind(REVISION) + len(REVISION)
        given = text[at : text.index(b'"', at)].decode() if at >= len(REVISION) else None
        if given != there:
            return {"id": name, "error": "conflict", "reason": "Document update conflict."}
        rev = f"{int(there.partition('-')[0]) + 1 if there else 1}-{'0' * 32}"
        self._revs[database][name] = rev
        if not database.endswith("_history"):
            self._texts[database][name] = text.replace(REVISION + (given or "").encode(), REVISION + rev.encode())
        return {"ok": True, "id": name, "rev": rev}

    def _row(self, database: str, name: str) -> bytes:
        text = self._texts[database].get(name)
        if text is None:
            return _json({"key": name, "error": "not_found"})
        if REVISION not in text:
            text = b'%b,%b%b"}' % (text[:-1], REVISION, self._revs[database][name].encode())
        return b'{"id":"%b","key":"%b","value":{},"doc":%b}' % (name.encode(), name.encode(), text)


def _split(body: bytes) -> list[bytes]:
    """The documents of `{"docs":[...]}`, each of which begins with its `_id`."""
    starts = []
    at = body.find(BEGINS)
    while at >= 0:
        starts.append(at)
        at = body.find(BEGINS, at + 1)
    ends = [*(start - 1 for start in starts[1:]), len(body) - 2]
    return [body[start:end] for start, end in zip(starts, ends)]


def _json(content: object) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode()


async def _run(arguments: argparse.Namespace) -> None:
    server = await asyncio.start_server(Store(arguments).serve, "127.0.0.1", arguments.port, limit=2**20)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int)
    parser.add_argument("--request-ms", type=float, default=1.0)
    parser.add_argument("--document-ms", type=float, default=0.3)
    parser.add_argument("--kilobyte-ms", type=float, default=0.05, help="of what is sent")
    with suppress(KeyboardInterrupt):
        asyncio.run(_run(parser.parse_args()))
