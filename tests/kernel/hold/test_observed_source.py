"""Whose packets keep a pod awake: from real packets to the words that a user reads."""

from __future__ import annotations

import os
from functools import partial

import pytest

from architect.api.policy import ContainerPolicy, Policy
from architect.daemon import activity
from architect.daemon.activity import PodTrack
from architect.daemon.observation import read_observation
from architect.daemon.pods import ManagedPod, PodContainer
from architect.daemon.reasons import Kind
from architect.shim.packets.netns import Netns
from kernel.packets.topology import CLIENT, Topology, connected, received, until
from support import realpod, runtime

TALKER = runtime.CHECKOUT / "tests/support/apps/talker.py"
PORT = 8080
LOOPBACK = {4: "127.0.0.1", 6: "::1"}
SEEN = ManagedPod(
    uid=realpod.UID,
    namespace="shop",
    name="web-0",
    policy=Policy(containers={"app": ContainerPolicy(idle_seconds=3600.0)}),
    containers={"app": PodContainer(name="app", is_running=True, is_ready=True)},
)


@pytest.mark.parametrize("version", [4, 6])
def test_who_talks_to_a_pod_is_named_as_the_daemon_tells_it(
    node: realpod.Node, topology: Topology, version: int
) -> None:
    netns = f"/proc/{os.getpid()}/fd/{topology.pod.fileno()}"
    container = node.run([runtime.SYSTEM_PYTHON, "-Su", str(TALKER)], netns=netns)
    container.until("serving")
    track: PodTrack | None = None

    def look() -> str:
        """Look as the daemon does; what is said of packets, if any."""
        nonlocal track
        (told,) = node.ask("observe", pods=[realpod.UID])["observations"]
        seen = read_observation(told)
        track = activity.advance(track, seen, SEEN, cpu_threshold=2.0)
        assert track is not None
        verdict = activity.judge(track, SEEN, now=seen.now, now_unix=1e9)
        return next((r.text for r in verdict.reasons if r.kind is Kind.PACKETS), "")

    def talk(*, source: Netns | None = None, to: str = "") -> None:
        sock = topology.connect(version, port=PORT, source=source, to=to)
        until(partial(connected, sock), what="a connection")
        sock.send(b"echo hello\n")
        until(lambda: received(sock) == b"hello\n", what="the answer")

    assert look() == ""
    talk()
    assert f"last from {CLIENT[version]} to port {PORT} 0ms ago" in look()

    def is_inside_alone() -> bool:
        talk(source=topology.pod, to=LOOPBACK[version])
        return look().endswith(" packets from inside the pod 0ms ago")

    # A late acknowledgement of the client's may come in between.
    until(is_inside_alone, what="a look that finds traffic of the pod's own only")
    # A sleep and a keeper later the rules still know.
    node.sleep()
    talk()
    node.until_state("awake")
    track = None
    look()
    node.kill_keeper()
    talk()
    assert f"last from {CLIENT[version]} to port {PORT} 0ms ago" in look()
