"""The chart as a whole: its objects, their names and labels, and what outlives a release."""

from __future__ import annotations

import re
import subprocess
import tomllib

import pytest
import yaml

from architect.api import names
from support.rendering import CHART, EVERYTHING, NAMESPACE, ROOT, VALUES, find, pod_specs


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


def test_crds_are_kept_and_can_be_left_out(render):
    kind = "CustomResourceDefinition"
    kept = [o for o in render() if o["kind"] == kind]
    assert len(kept) == 2
    for value in kept:
        assert value["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    loose = [o for o in render({"crds": {"keep": False}}) if o["kind"] == kind]
    assert not any("annotations" in o["metadata"] for o in loose)
    assert not [o for o in render({"crds": {"enabled": False}}) if o["kind"] == kind]


def test_the_crds_are_rendered_as_they_are_in_the_source(render):
    for path in (ROOT / "crds").glob("*.yaml"):
        source = yaml.safe_load(path.read_text())
        found = find(render(), "CustomResourceDefinition", source["metadata"]["name"])
        assert found["spec"] == source["spec"]


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
