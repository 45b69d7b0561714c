"""Who else can change what is run here? Asked by a client that runs as root, as sshd asks with its StrictModes."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import NamedTuple

_WRITABLE = stat.S_IWGRP | stat.S_IWOTH
_MOST_LINKS = 40  # as the kernel


class Distrust(NamedTuple):
    """Why a path is not to be trusted, and what to do about it."""

    reason: str
    remedy: str


def distrust(path: Path, *users: int) -> Distrust | None:
    """Why others than root, our own user and ``users`` (numbers) can change what is at ``path``; None: they can't.

    Every directory on the way counts, and every one on the way of every link: who can write into one can put something
    else there. The sticky bit of /tmp does not help. Where nothing is there, what is on the way to it counts.
    """
    trusted = {0, os.geteuid(), *users}
    here, links = Path("/"), 0
    todo = list(reversed(path.absolute().parts[1:]))
    while todo:
        name = todo.pop()
        if name == "..":
            here = here.parent
            continue
        below = here / name
        try:
            found = below.lstat()
            if stat.S_ISLNK(found.st_mode):
                target = below.readlink()
                here = Path("/") if target.is_absolute() else here
                todo += [part for part in reversed(target.parts) if part != "/"]
                links += 1
                if links > _MOST_LINKS:
                    return Distrust(f"{path} goes through too many links", "write the path that is meant")
                continue
        except OSError:
            return None
        reason = _reason(below, found, trusted)
        if reason is not None:
            return reason
        here = below
    return None


def _reason(path: Path, found: os.stat_result, trusted: set[int]) -> Distrust | None:
    shown = f"{path} (owner {_name_of(found.st_uid)}, mode {stat.S_IMODE(found.st_mode):04o})"
    if found.st_uid not in trusted:
        return Distrust(f"{shown} belongs to another user", f"chown root {path}, or move it elsewhere")
    if found.st_mode & stat.S_ISVTX and found.st_mode & _WRITABLE:
        return Distrust(f"{shown} can be written by others", "move it where only root can write")
    if found.st_mode & _WRITABLE:
        return Distrust(f"{shown} can be written by others", f"chmod go-w {path}")
    return None


def _name_of(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
