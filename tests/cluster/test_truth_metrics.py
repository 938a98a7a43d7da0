"""What a metrics server says: `kubectl top`, and what autoscalers read."""

from __future__ import annotations

import functools
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import pytest

from architect.api import names
from architect.core import quantity
from lab import errors, metrics_server
from lab.cluster import Cluster
from support import autoscaled, parts, truth
from support.patience import patient
from support.truth import Kind, Plan, Subject, Trio, container
from support.workloads import REQUEST_SECONDS, eventually

pytestmark = pytest.mark.concurrent

MIB: Final = 1 << 20
BUSY: Final = truth.python(
    "import time\n"
    "held = b'x' * (24 << 20)\n"
    "while True:\n"
    "    sum(range(20_000))\n"
    "    time.sleep(0.05)\n"
)
"""Holds memory, and uses some thousandths of a processor."""
PLANS: Final = {
    "busy": Plan(
        containers=[container("app", BUSY), container("beside", ["sleep", "1000000"])],
    ),
}

ASKS: Final = {"cpu": "200m", "memory": "96Mi"}
"""More than it ever uses: Python's start has its share of a processor, too."""
LOW: Final = {"cpu": "1m", "memory": "1Ki"}
SCALED: Final = Plan(containers=[container("app", BUSY, resources={"requests": ASKS})])


@pytest.fixture(scope="module")
def metered(architect: Cluster) -> Iterator[Cluster]:
    """The cluster, with a metrics server."""
    with metrics_server.running(architect):
        yield architect


@pytest.fixture(scope="module")
def pods(metered: Cluster, theme: str) -> Iterator[dict[str, Trio]]:
    with truth.running(metered, theme, PLANS) as made:
        yield made


class Use(NamedTuple):
    """What a container uses: thousandths of a processor, and MiB."""

    millicores: int
    mebibytes: int


def _top(pod: Subject) -> dict[str, Use]:
    """Return container → use, as `kubectl top` prints it. Raises CommandFailed if it has none."""
    lines = pod.kubectl("top", "pod", pod.name, "--containers", "--no-headers").splitlines()
    found: dict[str, Use] = {}
    for line in lines:
        name, container_name, processor, memory = line.split()
        assert (name, processor[-1], memory[-2:]) == (pod.name, "m", "Mi"), line
        found[container_name] = Use(int(processor[:-1]), int(memory[:-2]))
    return found


def _top_if_any(pod: Subject) -> dict[str, Use]:
    """As :func:`_top`; nothing while the pod is too young to be told of."""
    try:
        return _top(pod)
    except errors.CommandFailed as error:
        assert "not available" in str(error) or "not found" in str(error), error
        return {}


def _is_busy(use: dict[str, Use]) -> bool:
    return {"app", "beside"} <= set(use) and use["app"].millicores > 1 and use["app"].mebibytes > 20


def _until_busy(pod: Subject) -> None:
    eventually(lambda: _is_busy(_top_if_any(pod)), what=f"`kubectl top` tells of {pod.name}")


def _until_all_are_busy(trio: Trio) -> None:
    """Have all of them be awake, whatever became of them before, and wait for what they use."""
    if trio.slept.is_asleep:
        trio.slept.runtime("wake")
    trio.each(_until_busy)


def _until_at_rest(pod: Subject) -> dict[str, Use]:
    """Return what is told of a pod that sleeps, in which no look may miss it before."""
    found: dict[str, Use] = {}

    def is_at_rest() -> bool:
        found.update(_top(pod))
        return found["app"].millicores == 0 and found["app"].mebibytes < 12

    eventually(is_at_rest, what=f"`kubectl top` tells that {pod.name} uses nothing")
    return found


@truth.behaviour(
    "`kubectl top pod`, also with `--containers`",
    slept="the same rows; `0m`, and of the application's memory nothing is left; it does not wake "
    "the pod",
)
def test_top_pod(pods: dict[str, Trio]) -> None:
    trio = pods["busy"]
    _until_all_are_busy(trio)
    trio.sleep()
    _until_at_rest(trio.slept)
    assert truth.alike(trio.each(lambda pod: sorted(_top(pod)))) == ["app", "beside"]
    rows = trio.slept.kubectl("top", "pod", "--no-headers").splitlines()
    assert {row.split()[0] for row in rows} >= {pod.name for pod in trio.pods.values()}
    assert trio.slept.is_asleep
    trio.slept.runtime("wake")
    # It is no other container that uses something again: no look misses it.
    eventually(lambda: _is_busy(_top(trio.slept)), what="what it uses is told of again")
    truth.check(trio.each(Subject.restarts), 0)


@truth.behaviour("`kubectl top node`", slept="the same; it does not wake the pod")
def test_top_node(metered: Cluster, pods: dict[str, Trio]) -> None:
    trio = pods["busy"]
    trio.sleep()

    def row(pod: Subject) -> bool:
        """Return whether the pod's node is told of, with what it uses and its shares of all."""
        name = pod.pod()["spec"]["nodeName"]
        line = pod.cluster.kubectl("top", "node", name, "--no-headers")
        said, processor, processor_share, memory, memory_share = line.split()
        assert said == name
        assert int(processor.removesuffix("m")) > 0, line
        assert int(memory.removesuffix("Mi")) > 0, line
        return processor_share.endswith("%") and memory_share.endswith("%")

    truth.check(trio.each(row), True)
    rows = metered.kubectl("top", "node", "--no-headers").splitlines()
    assert {one.split()[0] for one in rows} == {node.name for node in metered.nodes}
    assert trio.slept.is_asleep


