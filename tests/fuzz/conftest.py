"""How many examples: few and always the same, or with ``--faults`` many and new ones each time."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

from tests.fuzz.examples import PROFILE

_SHORT, _LONG = 100, 1_000


def pytest_configure(config: pytest.Config) -> None:
    long = config.getoption("--faults")
    settings.register_profile(
        PROFILE,
        max_examples=_LONG if long else _SHORT,
        derandomize=not long,
        database=None,
        deadline=None,  # examples.limited is ours: it ends what hangs
        print_blob=True,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
