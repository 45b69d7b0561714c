"""Running commands: real processes, and each of the ways in which they don't behave."""

from __future__ import annotations

import contextlib
import os
import pwd
import sys
import threading
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from vogeler.execute import Execution, execute
from vogeler.messages import FAILED, OK, TIMEOUT, TOO_LARGE
from vogeler.plugins import PATH, Plugin

from .conftest import Make, Write


@pytest.fixture(autouse=True)
def _no_process_is_left() -> object:
    """Neither a child of ours nor a zombie of one."""
    before = {child.pid for child in psutil.Process().children()}
    yield
    assert {child.pid for child in psutil.Process().children()} <= before


def shell(make: Make, script: str, *lines: str) -> Plugin:
    return replace(make("command = sh", *lines), command=("sh", "-c", script))


def python(make: Make, program: str, *lines: str) -> Plugin:
    return replace(make("command = x", *lines), command=(sys.executable, "-c", program))


def ended_soon(ran: Execution, within_s: float = 6.0) -> bool:
    """Soon for a busy machine; what is run here would else go on for 99 seconds, or for ever."""
    return ran.duration_s < within_s


def gone(pid: int) -> bool:
    """Whether a killed process of nobody's has been taken away by init; it may take a moment."""
    deadline = time.monotonic() + 5
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def test_what_it_prints(make: Make) -> None:
    ran = execute(shell(make, "printf 'a\\nb'; echo noise >&2"))
    assert (ran.status, ran.stdout, ran.exit_code, ran.error) == (OK, b"a\nb", 0, None)
    assert ended_soon(ran)


def test_nothing_printed_is_fine(make: Make) -> None:
    ran = execute(make("command = true"))
    assert (ran.status, ran.stdout, ran.exit_code) == (OK, b"", 0)


def test_no_shell_reads_the_command(make: Make) -> None:
    assert execute(make("command = echo $HOME `id` * > x")).stdout == b"$HOME `id` * > x\n"


def test_stdin_is_empty(make: Make) -> None:
    ran = execute(make("command = cat"))
    assert (ran.status, ran.stdout) == (OK, b"")


def test_the_environment_is_the_same_wherever_the_client_was_started(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "x")
    monkeypatch.setenv("LANG", "de_DE.UTF-8")
    monkeypatch.setenv("PATH", "/elsewhere")
    monkeypatch.setenv("HOME", "/home/x")
    monkeypatch.setenv("TZ", "UTC")
    ran = execute(make("command = /usr/bin/env", "env.Foo = bar baz"))
    assert sorted(ran.stdout.decode().splitlines()) == [
        "Foo=bar baz", "HOME=/home/x", "LC_ALL=C.UTF-8", f"PATH={PATH}", "TZ=UTC", "VOGELER_PLUGIN=probe",
    ]  # fmt: skip


def test_it_runs_in_the_directory_of_its_file(make: Make) -> None:
    plugin = make("command = pwd")
    assert execute(plugin).stdout.decode().strip() == plugin.directory


@pytest.mark.parametrize("command", ["hello", "./hello", "%(here)s/hello", "sub/hello"])
def test_a_relative_command_is_looked_for_beside_the_file_first(make: Make, write: Write, command: str) -> None:
    for name in ("hello", "sub/hello"):
        write(name, "#!/bin/sh\necho here $1\n", mode=0o755)
    assert execute(make(f"command = {command} you")).stdout == b"here you\n"


def test_exit_code_and_the_end_of_stderr(make: Make) -> None:
    ran = execute(shell(make, "echo lost; echo 'no such \\033[31mthing' >&2; exit 3"))
    assert (ran.status, ran.stdout, ran.exit_code) == (FAILED, b"", 3)
    assert ran.error == "exit code 3: no such \ufffd[31mthing"


def test_a_long_stderr_is_cut_at_its_front_and_decoded(make: Make) -> None:
    ran = execute(python(make, r"import sys; sys.stderr.buffer.write(b'\xff' * 50_000 + b'the end\n'); sys.exit(1)"))
    assert ran.error is not None
    assert ran.error.startswith("exit code 1: …\ufffd")
    assert ran.error.endswith("\ufffdthe end")
    assert len(ran.error) <= 501


