"""The order of a pod's sleep and wake, with containers and a network that only remember."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from architect.api import names
from architect.api.keeper import Event, PodState
from architect.api.policy import OnRestoreFailure, Policy
from architect.core.errors import NodeError, Rejected
from architect.shim import record_files
from architect.shim.keeper import criu, images, podstate, watches
from architect.shim.keeper import pod as pods
from architect.shim.keeper.container import FRESH_STATUS, Container
from architect.shim.keeper.dumping import TreeLost
from architect.shim.keeper.loop import Future, Loop, Task
from architect.shim.keeper.network import PodNetwork
from architect.shim.keeper.pod import Pod
from support import syncing


class Node:
    """What everybody did, in order."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.done: list[str] = []
        self.events: list[tuple[Event, dict[str, Any]]] = []
        self.pod: Pod

    def tell(self, event: Event, details: dict[str, Any]) -> None:
        self.events.append((event, details))

    def run(self, task: Task[None]) -> None:
        future = self.loop.spawn(task, name="test")
        for _ in range(10_000):
            if future.is_done:
                return future.result()
            self.loop.run_once(at_most_seconds=0.1)
        raise AssertionError("the task did not end")


class FakeContainer:
    def __init__(self, node: Node, name: str) -> None:
        self.node, self.name = node, name
        self.directory = images.container_directory("uid", name)
        self.running = True
        self.fails: dict[str, Exception] = {}
        self.is_newcomer = False
        self.watched: dict[watches.Inode, str] = {}

    def start_fresh(self) -> None:
        self.node.done.append(f"start fresh {self.name}")

    def find_init(self) -> object:
        return object()

    def is_starting(self) -> bool:
        return False

    def tree_root(self) -> int | None:
        return 1 if self.running else None

    def tree(self) -> list[int]:
        return []

    def exec_sessions(self) -> list[int]:
        return []

    def cgroups(self) -> dict[str, Path]:
        return {}

    def resident_bytes(self) -> int:
        return 0

    def is_running(self) -> bool:
        return self.running

    def note_return(self, *, addresses: frozenset[str]) -> None:
        if "note" in self.fails:
            raise self.fails["note"]

    def _do(self, what: str) -> Task[None]:
        yield self.node.loop.sleep(0)
        self.node.done.append(f"{what} {self.name}")
        if what in self.fails:
            self.running = self.running and not isinstance(self.fails[what], TreeLost)
            raise self.fails[what]
        self.running = what == "restore"

    def find_watched(self, loop: Loop) -> Task[dict[watches.Inode, str]]:
        yield loop.sleep(0)
        self.node.done += [f"found {path}" for path in self.watched.values()]
        return self.watched

    def refuse_removed(self, loop: Loop) -> Task[None]:
        yield loop.sleep(0)
        if "look" in self.fails:
            raise self.fails["look"]

    def dump(
        self,
        loop: Loop,
        server: criu.Server,
        *,
        watched: dict[watches.Inode, str],
        is_leaving: bool = False,
    ) -> Task[None]:
        yield from self._do(" ".join(["dump", *watched.values()]))

    def restore(self, loop: Loop, server: criu.Server) -> Task[None]:
        yield from self._do("restore")

    def forget_image(self) -> None:
        self.node.done.append(f"forget {self.name}")

    def end(self, status: int) -> None:
        self.node.done.append(f"end {self.name} {status}")


