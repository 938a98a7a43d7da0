"""What the chart lets each part do, in the API server and on the node, and nothing beyond."""

from __future__ import annotations

import re

import pytest

from architect.api import names
from architect.daemon import rbac as daemon_rbac
from architect.kube import checkpoints
from architect.kube.rbac import Rule, flatten
from architect.operator import rbac as operator_rbac
from architect.operator import signing_requests, starts
from architect.webhook import __main__ as webhook_main
from architect.webhook import rbac as webhook_rbac
from support.rendering import EVERYTHING, Objects, arguments, find, pod_specs


def test_only_the_daemon_has_rights_on_the_node(render):
    for name, spec in pod_specs(render()):
        (container,) = spec["containers"]
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"], name
        if name == "architect-daemon":
            continue
        assert spec["securityContext"]["runAsNonRoot"], name
        assert security["capabilities"] == {"drop": ["ALL"]}, name
        assert not security["allowPrivilegeEscalation"], name
        assert not spec.get("hostPID"), name
        assert not any("hostPath" in v for v in spec.get("volumes", [])), name


def test_the_daemons_host_paths_are_those_in_names(render):
    spec = dict(pod_specs(render()))["architect-daemon"]
    assert spec["hostPID"]
    paths = {v["hostPath"]["path"] for v in spec["volumes"] if "hostPath" in v}
    assert paths == {str(names.INSTALL), str(names.RUN), str(names.STATE)}
    volumes = {v["name"]: v["hostPath"]["path"] for v in spec["volumes"] if "hostPath" in v}
    mounts = {m["name"]: m["mountPath"] for m in spec["containers"][0]["volumeMounts"]}
    assert all(mounts[name] == path for name, path in volumes.items())


def test_each_daemon_is_held_to_its_own_node(render):
    """What the expressions do is tested by ``cluster/test_claims_guarded.py``."""
    objects = render({"nameOverride": "other"}, release="blue")
    policy = find(objects, "ValidatingAdmissionPolicy", "blue-other-daemon")["spec"]
    (condition,) = policy["matchConditions"]
    assert "'system:serviceaccount:architect:blue-other-daemon'" in condition["expression"]
    assert (
        dict(pod_specs(objects))["blue-other-daemon"]["serviceAccountName"] == "blue-other-daemon"
    )
    (rule,) = policy["matchConstraints"]["resourceRules"]
    assert (rule["resources"], rule["operations"]) == (["checkpoints/status"], ["UPDATE"])
    assert (rule["apiGroups"], rule["apiVersions"]) == ([names.GROUP], [names.VERSION])
    assert policy["failurePolicy"] == "Fail"
    (node, _) = policy["variables"]
    assert f"'{signing_requests.NODE_NAME}'" in node["expression"]
    status = find(objects, "CustomResourceDefinition", "checkpoints.architect.dev")["spec"][
        "versions"
    ][0]["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"]
    named = re.findall(r"\.\?status\.\?(\w+)", str(policy))
    assert set(named) == {"node", "location", "claimedBy", "keyRelease", "conditions"}
    assert set(named) <= status.keys()
    assert all("\n" not in v["message"] for v in policy["validations"])
    binding = find(objects, "ValidatingAdmissionPolicyBinding", "blue-other-daemon")["spec"]
    assert binding == {"policyName": "blue-other-daemon", "validationActions": ["Deny"]}
    off = render({"admissionPolicy": {"enabled": False}})
    assert not [o for o in off if o["kind"].startswith("ValidatingAdmissionPolicy")]


def test_each_daemon_writes_of_persistent_checkpoints_of_its_own_node_alone(render):
    objects = render({"nameOverride": "other"}, release="blue")
    name = "blue-other-daemon-persistent"
    policy = find(objects, "ValidatingAdmissionPolicy", name)["spec"]
    beside = find(objects, "ValidatingAdmissionPolicy", "blue-other-daemon")["spec"]
    assert policy["matchConditions"] == beside["matchConditions"]
    assert policy["variables"] == beside["variables"][:1]
    (rule,) = policy["matchConstraints"]["resourceRules"]
    (like,) = beside["matchConstraints"]["resourceRules"]
    assert rule == {**like, "resources": ["persistentcheckpoints/status"]}
    assert policy["failurePolicy"] == "Fail"
    status = find(objects, "CustomResourceDefinition", "persistentcheckpoints.architect.dev")[
        "spec"
    ]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"]
    named = set(re.findall(r"\.\?status\.\?(\w+)", str(policy)))
    assert named == {"node", "podRef", "lastUsedAt", "conditions"}
    assert named <= status.keys()
    assert f"c.type == '{checkpoints.ACCEPTED}'" in str(policy)
    binding = find(objects, "ValidatingAdmissionPolicyBinding", name)["spec"]
    assert binding == {"policyName": name, "validationActions": ["Deny"]}


