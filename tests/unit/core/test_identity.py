"""Identity: two pods of one template are the same, and nothing else is."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from architect.api import names
from architect.core import identity
from architect.core.errors import FormatError
from architect.core.identity import Identity, Owner

Json = dict[str, Any]


def reference(kind: str = "ReplicaSet", api: str = "apps/v1", name: str = "web-6f", **more: Any):
    return {
        "apiVersion": api,
        "kind": kind,
        "name": name,
        "uid": "owner-1",
        "controller": True,
        **more,
    }


def token_volume(suffix: str) -> Json:
    return {
        "name": f"kube-api-access-{suffix}",
        "projected": {
            "defaultMode": 420,
            "sources": [
                {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
                {"configMap": {"name": "kube-root-ca.crt"}},
            ],
        },
    }


def token_mount(suffix: str) -> Json:
    return {
        "name": f"kube-api-access-{suffix}",
        "readOnly": True,
        "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
    }


def pod(
    *, name: str = "web-6f-abcde", uid: str = "1", suffix: str = "x7k2p", node: str = "n1", **spec
) -> Json:
    """Return a pod as the API server has it: admitted, bound, running, its requests lowered."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": "shop",
            "uid": uid,
            "generateName": "web-6f-",
            "resourceVersion": f"{uid}000",
            "labels": {"app": "web", "pod-template-hash": "6f"},
            "annotations": {names.IDLE: "60s"},
            "ownerReferences": [reference()],
        },
        "spec": {
            "nodeName": node,
            "restartPolicy": "Always",
            "serviceAccountName": "default",
            "serviceAccount": "default",
            "runtimeClassName": names.RUNTIME_CLASS,
            "securityContext": {"fsGroup": 1000},
            "terminationGracePeriodSeconds": 30,
            "dnsPolicy": "ClusterFirst",
            "priority": 0,
            "tolerations": [{"key": "node.kubernetes.io/not-ready", "tolerationSeconds": 300}],
            "initContainers": [{"name": "setup", "image": "localhost/setup:1"}],
            "containers": [
                {
                    "name": "app",
                    "image": "localhost/app:1",
                    "command": ["/app"],
                    "args": ["--listen", ":80"],
                    "workingDir": "/srv",
                    "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "$(A)2"}],
                    "envFrom": [{"configMapRef": {"name": "settings"}}],
                    "ports": [{"containerPort": 80, "protocol": "TCP"}],
                    "resources": {
                        "requests": {"cpu": "100m", "memory": "64Mi"},
                        "limits": {"memory": "128Mi"},
                    },
                    "resizePolicy": [{"resourceName": "cpu", "restartPolicy": "NotRequired"}],
                    "readinessProbe": {"tcpSocket": {"port": 80}},
                    "imagePullPolicy": "IfNotPresent",
                    "lifecycle": {"preStop": {"exec": {"command": ["/stop"]}}},
                    "securityContext": {"runAsUser": 1000},
                    "volumeMounts": [{"name": "data", "mountPath": "/data"}, token_mount(suffix)],
                },
                {
                    "name": "side",
                    "image": "localhost/side:1",
                    "volumeMounts": [token_mount(suffix)],
                },
            ],
            "volumes": [{"name": "data", "emptyDir": {}}, token_volume(suffix)],
            **spec,
        },
        "status": {"phase": "Running", "podIP": f"10.0.0.{uid}"},
    }


def changed(change: Callable[[Json], object], **arguments: Any) -> Json:
    value = pod(**arguments)
    change(value)
    return value


def app(value: Json) -> Json:
    found: Json = value["spec"]["containers"][0]
    return found


def of_set(name: str = "web-3", owner: str = "web", **labels: str) -> Json:
    value = pod(name=name)
    value["metadata"]["ownerReferences"] = [reference("StatefulSet", name=owner)]
    value["metadata"]["labels"] = labels
    return value


def of_job(annotation: str | None = None, label: str | None = None) -> Json:
    key = "batch.kubernetes.io/job-completion-index"
    value = pod()
    value["metadata"]["ownerReferences"] = [reference("Job", "batch/v1", "work")]
    value["metadata"]["annotations"] = {} if annotation is None else {key: annotation}
    value["metadata"]["labels"] = {} if label is None else {key: label}
    return value


