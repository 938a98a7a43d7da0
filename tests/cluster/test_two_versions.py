"""A rolling upgrade that stands still half way: pods move both ways, or say why not.

One node has this checkout's release, the other a later one, which is made of it (``support.
releases``): first one that keeps all rules for what may be added, then one that saves pods in
another format and with another CRIU. At the end the release is rolled back.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from architect.api import names
from lab import dockerfiles, release
from lab.cluster import Cluster
from lab.node import Node
from support import chart, moves, parts, upgrades
from support.moves import Pod
from support.persistent import allow, begin_from, saved, start_from
from support.releases import FAR, MORE, NEXT
from support.workloads import Workload, eventually, workload

pytestmark = [pytest.mark.timeout(600), pytest.mark.long]

MIB = 24


@dataclass(frozen=True, kw_only=True)
class Halves:
    """A cluster of two versions."""

    cluster: Cluster
    values: dict[str, Any]
    """Of the release as it was."""
    older: Node
    newer: Node
    elders: dict[str, tuple[Workload, dict[str, Any]]]
    """Workloads on the newer node from before its upgrade, with what they answered then."""


@contextlib.contextmanager
def _only(cluster: Cluster, node: Node) -> Iterator[None]:
    """Let new pods come to *node* only."""
    others = [other.name for other in cluster.nodes if other.name != node.name]
    try:
        cluster.kubectl("cordon", *others)
        yield
    finally:
        cluster.kubectl("uncordon", *others)


@contextlib.contextmanager
def _on(cluster: Cluster, namespace: str, name: str, node: Node) -> Iterator[Workload]:
    """Run a workload that begins on *node* and is free to leave it."""
    with contextlib.ExitStack() as stack:
        with _only(cluster, node):
            app = stack.enter_context(workload(cluster, namespace, name, mebibytes=MIB))
        assert app.node().name == node.name
        yield app


@pytest.fixture(scope="module")
def halves(architect: Cluster, theme: str) -> Iterator[Halves]:
    values = chart.values(architect)
    older, newer = architect.nodes[0], architect.nodes[-1]
    with contextlib.ExitStack() as stack:
        elders = {}
        for name in ("elder", "sleeper", "leaver"):
            app = stack.enter_context(_on(architect, theme, name, newer))
            elders[name] = (app, app.get("/digest"))
        for name in ("sleeper", "leaver"):
            elders[name][0].sleep()
        stack.callback(chart.install, architect, values)
        upgrades.upgrade_one(architect, values, NEXT, newer)
        yield Halves(cluster=architect, values=values, older=older, newer=newer, elders=elders)


def test_the_two_releases_are_two(halves: Halves) -> None:
    ours = dockerfiles.version()
    assert upgrades.runs(halves.older, ours)
    assert upgrades.runs(halves.newer, NEXT.version)
    assert upgrades.installed_init(halves.older) != upgrades.installed_init(halves.newer)
    images = {
        node.name: parts.daemon_pod(halves.cluster, node.name)["spec"]["containers"][0]["image"]
        for node in (halves.older, halves.newer)
    }
    assert images[halves.older.name].endswith(f":{ours}")
    assert images[halves.newer.name].endswith(f":{NEXT.version}")
    for part in ("operator", "webhook"):
        for pod in parts.pods(halves.cluster, part):
            if "deletionTimestamp" not in pod["metadata"]:
                assert pod["spec"]["containers"][0]["image"].endswith(f":{NEXT.version}")


# Moves, both ways


def _init_of(app: Workload) -> str:
    """Return the SHA-256 of the init that the workload's container runs."""
    script = f"cat {names.CONTAINER_RECORDS}/*.json"
    decoder, text = json.JSONDecoder(), app.node().exec(["sh", "-c", script])
    uid, found = app.uid(), []
    while text := text.lstrip():
        record, end = decoder.raw_decode(text)
        text = text[end:]
        if record["pod"] == uid:
            found.append(record["init_sha"])
    (sha,) = found
    return str(sha)


def _moved(app: Workload, *, to: Node) -> tuple[Pod, Pod]:
    """Drain the pod's node; return the pod that left and the one that came, on node *to*."""
    old = app.pod()
    with moves.draining(app, old["spec"]["nodeName"]):
        pass
    (new,) = moves.ready(app, apart_from=[old])
    assert new["spec"]["nodeName"] == to.name
    return old, new


def _goes_on(app: Workload, old: Pod, new: Pod, before: dict[str, Any]) -> None:
    """See that *new* goes on with the memory of *old*, and that everybody says so."""
    after = moves.answer(app, new, "/digest")
    assert (after["identity"], after["digest"]) == (before["identity"], before["digest"])
    assert app.restarts() == 0
    assert moves.ended(app, old)["Restored"] == ("True", "Restored")
    eventually(lambda: moves.events(app, new, names.EVENT_RESTORED), what="event Restored")
    assert not moves.events(app, new, names.EVENT_RESTORE_FAILED)


