"""Claims: what must be the same of pod and node for a checkpoint to fit."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from architect.daemon.offers import Node
from support.newcomers import (
    CAPTURING,
    NODE,
    Json,
    checkpoint,
    claimed,
    fresh,
    message,
    newcomer,
)

# The template.


def test_another_template_is_told_by_what_differs():
    theirs = {"container app: image": "1", "container app: env": "2", "volume data": "3"}
    ours = {"container app: image": "9", "container app: env": "2"}
    value = checkpoint(template_hash="v1:" + "b" * 64, parts=theirs)
    assert fresh(newcomer(parts=ours), value) == "TemplateDiffers"
    assert message(newcomer(parts=ours), value) == (
        "checkpoint ckpt-old: the pod's template differs: container app: image, volume data"
    )


def test_without_the_parts_the_hashes_are_named():
    text = message(newcomer(), checkpoint(template_hash="v1:" + "b" * 64))
    assert "v1:bbbbbbbbbbbb instead of v1:aaaaaaaaaaaa" in text


def test_many_differences_are_counted():
    theirs = {f"volume v{n:02}": "1" for n in range(12)}
    text = message(newcomer(), checkpoint(template_hash="v1:b", parts=theirs))
    assert text.endswith("volume v07 and 4 more")


@pytest.mark.parametrize("other", ["v2:" + "a" * 64, "", "a" * 64])
def test_hashes_of_two_versions_say_nothing_about_each_other(other):
    assert fresh(newcomer(), checkpoint(template_hash=other)) == "TemplateHashVersion"


def test_other_managed_containers_are_named():
    value = checkpoint(containers=("app", "side"))
    assert fresh(newcomer(), value) == "ContainersDiffer"
    assert "side" in message(newcomer(), value)


def test_a_capture_of_another_template_is_not_waited_for():
    assert fresh(newcomer(), checkpoint(template_hash="v1:b", **CAPTURING)) == "TemplateDiffers"


# The node.


def needing(**requirements: Any) -> Json:
    whole = {"architecture": "amd64", "cpuFeatures": ["avx2"], "criu": "4.2", "kernel": "6.1.0"}
    return checkpoint(requirements={**whole, **requirements})


@pytest.mark.parametrize(
    ("value", "reason", "named"),
    [
        (needing(architecture="arm64"), "Architecture", "arm64"),
        (needing(cpuFeatures=["avx2", "avx512f"]), "CpuFeatures", "avx512f"),
        (needing(criu="4.1.9"), "CriuVersion", "4.1.9"),
        (needing(criu="5.2"), "CriuVersion", "5.2"),
        (needing(criu="4.20"), "CriuVersion", "4.20"),
        (needing(criu="unknown"), "CriuVersion", "unknown"),
        (checkpoint(formatVersion=3), "FormatVersion", "version 3"),
        (needing(architecture=None), "RequirementsUnknown", "architecture"),
        (needing(cpuFeatures=[]), "RequirementsUnknown", "CPU features"),
        (needing(criu=""), "RequirementsUnknown", "CRIU"),
    ],
)
def test_what_the_node_lacks_is_told_by_name(value, reason, named):
    if reason == "FormatVersion":
        value["status"]["formatVersion"] = 3
    assert fresh(newcomer(), value) == reason
    assert named in message(newcomer(), value)


def test_a_format_that_nobody_recorded_is_not_guessed():
    value = checkpoint()
    del value["status"]["formatVersion"]
    assert fresh(newcomer(), value) == "RequirementsUnknown"


@pytest.mark.parametrize("criu", ["4.2", "4.2.0", "4.2.9", "v4.2.1", "Version: 4.2.1\nGitID: v4"])
def test_a_patch_release_of_criu_does_not_matter(criu):
    assert claimed(newcomer(), needing(criu=criu)) == "old"


def test_the_kernel_is_recorded_and_not_compared():
    assert claimed(newcomer(), needing(kernel="9.9.9")) == "old"


def test_a_node_with_more_than_is_needed_restores():
    node = Node(
        architecture="amd64",
        cpu_features=frozenset({"avx2", "avx512f", "x"}),
        criu="4.2",
        format_versions=frozenset({2, 3}),
    )
    assert claimed(newcomer(), needing(cpuFeatures=["avx2", "x"]), node=node) == "old"


def test_a_node_whose_criu_is_unknown_restores_nothing():
    node = dataclasses.replace(NODE, criu="?")
    assert fresh(newcomer(), checkpoint(), node=node) == "CriuVersion"
    assert fresh(newcomer(), needing(criu="?"), node=node) == "CriuVersion"
