"""The CRDs as files: what the API server would refuse late, and what the chart copies."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from architect.api import names
from architect.kube import checkpoints
from architect.kube.resources import CHECKPOINTS, PERSISTENT_CHECKPOINTS

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "crds").glob("*.yaml"))
KINDS = {r.kind: r for r in (CHECKPOINTS, PERSISTENT_CHECKPOINTS)}

UNDESCRIBED = {"metadata"}
"""The API server describes it."""


def load(path):
    return yaml.safe_load(path.read_text())


def schema_of(value):
    (version,) = value["spec"]["versions"]
    return version["schema"]["openAPIV3Schema"]


def fields(schema, path=""):
    for name, field in schema.get("properties", {}).items():
        yield f"{path}.{name}", field
        yield from fields(field, f"{path}.{name}")
    if "items" in schema:
        yield f"{path}[]", schema["items"]
        yield from fields(schema["items"], f"{path}[]")


def test_every_kind_has_its_file():
    assert {load(path)["spec"]["names"]["kind"] for path in FILES} == set(KINDS)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_a_file_is_named_as_its_object_and_says_what_the_code_says(path):
    value = load(path)
    spec = value["spec"]
    resource = KINDS[spec["names"]["kind"]]
    assert path.name == f"{resource.group}_{resource.plural}.yaml"
    assert value["metadata"]["name"] == f"{resource.plural}.{resource.group}"
    assert (spec["group"], spec["names"]["plural"]) == (names.GROUP, resource.plural)
    (version,) = spec["versions"]
    assert version["name"] == names.VERSION
    assert version["subresources"] == {"status": {}}
    assert (spec["scope"] == "Namespaced") == resource.is_namespaced


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_every_field_is_described_and_bounded(path):
    for name, field in fields(schema_of(load(path))):
        if name.lstrip(".") in UNDESCRIBED:
            continue
        if not name.endswith("[]"):
            assert field.get("description"), name
        if name in (".apiVersion", ".kind"):
            continue
        kind = field["type"]
        if kind == "string":
            assert {"maxLength", "enum", "format"} & field.keys(), f"{name} has no bound"
        if kind == "array":
            assert "maxItems" in field, f"{name} has no bound"
            assert "x-kubernetes-list-type" in field, f"{name} is merged as a whole"
        if kind == "object" and "additionalProperties" in field:
            assert "maxProperties" in field, f"{name} has no bound"


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_a_field_that_is_required_exists(path):
    schema = schema_of(load(path))
    for name, field in [("", schema), *fields(schema)]:
        missing = set(field.get("required", ())) - field.get("properties", {}).keys()
        assert not missing, f"{name}: {missing}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_printer_columns_name_fields_that_exist(path):
    value = load(path)
    known = {name for name, _ in fields(schema_of(value))} | {".metadata.creationTimestamp"}
    for column in value["spec"]["versions"][0]["additionalPrinterColumns"]:
        name = column["jsonPath"]
        if name.startswith(".status.conditions[?"):
            name = ".status.conditions[]" + name.rpartition("]")[2].replace(")", "")
        assert name in known, column["name"]


def test_the_trigger_of_a_checkpoint_is_one_that_the_code_knows():
    schema = schema_of(load(ROOT / "crds" / "architect.dev_checkpoints.yaml"))
    allowed = schema["properties"]["spec"]["properties"]["trigger"]["enum"]
    assert allowed == [trigger.value for trigger in checkpoints.Trigger]


def test_the_charts_copies_are_generated_from_the_sources():
    done = subprocess.run(
        [sys.executable, ROOT / "hack" / "generate_chart_crds.py", "--check"],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, f"run hack/generate_chart_crds.py: {done.stdout}{done.stderr}"
