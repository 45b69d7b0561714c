"""A record as flat facts: every scalar in it, with its dotted path. What indexes hold and expressions ask for.

``{"packages": {"openssl": "3.0.11"}, "jmx": [{"port": 9999}, {"port": 9998}]}`` has the leaves
``packages.openssl: "3.0.11"``, ``jmx.port: 9999`` and ``jmx.port: 9998``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Union

from vogeler.globs import matcher
from vogeler.messages import RESERVED_KEYS

Scalar = Union[str, int, float, bool, None]
_CONTAINERS = frozenset({dict, list})
_EXACT = 2**53  # integers from here on are not exact in JavaScript (RFC 8259, 6)


def leaves(value: Any, path: str) -> Iterator[tuple[str, Scalar]]:
    """Every scalar of a value with its dotted path; the entries of a list have the list's path.

    An empty mapping or list is one leaf, None, so that it is present.
    """
    if isinstance(value, str):  # most are
        yield path, value
    elif isinstance(value, dict) and value:
        for name, item in value.items():
            yield from leaves(item, f"{path}.{name}")
    elif isinstance(value, list) and value:
        for item in value:
            yield from leaves(item, path)
    else:
        yield path, None if isinstance(value, (dict, list)) else plain(value)


def plain(value: Scalar) -> Scalar:
    """A number as every index gives it back: 4.0 is 4, as in JavaScript, and what is not exact there is a float."""
    if isinstance(value, (bool, str)) or value is None:
        return value
    try:
        number = float(value)
    except OverflowError:
        return None  # Infinity, in JavaScript, which JSON has no word for
    return int(number) if abs(number) < _EXACT and number.is_integer() else number


def without(value: Any, paths: Sequence[str]) -> Any:
    """A value without what is at these dotted paths below it; ``*`` and ``?`` stand for any characters.

    ``["uptime_s", "disks.*.free"]`` leaves out ``uptime_s`` and the ``free`` of each of ``disks``. Through
    lists as leaves go: ``free`` leaves out that of every entry.
    """
    return _without(value, "", matcher(*paths)) if paths else value


def _without(value: Any, path: str, is_out: Callable[[str], object]) -> Any:
    if isinstance(value, dict):
        named = ((name, item, path + str(name)) for name, item in value.items())
        return {name: _without(item, f"{below}.", is_out) for name, item, below in named if not is_out(below)}
    if isinstance(value, list):
        return [_without(item, path, is_out) for item in value]
    return value


def replaced(value: Any, path: str, paths: Sequence[str], with_what: Callable[[str, Any], Any]) -> Any:
    """A value, which is at ``path``, with something else for each part of it that is at one of the paths.

    ``with_what`` gets the dotted path of the part, and the part.
    """
    return _replaced(value, path, matcher(*paths), with_what)


def _replaced(value: Any, path: str, is_meant: Callable[[str], object], with_what: Callable[[str, Any], Any]) -> Any:
    if is_meant(path):
        return with_what(path, value)
    if isinstance(value, dict):
        return {name: _replaced(item, f"{path}.{name}", is_meant, with_what) for name, item in value.items()}
    if isinstance(value, list):
        return [_replaced(item, path, is_meant, with_what) for item in value]
    return value


def at_path(record: Mapping[str, Any], path: str) -> Any:
    """What a record holds at a dotted path, through lists (then a list of what their entries hold); None: nothing.

    A name may have dots in it: ``packages.python3.11`` finds ``{"packages": {"python3.11": ...}}``.
    """
    found = [] if path.split(".")[0] in RESERVED_KEYS or path[:1] == "_" else list(_steps(record, path))
    return found[0] if len(found) == 1 else found or None


def _steps(value: Any, path: str) -> Iterator[Any]:
    if isinstance(value, list):
        for item in value:
            yield from _steps(item, path)
    elif isinstance(value, Mapping):
        if path in value:
            yield value[path]
        for name, item in value.items():
            if path.startswith(f"{name}.") and isinstance(item, (Mapping, list)):
                yield from _steps(item, path[len(name) + 1 :])


def record_leaves(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Scalar]]:
    """The leaves of what plugins put into a record, of the keys whose leaves may begin with ``prefix``."""
    for key, value in record.items():
        if key[:1] != "_" and key not in RESERVED_KEYS and (key.startswith(prefix) or prefix.startswith(key)):
            yield from leaves(value, key)


def deeper_than(value: object, levels: int) -> bool:
    """Whether objects and lists are nested in it to more levels than that."""
    if not isinstance(value, (dict, list)):
        return False
    if levels == 0:
        return True
    items = value.values() if isinstance(value, dict) else value
    if _CONTAINERS.isdisjoint(map(type, items)):  # most are flat
        return False
    return any(deeper_than(item, levels - 1) for item in items)
