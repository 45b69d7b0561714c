"""What each login at the broker may do: RabbitMQ's permissions, and nothing but what the program needs.

RabbitMQ ("Access Control") compares the name of an exchange or queue with a regular expression for each of *configure*
(declare, delete), *write* (publish to, bind to something) and *read* (consume, bind something to). For a topic exchange
it compares routing keys as well: *write* those that are published, *read* those of bindings. A regular expression that
nothing is to match is ``^$``, which would match an empty name: there is none.

The tables in the documents, the commands that are printed and what is made are all made from here.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Optional

from vogeler import topology

NOTHING = "^$"
_OURS = "vogeler."
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"  # a node's or a group's name, and so no wildcard of a binding
_REACHED = (topology.node_key(""), topology.group_key(""))


@dataclass(frozen=True)
class Topic:
    """The routing keys of one topic exchange, as regular expressions."""

    exchange: str
    write: str
    read: str


@dataclass(frozen=True)
class Role:
    """A user and its permissions in the virtual host, as regular expressions."""

    user: str
    configure: str
    write: str
    read: str
    topics: tuple[Topic, ...]

    def commands(self, vhost: str) -> Iterator[str]:
        """The same as commands of ``rabbitmqctl``, for a user that there is."""
        permissions = (self.user, self.configure, self.write, self.read)
        yield shlex.join(["rabbitmqctl", "set_permissions", "-p", vhost, *permissions])
        for topic in self.topics:
            keys = (self.user, topic.exchange, topic.write, topic.read)
            yield shlex.join(["rabbitmqctl", "set_topic_permissions", "-p", vhost, *keys])


def node(name: str, groups: Optional[tuple[str, ...]] = None) -> Role:
    """A node: takes its own commands, sends its own results, and receipts. ``groups``: None for any."""
    own = (topology.node_queue(name), topology.spare_queue(name))
    bound = [topology.ALL_KEY, topology.node_key(name), *map(topology.group_key, groups or ())]
    any_group = [topology.group_key("")] if groups is None else []
    return Role(
        topology.node_user(name),
        configure=_names(own),
        write=_names([*own, topology.RESULTS_EXCHANGE, topology.RECEIPTS_EXCHANGE]),
        read=_names([*own, topology.BROADCAST_EXCHANGE]),
        topics=(
            Topic(topology.BROADCAST_EXCHANGE, NOTHING, _keys(bound, any_group)),
            Topic(topology.RESULTS_EXCHANGE, _keys([topology.result_key(name), topology.dead_key(name)]), NOTHING),
        ),
    )


def all_nodes() -> Role:
    """One login for all nodes: each can then take the commands of the others, and speak for them."""
    queues = (topology.node_queue(""), topology.spare_queue(""))
    return Role(
        topology.NODES_USER,
        configure=_names(beginnings=queues),
        write=_names([topology.RESULTS_EXCHANGE, topology.RECEIPTS_EXCHANGE], queues),
        read=_names([topology.BROADCAST_EXCHANGE], queues),
        topics=(
            Topic(topology.BROADCAST_EXCHANGE, NOTHING, _keys([topology.ALL_KEY], _REACHED)),
            Topic(topology.RESULTS_EXCHANGE, _keys((), [topology.result_key(""), topology.dead_key("")]), NOTHING),
        ),
    )


def server() -> Role:
    """A server: takes results and what servers are told, sends receipts and dead letters. It finds the rest set up."""
    queues = (topology.server_queue(""),)
    return Role(
        topology.SERVER_USER,
        configure=_names(beginnings=queues),
        write=_names([topology.RECEIPTS_EXCHANGE, topology.DEAD_EXCHANGE], queues),
        read=_names([topology.RESULTS_QUEUE, topology.BROADCAST_EXCHANGE], queues, [topology.NUMBERED_QUEUES]),
        topics=(
            Topic(topology.BROADCAST_EXCHANGE, NOTHING, _keys([topology.SERVERS_KEY])),
            Topic(topology.RESULTS_EXCHANGE, NOTHING, NOTHING),  # it has the name of the queue
        ),
    )


def runner(operator: Optional[str] = None) -> Role:
    """A runner: sends commands, and takes receipts by queues of its own. ``operator``: whose user, of several."""
    queues = (topology.receipts_queue(""),)
    return Role(
        topology.RUNNER_USER if operator is None else topology.runner_user(operator),
        configure=_names(beginnings=queues),
        write=_names([topology.BROADCAST_EXCHANGE], queues),
        read=_names([topology.RECEIPTS_EXCHANGE], queues),
        topics=(Topic(topology.BROADCAST_EXCHANGE, _keys([topology.ALL_KEY], _REACHED), NOTHING),),
    )


def admin() -> Role:
    """Who sets up exchanges and queues, looks through dead letters and puts them back."""
    read = (topology.RESULTS_EXCHANGE, topology.BY_NODE_EXCHANGE, topology.DEAD_EXCHANGE)
    numbered = [topology.NUMBERED_QUEUES]
    probe = f"{topology.PROBE_KEY}."
    return Role(
        topology.ADMIN_USER,
        configure=_names([topology.BROADCAST_EXCHANGE, topology.RECEIPTS_EXCHANGE, *read], patterns=numbered),
        write=_names([topology.BROADCAST_EXCHANGE, *read], patterns=numbered),
        read=_names(read, patterns=numbered),
        topics=(
            Topic(topology.BROADCAST_EXCHANGE, _keys([topology.PROBE_KEY, topology.SERVERS_KEY]), NOTHING),
            Topic(
                topology.RESULTS_EXCHANGE,
                _keys((), [topology.result_key(""), probe]),
                _keys([topology.RESULTS_BINDING, topology.DEAD_BINDING], [probe]),
            ),
        ),
    )


def _names(whole: Iterable[str] = (), beginnings: Iterable[str] = (), patterns: Iterable[str] = ()) -> str:
    """A regular expression for these names, all of them ours, for those that begin so, and for those like these."""
    ours = len(_OURS)
    parts = [_plain(name[ours:]) for name in whole]
    parts += [pattern[len(_plain(_OURS)) :] for pattern in patterns]
    begun = [_plain(name[ours:]) for name in beginnings]
    if not begun:
        return f"^{_plain(_OURS)}{_one_of(parts)}$"
    return f"^{_plain(_OURS)}{_one_of([*begun, *(part + '$' for part in parts)])}"


def _keys(whole: Iterable[str], beginnings: Iterable[str] = ()) -> str:
    """A regular expression for these routing keys, and for those that go on with a name."""
    return f"^{_one_of([*map(_plain, whole), *(_plain(key) + _NAME for key in beginnings)])}$"


def _one_of(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"({'|'.join(parts)})"


def _plain(name: str) -> str:
    """Of what names and keys consist of, the dot alone means something in a regular expression."""
    return name.replace(".", r"\.")
