"""Tests that share something that only one may use at a time are given to one worker."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.faults.options import KINDS
from tests.workers import unit_of

ROOT = Path(__file__).resolve().parents[2]
FILES = {str(path.relative_to(ROOT)): path.read_text("utf-8") for path in sorted(ROOT.glob("tests/**/test_*.py"))}


@pytest.mark.parametrize("fixture", [*KINDS, "couchdb_with_logins", "couch_url_with_logins"])
def test_who_asks_for_it_is_in_one_unit(fixture: str) -> None:
    by_name = re.compile(rf"^(?:def test_|@pytest.fixture.*\ndef )[^)]*\b{fixture}: ", re.MULTILINE)
    asking = [name for name, text in FILES.items() if by_name.search(text)]
    assert asking
    assert len({unit_of(f"{name}::test") for name in asking}) == 1, asking


def test_any_other_file_is_a_unit_of_its_own() -> None:
    names = [name for name in FILES if not name.startswith(("tests/faults/", "tests/roles/"))]
    assert unit_of(f"{names[0]}::test_one[a/b::c]") == names[0]
    assert len({unit_of(f"{name}::test") for name in names}) == len(names)
