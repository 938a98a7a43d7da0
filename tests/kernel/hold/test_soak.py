"""Sleep and wake under traffic, again and again: no request fails, no connection is reset.

`make test` takes a sample of the cycles.
"""

from __future__ import annotations

import os
import random
import time

import pytest

from kernel.packets.topology import POD, Topology
from support import runtime, traffic
from support.realpod import Node
from support.tiers import sized

pytestmark = pytest.mark.timeout(sized(300, 1800))
CYCLES = sized(10, 100)
KILLS = sized(4, 20)
SEED = int(os.environ.get("ARCHITECT_SEED", "1"))
TALKER = runtime.CHECKOUT / "tests/support/apps/talker.py"


def start(node: Node, topology: Topology) -> runtime.Container:
    netns = f"/proc/{os.getpid()}/fd/{topology.pod.fileno()}"
    container = node.run([runtime.SYSTEM_PYTHON, "-Su", str(TALKER)], netns=netns)
    container.until("serving")
    return container


def judge(
    node: Node, topology: Topology, clients: list[traffic.Client], *, has_repetitions: bool = False
) -> None:
    """Fail on whatever a client or the kernel noticed.

    *has_repetitions*: a request that a killed keeper held and its repetition that the next one held
    are both delivered, as by a network that duplicates. The second may come when the first one's
    connection is over already; what the kernels say to each other then, nobody hears.
    """
    for client in clients:
        client.stop()
    told = "\n".join(map(str, clients))
    print(told)
    assert not any(client.errors for client in clients), f"{told}\n{node.log()[-6000:]}"
    assert all(client.answers for client in clients), told
    ours, theirs = traffic.tcp_counters(topology.client), traffic.tcp_counters(topology.pod)
    print(f"client {ours}\npod {theirs}")
    resets = {
        "resets of established connections": ours["EstabResets"],
        "failed attempts": ours["AttemptFails"],
    }
    if not has_repetitions:
        resets["resets sent by clients"] = ours["OutRsts"]
        resets["resets sent by the pod"] = theirs["OutRsts"]
    assert not any(resets.values()), f"{resets}\n{node.log()[-6000:]}"


def test_nothing_is_lost_when_it_sleeps_at_random_moments(node: Node, topology: Topology) -> None:
    chance = random.Random(SEED)
    start(node, topology)
    clients = traffic.everything(topology.client, list(POD.values()), seed=SEED)
    for client in clients:
        client.start()
    for _ in range(CYCLES):
        time.sleep(chance.uniform(0, 0.2))
        node.sleep()
        if chance.random() < 0.2:
            node.wake()
        # Some packet or other wakes it.
        node.until_state("awake")
        if any(client.errors for client in clients):
            break
    judge(node, topology, clients)
    assert node.log().count(" sleeps after ") >= CYCLES


def test_nothing_is_lost_when_the_keeper_is_killed_at_random_moments(
    node: Node, topology: Topology
) -> None:
    chance = random.Random(SEED)
    start(node, topology)
    clients = traffic.everything(topology.client, list(POD.values()), seed=SEED)
    for client in clients:
        client.start()
    for _ in range(KILLS):
        keeper = node.keeper_pid()
        # Draining, dumping, asleep, waking, or awake again.
        node.begin_sleep()
        time.sleep(chance.uniform(0, 0.15))
        node.kill_keeper(keeper)
        node.until_state("awake")
        if any(client.errors for client in clients):
            break
    judge(node, topology, clients, has_repetitions=True)
