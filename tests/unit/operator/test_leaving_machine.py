"""Spot machines that end, from the notices to the pods' replacements, against a model.

Daemons say what becomes of their pods, in the order in which they learn it or not at all; notices
are withdrawn; nodes fall silent; one daemon is stolen, and says what it likes of others' pods. The
operator's decisions are its own (:mod:`architect.operator.dismissal`, ``adoption``); each sees what
the API has at the moment.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from architect.api import names
from architect.kube import checkpoints
from architect.kube.checkpoints import CheckpointSpec, Owner, Trigger
from architect.kube.resources import pod as pod_ref
from architect.operator import adoption, dismissal
from support.tiers import IS_LONG

Json = dict[str, Any]

NODES = ("spot-1", "spot-2")
THIEF = "spot-2"
"""The node whose daemon says what it likes: of its own it may."""


@dataclass
class Pod:
    """One of the application's, as its node has it."""

    name: str
    node: str
    is_captured: bool = False
    """Its processes are gone for good."""
    is_stored: bool = False
    is_gone: bool = False
    """Deleted from the API."""

    @property
    def uid(self) -> str:
        return f"uid-{self.name}"


class LeavingMachine(RuleBasedStateMachine):
    @initialize(pods=st.lists(st.sampled_from(NODES), min_size=1, max_size=4))
    def pods_run(self, pods: list[str]) -> None:
        self.pods = {f"web-{n}": Pod(f"web-{n}", node) for n, node in enumerate(pods)}
        self.objects: dict[str, Json] = {}
        self.ending: set[str] = set()
        self.silent: set[str] = set()
        self.withdrawn: set[str] = set()
        """Pods that were not saved, and whose node stays after all."""

    def value(self, pod: Pod) -> Json | None:
        if pod.is_gone:
            return None
        return {
            "metadata": {
                "name": pod.name,
                "namespace": "shop",
                "uid": pod.uid,
                "annotations": {names.POLICY: "{}"},
            },
            "spec": {"nodeName": pod.node},
            "status": {"phase": "Running"},
        }

    def node(self, name: str) -> Json:
        annotations = {names.INTERRUPTION: "{}"} if name in self.ending else {}
        return {"metadata": {"name": name, "annotations": annotations}}

    def say(self, pod: Pod, by: str, **said: str) -> None:
        """Write conditions as daemon *by*: the API lets it name no other node than its own."""
        value = self.objects.setdefault(pod.name, self.checkpoint(pod))
        status = value.setdefault("status", {})
        saver = dismissal.saver_of(value)
        if saver not in ("", by):
            return  # admissionPolicy: who saves it is not for another to change
        status["node"] = by
        found = {c["type"]: c for c in status.get("conditions", ())}
        for kind, state in said.items():
            found[kind] = {"type": kind, "status": state, "reason": "R", "message": "m"}
        status["conditions"] = list(found.values())

    @staticmethod
    def checkpoint(pod: Pod) -> Json:
        return checkpoints.build(
            CheckpointSpec(
                pod=pod_ref("shop", pod.name, uid=pod.uid),
                trigger=Trigger.SPOT_INTERRUPTION,
                template_hash="h",
                containers=("app",),
                owner=Owner(api_version="apps/v1", kind="StatefulSet", name="web", uid="o"),
            )
        )

    # What happens

    @rule(node=st.sampled_from(NODES))
    def a_notice_comes(self, node: str) -> None:
        self.ending.add(node)
        self.withdrawn -= {p.name for p in self.pods.values() if p.node == node}

    @rule(node=st.sampled_from(NODES))
    def a_notice_is_withdrawn(self, node: str) -> None:
        self.ending.discard(node)
        for pod in self.pods.values():
            if pod.node == node and not pod.is_captured:
                self.withdrawn.add(pod.name)

    @rule(node=st.sampled_from(NODES), is_silent=st.booleans())
    def a_node_is_silent_or_not(self, node: str, is_silent: bool) -> None:
        (self.silent.add if is_silent else self.silent.discard)(node)

    def able(self, *, captured: bool) -> list[str]:
        return [
            p.name
            for p in self.pods.values()
            if p.is_captured is captured
            and not p.is_gone
            and not p.is_stored
            and p.node in self.ending
        ]

    @precondition(lambda self: self.able(captured=False))
    @rule(data=st.data(), stays=st.booleans())
    def a_capture_begins(self, data: st.DataObject, stays: bool) -> None:
        pod = self.pods[data.draw(st.sampled_from(self.able(captured=False)))]
        self.say(pod, pod.node, Captured="Unknown")
        if stays:
            self.a_notice_is_withdrawn(pod.node)

    @precondition(lambda self: self.able(captured=False))
    @rule(data=st.data(), is_heard=st.booleans())
    def a_pod_is_captured(self, data: st.DataObject, is_heard: bool) -> None:
        pod = self.pods[data.draw(st.sampled_from(self.able(captured=False)))]
        pod.is_captured = True
        if is_heard:
            self.say(pod, pod.node, Captured="True", Available="True")

    @precondition(lambda self: self.able(captured=False))
    @rule(data=st.data(), stays=st.booleans())
    def a_pod_cannot_be_captured(self, data: st.DataObject, stays: bool) -> None:
        pod = self.pods[data.draw(st.sampled_from(self.able(captured=False)))]
        self.say(pod, pod.node, Captured="False")
        if stays:
            self.a_notice_is_withdrawn(pod.node)

    @precondition(lambda self: self.able(captured=True))
    @rule(data=st.data(), is_heard=st.booleans(), works=st.booleans())
    def an_upload_ends(self, data: st.DataObject, is_heard: bool, works: bool) -> None:
        pod = self.pods[data.draw(st.sampled_from(self.able(captured=True)))]
        pod.is_stored = works
        if is_heard:
            said = {"Captured": "True", "Available": "True"}
            self.say(pod, pod.node, **said, Stored="True" if works else "False")

    @rule(
        data=st.data(),
        said=st.dictionaries(
            st.sampled_from(["Captured", "Available", "Stored", "Restored"]),
            st.sampled_from(["True", "False", "Unknown"]),
        ),
    )
    def a_thief_says_what_it_likes(self, data: st.DataObject, said: dict[str, str]) -> None:
        pod = self.pods[data.draw(st.sampled_from(sorted(self.pods)))]
        if pod.node != THIEF:
            self.say(pod, THIEF, **said)

    @precondition(lambda self: self.objects)
    @rule(data=st.data())
    def the_operator_dismisses(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.objects)))
        pod, value = self.pods[name], self.objects[name]
        before = copy.deepcopy(value)
        action = dismissal.decide(value, pod=self.value(pod), node=self.node(pod.node))
        assert value == before
        if action is None:
            return
        assert action.pod.uid == pod.uid
        assert not pod.is_gone
        assert dismissal.saver_of(value) == pod.node, "a stolen daemon has another's pod deleted"
        if action.is_saved:
            assert pod.is_captured, "a pod that runs is taken for one that is saved"
        else:
            assert pod.node in self.ending, "a pod is deleted whose machine stays"
        pod.is_gone = True

    @rule()
    def the_operator_looks_for_what_silent_nodes_left(self) -> None:
        values = [v for p in self.pods.values() if (v := self.value(p)) is not None]
        known = list(self.objects.values())
        for one in adoption.stranded(values, known, silent=self.silent):
            pod = self.pods[one.ref.name]
            assert pod.node in self.silent
            assert not pod.is_gone
            told = self.objects.get(pod.name)
            assert told is None or not self.says(told, "Stored", "True"), "it is known already"

    @staticmethod
    def says(value: Json, kind: str, status: str) -> bool:
        found = (value.get("status") or {}).get("conditions") or ()
        return any(c["type"] == kind and c["status"] == status for c in found)

    # What must hold

    @invariant()
    def nobody_is_told_of_pods_that_are_nobodys(self) -> None:
        for name in getattr(self, "objects", ()):
            assert name in self.pods

    def teardown(self) -> None:
        """Every pod that is saved, and is said to be, is replaced once its machine ends."""
        if not hasattr(self, "pods"):
            return
        self.ending |= set(NODES)
        for pod in self.pods.values():
            value = self.objects.get(pod.name)
            if value is None or dismissal.saver_of(value) != pod.node or pod.is_gone:
                continue
            if pod.is_captured and pod.is_stored:
                self.say(pod, pod.node, Captured="True", Available="True", Stored="True")
                found = dismissal.decide(value, pod=self.value(pod), node=self.node(pod.node))
                assert found is not None
                assert found.is_saved


def test_pods_go_when_nothing_is_won_by_waiting_and_no_others_do() -> None:
    run_state_machine_as_test(
        LeavingMachine,
        settings=settings(
            max_examples=2000 if IS_LONG else 200, stateful_step_count=40, deadline=None
        ),
    )
