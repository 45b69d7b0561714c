"""A fleet that was never there: its nodes, what each of them holds at any time, and what their clients send.

The same seed and end make the same fleet, to the byte. Pure: everything that a node holds follows from
the node and the time, so that what a store answers can be checked without one.
"""

from __future__ import annotations

import hashlib
import random
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Union

from benchmarks.catalogue import DAY_S, HISTORY_DAYS, RELEASES, Distribution
from vogeler.messages import FAILED, OK, TIMEOUT, Heartbeat, Result, digest_of
from vogeler.units import to_timestamp

HOUR_S = 3600.0
KEYS = ("packages", "system", "listening", "jmx")
SITES = ("fra", "ams", "iad", "sin", "gru")
_BASE_PACKAGES, _ROLE_PACKAGES, _TOOL_SETS, _TOOLS = 660, 130, 12, 24
_GIB = 2**30


@dataclass(frozen=True)
class Role:
    """What nodes are for. ``ports`` that its programs listen on; ``jmx`` ports of its Java machines."""

    name: str
    share: float
    memory_gib: tuple[int, ...]
    ports: tuple[tuple[int, str, str], ...]
    jmx: tuple[int, ...] = ()


ROLES = (
    Role("web", 0.34, (4, 8, 8, 16), ((80, "nginx", "www-data"), (443, "nginx", "www-data"))),
    Role("app", 0.22, (8, 16, 32), ((8080, "java", "tomcat"),), (9010, 9999)),
    Role("db", 0.14, (32, 64, 128), ((5432, "postgres", "postgres"),)),
    Role("cache", 0.10, (16, 32), ((6379, "redis-server", "redis"),)),
    Role("queue", 0.06, (8, 16), ((5672, "beam.smp", "rabbitmq"), (15672, "beam.smp", "rabbitmq"))),
    Role("mail", 0.04, (2, 4), ((25, "master", "root"), (993, "dovecot", "dovecot"))),
    Role("build", 0.06, (16, 64), ((9000, "java", "jenkins"),), (9999,)),
    Role("proxy", 0.04, (2, 4), ((443, "haproxy", "haproxy"),)),
)

# How a node is kept up to date, and how many are: at once, in a weekly window, once a month, not at all.
_POLICIES = {"daily": 0.25, "weekly": 0.60, "monthly": 0.10, "never": 0.05}
_CPUS = (
    "Intel(R) Xeon(R) Gold 6248 CPU @ 2.50GHz",
    "AMD EPYC 7543 32-Core Processor",
    "AMD EPYC 9354 32-Core Processor",
)
_PEOPLE = ("alice@ops1", "bob@ops1", "carol@ops2")
_AGENTS = ("0.0.8", "0.0.9", "0.1.0")


@dataclass(frozen=True)
class Node:
    """A node and what happens to it. Times are seconds since the epoch.

    ``updated_s``: when it updated its packages, the first before it was ever asked; ``booted_s`` likewise.
    ``added``: what somebody installed by hand, and when. ``silent_s``: since when nothing is heard of it.
    """

    name: str
    number: int
    role: Role
    distribution: Distribution
    site: str
    policy: str
    memory_gib: int
    joined_s: float
    silent_s: float
    updated_s: tuple[float, ...]
    booted_s: tuple[float, ...]
    installed: tuple[str, ...]
    added: tuple[float, tuple[str, ...]] | None


