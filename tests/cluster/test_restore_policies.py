"""What a Deployment's pod does that was drained, when what was saved of it is damaged.

Its policy (``architect.dev/on-restore-failure``) decides. Whatever that is, the damaged state is
kept, and the reason is in an event, in a condition and in a metric.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from architect.api import names, saved
from architect.api.policy import Storage
from architect.kube import checkpoints
from lab import errors
from lab.cluster import Cluster
from lab.node import Node
from support import fleets, moves, nodefiles, parts
from support.fleets import Squad
from support.moves import Pod
from support.objectstore import flip, in_store
from support.storing import STORED_SECONDS, lose_copy
from support.tiers import sized
from support.workloads import Workload, ask_runtime, eventually, workload

pytestmark = pytest.mark.timeout(900)

POLICIES = ("fresh", "retry", "fail")
REFUSED = ("CreateContainerError", "RunContainerError", "CrashLoopBackOff")
ENGINE_SAYS = "is not started without what its pod had before"
FAILURES = "architect_failures_total"
REASON = re.compile(r"(?:without what came before|its image is kept): (\w+): ")
"""In the words of an event."""
TREE = "pstree.img"
"""Of CRIU's image: without it nothing is restored."""


Spoil = Callable[[Cluster, Pod], Callable[[], None]]
"""Spoils something of a pod that was saved; returns what puts it right."""


@dataclass(frozen=True, kw_only=True)
class Drained:
    """A pod that was drained, and the one that came in its place."""

    app: Workload
    identity: str
    """What the old one kept in its memory."""
    old: Pod
    new: Pod
    source: Node
    target: Node
    before: parts.Numbers
    """What the target's daemon had counted before."""
    damaged: str = TREE
    """A file of its image."""
    kept: bytes = b""
    """That file as it was before it was damaged."""
    mend: Callable[[], None] = lambda: None
    """Puts right what was damaged."""

    @property
    def uid(self) -> str:
        return str(self.new["metadata"]["uid"])

    def conditions(self) -> dict[str, tuple[str, str]]:
        return moves.conditions(self.app, self.old)

    def message(self, kind: str) -> str:
        """Return what a condition of the Checkpoint says."""
        found = moves.checkpoint(self.app, self.old) or {}
        listed = found.get("status", {}).get("conditions", [])
        return next((str(c["message"]) for c in listed if c["type"] == kind), "")

    def counts(self, operation: str, reason: str) -> bool:
        """Whether the target's daemon has counted one more failure for this very reason."""
        which = {"operation": operation, "reason": reason}
        now = parts.daemon_numbers(self.app.cluster, self.target.name)
        return now.value(FAILURES, **which) > self.before.value(FAILURES, **which)

    def events(self) -> list[str]:
        return moves.events(self.app, self.new, names.EVENT_RESTORE_FAILED)

    def is_refused(self) -> bool:
        """Whether kubelet could not make the new pod's container, and says so."""
        (status,) = self.pod()["status"].get("containerStatuses", [{}])
        waiting = status.get("state", {}).get("waiting", {})
        return waiting.get("reason") in REFUSED and ENGINE_SAYS in waiting.get("message", "")

    def tries(self) -> int:
        """Return how often kubelet has made the container, or tried to."""
        return sum(s["restartCount"] for s in self.pod()["status"].get("containerStatuses", []))

    def pod(self) -> Pod:
        return self.app.get_json("pod", self.new["metadata"]["name"])

    def is_same(self) -> bool:
        """Whether the new pod is still there, and no container of it was restarted."""
        return bool(self.pod()["metadata"]["uid"] == self.uid and self.tries() == 0)


@contextlib.contextmanager
def _app(cluster: Cluster, namespace: str, policy: str) -> Iterator[Workload]:
    annotations = {
        names.IDLE: "1h",
        names.ON_RESTORE_FAILURE: policy,
        names.MOVE_ASLEEP: "false",  # what slept is restored as it comes
        names.STORAGE: "node",  # there is no other copy
    }
    with workload(cluster, namespace, f"damaged-{policy}", annotations=annotations) as app:
        yield app


