"""The house in order: who may import whom, who may print, and nothing in it that belongs to one machine."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).replace(".__init__", ""): path
    for path in sorted((ROOT / "vogeler").rglob("*.py"))
}

# Part of vogeler/ → the parts it may import, besides errors and itself. The same table is in CONTRIBUTING.md.
LOW = {"registry", "urls", "tls", "backoff", "units", "messages", "topology", "roles"}
ALL = LOW | {
    "config",
    "places",
    "globs",
    "trust",
    "targets",
    "batch",
    "versions",
    "leaves",
    "history",
    "summary",
    "query",
    "find",
    "retention",
    "writer",
    "audit",
    "watched",
    "keys",
    "signing",
    "sealed",
    "seen",
    "policy",
    "gate",
}
AGENT = {
    "formats",
    "sections",
    "plugins",
    "processes",
    "redact",
    "sealing",
    "rlimits",
    "execute",
    "collect",
    "jobs",
    "results",
    "reporter",
}
ALL |= AGENT | {"messaging", "persistence"}
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "registry": set(),
    "urls": set(),
    "tls": {"urls"},
    "backoff": set(),
    "globs": set(),
    "trust": set(),
    "units": set(),
    "batch": set(),
    "topology": set(),
    "roles": {"topology"},
    "versions": set(),
    "watched": set(),
    "messages": {"units"},
    "keys": {"watched"},
    "signing": {"keys", "messages", "units", "watched"},
    "sealed": set(),
    "seen": {"units"},
    "policy": {"globs", "watched"},
    "gate": {"globs", "messages", "policy", "seen", "signing", "units"},
    "audit": {"messages"},
    "targets": {"globs", "messages", "topology"},
    "leaves": {"globs", "messages"},
    "query": {"globs", "leaves", "messages", "persistence", "units", "versions"},
    "find": {"globs", "leaves", "persistence", "query"},
    "retention": {"messages", "persistence", "units"},
    "history": {"messages", "sealed"},
    "summary": {"leaves", "units"},
    "places": set(),
    "config": {"urls", "messages", "places", "registry", "units"},
    "formats": {"registry"},
    "sections": set(),
    "plugins": {"formats", "messages", "registry", "sections", "trust", "units"},
    "processes": set(),
    "rlimits": {"plugins", "units"},
    "redact": {"leaves", "messages"},
    "sealing": {"globs", "keys", "leaves", "messages", "redact", "sealed", "trust", "watched"},
    "execute": {"messages", "plugins", "processes", "rlimits", "units"},
    "collect": {"backoff", "execute", "formats", "leaves", "messages", "plugins", "processes", "redact", "sealing"},
    "messaging": LOW,
    "persistence": LOW - {"topology", "roles", "backoff"} | {"leaves"},
    "writer": {"audit", "backoff", "batch", "messages", "messaging", "persistence", "retention"},
    "jobs": {"messages", "messaging", "plugins", "signing"},
    "results": {"collect", "jobs", "messages"},
    "reporter": {"jobs", "messages", "messaging"},
    "client": ALL - {"config", "persistence", "writer"},
    "server": ALL - AGENT - {"config"},
    "runner": ALL - AGENT - {"config"},
    "cli": ALL | {"client", "server", "runner"},
}

# What is allowed in some files only: a name imported or called → a pattern of those files.
ONLY_IN = {
    "pika": r"messaging/_?amqp\w*",
    "couchdb": r"persistence/_?couch\w*",
    "yaml": r"formats/yaml",
    "subprocess": r"execute|cli/admin/demo",
    "cryptography": r"signing|sealing",
    "psutil": r"(?!)",  # plugins use it, in processes of their own: the client stays small
    "argparse": r"cli/.*",
    "print": r"cli/.*",
    "sys.exit": r"cli/.*",
}


def imports_of(module: str, tree: ast.AST) -> Iterator[str]:
    """The modules that are imported anywhere below ``tree``; those of ours as precisely as can be told."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: a relative import"
            for alias in node.names:
                below = f"{node.module}.{alias.name}"
                yield below if below in MODULES else str(node.module)


def calls_of(tree: ast.AST) -> set[str]:
    return {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}


def part_of(module: str) -> str:
    """``vogeler.messaging.amqp`` → ``messaging``; the package itself holds the version, which anybody may have."""
    return [*module.split("."), "errors"][1]


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_what_its_part_may(module: str) -> None:
    part = part_of(module)
    assert part in MAY_IMPORT, f"say in tests/docs/test_house.py and CONTRIBUTING.md what {part} may import"
    ours = {name for name in imports_of(module, ast.parse(MODULES[module].read_text())) if name.startswith("vogeler")}
    assert {part_of(name) for name in ours} <= MAY_IMPORT[part] | {part, "errors"}


def test_the_table_for_contributors_says_the_same() -> None:
    rows = re.findall(r"^\| `(.+)` \| .+ \| (.+) \|$", (ROOT / "CONTRIBUTING.md").read_text("utf-8"), re.MULTILINE)
    listed = {part: set(may.replace("–", "").split(", ")) - {""} for parts, may in rows for part in parts.split("`, `")}
    said = {part.rstrip("/"): may for part, may in listed.items()}
    in_words = {part: said[part] for part in ("client", "server", "runner", "cli")}  # "all above but ...", "anything"
    assert said == {**MAY_IMPORT, **in_words}


@pytest.mark.parametrize("module", MODULES)
def test_a_library_and_the_screen_are_used_only_where_they_belong(module: str) -> None:
    tree = ast.parse(MODULES[module].read_text())
    used = {name.split(".")[0] for name in imports_of(module, tree)} | calls_of(tree)
    file = MODULES[module].relative_to(ROOT / "vogeler").with_suffix("").as_posix()
    assert not [name for name in used.intersection(ONLY_IN) if not re.fullmatch(ONLY_IN[name], file)]


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {}
    for module, path in MODULES.items():
        top = [node for node in ast.parse(path.read_text()).body if isinstance(node, (ast.Import, ast.ImportFrom))]
        graph[module] = {n for n in imports_of(module, ast.Module(top, [])) if n in MODULES and n != module}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_no_file_holds_a_path_of_the_machine_it_was_made_on() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    somewhere = re.compile(r"/(?:work|root)" + "/")
    files = [ROOT / name for name in listed.stdout.splitlines()]
    texts = {path: path.read_text(encoding="utf-8", errors="replace") for path in files if path.is_file()}
    found = [(str(path.relative_to(ROOT)), m.group()) for path, text in texts.items() for m in somewhere.finditer(text)]
    assert found == []
