"""Which nodes a command is for: what ``-n`` says, whether a node is meant, how to reach it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Optional

from vogeler import topology
from vogeler.errors import UsageError
from vogeler.globs import is_glob, matcher
from vogeler.messages import check_node_name

# As in a command: None is everybody; otherwise lists of names or globs, and of groups.
Targets = Optional[Mapping[str, list[str]]]


def parse(text: str) -> Targets:
    """``all``; ``web01``; ``web*,db01,group:jboss``. Raises UsageError."""
    nodes: list[str] = []
    groups: list[str] = []
    for word in filter(None, (part.strip() for part in text.split(","))):
        if word == "all":
            return None
        if word.startswith("group:"):
            groups.append(_checked(word[len("group:") :], word))
        else:
            nodes.append(word if is_glob(word) else _checked(word, word))
    if not nodes and not groups:
        raise UsageError("no nodes were named", "-n all, -n web01,db01, -n 'web*' or -n group:NAME")
    return {name: found for name, found in (("nodes", nodes), ("groups", groups)) if found}


def _checked(name: str, word: str) -> str:
    try:
        check_node_name(name)
    except ValueError as error:
        raise UsageError(f"in -n {word!r}: {error}") from None
    return name


def matches(targets: Targets, node: str, groups: Collection[str]) -> bool:
    """Whether a node, with the groups it is in, is meant."""
    if targets is None:
        return True
    return any(matcher(word)(node) for word in targets.get("nodes", ())) or any(
        group in groups for group in targets.get("groups", ())
    )


def exact_names(targets: Targets) -> set[str]:
    """The nodes that were named letter by letter: expected to answer even if never heard of."""
    return {word for word in (targets or {}).get("nodes", ()) if not is_glob(word)}


def broadcast_keys(targets: Targets) -> list[str]:
    """The fewest broadcast keys that reach every node that may be meant; the clients do the rest."""
    if targets is None or any(is_glob(word) for word in targets.get("nodes", ())):
        return [topology.ALL_KEY]
    nodes = [topology.node_key(node) for node in targets.get("nodes", ())]
    return nodes + [topology.group_key(group) for group in targets.get("groups", ())]
