"""What the settings say of keys and rights. Where they say nothing, nothing is imported for it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vogeler.config import Settings
from vogeler.errors import ConfigError
from vogeler.messages import Envelope
from vogeler.places import state_directory

if TYPE_CHECKING:
    from vogeler.gate import Gate
    from vogeler.plugins import Plugin
    from vogeler.sealing import Sealing
    from vogeler.signing import PrivateKey, TrustedKeys


_ELSEWHERE = "or name another place; strict_modes = no turns this off"
# What a client reads and believes, or keeps: files, and the folder state.
_BELIEVED = ("policy", "trusted_keys", "signing_key", "state")


def check_paths(settings: Settings, config: Path) -> None:
    """Raises ConfigError for what a client that runs as root would believe and others can change, or replace.

    That anybody can write the file of settings itself, ``config``, no setting in it excuses.
    """
    from vogeler.trust import distrust

    if config.is_file():
        found = config.stat()
        if found.st_uid not in (0, os.geteuid()) or found.st_mode & stat.S_IWOTH:
            whose = f"owner number {found.st_uid}, mode {stat.S_IMODE(found.st_mode):04o}"
            raise ConfigError(
                f"{config} ({whose}) can be written by others, and says what root runs",
                f"chown root {config}; chmod 640 {config}",
            )
    if settings.strict_modes == "yes":
        named = {name: getattr(settings, name) for name in _BELIEVED if getattr(settings, name)}
        if settings.trusted_keys:
            named["state"] = _state(settings)
        for name, path in {"config": config, **named}.items():
            doubt = distrust(Path(path))
            if doubt is not None:
                raise ConfigError(f"{name}, {path}: {doubt.reason}", f"{doubt.remedy}; {_ELSEWHERE}")


def _state(settings: Settings) -> Path:
    """The folder of what a client keeps over a restart."""
    return settings.state or state_directory()


def load_key(path: Path | None) -> PrivateKey | None:
    """The private key that this program has, if it has any. Raises ConfigError."""
    if path is None:
        return None
    from vogeler import signing

    return signing.load(path)


def node_key(settings: Settings) -> PrivateKey | None:
    """The private key of this node, if it has one. Raises ConfigError, also for somebody else's."""
    key = load_key(settings.signing_key)
    if key is not None and key.name != settings.node:
        raise ConfigError(
            f"{settings.signing_key} is the key of {key.name}, and this node is {settings.node}",
            "a key for a runner belongs into the section [runner]",
        )
    return key


def signer(key: PrivateKey | None, purpose: str) -> Callable[[Envelope], Envelope]:
    """What is done to each envelope before it is published: nothing without a key."""
    return (lambda envelope: envelope) if key is None else (lambda envelope: key.sign(envelope, purpose))


def trusted_keys(settings: Settings) -> TrustedKeys | None:
    """Whose signatures this program asks for, if any. Raises ConfigError."""
    if settings.trusted_keys is None:
        return None
    from vogeler.signing import TrustedKeys

    return TrustedKeys(settings.trusted_keys)


def gate_of(settings: Settings) -> Gate:
    """What decides on this node which commands are let in. Raises ConfigError."""
    from vogeler.gate import Gate

    policy = seen = None
    if settings.policy is not None:
        from vogeler.policy import Policy

        policy = Policy(settings.policy)
    keys = trusted_keys(settings)
    if keys is not None:
        from vogeler.seen import Seen

        seen = Seen(_state(settings) / f"seen-{settings.node}", settings.clock_skew)
    return Gate(keys, seen, policy)


def sealing_of(settings: Settings, strict: bool) -> Callable[[Plugin], Sealing | None]:
    """What seals the value of a plugin on this node; None where neither it nor a setting names anything to seal."""
    made: list[Sealing] = []

    def sealing(plugin: Plugin) -> Sealing | None:
        if not plugin.seal and not settings.seal:
            return None
        if not made:
            from vogeler.sealing import Readers, Sealing

            readers = None if settings.readers is None else Readers(settings.readers, strict)
            made.append(Sealing(settings.node, Path(settings.redact_key), readers, settings.seal))
        return made[0]

    return sealing


def audit_of(settings: Settings) -> Callable[[dict[str, Any]], None] | None:
    """What is told of every command that comes to this node, if anything is. Raises ConfigError."""
    if settings.audit_log is None:
        return None
    from vogeler.audit import AuditLog

    return AuditLog(settings.audit_log).write
