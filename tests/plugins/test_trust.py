"""What root runs, nobody else may change: files, directories, programs, links, and whatever lies on the way to them."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.servers.processes import COMMANDS
from vogeler import plugins
from vogeler.errors import ExitCode
from vogeler.trust import distrust

IS_ROOT = os.geteuid() == 0


@pytest.fixture
def safe() -> Iterator[Path]:
    """A folder that nobody else can change; /tmp is no place for one."""
    places = [Path("/var/lib"), Path.home(), Path(__file__).parents[2]]
    place = next((path for path in places if distrust(path) is None and os.access(path, os.W_OK)), None)
    assert place is not None, f"none of {places} is a place where only this user can write"
    with tempfile.TemporaryDirectory(prefix="vogeler-test-", dir=place) as folder:
        yield Path(folder)


@pytest.fixture
def folder(safe: Path) -> Path:
    """With two plugins: one runs a program beside its file, one from the PATH."""
    made = safe / "plugins"
    made.mkdir(mode=0o755)
    put(made / "probe.cfg", "[probe]\ncommand = ./probe.sh arg\n")
    put(made / "other.cfg", "[other]\ncommand = echo other\n")
    put(made / "probe.sh", "#!/bin/sh\necho probe\n", 0o755)
    return made


def put(path: Path, text: str, mode: int = 0o644) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def names(*directories: Path) -> set[str]:
    return {plugin.name for plugin in plugins.load(directories, strict=True).plugins}


def problem(*directories: Path) -> str:
    """What the one problem says, and its remedy."""
    (found,) = plugins.load(directories, strict=True).problems
    assert found.remedy
    return f"{found.message}\n{found.remedy}"


def test_what_only_we_and_root_can_change_is_loaded(folder: Path) -> None:
    assert names(folder, Path(plugins.__file__).parents[1] / "nowhere") == {"probe", "other"}


@pytest.mark.parametrize("mode", [0o666, 0o664, 0o646])
def test_a_plugin_file_that_others_can_write_is_refused_and_the_others_go_on(folder: Path, mode: int) -> None:
    (folder / "probe.cfg").chmod(mode)
    assert names(folder) == {"other"}
    assert f"{folder}/probe.cfg:1: refused" in problem(folder)
    assert f"mode {mode:04o}" in problem(folder)
    assert f"chmod go-w {folder}/probe.cfg" in problem(folder)
    assert {p.name for p in plugins.load([folder]).plugins} == {"other", "probe"}


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o1777])
@pytest.mark.parametrize("level", [0, 1])
def test_a_directory_that_others_can_write_is_refused_wherever_on_the_way(folder: Path, level: int, mode: int) -> None:
    """The sticky bit keeps others from removing what is there; what will be there it does not."""
    (folder, folder.parent)[level].chmod(mode)
    assert names(folder) == set()
    assert f"plugin directory refused: {(folder, folder.parent)[level]} (owner" in problem(folder)


def test_the_other_directories_go_on(folder: Path, safe: Path) -> None:
    open_to_all = safe / "open"
    open_to_all.mkdir()
    put(open_to_all / "third.cfg", "[third]\ncommand = true\n")
    open_to_all.chmod(0o777)
    assert names(open_to_all, folder) == {"probe", "other"}


@pytest.mark.parametrize(
    "command",
    [
        "./probe.sh",
        "probe.sh",
        "%(here)s/probe.sh",
        "sh probe.sh",
        "sh %(here)s/probe.sh",
        "sh -c 'echo' %(here)s/probe.sh",
    ],
)
def test_a_program_beside_the_file_is_looked_at_too(folder: Path, command: str) -> None:
    put(folder / "probe.cfg", f"[probe]\ncommand = {command}\n")
    assert names(folder) == {"other", "probe"}
    (folder / "probe.sh").chmod(0o757)
    assert names(folder) == {"other"}
    assert "probe.cfg:2: [probe] is refused" in problem(folder)


def test_a_program_elsewhere_is_looked_at_if_the_file_says_where(folder: Path, safe: Path) -> None:
    """Also where it is not there yet: somebody else could put it there. What is only read is not looked at."""
    elsewhere = safe / "bin"
    elsewhere.mkdir()
    data = put(elsewhere / "data", "x", 0o666)
    put(folder / "probe.cfg", f"[probe]\ncommand = cat {data}\n")
    assert names(folder) == {"other", "probe"}
    for line in (f"command = {elsewhere}/missing", f"command = true\nenv.PATH = /bin:{elsewhere}"):
        put(folder / "probe.cfg", f"[probe]\n{line}\n")
        elsewhere.chmod(0o755)
        assert names(folder) == {"other", "probe"}
        elsewhere.chmod(0o777)
        assert names(folder) == {"other"}
        assert f"{elsewhere} (owner" in problem(folder)


Link = Callable[[Path, Path], tuple[Path, Path]]


def link_to_an_open_place(folder: Path, safe: Path) -> tuple[Path, Path]:
    target = safe / "open"
    target.mkdir()
    put(target / "linked.cfg", "[linked]\ncommand = true\n")
    target.chmod(0o777)
    (folder / "linked.cfg").symlink_to("../open/linked.cfg")
    return folder, target


def link_in_an_open_place(folder: Path, safe: Path) -> tuple[Path, Path]:
    """Where the link leads now is safe; where it will lead others say."""
    target = safe / "open"
    target.mkdir()
    put(folder / "linked.cfg", "[linked]\ncommand = true\n")
    (target / "way").symlink_to(folder)
    target.chmod(0o777)
    return target / "way", target


def link_over_a_link(folder: Path, safe: Path) -> tuple[Path, Path]:
    way, target = link_in_an_open_place(folder, safe)
    (safe / "first").symlink_to(safe / "plugins/.." / "second")
    (safe / "second").symlink_to(way)
    return safe / "first", target


@pytest.mark.parametrize("link", [link_to_an_open_place, link_in_an_open_place, link_over_a_link])
def test_a_link_is_followed_with_open_eyes(folder: Path, safe: Path, link: Link) -> None:
    directory, target = link(folder, safe)
    assert "linked" not in names(directory)
    assert f"{target} (owner" in problem(directory)
    target.chmod(0o755)
    assert "linked" in names(directory)


def test_links_in_a_circle_end(safe: Path) -> None:
    (safe / "a").symlink_to("b")
    (safe / "b").symlink_to("a")
    found = distrust(safe / "a" / "x")
    assert found is not None
    assert "too many links" in found.reason


@pytest.mark.skipif(not IS_ROOT, reason="only root can give a file away")
def test_what_belongs_to_another_user_is_refused_but_for_a_program_of_the_one_it_runs_as(folder: Path) -> None:
    os.chown(folder / "probe.sh", 65534, -1)
    assert names(folder) == {"other"}
    assert "belongs to another user" in problem(folder)
    put(folder / "probe.cfg", "[probe]\ncommand = ./probe.sh\nuser = nobody\n")
    assert names(folder) == {"other", "probe"}
    os.chown(folder / "probe.cfg", 65534, -1)
    assert names(folder) == {"other"}


def test_only_a_client_that_runs_as_root_looks_and_can_be_told_not_to(folder: Path) -> None:
    """As sshd's StrictModes. Whoever runs as somebody else has nothing to lend."""
    (folder / "probe.cfg").chmod(0o666)

    def listed(*flags: str) -> subprocess.CompletedProcess[str]:
        command = [str(COMMANDS / "vogeler-client"), "list", "--node", "x", "--plugins", str(folder), "--format", "csv"]
        environment = {**os.environ, "VOGELER_CONFIG": "/dev/null"}
        return subprocess.run(
            [*command, *flags], env=environment, capture_output=True, text=True, timeout=60, check=False
        )

    strict, loose = listed(), listed("--strict-modes", "no")
    assert "probe,," in loose.stdout
    assert "other,," in strict.stdout
    assert ("probe,," in strict.stdout) is not IS_ROOT
    assert ("chmod go-w" in strict.stderr) is IS_ROOT
    assert strict.returncode == (3 if IS_ROOT else 0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LD_PRELOAD", "libc.so.6 {open}/evil.so"), ("LD_LIBRARY_PATH", "/usr/lib:{open}"), ("PYTHONPATH", "{open}"),
        ("PERL5LIB", "{open}/lib"), ("BASH_ENV", "{open}/rc"), ("LD_PRELOAD", "../open/evil.so"),
    ],
)  # fmt: skip
def test_code_that_the_environment_makes_a_program_load_is_looked_at_too(
    folder: Path, safe: Path, name: str, value: str
) -> None:
    """Also where nothing is there yet: others could put it there."""
    (safe / "open").mkdir()
    (safe / "open").chmod(0o777)
    put(folder / "other.cfg", f"[other]\ncommand = echo other\nenv.{name} = {value.format(open=safe / 'open')}\n")
    assert f"{safe}/open (owner " in problem(folder)
    assert names(folder) == {"probe"}
    put(folder / "other.cfg", f"[other]\ncommand = echo other\nenv.{name} = libc.so.6\nenv.TMPDIR = /tmp\n")
    assert names(folder) == {"probe", "other"}


