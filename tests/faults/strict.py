"""A world in which no client is killed, so that nothing excuses a missing result."""

from __future__ import annotations

from typing import Any

from tests.faults import stored
from tests.faults.world import World
from tests.servers.processes import wait_until


class StrictWorld(World):
    """A client that lives keeps what has run until the broker has it: all of it is stored, whatever a runner was told."""

    def prove(self, *how: Any, **more: Any) -> None:
        """As of every world; then each plugin that ended well must be in the history."""
        super().prove(*how, **more)
        ran = {run.value for run in self.log.runs().values() if run.succeeded} - self._settled

        def missing() -> set[str]:
            return ran - {change["value"] for change in stored.read(self._store).history}

        wait_until(lambda: not missing(), "all that ran is stored", lambda: f"{missing()}\n{self.fleet.logs()}")