class FakeNetwork:
    """Remembers; what it does not define remembers its name and does nothing."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.held_packets = 0
        self.unready_containers: tuple[str, ...] = ()

    def busy(self, **_: bool) -> None:
        return None

    freeze = busy
    state = busy

    def unready(self) -> tuple[str, ...]:
        return self.unready_containers

    def release(self) -> Task[int]:
        self.node.done.append(f"release as {self.saved()}")
        yield self.node.loop.sleep(0)
        return 0

    @staticmethod
    def saved() -> str:
        phase = podstate.read("uid").phase
        assert phase is not None
        return phase.value

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: self.node.done.append(name)


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    monkeypatch.setattr(names, "STATE", tmp_path)
    monkeypatch.setattr(names, "PODS", tmp_path / "pods")
    monkeypatch.setattr(record_files, "UNMANAGED", tmp_path / "unmanaged")
    loop = Loop()
    made = Node(loop)
    made.pod = Pod(
        uid="uid",
        namespace="shop",
        name="web-0",
        policy=Policy(),
        loop=loop,
        server=cast(criu.Server, None),
        network=cast(PodNetwork, FakeNetwork(made)),
        emit=made.tell,
    )
    yield made
    syncing.finish()
    loop.close()


@pytest.fixture
def pair(node: Node) -> tuple[FakeContainer, FakeContainer]:
    one, two = FakeContainer(node, "one"), FakeContainer(node, "two")
    node.pod.containers = {c.name: cast(Container, c) for c in (one, two)}
    return one, two


def asleep(node: Node) -> None:
    node.run(node.pod.sleep(reason="test", patience_seconds=1.0))
    assert node.pod.state is PodState.ASLEEP
    node.done.clear()
    node.events.clear()


def test_what_cannot_be_noted_for_a_reboot_sleeps_all_the_same(
    node: Node, pair: tuple[FakeContainer, FakeContainer]
) -> None:
    pair[0].fails["note"] = OSError(28, "No space left on device")
    asleep(node)
    assert podstate.read("uid").phase is PodState.ASLEEP


def test_a_wake_releases_before_it_writes_that_it_is_awake(
    node: Node, pair: tuple[FakeContainer, FakeContainer]
) -> None:
    asleep(node)
    node.run(node.pod.wake(reason="test"))
    assert node.done == [
        *("prepare_wake", "restore one", "restore two", "release as waking"),
        *("forget one", "forget two"),
    ]
    assert node.pod.state is PodState.AWAKE
    assert podstate.read("uid").phase is PodState.AWAKE


def test_that_it_may_run_is_on_the_disk_before_anybody_is_answered(
    node: Node, pair: tuple[FakeContainer, FakeContainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the image would be taken for its memory after a power cut: it is old by then."""
    asleep(node)
    syncing.finish()

    def sync(uid: str) -> None:
        phase = podstate.read(uid).phase
        assert phase is not None
        time.sleep(0.1)
        node.done.append(f"synced as {phase.value}")

    monkeypatch.setattr(podstate, "sync", sync)
    node.run(node.pod.wake(reason="test"))
    assert node.done.index("synced as waking") < node.done.index("release as waking")


