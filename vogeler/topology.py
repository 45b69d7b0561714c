"""Every name in the broker. Nothing else builds one.

::

    vogeler.broadcast  topic   all | node.<name> | group.<name>  ─▶ vogeler.node.<name>, or vogeler.spare.<name>
    vogeler.results    topic   result.<node>  ─▶ vogeler.results
                               dead.<node>    ─▶ vogeler.dead
    vogeler.dead       fanout                 ─▶ vogeler.dead
    vogeler.receipts   direct  <run>          ─▶ a queue of the runner's own

Spread over several queues by node, results go another way::

    vogeler.results    topic   result.<node>  ─▶ vogeler.results.by-node
    vogeler.results.by-node    x-consistent-hash  ─▶ vogeler.results.1, vogeler.results.2, ...
    vogeler.broadcast  topic   servers        ─▶ vogeler.server.<id>

A client publishes to vogeler.results and vogeler.receipts alone: its dead letters go through
vogeler.results too, so that it needs no other right.

The broker's users have names as well. ``vogeler.node.<name>`` is the user of one node, and speaks for no other;
whatever else a user is called, it speaks for whom it says. What each may do in the broker is in roles.py.
"""

from __future__ import annotations

BROADCAST_EXCHANGE = "vogeler.broadcast"
RESULTS_EXCHANGE = "vogeler.results"
RECEIPTS_EXCHANGE = "vogeler.receipts"
DEAD_EXCHANGE = "vogeler.dead"
BY_NODE_EXCHANGE = "vogeler.results.by-node"

RESULTS_QUEUE = "vogeler.results"
DEAD_QUEUE = "vogeler.dead"

NUMBERED_QUEUES = r"vogeler\.results\.[0-9]+"  # a regular expression for numbered_queue()

RESULTS_BINDING = "result.#"
DEAD_BINDING = "dead.#"

ALL_KEY = "all"
PROBE_KEY = "probe"  # bound by nobody: publishing to it proves the right to publish
SERVERS_KEY = "servers"  # how many numbered queues of results there are from now on

SERVER_USER = "vogeler.server"
RUNNER_USER = "vogeler.runner"
ADMIN_USER = "vogeler.admin"
NODES_USER = "vogeler-node"  # one for all nodes, where they have none of their own
_NODE_USER = "vogeler.node."


def node_queue(node: str) -> str:
    """The durable queue with one node's commands."""
    return f"vogeler.node.{node}"


def spare_queue(node: str) -> str:
    """The queue with one node's commands while its own is away with a member of the broker's cluster."""
    return f"vogeler.spare.{node}"


def numbered_queue(number: int) -> str:
    """One of the queues, from 1 up, that results are spread over by node."""
    return f"vogeler.results.{number}"


def server_queue(server: str) -> str:
    """What a server is told: exclusive, gone with the connection."""
    return f"vogeler.server.{server}"


def node_key(node: str) -> str:
    """The broadcast key that reaches one node."""
    return f"node.{node}"


def group_key(group: str) -> str:
    """The broadcast key that reaches every node of a group."""
    return f"group.{group}"


def result_key(node: str) -> str:
    """The key of a node's results and heartbeats: the node's name, so that they can be spread by node."""
    return f"result.{node}"


def dead_key(node: str) -> str:
    """The key of what a node could not make sense of."""
    return f"dead.{node}"


def receipts_queue(run: str) -> str:
    """The runner's own queue for one run: exclusive, gone with the connection."""
    return f"vogeler.run.{run}"


def client_bindings(node: str, groups: tuple[str, ...]) -> list[str]:
    """The broadcast keys that a node's queue is bound to."""
    return [ALL_KEY, node_key(node), *(group_key(group) for group in groups)]


def node_user(node: str) -> str:
    """The broker's user of one node."""
    return _NODE_USER + node


def runner_user(operator: str) -> str:
    """The broker's user of one operator."""
    return f"{RUNNER_USER}.{operator}"


def is_node_user(user: str) -> bool:
    """Whether it is the user of one node."""
    return user.startswith(_NODE_USER)


def speaks_for(user: str | None, node: str | None) -> bool:
    """Whether a user may send what is said to come from a node; ``node`` None: from none of them, as commands do.

    ``user`` as in ``Delivery``: None where nobody can tell, "" where the sender did not say. That is nobody's word: a
    node could leave its name out.
    """
    return user is None or (node is not None and user == node_user(node)) or (user != "" and not is_node_user(user))


def may_command(user: str | None) -> bool:
    """Whether a user may send commands; ``user`` as in speaks_for. Of those of a role only runners may.

    The broker's permissions are not enough: who may make a queue can have the broker put what expires in it under
    any key of an exchange that this user may write to.
    """
    return speaks_for(user, None) and user not in (SERVER_USER, ADMIN_USER, NODES_USER)


def may_tell_servers(user: str | None) -> bool:
    """Whether a user may tell servers how many queues there are: who sets up, and so no runner either."""
    is_runner = user is not None and (user == RUNNER_USER or user.startswith(runner_user("")))
    return speaks_for(user, None) and user not in (SERVER_USER, NODES_USER) and not is_runner


def sender(user: str | None) -> str:
    """Whose login sent a message, in words."""
    return f"the user {user}" if user else "somebody who does not say who"
