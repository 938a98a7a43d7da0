"""Daemons of several nodes claim what pods left, against a model: memory runs once.

Each sees the API as it was when it last looked. Answers are lost, nodes fall silent, are taken for
gone, and come back where they were. What decides and what writes are the daemons' and the
operator's own; the API server is one in memory, which compares resource versions.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from unittest import mock

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from architect.core.errors import Rejected, Unavailable
from architect.daemon import claims
from architect.daemon.claims import Claim
from architect.daemon.moves import objects
from architect.kube import checkpoints, resources
from architect.kube.api import Api
from architect.kube.errors import Conflict, NotFound
from architect.kube.resources import CHECKPOINTS, ObjectRef
from architect.operator import abandoned
from architect.operator.machines import OUT_OF_SERVICE
from support.newcomers import BOUNDS, NODE, Json, checkpoint, newcomer
from support.tiers import IS_LONG
from unit.daemon.conftest import FakeCluster

NODES = ("n1", "n2", "n3")
PATH = "/apis/architect.dev/v1alpha1/namespaces/shop/checkpoints"


@dataclass
class Pod:
    """A new pod, and how far its node's daemon is with it."""

    uid: str
    node: str
    seen: list[Json] | None = None
    """What the API had when the daemon last looked."""
    claimed: str = ""
    """Name of the Checkpoint whose claim the daemon has seen written."""
    is_announced: bool = False
    is_over: bool = False
    """Nothing of it is decided any more: it runs, or has begun without memory."""

    @property
    def name(self) -> str:
        return f"web-{self.uid}"


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.cluster = FakeCluster()
        self.api = Api(self.cluster, field_manager="test")
        self.pods: dict[str, Pod] = {}
        self.there: set[str] = set()
        """Uids of the pods that the API has."""
        self.gone_nodes: set[str] = set()
        self.ran: dict[str, list[str]] = {}
        """By Checkpoint, the pods that have run with its memory."""
        self.loses_answers = False
        self.count = 0
        self.patches = contextlib.ExitStack()
        self.patches.enter_context(mock.patch.object(objects, "CONFLICT_SECONDS", 0.0))

    def teardown(self) -> None:
        self.patches.close()

    # What others do

    @rule()
    def a_pod_is_saved(self) -> None:
        if self.count >= 4:
            return
        self.count += 1
        value = checkpoint(f"old{self.count}")
        self.cluster.put(f"{PATH}/{value['metadata']['name']}", value)
        self.ran[value["metadata"]["name"]] = []

    @rule(node=st.sampled_from(NODES))
    def a_pod_comes(self, node: str) -> None:
        if len(self.pods) < 5:
            uid = f"new{len(self.pods)}"
            self.pods[uid] = Pod(uid, node)
            self.there.add(uid)

    @precondition(lambda self: self.there)
    @rule(data=st.data())
    def a_pod_is_removed_from_the_api(self, data: st.DataObject) -> None:
        """As by force, or by the API server for one on a node that is gone: it may run on."""
        self.there.discard(data.draw(st.sampled_from(sorted(self.there))))

    @rule(node=st.sampled_from(NODES), is_gone=st.booleans())
    def a_node_is_taken_for_gone(self, node: str, is_gone: bool) -> None:
        (self.gone_nodes.add if is_gone else self.gone_nodes.discard)(node)

    @precondition(lambda self: any(pod.claimed for pod in self.pods.values()))
    @rule(data=st.data())
    def a_node_is_lost_with_its_pod(self, data: st.DataObject) -> None:
        """As far as anybody knows; its daemon may go on."""
        able = sorted(uid for uid, pod in self.pods.items() if pod.claimed)
        pod = self.pods[data.draw(st.sampled_from(able))]
        self.there.discard(pod.uid)
        self.gone_nodes.add(pod.node)
        self.operator_looks(pod.claimed)

    @rule(loses=st.booleans())
    def answers_get_lost(self, loses: bool) -> None:
        self.loses_answers = loses

    @precondition(lambda self: self.ran)
    @rule(data=st.data())
    def the_operator_looks(self, data: st.DataObject) -> None:
        self.operator_looks(data.draw(st.sampled_from(sorted(self.ran))))

    def operator_looks(self, name: str) -> None:
        value = self.api.find(self.ref(name))
        assert value is not None
        claimant = abandoned.claimant_of(value)
        if claimant is None:
            return
        pod = {"metadata": {"uid": claimant.uid}} if claimant.uid in self.there else None
        taints = [{"key": OUT_OF_SERVICE}] if claimant.node in self.gone_nodes else []
        if not abandoned.is_lost(claimant, pod=pod, node={"spec": {"taints": taints}}):
            return
        said, fields = abandoned.freed(value, claimant)
        checkpoints.set_status(self.api, value, said, fields=fields)

    # What a daemon does for a pod

    def able(self, *, claimed: bool, announced: bool = False) -> list[str]:
        return sorted(
            uid
            for uid, pod in self.pods.items()
            if not pod.is_over and bool(pod.claimed) is claimed and pod.is_announced is announced
        )

    @precondition(lambda self: self.able(claimed=False))
    @rule(data=st.data())
    def a_daemon_looks(self, data: st.DataObject) -> None:
        self.look(self.pods[data.draw(st.sampled_from(self.able(claimed=False)))])

    @precondition(lambda self: self.able(claimed=False))
    @rule(data=st.data(), goes_on=st.booleans())
    def a_daemon_is_quick(self, data: st.DataObject, goes_on: bool) -> None:
        """Nobody comes in between, as almost always."""
        pod = self.pods[data.draw(st.sampled_from(self.able(claimed=False)))]
        self.look(pod)
        self.claim(pod)
        if pod.claimed and goes_on:
            self.announce(pod)
            if pod.is_announced:
                self.go_on(pod)

    def look(self, pod: Pod) -> None:
        pod.seen = list(self.api.list(CHECKPOINTS, namespace="shop").items)

    @precondition(lambda self: any(self.pods[u].seen for u in self.able(claimed=False)))
    @rule(data=st.data())
    def a_daemon_claims(self, data: st.DataObject) -> None:
        able = [uid for uid in self.able(claimed=False) if self.pods[uid].seen]
        self.claim(self.pods[data.draw(st.sampled_from(able))])

    def claim(self, pod: Pod) -> None:
        seen, pod.seen = pod.seen or [], None
        decision = claims.decide(
            newcomer(uid=pod.uid, name=pod.name),
            node=NODE,
            found=seen,
            siblings=(),
            living=self.there,
            waited_seconds=1000.0,
            bounds=BOUNDS,
        )
        if not isinstance(decision, Claim):
            pod.is_over = True
            return
        read = next(v for v in seen if v["metadata"]["name"] == decision.name)
        ref = resources.pod("shop", pod.name, uid=pod.uid)
        try:
            checkpoints.claim(self.api, read, pod=ref, node=pod.node)
            self.answer()
        except (Conflict, NotFound, Unavailable):
            return  # it looks again
        pod.claimed = decision.name

    @precondition(lambda self: self.able(claimed=True))
    @rule(data=st.data())
    def a_daemon_announces(self, data: st.DataObject) -> None:
        self.announce(self.pods[data.draw(st.sampled_from(self.able(claimed=True)))])

    def announce(self, pod: Pod) -> None:
        try:
            objects.change(
                self.api, self.ref(pod.claimed), objects.restoring(pod.node), claimant=pod.uid
            )
            self.answer()
        except Unavailable:
            return  # it says it again
        except Rejected as error:
            assert error.reason == objects.CLAIM_LOST
            pod.is_over = True  # it starts without
            return
        pod.is_announced = True

    @precondition(lambda self: self.able(claimed=True, announced=True))
    @rule(data=st.data())
    def a_pod_goes_on(self, data: st.DataObject) -> None:
        able = self.able(claimed=True, announced=True)
        self.go_on(self.pods[data.draw(st.sampled_from(able))])

    def go_on(self, pod: Pod) -> None:
        self.ran[pod.claimed].append(pod.uid)
        pod.is_over = True

    @precondition(lambda self: any(self.ran.values()))
    @rule(data=st.data())
    def a_daemon_says_that_it_went_on(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(n for n, pods in self.ran.items() if pods)))
        pod = self.pods[self.ran[name][0]]
        said = objects.restored(pod.node, after_seconds=1.0)
        objects.change(self.api, self.ref(name), said, claimant=pod.uid)

    @precondition(lambda self: self.able(claimed=True) or self.able(claimed=True, announced=True))
    @rule(data=st.data())
    def a_pod_leaves_before_it_went_on(self, data: st.DataObject) -> None:
        able = self.able(claimed=True) + self.able(claimed=True, announced=True)
        pod = self.pods[data.draw(st.sampled_from(able))]
        said, fields = objects.given_back(pod.name)
        with contextlib.suppress(Rejected):
            objects.change(self.api, self.ref(pod.claimed), said, fields=fields, claimant=pod.uid)
        pod.is_over = True

    @staticmethod
    def ref(name: str) -> ObjectRef:
        return ObjectRef(resource=CHECKPOINTS, namespace="shop", name=name)

    def answer(self) -> None:
        if self.loses_answers:
            raise Unavailable("503")

    # What must hold

    @invariant()
    def memory_runs_once(self) -> None:
        for name, pods in self.ran.items():
            assert len(pods) <= 1, f"{name} runs in {pods}"

    @invariant()
    def who_runs_has_the_claim(self) -> None:
        for name, pods in self.ran.items():
            if pods:
                value = self.api.find(self.ref(name))
                assert value is not None
                assert checkpoints.claimant_of(value) == pods[0]

    @invariant()
    def a_pod_has_one_memory(self) -> None:
        runs = [uid for pods in self.ran.values() for uid in pods]
        assert len(runs) == len(set(runs))


def test_memory_runs_once_whatever_daemons_see_and_when() -> None:
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=2000 if IS_LONG else 300, stateful_step_count=60, deadline=None
        ),
    )
