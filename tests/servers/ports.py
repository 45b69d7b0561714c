"""Ports for the servers of the tests, which no other worker and no other checkout on the machine is given."""

from __future__ import annotations

import atexit
import random
import socket

HOST = "127.0.0.1"
# None of those that the kernel gives to connections that go out (ip(7), ip_local_port_range): while a broker is down,
# one of its clients could get its port, and it could not be started again.
_PORTS = (10_000, 32_000)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, reserved among all tests on the machine until this process ends."""
    ports: list[int] = []
    while len(ports) < count:
        port = random.randrange(*_PORTS)
        if _reserve(port) and _is_free(port):
            ports.append(port)
    return ports


def _reserve(port: int) -> bool:
    """By an abstract name (unix(7)): one process has it, as long as it lives; and no file is left behind."""
    name = socket.socket(socket.AF_UNIX)
    try:
        name.bind(f"\0vogeler-tests-port-{port}")
    except OSError:
        name.close()
        return False
    atexit.register(name.close)  # held until then
    return True


def _is_free(port: int) -> bool:
    with socket.socket() as held:
        try:
            held.bind((HOST, port))
        except OSError:
            return False
    return True
