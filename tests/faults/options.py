"""How large and how long the faults are, and from which seed."""

from __future__ import annotations

import logging
import random
from typing import Any

import pytest

from tests.faults.soak import TURN, Soak

log = logging.getLogger(__name__)

SHORT_CLIENTS, LONG_CLIENTS = 4, 20
# The fixtures that are a fleet under load.
KINDS = ("local_world", "world", "clustered")
_SEED = "faults_seed"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("faults", "faults on a running fleet")
    group.addoption("--faults", action="store_true", help="all of them, and long ones")
    group.addoption("--faults-seed", type=int, help="replay: the number that a failure names (default: a new one)")
    group.addoption(
        "--faults-clients", type=int, help=f"how many clients (default: {SHORT_CLIENTS}, or {LONG_CLIENTS})"
    )
    group.addoption("--soak", type=float, metavar="MINUTES", help="faults for so long, one after another, on one fleet")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "long: a fault that only `make faults` has time for")
    if config.getoption("--faults-seed") is None:
        told = getattr(config, "workerinput", {})
        config.option.faults_seed = told.get(_SEED, random.SystemRandom().randrange(10**6))
    if config.getoption("--faults-clients") is None:
        config.option.faults_clients = LONG_CLIENTS if _all(config) else SHORT_CLIENTS
    if config.getoption("--soak"):
        config.pluginmanager.register(Soak(config), "soak")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """All workers of pytest-xdist have the seed that is told at the end."""
    node.workerinput[_SEED] = node.config.getoption("--faults-seed")


def _all(config: pytest.Config) -> bool:
    """Whether the long ones are run, too."""
    return bool(config.getoption("--faults") or config.getoption("--soak"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not _all(config):
        left_out = [item for item in items if item.get_closest_marker("long")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    places = [place for place, item in enumerate(items) if "tests/faults/" in item.nodeid]
    for place, item in zip(places, sorted((items[place] for place in places), key=_world_of)):
        items[place] = item


def _world_of(item: pytest.Item) -> str:
    """What the tests are sorted by: those of one kind of world in a row, so that they can share it."""
    return next((name for name in KINDS if name in getattr(item, "fixturenames", ())), "")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    reports = [report for kind in ("passed", "failed", "error") for report in terminalreporter.getreports(kind)]
    if any("tests/faults/" in report.nodeid for report in reports):
        seed, clients = config.getoption("--faults-seed"), config.getoption("--faults-clients")
        terminalreporter.write_line(f"faults: --faults-seed {seed} --faults-clients {clients}")


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    """The dice of one test: the same for the same seed, whichever other tests run.

    What is done to whom is replayed exactly; when, only as far as the machine is in the same mood.
    """
    seed = request.config.getoption("--faults-seed")
    clients = request.config.getoption("--faults-clients")
    log.warning("replay with --faults-seed %d --faults-clients %d", seed, clients)  # shown where it fails
    return random.Random(f"{seed} {request.config.stash.get(TURN, 0)} {request.node.nodeid}")


@pytest.fixture
def long(request: pytest.FixtureRequest) -> bool:
    """Whether there is time."""
    return bool(request.config.getoption("--faults"))
