"""A node loses its power: what was a pod's last memory comes back, and nothing else ever does."""

from __future__ import annotations

import pytest

from architect.shim.keeper import processes
from faults import pod as pods
from faults.pod import Pod
from faults.stage import Stage

pytestmark = pytest.mark.timeout(300)


def lose_power(stage: Stage, pod: Pod) -> None:
    """Be on a node with what is on the disk at this moment."""
    node = pod.node
    node.disk.copy(node.directory / "after.img")
    node.cut_power()
    pod.move_to(stage.after_power_cut())


@pytest.mark.parametrize("times", [1, 2])
def test_who_sleeps_sleeps_on_however_often(stage: Stage, times: int) -> None:
    with pods.opened(stage.node()) as pod:
        pod.run()
        who = pod.who()
        pod.sleep()
        for _ in range(times):
            pod.node.until_safe()
            lose_power(stage, pod)
            assert pod.returns()
        assert pod.who() == who


@pytest.mark.parametrize("number", range(3))
def test_at_the_moment_of_a_sleep_it_is_all_or_nothing(stage: Stage, number: int) -> None:
    with pods.opened(stage.node()) as pod:
        pod.run()
        who = pod.who()
        pod.sleep()
        lose_power(stage, pod)
        assert pod.returns() is (pod.who() == who)


@pytest.mark.parametrize("number", range(3))
def test_who_has_answered_since_never_gets_the_memory_of_before(stage: Stage, number: int) -> None:
    """Its image is on the disk still, or again, but it is old."""
    with pods.opened(stage.node()) as pod:
        pod.run()
        who = pod.who()
        pod.sleep()
        pod.node.until_safe()
        assert pod.who() == who
        lose_power(stage, pod)
        assert not pod.returns()
        assert pod.who() != who
        assert not pod.told


def test_who_came_back_and_has_answered_since_never_gets_it_either(stage: Stage) -> None:
    with pods.opened(stage.node()) as pod:
        pod.run()
        who = pod.who()
        pod.sleep()
        pod.node.until_safe()
        lose_power(stage, pod)
        assert pod.returns()
        assert pod.who() == who
        lose_power(stage, pod)
        assert not pod.returns()
        assert pod.who() != who


def test_who_sleeps_beside_a_keeper_that_was_killed_sleeps_on(stage: Stage) -> None:
    with pods.opened(stage.node()) as pod:
        pod.run()
        who = pod.who()
        pod.sleep()
        pod.node.until_safe()
        old = pod.node.keeper_pid()
        pod.node.renew_keeper()
        assert not processes.is_alive(old)
        pod.node.until_safe()
        lose_power(stage, pod)
        assert pod.returns()
        assert pod.who() == who
