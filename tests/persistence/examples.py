"""Messages as a client would send them, for the tests of the stores."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from vogeler.leaves import without
from vogeler.messages import OK, Heartbeat, Result, digest_of
from vogeler.persistence import Document
from vogeler.units import parse_timestamp, to_timestamp

EARLIER, LATER = "2026-01-31T08:00:00.000Z", "2026-01-31T09:00:00.000Z"


def result(seq: int, value: Any = None, node: str = "web01", key: str = "rpms", **fields: Any) -> Result:
    """A result that ended well, unless ``status`` says otherwise; collected ``seq`` seconds after the epoch."""
    status = fields.pop("status", OK)
    if "digest" not in fields:
        fields["digest"] = digest_of(without(value, fields.get("volatile") or ())) if status == OK else None
    fields.setdefault("collected_at", to_timestamp(seq % 10**9))
    about = {"run": f"run-{seq}", "requested_by": "alice@ops1", **fields}
    return Result(node, "facts", key, seq, status, value=value, **about)


def at(milliseconds: int) -> str:
    """A moment of the server's clock, this long after ``EARLIER``."""
    return to_timestamp(parse_timestamp(EARLIER) + milliseconds / 1000)


def held(history: Iterable[Document], when: str) -> Any:
    """The value that the record held then, from the history of a key and the forgotten ones; None: none."""
    for change in sorted(history, key=lambda change: (change["stored_at"], change["seq"]), reverse=True):
        if change["stored_at"] <= when and not change.get("late") and change["event"] != "returned":
            return change["value"]
    return None


def heartbeat(node: str = "web01", version: str = "2.0", groups: tuple[str, ...] = ("web",)) -> Heartbeat:
    """What an agent says of itself."""
    agent = {"version": version, "started_at": EARLIER, "groups": list(groups), "plugins": []}
    return Heartbeat(node, agent)


def deep(levels: int) -> Any:
    """A value nested this deep."""
    value: Any = "bottom"
    for level in range(levels):
        value = [value] if level % 2 else {"down": value}
    return value


PACKAGE_RECORDS = [
    result(1, ["bash-5.1.8-6.el9.x86_64", "java-1.8.0-openjdk-1.8.0.312-1.el8"], "rpm-list", "rpms"),
    result(1, {"bash": "5.2.15", "zsh": "5.9"}, "rpm-map", "packages"),
    result(1, ["bash=5.1-2", "adduser 3.134", "six-1.16", "plain"], "deb-list", "dpkg"),
    result(1, {"bash": {"not": "a version"}}, "odd-map", "packages"),
    result(1, [1, None, ["bash-1-1"]], "odd-list", "packages"),
    result(1, "bash-1-1", "odd-text", "rpms"),
]
# (node, package, version), whatever the shape of the list.
PACKAGES = {
    ("rpm-list", "bash", "5.1.8-6.el9.x86_64"),
    ("rpm-list", "java-1.8.0-openjdk", "1.8.0.312-1.el8"),
    ("rpm-map", "bash", "5.2.15"),
    ("rpm-map", "zsh", "5.9"),
    ("deb-list", "bash", "5.1-2"),
    ("deb-list", "adduser", "3.134"),
    ("deb-list", "six", "1.16"),
    ("deb-list", "plain", ""),
}
FACT_RECORDS = [
    result(1, {"os": "Debian", "cpus": 4, "virtual": True, "disks": ["sda"], "swap": None}, "web01", "facter"),
    result(1, {"os": "Rocky", "deep": {"er": 1}}, "web02", "facter"),
    result(1, ["a", "list"], "web03", "facter"),
    result(1, "text", "web04", "facter"),
]
# (key, subkey, value, node)
FACTS = {
    ("facter", "os", "Debian", "web01"),
    ("facter", "cpus", 4, "web01"),
    ("facter", "virtual", True, "web01"),
    ("facter", "swap", None, "web01"),
    ("facter", "os", "Rocky", "web02"),
}
