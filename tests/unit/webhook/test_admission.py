"""Admission: what is answered to which request, on the wire and off it."""

from __future__ import annotations

import base64
import json
from typing import Any

import jsonpatch
import pytest
from hypothesis import given
from hypothesis import strategies as st

from architect.api import names
from architect.api.policy import Policy
from architect.core.errors import FormatError
from architect.webhook import admission, patch, review
from architect.webhook.review import Answer, Request

Json = dict[str, Any]
VENDOR = names.VENDOR_PREFIX


def pod(annotations: Json | None = None, **spec: Any) -> Json:
    spec.setdefault("containers", [{"name": "app"}])
    return {
        "kind": "Pod",
        "metadata": {"generateName": "web-", "annotations": annotations or {}},
        "spec": spec,
    }


def asked(value: Json, *, operation: str = "CREATE", old: Json | None = None) -> Request:
    return Request(
        uid="u-1",
        kind=value["kind"],
        operation=operation,
        namespace="default",
        object=value,
        old_object=old or {},
    )


def workload(kind: str, template: Json) -> Json:
    bare = {"metadata": template["metadata"], "spec": template["spec"]}
    value: Json = {"kind": kind, "metadata": {"name": "web"}}
    if kind == "CronJob":
        value["spec"] = {"schedule": "* * * * *", "jobTemplate": {"spec": {"template": bare}}}
    elif kind == "PodTemplate":
        value["template"] = bare
    else:
        value["spec"] = {"template": bare}
    return value


def after(value: Json, answer: Answer) -> Json:
    """Apply the patch as the API server does, by another implementation."""
    changed: Json = jsonpatch.apply_patch(value, list(answer.patch))
    return changed


IDLE = {names.IDLE: "60s"}
KINDS = ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job", "CronJob", "PodTemplate")


def test_a_managed_pod_gets_class_policy_and_label() -> None:
    answer = admission.mutate(asked(pod(IDLE)))
    assert (answer.result, answer.message, answer.warnings) == (admission.MANAGED, "", ())
    found = after(pod(IDLE), answer)
    assert found["spec"]["runtimeClassName"] == names.RUNTIME_CLASS
    assert found["metadata"]["labels"] == {"status.architect.dev/app": "RUNNING"}
    written = Policy.from_json(found["metadata"]["annotations"][names.POLICY])
    assert written.containers["app"].idle_seconds == 60.0


PODS = [
    pod(),
    pod(IDLE),
    pod({**IDLE, names.POLICY: "forged"}),
    pod({names.POLICY: "forged"}),
    pod({**IDLE, names.RUNTIME: "runsc"}),
    pod({**IDLE, names.POLICY: "forged"}, hostNetwork=True),
    pod(IDLE, runtimeClassName="kata"),
    pod(IDLE, runtimeClassName=names.RUNTIME_CLASS_GVISOR),
    pod(
        {
            f"{VENDOR}managed-containers": '["app"]',
            f"{VENDOR}health-check-proxy": '{"mappings": [{"containerName": "app", '
            '"appPort": 8080, "shadowPort": 9080}]}',
        },
        containers=[
            {"name": "sidecar"},
            {"name": "app", "livenessProbe": {"httpGet": {"port": 9080}}},
        ],
    ),
]


@pytest.mark.parametrize("value", PODS)
def test_a_second_call_on_its_own_result_changes_nothing(value: Json) -> None:
    first = admission.mutate(asked(value))
    once = after(value, first)
    second = admission.mutate(asked(once))
    assert second.patch == []
    assert second.result == first.result


def test_a_sidecar_that_another_webhook_adds_is_read_at_the_second_call() -> None:
    once = after(pod(IDLE), admission.mutate(asked(pod(IDLE))))
    once["spec"]["containers"].append({"name": "mesh"})
    twice = after(once, admission.mutate(asked(once)))
    written = Policy.from_json(twice["metadata"]["annotations"][names.POLICY])
    assert set(written.containers) == {"app", "mesh"}


def test_a_pod_that_became_unmanageable_loses_its_policy_at_the_second_call() -> None:
    once = after(pod(IDLE), admission.mutate(asked(pod(IDLE))))
    once["spec"]["hostNetwork"] = True
    answer = admission.mutate(asked(once))
    assert answer.result == admission.UNMANAGED
    assert names.POLICY not in after(once, answer)["metadata"]["annotations"]


def test_a_patch_touches_only_what_is_ours() -> None:
    value = pod({**IDLE, "other/key": "~1"}, nodeSelector={"a": "b"})
    paths = {operation["path"] for operation in admission.mutate(asked(value)).patch}
    assert paths == {
        "/spec/runtimeClassName",
        "/metadata/annotations/architect.dev~1policy",
        "/metadata/labels",
    }


def test_a_pod_that_is_none_of_our_business_is_not_touched() -> None:
    answer = admission.mutate(asked(pod({"other/key": "x"})))
    assert answer == Answer(result=admission.IGNORED, patch=[])