@pytest.mark.parametrize("is_asleep", [False, True], ids=["awake", "asleep"])
@pytest.mark.parametrize("first", ["older", "newer"])
def test_a_pod_moves_to_the_other_version_and_back(
    halves: Halves, namespace: str, first: str, is_asleep: bool
) -> None:
    here: Node = getattr(halves, first)
    there = halves.newer if here is halves.older else halves.older
    with _on(halves.cluster, namespace, "both-ways", here) as app:
        before = app.get("/digest")
        init = upgrades.installed_init(here)
        assert _init_of(app) == init
        for source, target in ((here, there), (there, here)):
            if is_asleep:
                app.sleep()
            old, new = _moved(app, to=target)
            # What no earlier release knows was in the way of nobody.
            found = moves.checkpoint(app, old) or {}
            assert found["status"].get(MORE) is (True if source is halves.newer else None)
            if is_asleep:
                assert app.state() == "asleep"
            _goes_on(app, old, new, before)
            # Its processes refer to the init that they began with, which came along.
            assert _init_of(app) == init
        # And it is a pod like any other there.
        app.sleep()
        assert moves.answer(app, new)["identity"] == before["identity"]
        moves.nothing_left(app, [old])


@pytest.mark.parametrize("first", ["older", "newer"])
def test_pods_start_from_what_the_other_version_has_saved(
    halves: Halves, namespace: str, first: str
) -> None:
    here: Node = getattr(halves, first)
    there = halves.newer if here is halves.older else halves.older
    with _on(halves.cluster, namespace, "model", here) as app:
        (pod,) = moves.ready(app)
        identity = moves.answer(app, pod)["identity"]
        assert saved(app)["status"]["node"] == here.name
        allow(app)
        with _only(halves.cluster, there):
            start_from(app, replicas=2)
        new = moves.ready(app, 2, apart_from=[pod], seconds=240)
        assert {p["spec"]["nodeName"] for p in new} == {there.name}
        assert moves.identities(app, new) == [identity] * 2


# While the daemon of a node is being replaced

HAS_DAEMON = "tests.architect.dev/has-daemon"


@contextlib.contextmanager
def _without_daemon(halves: Halves) -> Iterator[None]:
    """Have the newer node's daemon end, as in an upgrade, and another one come after the block."""
    cluster, node = halves.cluster, halves.newer
    cluster.kubectl("label", "node", halves.older.name, f"{HAS_DAEMON}=true")
    try:
        # By hand (OnDelete): the other node's daemon stays as it is.
        parts.set_daemon_selector(cluster, {HAS_DAEMON: "true"})
        eventually(lambda: not moves.daemon_answers(node), what="the daemon has ended")
        yield
    finally:
        parts.set_daemon_selector(cluster, {HAS_DAEMON: None})
        cluster.kubectl("label", "node", halves.older.name, f"{HAS_DAEMON}-")
        parts.wait_until_ready(cluster)


def _is_creating(node: Node) -> bool:
    """Whether the runtime is about to create a managed container on *node*."""
    script = "pgrep -f 'architect.*[c]reate --bundle' || true"
    return bool(node.exec(["sh", "-c", script]).strip())


def test_a_pod_that_comes_while_its_nodes_daemon_is_replaced_waits_for_it(
    halves: Halves, namespace: str
) -> None:
    with _on(halves.cluster, namespace, "comes", halves.older) as app:
        before = app.get("/digest")
        old = app.pod()
        app.kubectl("cordon", halves.newer.name)
        try:
            with moves.draining(app, halves.older.name):
                eventually(
                    lambda: moves.conditions(app, old).get("Available") == ("True", "OnPeer"),
                    what="the pod is saved",
                )
                with _without_daemon(halves):
                    app.kubectl("uncordon", halves.newer.name)
                    eventually(lambda: _is_creating(halves.newer), what="the runtime asks")
                (new,) = moves.ready(app, apart_from=[old])
        finally:
            app.kubectl("uncordon", halves.newer.name)
        assert new["spec"]["nodeName"] == halves.newer.name
        _goes_on(app, old, new, before)


def test_a_pod_that_leaves_while_its_nodes_daemon_is_replaced_gets_its_signal(
    halves: Halves, namespace: str
) -> None:
    with _on(halves.cluster, namespace, "goes", halves.newer) as app:
        identity = app.get()["identity"]
        old = app.pod()
        with (
            moves.said(app, old) as lines,
            _without_daemon(halves),
            moves.draining(app, halves.newer.name),
        ):
            (new,) = moves.ready(app, apart_from=[old])
        assert "got TERM" in lines
        assert moves.answer(app, new)["identity"] != identity


# Pods from before the upgrade of their node


def test_a_pod_that_ran_through_the_upgrade_sleeps_wakes_and_leaves(halves: Halves) -> None:
    app, before = halves.elders["elder"]
    assert app.node().name == halves.newer.name
    assert app.get("/digest")["identity"] == before["identity"]
    app.sleep()
    after = app.get("/digest")
    assert (after["identity"], after["digest"]) == (before["identity"], before["digest"])
    assert app.restarts() == 0
    old, new = _moved(app, to=halves.older)
    _goes_on(app, old, new, before)


