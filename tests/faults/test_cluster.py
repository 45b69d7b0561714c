"""A member of a broker's cluster dies under load. What is in a quorum queue survives, and who was on it goes elsewhere.

A node's own queue is a classic one and lives on the member that its client was on when it was made. While that member
is down RabbitMQ refuses everything about this queue ("home node is down"), to whichever member one goes, and a spare one
stands in.
"""

from __future__ import annotations

from contextlib import closing

import pytest

from tests.faults import stored
from tests.faults.checker import BROKER
from tests.faults.clustered import ClusterWorld
from tests.servers.processes import wait_until
from vogeler import topology
from vogeler.errors import NodeNameTaken

pytestmark = pytest.mark.long  # to start three brokers takes longer than what `make test` has for all of the network

HEARTBEAT_S = 66.0  # of a client, at most: then it has something to send
NOISE_S = 30.0


@pytest.mark.parametrize("who", ["leader", "server", "client"])
def test_the_loss_of_a_member_is_no_matter(clustered: ClusterWorld, who: str) -> None:
    """All answer while it is down, by another member and by a spare queue if need be, and go back when it is there."""
    clustered.moment()
    member = clustered.chosen(who)
    moved = clustered.at_home_on(member)
    member.kill()
    clustered.all_answer(clustered.nodes)
    assert all(clustered.clients[node].events("spare") for node in moved)
    with closing(clustered.fleet.transport()) as transport, pytest.raises(NodeNameTaken):
        transport.consume_commands(clustered.chance.choice(clustered.nodes), ())
    clustered.cluster.start()
    clustered.fault_ended()
    clustered.prove(codes={BROKER})


def test_results_that_wait_survive_the_member_that_leads_their_queue(clustered: ClusterWorld) -> None:
    """Nobody takes them, the leader is killed, another member leads, a server comes: every one of them is stored."""
    clustered.end_load()
    for server in list(clustered.servers):
        clustered.kill_server(server)
    before = set(clustered.log.runs())
    assert clustered.fleet.runner("-c", "quick", "-n", "all", "--no-wait").returncode == 0
    with closing(clustered.fleet.transport()) as transport:
        waiting = len(clustered.nodes)
        wait_until(lambda: transport.depths()[topology.RESULTS_QUEUE].messages >= waiting, "the results wait")
    values = clustered.log.runs().keys() - before
    assert len(values) == waiting
    clustered.chosen("leader").kill()
    for _ in range(2):
        clustered.start_server()

    def changed() -> set[str]:
        return {change["value"] for change in stored.read(clustered.fleet.dbhost).history}

    wait_until(lambda: values <= changed(), "all of them are stored", clustered.fleet.logs)
    clustered.cluster.start()
    clustered.fault_ended()
    clustered.prove(codes={BROKER})


def test_without_a_majority_everybody_waits_and_says_so(clustered: ClusterWorld) -> None:
    """The broker refuses, or is silent. Nobody gives anything up; it is sent, and stored, when there is a majority again."""
    clustered.moment()
    lost = clustered.chance.sample(clustered.cluster.members, 2)
    (left,) = (member for member in clustered.cluster.members if member not in lost)
    waiting = {node: len(clustered.clients[node].log) for node in clustered.at_home_on(left)}

    def said() -> bool:
        fresh = [clustered.clients[node].log[start:] for node, start in waiting.items()]
        return all("could not store the message" in log or '"event": "waiting"' in log for log in fresh)

    for member in lost:
        member.kill()
    wait_until(said, "those who can be asked say why they can't answer", clustered.fleet.logs, HEARTBEAT_S + NOISE_S)
    clustered.cluster.start()
    clustered.fault_ended()
    clustered.prove(codes={BROKER})
