"""What a plugin may use up: the kernel stops it there, and the result says what happened."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from vogeler import plugins
from vogeler.execute import Execution, execute
from vogeler.messages import FAILED, OK
from vogeler.plugins import Plugin

from .conftest import Make, Write


def python(make: Make, program: str, *lines: str) -> Plugin:
    return replace(make("command = x", *lines), command=(sys.executable, "-S", "-c", program))


def failed(ran: Execution) -> str:
    assert ran.status == FAILED
    return ran.error or ""


def test_one_that_takes_too_much_memory(make: Make) -> None:
    program = "x = bytearray(10**9); print('had it')"
    assert failed(execute(python(make, program, "max_memory = 300MB"))).startswith(
        "exit code 1; it seems to need more than its max_memory of 300000000 bytes: "
    )
    assert execute(python(make, "print(1)", "max_memory = 300MB")).status == OK


def test_one_that_dies_of_it(make: Make) -> None:
    program = "import os, signal; os.kill(os.getpid(), signal.SIGABRT)"
    assert "max_memory of 1000000000 bytes" in failed(execute(python(make, program, "max_memory = 1GB")))
    assert "max_memory" not in failed(execute(python(make, program)))


def test_one_that_computes_too_long(make: Make) -> None:
    """Not the time that passes, but that in which it computes; SIGXCPU in deaf ears is followed by SIGKILL."""
    ran = execute(make("command = sh -c 'while :; do :; done'", "max_cpu = 1s", "timeout = 50s"))
    assert failed(ran) == "killed by signal 24 (SIGXCPU); it used more than its max_cpu of 1.0s"
    deaf = execute(
        python(make, "import signal; signal.signal(24, 1)\nwhile 1: pass", "max_cpu = 300ms", "timeout = 50s")
    )
    assert failed(deaf).startswith("killed by signal 9 (SIGKILL)")
    assert execute(make("command = sleep 1.2", "max_cpu = 1s")).status == OK


def test_one_that_opens_too_many_files(make: Make) -> None:
    program = "files = [open('/dev/null') for _ in range(100)]"
    assert "it seems to need more than its max_files of 50" in failed(execute(python(make, program, "max_files = 50")))
    assert execute(python(make, program, "max_files = 200")).status == OK


def test_one_that_starts_too_many_processes(make: Make) -> None:
    """The kernel counts all of the user's."""
    user = ["user = nobody"] if os.geteuid() == 0 else []
    command = "command = /bin/sh -c '/bin/sleep 0 & wait'"
    assert "its max_processes of 1" in failed(execute(make(command, "max_processes = 1", *user)))
    assert execute(make(command, "max_processes = 4000", *user)).status == OK


def test_root_is_told_that_the_number_of_its_processes_is_no_limit(write: Write) -> None:
    path = write("probe.cfg", "[probe]\ncommand = true\nmax_processes = 9\n")
    loaded = plugins.load([path.parent])
    if os.geteuid() == 0:
        assert "probe.cfg:3: max_processes is no limit for root" in loaded.problems[0].message
    else:
        assert loaded.plugins[0].max_processes == 9


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("max_memory = 0", None), ("max_memory = much", None), ("max_memory = -1MB", None), ("max_cpu = 0s", None),
        ("max_cpu = fast", None), ("max_files = 0", None), ("max_files = 1.5", None), ("max_files = ²", None),
        ("max_files = " + "9" * 400, None), ("max_memory =", ""), ("max_files =", ""), ("max_cpu =", ""),
    ],
)  # fmt: skip
def test_a_limit_that_makes_no_sense_is_refused_and_an_empty_one_is_none(
    write: Write, line: str, value: str | None
) -> None:
    loaded = plugins.load([write("probe.cfg", f"[probe]\ncommand = true\n{line}\n").parent])
    if value is None:
        assert loaded.problems[0].message.startswith(
            f"{loaded.problems[0].message.partition(':')[0]}:3: {line.split()[0]}"
        )
    else:
        assert execute(loaded.plugins[0]).status == OK


def test_a_limit_in_default_counts_for_the_whole_file(write: Write) -> None:
    text = "[DEFAULT]\nmax_files = 64\n[a]\ncommand = sh -c 'ulimit -n; umask'\n"
    (plugin,) = plugins.load([write("probe.cfg", text).parent]).plugins
    os.umask(before := os.umask(0))
    assert before != 0
    assert execute(plugin).stdout == b"64\n0022\n"


def test_exit_codes_and_missing_programs_are_told_as_without_limits(make: Make, tmp_path: Path) -> None:
    assert failed(execute(make("command = sh -c 'echo so >&2; exit 7'", "max_files = 64"))) == "exit code 7: so"
    assert execute(make("command = sh -c 'exit 69'", "max_files = 64")).exit_code == 69
    assert "command not found" in failed(execute(make("command = no-such-thing", "max_files = 64")))
    (tmp_path / "text").write_text("no program")
    (tmp_path / "text").chmod(0o755)
    assert "text" in failed(execute(make("command = ./text", "max_files = 64")))