def ordinal(value: Json) -> int | None:
    found = identity.identity_of(value)
    assert found is not None
    return found.ordinal


# Identity.


def test_a_replicas_identity_is_its_owner_and_its_template():
    assert identity.identity_of(pod()) == Identity(
        namespace="shop",
        owner=Owner(api_version="apps/v1", kind="ReplicaSet", name="web-6f", uid="owner-1"),
        ordinal=None,
        template_hash=identity.template_hash(pod()),
    )


def test_a_pod_and_its_replacement_on_another_node_have_the_same_identity():
    old = pod(name="web-6f-abcde", uid="1", suffix="x7k2p", node="n1")
    new = pod(name="web-6f-vwxyz", uid="2", suffix="9bcdf", node="n2")
    assert identity.identity_of(old) == identity.identity_of(new)


def test_a_pod_without_a_controller_has_none():
    value = pod()
    value["metadata"]["ownerReferences"] = [reference(controller=False)]
    assert identity.identity_of(value) is None
    del value["metadata"]["ownerReferences"]
    assert identity.identity_of(value) is None


def test_the_controller_is_the_owner_among_several():
    value = pod()
    others = [{**reference(), "uid": "group", "controller": None}, reference()]
    value["metadata"]["ownerReferences"] = others
    found = identity.identity_of(value)
    assert found is not None
    assert found.owner.uid == "owner-1"


@pytest.mark.parametrize("label", [{}, {"apps.kubernetes.io/pod-index": "3"}])
def test_a_stateful_sets_ordinal_is_in_the_name_with_or_without_the_label(label):
    assert ordinal(of_set(**label)) == 3


def test_an_ordinal_may_have_many_digits_and_the_sets_name_may_end_in_a_number():
    assert ordinal(of_set("web-2-117", "web-2")) == 117


@pytest.mark.parametrize(
    "value",
    [
        of_set("web-3", **{"apps.kubernetes.io/pod-index": "4"}),
        of_set("web-3", **{"apps.kubernetes.io/pod-index": "x"}),
        of_set("web-x"),
        of_set("web-03"),
        of_set("web--1"),
        of_set("other-3"),
        of_set("3"),
        of_set("web-99999999999"),
        of_set("web-٣"),
    ],
)
def test_a_stateful_sets_pod_whose_number_is_unclear_is_nobodys(value):
    assert identity.identity_of(value) is None


def test_a_set_of_another_group_does_not_count_its_pods():
    value = of_set()
    value["metadata"]["ownerReferences"][0]["apiVersion"] = "apps.example.com/v1"
    assert ordinal(value) is None


def test_an_indexed_jobs_ordinal_is_its_completion_index():
    assert ordinal(of_job(annotation="5", label="5")) == 5
    assert ordinal(of_job(annotation="0")) == 0
    assert ordinal(of_job(label="7")) == 7


def test_the_jobs_controller_believes_the_annotation_and_so_do_we():
    assert ordinal(of_job(annotation="5", label="6")) == 5


@pytest.mark.parametrize("index", ["", "-1", "x", "1.0"])
def test_a_job_without_an_index_has_no_ordinal(index):
    assert ordinal(of_job()) is None
    assert ordinal(of_job(annotation=index)) is None


@pytest.mark.parametrize(
    "value",
    [
        {"metadata": {"ownerReferences": "x"}},
        {"metadata": {"ownerReferences": [{"controller": True, "kind": 3}]}},
        {"metadata": []},
        {"spec": {"containers": [{}]}, "metadata": {"ownerReferences": [reference()]}},
    ],
)
def test_what_is_not_a_pod_is_a_format_error(value):
    with pytest.raises(FormatError):
        identity.identity_of(value)


# What the hash does not see.


def test_the_hash_has_its_version_and_fits_the_checkpoint_kind():
    digest = identity.template_hash(pod())
    assert digest.startswith("v1:")
    assert len(digest) == 3 + 64
    assert identity.hash_version(digest) == "v1"
    assert identity.hash_version("abc") == ""


