"""The chart, rendered by helm."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # it ships no types
import pytest
import yaml

from architect.api import names
from architect.api.policy import Storage
from architect.daemon import rbac as daemon_rbac
from architect.daemon import settings as daemon_settings
from architect.daemon.peer import addresses
from architect.daemon.settings import LookAhead, SpotProvider
from architect.daemon.spot import command as spot_command
from architect.kube import checkpoints
from architect.kube.rbac import Rule, flatten
from architect.objectstore.settings import StoreSettings
from architect.operator import __main__ as operator_main
from architect.operator import rbac as operator_rbac
from architect.operator import settings as operator_settings
from architect.operator import signing_requests, starts
from architect.operator.kms.settings import KmsSettings
from architect.operator.retention import Limits
from architect.webhook import __main__ as webhook_main
from architect.webhook import rbac as webhook_rbac
from lab import release as lab_release

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "architect"
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
NAMESPACE = "architect"

Objects = list[dict[str, Any]]
Render = Callable[..., Objects]


@pytest.fixture(scope="session")
def helm() -> Path:
    """helm from the cache of the development cluster, or from PATH."""
    cache = Path(os.environ.get("ARCHITECT_CACHE") or "/var/cache/architect")
    for path in sorted(cache.glob("helm-*/bin/helm"), reverse=True):
        return path
    if found := shutil.which("helm"):
        return Path(found)
    pytest.fail(f"helm is neither in {cache} nor in PATH: build it with `python -m lab build helm`")


def template(helm: Path, values: dict[str, Any], *, release: str = "architect") -> str:
    done = subprocess.run(
        [helm, "template", release, CHART, "--namespace", NAMESPACE, "--values", "-"],
        input=json.dumps(values),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    if done.returncode != 0:
        raise AssertionError(done.stderr)
    return done.stdout


@pytest.fixture(scope="session")
def render(helm: Path) -> Render:
    known: dict[str, Objects] = {}

    def rendered(values: dict[str, Any] | None = None, *, release: str = "architect") -> Objects:
        key = json.dumps([values, release], sort_keys=True)
        if key not in known:
            text = template(helm, values or {}, release=release)
            known[key] = [value for value in yaml.safe_load_all(text) if value]
        return known[key]

    return rendered


EVERYTHING: dict[str, Any] = {
    "metrics": {"serviceMonitor": {"enabled": True, "labels": {"a": "b"}}},
    "networkPolicy": {"enabled": True},
    "gvisor": {"enabled": True, "flags": ["--platform=kvm", "--debug"]},
    "webhook": {"certificates": {"mode": "certManager"}},
    "daemon": {"engine": {"restartCommand": "rc-service containerd restart"}},
    "objectStore": {
        "bucket": "pods",
        "endpoint": "https://s3.example:9000",
        "region": "RegionOne",
        "prefix": "clusters/blue",
        "pathStyle": False,
        "caSecretName": "store-ca",
        "limits": {"count": 9, "namespaceCount": 3, "bytes": "1Ti", "namespaceBytes": "100Gi"},
        "delaySeconds": 0,
        "default": "node",
        "credentials": {"secretName": "store"},
        "serviceAccountAnnotations": {"example.com/role": "architect"},
        "kms": {
            "provider": "aws",
            "keyId": "alias/architect",
            "cluster": "blue",
            "region": "eu-west-2",
            "endpoint": "https://kms.example:8443",
            "caSecretName": "kms-ca",
            "credentials": {"secretName": "kms"},
            "unseal": True,
        },
    },
}


def find(objects: Objects, kind: str, name: str) -> dict[str, Any]:
    (found,) = [o for o in objects if o["kind"] == kind and o["metadata"]["name"] == name]
    return found


def pod_specs(objects: Objects) -> Iterator[tuple[str, dict[str, Any]]]:
    for value in objects:
        if value["kind"] in ("Deployment", "DaemonSet", "Job"):
            yield value["metadata"]["name"], value["spec"]["template"]["spec"]


def arguments(objects: Objects, kind: str, name: str) -> list[str]:
    (container,) = find(objects, kind, name)["spec"]["template"]["spec"]["containers"]
    return list(container["args"])


def leaves(values: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key)


def test_the_lab_gives_the_parts_more_time_on_a_slow_machine(render: Render):
    slow: Any = lab_release.slow(10)
    objects = render(slow)
    for path in leaves(slow):
        default, value = VALUES, slow
        for key in path:
            default, value = default[key], value[key]
        assert value == 1 if path[-1] == "replicas" else value > default, path
    assert "--cpu-threshold=0.2" in arguments(objects, "DaemonSet", "architect-daemon")
    kept = arguments(objects, "DaemonSet", "architect-daemon")
    assert f"--condition-interval-seconds={VALUES['daemon']['conditionIntervalSeconds']}" in kept
    (webhook,) = find(objects, "MutatingWebhookConfiguration", "architect-webhook")["webhooks"]
    assert webhook["timeoutSeconds"] == lab_release.WEBHOOK_MOST_SECONDS
    assert lab_release.slow(1) == {"webhook": {"timeoutSeconds": lab_release.WEBHOOK_SECONDS}}


def test_the_charts_version_is_the_projects():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert str(chart["appVersion"]) == project


def test_helm_lints_the_chart(helm):
    done = subprocess.run(
        [helm, "lint", "--strict", CHART], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout


def test_every_template_is_named_for_its_part_and_kind():
    parts = "operator|webhook|daemon|uninstall"
    pattern = re.compile(rf"(({parts})-[a-z]+|crd-[a-z.]+_[a-z]+)\.yaml|_helpers\.tpl|NOTES\.txt")
    wrong = [p.name for p in (CHART / "templates").iterdir() if not pattern.fullmatch(p.name)]
    assert wrong == []


def test_every_value_has_a_comment():
    """A key counts as explained if a comment stands above it, or above its group."""
    lines = (CHART / "values.yaml").read_text().splitlines()
    obvious = {
        "operator", "webhook", "daemon", "image", "crds", "runtimeClasses", "uninstall", "metrics",
        "networkPolicy", "certificates", "serviceMonitor", "images", "engine", "nodeSelector",
        "tolerations", "requests", "limits", "cpu", "memory", "podDisruptionBudget", "enabled",
        "kubernetes.io/os", "type", "rollingUpdate", "name", "group", "sampleMaxSeconds",
        "affinity", "updateStrategy", "credentials", "admissionPolicy", "gvisor",
    }  # fmt: skip
    for number, line in enumerate(lines):
        found = re.fullmatch(r"\s*([\w./]+):.*", line)
        if found and found.group(1) not in obvious:
            assert lines[number - 1].lstrip().startswith("#"), f"line {number + 1}: {line}"


def test_every_value_is_used_by_a_template():
    text = "\n".join(p.read_text() for p in (CHART / "templates").iterdir())
    for path in leaves(VALUES):
        whole = ".".join(path)
        # A group that is rendered as a whole, or through a variable, covers what is below it.
        prefixes = [".".join(path[:n]) for n in range(len(path), 0, -1)]
        uses = [p for p in prefixes if re.search(rf"\.Values\.{re.escape(p)}\b(?!\.)", text)]
        through = re.search(rf"\$(daemon|image|issuer)\.{re.escape('.'.join(path[1:]))}\b", text)
        parts = path[1:] and re.search(rf"\$(issuer|daemon)\.{re.escape(path[-1])}\b", text)
        group = re.search(rf"\$daemon\.{re.escape(path[1])}\b", text) if path[1:] else None
        assert uses or through or parts or group, f"{whole} is read by no template"


def test_the_schema_knows_exactly_the_values_that_there_are():
    schema = json.loads((CHART / "values.schema.json").read_text())
    jsonschema.Draft7Validator.check_schema(schema)
    jsonschema.Draft7Validator(schema).validate(VALUES)

    def compare(schema: dict[str, Any], values: dict[str, Any], path: str) -> None:
        if schema.get("additionalProperties") is not False:
            return
        known = set(schema["properties"]) - {"global"}
        if path.endswith(".resources"):
            assert values.keys() <= known
            return
        assert known == set(values), path
        for key, value in values.items():
            if isinstance(value, dict):
                compare(schema["properties"][key], value, f"{path}.{key}")

    compare(schema, VALUES, "")


@pytest.mark.parametrize(
    "values",
    [
        {"unknown": 1},
        {"operator": {"replica": 2}},
        {"daemon": {"images": {"qouta": "1Gi"}}},
        {"webhook": {"failurePolicy": "Maybe"}},
        {"webhook": {"timeoutSeconds": 31}},
        {"daemon": {"images": {"quota": "lots"}}},
        {"daemon": {"engine": {"lowerRuntime": "runc"}}},
        {"uninstall": {"onTimeout": "hang"}},
        {"spot": {"provider": "oracle"}},
        {"spot": {"endpoint": "https://metadata"}},
        {"spot": {"noticeSeconds": 0}},
        {"spot": {"lookAhead": "sometimes"}},
        {"spot": {"uploadStreams": 65}},
        {"objectStore": {"uploadStreams": 0}},
        {"objectStore": {"bucket": "Pods"}},
        {"objectStore": {"endpoint": "s3.example"}},
        {"objectStore": {"endpoint": "https://s3.example/pods"}},
        {"objectStore": {"prefix": "/pods"}},
        {"objectStore": {"region": ""}},
        {"objectStore": {"kms": {"provider": "gcp"}}},
        {"objectStore": {"kms": {"provider": "aws", "keyId": "alias/a"}}},
        {"objectStore": {"kms": {"provider": "aws", "cluster": "blue"}}},
        {"objectStore": {"kms": {"keyId": "alias/a b"}}},
    ],
)
def test_a_value_that_is_unknown_or_wrong_is_refused(helm, values):
    with pytest.raises(AssertionError, match="values don't meet the specifications of the schema"):
        template(helm, values)


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


@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["default", "everything"])
def test_every_object_is_labelled_and_in_place(render, values):
    objects = render({**values, "commonLabels": {"team": "x"}})
    seen = set()
    for value in objects:
        key = (value["kind"], value["metadata"].get("namespace"), value["metadata"]["name"])
        assert key not in seen
        seen.add(key)
        labels = value["metadata"]["labels"]
        assert labels["app.kubernetes.io/part-of"] == "architect"
        assert labels["app.kubernetes.io/instance"] == "architect"
        assert labels["team"] == "x"
        assert value["metadata"].get("namespace", NAMESPACE) == NAMESPACE
        assert len(value["metadata"]["name"]) <= 63


def test_a_long_release_name_makes_no_name_too_long(render):
    for value in render({}, release="a" * 53):
        assert len(value["metadata"]["name"]) <= 63 or value["kind"] == "CustomResourceDefinition"


def test_images_are_the_versions_and_not_pulled_when_they_are_there(render):
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    images = {}
    for name, spec in pod_specs(render()):
        (container,) = spec["containers"]
        images[name] = container["image"]
        assert container["imagePullPolicy"] == "IfNotPresent"
    assert images == {
        "architect-operator": f"localhost/architect/operator:{version}",
        "architect-webhook": f"localhost/architect/webhook:{version}",
        "architect-daemon": f"localhost/architect/daemon:{version}",
        "architect-uninstall": f"localhost/architect/operator:{version}",
    }
    other = {"image": {"registry": "r.example:5000", "repository": "a/b", "tag": "t"}}
    specs = dict(pod_specs(render(other)))
    assert specs["architect-daemon"]["containers"][0]["image"] == "r.example:5000/a/b/daemon:t"


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


def test_the_daemon_goes_to_every_node(render):
    spec = dict(pod_specs(render()))["architect-daemon"]
    assert spec["tolerations"] == [{"operator": "Exists"}]
    assert spec["nodeSelector"] == {"kubernetes.io/os": "linux"}


@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["default", "everything"])
def test_the_operator_reads_its_arguments(render, values):
    objects = render(values)
    command, found = operator_main.settings_of(
        arguments(objects, "Deployment", "architect-operator"),
        {"POD_NAME": "p", "POD_NAMESPACE": NAMESPACE},
    )
    assert (command, found.daemonset, found.lease) == (
        "run", "architect-daemon", "architect-operator",
    )  # fmt: skip
    operator_settings.host_port(found.address)
    assert found.daemon_account == "architect-daemon"
    assert found.ca_secret == "architect-daemon-ca"
    assert (found.key_secret, found.key_config_map) == ("architect-checkpoint-key",) * 2
    command, found = operator_main.settings_of(
        arguments(objects, "Job", "architect-uninstall"), {"POD_NAMESPACE": NAMESPACE}
    )
    assert (command, found.daemonset) == ("uninstall", "architect-daemon")
    deadline = find(objects, "Job", "architect-uninstall")["spec"]["activeDeadlineSeconds"]
    assert deadline > found.uninstall_timeout_seconds


@pytest.mark.parametrize("said", [True, False])
def test_the_operator_is_told_whether_to_mark_nodes_that_are_gone(render, said):
    _, found = operator_main.settings_of(
        arguments(render({"spot": {"outOfService": said}}), "Deployment", "architect-operator"),
        {"POD_NAME": "p", "POD_NAMESPACE": NAMESPACE},
    )
    assert found.spot_out_of_service is said


def test_the_operators_selector_finds_the_daemons_pods(render):
    objects = render({"nameOverride": "other"}, release="blue")
    args = arguments(objects, "Deployment", "blue-other-operator")
    (selector,) = [a.partition("=")[2] for a in args if a.startswith("--daemon-selector=")]
    daemon = find(objects, "DaemonSet", "blue-other-daemon")
    own = arguments(objects, "DaemonSet", "blue-other-daemon")
    assert f"--daemon-selector={selector}" in own
    labels = daemon["spec"]["template"]["metadata"]["labels"]
    for pair in selector.split(","):
        key, _, value = pair.partition("=")
        assert labels[key] == value
    assert daemon["spec"]["selector"]["matchLabels"].items() <= labels.items()


@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["default", "everything"])
def test_the_daemon_reads_its_arguments(render, values):
    objects = render(values)
    command, *flags = arguments(objects, "DaemonSet", "architect-daemon")
    found = daemon_settings.parse(
        flags, environment={"NODE_NAME": "n1", "POD_NAMESPACE": NAMESPACE}
    )
    assert (command, found.daemonset, found.namespace) == ("run", "architect-daemon", NAMESPACE)
    assert found.node_name == "n1"
    assert found.free_floor_bytes == 2 * 1024**3
    (container,) = find(objects, "DaemonSet", "architect-daemon")["spec"]["template"]["spec"][
        "containers"
    ]
    ports = {p["name"]: p["containerPort"] for p in container["ports"]}
    assert ports[addresses.PORT_NAME] == daemon_settings.host_port(found.peer_address)[1]
    assert ports["peer-data"] == daemon_settings.host_port(found.peer_data_address)[1]
    variables = {
        e["name"]: e["valueFrom"]["fieldRef"]["fieldPath"]
        for e in container["env"]
        if "fieldRef" in e.get("valueFrom", {})
    }
    assert variables == {"NODE_NAME": "spec.nodeName", "POD_NAMESPACE": "metadata.namespace"}
    resources = {
        e["name"]: e["valueFrom"]["resourceFieldRef"]["resource"]
        for e in container["env"]
        if "resourceFieldRef" in e.get("valueFrom", {})
    }
    assert resources == {daemon_settings.DOWNWARD["memory_limit_bytes"]: "limits.memory"}


def test_the_daemon_is_told_how_much_it_sends_at_once(render):
    values = {
        "objectStore": {"bucket": "pods", "uploadStreams": 5},
        "spot": {"uploadStreams": 20},
    }
    for given, expected in (({"objectStore": {"bucket": "pods"}}, (3, 0)), (values, (5, 20))):
        _, *flags = arguments(render(given), "DaemonSet", "architect-daemon")
        found = daemon_settings.parse(flags, environment={"MEMORY_LIMIT_BYTES": "4294967296"})
        assert (found.store_upload_streams, found.spot_upload_streams) == expected
        assert found.memory_limit_bytes == 4 * 1024**3


def test_the_daemon_is_told_who_announces_interruptions(render):
    values = {
        "spot": {
            **{"provider": "gcp", "endpoint": "http://[::1]:8080", "noticeSeconds": 150},
            "lookAhead": "always",
        }
    }
    for given, expected in (
        ({}, (SpotProvider.AUTO, "", 30, LookAhead.AUTO)),
        (values, (SpotProvider.GCP, "http://[::1]:8080", 150, LookAhead.ALWAYS)),
    ):
        _, *flags = arguments(render(given), "DaemonSet", "architect-daemon")
        found = daemon_settings.parse(flags, environment={})
        told = (found.spot_provider, found.spot_endpoint, found.spot_notice_seconds)
        assert (*told, found.spot_look_ahead) == expected


def test_the_daemon_and_who_is_run_beside_it_find_its_port(render):
    daemon = find(render({"daemon": {"metricsPort": 9999}}), "DaemonSet", "architect-daemon")
    (container,) = daemon["spec"]["template"]["spec"]["containers"]
    variables = {e["name"]: e["value"] for e in container["env"] if "value" in e}
    assert variables == {spot_command.ADDRESS: "0.0.0.0:9999"}
    found = daemon_settings.parse(container["args"][1:], environment=variables)
    assert found.metrics_address == "0.0.0.0:9999"
    ports = {p["name"]: p["containerPort"] for p in container["ports"]}
    assert ports[spot_command.PORT_NAME] == 9999


def test_operator_and_daemon_are_told_the_same_object_store(render):
    objects = render(EVERYTHING)
    _, operator = operator_main.settings_of(
        arguments(objects, "Deployment", "architect-operator"), {}
    )
    _, *flags = arguments(objects, "DaemonSet", "architect-daemon")
    daemon = daemon_settings.parse(flags, environment={})
    assert (
        operator.store
        == daemon.store
        == StoreSettings(
            bucket="pods",
            endpoint="https://s3.example:9000",
            region="RegionOne",
            prefix="clusters/blue",
            is_path_style=False,
            ca_file="/etc/architect/object-store/ca.crt",
        )
    )
    assert daemon.store_delay_seconds == 0
    assert daemon.store_default is Storage.NODE
    assert operator.limits == Limits(
        count=9, size=1 << 40, namespace_count=3, namespace_size=100 << 30
    )
    assert operator.key_config_map == daemon.key_config_map
    specs = dict(pod_specs(objects))
    for name in ("architect-operator", "architect-daemon"):
        (container,) = specs[name]["containers"]
        keys = {
            e["name"]: (s["name"], s["key"])
            for e in container["env"]
            if (s := e.get("valueFrom", {}).get("secretKeyRef"))
        }
        assert keys == {
            "AWS_ACCESS_KEY_ID": ("store", "AWS_ACCESS_KEY_ID"),
            "AWS_SECRET_ACCESS_KEY": ("store", "AWS_SECRET_ACCESS_KEY"),
        }
        assert {
            "name": "object-store",
            "secret": {"secretName": "store-ca", "items": [{"key": "ca.crt", "path": "ca.crt"}]},
        } in specs[name]["volumes"]
        assert "/etc/architect/object-store" in [
            mount["mountPath"] for mount in container["volumeMounts"]
        ]
        account = find(objects, "ServiceAccount", name)
        assert account["metadata"]["annotations"] == {"example.com/role": "architect"}


def test_without_a_bucket_there_is_no_store_and_no_credential(render):
    objects = render({"objectStore": {"credentials": {"secretName": "store"}}})
    for name, spec in pod_specs(objects):
        (container,) = spec["containers"]
        assert not [a for a in container["args"] if a.startswith("--store-")], name
        assert not [
            e for e in container.get("env", ()) if "secretKeyRef" in e.get("valueFrom", {})
        ], name
    for value in objects:
        if value["kind"] == "ServiceAccount" and "helm.sh/hook" not in str(value["metadata"]):
            assert "annotations" not in value["metadata"]


def test_the_operator_alone_is_told_what_seals_the_keys(render):
    objects = render(EVERYTHING)
    _, found = operator_main.settings_of(
        arguments(objects, "Deployment", "architect-operator"), {"POD_NAMESPACE": NAMESPACE}
    )
    assert found.kms == KmsSettings(
        key_id="alias/architect",
        cluster="blue",
        region="eu-west-2",
        endpoint="https://kms.example:8443",
        ca_file="/etc/architect/kms/ca/ca.crt",
        credentials_file="/etc/architect/kms/credentials/credentials",
        unseal=True,
    )
    for name, spec in pod_specs(objects):
        (container,) = spec["containers"]
        mounts = {m["name"]: m["mountPath"] for m in container.get("volumeMounts", ())}
        secrets = {
            v["name"]: (v["secret"]["secretName"], [i["path"] for i in v["secret"]["items"]])
            for v in spec.get("volumes", ())
            if v["name"].startswith("kms")
        }
        if name != "architect-operator":
            assert not secrets and not [a for a in container.get("args", ()) if "kms" in a], name
            continue
        assert secrets == {
            "kms-ca": ("kms-ca", ["ca.crt"]),
            "kms-credentials": ("kms", ["credentials"]),
        }
        for volume, file in (
            ("kms-ca", found.kms_ca_file),
            ("kms-credentials", found.kms_credentials_file),
        ):
            assert str(Path(file).parent) == mounts[volume]


def test_keys_are_sealed_with_the_role_of_the_account_if_nothing_else_is_said(render):
    kms = {"provider": "aws", "keyId": "alias/a", "cluster": "blue"}
    objects = render({"objectStore": {"bucket": "pods", "region": "eu-north-1", "kms": kms}})
    _, found = operator_main.settings_of(
        arguments(objects, "Deployment", "architect-operator"), {"POD_NAMESPACE": NAMESPACE}
    )
    assert found.kms == KmsSettings(key_id="alias/a", cluster="blue", region="eu-north-1")
    assert "volumes" not in dict(pod_specs(objects))["architect-operator"]
    without = render({"objectStore": {"kms": kms}})
    assert not [a for a in arguments(without, "Deployment", "architect-operator") if "kms" in a]


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


@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["default", "everything"])
def test_the_webhook_reads_its_arguments(render, values):
    objects = render(values)
    found = webhook_main.parse(arguments(objects, "Deployment", "architect-webhook"))
    service = find(objects, "Service", found.service_name)
    deployment = find(objects, "Deployment", "architect-webhook")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["ports"] == [{"name": "https", "containerPort": found.port}]
    assert service["spec"]["ports"] == [{"name": "https", "port": 443, "targetPort": "https"}]
    grace = deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace > found.drain_seconds + found.finish_seconds
    if found.tls_dir is None:
        find(objects, "MutatingWebhookConfiguration", found.mutating_configuration)
        find(objects, "ValidatingWebhookConfiguration", found.validating_configuration)
    else:
        certificate = find(objects, "Certificate", "architect-webhook")
        (volume,) = [
            v for v in deployment["spec"]["template"]["spec"]["volumes"] if v["name"] == "tls"
        ]
        assert volume["secret"]["secretName"] == certificate["spec"]["secretName"]
        assert certificate["spec"]["dnsNames"] == ["architect-webhook.architect.svc"]


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


def test_runtime_classes_lead_to_ready_nodes_and_outlive_the_release(render):
    objects = render({"gvisor": {"enabled": True}})
    classes = {o["metadata"]["name"]: o for o in objects if o["kind"] == "RuntimeClass"}
    assert set(classes) == set(names.NODE_LABELS.values())
    for label, name in names.NODE_LABELS.items():
        value = classes[name]
        assert value["handler"] == name
        assert value["scheduling"] == {"nodeSelector": {label: "true"}}
        assert value["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    sandboxed = classes[names.RUNTIME_CLASS_GVISOR]
    assert sandboxed["overhead"] == {"podFixed": VALUES["gvisor"]["overhead"]}
    assert "overhead" not in classes[names.RUNTIME_CLASS]


def test_without_gvisor_there_is_no_class_and_each_part_knows(render):
    for is_enabled in (True, False):
        objects = render({"gvisor": {"enabled": is_enabled}})
        classes = {o["metadata"]["name"] for o in objects if o["kind"] == "RuntimeClass"}
        assert (names.RUNTIME_CLASS_GVISOR in classes) is is_enabled
        told = f"--has-gvisor={str(is_enabled).lower()}"
        for kind, name in (
            ("Deployment", "operator"),
            ("Deployment", "webhook"),
            ("DaemonSet", "daemon"),
        ):
            assert told in arguments(objects, kind, f"architect-{name}")
    # Without a decision it is off: see values.yaml.
    assert "--has-gvisor=false" in arguments(render(), "DaemonSet", "architect-daemon")


def test_crds_are_kept_and_can_be_left_out(render):
    kind = "CustomResourceDefinition"
    kept = [o for o in render() if o["kind"] == kind]
    assert len(kept) == 2
    for value in kept:
        assert value["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    loose = [o for o in render({"crds": {"keep": False}}) if o["kind"] == kind]
    assert not any("annotations" in o["metadata"] for o in loose)
    assert not [o for o in render({"crds": {"enabled": False}}) if o["kind"] == kind]


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


def test_the_crds_are_rendered_as_they_are_in_the_source(render):
    for path in (ROOT / "crds").glob("*.yaml"):
        source = yaml.safe_load(path.read_text())
        found = find(render(), "CustomResourceDefinition", source["metadata"]["name"])
        assert found["spec"] == source["spec"]


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


def test_the_uninstall_runs_before_anything_is_deleted_and_can_be_switched_off(render):
    job = find(render(), "Job", "architect-uninstall")
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-delete"
    hooks = [o for o in render() if "helm.sh/hook" in o["metadata"].get("annotations", {})]
    for value in hooks:
        weight = int(value["metadata"]["annotations"]["helm.sh/hook-weight"])
        assert (weight == 0) == (value["kind"] == "Job")
    off = render({"uninstall": {"enabled": False}})
    assert not [o for o in off if o["metadata"]["name"] == "architect-uninstall"]


def test_monitors_and_policies_select_what_is_there(render):
    objects = render(EVERYTHING)
    services = {o["metadata"]["name"]: o for o in objects if o["kind"] == "Service"}
    monitors = [o for o in objects if o["kind"] == "ServiceMonitor"]
    assert len(monitors) == 3
    for monitor in monitors:
        service = services[monitor["metadata"]["name"]]
        wanted = monitor["spec"]["selector"]["matchLabels"]
        assert wanted.items() <= service["metadata"]["labels"].items()
        (endpoint,) = monitor["spec"]["endpoints"]
        assert endpoint["port"] in {p["name"] for p in service["spec"]["ports"]}
    policies = [o for o in objects if o["kind"] == "NetworkPolicy"]
    assert len(policies) == 3
