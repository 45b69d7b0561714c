"""What depends on the machine: its name, where what is shipped lies, where state is kept."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from vogeler.errors import ConfigError


def host_name() -> str:
    """The full name, where it is known."""
    import socket

    name = socket.gethostname()
    full = name if "." in name else socket.getfqdn()
    return name if full.startswith("localhost") or not full else full


def state_directory() -> Path:
    """Where the default engines keep their files: /var/lib/vogeler for root, else in the home directory.

    Raises ConfigError for a user without one, and where its name is not UTF-8.
    """
    if os.geteuid() == 0:
        return Path("/var/lib/vogeler")
    try:
        directory = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "vogeler"
        str(directory).encode()
    except RuntimeError:
        raise ConfigError("this user has no home directory for the default engines", "set qhost and dbhost") from None
    except UnicodeEncodeError:
        what = f"the name of the folder {directory} is not UTF-8, as URLs are"
        raise ConfigError(what, "set qhost and dbhost") from None
    return directory


def shipped(folder: str, site: Path) -> list[Path]:
    """The folders of that name that exist: the checkout's or else the installed one, then the site's own."""
    checkout = Path(__file__).resolve().parent.parent / folder
    installed = Path(sys.prefix) / "share" / "vogeler" / folder
    ours = [path for path in (checkout, installed) if path.is_dir()][:1]
    return ours + ([site] if site.is_dir() else [])
