"""Who may ask a node for what: by its key where commands are signed, by what the command says where they are not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.servers.processes import Fleet
from vogeler import signing
from vogeler.errors import ExitCode

pytestmark = pytest.mark.parametrize("fleet", [("local", "sqlite")], indirect=True, ids=["local"])


@pytest.fixture
def rules(fleet: Fleet) -> Path:
    """A policy for a node with two plugins, which may be written anew."""
    fleet.plugin("packages", "echo bash", command_alias="rpms")
    fleet.plugin("users", "echo root")
    fleet.server().wait_for("ready")
    path = fleet.directory / "policy"
    path.write_text("# nobody may ask for anything\n")
    return path


def stages(fleet: Fleet, *arguments: str) -> dict[str, str]:
    return {node: row["stage"] for node, row in fleet.ask(*arguments).items()}


def test_the_rules_say_who_may_ask_which_node_for_which_plugin_by_any_of_its_names(fleet: Fleet, rules: Path) -> None:
    fleet.environment["LOGNAME"] = "alice"
    for node in ("web01", "db01"):
        fleet.client(node, "--policy", str(rules))
    fleet.wait_known("web01", "db01")
    assert stages(fleet, "-c", "rpms", "-n", "all") == {"web01": "refused", "db01": "refused"}
    rules.write_text("bob@*  *\nalice@*  rpms,facts  web*\n")
    assert stages(fleet, "-c", "rpms", "-n", "all") == {"web01": "stored", "db01": "refused"}
    assert stages(fleet, "-c", "packages", "-n", "all") == {"web01": "unchanged", "db01": "refused"}
    done = fleet.runner("-c", "users", "-n", "web01", "--format", "json")
    assert done.returncode == ExitCode.SOME_FAILED
    (row,) = json.loads(done.stdout)
    assert row["stage"] == "refused"
    assert f"{rules} does not allow alice@" in row["reason"]
    assert stages(fleet, "-c", "no-such-alias", "-n", "web01") == {"web01": "refused"}, "not even told what there is"


def test_a_key_is_for_the_aliases_that_its_line_names_and_the_policy_knows_it_by_its_owner(
    fleet: Fleet, rules: Path
) -> None:
    key = signing.new("alice")
    signing.save(key, fleet.directory / "alice.key")
    (fleet.directory / "trusted").write_text(f"{key.public().line} aliases=r*,users\n")
    rules.write_text("alice *\n")
    fleet.client(
        "web01", "--policy", str(rules), "--trusted-keys", str(fleet.directory / "trusted"),
        "--state", str(fleet.directory / "state"),
    )  # fmt: skip
    fleet.wait_known("web01")
    ask = ("-n", "web01", "--signing-key", str(fleet.directory / "alice.key"))
    assert stages(fleet, "-c", "packages", *ask) == {"web01": "stored"}
    rules.write_text("alice rpms\n")
    assert stages(fleet, "-c", "users", *ask) == {"web01": "refused"}
    (fleet.directory / "trusted").write_text(f"{key.public().line} aliases=users\n")
    row = fleet.ask("-c", "packages", *ask)["web01"]
    assert (row["stage"], row["reason"]) == (
        "refused",
        f"the key {key.public().id} of alice is not for packages, but for users",
    )


def test_a_policy_that_can_not_be_read_allows_nothing_and_starts_nothing(fleet: Fleet, rules: Path) -> None:
    rules.write_text("* *\n")
    fleet.client("web01", "--policy", str(rules))
    fleet.wait_known("web01")
    assert stages(fleet, "-c", "users", "-n", "web01") == {"web01": "stored"}
    rules.write_text("* *\nalice rpms everywhere and nowhere\n")
    assert "line 2" in fleet.ask("-c", "users", "-n", "web01")["web01"]["reason"]
    rules.write_text("* *\n")
    rules.chmod(0o666)
    assert "open to others" in fleet.ask("-c", "users", "-n", "web01")["web01"]["reason"]
    other = fleet.client("web02", "--policy", str(rules))
    assert other.process.wait(20) == ExitCode.USAGE
    assert "open to others" in other.log
