from __future__ import annotations

import json
import ssl
from pathlib import Path

import pytest

from architect.core.errors import ConfigError, Rejected, Retryable, Unavailable
from architect.core.tls import without_strictness
from architect.kube import errors, patches, resources
from architect.kube.api import Api, PatchKind
from architect.kube.connection import connect
from architect.kube.resources import CHECKPOINTS, EVENTS, NODES, PODS, SECRETS, ObjectRef

POD = resources.pod("shop", "web-0", uid="u1")


def status(code, reason="", message="", **more):
    return {"kind": "Status", "code": code, "reason": reason, "message": message, **more}


@pytest.mark.parametrize(
    ("resource", "arguments", "path"),
    [
        (PODS, {}, "/api/v1/pods"),
        (PODS, {"namespace": "a", "name": "b"}, "/api/v1/namespaces/a/pods/b"),
        (NODES, {"name": "n", "namespace": "ignored"}, "/api/v1/nodes/n"),
        (
            CHECKPOINTS,
            {"namespace": "a", "name": "b", "subresource": "status"},
            "/apis/architect.dev/v1alpha1/namespaces/a/checkpoints/b/status",
        ),
        (EVENTS, {"namespace": "a/../b"}, "/apis/events.k8s.io/v1/namespaces/a%2F..%2Fb/events"),
    ],
)
def test_paths_are_those_of_the_api(resource, arguments, path):
    assert resource.path(**arguments) == path


def test_a_request_carries_the_token_and_who_we_are(server, api, reply):
    server.replies.append(reply(body={"metadata": {"name": "web-0"}}))
    assert api.get(PODS, "web-0", namespace="shop")["metadata"]["name"] == "web-0"
    (seen,) = server.seen
    assert seen.headers["authorization"] == "Bearer s3cret"
    assert seen.headers["User-Agent"] == "test/1"


def test_a_patch_has_its_kind_manager_and_preconditions(server, api, reply):
    server.replies.append(reply())
    api.patch(POD, {"status": {}}, kind=PatchKind.STRATEGIC, subresource="status",
              resource_version="7")  # fmt: skip
    (seen,) = server.seen
    assert seen.method == "PATCH"
    assert seen.path.endswith("/pods/web-0/status")
    assert seen.headers["Content-Type"] == "application/strategic-merge-patch+json"
    assert seen.query == {"fieldManager": "architect-test"}
    assert seen.body == {"status": {}, "metadata": {"uid": "u1", "resourceVersion": "7"}}


def test_a_resize_sets_requests_through_the_subresource(server, api, reply):
    server.replies.append(reply())
    patches.resize(api, POD, {"app": {"cpu": "1m"}})
    assert server.seen[0].path.endswith("/pods/web-0/resize")
    assert server.seen[0].body["spec"] == {
        "containers": [{"name": "app", "resources": {"requests": {"cpu": "1m"}}}]
    }


def test_nothing_to_set_is_no_request(server, api):
    assert patches.set_metadata(api, POD, labels={}) is None
    assert server.seen == []


def test_a_list_reads_every_page_and_names_its_items(server, api, reply):
    server.replies += [
        reply(body={"metadata": {"continue": "more"}, "items": [{"metadata": {"name": "a"}}]}),
        reply(body={"metadata": {"resourceVersion": "9"}, "items": [{"metadata": {"name": "b"}}]}),
    ]
    found = api.list(PODS, labels="x=y", fields="spec.nodeName=n")
    assert [i["metadata"]["name"] for i in found.items] == ["a", "b"]
    assert {(i["apiVersion"], i["kind"]) for i in found.items} == {("v1", "Pod")}
    assert found.resource_version == "9"
    assert server.seen[0].query["labelSelector"] == "x=y"
    assert server.seen[1].query["continue"] == "more"


def test_a_cached_list_asks_for_any_version_in_one_page(server, api, reply):
    server.replies.append(reply(body={"items": []}))
    api.list(PODS, is_cached=True)
    assert server.seen[0].query == {"resourceVersion": "0"}


@pytest.mark.parametrize(
    ("code", "reason", "message", "expected"),
    [
        (404, "NotFound", "gone", errors.NotFound),
        (409, "AlreadyExists", "there", errors.AlreadyExists),
        (409, "Conflict", "the object has been modified", errors.Conflict),
        (409, "Conflict", "the UID in the precondition (a) does not match", errors.NotFound),
        (422, "Invalid", "metadata.uid: Invalid value: field is immutable", errors.NotFound),
        (422, "Invalid", "spec.x: Required value", Rejected),
        (410, "Expired", "too old resource version", errors.Expired),
        (403, "Forbidden", "no", errors.Forbidden),
        (401, "Unauthorized", "who", Retryable),
        (429, "TooManyRequests", "slow", Retryable),
        (503, "ServiceUnavailable", "later", Retryable),
    ],
)
def test_refusals_become_our_errors(server, api, reply, code, reason, message, expected):
    server.replies.append(reply(status=code, body=status(code, reason, message)))
    with pytest.raises(expected) as caught:
        api.patch(POD, {})
    assert type(caught.value) is expected
    assert "patch pods shop/web-0" in str(caught.value)
    assert message in str(caught.value)