@pytest.mark.parametrize("kind", ["nodes", "pods"])
def test_each_daemon_writes_its_own_node_and_its_pods_alone(render, kind):
    """What the expressions do is tested by ``cluster/test_daemons_guarded.py``."""
    objects = render({"nameOverride": "other"}, release="blue")
    name = f"blue-other-daemon-{kind}"
    policy = find(objects, "ValidatingAdmissionPolicy", name)["spec"]
    beside = find(objects, "ValidatingAdmissionPolicy", "blue-other-daemon")["spec"]
    assert policy["matchConditions"] == beside["matchConditions"]
    assert policy["variables"][0] == beside["variables"][0]
    assert policy["failurePolicy"] == "Fail"
    # Whatever a daemon may patch is matched, with each subresource.
    (rule,) = policy["matchConstraints"]["resourceRules"]
    patched = {
        f"{rule.resource.plural}/{rule.subresource}".rstrip("/")
        for rule in daemon_rbac.RULES
        if rule.resource.plural == kind and "patch" in rule.verbs
    }
    assert set(rule["resources"]) == patched
    assert (rule["apiGroups"], rule["operations"]) == ([""], ["UPDATE"])
    binding = find(objects, "ValidatingAdmissionPolicyBinding", name)["spec"]
    assert binding == {"policyName": name, "validationActions": ["Deny"]}
    assert all("\n" not in v["message"] for v in policy["validations"])
    allowed = set(re.findall(r"'((?:status\.)?architect\.dev/[^']*|Architect\w+)'", str(policy)))
    assert (
        allowed
        == {
            "nodes": {
                *(names.NODE_READY_LABEL, names.NODE_GVISOR_LABEL),
                *(names.INTERRUPTION, names.SPOT_NEEDS, names.UNINSTALLED),
                *(names.NODE_CONDITION, names.NODE_GVISOR_CONDITION),
            },
            "pods": {names.STATUS_LABEL_PREFIX, names.ORIGINAL_REQUESTS, names.CONDITION_ASLEEP},
        }[kind]
    )


def test_the_webhook_makes_its_own_secret_alone(render):
    """Which RBAC cannot say; ``cluster/test_daemons_guarded.py`` tests the expression."""
    objects = render({"nameOverride": "other"}, release="blue")
    policy = find(objects, "ValidatingAdmissionPolicy", "blue-other-webhook")["spec"]
    (condition,) = policy["matchConditions"]
    assert "'system:serviceaccount:architect:blue-other-webhook'" in condition["expression"]
    (rule,) = policy["matchConstraints"]["resourceRules"]
    assert (rule["resources"], rule["operations"]) == (["secrets"], ["CREATE"])
    told = webhook_main.parse(arguments(objects, "Deployment", "blue-other-webhook"))
    assert f"'{told.secret_name}'" in policy["validations"][0]["expression"]
    binding = find(objects, "ValidatingAdmissionPolicyBinding", "blue-other-webhook")["spec"]
    assert binding == {"policyName": "blue-other-webhook", "validationActions": ["Deny"]}
    with_manager = render({"webhook": {"certificates": {"mode": "certManager"}}})
    assert not [
        o
        for o in with_manager
        if o["kind"] == "ValidatingAdmissionPolicy" and "webhook" in o["metadata"]["name"]
    ]


