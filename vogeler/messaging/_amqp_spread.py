"""From one queue of results to several, spread by node, and back, while everybody goes on.

What leads to the new queues is there before what led to the old ones goes: in between a result goes both ways, which
changes nothing, as storing twice is storing once. A queue that nothing leads to any more is deleted when the servers
have drained and left it. Cut short at any point, it is done by doing it again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from vogeler import topology

_ON_ITS_WAY_S = 1.0  # to a queue, when the binding that led there goes
_SERVERS_COME_WITHIN_S, _SERVERS_LEAVE_WITHIN_S = 10.0, 15.0
_DRAINED_WITHIN_S = 60.0
_TRIES = 3
_ASK_EVERY_S, _IN_A_ROW = 0.1, 3  # a quorum queue that is busy for 250 ms is said to have no message and no consumer
_WEIGHT = "1"  # the same for all of them

_BIND_BY_NODE = (topology.BY_NODE_EXCHANGE, topology.RESULTS_EXCHANGE, topology.RESULTS_BINDING)


def numbered(passive: Callable[[str, str], Any]) -> dict[str, Any]:
    """The numbered queues there are, each with the broker's answer about it."""
    found: dict[str, Any] = {}
    while (answer := passive("queue_declare", queue := topology.numbered_queue(len(found) + 1))) is not None:
        found[queue] = answer
    return found


class Spread:
    """``once``, ``passive``: calls of the transport; ``tell`` the servers how many numbered queues there are;
    ``is_empty``: whether nothing is in a queue or in anybody's hands, for sure."""

    def __init__(
        self,
        once: Callable[..., Any],
        passive: Callable[[str, str], Any],
        tell: Callable[[int], bool],
        is_empty: Callable[[str], bool],
        shared: tuple[str, str, str],
        arguments: Mapping[str, Any],
    ) -> None:
        self._once, self._passive, self._tell, self._is_empty = once, passive, tell, is_empty
        self._shared = shared  # the binding of the queue that servers share
        self._arguments = arguments
        self._done: list[str] = []

    def over(self, count: int) -> list[str]:
        """So many queues; 1 is the one that servers share. What was done, a line each."""
        there = len(numbered(self._passive))
        wanted = count if count > 1 else 0
        if wanted:
            self._spread(there, wanted)
        else:
            self._once("queue_bind", *self._shared)
            self._once("exchange_delete", topology.BY_NODE_EXCHANGE)
        self._retire(range(there, wanted, -1), wanted)
        return self._done

    def _spread(self, there: int, wanted: int) -> None:
        """The exchange first: without the plugin nothing has changed."""
        if self._passive("exchange_declare", topology.BY_NODE_EXCHANGE) is None:
            self._done.append(f"created exchange {topology.BY_NODE_EXCHANGE}")
        self._once("exchange_declare", topology.BY_NODE_EXCHANGE, "x-consistent-hash", durable=True)
        queues = [topology.numbered_queue(number) for number in range(1, wanted + 1)]
        for queue in queues:
            self._once("queue_declare", queue, durable=True, arguments=self._arguments)
        self._done += [f"created queue {queue}" for queue in queues[there:]]
        if self._tell(wanted):  # also of those that are there: one that was to go may have been left
            self._await_servers(queues)
        for queue in queues:
            self._once("queue_bind", queue, topology.BY_NODE_EXCHANGE, _WEIGHT)
        for number in range(there, wanted, -1):
            self._once("queue_unbind", topology.numbered_queue(number), topology.BY_NODE_EXCHANGE, _WEIGHT)
        self._once("exchange_bind", *_BIND_BY_NODE)
        self._once("queue_unbind", *self._shared)

    def _await_servers(self, queues: Sequence[str]) -> None:
        if not _within(_SERVERS_COME_WITHIN_S, lambda: all(self._depth(queue)[1] for queue in queues)):
            self._done.append("no server takes from some of the queues yet: is one busy or stopped?")

    def _retire(self, numbers: Sequence[int], wanted: int) -> None:
        """The highest first, as who looks for queues begins with the lowest and ends where one is missing.

        The broker does not tell what a server holds of a queue; but a server leaves it only when it holds nothing.
        """
        left = list(numbers)
        for _ in range(_TRIES):
            if left:
                time.sleep(_ON_ITS_WAY_S)
                left = self._delete_drained(left, wanted)
        if left:
            queue = topology.numbered_queue(left[0])
            self._done.append(f"kept {queue} and those before it, until all in them is stored: run this again")

    def _delete_drained(self, numbers: list[int], wanted: int) -> list[int]:
        """Those that are there still. The servers take from them again."""
        queues = [topology.numbered_queue(number) for number in numbers]
        _within(_DRAINED_WITHIN_S, lambda: not any(self._is_draining(queue) for queue in queues))
        if not any(self._waits(queue) for queue in queues):
            self._tell(wanted)
        for place, queue in enumerate(queues):
            if self._waits(queue) or not (
                _within(_SERVERS_LEAVE_WITHIN_S, partial(self._is_left, queue)) and self._is_empty(queue)
            ):
                self._tell(numbers[place])
                return numbers[place:]
            self._once("queue_delete", queue)
            self._done.append(f"deleted queue {queue}")
        return []

    def _is_draining(self, queue: str) -> bool:
        """Whether somebody takes what still waits in it."""
        return all(self._depth(queue))

    def _waits(self, queue: str) -> bool:
        return self._depth(queue)[0] > 0

    def _is_left(self, queue: str) -> bool:
        return self._depth(queue) == (0, 0)

    def _depth(self, queue: str) -> tuple[int, int]:
        method = self._once("queue_declare", queue, passive=True).method
        return method.message_count, method.consumer_count


def _within(limit_s: float, condition: Callable[[], bool]) -> bool:
    deadline_s = time.monotonic() + limit_s
    true = 0
    while (true := true + 1 if condition() else 0) < _IN_A_ROW:
        if time.monotonic() > deadline_s:
            return False
        time.sleep(_ASK_EVERY_S)
    return True