def test_the_hash_is_the_same_in_every_process_and_release():
    """A change of what is hashed needs a new version: old checkpoints are still about."""
    minimal = {"spec": {"containers": [{"name": "app", "image": "a"}]}}
    assert identity.template_hash(minimal) == GOLDEN_MINIMAL
    assert identity.template_hash(pod()) == GOLDEN_FULL


GOLDEN_MINIMAL = "v1:f799fe1bbb33188c6fca35ede46b2869c235578c50a9232ef80df4e50d6dde70"
GOLDEN_FULL = "v1:f949313e2c6a798a0308acd648df28f7f58ab11a028ae7b382a48aa4c28a926a"


def set_metadata(value: Json) -> None:
    value["metadata"]["annotations"] = {names.POLICY: "{}", names.ORIGINAL_REQUESTS: "{}", "a": "b"}
    value["metadata"]["labels"] = {f"{names.STATUS_LABEL_PREFIX}app": "SCALED_DOWN"}
    value["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"


INSENSITIVE: dict[str, Callable[[Json], object]] = {
    "annotations, labels, deletion": set_metadata,
    "status": lambda p: p.update(status={"phase": "Failed"}),
    "status gone": lambda p: p.pop("status"),
    "node": lambda p: p["spec"].pop("nodeName"),
    "hostname": lambda p: p["spec"].update(hostname="web-0", subdomain="web"),
    "tolerations": lambda p: p["spec"]["tolerations"].append({"key": "memory-pressure"}),
    "no tolerations": lambda p: p["spec"].pop("tolerations"),
    "priority": lambda p: p["spec"].update(priority=1000, priorityClassName="high"),
    "preemption": lambda p: p["spec"].update(preemptionPolicy="Never"),
    "affinity": lambda p: p["spec"].update(affinity={"nodeAffinity": {}}, nodeSelector={"a": "b"}),
    "spread": lambda p: p["spec"].update(topologySpreadConstraints=[{"maxSkew": 1}]),
    "scheduler": lambda p: p["spec"].update(schedulerName="x", schedulingGates=[{"name": "g"}]),
    "group": lambda p: p["spec"].update(workloadRef={"name": "w"}, schedulingGroup={"a": "b"}),
    "overhead": lambda p: p["spec"].update(overhead={"cpu": "1m"}),
    "pull": lambda p: p["spec"].update(imagePullSecrets=[{"name": "s"}]),
    "pull policy": lambda p: app(p).update(imagePullPolicy="Always"),
    "ephemeral container": lambda p: p["spec"].update(ephemeralContainers=[{"name": "debug"}]),
    "gates, deadline": lambda p: p["spec"].update(readinessGates=[{}], activeDeadlineSeconds=9),
    "old account name": lambda p: p["spec"].pop("serviceAccount"),
    "requests": lambda p: app(p)["resources"]["requests"].update(cpu="1m", memory="1Ki"),
    "no requests": lambda p: app(p)["resources"].pop("requests"),
    "requests of a bare container": lambda p: p["spec"]["containers"][1].update(
        resources={"requests": {"cpu": "1m"}}
    ),
    "empty resources": lambda p: p["spec"]["containers"][1].update(resources={}),
    "pod requests": lambda p: p["spec"].update(resources={"requests": {"cpu": "1m"}}),
    "resize policy": lambda p: app(p).pop("resizePolicy"),
    "probes": lambda p: app(p).update(livenessProbe={"exec": {"command": ["x"]}}, startupProbe={}),
    "null": lambda p: (app(p).update(stdin=None), p["spec"].update(hostAliases=None)),
    "null inside": lambda p: app(p)["ports"][0].update(name=None),
    "mount order": lambda p: app(p)["volumeMounts"].reverse(),
    "volume order": lambda p: p["spec"]["volumes"].reverse(),
}


@pytest.mark.parametrize("change", INSENSITIVE.values(), ids=INSENSITIVE.keys())
def test_what_differs_between_pods_of_one_template_does_not_count(change):
    value = changed(change)
    assert value != pod()
    assert identity.template_hash(value) == identity.template_hash(pod())
    assert identity.parts(value) == identity.parts(pod())


# What the hash sees, and how it is called.


SENSITIVE: dict[str, Callable[[Json], object]] = {
    "container app: image": lambda p: app(p).update(image="localhost/app:2"),
    "container app: command": lambda p: app(p).update(command=["/app", "-v"]),
    "container app: args": lambda p: app(p)["args"].reverse(),
    "container app: workingDir": lambda p: app(p).pop("workingDir"),
    "container app: env": lambda p: app(p)["env"].reverse(),
    "container app: envFrom": lambda p: app(p).pop("envFrom"),
    "container app: ports": lambda p: app(p)["ports"][0].update(containerPort=81),
    "container app: volumeMounts": lambda p: app(p)["volumeMounts"][0].update(readOnly=True),
    "container app: securityContext": lambda p: app(p)["securityContext"].update(runAsUser=0),
    "container app: resources": lambda p: app(p)["resources"]["limits"].update(memory="1Gi"),
    "container app: lifecycle": lambda p: app(p).pop("lifecycle"),
    "container app: stdin": lambda p: app(p).update(stdin=True),
    "container app: aFieldOfLater": lambda p: app(p).update(aFieldOfLater={"x": 1}),
    "init container setup: image": lambda p: p["spec"]["initContainers"][0].update(image="x"),
    "init container setup: restartPolicy": lambda p: p["spec"]["initContainers"][0].update(
        restartPolicy="Always"
    ),
    "init container setup: resources": lambda p: p["spec"]["initContainers"][0].update(
        resources={"limits": {"cpu": "1"}}
    ),
    "containers": lambda p: p["spec"]["containers"].reverse(),
    "volume data": lambda p: p["spec"]["volumes"][0].update(emptyDir={"medium": "Memory"}),
    "volume kube-api-access": lambda p: p["spec"]["volumes"][1]["projected"].update(defaultMode=1),
    "securityContext": lambda p: p["spec"]["securityContext"].update(fsGroup=1),
    "serviceAccountName": lambda p: p["spec"].update(serviceAccountName="other"),
    "runtimeClassName": lambda p: p["spec"].pop("runtimeClassName"),
    "shareProcessNamespace": lambda p: p["spec"].update(shareProcessNamespace=True),
    "hostNetwork": lambda p: p["spec"].update(hostNetwork=True),
    "hostPID": lambda p: p["spec"].update(hostPID=True),
    "hostIPC": lambda p: p["spec"].update(hostIPC=True),
    "hostUsers": lambda p: p["spec"].update(hostUsers=False),
    "restartPolicy": lambda p: p["spec"].update(restartPolicy="Never"),
    "dnsPolicy": lambda p: p["spec"].update(dnsPolicy="Default"),
    "resources": lambda p: p["spec"].update(resources={"limits": {"memory": "1Gi"}}),
    "aFieldOfLater": lambda p: p["spec"].update(aFieldOfLater=[]),
}


@pytest.mark.parametrize("part", SENSITIVE)
def test_what_a_process_was_started_with_counts_and_is_named(part):
    value = changed(SENSITIVE[part])
    assert identity.template_hash(value) != identity.template_hash(pod())
    assert identity.differences(identity.parts(pod()), identity.parts(value)) == (part,)


def test_each_part_changes_the_hash_in_its_own_way():
    hashes = {identity.template_hash(changed(change)) for change in SENSITIVE.values()}
    assert len(hashes) == len(SENSITIVE)


def test_init_containers_run_in_their_order():
    two = [{"name": "a", "image": "i"}, {"name": "b", "image": "i"}]
    first, second = pod(initContainers=two), pod(initContainers=two[::-1])
    assert identity.differences(identity.parts(first), identity.parts(second)) == (
        "initContainers",
    )


def test_a_container_or_volume_that_one_side_lacks_is_named_once():
    more = changed(
        lambda p: (
            p["spec"]["containers"].append({"name": "new", "image": "i", "command": ["c"]}),
            p["spec"]["volumes"].append({"name": "cache", "emptyDir": {}}),
        )
    )
    here, there = identity.parts(pod()), identity.parts(more)
    expected = ("container new", "containers", "volume cache")
    assert identity.differences(here, there) == identity.differences(there, here) == expected


def test_the_claim_of_another_ordinal_is_another_volume():
    def claim(name: str) -> Json:
        return pod(volumes=[{"name": "data", "persistentVolumeClaim": {"claimName": name}}])

    assert identity.template_hash(claim("data-web-0")) != identity.template_hash(
        claim("data-web-1")
    )


def test_a_container_that_does_not_see_the_token_is_another_one():
    value = changed(lambda p: p["spec"]["containers"][1].pop("volumeMounts"))
    assert identity.differences(identity.parts(pod()), identity.parts(value)) == (
        "container side: volumeMounts",
    )


def test_a_pod_without_a_token_differs_by_the_volumes_name():
    value = changed(
        lambda p: (
            p["spec"]["volumes"].pop(),
            p["spec"]["containers"][1].pop("volumeMounts"),
            app(p)["volumeMounts"].pop(),
        )
    )
    assert "volume kube-api-access" in identity.differences(
        identity.parts(pod()), identity.parts(value)
    )


def test_a_users_volume_that_looks_like_the_tokens_keeps_its_name():
    def named(name: str) -> Json:
        return pod(volumes=[{"name": name, "emptyDir": {}}])

    one, other = named("kube-api-access-aaaaa"), named("kube-api-access-bbbbb")
    assert identity.template_hash(one) != identity.template_hash(other)


def test_two_token_volumes_keep_their_names_so_that_mounts_cannot_be_swapped():
    def mounting(first: str, second: str) -> Json:
        value = pod(volumes=[token_volume("aaaaa"), token_volume("bbbbb")])
        app(value)["volumeMounts"] = [
            {"name": f"kube-api-access-{first}", "mountPath": "/one"},
            {"name": f"kube-api-access-{second}", "mountPath": "/two"},
        ]
        return value

    assert identity.template_hash(mounting("aaaaa", "bbbbb")) != identity.template_hash(
        mounting("bbbbb", "aaaaa")
    )


def test_with_two_token_volumes_their_order_still_means_nothing():
    two = [token_volume("aaaaa"), token_volume("bbbbb")]
    assert identity.template_hash(pod(volumes=two)) == identity.template_hash(
        pod(volumes=two[::-1])
    )


def test_a_users_volume_of_the_short_name_is_not_taken_for_the_tokens():
    def mounting(first: str, second: str) -> Json:
        users = {"name": "kube-api-access", "emptyDir": {}}
        value = pod(volumes=[users, token_volume("aaaaa")])
        app(value)["volumeMounts"] = [
            {"name": first, "mountPath": "/one"},
            {"name": second, "mountPath": "/two"},
        ]
        return value

    names_used = ("kube-api-access", "kube-api-access-aaaaa")
    assert identity.template_hash(mounting(*names_used)) != identity.template_hash(
        mounting(*names_used[::-1])
    )


def test_a_template_with_very_many_parts_is_explained_by_container():
    many = [{"name": f"c{n}", "image": "i", "command": ["c"], "env": []} for n in range(90)]
    first, second = pod(containers=many), pod(containers=copy.deepcopy(many))
    second["spec"]["containers"][7]["image"] = "j"
    assert len(identity.parts(first)) <= identity.MAX_PARTS
    assert identity.differences(identity.parts(first), identity.parts(second)) == ("container c7",)


# Properties.

scalars = st.none() | st.booleans() | st.integers(-2, 2) | st.text(max_size=3)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=4,
)
labels = st.text("abxyz", min_size=1, max_size=4)