def _other(app: Workload, node: Node) -> Node:
    return next(n for n in app.cluster.nodes if n.name != node.name)


def _read(node: Node, file: Path) -> bytes:
    return base64.b64decode(node.exec(["base64", file]))


def _write(node: Node, file: Path, content: bytes) -> None:
    """Write into the file that is there: its mode and its other names stay."""
    coded = base64.b64encode(content).decode()
    node.exec(["sh", "-ec", 'base64 -d >"$0"', file], input=coded)


def _cut(node: Node, file: Path) -> bytes:
    """Cut the end off a file, as a disk does that lost a block; return what it was."""
    content = _read(node, file)
    _write(node, file, content[:12])
    return content


def _arrived(app: Workload, old: Pod, target: Node) -> Pod:
    """Return the pod that came to *target* in place of *old*."""

    def found() -> Pod | None:
        living = [p for p in moves.pods(app) if p["metadata"]["uid"] != old["metadata"]["uid"]]
        return living[0] if living and living[0]["spec"].get("nodeName") == target.name else None

    pod: Pod = eventually(found, what=f"a pod comes to {target.name}")
    return pod


@contextlib.contextmanager
def _refused_by_criu(cluster: Cluster, namespace: str, policy: str) -> Iterator[Drained]:
    """Drain a sleeping pod whose image is damaged: it is hashed, and comes, as it is.

    Damaged is what CRIU alone reads.
    """
    with _app(cluster, namespace, policy) as app:
        identity = str(app.get()["identity"])
        app.sleep()
        old, source = app.pod(), app.node()
        target = _other(app, source)
        counted = parts.daemon_numbers(cluster, target.name)
        image = nodefiles.image(str(old["metadata"]["uid"]))
        damaged = next(n for n in nodefiles.listing(source, image) if n.startswith("mm-"))
        kept = _cut(source, image / damaged)
        with moves.draining(app, source.name):
            new = _arrived(app, old, target)
        yield Drained(
            app=app,
            identity=identity,
            old=old,
            new=new,
            source=source,
            target=target,
            before=counted,
            damaged=damaged,
            kept=kept,
        )


@contextlib.contextmanager
def _damaged(
    cluster: Cluster, namespace: str, where: str, *, policies: Sequence[str] = POLICIES
) -> Iterator[dict[str, Drained]]:
    """As :func:`_spoiled`: what was saved is damaged, *where* alone it lies."""
    is_stored = where == "in the store"
    damage = _damage_in_the_store if is_stored else _damage_on_its_node
    with _spoiled(cluster, namespace, damage, is_stored=is_stored, policies=policies) as drained:
        yield drained


@contextlib.contextmanager
def _spoiled(
    cluster: Cluster,
    namespace: str,
    spoil: Spoil,
    *,
    is_stored: bool = False,
    policies: Sequence[str] = POLICIES,
) -> Iterator[dict[str, Drained]]:
    """Have a pod of each policy come to another node than the one before it.

    Of what was saved of that one something is spoiled meanwhile.
    """
    more = {} if is_stored else {names.STORAGE: Storage.NODE.value}
    squads = [
        Squad(
            name=f"damaged-{policy}",
            mebibytes=24,
            annotations={names.ON_RESTORE_FAILURE: policy, **more},
        )
        for policy in policies
    ]
    target, source = cluster.nodes[0], cluster.nodes[-1]
    with (
        fleets.running(cluster, namespace, squads, node=source.name) as fleet,
        moves.nowhere(cluster),
    ):
        before = fleet.known()
        fleet.any_app.kubectl("delete", "pods", "--wait=false", *(known.name for known in before))
        kind = checkpoints.STORED if is_stored else checkpoints.AVAILABLE
        eventually(
            lambda: [said for said, _ in fleet.conditions(kind).values()] == ["True"] * len(before),
            what=f"all are saved: {kind}",
            seconds=STORED_SECONDS,
        )
        mends = [spoil(cluster, known.pod) for known in before]
        counted = parts.daemon_numbers(cluster, target.name)
        cluster.kubectl("uncordon", target.name)
        yield {
            policy: Drained(
                app=fleet.app(squad),
                identity=known.identity,
                old=known.pod,
                new=_arrived(fleet.app(squad), known.pod, target),
                source=source,
                target=target,
                before=counted,
                mend=mend,
            )
            for policy, squad, known, mend in zip(policies, squads, before, mends, strict=True)
        }


