"""Default < file < environment < flag; what can't be meant is an error that says where and suggests what."""

from __future__ import annotations

from pathlib import Path

import pytest

from vogeler.config import PROGRAMS, SETTINGS, environment_of, load, settings_of
from vogeler.errors import ConfigError, UsageError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "vogeler.conf"


def test_each_place_beats_the_one_before(file: Path) -> None:
    def heartbeat(flags: dict[str, str], environ: dict[str, str]) -> float:
        return load("client", flags, environ, file).heartbeat

    file.write_text("")
    assert heartbeat({}, {}) == 60.0
    file.write_text("[vogeler]\nheartbeat = 50s\n")
    assert heartbeat({}, {}) == 50.0
    file.write_text("[vogeler]\nheartbeat = 50s\n[client]\nheartbeat = 40s\n[server]\nprefetch = 5\n")
    assert heartbeat({}, {}) == 40.0
    assert heartbeat({}, {"VOGELER_HEARTBEAT": "30s"}) == 30.0
    assert heartbeat({"heartbeat": "20s"}, {"VOGELER_HEARTBEAT": "30s"}) == 20.0


def test_the_file_may_be_named_by_the_environment(file: Path) -> None:
    file.write_text("[vogeler]\nqhost = amqp://mq1\n")
    assert load("runner", {}, {"VOGELER_CONFIG": str(file)}).qhost == "amqp://mq1"


def test_without_anything_the_engines_are_local(file: Path) -> None:
    file.write_text("")
    settings = load("runner", {}, {}, file)
    assert settings.qhost.startswith("local:///")
    assert settings.dbhost.startswith("sqlite:///")


def test_a_percent_sign_in_a_password_is_a_percent_sign(file: Path) -> None:
    file.write_text("[vogeler]\nqpassword = 50%off%(x)s\n")
    assert load("client", {"node": "n"}, {}, file).qpassword == "50%off%(x)s"


@pytest.mark.parametrize(
    ("text", "complaint", "remedy"),
    [
        ("[vogeler]\nheartbeet = 5s\n", "unknown key 'heartbeet'", "'heartbeat'"),
        ("[cleint]\nnode = a\n", r"unknown section \[cleint\]", "'client'"),
        ("[runner]\nheartbeat = 5s\n", "unknown key 'heartbeat'", None),
        ("[vogeler]\nheartbeat = soon\n", "'soon' is not a duration", None),
        ("[vogeler]\nworkers = 0\n", "'0' is not a whole number", None),
        ("[vogeler]\nbatch_bytes = 4XB\n", "'4XB' is not a size", None),
        ("[vogeler]\nnode = a/b\n", "'a/b' is not a node name", None),
        ("[vogeler]\ngroups = ok,b/c\n", "'b/c' is not a node name", None),
        ("[vogeler]\nqhost = localhost\n", "'localhost' is not a URL", "amqp://localhost"),
        ("[vogeler]\nloglevel = loud\n", "'loud' is not one of", None),
        ("heartbeat = 5s\n", "not INI", None),
        ("[vogeler]\nnode = a\nnode = b\n", "not INI", None),
        ("[vogeler]\n[vogeler]\n", "not INI", None),
    ],
)
def test_a_bad_file_is_an_error_that_names_file_and_fault(
    file: Path, text: str, complaint: str, remedy: str | None
) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError, match=complaint) as caught:
        load("client", {}, {}, file)
    assert str(file) in caught.value.message
    if remedy:
        assert remedy in str(caught.value.remedy)


def test_a_file_that_is_not_there_or_not_text_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't read"):
        load("client", {}, {}, tmp_path / "none.conf")
    with pytest.raises(ConfigError, match="can't read"):
        load("client", {}, {}, tmp_path)
    (tmp_path / "latin").write_bytes(b"[vogeler]\nnode = \xe4\n")
    with pytest.raises(ConfigError, match="not UTF-8 at byte 17"):
        load("client", {}, {}, tmp_path / "latin")


def test_a_variable_with_a_slip_of_the_pen_is_an_error(file: Path) -> None:
    file.write_text("")
    with pytest.raises(ConfigError, match="did you mean|VOGELER_HEARTBEET"):
        load("client", {}, {"VOGELER_HEARTBEET": "5s"}, file)


@pytest.mark.parametrize("flag", ["qhost", "dbhost"])
def test_a_password_on_the_command_line_is_refused_and_not_repeated(file: Path, flag: str) -> None:
    file.write_text("")
    with pytest.raises(UsageError, match="process list") as caught:
        load("runner", {flag: "amqp://alice:s3cret@mq1"}, {}, file)
    assert "s3cret" not in f"{caught.value}{caught.value.remedy}"
    assert environment_of(flag) in str(caught.value.remedy)


def test_a_bad_url_is_told_without_its_password(file: Path) -> None:
    file.write_text("")
    for url in ("amqp://alice:s3cret@mq1:99999/", "alice:s3cret@mq1", "amqp://alice:s3cret@[::1"):
        with pytest.raises(ConfigError) as caught:
            load("client", {}, {"VOGELER_QHOST": url}, file)
        assert "s3cret" not in f"{caught.value}{caught.value.remedy}"


def test_every_setting_belongs_to_a_program_and_has_a_working_default(file: Path) -> None:
    file.write_text("")
    for program in PROGRAMS:
        assert load(program, {}, {}, file)
    assert {spec.name for program in PROGRAMS for spec in settings_of(program)} == {s.name for s in SETTINGS}


@pytest.mark.parametrize("text", ["/tmp/\0x", "x\udcff"])
def test_what_is_no_text_is_refused_wherever_it_comes_from(file: Path, text: str) -> None:
    file.write_bytes(f"[client]\nplugins = {text}\n".encode("utf-8", "surrogatepass"))
    with pytest.raises(ConfigError, match="UTF-8"):
        load("client", {}, {}, file)
    file.write_text("")
    for variable in ("VOGELER_QPASSWORD", "VOGELER_PLUGINS"):
        with pytest.raises(ConfigError, match="not a text in UTF-8"):
            load("client", {}, {variable: text}, file)


@pytest.mark.parametrize("text", ["²", "9" * 5000, "0", "-1", "1.5"])
def test_what_is_no_count(file: Path, text: str) -> None:
    file.write_text("")
    with pytest.raises(ConfigError, match="not a whole number"):
        load("client", {}, {"VOGELER_WORKERS": text}, file)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("max_memory", "0"), ("max_memory", "much"), ("max_cpu", "0s"), ("max_cpu", "-1s"), ("max_processes", "0"),
        ("max_files", "-3"), ("max_files", "1.5"),
    ],
)  # fmt: skip
def test_a_limit_for_plugins_that_makes_no_sense_is_refused_and_none_is_set_by_itself(name: str, text: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{name} \(VOGELER_{name.upper()}\): "):
        load("client", {}, {f"VOGELER_{name.upper()}": text})
    assert getattr(load("client", {}, {}), name) is None
