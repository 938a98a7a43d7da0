"""What is told of pods whose processes end, or whose init's page is not what it was."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from architect.api.keeper import PodState
from architect.core.errors import NodeError
from architect.shim.keeper import observe, survey
from architect.shim.keeper.container import Container
from architect.shim.keeper.pod import Pod
from architect.shim.keeper.processes import Init


@pytest.fixture
def ended() -> Iterator[int]:
    """The pid of a process that has ended, and that nobody has waited for."""
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    yield child.pid
    child.wait()


def container(pid: int, *, looks: Callable[[], Any] = lambda: False) -> Any:
    """A container whose init was seen to live a moment ago."""
    return SimpleNamespace(
        name="app",
        record=SimpleNamespace(created=1.0),
        find_init=lambda: Init(pid=pid, start_time=1),
        init=lambda: Init(pid=pid, start_time=1),
        is_starting=looks,
        cgroups=lambda: {"": Path("/nonexistent")},
        exec_sessions=list,
    )


def pod(uid: str, *containers: Any) -> Pod:
    members = {f"app-{number}": each for number, each in enumerate(containers)}
    network = SimpleNamespace(observe=lambda _: {"packets": 7})
    made = SimpleNamespace(
        uid=uid, state=PodState.AWAKE, refused=None, containers=members, network=network
    )
    return cast("Pod", made)


@pytest.mark.parametrize(
    "error", [NodeError("gone", reason="ContainerGone"), ProcessLookupError(), FileNotFoundError()]
)
def test_a_container_that_ends_while_it_is_looked_at_is_left_out(
    ended: int, error: Exception
) -> None:
    def ends() -> bool:
        raise error

    seen = observe.observe(pod("uid", container(ended, looks=ends), container(os.getpid())))
    assert list(seen["containers"]) == ["app-1"]
    assert seen["packets"] == 7


def test_a_pod_that_cannot_be_looked_at_does_not_keep_the_others_from_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its container's root may write what it likes into the page that it shares with us."""

    def unknown() -> bool:
        raise NodeError("init 7 is in unknown state 77", reason="InitVersion")

    pods = [
        pod("forged", container(os.getpid(), looks=unknown)),
        pod("uid", container(os.getpid())),
    ]
    for look in (observe.observe, observe.memory_bytes):
        caplog.clear()
        assert list(observe.of_each(pods, look)) == ["uid"]
        assert "unknown state 77" in caplog.text


def test_a_look_at_a_container_that_has_just_ended_says_so(ended: int) -> None:
    """Of its mounts the kernel says EINVAL, and not that there is nobody."""
    lived = cast(
        "Container",
        SimpleNamespace(
            name="app",
            find_init=lambda: Init(pid=ended, start_time=1),
            tree=lambda: [ended],
            exec_sessions=list,
        ),
    )
    assert survey.of_container(lived).trouble == "it has ended meanwhile"