# --- what else a client believes -----------------------------------------------------------------------


def start(safe: Path, *flags: str) -> str:
    """What a client says that is started with the settings in ``safe``; nothing when it runs until it is stopped."""
    command = [str(COMMANDS / "vogeler-client"), "--config", str(safe / "vogeler.conf"), "--node", "n", *flags]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except subprocess.TimeoutExpired as late:
        pytest.fail(f"it runs: {late.stderr!r}")
    assert done.returncode == ExitCode.USAGE, done.stderr
    return done.stderr


@pytest.mark.skipif(not IS_ROOT, reason="only a client that runs as root looks")
@pytest.mark.parametrize(("mode", "owner"), [(0o666, 0), (0o644, 65534)])
def test_settings_that_anybody_can_write_are_refused_whatever_they_say(safe: Path, mode: int, owner: int) -> None:
    """They say where the plugins are, and could say that nobody is to look."""
    config = put(safe / "vogeler.conf", f"[client]\nstrict_modes = no\nqhost = local://{safe}/bus.db\n", mode)
    os.chown(config, owner, -1)
    assert f"{config} (owner number {owner}, mode {mode:04o}) can be written by others" in start(safe)
    assert "can be written by others" in start(safe, "--strict-modes", "no")


@pytest.mark.skipif(not IS_ROOT, reason="only a client that runs as root looks")
@pytest.mark.parametrize("name", ["policy", "trusted_keys", "signing_key", "state"])
def test_what_a_client_believes_lies_where_nobody_else_can_put_another_in_its_place(safe: Path, name: str) -> None:
    put(safe / "vogeler.conf", f"[client]\nqhost = local://{safe}/bus.db\n{name} = {safe}/open/thing\n")
    (safe / "open").mkdir()
    (safe / "open").chmod(0o777)
    put(safe / "open" / "thing", "", 0o600)
    assert f"{name}, {safe}/open/thing: {safe}/open (owner root, mode 0777) can be written by others" in start(safe)


@pytest.mark.skipif(not IS_ROOT, reason="only a client that runs as root looks")
def test_a_group_that_can_write_the_settings_is_one_that_strict_modes_may_allow(safe: Path) -> None:
    put(safe / "vogeler.conf", f"[client]\nqhost = local://{safe}/bus.db\npolicy = /nowhere/policy\n", 0o660)
    assert f"config, {safe}/vogeler.conf: " in start(safe)
    assert "can't read /nowhere/policy" in start(safe, "--strict-modes", "no")
