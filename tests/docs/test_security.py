"""What the documents say of rights is what roles.py makes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from vogeler import roles
from vogeler.messaging._amqp_management import url_beside
from vogeler.persistence._couch_access import READER, VALIDATION, WRITER
from vogeler.urls import parse

ROOT = Path(__file__).resolve().parents[2]
SECURITY = (ROOT / "docs/security.md").read_text(encoding="utf-8")


def test_the_permissions_in_the_document_are_those_that_are_made() -> None:
    shown = re.findall(r"^    (rabbitmqctl set_(?:topic_)?permissions -p vogeler vogeler.*)$", SECURITY, re.MULTILINE)
    made = (roles.node("web01"), roles.all_nodes(), roles.server(), roles.runner(), roles.admin())
    assert shown == [command for role in made for command in role.commands("vogeler")]


def test_every_login_has_a_row() -> None:
    rows = re.findall(r"^\| `(\S+)`", SECURITY.partition("### Making them")[0], re.MULTILINE)
    made = (roles.node("NAME"), roles.all_nodes(), roles.server(), roles.runner(), roles.admin())
    assert rows == [*(role.user for role in made), "vogeler.reader"]


def test_the_readme_gives_all_nodes_what_their_role_has() -> None:
    text = (ROOT / "README.rst").read_text(encoding="utf-8").replace("\\\n", "")
    (line,) = re.findall(r"^ +(rabbitmqctl set_permissions -p vogeler vogeler-node .*)$", text, re.MULTILINE)
    assert shlex.split(line) == shlex.split(next(roles.all_nodes().commands("vogeler")))


def test_the_roles_at_the_store_and_the_place_of_the_api_are_as_documented() -> None:
    assert f"`{WRITER}` and `{READER}`" in SECURITY
    assert f"`{VALIDATION['_id']}`" in SECURITY
    assert url_beside(parse("amqp://mq1/vogeler")).port == 15672
    assert str(url_beside(parse("amqps://mq1:5671/vogeler"))) == "https://mq1:15671"


def test_the_sections_that_the_document_is_to_have() -> None:
    assert re.findall(r"^## (.*)$", SECURITY, re.MULTILINE) == [
        "Assets",
        "Who can do what with which credential",
        "TLS",
        "Hostile values",
        "Secrets",
        "The node",
        "Signed commands",
        "Rights and record",
        "What is not protected",
        "Reporting a hole",
    ]
