"""What is to be sealed leaves the node sealed or not at all, whatever is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.servers.processes import Fleet
from vogeler import sealing
from vogeler.collect import collect
from vogeler.errors import ExitCode
from vogeler.messages import FAILED, OK, UNPARSABLE
from vogeler.plugins import load
from vogeler.redact import Redaction
from vogeler.sealed import is_sealed
from vogeler.sealing import Readers, Sealing

from .conftest import Make

SECRET = "T0p-secret"
ALICE = sealing.new("alice")
local = pytest.mark.parametrize("fleet", [("local", "sqlite")], indirect=True, ids=["local"])


@pytest.fixture
def readers(tmp_path: Path) -> Path:
    file = tmp_path / "readers"
    file.write_text(ALICE.public().line + "\n")
    return file


def seals(readers: Path, *paths: str) -> Sealing:
    return Sealing("web01", readers.with_name("redact.key"), Readers(readers), paths)


def test_the_digest_is_that_of_the_sealed_value_and_the_same_every_time(make: Make, readers: Path) -> None:
    plugin = make(f"command = echo {SECRET}", "seal = .")
    one, again = (collect(plugin, sealing=seals(readers)) for _ in range(2))
    assert (one.status, one.sealed) == (OK, 1)
    assert is_sealed(one.value)
    assert SECRET not in str(one)
    assert (one.value, one.digest) == (again.value, again.digest)


def test_a_list_without_order_is_sorted_as_it_is_sent(make: Make, readers: Path) -> None:
    one, other = (
        collect(make(f"command = echo '{json.dumps(list(order))}'", "result_format = json", "seal = k", "unordered = true"),
                sealing=seals(readers))
        for order in ([{"k": 1}, {"k": 2}], [{"k": 2}, {"k": 1}])
    )  # fmt: skip
    assert one.digest == other.digest


def test_what_is_redacted_is_so_for_readers_too(make: Make, readers: Path) -> None:
    plugin = make(f"command = echo a: {SECRET}", "result_format = keyvalue", "seal = .", "redact = a")
    collected = collect(plugin, None, None, Redaction(readers.with_name("redact.key")), seals(readers))
    opened = sealing.unseal([ALICE], ("web01", "probe", "probe"), collected.value)
    assert opened["a"].startswith("redacted:")


def test_without_readers_nothing_is_sent(make: Make, tmp_path: Path, readers: Path) -> None:
    plugin = make(f"command = echo {SECRET}", "seal = .")
    nobody = Sealing("web01", tmp_path / "redact.key", None)
    readers.write_text("nonsense\n")
    for sealing_ in (None, nobody, seals(readers)):
        collected = collect(plugin, sealing=sealing_)
        assert (collected.status, collected.value, collected.digest) == (FAILED, None, None)
        assert "can't seal" in (collected.error or "")
        assert SECRET not in str(collected)


def test_a_plugin_that_seals_lets_nothing_out_by_its_errors(make: Make, readers: Path) -> None:
    for command, status in ((f"sh -c 'echo {SECRET} >&2; exit 3'", FAILED), (f"echo {SECRET}", UNPARSABLE)):
        collected = collect(
            make(f"command = {command}", "seal = x", "result_format = keyvalue"), sealing=seals(readers)
        )
        assert collected.status == status
        assert SECRET not in str(collected)


# --- vogeler-client -------------------------------------------------------------------------------------


@pytest.mark.parametrize("hides", ["seal = password", "redact = password"])
def test_a_file_with_an_error_that_was_to_hide_something_lets_nothing_shipped_come_back(
    tmp_path: Path, hides: str
) -> None:
    for folder, lines in (("shipped", ""), ("site", f"{hides}\ntimeout = 90sec\n")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "app.cfg").write_text(f"[app]\ncommand = echo {SECRET}\n{lines}")
    loaded = load([tmp_path / "shipped", tmp_path / "site"])
    assert loaded.plugins == ()
    assert "90sec" in str(loaded.problems[0])


def client(fleet: Fleet, *words: str, readers: Path | None = None) -> tuple[int, str, str]:
    flags = ["--plugins", str(fleet.plugins), "--node", "web01", "--redact-key", str(fleet.directory / "k")]
    done = fleet._run("client", *words, *flags, *(["--readers", str(readers)] if readers else []))
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


@local
def test_who_writes_a_plugin_sees_what_would_be_stored(fleet: Fleet, readers: Path) -> None:
    fleet.plugin("app", f"echo a: {SECRET}", "keyvalue", seal="a")
    fleet.plugin("typo", "echo a: 1", "keyvalue", seal="b")
    code, out, said = client(fleet, "test", "app", readers=readers)
    assert code == 0
    assert is_sealed(json.loads(out)["a"])
    assert said.endswith("sealed: 1\n")
    assert SECRET not in out + said
    assert client(fleet, "test", "app", "--format", "table", readers=readers)[1].splitlines()[1].endswith(" for alice")
    assert "sealed: nothing, there is nothing at b" in client(fleet, "test", "typo", readers=readers)[2]


@local
@pytest.mark.parametrize(
    ("line", "said"),
    [
        (None, "can't seal: there are no readers"),
        ("alice x25519:AAAA", "line 1: the key is not the base64 of 32 bytes"),
        (f"{ALICE.public().line} keys=other", "no reader in"),
    ],
    ids=["no readers", "a key that is none", "for other keys"],  # the key is another one each time
)
def test_a_plugin_that_can_not_seal_is_not_offered_and_says_why(
    fleet: Fleet, readers: Path, line: str | None, said: str
) -> None:
    """Nor is the one that it was to replace, which would show what it hides."""
    (fleet.directory / "shipped").mkdir()
    plain = f"[app]\ncommand = echo {SECRET}\n"
    (fleet.directory / "shipped/app.cfg").write_text(plain)
    fleet.plugin("app", f"echo {SECRET}", seal=".")
    fleet.plugin("other", "echo x")
    readers.write_text(f"{line}\n")
    both = ("--plugins", str(fleet.directory / "shipped"))
    for words in (["list", *both], ["test", "app", *both]):
        code, out, told = client(fleet, *words, readers=readers if line else None)
        assert code == (ExitCode.SOME_FAILED if words[0] == "list" else ExitCode.NOT_FOUND)
        assert f"{fleet.plugins}/app.cfg:1: [app] " in told
        assert said in told
        assert SECRET not in out + told
        assert "app" not in out
        assert words[0] != "list" or "other" in out


@local
def test_paths_of_the_settings_hold_back_every_plugin_that_they_may_mean(fleet: Fleet) -> None:
    for name in ("users", "packages"):
        fleet.plugin(name, "echo x")
    for paths, offered in (("users.*.hash", ["packages"]), ("*.hash", [])):
        code, out, said = client(fleet, "list", "--seal", paths, "--format", "json")
        assert code == ExitCode.SOME_FAILED
        assert [row["name"] for row in json.loads(out)] == offered
        assert said.count("can't seal: there are no readers") == 2 - len(offered)