def _damage_on_its_node(cluster: Cluster, old: Pod) -> Callable[[], None]:
    """Cut what a node saved of *old*; return what puts it right."""
    node = cluster.node(old["spec"]["nodeName"])
    file = names.CHECKPOINTS / str(old["metadata"]["uid"]) / saved.image("app") / TREE
    content = _cut(node, file)
    return functools.partial(_write, node, file, content)


def _damage_in_the_store(cluster: Cluster, old: Pod) -> Callable[[], None]:
    """Change a shard of *old*, which lies there only; return what puts it right."""
    app = Workload(cluster=cluster, namespace=old["metadata"]["namespace"], name="")
    lose_copy(app, old)
    held = in_store(cluster, str(old["metadata"]["uid"]))
    shard = next(path for path in held if not path.endswith("/manifest.json"))
    flip(cluster, shard)
    return functools.partial(flip, cluster, shard)


def _is_told(drained: Drained, operation: str, text: str, *, kind: str) -> tuple[str, str]:
    """See that event, metric and condition *kind* tell the failure, all for the same reason.

    Returns the event, and the reason.
    """
    said: list[str] = eventually(drained.events, what="event RestoreFailed")
    assert text in said[0]
    (reason,) = REASON.findall(said[0])
    eventually(
        lambda: drained.counts(operation, reason),
        what=f"the metric counts a failed {operation}: {reason}",
    )
    eventually(
        lambda: (
            f"{reason}: " in drained.message(kind)
            or drained.conditions().get(kind, ("", ""))[1] == reason
        ),
        what=f"condition {kind} says {reason}",
    )
    return said[0], reason


def _waits_in_its_checkpoint(drained: Drained, reason: str) -> None:
    eventually(
        lambda: drained.conditions().get("Restored") == ("False", reason),
        what="the Checkpoint says it, too",
    )
    assert drained.conditions()["Claimed"] == ("True", "Claimed")


def _goes_on(drained: Drained) -> None:
    (new,) = moves.ready(drained.app, apart_from=[drained.old])
    assert new["metadata"]["uid"] == drained.uid
    assert moves.answer(drained.app, new)["identity"] == drained.identity
    assert moves.ended(drained.app, drained.old)["Restored"] == ("True", "Restored")


def _begins_anew(drained: Drained) -> None:
    _begins(drained)
    assert drained.is_same(), "without a restart"


def _begins(drained: Drained) -> None:
    (new,) = moves.ready(drained.app, apart_from=[drained.old])
    assert new["metadata"]["uid"] == drained.uid
    assert moves.answer(drained.app, new)["identity"] != drained.identity
    seen = moves.ended(drained.app, drained.old)
    assert seen["Failed"] == ("True", "RestoreFailed")
    assert seen["Restored"] == ("False", "RestoreFailed")


# CRIU refuses what came


@pytest.mark.long
def test_fresh_starts_the_application_where_criu_refuses_what_came(
    architect: Cluster, namespace: str
) -> None:
    with _refused_by_criu(architect, namespace, "fresh") as drained:
        _is_told(drained, "wake", "on-restore-failure is fresh", kind="Failed")
        _begins_anew(drained)
        kept = nodefiles.image(drained.uid).parent / "failed-1"
        assert _read(drained.target, kept / drained.damaged) == drained.kept[:12]
        # And it is a pod like any other.
        identity = drained.app.get_when_reachable()["identity"]
        drained.app.sleep()
        assert drained.app.get()["identity"] == identity