@pytest.mark.parametrize("trouble", ["fails", "hangs"])
def test_a_disk_that_does_not_take_it_keeps_nobody_asleep(
    node: Node,
    pair: tuple[FakeContainer, FakeContainer],
    trouble: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asleep(node)
    syncing.finish()
    over = threading.Event()

    def sync(_: str) -> None:
        if trouble == "fails":
            raise OSError(5, "Input/output error")
        over.wait(30)

    monkeypatch.setattr(podstate, "sync", sync)
    monkeypatch.setattr(pods, "SYNC_LIMIT_SECONDS", 0.05 if trouble == "hangs" else 30.0)
    node.run(node.pod.wake(reason="test"))
    over.set()
    assert node.pod.state is PodState.AWAKE


def test_what_is_watched_is_looked_for_before_anything_is_held(
    node: Node, pair: tuple[FakeContainer, FakeContainer]
) -> None:
    pair[1].watched = {watches.Inode(59, 7): "/etc/app"}
    node.run(node.pod.sleep(reason="test", patience_seconds=1.0))
    assert node.done[:4] == ["found /etc/app", "hold", "dump one", "dump /etc/app two"]


def test_what_could_not_come_back_is_refused_before_anything_is_held(
    node: Node, pair: tuple[FakeContainer, FakeContainer]
) -> None:
    pair[1].fails["look"] = Rejected("too large", reason="DeletedFile")
    with pytest.raises(Rejected):
        node.run(node.pod.sleep(reason="test", patience_seconds=1.0))
    assert node.done == ["release as awake"]
    assert node.pod.state is PodState.AWAKE
    assert node.pod.refused is not None
    assert node.pod.refused.reason == "DeletedFile"


def test_a_failed_dump_is_undone(node: Node, pair: tuple[FakeContainer, FakeContainer]) -> None:
    pair[1].fails["dump"] = NodeError("no", reason="IoUring")
    with pytest.raises(NodeError):
        node.run(node.pod.sleep(reason="test", patience_seconds=1.0))
    assert node.done == [
        "hold",
        "dump one",
        "dump two",
        "restore one",
        "forget one",
        "release as awake",
    ]
    assert node.pod.state is PodState.AWAKE
    assert node.pod.refused is not None


def test_what_says_nothing_of_the_pod_is_tried_again(
    node: Node, pair: tuple[FakeContainer, FakeContainer]
) -> None:
    pair[0].fails["dump"] = NodeError("killed", reason="CriuKilled")
    with pytest.raises(NodeError):
        node.run(node.pod.sleep(reason="test", patience_seconds=1.0))
    assert node.pod.refused is None


def test_a_full_disk_is_told_and_nothing_is_touched(
    node: Node, pair: tuple[FakeContainer, FakeContainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "free_bytes", lambda: 1 << 20)
    with pytest.raises(Rejected, match="1 MiB are free for images"):
        node.run(node.pod.sleep(reason="test", patience_seconds=1.0))
    assert node.done == []
    assert (node.pod.state, node.pod.refused) == (PodState.AWAKE, None)
    ((event, details),) = node.events
    assert event is Event.SLEEP_FAILED
    assert (details["reason"], details["lost"]) == ("NoSpace", [])


def test_a_container_that_is_not_ready_is_not_put_to_sleep(
    node: Node, pair: tuple[FakeContainer, FakeContainer]
) -> None:
    cast(FakeNetwork, node.pod.network).unready_containers = ("two",)
    with pytest.raises(Rejected, match="container two is not ready") as refused:
        node.run(node.pod.sleep(reason="test", patience_seconds=1.0))
    assert refused.value.reason == "NotReady"
    assert (node.done, node.events) == ([], [])
    assert (node.pod.state, node.pod.refused) == (PodState.AWAKE, None)


def test_a_lost_tree_is_told_and_the_others_come_back(
    node: Node, pair: tuple[FakeContainer, FakeContainer]
) -> None:
    pair[1].fails["dump"] = TreeLost("gone", container="two")
    with pytest.raises(TreeLost):
        node.run(node.pod.sleep(reason="test", patience_seconds=1.0))
    assert pair[0].running
    assert node.done[-1] == "release as awake"
    (event, details) = node.events[-1]
    assert event is Event.SLEEP_FAILED
    assert (details["reason"], details["lost"]) == ("ImageLost", ["two"])


def test_only_what_cannot_be_restored_starts_fresh(
    node: Node, pair: tuple[FakeContainer, FakeContainer]
) -> None:
    asleep(node)
    pair[1].fails["restore"] = NodeError("no", reason="FileChanged")
    node.pod.policy = Policy(on_restore_failure=OnRestoreFailure.FRESH)
    with pytest.raises(NodeError):
        node.run(node.pod.wake(reason="test"))
    assert f"end two {FRESH_STATUS}" in node.done
    assert f"end one {FRESH_STATUS}" not in node.done
    assert node.done[-1] == "release_now"
    assert node.pod.state is PodState.AWAKE
    assert podstate.read("uid").phase is PodState.AWAKE


def test_what_comes_after_one_that_cannot_be_restored_is_restored_all_the_same(
    node: Node, pair: tuple[FakeContainer, FakeContainer]
) -> None:
    asleep(node)
    pair[0].fails["restore"] = NodeError("no", reason="FileChanged")
    node.pod.policy = Policy(on_restore_failure=OnRestoreFailure.FRESH)
    with pytest.raises(NodeError, match="no"):
        node.run(node.pod.wake(reason="test"))
    assert pair[1].running
    assert f"end one {FRESH_STATUS}" in node.done
    assert f"end two {FRESH_STATUS}" not in node.done
    # What runs must never be restored once more, and so has no image any longer.
    assert "forget two" in node.done
    assert node.pod.state is PodState.AWAKE


@pytest.mark.parametrize("policy", [OnRestoreFailure.RETRY, OnRestoreFailure.FAIL])
def test_where_nothing_is_given_up_the_first_failure_ends_the_wake(
    node: Node, pair: tuple[FakeContainer, FakeContainer], policy: OnRestoreFailure
) -> None:
    asleep(node)
    pair[0].fails["restore"] = NodeError("no", reason="FileChanged")
    node.pod.policy = Policy(on_restore_failure=policy)
    with pytest.raises(NodeError):
        node.run(node.pod.wake(reason="test"))
    assert "restore two" not in node.done
    assert node.pod.state is PodState.FAILED


def test_what_came_from_elsewhere_and_cannot_be_restored_starts_where_it_is(
    node: Node, pair: tuple[FakeContainer, FakeContainer]
) -> None:
    asleep(node)
    pair[1].fails["restore"] = NodeError("no", reason="FileChanged")
    pair[1].is_newcomer = True
    node.pod.policy = Policy(on_restore_failure=OnRestoreFailure.FRESH)
    with pytest.raises(NodeError):
        node.run(node.pod.wake(reason="test"))
    assert "start fresh two" in node.done
    assert f"end two {FRESH_STATUS}" not in node.done


def test_a_sleep_that_a_defect_ends_is_undone(
    node: Node, pair: tuple[FakeContainer, FakeContainer]
) -> None:
    pair[1].fails["dump"] = ValueError("no such thing was thought of")
    with pytest.raises(NodeError, match="a defect of the keeper: ValueError") as told:
        node.run(node.pod.sleep(reason="test", patience_seconds=1.0))
    assert told.value.reason == "Defect"
    assert node.done[-1] == "release as awake"
    assert node.pod.state is PodState.AWAKE
    assert node.pod.refused is not None  # and so it is not tried again and again


@pytest.mark.parametrize("wish", list(OnRestoreFailure))
def test_a_wake_that_a_defect_ends_gives_nothing_up(
    node: Node, pair: tuple[FakeContainer, FakeContainer], wish: OnRestoreFailure
) -> None:
    asleep(node)
    pair[0].fails["restore"] = ValueError("no such thing was thought of")
    node.pod.policy = Policy(on_restore_failure=wish)
    with pytest.raises(NodeError, match="a defect of the keeper"):
        node.run(node.pod.wake(reason="test"))
    assert node.pod.state is PodState.FAILED
    assert not any(done.startswith("end ") for done in node.done)
    del pair[0].fails["restore"]
    node.run(node.pod.wake(reason="test"))
    assert podstate.read("uid").phase is PodState.AWAKE


def test_requests_wait_until_a_restarted_keeper_knows_what_the_pod_does(
    node: Node, pair: tuple[FakeContainer, FakeContainer]
) -> None:
    recovery: Future[None] = Future()
    node.pod.recover(recovery)
    sleep = node.loop.spawn(node.pod.sleep(reason="test", patience_seconds=1.0), name="sleep")
    node.loop.run_once(at_most_seconds=0.01)
    assert node.done == []
    node.pod.state = PodState.ASLEEP
    recovery.set_error(NodeError("the namespace is gone"))
    while not sleep.is_done:
        node.loop.run_once(at_most_seconds=0.1)
    sleep.result()
    assert node.done == []
