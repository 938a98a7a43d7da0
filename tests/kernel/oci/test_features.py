"""``features``: the lower runtime's own. It holds for managed containers, too."""

from __future__ import annotations

import json
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # it ships no types
import pytest

from support.kinds import Making
from support.runtime import spec

NAMES = {"type": "array", "items": {"type": "string", "minLength": 1}, "uniqueItems": True}
SWITCH = {"type": "boolean"}
HOOKS = {
    *("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"),
}


def switches(*names: str) -> dict[str, Any]:
    """An object that says of each of *names* whether it is there."""
    return {"type": "object", "properties": dict.fromkeys(names, SWITCH)}


SCHEMA = {
    "type": "object",
    "required": ["ociVersionMin", "ociVersionMax"],
    "properties": {
        "ociVersionMin": {"type": "string", "pattern": r"^\d+\.\d+\.\d+"},
        "ociVersionMax": {"type": "string", "pattern": r"^\d+\.\d+\.\d+"},
        "hooks": NAMES,
        "mountOptions": NAMES,
        "annotations": {"type": "object", "additionalProperties": {"type": "string"}},
        "potentiallyUnsafeConfigAnnotations": NAMES,
        "linux": {
            "type": "object",
            "properties": {
                "namespaces": NAMES,
                "capabilities": {**NAMES, "items": {"type": "string", "pattern": "^CAP_"}},
                "cgroup": switches("v1", "v2", "systemd", "systemdUser", "rdma"),
                "seccomp": {
                    "type": "object",
                    "properties": {
                        **switches("enabled")["properties"],
                        **dict.fromkeys(
                            ("actions", "operators", "archs", "knownFlags", "supportedFlags"), NAMES
                        ),
                    },
                },
                "apparmor": switches("enabled"),
                "selinux": switches("enabled"),
                "intelRdt": switches("enabled"),
                "mountExtensions": {
                    "type": "object",
                    "properties": {"idmap": switches("enabled")},
                },
            },
        },
    },
}
"""The features structure of the runtime specification, as far as engines read it."""


@pytest.fixture
def features(make: Making) -> dict[str, Any]:
    done = make.host.call(make.program(), "features", check=False)
    if make.lower == "crun" and "unknown command" in done.stderr:
        # Before crun 1.9; containerd takes the same answer for "nothing is known".
        assert done.returncode != 0 and done.stdout == ""
        return {}
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_features_are_what_the_specification_describes(
    make: Making, features: dict[str, Any]
) -> None:
    if features:
        jsonschema.validate(features, SCHEMA)
        assert set(features["hooks"]) == HOOKS
        used = {each["type"] for each in spec([])["linux"]["namespaces"]}
        assert used <= set(features["linux"]["namespaces"])
        low, high = (version(features[f"ociVersion{end}"]) for end in ("Min", "Max"))
        assert low <= version(spec([])["ociVersion"]) <= high


def version(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.partition("-")[0].split(".")))