@st.composite
def containers(draw: st.DrawFn) -> list[Json]:
    found = draw(st.lists(labels, min_size=1, max_size=3, unique=True))
    made = []
    for name in found:
        mounts = draw(st.lists(labels, max_size=3, unique=True))
        made.append(
            {
                **draw(st.dictionaries(labels, values, max_size=4)),
                "name": name,
                "image": draw(labels),
                "env": draw(
                    st.lists(st.fixed_dictionaries({"name": labels, "value": labels}), max_size=3)
                ),
                "volumeMounts": [{"name": v, "mountPath": f"/{v}"} for v in mounts],
                "resources": {
                    "requests": {"cpu": draw(labels)},
                    "limits": draw(st.dictionaries(labels, labels, max_size=2)),
                },
            }
        )
    return made


@st.composite
def pods(draw: st.DrawFn) -> Json:
    found = draw(st.lists(labels, max_size=4, unique=True))
    return {
        "metadata": {"name": draw(labels), "uid": draw(labels), "namespace": "shop"},
        "spec": {
            **draw(st.dictionaries(labels, values, max_size=4)),
            "containers": draw(containers()),
            "volumes": [
                {"name": v, **draw(st.dictionaries(labels, values, max_size=2))} for v in found
            ],
        },
    }


def admitted(template: Json, draw: Callable[[st.SearchStrategy[Any]], Any]) -> Json:
    """Return the pod that some node gets of *template*: another one each time."""
    made = copy.deepcopy(template)
    suffix = draw(st.text("bcd29", min_size=5, max_size=5))
    spec = made["spec"]
    spec["volumes"].append(token_volume(suffix))
    for container in spec["containers"]:
        container["volumeMounts"].append(token_mount(suffix))
        container["resources"]["requests"] = draw(st.dictionaries(labels, labels, max_size=2))
        container["readinessProbe"] = {"tcpSocket": {"port": draw(st.integers(1, 65535))}}
    spec["volumes"] = draw(st.permutations(spec["volumes"]))
    spec.update(
        nodeName=draw(labels),
        tolerations=draw(st.lists(st.dictionaries(labels, labels, max_size=2), max_size=2)),
        priority=draw(st.integers()),
        hostname=draw(labels),
    )
    made["metadata"] = {
        "name": draw(labels),
        "uid": draw(labels),
        "namespace": "shop",
        "annotations": draw(st.dictionaries(labels, labels, max_size=2)),
        "labels": draw(st.dictionaries(labels, labels, max_size=2)),
        "ownerReferences": [reference()],
    }
    made["status"] = draw(st.dictionaries(labels, values, max_size=2))
    result: Json = shuffled(made, random.Random(draw(st.integers())))
    return result


