"""What the four command lines share: flags from settings, and the one error boundary.

Whatever is imported here, and by the modules that show ``--help``, every command waits for.
"""

from __future__ import annotations

import argparse
import gc
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path

from vogeler import __version__
from vogeler.cli._output import printable, printable_lines
from vogeler.config import DEFAULT_FILE, Settings, flag_of, load, named_file, settings_of
from vogeler.errors import ExitCode, UsageError, VogelerError

EPILOG = "Settings may also come from the environment (VOGELER_QHOST, ...) or the file; see etc/vogeler.conf."
_PREFIX = "setting_"
_GARBAGE = 20_000  # objects; the default is 700


def parser_for(program: str, description: str) -> argparse.ArgumentParser:
    """An argument parser with a flag for every setting of the program."""
    parser = argparse.ArgumentParser(
        prog=f"vogeler-{program}",
        description=description,
        epilog=EPILOG,
        allow_abbrev=False,
        parents=[settings_flags(program)],
    )
    parser.add_argument("--version", action="version", version=f"vogeler {__version__}")
    return parser


def settings_flags(program: str) -> argparse.ArgumentParser:
    """The flags of the settings, as a parent: a sub-command takes them before its name and after it."""
    parser = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    group = parser.add_argument_group("settings")
    group.add_argument("--config", metavar="FILE", help="an INI file (default: /etc/vogeler/vogeler.conf)")
    for spec in settings_of(program):
        if spec.flag:
            default = spec.default
            text = spec.help + (f" (default: {default})" if default else "")
            group.add_argument(
                flag_of(spec.name),
                action="append" if spec.name == "plugins" else "store",
                metavar="VALUE",
                dest=_PREFIX + spec.name,
                help=text.replace("%", "%%"),
            )
    return parser


def settings_from(program: str, arguments: argparse.Namespace) -> Settings:
    """The settings that flags, environment and file make together."""
    flags = {
        name[len(_PREFIX) :]: ",".join(value) if isinstance(value, list) else value
        for name, value in vars(arguments).items()
        if name.startswith(_PREFIX)
    }
    return load(program, flags, file=_flagged_file(arguments))


def file_from(arguments: argparse.Namespace) -> Path:
    """The file that ``settings_from`` reads, where there is one."""
    return named_file(_flagged_file(arguments), os.environ) or DEFAULT_FILE


def _flagged_file(arguments: argparse.Namespace) -> Path | None:
    file = getattr(arguments, "config", None)
    return Path(file) if file else None


def brief() -> None:
    """This process ends soon: what it imports is not gone through for garbage again and again."""
    gc.set_threshold(_GARBAGE)


def guarded(program: str, main: Callable[[], int]) -> int:
    """Run ``main``; every error of ours becomes a message on stderr and its exit code."""
    _open_standard_streams()
    try:
        _check_arguments()
        return int(main())
    except VogelerError as error:
        complain(program, error)
        return int(error.exit_code)
    except KeyboardInterrupt:
        return int(ExitCode.INTERRUPTED)
    except BrokenPipeError:
        # The reader of our stdout left (head, a pager): what is still buffered has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return int(ExitCode.OK)
    except OSError as error:
        complain(program, VogelerError(f"{error.filename or 'input or output'}: {error.strerror or error}"))
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # a full disk would be told again at exit
        return int(ExitCode.INTERNAL)
    finally:
        gc.freeze()  # the interpreter would go through everything once more before it ends


def _open_standard_streams() -> None:
    """A program may be started with its streams closed; what nodes report may not fit the terminal's encoding."""
    sys.stdout = sys.stdout or Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - open to the end
    sys.stderr = sys.stderr or Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _check_arguments() -> None:
    for argument in sys.argv[1:]:
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise UsageError(f"the argument {argument!a} is not UTF-8", "write it in UTF-8") from None


def complain(program: str, error: VogelerError) -> None:
    """What happened, and what to do about it, to stderr."""
    print(f"vogeler-{program}: {printable(error.message)}", file=sys.stderr)
    if error.remedy:
        print(f"  {printable(error.remedy)}", file=sys.stderr)


def talk(text: str) -> None:
    """Words for the person in front of the screen: to stderr, so that stdout is data alone."""
    print(printable_lines(text), file=sys.stderr, flush=True)
