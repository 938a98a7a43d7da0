"""A pod starts from the PersistentCheckpoint that it names, waits for it, or says why not."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from architect.api import names
from architect.core import identity
from architect.daemon import claims, starts
from architect.daemon.claims import Fresh, Wait
from architect.daemon.offers import Node
from architect.daemon.starts import Bounds, Start

NODE = Node(architecture="amd64", cpu_features=frozenset({"avx", "avx2"}), criu="4.2.1")
POLICY = (
    '{"version":1,"migrate":"false","on_restore_failure":"fresh","start_from":"warm",'
    '"priority":null,"containers":{"app":{}}}'
)


def pod(**labels: str) -> dict[str, Any]:
    return {
        "metadata": {
            "name": "web-1",
            "namespace": "default",
            "uid": "uid-web-1",
            "labels": labels,
            "annotations": {names.POLICY: POLICY},
        },
        "spec": {"containers": [{"name": "app", "image": "web:1"}]},
    }


def source(**said: str) -> dict[str, Any]:
    told = {"Accepted": "True", "Captured": "True", "Available": "True", **said}
    return {
        "metadata": {
            "name": "warm",
            "namespace": "default",
            "uid": "uid-warm",
            "resourceVersion": "7",
            "creationTimestamp": "2030-01-01T00:00:00Z",
        },
        "status": {
            "podRef": {"name": "web-0", "uid": "uid-web-0"},
            "containers": ["app"],
            "templateHash": identity.template_hash(pod()),
            "templateParts": identity.parts(pod()),
            "formatVersion": 2,
            "capturedAt": "2030-01-01T00:00:05Z",
            "requirements": {"architecture": "amd64", "cpuFeatures": ["avx"], "criu": "4.2"},
            "conditions": [
                {"type": k, "status": v, "reason": "R", "message": f"about {k}"}
                for k, v in told.items()
            ],
        },
    }


def decide(found: dict[str, Any] | None, *, waited: float = 0.0, **more: Any) -> starts.Decision:
    asks = more.pop("asks", pod())
    return starts.decide(
        asks,
        claims.newcomer_of(asks, has_started=more.pop("has_started", False)),
        name="warm",
        source=found,
        node=more.pop("node", NODE),
        waited_seconds=waited,
        bounds=Bounds(),
    )


def test_the_annotation_names_it() -> None:
    assert starts.source_of(pod()) == "warm"


def test_a_label_asks_for_a_fresh_start_instead() -> None:
    assert starts.source_of(pod(**{names.FRESH: "true"})) is None


@pytest.mark.parametrize("policy", [None, "{", POLICY.replace('"warm"', "null")])
def test_a_pod_without_one_starts_from_none(policy: str | None) -> None:
    asks = pod()
    asks["metadata"]["annotations"] = {} if policy is None else {names.POLICY: policy}
    assert starts.source_of(asks) is None


def test_what_is_available_and_fits_is_started_from() -> None:
    assert decide(source()) == Start(template_hash=identity.template_hash(pod()))


@pytest.mark.parametrize(
    ("found", "seconds"),
    [
        (None, 10.0),
        (source(Accepted="Unknown", Captured="Unknown", Available="Unknown"), 60.0),
        (source(Available="Unknown"), 60.0),
    ],
)
def test_what_is_not_there_yet_is_waited_for(found: dict[str, Any] | None, seconds: float) -> None:
    first = decide(found)
    assert isinstance(first, Wait)
    assert first.seconds == seconds
    assert isinstance(decide(found, waited=seconds - 0.1), Wait)
    assert isinstance(decide(found, waited=seconds), Fresh)


@pytest.mark.parametrize(
    ("found", "reason", "text"),
    [
        (None, "NoPersistentCheckpoint", "is not there"),
        (source(Accepted="False"), "SourceRefused", "R: about Accepted"),
        (source(Failed="True"), "SourceFailed", "R: about Failed"),
        (source(Available="Unknown"), "CaptureTooSlow", "within 60 s"),
    ],
)
def test_what_will_never_be_there_is_named(
    found: dict[str, Any] | None, reason: str, text: str
) -> None:
    decision = decide(found, waited=61)
    assert isinstance(decision, Fresh)
    assert decision.reason == reason
    assert "warm" in decision.message
    assert text in decision.message


def test_one_that_is_being_deleted_is_none() -> None:
    found = source()
    found["metadata"]["deletionTimestamp"] = "2030-01-02T00:00:00Z"
    decision = decide(found, waited=11)
    assert isinstance(decision, Fresh)
    assert decision.reason == "NoPersistentCheckpoint"


def test_a_pod_that_has_run_starts_once() -> None:
    decision = decide(source(), has_started=True)
    assert isinstance(decision, Fresh)
    assert decision.reason == "Restarted"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda s: s["status"].update(templateHash="v1:" + "0" * 64), "TemplateDiffers"),
        (lambda s: s["status"].update(templateHash="v9:" + "0" * 64), "TemplateHashVersion"),
        (lambda s: s["status"].update(containers=["app", "more"]), "ContainersDiffer"),
        (lambda s: s["status"].update(formatVersion=99), "FormatVersion"),
        (lambda s: s["status"]["requirements"].update(architecture="arm64"), "Architecture"),
        (lambda s: s["status"]["requirements"].update(cpuFeatures=["amx"]), "CpuFeatures"),
        (lambda s: s["status"]["requirements"].update(criu="3.19"), "CriuVersion"),
        (lambda s: s["status"].update(requirements={}), "RequirementsUnknown"),
    ],
)
def test_what_does_not_fit_is_named(change: Any, reason: str) -> None:
    found = copy.deepcopy(source())
    change(found)
    decision = decide(found)
    assert isinstance(decision, Fresh)
    assert decision.reason == reason
