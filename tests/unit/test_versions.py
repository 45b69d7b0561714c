"""Versions are ordered as dpkg itself says, and as rpm's documentation and its own tests say."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vogeler.versions import compare_deb, compare_rpm

# Ascending, each list; the rpm ones follow tests/rpmvercmp.at of rpm.
DEB = ["1.0~~", "1.0~~a", "1.0~", "1.0", "1.0-1", "1.0-1+b1", "1.0a", "1.0.1-1", "1.10-1", "2.0-1", "1:0.1-1"]
RPM = ["1.0~rc1", "1.0~rc1^git1", "1.0~rc2", "1.0", "1.0^", "1.0^git1", "1.0.a", "1.0.1", "1.0.10", "2.0", "1:0.5"]


@pytest.mark.parametrize(("compare", "ascending"), [(compare_deb, DEB), (compare_rpm, RPM)])
def test_the_order_of_what_is_documented(compare: object, ascending: list[str]) -> None:
    for i, one in enumerate(ascending):
        for j, other in enumerate(ascending):
            assert compare(one, other) == (i > j) - (i < j), (one, other)  # type: ignore[operator]


@pytest.mark.parametrize(("one", "other"), [("1.0", "1.0-27.el9"), ("0:1.0", "1.0"), ("1.0", "1_0"), ("001", "1")])
def test_what_is_equal_to_rpm(one: str, other: str) -> None:
    assert compare_rpm(one, other) == compare_rpm(other, one) == 0


@pytest.mark.parametrize("compare", [compare_deb, compare_rpm])
def test_numbers_may_be_of_any_length_and_have_only_the_digits_of_ascii(compare: object) -> None:
    assert compare("1." + "9" * 5000, "1.1" + "0" * 5000) == -1  # type: ignore[operator]
    assert compare("0" * 5000 + "1", "1") == 0  # type: ignore[operator]
    for one in ("²:1", "٣:1", "1.²", "1.٣"):
        assert compare(one, one) == 0  # type: ignore[operator]


VERSIONS = st.from_regex(r"([0-9]:)?[0-9][a-z0-9.+~]{0,6}(-[0-9a-z.+~]{1,4})?", fullmatch=True)


@settings(max_examples=60, deadline=None)
@given(VERSIONS, VERSIONS)
def test_dpkg_itself_agrees(one: str, other: str) -> None:
    if shutil.which("dpkg") is None:
        return
    expected = {-1: "lt", 0: "eq", 1: "gt"}[compare_deb(one, other)]
    assert subprocess.run(["dpkg", "--compare-versions", one, expected, other], check=False).returncode == 0


@given(VERSIONS, VERSIONS, VERSIONS)
@pytest.mark.parametrize("compare", [compare_deb, compare_rpm])
def test_the_order_is_one(compare: object, a: str, b: str, c: str) -> None:
    assert compare(a, b) == -compare(b, a)  # type: ignore[operator]
    if compare is compare_deb and compare(a, b) <= 0 and compare(b, c) <= 0:
        assert compare(a, c) <= 0
