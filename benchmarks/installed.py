"""Vogeler's commands as ``pip install`` makes them: an editable install adds to the start of every Python."""

from __future__ import annotations

import os
import sysconfig
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = "#!{python}\nimport sys\nfrom vogeler.cli.{program} import main\nsys.exit(main())\n"


def install(folder: Path) -> Path:
    """The folder with ``python`` and the four commands, in a new environment that takes all else from this one."""
    venv.create(folder)
    for site in folder.glob("lib/*/site-packages"):
        (site / "vogeler.pth").write_text(f"{ROOT}\n{sysconfig.get_path('purelib')}\n")
    commands = folder / "bin"
    for program in ("client", "server", "runner", "admin"):
        script = commands / f"vogeler-{program}"
        script.write_text(SCRIPT.format(python=commands / "python", program=program))
        script.chmod(0o755)
    return commands


def environment() -> dict[str, str]:
    """This process's, without Vogeler's settings, and with .pyc files: else every start would compile."""
    left_out = ("VOGELER_", "PYTHONDONTWRITEBYTECODE")
    return {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
