"""What the chart tells each part is what the part understands, and each the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from architect.api import names
from architect.api.policy import Storage
from architect.daemon import settings as daemon_settings
from architect.daemon.peer import addresses
from architect.daemon.settings import LookAhead, SpotProvider
from architect.daemon.spot import command as spot_command
from architect.objectstore.settings import StoreSettings
from architect.operator import __main__ as operator_main
from architect.operator import settings as operator_settings
from architect.operator.kms.settings import KmsSettings
from architect.operator.retention import Limits
from architect.webhook import __main__ as webhook_main
from support.rendering import EVERYTHING, NAMESPACE, arguments, find, pod_specs


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