def test_a_pod_that_slept_through_the_upgrade_wakes(halves: Halves) -> None:
    app, before = halves.elders["sleeper"]
    assert app.node().name == halves.newer.name
    assert app.state() == "asleep"
    after = app.get("/digest")
    assert (after["identity"], after["digest"]) == (before["identity"], before["digest"])
    assert app.restarts() == 0


def test_a_pod_that_slept_through_the_upgrade_leaves_asleep(halves: Halves) -> None:
    app, before = halves.elders["leaver"]
    assert app.node().name == halves.newer.name
    assert app.state() == "asleep"
    old, new = _moved(app, to=halves.older)
    assert app.state() == "asleep"
    _goes_on(app, old, new, before)


# A release with which no earlier one can go on


@pytest.fixture(scope="module")
def apart(halves: Halves) -> Halves:
    """Have the newer node run a release that is farther away."""
    upgrades.upgrade_one(halves.cluster, halves.values, FAR, halves.newer)
    return halves


def _starts_fresh(app: Workload, old: Pod, new: Pod, identity: str, reason: str, text: str) -> None:
    """See that *new* has begun anew, and that event, condition and object name the difference."""
    assert moves.answer(app, new)["identity"] != identity
    assert app.restarts() == 0
    (said,) = eventually(
        lambda: moves.events(app, new, names.EVENT_RESTORE_FAILED), what="event RestoreFailed"
    )
    assert f"{reason}: checkpoint {old['metadata']['name']}" in said
    assert text in said
    eventually(
        lambda: moves.conditions(app, old).get("Claimed") == ("False", reason),
        what="condition Claimed names what does not fit",
    )
    found = moves.checkpoint(app, old)
    assert found is not None
    assert "claimedBy" not in found["status"]
    assert moves.conditions(app, old)["Available"] == ("True", "OnPeer"), "it is kept"


def test_a_pod_of_a_later_format_starts_fresh_and_says_so(apart: Halves, namespace: str) -> None:
    with _on(apart.cluster, namespace, "later", apart.newer) as app:
        identity = str(app.get()["identity"])
        old, new = _moved(app, to=apart.older)
        text = "its format is version 3, this node knows 2"
        _starts_fresh(app, old, new, identity, "FormatVersion", text)


def test_a_pod_of_another_criu_starts_fresh_and_says_so(apart: Halves, namespace: str) -> None:
    with _on(apart.cluster, namespace, "earlier", apart.older) as app:
        identity = str(app.get()["identity"])
        old, new = _moved(app, to=apart.newer)
        ours, other = FAR.criu or ("", "")
        text = f"CRIU {ours} took it, this node has {other}"
        _starts_fresh(app, old, new, identity, "CriuVersion", text)


def test_pods_do_not_start_from_a_later_format_and_say_so(apart: Halves, namespace: str) -> None:
    with _on(apart.cluster, namespace, "model", apart.newer) as app:
        (pod,) = moves.ready(app)
        identity = moves.answer(app, pod)["identity"]
        assert saved(app)["status"]["formatVersion"] == 3
        allow(app)
        with _only(apart.cluster, apart.older):
            begin_from(app, replicas=1)
            (new,) = moves.ready(app, apart_from=[pod], seconds=240)
        assert moves.answer(app, new)["identity"] != identity
        (said,) = eventually(
            lambda: moves.events(app, new, names.EVENT_RESTORE_FAILED), what="event RestoreFailed"
        )
        assert "FormatVersion: PersistentCheckpoint warm" in said


# And back


def test_a_rollback_leaves_pods_of_the_later_release_as_they_are(
    apart: Halves, namespace: str
) -> None:
    cluster, ours = apart.cluster, dockerfiles.version()
    with (
        _on(cluster, namespace, "runs", apart.newer) as runs,
        _on(cluster, namespace, "wakes", apart.newer) as wakes,
        _on(cluster, namespace, "leaves", apart.newer) as leaves,
    ):
        before = {app.name: app.get("/digest") for app in (runs, wakes, leaves)}
        for app in (wakes, leaves):
            app.sleep()
        revisions = json.loads(
            cluster.helm("history", release.NAME, *chart.WHERE, "-o", "json", "--max", "256")
        )
        # Those of this module: NEXT, FAR; before them is the one to go back to.
        last = [r["revision"] for r in revisions if r["app_version"] == ours][-1]
        cluster.helm("rollback", release.NAME, str(last), *chart.WHERE)
        chart.await_rollouts(cluster)
        for node in (apart.older, apart.newer):
            eventually(lambda node=node: upgrades.runs(node, ours), what=f"{node.name} is back")  # type: ignore[misc]
        assert wakes.state() == "asleep"
        for app in (wakes, runs):
            after = app.get("/digest")
            assert after["identity"] == before[app.name]["identity"]
            assert app.restarts() == 0
        runs.sleep()
        for app in (runs, leaves):
            # What another CRIU wrote is written anew: its successor's node has this one.
            old, new = _moved(app, to=apart.older)
            _goes_on(app, old, new, before[app.name])