def test_killed_by_a_signal(make: Make) -> None:
    ran = execute(shell(make, "echo x; echo dying >&2; kill -SEGV $$"))
    assert (ran.status, ran.stdout, ran.exit_code) == (FAILED, b"", None)
    assert ran.error == "killed by signal 11 (SIGSEGV): dying"


@pytest.mark.parametrize(
    ("content", "mode", "reason"),
    [
        (None, 0, "command not found: probe, neither in "),
        ("#!/bin/sh\n", 0o644, "Permission denied: chmod +x it"),
        ("#!/no/such/interpreter -x\n", 0o755, "first line names is not there: '#!/no/such/interpreter -x'"),
        ("#!/bin/sh\r\necho\r\n", 0o755, r"is not there: '#!/bin/sh\r'"),
        ("echo no first line\n", 0o755, "not a program: a script begins with a line such as #!/bin/sh"),
        ("", 0o755, "not a program"),
    ],
)
def test_what_can_not_be_started(make: Make, write: Write, content: str | None, mode: int, reason: str) -> None:
    if content is not None:
        write("probe", content, mode)
    ran = execute(make("command = probe"))
    assert (ran.status, ran.stdout, ran.exit_code) == (FAILED, b"", None)
    assert reason in (ran.error or "")


def test_an_absolute_command_and_a_directory_that_went_away(make: Make) -> None:
    assert execute(make("command = /no/such/program")).error == "command not found: /no/such/program"
    ran = execute(replace(make("command = /bin/true"), directory="/no/such/directory"))
    assert ran.error == "can't start /bin/true: No such file or directory: /no/such/directory"


def test_a_timeout_ends_it_and_its_children(make: Make, tmp_path: Path) -> None:
    ran = execute(shell(make, "sleep 99 & echo $! > child; echo busy >&2; wait", "timeout = 1s"))
    assert (ran.status, ran.exit_code, ran.stdout) == (TIMEOUT, None, b"")
    assert ran.error == "not done after its timeout of 1.0s: busy"
    assert ended_soon(ran)
    assert gone(int((tmp_path / "child").read_text()))


@pytest.mark.parametrize(
    "start",
    [
        "setsid sleep 99",  # a session of its own
        "bash -c 'set -m; sleep 99 & wait'",  # a process group of its own
        "setsid sh -c 'setsid sleep 99 & sleep 99'",
        "setsid sh -c 'trap \"\" TERM; sleep 99; sleep 99'",
    ],
)
def test_a_timeout_ends_what_has_left_its_group_or_session_too(make: Make, start: str) -> None:
    ran = execute(shell(make, f"({start}) & wait", "timeout = 1s", "env.MARK = %(here)s"))
    assert ran.status == TIMEOUT
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("MARK") == make("command = x").directory:
                assert gone(process.pid)


def test_it_may_tidy_up_when_terminated(make: Make, tmp_path: Path) -> None:
    execute(shell(make, "trap 'touch tidied; exit' TERM; sleep 99 & wait", "timeout = 1s"))
    assert (tmp_path / "tidied").exists()


def test_one_that_ignores_sigterm_is_killed(make: Make) -> None:
    ran = execute(python(make, "import signal; signal.signal(15, 1); signal.pause()", "timeout = 1s"))
    assert ran.status == TIMEOUT
    assert ran.duration_s > 2.0
    assert ended_soon(ran)


@pytest.mark.parametrize("program", ["yes", "cat /dev/zero", "head -c 100000000 /dev/zero"])
def test_endless_output_is_ended_at_once_in_bounded_memory(make: Make, program: str) -> None:
    plugin = make(f"command = {program}", "max_output = 1MB")
    tracemalloc.start()
    try:
        ran = execute(plugin)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (ran.status, ran.stdout, ran.exit_code) == (TOO_LARGE, b"", None)
    assert ran.error == "printed more than its max_output of 1000000 bytes"
    assert peak < 4_000_000
    assert ended_soon(ran)


def test_exactly_max_output_is_not_too_large(make: Make) -> None:
    plugin = make("command = head -c 100000 /dev/zero", "max_output = 100kB")
    assert len(execute(plugin).stdout) == 100_000
    assert execute(replace(plugin, max_output_bytes=99_999)).status == TOO_LARGE


