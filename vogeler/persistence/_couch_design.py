"""The design documents of the CouchDB store, from a folder of small JavaScript files. No network.

``<records|status|history>/<design document>/views/<view>/{map.js,reduce.js}``, one folder a view.
"""

from __future__ import annotations

import sys
from pathlib import Path

from vogeler.errors import StoreError
from vogeler.persistence import Document

DATABASES = ("records", "status", "history")


def find_folder() -> Path:
    """The first that exists: the administrator's, the installed one, the source tree's. Raises StoreError."""
    candidates = (
        Path("/etc/vogeler/_design"),
        Path(sys.prefix) / "share/vogeler/etc/_design",
        Path(__file__).resolve().parents[2] / "etc/_design",
    )
    for folder in candidates:
        if folder.is_dir():
            return folder
    raise StoreError(
        "the design documents for CouchDB were not found in " + ", ".join(map(str, candidates)),
        "install Vogeler again, or copy etc/_design of its sources to /etc/vogeler",
    )


def load(folder: Path, database: str) -> list[Document]:
    """The design documents for one of ``DATABASES``, by name. Raises StoreError for a file that can't be read."""
    try:
        designs = sorted(path for path in (folder / database).iterdir() if path.is_dir())
        return [{"_id": f"_design/{path.name}", "language": "javascript", "views": _views(path)} for path in designs]
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(
            f"the design documents in {folder / database} can't be read: {error}",
            "every view is a folder views/<name> with a map.js, in UTF-8",
        ) from error


def _views(design: Path) -> dict[str, dict[str, str]]:
    return {path.name: _view(path) for path in sorted((design / "views").iterdir()) if path.is_dir()}


def _view(folder: Path) -> dict[str, str]:
    view = {"map": (folder / "map.js").read_text("utf-8").strip()}
    reduce = folder / "reduce.js"
    if reduce.exists():
        view["reduce"] = reduce.read_text("utf-8").strip()
    return view
