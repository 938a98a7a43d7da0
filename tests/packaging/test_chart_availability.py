"""What the chart does so that no part is away, and none keeps others from going on."""

from __future__ import annotations

import pytest

from architect.api import names
from support.rendering import NAMESPACE, find, pod_specs


@pytest.mark.parametrize("name", ["architect-operator", "architect-webhook"])
def test_the_loss_of_a_node_is_not_the_end_of_a_part(render, name):
    spec = dict(pod_specs(render()))[name]
    (term,) = spec["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    assert term["podAffinityTerm"]["topologyKey"] == "kubernetes.io/hostname"
    assert term["podAffinityTerm"]["matchLabelKeys"] == ["pod-template-hash"], "in upgrades, too"
    left = {each["key"]: each["tolerationSeconds"] for each in spec["tolerations"]}
    assert left == {
        "node.kubernetes.io/not-ready": 30,
        "node.kubernetes.io/unreachable": 30,
    }


def test_the_daemon_goes_to_every_node(render):
    spec = dict(pod_specs(render()))["architect-daemon"]
    assert spec["tolerations"] == [{"operator": "Exists"}]
    assert spec["nodeSelector"] == {"kubernetes.io/os": "linux"}


def test_the_webhook_never_keeps_the_cluster_from_starting(render):
    objects = render({"webhook": {"excludedNamespaces": ["kube-system", "critical"]}})
    for kind in ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"):
        (webhook,) = find(objects, kind, "architect-webhook")["webhooks"]
        assert webhook["failurePolicy"] == "Ignore"
        assert webhook["sideEffects"] == "None"
        assert webhook["matchPolicy"] == "Equivalent"
        assert webhook["timeoutSeconds"] == 5
        assert "caBundle" not in webhook["clientConfig"]
        (rule,) = webhook["namespaceSelector"]["matchExpressions"]
        assert rule["operator"] == "NotIn"
        assert rule["values"] == ["kube-system", "critical", NAMESPACE]
        (rule,) = webhook["objectSelector"]["matchExpressions"]
        assert rule["operator"] == "NotIn"
        assert (rule["key"], rule["values"]) == (names.WEBHOOK_LABEL, [names.WEBHOOK_IGNORE])


def test_the_mutating_webhook_is_asked_about_pods_of_ours_only(render):
    configuration = find(render(), "MutatingWebhookConfiguration", "architect-webhook")
    (webhook,) = configuration["webhooks"]
    assert webhook["reinvocationPolicy"] == "IfNeeded"
    assert webhook["rules"] == [
        {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"],
         "resources": ["pods"], "scope": "Namespaced"}
    ]  # fmt: skip
    (condition,) = webhook["matchConditions"]
    for prefix in (f"{names.GROUP}/", names.VENDOR_PREFIX, names.STATUS_LABEL_PREFIX):
        assert f"'{prefix}'" in condition["expression"]


def test_two_replicas_are_kept_apart_and_up(render):
    objects = render()
    for name in ("architect-operator", "architect-webhook"):
        deployment = find(objects, "Deployment", name)
        assert deployment["spec"]["replicas"] == 2
        assert "podAntiAffinity" in deployment["spec"]["template"]["spec"]["affinity"]
        budget = find(objects, "PodDisruptionBudget", name)
        assert budget["spec"]["minAvailable"] == 1
        assert budget["spec"]["selector"] == deployment["spec"]["selector"]


def test_one_replica_has_no_budget_that_blocks_a_drain(render):
    objects = render({"operator": {"replicas": 1}, "webhook": {"replicas": 1}})
    assert not [o for o in objects if o["kind"] == "PodDisruptionBudget"]