def shuffled(value: Any, source: random.Random) -> Any:
    """Return *value* with the keys of every object in another order."""
    if isinstance(value, dict):
        keys = list(value)
        source.shuffle(keys)
        return {key: shuffled(value[key], source) for key in keys}
    if isinstance(value, list):
        return [shuffled(item, source) for item in value]
    return value


@given(template=pods(), data=st.data())
def test_all_pods_of_a_template_have_the_same_hash_and_parts(template, data):
    one, other = admitted(template, data.draw), admitted(template, data.draw)
    assert identity.template_hash(one) == identity.template_hash(other)
    assert identity.parts(one) == identity.parts(other)
    assert identity.identity_of(one) == identity.identity_of(other)


@given(template=pods())
def test_nothing_given_is_changed(template):
    before = copy.deepcopy(template)
    identity.template_hash(template)
    identity.parts(template)
    assert template == before


@given(one=pods(), data=st.data())
def test_hashes_are_equal_exactly_if_no_part_differs(one, data):
    other = data.draw(st.just(one) | pods())
    is_equal = identity.template_hash(one) == identity.template_hash(other)
    assert is_equal == (not identity.differences(identity.parts(one), identity.parts(other)))


@given(template=pods(), data=st.data())
def test_another_value_in_any_container_gives_another_hash_and_its_name(template, data):
    changed_pod = copy.deepcopy(template)
    container = data.draw(st.sampled_from(changed_pod["spec"]["containers"]))
    key = data.draw(st.sampled_from(["image", "command", "newField", "securityContext"]))
    container[key] = {"is": "another", "than": container.get(key)}
    assert identity.template_hash(changed_pod) != identity.template_hash(template)
    assert identity.differences(identity.parts(template), identity.parts(changed_pod)) == (
        f"container {container['name']}: {key}",
    )


@given(value=values)
def test_whatever_is_in_its_place_gives_a_hash_or_a_format_error(value):
    for shape in ({"spec": value}, {"spec": {"containers": value}}, {"spec": {"volumes": value}}):
        try:
            assert identity.template_hash(shape).startswith("v1:")
        except FormatError:
            continue