def _read(trio: Trio) -> dict[str, dict[str, Any]]:
    """Return pod → what the API has of it, asked as an autoscaler asks: by a selector."""
    pod = trio.slept
    names = ",".join(one.name for one in trio.pods.values())
    query = urllib.parse.urlencode({"labelSelector": f"app in ({names})"})
    listed = pod.cluster.api.get(
        f"{metrics_server.PATH}/namespaces/{pod.namespace}/pods?{query}",
        timeout_seconds=REQUEST_SECONDS,
    )
    return {one["metadata"]["name"]: one for one in listed["items"]}


@truth.behaviour(
    "`metrics.k8s.io` as an autoscaler asks it: pods by a selector, with all of their containers",
    slept="the same, measured anew each time; no processor time at all, and of the application's "
    "memory nothing is left; it does not wake the pod",
)
def test_what_an_autoscaler_reads(pods: dict[str, Trio]) -> None:
    trio = pods["busy"]
    _until_all_are_busy(trio)
    trio.sleep()
    _until_at_rest(trio.slept)
    looks = set()

    def is_measured_anew() -> bool:
        read = _read(trio)
        assert set(read) == {pod.name for pod in trio.pods.values()}
        shown = {
            kind: sorted(one["name"] for one in read[pod.name]["containers"])
            for kind, pod in trio.pods.items()
        }
        assert truth.alike(shown) == ["app", "beside"]
        slept = read[trio.slept.name]
        looks.add(slept["timestamp"])
        uses = {one["name"]: one["usage"] for one in slept["containers"]}
        assert uses["app"]["cpu"] == "0", uses
        assert quantity.parse(uses["app"]["memory"]) < 12 * MIB, uses
        return len(looks) == 3

    eventually(is_measured_anew, what="three measurements of a pod that sleeps")
    assert trio.slept.is_asleep
    trio.slept.runtime("wake")
    eventually(lambda: _is_busy(_top(trio.slept)), what="what it uses is told of again")


def _counted(cluster: Cluster) -> float:
    """Return how many pods the daemons know to be counted by autoscalers."""
    numbers = [parts.daemon_numbers(cluster, node.name) for node in cluster.nodes]
    return sum(each.value("architect_kept_requests", reason="Autoscaler") for each in numbers)


@truth.behaviour(
    "a HorizontalPodAutoscaler by `Utilization` of processor and memory, at most three pods",
    slept="it makes no pods: requests stay while the pod sleeps, and the event `Slept` names the "
    "autoscaler",
)
def test_an_autoscaler_by_utilization(metered: Cluster, theme: str) -> None:
    with autoscaled.running(metered, theme, "scaled", SCALED, most=3) as pods:
        trio, slept = Trio(pods), pods[Kind.SLEPT]
        truth.parallel(*(each.until_measured for each in pods.values()))
        managed = sum(kind is not Kind.RUNC for kind in pods)
        eventually(lambda: _counted(metered) == managed, what="daemons know of the autoscalers")
        trio.sleep()

        def is_measured_asleep() -> bool:
            use = slept.measured()
            return bool(use) and use["cpu"].percent == 0 and use["memory"].mean < 12 * MIB

        eventually(is_measured_asleep, what="the autoscaler has measured a pod that sleeps")
        truth.check({kind: each.replicas() for kind, each in pods.items()}, 1)
        truth.check({kind: each.asked_for() for kind, each in pods.items()}, ASKS)
        assert slept.is_asleep
        (said,) = eventually(lambda: slept.events(names.EVENT_SLEPT), what="event Slept")
        assert said.endswith(f"HorizontalPodAutoscaler {slept.name}"), said
        slept.runtime("wake")

        def is_measured_awake() -> bool:
            use = slept.measured()
            return bool(use) and use["memory"].mean > 20 * MIB

        eventually(is_measured_awake, what="the autoscaler has measured the pod awake")
        truth.check({kind: each.replicas() for kind, each in pods.items()}, 1)
        truth.check({kind: each.restarts() for kind, each in pods.items()}, 0)


@truth.behaviour(
    "an autoscaler that is made, and removed, while pods sleep",
    slept="requests come back while the pod sleeps, with the event `RequestsKept`, and are lowered "
    "again, each within a minute",
)
def test_an_autoscaler_that_comes_late(metered: Cluster, theme: str) -> None:
    with autoscaled.running(metered, theme, "late", SCALED) as pods:
        slept = pods[Kind.SLEPT]
        Trio(pods).sleep()
        eventually(lambda: slept.asked_for() == LOW, what="requests are lowered")
        truth.parallel(*(functools.partial(each.scale, most=1) for each in pods.values()))
        _within_a_minute(lambda: slept.asked_for() == ASKS, what="requests are back")
        said = eventually(lambda: slept.events(names.EVENT_REQUESTS_KEPT), what="RequestsKept")
        assert said[-1].endswith(f"HorizontalPodAutoscaler {slept.name}"), said
        truth.parallel(*(each.until_measured for each in pods.values()))
        truth.check({kind: each.asked_for() for kind, each in pods.items()}, ASKS)
        truth.parallel(*(each.unscale for each in pods.values()))
        _within_a_minute(lambda: slept.asked_for() == LOW, what="requests are lowered again")
        assert slept.is_asleep
        slept.runtime("wake")
        eventually(lambda: slept.asked_for() == ASKS, what="requests are back after the wake")
        truth.check({kind: each.restarts() for kind, each in pods.items()}, 0)


def _within_a_minute(condition: Callable[[], bool], *, what: str) -> None:
    eventually(condition, what=what, seconds=patient(60.0))
