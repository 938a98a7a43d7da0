"""The chart's values: each is explained, used, checked, and passed on."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # it ships no types
import pytest

from lab import release as lab_release
from support.rendering import CHART, VALUES, Render, arguments, find, leaves, template


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
