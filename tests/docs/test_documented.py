"""Nothing is undocumented: every setting, flag, exit code, log event and plugin key; and the documents hold together."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import fields
from importlib import import_module
from pathlib import Path

import pytest

from vogeler import registry
from vogeler.cli import client, runner
from vogeler.cli._program import parser_for
from vogeler.config import COMMON_SECTION, PROGRAMS, SETTINGS, Setting, environment_of, flag_of, load
from vogeler.errors import ExitCode
from vogeler.messages import Command, Decision, Envelope, Heartbeat, Receipt, Result, decode, digest_of
from vogeler.plugins import KEYS

ROOT = Path(__file__).resolve().parents[2]
DOCS = [ROOT / "README.rst", *sorted((ROOT / "docs").glob("*.rst"))]
MARKDOWN = [ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs/decisions").glob("*.md"))]
REFERENCE = (ROOT / "docs/reference.rst").read_text(encoding="utf-8")
EXAMPLE_FILE = ROOT / "etc/vogeler.conf"
MESSAGES = (Command, Result, Heartbeat, Decision, Receipt)  # in the order of docs/formats.rst


def section(title: str) -> str:
    """The part of the reference under a title, up to the next title of its kind or above."""
    match = re.search(rf"^{re.escape(title)}\n([-~=])\1+\n", REFERENCE, re.MULTILINE)
    assert match is not None, f"docs/reference.rst has no section {title!r}"
    above = "=-~"[: "=-~".index(match.group(1)) + 1]
    rest = REFERENCE[match.end() :]
    end = re.search(rf"^\S.*\n([{above}])\1{{3,}}\n", rest, re.MULTILINE)
    return rest[: end.start()] if end else rest


def rows(text: str) -> list[str]:
    return re.split(r"^   \* - ", text, flags=re.MULTILINE)[1:]


# --- settings --------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", SETTINGS, ids=lambda spec: spec.name)
def test_a_setting_is_in_the_reference_with_its_names_default_and_programs(spec: Setting) -> None:
    first = f"``{flag_of(spec.name)}``" if spec.flag else "(no flag)"
    names = f"| {first}\n       | ``{environment_of(spec.name)}``\n       | ``{spec.name}``\n"
    (row,) = [row for row in rows(section("Settings")) if row.startswith(names)]
    _, default, _, programs, meaning = re.split(r"\n     - ", row, maxsplit=4)
    assert default == (f"``{spec.default}``" if spec.default else "empty")
    assert programs == ("all" if spec.programs == PROGRAMS else ", ".join(spec.programs))
    assert meaning.strip()


def sections_of_example() -> dict[str, tuple[str, str]]:
    """key → (section, the text behind '=') in etc/vogeler.conf; a setting follows '#' without a space."""
    found, current = {}, ""
    for line in EXAMPLE_FILE.read_text(encoding="utf-8").splitlines():
        header, key = re.fullmatch(r"\[(\w+)\]", line), re.fullmatch(r"#([a-z_]+) =(?: (.+))?", line)
        current = header.group(1) if header else current
        if key:
            assert key.group(1) not in found, f"{key.group(1)} is there twice"
            found[key.group(1)] = (current, key.group(2) or "")
    return found


def test_the_example_file_shows_every_setting_at_its_default_in_its_section() -> None:
    expected = {}
    for spec in SETTINGS:
        expected[spec.name] = (spec.programs[0] if len(spec.programs) == 1 else COMMON_SECTION, spec.default)
    assert sections_of_example() == expected


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("uncommented", [False, True])
def test_the_example_file_changes_nothing_commented_out_or_not(program: str, uncommented: bool, tmp_path: Path) -> None:
    text = EXAMPLE_FILE.read_text(encoding="utf-8")
    (tmp_path / "empty.conf").write_text("")
    if uncommented:
        text = re.sub(r"^#(?=[a-z_]+ =)", "", text, flags=re.MULTILINE)
        assert not re.search(r"^#[a-z]", text, re.MULTILINE)
    (tmp_path / "vogeler.conf").write_text(text)
    settings = load(program, {}, {}, tmp_path / "vogeler.conf")
    assert vars(settings) == vars(load(program, {}, {}, tmp_path / "empty.conf"))


# --- command lines ---------------------------------------------------------------------------------


def parsers() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """The title of each section on a command line, and its parser."""
    yield "vogeler-runner", runner._parser()
    yield "vogeler-server", parser_for("server", "")
    yield "vogeler-client", client._parser()
    for action in client._parser()._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from ((f"vogeler-client {name}", parser) for name, parser in action.choices.items())
    yield "vogeler-admin", parser_for("admin", "")
    for name in registry.names("vogeler.cli.admin"):
        parser = argparse.ArgumentParser()
        import_module(f"vogeler.cli.admin.{name}").add_arguments(parser)
        yield f"vogeler-admin {name}", parser


@pytest.mark.parametrize(("title", "parser"), list(parsers()), ids=[title for title, _ in parsers()])
def test_every_flag_and_argument_of_a_command_line_is_in_its_section(
    title: str, parser: argparse.ArgumentParser
) -> None:
    text = section(title) + section("Flags of every program")
    for action in parser._actions:
        if action.dest.startswith("setting_") or isinstance(action, argparse._SubParsersAction):
            continue  # settings have a table of their own, sub-commands a section
        words = list(action.option_strings) or [str(action.metavar or "")]
        if action.choices and not action.option_strings:
            words = [str(choice) for choice in action.choices]
        for word in words:
            assert re.search(rf"``{re.escape(word)}\b.*``|``{re.escape(word)}``", text), f"{title}: {word}"
        for choice in action.choices or ():
            assert str(choice) in text, f"{title}: {words} {choice}"


# --- words that programs read -----------------------------------------------------------------------


@pytest.mark.parametrize("code", list(ExitCode), ids=lambda code: code.name)
def test_an_exit_code_is_in_the_reference(code: ExitCode) -> None:
    assert [
        row for row in rows(section("Exit codes")) if row.startswith(f"{int(code)}\n     - ``{code.name}``\n     - ")
    ]


def test_every_event_of_the_log_is_in_the_reference() -> None:
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "vogeler").rglob("*.py")]
    events = {name for text in texts for name in re.findall(r'extra=\{\s*"event": "(\w+)"', text)}
    listed = {name for row in rows(section("Logs")) for name in re.findall(r"``(\w+)``", row.split("\n     - ")[0])}
    assert events <= listed
    assert listed - events <= {"event", "accepted", "refused", "unavailable"}  # the stages, by a variable


@pytest.mark.parametrize("key", KEYS)
def test_a_key_of_plugin_files_is_documented(key: str) -> None:
    assert f"``{key}``" in (ROOT / "docs/plugins.rst").read_text(encoding="utf-8")


def test_the_examples_of_messages_are_messages_and_every_field_is_described() -> None:
    text = (ROOT / "docs/formats.rst").read_text(encoding="utf-8")
    blocks = [json.loads(block) for block in re.findall(r"code-block:: json\n\n((?:   .*\n|\n)+)", text)]
    shown = [content for content in blocks if "v" in content]
    assert {content["type"] for content in shown} == {cls.TYPE for cls in MESSAGES}
    for content, cls in zip(shown, MESSAGES):
        message = decode(Envelope(json.dumps(content).encode()), cls)
        assert content.keys() - {"v", "type"} == {spec.name for spec in fields(cls)}
        assert [spec.name for spec in fields(cls) if f"``{spec.name}``" not in text] == []
        if isinstance(message, Result):
            assert message.digest == digest_of(message.value)


# --- the documents themselves -----------------------------------------------------------------------


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.rst").read_text(encoding="utf-8").splitlines()) < 150


@pytest.mark.parametrize("path", [*DOCS, *MARKDOWN], ids=lambda path: path.name)
def test_what_a_document_refers_to_is_there(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    links = re.findall(r"<([^<>:\s#]+)(?:#[^<>\s]*)?>`_" if path.suffix == ".rst" else r"\]\(([^():#\s]+)\)", text)
    links += re.findall(r"^\s*\.\. (?:image|figure|include|literalinclude):: (\S+)$", text, re.MULTILINE)
    assert [link for link in links if not (path.parent / link).exists()] == []
    named = re.findall(r"`((?:benchmarks|docs|etc|plugins|tests|vogeler)/[\w./-]+)`", text)
    assert [name for name in named if not (ROOT / name).exists() and not re.search("NAME|SCHEME", name)] == []


def test_every_document_is_reached_from_the_index() -> None:
    index = (ROOT / "docs/index.rst").read_text(encoding="utf-8")
    pages = [path.name for path in DOCS if path.name not in ("README.rst", "index.rst")]
    decisions = [f"decisions/{path.name}" for path in MARKDOWN if path.parent.name == "decisions"]
    assert [name for name in pages + decisions if f"<{name}>`_" not in index] == []


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_a_document_is_restructured_text(path: Path) -> None:
    core = pytest.importorskip("docutils.core")
    settings = {"report_level": 2, "halt_level": 2, "syntax_highlight": "none", "_disable_config": True}
    core.publish_doctree(path.read_text(encoding="utf-8"), str(path), settings_overrides=settings)


@pytest.mark.parametrize("program", ["client", "server"])
def test_a_systemd_unit_is_well_formed_and_waits_longer_than_the_daemon_takes_to_stop(program: str) -> None:
    path = ROOT / f"etc/systemd/vogeler-{program}.service"
    text = path.read_text(encoding="utf-8")
    limit = re.search(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE)
    assert limit is not None
    granted = load(program, {}, {"VOGELER_CONFIG": "/dev/null"}).stop_timeout
    assert int(limit.group(1)) > granted + 5
    assert f"ExecStart=/opt/vogeler/bin/vogeler-{program}\n" in text


@pytest.mark.parametrize("program", ["client", "server"])
def test_systemd_finds_nothing_wrong_with_a_unit(program: str, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        return  # a machine without systemd
    text = (ROOT / f"etc/systemd/vogeler-{program}.service").read_text(encoding="utf-8")
    unit = tmp_path / f"vogeler-{program}.service"
    unit.write_text(text.replace(f"/opt/vogeler/bin/vogeler-{program}", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
