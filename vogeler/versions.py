"""The order of package versions, as dpkg and as rpm see it. Pure.

dpkg: deb-version(7), "Sorting algorithm". rpm: rpm-version(7) and rpmvercmp, with ``~`` before and ``^`` after.
"""

from __future__ import annotations

import re
from functools import cmp_to_key
from itertools import zip_longest

_DEB_PARTS = re.compile(r"([^0-9]*)([0-9]*)")
_RPM_PARTS = re.compile(r"[0-9]+|[A-Za-z]+|~|\^")


def compare_deb(one: str, other: str) -> int:
    """-1, 0 or 1, as ``dpkg --compare-versions`` orders them."""
    for left, right in zip(_split(one), _split(other)):
        order = _compare_deb_part(left, right)
        if order:
            return order
    return 0


def compare_rpm(one: str, other: str) -> int:
    """-1, 0 or 1, as rpm orders ``epoch:version-release``. A release counts only where both have one."""
    left, right = _split(one), _split(other)
    for index, (a, b) in enumerate(zip(left, right)):
        if index == 2 and not (a and b):
            continue
        order = _compare_rpm_part(a, b)
        if order:
            return order
    return 0


deb_key = cmp_to_key(compare_deb)
rpm_key = cmp_to_key(compare_rpm)


def _split(version: str) -> tuple[str, str, str]:
    """Epoch, version, release (Debian: revision); the epoch is "0" where there is none."""
    epoch, colon, rest = version.partition(":")
    if not colon or not (epoch.isascii() and epoch.isdigit()):
        epoch, rest = "0", version
    upstream, _, release = rest.rpartition("-") if "-" in rest else (rest, "", "")
    return epoch, upstream, release


def _compare_deb_part(one: str, other: str) -> int:
    for (text, number), (other_text, other_number) in zip_longest(
        _DEB_PARTS.findall(one), _DEB_PARTS.findall(other), fillvalue=("", "")
    ):
        left, right = [_weight(c) for c in text], [_weight(c) for c in other_text]
        for a, b in zip_longest(left, right, fillvalue=0):
            if a != b:
                return 1 if a > b else -1
        order = _compare_numbers(number, other_number)
        if order:
            return order
    return 0


def _weight(character: str) -> int:
    """``~`` before the end, the end before letters, letters before everything else."""
    if character == "~":
        return -1
    return ord(character) if character.isalpha() else ord(character) + 0x110000


def _compare_rpm_part(one: str, other: str) -> int:
    left, right = _RPM_PARTS.findall(one), _RPM_PARTS.findall(other)
    for a, b in zip_longest(left, right):
        if a == b:
            continue
        if "~" in (a, b):
            return -1 if a == "~" else 1
        if a is None or b is None:
            return 1 if b is None else -1
        if "^" in (a, b):
            return -1 if a == "^" else 1
        order = _compare_rpm_segment(a, b)
        if order:
            return order
    return 0


def _compare_rpm_segment(one: str, other: str) -> int:
    if one.isdigit() != other.isdigit():
        return 1 if one.isdigit() else -1
    if one.isdigit():
        return _compare_numbers(one, other)
    return (one > other) - (one < other)


def _compare_numbers(one: str, other: str) -> int:
    """By their digits: Python refuses to make a number of more than 4,300 (or reads them very slowly)."""
    left, right = one.lstrip("0"), other.lstrip("0")
    a, b = (len(left), left), (len(right), right)
    return (a > b) - (a < b)
