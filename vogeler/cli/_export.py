"""Found nodes as other programs read them: JSON lines, an Ansible inventory, Prometheus targets. All streamed."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vogeler.cli._output import as_json, as_text


@dataclass(frozen=True)
class Found:
    """A node that matched: its groups (for the formats in ``GROUPED``), values of the fields, ports to scrape."""

    node: str
    groups: tuple[str, ...]
    values: Mapping[str, Any]
    ports: tuple[str, ...] = ()

    def row(self) -> dict[str, Any]:
        """As a row of a listing."""
        return {"node": self.node, **self.values}


def json_lines(found: Iterable[Found]) -> None:
    """An object a line: https://jsonlines.org."""
    for one in found:
        print(as_json(one.row()))


def ansible(found: Iterable[Found]) -> None:
    """What ``ansible-inventory -i hosts.json`` accepts: hosts with the fields as variables, and their groups.

    Source: docs.ansible.com, "ansible.builtin.yaml inventory", of which JSON is a part.
    """
    groups: dict[str, list[str]] = {}

    def hosts() -> Iterator[tuple[str, Any]]:
        for one in found:
            for group in one.groups:
                groups.setdefault(group, []).append(one.node)
            yield one.node, {_identifier(name): _inert(value) for name, value in one.values.items()}

    print('{"all": {"hosts": {')
    _members(hosts())
    print('}, "children": {')
    _members((_identifier(group), {"hosts": {name: {} for name in names}}) for group, names in sorted(groups.items()))
    print("}}}")


def _inert(value: Any) -> Any:
    """A value that Ansible takes as it is. A template in the text of an inventory would be run where Ansible is run.

    Source: ansible.parsing.ajson, whose decoder knows ``__ansible_unsafe`` and ``__ansible_vault``.
    """
    if isinstance(value, str):
        return {"__ansible_unsafe": value} if re.search(r"\{[{%#]", value) else value
    if isinstance(value, dict):
        return {re.sub("^_+ansible", "ansible", name): _inert(item) for name, item in value.items()}
    return [_inert(item) for item in value] if isinstance(value, list) else value


def prometheus(found: Iterable[Found]) -> None:
    """A list for ``file_sd_configs``: the targets of each node, with its groups and the fields as labels.

    Source: prometheus.io, "Configuration", file_sd_config.
    """
    print("[")
    separator = ""
    for one in found:
        ports = [port for port in one.ports if port.isascii() and port.isdigit()]  # else a node could name another host
        if ports:
            labels = {_identifier(name): as_text(value) for name, value in one.values.items() if value is not None}
            groups = {"groups": f",{','.join(one.groups)},"} if one.groups else {}
            targets = [f"{one.node}:{port}" for port in ports]
            print(separator + json.dumps({"targets": targets, "labels": {"node": one.node, **groups, **labels}}))
            separator = ","
    print("]")


def _members(pairs: Iterable[tuple[str, Any]]) -> None:
    """The members of a JSON object, one a line."""
    separator = ""
    for name, value in pairs:
        sys.stdout.write(f"{separator}{json.dumps(name)}: {as_json(value)}")
        separator = ",\n"
    print()


def _identifier(name: str) -> str:
    """A name that variables of Ansible and labels of Prometheus may have: letters, digits and underscores."""
    return re.sub(r"^(?=\d)", "_", re.sub(r"\W", "_", name, flags=re.ASCII))


EXPORTS: dict[str, Callable[[Iterable[Found]], None]] = {
    "jsonl": json_lines,
    "ansible": ansible,
    "prometheus": prometheus,
}
GROUPED = ("ansible", "prometheus")
