"""What the kernel must allow for thousands of connections and threads on one machine."""

from __future__ import annotations

import resource
import sys
from contextlib import suppress
from pathlib import Path

_DESCRIPTORS_A_NODE = 5  # of a simulated node: pika has a socket, an epoll and a pair to be woken by
# RabbitMQ 3.10 has a connection, and opens files of the node's queue. With 20,000 it served 6,000 nodes; with 9,500 it
# let nobody in for seconds.
_OF_THE_BROKER = 3
_THREADS_A_NODE = 2.2  # its own, that of its plugins, and when it is stopped another for a moment
_SPARE, _BROKERS_OWN = 2000, 800


def raise_and_check(nodes: int, per_process: int) -> None:
    """Ask for as many descriptors as are needed, for us and all that we start; exits where something is too low."""
    wanted = max(nodes * _OF_THE_BROKER + _BROKERS_OWN, per_process * _DESCRIPTORS_A_NODE + _SPARE)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(wanted, soft), max(wanted, hard)))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        sys.exit(f"{nodes} nodes need {wanted} descriptors a process, and `ulimit -n` says {soft}")
    threads = int(Path("/proc/sys/kernel/pid_max").read_text())
    if threads < nodes * _THREADS_A_NODE + _SPARE:
        sys.exit(f"{nodes} nodes need more threads than kernel.pid_max = {threads}: `sysctl kernel.pid_max=4194304`")
