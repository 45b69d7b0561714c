"""How pytest-xdist shares the tests among its workers: file by file, and those first that take long."""

from __future__ import annotations

from typing import Any

import pytest

# Files that stay together, by how their names begin; of two beginnings the longer one counts. The faults share a fleet
# (tests/faults/conftest.py), but for those on a fleet of another kind. The CouchDB that makes logins may be one for all.
_TOGETHER = {
    "tests/faults/": "faults",
    **{f"tests/faults/test_{name}.py": name for name in ("checker", "clocks", "cluster", "local", "plugins")},
    "tests/roles/": "logins",
    "tests/persistence/test_access.py": "logins",
}
# Where tests wait most: begun first, so that none of them is left for the end.
_FIRST = (
    "tests/faults",
    "tests/end_to_end",
    "tests/roles",
    "tests/docs/test_readme",
    "tests/messaging",
    "tests/persistence",
)


def unit_of(nodeid: str) -> str:
    """What a worker is given at a time: a file, so that the fixtures of a module are made once, or some of them."""
    file = nodeid.partition("::")[0]
    beginnings = [beginning for beginning in _TOGETHER if file.startswith(beginning)]
    return _TOGETHER[max(beginnings, key=len)] if beginnings else file


def _place_of(item: pytest.Item) -> int:
    return next((place for place, start in enumerate(_FIRST) if item.nodeid.startswith(start)), len(_FIRST))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):
        items.sort(key=_place_of)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from xdist.scheduler import LoadScopeScheduling

    class ByUnits(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return unit_of(nodeid)

    config.option.loadscopereorder = False  # by number of tests, which says nothing of their time
    return ByUnits(config, log)
