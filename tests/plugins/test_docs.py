"""docs/plugins.rst says what is so, and the examples it points to run."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from vogeler import formats, plugins
from vogeler.collect import collect
from vogeler.messages import OK, STATUSES
from vogeler.plugins import KEYS, PATH

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "plugins.rst").read_text(encoding="utf-8")
EXAMPLES = plugins.load([DOCS / "examples"])
SHIPPED = plugins.load([DOCS.parent / "plugins"])

_ROW = re.compile(r"^   \* - ``(.+?)``\n     -(.*)\n", re.MULTILINE)
_SECTION = re.compile(r"^(\w+)\n\.+\n(.*?)(?=^\w[^\n]*\n\.+\n|\Z)", re.MULTILINE | re.DOTALL)
_BLOCK = re.compile(r"\.\. code-block:: (\w+)\n\n((?:   .*\n|\n)+)")


def test_every_key_is_listed_with_its_default() -> None:
    listed = {key: default.strip().strip("`") for key, default in _ROW.findall(PAGE.split("How a command is run")[0])}
    expected = {key: default for key, (default, _) in KEYS.items()}
    assert listed == {**expected, "command": "required"}


def test_every_status_is_explained() -> None:
    assert set(re.findall(r"^``(\w+)`` ", PAGE.split("How it ended")[1], re.MULTILINE)) == set(STATUSES)


def test_every_shipped_plugin_is_listed_with_its_alias() -> None:
    listed = dict(_ROW.findall(PAGE.split("Shipped plugins")[1]))
    assert {name: alias.strip().strip("`") for name, alias in listed.items()} == {
        plugin.name: plugin.alias for plugin in SHIPPED.plugins
    }


def test_every_example_is_listed_with_its_format() -> None:
    listed = re.findall(r"^``(\w+)`` +\w+ +(\w+) ", PAGE.split("The plugin file")[0], re.MULTILINE)
    assert dict(listed) == {plugin.name: plugin.result_format for plugin in EXAMPLES.plugins}


def test_the_environment_is_the_one_described() -> None:
    assert f"``PATH={PATH}``" in PAGE


def test_each_format_is_shown_as_it_is() -> None:
    shown = {}
    for name, text in _SECTION.findall(PAGE.split("\nFormats\n")[1].split("A format of your own")[0]):
        (_, printed), (_, value) = ((kind, re.sub(r"(?m)^   ", "", block)) for kind, block in _BLOCK.findall(text))
        shown[name] = printed.strip("\n") + "\n", json.loads(value)
    assert sorted(shown) == formats.names()
    for name, (printed, value) in shown.items():
        assert formats.parse(name, printed.encode()) == value


def test_the_first_example_is_the_one_on_the_page() -> None:
    page = re.sub(r"(?m)^ +", "", PAGE)
    example = (DOCS / "examples/kernel.cfg").read_text(encoding="utf-8")
    assert example.split("\n", 1)[1] in page


def test_the_examples_load() -> None:
    assert EXAMPLES.problems == ()
    assert len(EXAMPLES.plugins) == len(list((DOCS / "examples").glob("*.cfg")))


@pytest.mark.parametrize("plugin", EXAMPLES.plugins, ids=lambda plugin: plugin.name)
def test_the_examples_run(plugin: plugins.Plugin) -> None:
    language = {"cron": "python3", "reboot": "sh", "modules": "perl", "hosts": "awk"}.get(plugin.name, "uname")
    if shutil.which(language) is None:
        pytest.skip(f"no {language} here")
    collected = collect(plugin)
    assert (collected.status, collected.error) == (OK, None)
    assert collected.value is not None
