"""What signed commands cost a node and a runner, each beside the bare library.

    python benchmarks/signing.py [--rounds 2000]

A command of 260 bytes and a result of 1 MB: sign, and find the owner of a signature, beside Ed25519 of the library over
the same bytes. To note that a command is done, beside a line appended and synced. What the library takes in memory, by
Pss: less where other processes have it, too. Medians in microseconds; some seconds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from vogeler import signing
from vogeler.messages import Command, Envelope, encode, new_id
from vogeler.seen import Seen
from vogeler.units import to_timestamp

_PSS = """
import sys
import hashlib, ssl
def pss():
    return next(int(line.split()[1]) for line in open('/proc/self/smaps_rollup') if line.startswith('Pss:'))
before = pss()
{}
print(pss() - before)
"""
_IMPORTED = {
    "the library": "from cryptography.hazmat.primitives.asymmetric import ed25519",
    "our modules and the library": "from vogeler import signing, seen, policy; signing._library()",
}


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2000, help="how often each is done (default: %(default)s)")
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        _signatures(Path(folder), rounds)
        _done(Path(folder), max(rounds // 10, 1))
    for name, statement in _IMPORTED.items():
        done = subprocess.run(
            [sys.executable, "-c", _PSS.format(statement)], capture_output=True, text=True, check=True
        )
        print(f"{'memory: ' + name:44} {int(done.stdout) / 1024:10.1f} MiB")


def _signatures(folder: Path, rounds: int) -> None:
    key = signing.new("alice")
    (folder / "trusted").write_text(key.public().line)
    keys = signing.TrustedKeys(folder / "trusted")
    bare = Ed25519PrivateKey.from_private_bytes(key.raw)
    command = encode(Command("packages", "alice", to_timestamp(time.time() + 60)))
    for name, envelope in (("a command", command), ("1 MB", Envelope(os.urandom(1_000_000)))):
        signed, content = key.sign(envelope, "command"), envelope.body
        signature = bare.sign(content)
        times = max(rounds // (1 + len(content) // 10_000), 20)
        _row(f"sign {name}", lambda: key.sign(envelope, "command"), lambda: bare.sign(content), times)  # noqa: B023
        _row(
            f"owner of {name}",
            lambda: keys.owner(signed, "command"),  # noqa: B023
            lambda: bare.public_key().verify(signature, content),  # noqa: B023
            times,
        )


def _done(folder: Path, rounds: int) -> None:
    seen, expires_at = Seen(folder / "seen", 300.0), to_timestamp(time.time() + 60)
    with (folder / "floor").open("ab") as file:

        def append() -> None:
            file.write(b"x" * 70)
            file.flush()
            os.fsync(file.fileno())

        _row("note that a command is done", lambda: seen.add((new_id(), False), expires_at), append, rounds)


def _row(name: str, ours: Callable[[], object], floor: Callable[[], object], rounds: int) -> None:
    """By turns, so that what else the machine does is the same for both."""
    took: dict[Callable[[], object], list[float]] = {ours: [], floor: []}
    for _ in range(rounds):
        for act, times in took.items():
            began_s = time.perf_counter()
            act()
            times.append(time.perf_counter() - began_s)
    figure, least = (statistics.median(took[act]) * 1e6 for act in (ours, floor))
    print(f"{name:44} {figure:10.0f} µs {least:10.0f} µs bare {figure / least:6.2f} times")


if __name__ == "__main__":
    main()
