"""PersistentCheckpoints through their lives, kept within limits, against a model."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from architect.api import names
from architect.operator import retention
from architect.operator.retention import Limits
from support.tiers import IS_LONG
from unit.operator.test_retention import warm

Json = dict[str, Any]


class RetentionMachine(RuleBasedStateMachine):
    @initialize(
        count=st.sampled_from([0, 1, 3]),
        size=st.sampled_from([0, 4]),
        namespace_count=st.sampled_from([0, 1, 2]),
        namespace_size=st.sampled_from([0, 3]),
    )
    def limits_are_set(
        self, count: int, size: int, namespace_count: int, namespace_size: int
    ) -> None:
        self.limits = Limits(
            count=count, size=size, namespace_count=namespace_count, namespace_size=namespace_size
        )
        self.there: dict[str, Json] = {}
        self.day = 1

    @rule(
        size=st.integers(1, 3),
        namespace=st.sampled_from(["shop", "blog"]),
        asks=st.sampled_from(["web", "api"]),
        available=st.sampled_from(["True", "True", "True", "False", "Unknown"]),
    )
    def one_is_saved(self, size: int, namespace: str, asks: str, available: str) -> None:
        self.day += 1
        name = f"warm-{self.day}"
        self.there[name] = warm(
            name,
            namespace=namespace,
            size=size,
            captured=self.day,
            asks=asks,
            available=available,
        )

    def pick(self, data: st.DataObject) -> Json:
        return self.there[data.draw(st.sampled_from(sorted(self.there)))]

    @precondition(lambda self: bool(getattr(self, "there", None)))
    @rule(data=st.data(), is_pinned=st.booleans())
    def one_is_pinned_or_not(self, data: st.DataObject, is_pinned: bool) -> None:
        self.pick(data)["metadata"]["annotations"] = {names.PIN: "true"} if is_pinned else {}

    @precondition(lambda self: bool(getattr(self, "there", None)))
    @rule(data=st.data())
    def one_is_used(self, data: st.DataObject) -> None:
        self.day += 1
        self.pick(data)["status"]["lastUsedAt"] = f"2030-01-{self.day:02}T00:00:00Z"

    @rule()
    def the_operator_looks(self) -> None:
        before = dict(self.there)
        found = retention.excess(before.values(), self.limits)
        for end in found.ends:
            value = self.there.pop(end.persistent.name)
            assert not self.is_pinned(value), "what is pinned goes"
            assert self.is_available(value), "what is not saved yet goes"
            newer = [v for v in self.there.values() if self.is_newer_of_same(v, value)]
            assert newer, "a Deployment is left with nothing to start from"
        # Asked again it wants nothing more, and what stays too much is said.
        again = retention.excess(self.there.values(), self.limits)
        assert again.ends == ()
        assert set(again.beyond) == set(found.beyond)
        self.fits(found.beyond)

    def fits(self, beyond: tuple[str, ...]) -> None:
        kept = [v for v in self.there.values() if self.is_available(v)]
        groups = {"the cluster": (kept, self.limits.count, self.limits.size)}
        for namespace in {v["metadata"]["namespace"] for v in kept}:
            groups[f"namespace {namespace}"] = (
                [v for v in kept if v["metadata"]["namespace"] == namespace],
                self.limits.namespace_count,
                self.limits.namespace_size,
            )
        for where, (values, count, size) in groups.items():
            is_over = (count and len(values) > count) or (
                size and sum(v["status"]["bytes"] for v in values) > size
            )
            assert bool(is_over) == (where in beyond), where

    @staticmethod
    def is_pinned(value: Json) -> bool:
        return bool(value["metadata"]["annotations"].get(names.PIN) == "true")

    @staticmethod
    def is_available(value: Json) -> bool:
        return bool(value["status"]["conditions"][0]["status"] == "True")

    def is_newer_of_same(self, other: Json, value: Json) -> bool:
        return (
            self.is_available(other)
            and other["spec"] == value["spec"]
            and other["metadata"]["namespace"] == value["metadata"]["namespace"]
            and other["status"]["capturedAt"] > value["status"]["capturedAt"]
        )


def test_limits_are_kept_and_nobody_loses_their_last_one() -> None:
    run_state_machine_as_test(
        RetentionMachine,
        settings=settings(
            max_examples=2000 if IS_LONG else 200, stateful_step_count=25, deadline=None
        ),
    )
