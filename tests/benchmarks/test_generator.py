"""The generated fleet: the same each time, as described, and what a store answers about it is true."""

from __future__ import annotations

from contextlib import closing
from itertools import groupby
from pathlib import Path

import pytest

from benchmarks.fleet import HOUR_S, Fleet
from benchmarks.generator import Statistics, load
from vogeler import find, persistence, query
from vogeler.messages import Heartbeat, Result, decode, encode
from vogeler.units import parse_timestamp
from vogeler.versions import deb_key, rpm_key

UNTIL_S = parse_timestamp("2026-01-31T00:00:00.000Z")


def a_fleet(nodes: int = 50, days: int = 30, seed: int = 1) -> Fleet:
    return Fleet(nodes, days, seed, UNTIL_S)


@pytest.fixture(scope="module")
def fleet() -> Fleet:
    return a_fleet()


def test_the_same_seed_makes_the_same_fleet_and_another_seed_another() -> None:
    digests = [Statistics.of(a_fleet(5, 30, seed)).digest for seed in (1, 1, 2)]
    assert digests[0] == digests[1] != digests[2]


def test_it_is_made_up_as_it_is_described() -> None:
    fleet = a_fleet(1000)
    packages = Statistics(fleet).packages
    assert 850 <= sum(packages) / len(packages) <= 950
    assert 750 <= packages[0] < packages[-1] <= 1050
    assert 2000 <= len({name for distribution in fleet.distributions for name in distribution.names}) <= 6000
    assert {node.distribution.release.name for node in fleet.nodes} == {
        "debian11", "debian12", "debian13", "rocky8", "rocky9"
    }  # fmt: skip
    assert 5 <= sum(node.silent_s < fleet.until_s for node in fleet.nodes) <= 50
    assert 20 <= sum(node.policy == "never" for node in fleet.nodes) <= 100


def test_messages_come_in_the_order_of_time_and_can_be_sent(fleet: Fleet) -> None:
    messages = list(fleet.messages())
    assert [message.at for message in messages] == sorted(message.at for message in messages)
    for message in messages[:: len(messages) // 50]:
        assert decode(encode(message), Result, Heartbeat) == message
    by_name = sorted((m for m in messages if isinstance(m, Result)), key=lambda message: message.node)
    for _, results in groupby(by_name, key=lambda message: message.node):
        seqs = [result.seq for result in results]
        assert seqs == sorted(set(seqs))


def test_nodes_differ_and_drift(fleet: Fleet) -> None:
    versions = {fleet.stored(node)["packages"]["openssl"] for node in fleet.nodes}
    assert len(versions) > 5
    last = fleet.until_s
    changed = [fleet.stored(node, last) != fleet.stored(node, last - 14 * 24 * HOUR_S) for node in fleet.nodes]
    assert 30 < sum(changed) <= 50


def test_versions_of_a_package_rise_in_the_order_of_the_node_s_package_manager(fleet: Fleet) -> None:
    for distribution in fleet.distributions:
        order = rpm_key if distribution.release.rpm else deb_key
        for source in distribution.sources:
            versions = [source.version(distribution.release, level) for level in range(4)]
            assert versions == sorted(versions, key=order), (distribution.release.name, source.name)


def test_what_a_store_finds_is_what_the_generator_made(tmp_path: Path) -> None:
    fleet = a_fleet(50, 5)
    stored = {node.name: fleet.stored(node) for node in fleet.nodes}
    with closing(persistence.connect(f"sqlite://{tmp_path}/fleet.db")) as store:
        load(fleet, store, 1000)
        assert {node: store.record(node)["packages"] for node in stored} == {  # type: ignore[index]
            node: values["packages"] for node, values in stored.items()
        }
        behind = query.parse("packages.openssl < 3.0.15-1~deb12u1 and system.os.version_id = 12")
        release = next(d.release for d in fleet.distributions if d.release.name == "debian12")
        openssl = fleet.distributions[0].sources[0]
        older = {openssl.version(release, level) for level in range(4)}
        expected = {
            node.name
            for node in fleet.nodes
            if node.distribution.release is release and stored[node.name]["packages"]["openssl"] in older
        }
        assert 0 < len(expected) < 50
        assert set(find.find(store, behind, UNTIL_S)) == expected