def test_a_busy_server_says_when_to_come_back(server, api, reply):
    body = status(429, "TooManyRequests", "slow", details={"retryAfterSeconds": 7})
    server.replies.append(reply(status=429, body=body))
    with pytest.raises(Retryable) as caught:
        api.get(PODS, "a", namespace="b")
    assert caught.value.delay_seconds == 7


def test_nothing_of_a_secret_reaches_an_error():
    body = json.dumps(status(422, "Invalid", 'data: Invalid value: "hunter2"')).encode()
    error = errors.translate(422, body, what="create secrets a/b", is_secret=True)
    assert "hunter2" not in str(error)


def test_secrets_are_known_as_such(server, api, reply):
    server.replies.append(reply(status=422, body=status(422, "Invalid", 'value "hunter2"')))
    ref = ObjectRef(resource=SECRETS, namespace="a", name="b")
    with pytest.raises(Rejected) as caught:
        api.create(ref, {})
    assert "hunter2" not in str(caught.value)


def test_a_body_that_is_no_status_is_not_repeated(server, api, reply):
    server.replies.append(reply(status=502, body=b"<html>token=abc</html>"))
    with pytest.raises(Retryable) as caught:
        api.get(PODS, "a", namespace="b")
    assert "abc" not in str(caught.value)


def test_a_long_message_is_cut():
    error = errors.translate(422, json.dumps(status(422, "Invalid", "x" * 9999)).encode(), what="w")
    assert len(str(error)) < errors.MAX_MESSAGE_CHARS + 100


def test_find_returns_none_for_another_object_of_that_name(server, api, reply):
    server.replies += [reply(body={"metadata": {"uid": "u2"}}), reply(status=404), reply(
        body={"metadata": {"uid": "u1"}}
    )]  # fmt: skip
    assert api.find(POD) is None
    assert api.find(POD) is None
    assert api.find(POD) == {"metadata": {"uid": "u1"}}


def test_deleting_what_is_gone_or_replaced_is_a_success(server, api, reply):
    server.replies += [
        reply(status=404),
        reply(status=409, body=status(409, "Conflict", "Precondition failed: UID in precondition")),
    ]
    api.delete(POD, resource_version="3", grace_seconds=0)
    api.delete(POD)
    assert server.seen[0].body["preconditions"] == {"uid": "u1", "resourceVersion": "3"}
    assert server.seen[0].body["gracePeriodSeconds"] == 0


def test_a_server_that_is_not_there_is_unavailable(server, kubeconfig):
    # Nobody's port: one that is given back may be another one's at once.
    kubeconfig.write_text(kubeconfig.read_text().replace(server.url, "http://127.0.0.1:1"))
    connection = connect(user_agent="t", kubeconfig=kubeconfig)
    with pytest.raises(Unavailable, match="cannot read pods a/b"):
        Api(connection, field_manager="t").get(PODS, "b", namespace="a")
    connection.close()


def test_a_server_that_does_not_answer_is_given_up(server, kubeconfig, reply):
    def never(_):
        server.released.wait(60)
        return reply()

    server.replies.append(never)
    connection = connect(user_agent="t", kubeconfig=kubeconfig)
    with pytest.raises(Unavailable):
        Api(connection, field_manager="t", timeout_seconds=0.3).get(PODS, "b", namespace="a")
    connection.close()


def test_a_missing_kubeconfig_says_what_to_do(tmp_path: Path):
    with pytest.raises(ConfigError, match="--kubeconfig"):
        connect(user_agent="t", kubeconfig=tmp_path / "none")


def test_outside_a_cluster_there_is_no_service_account(monkeypatch):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(ConfigError):
        connect(user_agent="t")


def test_credentials_are_given_to_another_client(kubeconfig, server):
    connection = connect(user_agent="t", kubeconfig=kubeconfig)
    found = connection.credentials()
    assert (found.server, found.token) == (server.url, "s3cret")
    assert "s3cret" not in repr(found)
    connection.close()


def test_an_authority_without_a_key_identifier_is_accepted_and_still_verified():
    context = without_strictness(ssl.create_default_context())
    assert not context.verify_flags & ssl.VERIFY_X509_STRICT
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