def test_other_kinds_and_operations_are_not_touched() -> None:
    for value, operation in ((pod({names.IDLE: "x"}), "UPDATE"), ({"kind": "Node"}, "CREATE")):
        assert admission.mutate(asked(value, operation=operation)).result == admission.IGNORED


def test_a_forged_policy_is_removed_and_said_so() -> None:
    answer = admission.mutate(asked(pod({names.POLICY: "forged"})))
    assert "was removed" in answer.warnings[0]
    assert [operation["op"] for operation in answer.patch] == ["remove"]


def test_unreadable_annotations_are_refused_with_every_problem() -> None:
    answer = admission.mutate(asked(pod({names.IDLE: "soon", names.PRIORITY: "high"})))
    assert answer.result == admission.REFUSED
    assert answer.message.startswith('(1) architect.dev/idle: "soon" cannot be read; allowed: ')
    assert '(2) architect.dev/priority: "high"' in answer.message


@pytest.mark.parametrize(
    "annotations", [{**IDLE, names.RUNTIME: "runsc"}, {f"{VENDOR}managed-pod": "true"}]
)
def test_a_pod_for_which_there_is_no_handler_is_not_given_the_class(
    annotations: dict[str, str],
) -> None:
    answer = admission.mutate(asked(pod(annotations)), has_gvisor=False)
    assert (answer.result, answer.message, answer.patch) == (admission.UNMANAGED, "", [])
    assert answer.warnings[0].startswith("not managed by Architect (NoGvisor): ")
    found = admission.validate(asked(pod(annotations)), has_gvisor=False)
    assert (found.result, found.message) == (admission.UNMANAGED, "")
    answer = admission.mutate(asked(pod(annotations)), has_gvisor=True)
    assert answer.result == admission.MANAGED
    given = after(pod(annotations), answer)
    assert given["spec"]["runtimeClassName"] == names.RUNTIME_CLASS_GVISOR


def test_a_pod_that_names_the_class_of_gvisor_is_admitted_as_it_is() -> None:
    value = pod(runtimeClassName=names.RUNTIME_CLASS_GVISOR)
    answer = admission.mutate(asked(value), has_gvisor=True)
    assert (answer.result, answer.message, answer.warnings) == (admission.IGNORED, "", ())
    assert after(value, answer) == value


def test_an_unmanageable_pod_is_allowed_with_a_warning() -> None:
    answer = admission.mutate(asked(pod(IDLE, hostNetwork=True)))
    assert (answer.result, answer.message, answer.patch) == (admission.UNMANAGED, "", [])
    assert answer.warnings[0].startswith("not managed by Architect (HostNetwork): ")


@pytest.mark.parametrize("kind", KINDS)
def test_a_workload_with_an_unreadable_template_is_refused(kind: str) -> None:
    for operation in ("CREATE", "UPDATE"):
        answer = admission.validate(
            asked(workload(kind, pod({names.IDLE: "soon"})), operation=operation)
        )
        assert answer.result == admission.REFUSED
        assert 'architect.dev/idle: "soon"' in answer.message


@pytest.mark.parametrize("kind", KINDS)
def test_a_workload_that_can_be_read_is_allowed_and_never_patched(kind: str) -> None:
    answer = admission.validate(asked(workload(kind, pod(IDLE))))
    assert answer == Answer(result=admission.MANAGED)
    unmanageable = admission.validate(asked(workload(kind, pod(IDLE, hostPID=True))))
    assert unmanageable.result == admission.UNMANAGED
    assert "HostPID" in unmanageable.warnings[0]


def test_a_workload_older_than_the_webhook_can_be_scaled_and_deleted() -> None:
    old = workload("Deployment", pod({names.IDLE: "soon"}))
    new = workload("Deployment", pod({names.IDLE: "soon"}))
    new["spec"]["replicas"] = 0
    answer = admission.validate(asked(new, operation="UPDATE", old=old))
    assert answer.message == ""
    assert "cannot be read" in answer.warnings[0]
    new["spec"]["template"]["metadata"]["annotations"][names.IDLE] = "later"
    assert admission.validate(asked(new, operation="UPDATE", old=old)).message
    new["metadata"]["deletionTimestamp"] = "2030-01-01T00:00:00Z"
    assert admission.validate(asked(new, operation="UPDATE", old=old)).message == ""


def test_an_annotation_on_the_workload_itself_is_warned_about() -> None:
    value = workload("StatefulSet", pod())
    value["metadata"]["annotations"] = IDLE
    (said,) = admission.validate(asked(value)).warnings
    assert said.startswith("architect.dev/idle on the StatefulSet itself has no effect")
    value = workload("StatefulSet", pod(IDLE))
    value["metadata"]["annotations"] = IDLE
    assert admission.validate(asked(value)).warnings == ()


def test_a_kind_without_a_template_is_ignored() -> None:
    value = {"kind": "Service", "metadata": {}, "spec": {"ports": []}}
    assert admission.validate(asked(value)).result == admission.IGNORED


# On the wire.