class Fleet:
    """The nodes, what each of them holds at any time, and the messages that tell of it."""

    def __init__(self, nodes: int, days: int, seed: int, until_s: float) -> None:
        self.seed, self.days, self.until_s = seed, days, until_s
        self.since_s = until_s - days * DAY_S
        self.distributions = [Distribution(release, seed, until_s, days) for release in RELEASES]
        self._sets = {
            (d.release.name, role.name): _package_sets(d, role, seed) for d in self.distributions for role in ROLES
        }
        self.nodes = [self._node(number) for number in range(nodes)]

    # --- what is where ----------------------------------------------------------------------------

    def value(self, node: Node, key: str, at_s: float) -> Any:
        """What the plugin for the key would have found on the node at this time."""
        return getattr(self, f"_{key}")(node, at_s)

    def stored(self, node: Node, at_s: float | None = None) -> dict[str, Any]:
        """What a store holds of the node then (by default at the end): per key what was last sent before."""
        last = {key: sent_s for sent_s, key in self.collections(node) if at_s is None or sent_s <= at_s}
        return {key: self.value(node, key, sent_s) for key, sent_s in last.items()}

    def _packages(self, node: Node, at_s: float) -> dict[str, str]:
        updated_s = node.updated_s[max(bisect_right(node.updated_s, at_s) - 1, 0)]
        versions = node.distribution.versions(updated_s)
        found = {name: versions[name] for name in node.installed}
        found.update(node.distribution.kernel_packages(node.distribution.kernel_level(updated_s)))
        if node.added and node.added[0] <= at_s:
            found.update((name, versions[name]) for name in node.added[1])
        return dict(sorted(found.items()))

    def _system(self, node: Node, at_s: float) -> dict[str, Any]:
        booted_s = node.booted_s[max(bisect_right(node.booted_s, at_s) - 1, 0)]
        updated_s = node.updated_s[max(bisect_right(node.updated_s, booted_s) - 1, 0)]
        kernel = node.distribution.kernel(node.distribution.kernel_level(updated_s))
        cores = max(node.memory_gib // 4, 1)
        mac = f"52:54:00:{node.number >> 16 & 255:02x}:{node.number >> 8 & 255:02x}:{node.number & 255:02x}"
        return {
            "hostname": node.name,
            "os": node.distribution.release.os,
            "kernel": {"name": "Linux", "release": kernel, "architecture": "x86_64"},
            "boot_at": to_timestamp(booted_s)[:16] + "Z",
            "cpu": {"model": _CPUS[node.number % 7 % 3], "logical": cores, "physical": max(cores // 2, 1)},
            "memory": {"total_bytes": node.memory_gib * _GIB - 4096 * (9000 + node.number % 500), "swap_bytes": _GIB},
            "disks": {"vda": {"size_bytes": node.memory_gib * 10 * _GIB, "model": None, "rotational": False}},
            "networks": {"eth0": {"mac": mac, "ipv4": [_address(node)], "ipv6": [], "mtu": 1500, "up": True}},
        }

    def _listening(self, node: Node, at_s: float) -> list[dict[str, Any]]:
        del at_s
        ports = ((22, "sshd", "root"), *node.role.ports)
        entries = [(protocol, port, *who) for port, *who in ports for protocol in ("0.0.0.0", "::")]
        return [
            {"protocol": "tcp", "address": address, "port": port, "process": process, "user": user}
            for address, port, process, user in sorted(entries, key=lambda entry: (entry[1], entry[0]))
        ]

    def _jmx(self, node: Node, at_s: float) -> list[dict[str, Any]]:
        about = {"main": "org.apache.catalina.startup.Bootstrap", "user": "tomcat", "ssl": node.number % 5 > 0}
        ports = node.role.jmx if at_s >= node.booted_s[-1] or node.number % 3 else node.role.jmx[:1]
        return [{"port": port, "name": f"jvm{port}", **about, "authenticate": node.number % 11 > 0} for port in ports]

    # --- what is sent -----------------------------------------------------------------------------

    def collections(self, node: Node) -> list[tuple[float, str]]:
        """When the node collected which key: at first, after what changed it, and at last; in order."""
        rng = random.Random(f"{self.seed} {node.name} collections")
        keys = [key for key in KEYS if key != "jmx" or node.role.jmx]
        found = [(node.joined_s + 5 * number + rng.random(), key) for number, key in enumerate(keys)]
        found += [(at_s + rng.uniform(60, 6 * HOUR_S), "packages") for at_s in self._package_changes(node)]
        booted = [at_s for at_s in node.booted_s[1:] if at_s > node.joined_s]
        found += [(at_s + 90 + rng.random(), key) for at_s in booted for key in keys if key in ("system", "jmx")]
        last_s = min(node.silent_s, self.until_s)
        stuck = node.number % 97 == 11  # its list of packages is not collected any more
        found += [(last_s - rng.uniform(300, 6 * HOUR_S), key) for key in keys if not (stuck and key == "packages")]
        return sorted((at_s, key) for at_s, key in found if node.joined_s <= at_s < last_s)

    def messages(self) -> Iterator[Union[Result, Heartbeat]]:
        """Everything that the clients sent, in the order of time. A node's own messages have rising numbers."""
        for at_s, number, what in sorted(self._events()):
            node = self.nodes[number]
            yield self._heartbeat(node, at_s) if what == "heartbeat" else self._result(node, what, at_s)

    def _events(self) -> Iterator[tuple[float, int, str]]:
        for node in self.nodes:
            yield from ((at_s, node.number, key) for at_s, key in self.collections(node))
            heard = [node.joined_s, *(at_s + 60 for at_s in node.booted_s[1:] if at_s > node.joined_s)]
            last_s = min(node.silent_s, self.until_s)
            heard.append(last_s - 1 - node.number * 61 % 240)
            yield from ((at_s, node.number, "heartbeat") for at_s in heard if node.joined_s <= at_s < last_s)

    def _result(self, node: Node, key: str, at_s: float) -> Result:
        rng = random.Random(f"{self.seed} {node.name} {key} {at_s}")
        asked = rng.random() < 0.1  # by somebody who could not wait for the schedule
        ended = OK if at_s < self.until_s - 6 * HOUR_S or key in ("packages", "system") else _ending(rng)
        value = self.value(node, key, at_s) if ended == OK else None
        return Result(
            node=node.name,
            alias=f"get_{key}",
            key=key,
            seq=round(at_s * 1e6),
            status=ended,
            collected_at=to_timestamp(at_s),
            duration_s=round(rng.uniform(0.05, 0.9), 3),
            run=_id(int(at_s // HOUR_S) * HOUR_S, f"{key} run") if asked else None,
            requested_by=_PEOPLE[int(at_s // HOUR_S) % 3] if asked else None,
            exit_code=1 if ended == FAILED else None if ended == TIMEOUT else 0,
            digest=digest_of(value) if ended == OK else None,
            value=value,
            error=None if ended == OK else "no answer within 60 s" if ended == TIMEOUT else "permission denied",
            id=_id(at_s, f"{node.name} {key}"),
            at=to_timestamp(at_s),
        )

    def _heartbeat(self, node: Node, at_s: float) -> Heartbeat:
        started_s = max(node.joined_s, node.booted_s[bisect_right(node.booted_s, at_s) - 1])
        weeks = (self.until_s - started_s) / (7 * DAY_S)  # an agent is as new as its last start
        agent = {
            "version": _AGENTS[max(2 - int(weeks), 0)],
            "started_at": to_timestamp(started_s),
            "groups": [node.role.name, node.site, node.distribution.release.name],
            "plugins": [
                {
                    "name": key,
                    "alias": f"get_{key}",
                    "description": f"The {key} of this node",
                    "format": "keyvalue" if key == "packages" else "json",
                    "key": key,
                    "available": True,
                    "reason": None,
                }
                for key in KEYS
            ],
        }
        return Heartbeat(node=node.name, agent=agent, id=_id(at_s, f"{node.name} hello"), at=to_timestamp(at_s))

    def _package_changes(self, node: Node) -> Iterator[float]:
        """When its list of packages became another one."""
        installed = set(node.installed)
        distribution = node.distribution
        for before_s, at_s in zip(node.updated_s, node.updated_s[1:]):
            new = distribution.updates[distribution.published(before_s) : distribution.published(at_s)]
            kernels = distribution.kernel_level(before_s) != distribution.kernel_level(at_s)
            if at_s > node.joined_s and (kernels or any(installed.intersection(u.source.binaries) for u in new)):
                yield at_s
        if node.added:
            yield node.added[0]

    # --- making a node ----------------------------------------------------------------------------

    def _node(self, number: int) -> Node:
        rng = random.Random(f"{self.seed} node {number}")
        role = rng.choices(ROLES, [role.share for role in ROLES])[0]
        distribution = rng.choices(self.distributions, [release.share for release in RELEASES])[0]
        policy = rng.choices(list(_POLICIES), list(_POLICIES.values()))[0]
        site = rng.choice(SITES)
        joined_s = self.since_s + rng.uniform(0, 0.5 if rng.random() < 0.97 else self.days * 0.9) * DAY_S
        updated_s = self._update_times(rng, policy)
        installed, spare = self._installed(rng, distribution, role)
        added_s = rng.uniform(joined_s, self.until_s)
        return Node(
            name=f"{role.name}{number:05d}.{site}",
            number=number,
            role=role,
            distribution=distribution,
            site=site,
            policy=policy,
            memory_gib=rng.choice(role.memory_gib),
            joined_s=joined_s,
            silent_s=rng.uniform(joined_s, self.until_s) if rng.random() < 0.02 else self.until_s + DAY_S,
            updated_s=updated_s,
            booted_s=self._boot_times(rng, distribution, updated_s),
            installed=installed,
            added=(added_s, tuple(rng.sample(spare, 3))) if rng.random() < 0.08 else None,
        )

    def _update_times(self, rng: random.Random, policy: str) -> tuple[float, ...]:
        """One before the fleet was first asked, and then as the policy has it, never quite on time."""
        every_s = {"daily": DAY_S, "weekly": 7 * DAY_S, "monthly": 30 * DAY_S, "never": 0.0}[policy]
        if not every_s:
            return (self.since_s - rng.uniform(40, HISTORY_DAYS - 10) * DAY_S,)
        window_s = (rng.choice(range(7)) * DAY_S + rng.choice((1, 2, 3, 4)) * HOUR_S + rng.uniform(0, HOUR_S)) % every_s
        first_s = (self.since_s // every_s - 1) * every_s + window_s
        times = (
            first_s + turn * every_s + rng.uniform(0, HOUR_S) for turn in range(int(self.days * DAY_S / every_s) + 3)
        )
        return tuple(at_s for at_s in times if at_s < self.until_s)

    def _boot_times(
        self, rng: random.Random, distribution: Distribution, updated_s: tuple[float, ...]
    ) -> tuple[float, ...]:
        """After most updates of the kernel, within some days; and once before the fleet was first asked."""
        times = [updated_s[0] + HOUR_S * rng.random()]
        for before_s, at_s in zip(updated_s, updated_s[1:]):
            if distribution.kernel_level(before_s) != distribution.kernel_level(at_s) and rng.random() < 0.7:
                times.append(at_s + rng.uniform(0.2, 72) * HOUR_S)
        return tuple(sorted(at_s for at_s in times if at_s < self.until_s))

    def _installed(
        self, rng: random.Random, distribution: Distribution, role: Role
    ) -> tuple[tuple[str, ...], list[str]]:
        """The node's packages, and some that it could have."""
        base, tools, rest = self._sets[distribution.release.name, role.name]
        found = set(base).union(*rng.sample(tools, rng.choice((2, 3, 4, 5))))
        found.update(rng.sample(rest, rng.randint(0, 60)))
        if not distribution.release.rpm and rng.random() < 0.03:
            found.add("telnetd")
        return tuple(sorted(found)), [name for name in rest[:200] if name not in found]


def _package_sets(distribution: Distribution, role: Role, seed: int) -> tuple[list[str], list[list[str]], list[str]]:
    """What every node of the release and role has; sets of tools of which it has some; what is left."""
    name = distribution.release.name
    left = [package for package in distribution.names if package not in ("openssl", "telnetd")]
    random.Random(f"{seed} {name} base").shuffle(left)
    base, left = ["openssl", *left[:_BASE_PACKAGES]], left[_BASE_PACKAGES:]
    tools, left = left[: _TOOL_SETS * _TOOLS], left[_TOOL_SETS * _TOOLS :]
    random.Random(f"{seed} {name} {role.name}").shuffle(left)
    sets = [tools[number * _TOOLS : (number + 1) * _TOOLS] for number in range(_TOOL_SETS)]
    return base + left[:_ROLE_PACKAGES], sets, left[_ROLE_PACKAGES:]


def _ending(rng: random.Random) -> str:
    return rng.choices((OK, TIMEOUT, FAILED), (0.985, 0.005, 0.01))[0]


def _address(node: Node) -> str:
    return f"10.{SITES.index(node.site)}.{node.number // 250}.{node.number % 250 + 2}"


def _id(at_s: float, name: str) -> str:
    """In the form of a UUIDv7, but the same each time."""
    digits = f"{int(at_s * 1000):012x}7{hashlib.blake2b(name.encode(), digest_size=10).hexdigest()[:19]}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], "8" + digits[17:20], digits[20:]))
