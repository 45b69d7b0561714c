"""Whether a command may be run here: who has signed it, did it come before, is it in time, may its requester ask.

A gate that was given nothing lets everything through. What it is given is imported by whoever makes it: a client
without keys has neither the library nor the modules in memory.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vogeler.errors import MessageError
from vogeler.globs import any_matches
from vogeler.messages import Command, Envelope
from vogeler.units import parse_timestamp, to_timestamp

if TYPE_CHECKING:
    from vogeler.policy import Policy
    from vogeler.seen import Seen
    from vogeler.signing import PublicKey, TrustedKeys

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Gate:
    """What a client was given to decide with. ``seen`` belongs to ``keys``."""

    keys: TrustedKeys | None = None
    seen: Seen | None = None
    policy: Policy | None = None

    def check(self, command: Command, envelope: Envelope) -> PublicKey | None:
        """The key that the command is signed with; None where no signature is asked for. Raises MessageError."""
        if self.keys is None:
            return None
        key = self.keys.owner(envelope, Command.TYPE)
        if key.name != command.requested_by:
            raise MessageError(f"requested by {command.requested_by!r}, but signed by {key.name}")
        if self.seen is not None and self.seen.forgets(command.expires_at):
            raise MessageError(f"expires at {command.expires_at}: commands of that time are not taken any more here")
        return key

    def refusal(
        self, command: Command, key: PublicKey | None, names: Collection[str], node: str, clock_skew_s: float
    ) -> str | None:
        """Why a command is not run here now; None if it may be. The plugin for it answers to each of the names."""
        late = expired(command)
        if late is not None:
            return late
        now_s = time.time()
        if parse_timestamp(command.at) > now_s + clock_skew_s:
            here = f"this node's clock says {to_timestamp(now_s)}"
            return f"sent in the future, at {command.at}; {here}: compare the clocks"
        names = {command.alias, *names}
        if key is not None and key.aliases and not any_matches(key.aliases, names):
            return f"the key {key.id} of {key.name} is not for {command.alias}, but for {','.join(key.aliases)}"
        return None if self.policy is None else self.policy.objection(command.requested_by, names, node)

    def objection(self, envelope: Envelope) -> str | None:
        """Why a command that was let in, and had to wait, must not begin now: its key may be revoked by then."""
        if self.keys is not None:
            try:
                self.keys.owner(envelope, Command.TYPE)
            except MessageError as error:
                return error.message
        return None

    def is_done(self, command: Command) -> bool:
        """Whether it was done here, by this process or by one before it."""
        return self.seen is not None and (command.id, command.full) in self.seen

    def done(self, command: Command) -> None:
        """It is done, and is not done again until it expires."""
        if self.seen is not None:
            try:
                self.seen.add((command.id, command.full), command.expires_at)
            except OSError as error:
                text = "after a restart the run %s would be done again, if it was sent again: %s"
                log.error(text, command.id, error, extra={"event": "not_remembered", "run": command.id})


def expired(command: Command) -> str | None:
    """That it has expired, in words; None while it has not."""
    now_s = time.time()
    if parse_timestamp(command.expires_at) >= now_s:
        return None
    return f"expired at {command.expires_at}; this node's clock says {to_timestamp(now_s)}"