def test_endless_stderr_is_bounded_by_the_timeout(make: Make) -> None:
    ran = execute(shell(make, "yes >&2", "timeout = 200ms"))
    assert ran.status == TIMEOUT
    assert len(ran.error or "") <= 501


def test_one_that_closes_its_output_and_goes_on_is_bounded_by_the_timeout(make: Make) -> None:
    ran = execute(shell(make, "exec >&- 2>&-; sleep 99", "timeout = 200ms"))
    assert ran.status == TIMEOUT
    assert ended_soon(ran)


def test_one_that_closes_its_output_and_ends_later_is_ok(make: Make) -> None:
    ran = execute(shell(make, "echo said; exec >&- 2>&-; sleep 0.2; exit 4"))
    assert (ran.status, ran.exit_code) == (FAILED, 4)


def test_a_child_left_behind_that_holds_the_pipe_is_not_waited_for(make: Make, tmp_path: Path) -> None:
    ran = execute(shell(make, "sleep 99 & echo $! > child; echo done"))
    assert (ran.status, ran.stdout) == (OK, b"done\n")
    assert ended_soon(ran)
    assert gone(int((tmp_path / "child").read_text()))


def test_a_daemon_in_a_session_of_its_own_is_not_waited_for(make: Make, tmp_path: Path) -> None:
    """It is out of reach of its group's signals, and lives on."""
    ran = execute(
        shell(make, "setsid sh -c 'echo $$ > child; exec sleep 99' & while ! [ -s child ]; do :; done; echo x")
    )
    daemon = psutil.Process(int((tmp_path / "child").read_text()))
    try:
        assert (ran.status, ran.stdout) == (OK, b"x\n")
        assert ended_soon(ran)
    finally:
        daemon.kill()


def test_a_child_left_behind_that_prints_for_ever(make: Make) -> None:
    ran = execute(shell(make, "yes & exit 0", "max_output = 100kB"))
    assert ran.status == TOO_LARGE
    assert ended_soon(ran)


def test_stop_ends_it_and_stops_it_from_starting(make: Make, tmp_path: Path) -> None:
    stop = threading.Event()
    plugin = shell(make, "touch started; sleep 99")
    timer = threading.Timer(0.2, stop.set)
    timer.start()
    ran = execute(plugin, stop=stop)
    timer.join()
    assert (ran.status, ran.exit_code, ran.error) == (FAILED, None, "stopped")
    assert ended_soon(ran)
    (tmp_path / "started").unlink()
    assert execute(plugin, stop=stop).error == "stopped"
    assert not (tmp_path / "started").exists()


def test_from_several_threads_at_once(make: Make) -> None:
    plugin = shell(make, "head -c 200000 /dev/zero; exit 0")
    sizes: list[int] = []
    threads = [threading.Thread(target=lambda: sizes.append(len(execute(plugin).stdout))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sizes == [200_000] * 8


def test_an_interrupt_kills_it(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C reaches only us, for the command has a session of its own."""
    from vogeler.execute import _Output

    def interrupt(self: _Output, wait_s: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(_Output, "read", interrupt)
    with pytest.raises(KeyboardInterrupt):
        execute(make("command = sleep 99"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_as_another_user(make: Make) -> None:
    plugin = make("command = sh -c 'id -un; id -gn; id -Gn; echo $HOME'", "user = nobody")
    nobody = pwd.getpwnam("nobody")
    ran = execute(plugin)
    assert ran.error is None
    name, *_, home = ran.stdout.decode().splitlines()
    assert (name, home) == ("nobody", nobody.pw_dir)
    assert "root" not in ran.stdout.decode().split()


def test_as_another_user_without_being_root(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    ran = execute(make("command = true", "user = nobody"))
    assert ran.status == FAILED
    assert "only root can run a plugin as 'nobody'" in (ran.error or "")


def test_as_the_user_we_are_and_as_nobody_known(make: Make) -> None:
    me = pwd.getpwuid(os.geteuid()).pw_name
    assert execute(make("command = true", f"user = {me}")).status == OK
    assert "no user 'no-such-user' on this node" in (execute(make("command = true", "user = no-such-user")).error or "")
