"""The design documents of the CouchDB store, from a folder of small JavaScript files. No network.

``<records|status|history>/<design document>/views/<view>/{map.js,reduce.js,options.json}``, one folder a view.
``<design document>/design.json``: what else is in the document.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

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
        parts = [part for part in folder.iterdir() if part.name == database]
        designs = sorted(path for part in parts for path in part.iterdir() if path.is_dir())
        return [_design(path) for path in designs]
    except (OSError, ValueError) as error:
        raise StoreError(
            f"the design documents in {folder / database} can't be read: {error}",
            "every view is a folder views/<name> with a map.js, in UTF-8; docs/views.rst has the rest",
        ) from error


def _design(folder: Path) -> Document:
    views = {path.name: _view(path) for path in sorted((folder / "views").iterdir()) if path.is_dir()}
    return {"_id": f"_design/{folder.name}", "language": "javascript", **_json(folder / "design.json"), "views": views}


def _view(folder: Path) -> dict[str, Any]:
    view: dict[str, Any] = {"map": (folder / "map.js").read_text("utf-8").strip()}
    reduce, options = folder / "reduce.js", _json(folder / "options.json")
    if reduce.exists():
        view["reduce"] = reduce.read_text("utf-8").strip()
    return {**view, "options": options} if options else view


def _json(file: Path) -> dict[str, Any]:
    """The object in a file; an empty one when there is no such file."""
    content = json.loads(file.read_text("utf-8")) if file.exists() else {}
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds no JSON object")
    return content