@pytest.mark.long
@pytest.mark.parametrize("policy", sized(["retry"], ["retry", "fail"]))
def test_retry_and_fail_wait_with_what_criu_refuses(
    architect: Cluster, namespace: str, policy: str
) -> None:
    with _refused_by_criu(architect, namespace, policy) as drained:
        app, image = drained.app, nodefiles.image(drained.uid)
        _is_told(drained, "wake", f"on-restore-failure is {policy}", kind="Restored")
        eventually(
            lambda: app.asleep_reason()[:2] == ("True", "RestoreFailed"),
            what="condition: asleep, RestoreFailed",
        )
        eventually(
            lambda: drained.conditions().get("Restored") == ("Unknown", "RestoreFailed"),
            what="the Checkpoint says it, too",
        )
        assert drained.conditions()["Claimed"] == ("True", "Claimed")
        assert "Failed" not in drained.conditions()
        assert not app.is_ready()
        assert drained.is_same()
        with pytest.raises(errors.CommandFailed, match="cannot be woken"):
            app.kubectl("exec", drained.new["metadata"]["name"], "--", "true")
        _write(drained.target, image / drained.damaged, drained.kept)
        if policy == "fail":  # which nobody tries again by himself
            assert app.state() == "failed"
            app.runtime("wake")
        _goes_on(drained)
        assert drained.is_same()


# What was saved is not what lies there

DAMAGES: Final = {"on its node": TREE, "in the store": "is not what its checkpoint lists"}
"""What the reason tells."""


@pytest.mark.parametrize("where", sized(["on its node"], list(DAMAGES)))
def test_what_is_damaged_goes_as_each_policy_says(
    architect: Cluster, namespace: str, where: str
) -> None:
    with _damaged(architect, namespace, where) as drained:
        fresh, retry, fail = (drained[policy] for policy in POLICIES)
        text = "starts fresh, without what came before: "
        said, _ = _is_told(fresh, "restore", text, kind="Failed")
        assert DAMAGES[where] in said
        assert DAMAGES[where] in fresh.message("Failed")
        _begins_anew(fresh)
        assert _is_kept(fresh, where)
        for policy in ("retry", "fail"):
            text = "is not started without what came before: "
            said, reason = _is_told(drained[policy], "restore", text, kind="Restored")
            assert DAMAGES[where] in said
            assert DAMAGES[where] in drained[policy].message("Restored")
            assert f"on-restore-failure is {policy}" in said
            _waits_in_its_checkpoint(drained[policy], reason)
            eventually(drained[policy].is_refused, what="kubelet says why there is no container")
            drained[policy].mend()
        _goes_on(retry)
        # The other one waits for its user, who may have the next one try.
        assert not moves.is_ready(fail.pod())
        fail.app.kubectl("delete", "pod", fail.new["metadata"]["name"], "--wait=false")
        (new,) = moves.ready(fail.app, apart_from=[fail.old, fail.new])
        assert moves.answer(fail.app, new)["identity"] == fail.identity
        assert moves.ended(fail.app, fail.old)["Restored"] == ("True", "Restored")


def _is_kept(drained: Drained, where: str) -> bool:
    uid = str(drained.old["metadata"]["uid"])
    if where == "in the store":
        return bool(in_store(drained.app.cluster, uid))
    return nodefiles.exists(drained.source, names.CHECKPOINTS / uid)


