"""What a client tells: a runner how far its run is, the server everything else, the node's audit log who asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vogeler import messages
from vogeler.jobs import Request
from vogeler.messages import Decision, Envelope, Heartbeat, Receipt, encode
from vogeler.messaging import Transport

_REASON_CHARACTERS = 1000


class Reporter:
    """One node's, over one connection. ``sign`` is done to what is for the server; ``audit`` is told of commands."""

    def __init__(
        self,
        node: str,
        transport: Transport,
        sign: Callable[[Envelope], Envelope],
        audit: Callable[[dict[str, Any]], None] | None,
    ) -> None:
        self._node = node
        self._transport = transport
        self._sign = sign
        self._audit = audit

    def accepted(self, request: Request, detail: dict[str, Any]) -> None:
        """The plugin will be run, as ``detail`` tells the runner."""
        self._decision(request, messages.ACCEPTED)
        self._receipt(request.command.id, messages.ACCEPTED, detail)

    def turned_away(self, request: Request, stage: str, reason: str) -> None:
        """The plugin is not run. ``stage``: refused or unavailable."""
        self._receipt(request.command.id, stage, {"reason": reason[:_REASON_CHARACTERS]})
        self._decision(request, stage, reason)

    def repeated(self, request: Request) -> None:
        """It was done before. The runner was told then."""
        self._decision(request, messages.REPEATED)

    def unreadable(self, run: str, reason: str) -> None:
        """To the runner: what came under the id of its run is no command."""
        self._receipt(run, messages.REFUSED, {"reason": reason[:_REASON_CHARACTERS]})

    def dead_lettered(self, reason: str) -> None:
        """Into the audit log: something came that is no command."""
        self._note({"node": self._node, "stage": "unreadable", "reason": reason, "at": messages.now()})

    def heartbeat(self, agent: dict[str, Any]) -> None:
        """To the server: this node is there, and this is its agent."""
        self.publish(encode(Heartbeat(self._node, agent)))

    def publish(self, envelope: Envelope) -> None:
        """To the server, signed; returns when the broker has confirmed it. Raises MessageTooLarge."""
        self._transport.publish_result(self._sign(envelope), self._node)

    def _receipt(self, run: str, stage: str, detail: dict[str, Any]) -> None:
        self._transport.publish_receipts([(run, encode(Receipt(run, self._node, stage, detail)))])

    def _decision(self, request: Request, stage: str, reason: str | None = None) -> None:
        """To the server, which learns from the result that a command was accepted; then into the audit log."""
        if stage == messages.ACCEPTED and self._audit is None:
            return
        command, key = request.command, request.key
        decision = Decision(
            self._node,
            command.id,
            command.alias,
            command.requested_by,
            stage,
            None if reason is None else reason[:_REASON_CHARACTERS],
            None if key is None else key.id,
        )
        if stage != messages.ACCEPTED:
            self.publish(encode(decision))
        self._note({name: value for name, value in vars(decision).items() if name != "id"})

    def _note(self, entry: dict[str, Any]) -> None:
        """Into the audit log, if there is one."""
        if self._audit is not None:
            self._audit(entry)