def test_who_may_restore_is_bound_by_nobody_and_part_of_no_other_role(render):
    objects = render()
    role = find(objects, "ClusterRole", "architect-restorer")
    assert flatten(role["rules"]) == {
        (names.GROUP, "persistentcheckpoints", "", starts.VERB),
    }
    assert not [k for k in role["metadata"]["labels"] if k.startswith("rbac.")]
    assert "annotations" not in role["metadata"]
    for value in objects:
        if value["kind"] in ("RoleBinding", "ClusterRoleBinding"):
            assert value["roleRef"]["name"] != "architect-restorer"
        if value["kind"] in ("Role", "ClusterRole") and value is not role:
            assert not [r for r in flatten(value["rules"]) if r[3] in (starts.VERB, "*")]


PARTS = {
    "operator": operator_rbac.RULES,
    "daemon": daemon_rbac.RULES,
    "webhook": webhook_rbac.RULES,
    "uninstall": operator_rbac.UNINSTALL_RULES,
}


def granted(objects: Objects, kind: str, name: str) -> frozenset[tuple[str, str, str, str]]:
    rules = [o["rules"] for o in objects if o["kind"] == kind and o["metadata"]["name"] == name]
    return flatten(rule for part in rules for rule in part)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("is_local", [False, True], ids=["cluster", "namespace"])
def test_a_part_may_do_what_its_code_declares_and_no_more(render, part, is_local):
    rules: list[Rule] = [r for r in PARTS[part] if r.is_local is is_local]
    wanted = flatten(rule.to_role_rule() for rule in rules)
    objects = render()
    kind = "Role" if is_local else "ClusterRole"
    found = granted(objects, kind, f"architect-{part}")
    # The chart may name objects where the code does not know their names.
    assert {(g, r, v) for g, r, _, v in found} == {(g, r, v) for g, r, _, v in wanted}
    assert {w for w in wanted if w[2]} <= found
    assert not any("*" in rule for rule in found)
    if wanted:
        binding = find(objects, f"{kind}Binding", f"architect-{part}")
        assert binding["roleRef"]["name"] == f"architect-{part}"
        (subject,) = binding["subjects"]
        assert subject["name"] == f"architect-{part}"
        find(objects, "ServiceAccount", f"architect-{part}")


SECRETS = ("architect-daemon-ca", "architect-checkpoint-key")


def test_nobody_but_the_operator_may_sign_or_read_the_authority_and_the_keys(render):
    """The account that certificates go to is the one that the daemons run as."""
    objects = render()
    for value in objects:
        if value["kind"] not in ("Role", "ClusterRole"):
            continue
        for group, resource, name, verb in flatten(value["rules"]):
            is_operator = value["metadata"]["name"] == "architect-operator"
            if resource == "signers":
                assert is_operator and name == names.DAEMON_SIGNER
            if resource == "secrets" and name in ("", *SECRETS) and verb != "create":
                assert is_operator and name
            if resource == "configmaps" and verb != "get":
                assert is_operator
            if resource in ("checkpoints/status", "persistentcheckpoints/status"):
                assert value["metadata"]["name"] in ("architect-operator", "architect-daemon")
            if resource.startswith("certificatesigningrequests/"):
                assert is_operator
            assert group != "*"
    assert dict(pod_specs(objects))["architect-daemon"]["serviceAccountName"] == "architect-daemon"


def test_only_daemons_reach_a_daemons_checkpoints(render):
    objects = render(EVERYTHING)
    policy = find(objects, "NetworkPolicy", "architect-daemon")
    (rule,) = [
        r for r in policy["spec"]["ingress"] if {"port": "peer", "protocol": "TCP"} in r["ports"]
    ]
    assert rule["from"] == [{"podSelector": policy["spec"]["podSelector"]}]
    assert {port["port"] for port in rule["ports"]} == {"peer", "peer-data"}


def test_with_cert_manager_the_webhook_asks_nothing_of_the_api_server(render):
    objects = render(EVERYTHING)
    assert not granted(objects, "ClusterRole", "architect-webhook")
    spec = dict(pod_specs(objects))["architect-webhook"]
    assert spec["automountServiceAccountToken"] is False


def test_every_pod_runs_as_an_account_that_exists(render):
    objects = render()
    accounts = {o["metadata"]["name"] for o in objects if o["kind"] == "ServiceAccount"}
    for name, spec in pod_specs(objects):
        assert spec["serviceAccountName"] == name
        assert name in accounts