@pytest.mark.long
def test_fail_does_not_try_again_by_itself_and_starts_fresh_when_its_user_says_so(
    architect: Cluster, namespace: str
) -> None:
    with _damaged(architect, namespace, "on its node", policies=["fail"]) as drained:
        fail = drained["fail"]
        text = "is not started without what came before"
        _is_told(fail, "restore", text, kind="Restored")
        fail.mend()
        tries = fail.tries()
        eventually(lambda: fail.tries() > tries, what="kubelet has tried again, in vain")
        eventually(fail.is_refused, what="it says so again")
        name = fail.new["metadata"]["name"]
        fail.app.kubectl("label", "pod", name, f"{names.FRESH}=true")
        _begins(fail)
        state = ask_runtime(fail.target, "status", f"{fail.app.namespace}/{name}")["state"]
        assert state == "awake"


# What was saved is not for this node

MISFITS: Final[dict[str, dict[str, Any]]] = {
    "CpuFeatures": {"cpuFeatures": ["no-such-feature"]},
    "Architecture": {"architecture": "riscv64"},
}
"""Reason → what is said to be needed that no node here has."""
NEEDED: Final = {"CpuFeatures": "lacks no-such-feature", "Architecture": "it is of riscv64"}


@pytest.mark.long
@pytest.mark.parametrize("reason", MISFITS)
def test_what_is_for_another_processor_goes_as_each_policy_says(
    architect: Cluster, namespace: str, reason: str
) -> None:
    """Nothing of it is damaged: on another node it would fit, and it is said to be there."""
    spoil = functools.partial(_ask_for_more, MISFITS[reason])
    with _spoiled(architect, namespace, spoil) as drained:
        fresh, retry, fail = (drained[policy] for policy in POLICIES)
        for policy, verb in (("fresh", "starts fresh"), ("retry", "is not started"), ("fail", "")):
            one = drained[policy]
            said = eventually(one.events, what="event RestoreFailed")[0]
            assert verb in said
            assert f"{reason}: checkpoint {one.old['metadata']['name']}" in said
            assert NEEDED[reason] in said
            eventually(
                lambda one=one: one.conditions().get("Claimed") == ("False", reason),  # type: ignore[misc]
                what="the Checkpoint names what does not fit",
            )
            assert NEEDED[reason] in one.message("Claimed")
            found = moves.checkpoint(one.app, one.old)
            assert found is not None
            assert "claimedBy" not in found["status"]
            assert one.conditions()["Available"][0] == "True"
            assert "Failed" not in one.conditions()
        (new,) = moves.ready(fresh.app, apart_from=[fresh.old])
        assert new["metadata"]["uid"] == fresh.uid
        assert moves.answer(fresh.app, new)["identity"] != fresh.identity
        assert fresh.is_same(), "without a restart"
        for one in (retry, fail):
            eventually(one.is_refused, what="kubelet says why there is no container")
            one.mend()
        _goes_on(retry)
        # The other one waits for its user, who may have the next one try.
        assert not moves.is_ready(fail.pod())
        fail.app.kubectl("delete", "pod", fail.new["metadata"]["name"], "--wait=false")
        (new,) = moves.ready(fail.app, apart_from=[fail.old, fail.new])
        assert moves.answer(fail.app, new)["identity"] == fail.identity
        assert moves.ended(fail.app, fail.old)["Restored"] == ("True", "Restored")


def _ask_for_more(more: dict[str, Any], cluster: Cluster, old: Pod) -> Callable[[], None]:
    """Have what was saved of *old* say that it needs *more*, as if another processor ran it."""
    app = Workload(cluster=cluster, namespace=old["metadata"]["namespace"], name="")
    found = moves.checkpoint(app, old)
    assert found is not None
    needs = found["status"]["requirements"]
    needed = {
        key: [*needs[key], *value] if isinstance(value, list) else value
        for key, value in more.items()
    }

    def say(value: dict[str, Any]) -> None:
        patch = json.dumps({"status": {"requirements": value}})
        app.kubectl(
            *("patch", "checkpoint", found["metadata"]["name"], "--subresource=status"),
            *("--type=merge", "-p", patch),
        )

    say(needed)
    return lambda: say({key: needs[key] for key in needed})
