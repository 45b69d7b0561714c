"""The index of leaves in CouchDB: the view ``groups`` of the design document ``leaves``.

A row for every leaf would be the plain way. But CouchDB takes all rows of a document that was changed out of an index
and puts them in anew, in time that grows with the square of their number: half a second for a record of 900 packages
where many have changed. So leaves whose paths begin alike share a row.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import groupby

from vogeler.leaves import Scalar, plain
from vogeler.persistence import Document
from vogeler.persistence._couch_database import Database

VIEW = ("_design", "leaves", "_view", "groups")
_LAST = "\U0010ffff"  # comes after whatever else a path may have in its place
_AS_IT_IS = re.compile(r"[\w .:@+-]*", re.ASCII)  # in JSON
_OFTEN = "lib"  # so many names begin with it that their fourth letter tells them apart; as in the view's map.js


def leaves(database: Database, prefix: str, exact: bool, page: int) -> Iterator[tuple[str, str, Scalar]]:
    """As of Store.leaves. In memory are the leaves of one group, which a prefix may need; a whole path needs none."""
    for first, last in ranges(prefix, exact):
        rows = database.pages_by_document(page, *VIEW, startkey=first, endkey=last)
        if exact:
            yield from _at(rows, prefix)
        else:
            for group, those in groupby(rows, key=lambda row: str(row["key"])):
                yield from _below(group, those, prefix)


def leaves_within(database: Database, path: str, page: int) -> Iterator[tuple[str, str, Scalar]]:
    """As of Store.leaves_within."""
    group = _group(path)
    if group != _group(f"{path}."):
        yield from leaves(database, path, True, page)
        yield from leaves(database, f"{path}.", False, page)
        return
    rows = database.pages_by_document(page, *VIEW, startkey=group, endkey=group)
    yield from (leaf for leaf in _below(group, rows, path) if leaf[0] == path or leaf[0].startswith(f"{path}."))


def _group(path: str) -> str:
    """That of a whole path."""
    key, dot, name = path.partition(".")
    if not dot:
        return path
    often = name.startswith(_OFTEN)
    return f"{key}.{_OFTEN}{_ascii(name[3:4])}" if often else f"{key}.{_ascii(name[:1])}"


def _ascii(letter: str) -> str:
    return letter if letter.isascii() else "~"


def ranges(prefix: str, exact: bool) -> Iterator[tuple[str, str]]:
    """The first and the last of groups that paths with the prefix may be in."""
    group = _group(prefix)
    key, _, name = prefix.partition(".")
    if exact or not _OFTEN.startswith(name):  # whatever comes behind it, the group is this one
        yield group, group
    elif not name:
        yield prefix, prefix + _LAST
    else:
        if name != _OFTEN:
            yield group, group
        yield f"{key}.{_OFTEN}", f"{key}.{_OFTEN}{_LAST}"


def _at(rows: Iterator[Document], path: str) -> Iterator[tuple[str, str, Scalar]]:
    rest = path.partition(".")[2]
    for row in rows:
        for value in _distinct(value for name, value in _pairs(row, rest) if name == rest):
            yield path, row["id"], value


def _below(group: str, rows: Iterator[Document], prefix: str) -> Iterator[tuple[str, str, Scalar]]:
    """Path by path, though the rows are node by node. Equal nodes and values are one object each."""
    key, dot, _ = group.partition(".")
    start = prefix.partition(".")[2]
    found: dict[str, list[tuple[str, Scalar]]] = {}
    known: dict[tuple[type, Scalar], Scalar] = {}
    for row in rows:
        for name, value in _pairs(row, start):
            found.setdefault(name, []).append((row["id"], known.setdefault((type(value), value), value)))
    for name in sorted(found):
        for node, those in groupby(found.pop(name), key=lambda leaf: leaf[0]):
            for value in _distinct(value for _, value in those):
                yield key + dot + name, node, value


def _pairs(row: Document, start: str) -> list[tuple[str, Scalar]]:
    """The path behind the key, and the value, of those that begin so."""
    if _AS_IT_IS.fullmatch(start) and f'"{start}' not in row["value"]:
        return []
    flat = json.loads(row["value"])
    return [(name, plain(flat[2 * n + 1])) for n, name in enumerate(flat[::2]) if name.startswith(start)]


def _distinct(values: Iterator[Scalar]) -> Iterator[Scalar]:
    """In Python ``True == 1``; in a record they are different values."""
    return iter({(type(value), value): value for value in values}.values())
