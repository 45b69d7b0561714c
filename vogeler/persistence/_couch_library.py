"""couchdb-python, without the look at its own version.

It asks pkg_resources for that, where there is one: half of the time that a command on CouchDB takes to start, and a
warning by later versions of setuptools. Without pkg_resources it goes on.
"""

from __future__ import annotations

import sys

_missing = "pkg_resources" not in sys.modules
if _missing:
    sys.modules["pkg_resources"] = None  # type: ignore[assignment]  # an ImportError for whoever imports it

from couchdb import http  # type: ignore[import-untyped]  # noqa: E402 - with what is above; it has no type information

if _missing:
    del sys.modules["pkg_resources"]

__all__ = ["http"]
