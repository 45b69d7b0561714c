"""What is known against the libraries of a lock: pip-audit over every pin, those for other Pythons too.

    python .ci/audit.py requirements.lock [--tolerate-unreachable] [flags of pip-audit]

Exit code 0: nothing is known. 1: something is. 2: it could not be found out. 3: the advisory database can't be reached,
which with ``--tolerate-unreachable`` is said and is 0.

pip-audit answers 1 for whatever is wrong, and 0 where it knows none of the packages. So it is run in this process: what
it raised tells a network that leads nowhere from all other errors, and its report tells what was looked at.
"""

from __future__ import annotations

import io
import json
import re
import runpy
import sys
import tempfile
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

from requests.exceptions import ConnectionError, SSLError, Timeout

FOUND, FAILED, UNREACHABLE = 1, 2, 3
PIN = re.compile(r"(?P<name>[\w.-]+)==(?P<version>\S+)(?: ; [^\\]+?)?(?P<hashes>(?:\s*\\\s+--hash=\S+)+)")


class Unreachable(Exception):
    """Why the advisory database can't be asked."""


def parts(lock: str) -> list[str]:
    """The lock without its markers, in as many parts as there are pins of one package: pip-audit takes one of each."""
    found: list[dict[str, str]] = []
    for pin in PIN.finditer(lock):
        part = next((part for part in found if pin["name"] not in part), None)
        if part is None:
            part = {}
            found.append(part)
        part[pin["name"]] = f"{pin['name']}=={pin['version']}{pin['hashes']}\n"
    return ["".join(part.values()) for part in found]


def ask(part: str, flags: list[str]) -> list[dict[str, Any]]:
    """What pip-audit reports of each package. Raises Unreachable; SystemExit for what pip-audit has said itself."""
    with tempfile.TemporaryDirectory() as folder:
        pins, report = Path(folder, "pins.txt"), Path(folder, "report.json")
        pins.write_text(part, encoding="utf-8")
        sys.argv = ["pip-audit", "--disable-pip", "--require-hashes", "--progress-spinner=off", f"--requirement={pins}"]
        sys.argv += ["--format=json", f"--output={report}", *flags]
        said = io.StringIO()
        try:
            with redirect_stderr(said):
                runpy.run_module("pip_audit", run_name="__main__")
        except (Exception, SystemExit) as error:
            cause = network_failure(error)
            if cause is not None:
                raise Unreachable(str(cause)) from None
            if not report.exists():
                say(said.getvalue())
                raise
        return list(json.loads(report.read_text(encoding="utf-8"))["dependencies"])


def network_failure(error: BaseException | None) -> BaseException | None:
    """The error of the network behind an error, if there is one; a certificate that is wrong is none."""
    while error is not None and not isinstance(error, (ConnectionError, Timeout)):
        error = error.__cause__ or error.__context__
    return None if isinstance(error, SSLError) else error


def audit(lock: Path, flags: list[str]) -> int:
    """Say what is known, and return the exit code. Raises Unreachable."""
    asked = parts(lock.read_text(encoding="utf-8"))
    packages = [package for part in asked for package in ask(part, flags)]
    skipped = [package for package in packages if "skip_reason" in package]
    if skipped and len(skipped) == len(packages):
        raise Unreachable("what answers in its place knows none of the packages")
    vulnerable = [(package, hole) for package in packages for hole in package.get("vulns", ())]
    for package, hole in vulnerable:
        mended = f"mended in {', '.join(hole['fix_versions'])}" if hole["fix_versions"] else "not mended yet"
        say(f"{package['name']} {package['version']}: {hole['id']}, {mended}: {hole['description'][:300]}")
    for package in skipped:
        say(f"not audited: {package['name']}: {package['skip_reason']}")
    say(f"{lock}: {len(packages)} pins audited, {len(vulnerable)} vulnerabilities are known")
    if vulnerable:
        return FOUND
    return FAILED if skipped or not packages else 0


def say(text: str) -> None:
    """A line for people."""
    sys.stderr.write(text + "\n")


def main() -> int:
    """The command line. Returns the exit code."""
    lock, *flags = sys.argv[1:]
    tolerant = "--tolerate-unreachable" in flags
    try:
        return audit(Path(lock), [flag for flag in flags if flag != "--tolerate-unreachable"])
    except Unreachable as error:
        say(f"NOT AUDITED: the advisory database can't be reached: {error}")
        return 0 if tolerant else UNREACHABLE
    except Exception as error:
        import traceback

        traceback.print_exception(type(error), error, error.__traceback__)
        return FAILED
    except SystemExit:  # it has said why
        return FAILED


if __name__ == "__main__":
    sys.exit(main())
