"""A container that ends while it sleeps: the next one has nothing of it, whoever looks."""

from __future__ import annotations

import os
import signal

import pytest

from faults import pod as pods
from faults.stage import Stage
from support import runtime

pytestmark = pytest.mark.timeout(300)


@pytest.mark.parametrize("keeper", ["lives", "is killed before the next one is made"])
def test_the_next_container_of_a_pod_does_not_get_the_memory_of_the_one_that_ended(
    stage: Stage, keeper: str
) -> None:
    node = stage.node()
    with pods.opened(node) as pod:
        pod.run()
        old = pod.who()
        pod.sleep()
        os.kill(pod.init(), signal.SIGKILL)
        runtime.eventually(pod.has_ended, what="the end of the container")
        if keeper != "lives":
            node.renew_keeper()
        pod.replace()
        new = pod.who()
        assert new != old
        # It is the processes that say what runs, and no image.
        node.renew_keeper()
        assert pod.who() == new
        assert pod.state() == "awake"
        pod.sleep()
        assert pod.who() == new
