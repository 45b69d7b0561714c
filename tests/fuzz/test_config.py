"""Settings: any file, any environment, any flags give settings or a usage error that says where."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.fuzz.examples import NASTY_TEXTS, fuzzed, mutated, tried
from vogeler.config import PROGRAMS, SETTINGS, Settings, environment_of, load
from vogeler.errors import UsageError

SHIPPED = (Path(__file__).parents[2] / "etc" / "vogeler.conf").read_text()
NAMES = st.sampled_from([spec.name for spec in SETTINGS])
VALUES = st.one_of(
    NASTY_TEXTS,
    st.sampled_from(
        ["amqp://u:p@h", "sqlite:///x", "a://b,c://d", "5m", "9" * 400, "9" * 400 + "GB", "²", "0", "-1", "1e3", "/tmp", "\x00",
         "/tmp/\x00x", "a,b", "info", "true", "x\udcff", "web01"]
    ),
)  # fmt: skip
LINES = st.one_of(
    st.builds("{} = {}".format, NAMES | NASTY_TEXTS, VALUES),
    st.builds("[{}]".format, st.sampled_from(["vogeler", *PROGRAMS, "", "DEFAULT", "clinet"]) | NASTY_TEXTS),
    st.builds(" {}".format, VALUES),
    NASTY_TEXTS,
)
FILES = st.one_of(
    st.lists(LINES, max_size=6).map("\n".join),
    st.lists(LINES, max_size=6).map(lambda lines: "\n".join(["[vogeler]", *lines])),
    mutated(st.just(SHIPPED.replace("#", "")), st.sampled_from(["\n", "[", "]", "=", " ;", "%", "\x00", "é", " "])),
)
VARIABLES = st.one_of(NAMES.map(environment_of), st.sampled_from(["VOGELER_NODES", "VOGELER_", "HOME", "VOGELER_X"]))


def settings_of(program: str, content: bytes, environ: Mapping[str, str], flags: Mapping[str, str]) -> Settings | None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "vogeler.conf")
        file.write_bytes(content)
        settings = tried(lambda: load(program, flags, environ, file), UsageError)
    if settings is not None:
        for value in vars(settings).values():
            f"{value}".encode()
        assert settings.workers >= 1
        assert 0 < settings.timeout < 1e9
    return settings


@fuzzed
@given(
    st.sampled_from(PROGRAMS),
    FILES.map(lambda text: text.encode("utf-8", "surrogatepass")) | st.binary(max_size=60),
    st.dictionaries(VARIABLES, VALUES, max_size=3),
    st.dictionaries(NAMES, VALUES, max_size=3),
)
@example("client", b"[client]\nplugins = /tmp/\0x", {}, {})
@example("client", b"", {"VOGELER_WORKERS": "²"}, {})
@example("server", b"", {"VOGELER_BATCH_BYTES": "9" * 400 + "GB"}, {})
@example("server", b"", {"VOGELER_QPASSWORD": "x\udcff"}, {})
def test_any_file_environment_and_flags(
    program: str, content: bytes, environ: dict[str, str], flags: dict[str, str]
) -> None:
    settings_of(program, content, environ, flags)


def test_a_home_whose_name_is_not_utf8_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_STATE_HOME", "/home/\udcff")
    assert settings_of("server", b"", {}, {}) is None
    assert settings_of("server", b"", {}, {"qhost": "local:///x", "dbhost": "sqlite:///y"}) is not None