def body(value: Any, **request: Any) -> bytes:
    asking = {
        "uid": "u-1",
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "operation": "CREATE",
        "object": value,
        **request,
    }
    return json.dumps(
        {"apiVersion": review.API_VERSION, "kind": "AdmissionReview", "request": asking}
    ).encode()


def rendered(answer: Answer) -> Json:
    request = review.parse(body(pod(), namespace="default"))
    found: Json = json.loads(review.render(request, answer))
    assert (found["apiVersion"], found["kind"]) == (review.API_VERSION, "AdmissionReview")
    response: Json = found["response"]
    assert response["uid"] == "u-1"
    return response


def test_a_request_is_read() -> None:
    request = review.parse(body(pod(IDLE), namespace="shop", oldObject=None))
    assert (request.uid, request.kind, request.operation) == ("u-1", "Pod", "CREATE")
    assert (request.namespace, request.name) == ("shop", "web-")
    assert request.object == pod(IDLE)


def test_a_patch_travels_as_base64() -> None:
    response = rendered(Answer(result="x", patch=[{"op": "remove", "path": "/a"}]))
    assert response["allowed"] is True
    assert response["patchType"] == "JSONPatch"
    assert json.loads(base64.b64decode(response["patch"])) == [{"op": "remove", "path": "/a"}]


def test_a_refusal_is_a_422_with_its_text() -> None:
    response = rendered(Answer(result="x", message="no"))
    assert response["allowed"] is False
    assert (response["status"]["code"], response["status"]["message"]) == (422, "no")
    assert "patch" not in response


def test_texts_stay_within_what_the_api_server_passes_on() -> None:
    response = rendered(Answer(result="x", message="m" * 9999, warnings=("w" * 300,) * 99))
    assert len(response["status"]["message"]) == review.MAX_MESSAGE_CHARACTERS
    assert {len(w) for w in response["warnings"]} == {review.MAX_WARNING_CHARACTERS}
    assert len(response["warnings"]) == review.MAX_WARNINGS


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["60s", "app", "Pod", "\ud800"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "kind",
                    "metadata",
                    "spec",
                    "containers",
                    "name",
                    "annotations",
                    "template",
                    "jobTemplate",
                    "readinessProbe",
                    "httpGet",
                    "port",
                    "ports",
                    "volumes",
                    "volumeMounts",
                    "securityContext",
                    "resources",
                    "limits",
                    "runtimeClassName",
                    names.IDLE,
                    names.POLICY,
                    f"{VENDOR}managed-containers",
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=25,
)
CONTAINERS = st.lists(
    st.fixed_dictionaries(
        {"name": st.sampled_from(["app", "db"])},
        optional=dict.fromkeys(
            (
                "readinessProbe",
                "ports",
                "securityContext",
                "volumeMounts",
                "resources",
                "resizePolicy",
            ),
            ANYTHING,
        ),
    ),
    max_size=2,
)
ALMOST_PODS = st.fixed_dictionaries(
    {
        "metadata": st.fixed_dictionaries(
            {"annotations": st.just(IDLE) | st.just({names.IDLE: "\ud800"}) | ANYTHING}
        ),
        "spec": st.fixed_dictionaries(
            {"containers": CONTAINERS},
            optional=dict.fromkeys(("os", "volumes", "runtimeClassName", "hostUsers"), ANYTHING),
        ),
    }
)
KIND_NAMES = st.sampled_from(["Pod", "Deployment", "CronJob", "Anything"])


@given(ANYTHING | ALMOST_PODS, KIND_NAMES, st.sampled_from(["CREATE", "UPDATE"]), ANYTHING)
def test_any_object_is_answered_or_called_malformed(
    value: Any, kind: str, operation: str, old: Any
) -> None:
    for wrapped in (value, {"kind": kind, "spec": {"template": value}}):
        raw = body(wrapped, kind={"kind": kind}, operation=operation, oldObject=old)
        for decide in (admission.mutate, admission.validate):
            try:
                request = review.parse(raw)
                answer = decide(request)
                response = json.loads(review.render(request, answer))["response"]
            except FormatError as error:
                assert str(error)
                continue
            assert answer.result in admission.RESULTS
            assert response["allowed"] is not bool(answer.message)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_called_malformed(raw: bytes) -> None:
    with pytest.raises(FormatError):
        review.parse(raw)


@given(ANYTHING)
def test_any_json_is_read_or_called_malformed(value: Any) -> None:
    envelope = {"apiVersion": review.API_VERSION, "kind": "AdmissionReview"}
    for found in (value, {**envelope, "request": value}):
        with pytest.raises(FormatError):
            review.parse(json.dumps(found).encode())


NUMBERLESS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(alphabet="ab~/", max_size=3), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(
    st.dictionaries(st.text(alphabet="ab~/", max_size=3), NUMBERLESS, max_size=4),
    st.dictionaries(st.text(alphabet="ab~/", max_size=3), NUMBERLESS, max_size=4),
)
def test_a_difference_makes_the_one_out_of_the_other(before: Json, wanted: Json) -> None:
    assert jsonpatch.apply_patch(before, patch.difference(before, wanted)) == wanted
    assert patch.difference(wanted, wanted) == []
