"""``docs/persistent-checkpoints.md`` names every reason of the operator, and what the chart has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from architect.api import names
from architect.core import volumes
from architect.kube.resources import PERSISTENT_CHECKPOINTS
from architect.operator import persistent, starts

CHECKOUT = Path(__file__).parents[2]
OPERATOR = CHECKOUT / "operator/architect/operator"
PAGE = (CHECKOUT / "docs/persistent-checkpoints.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
CONSTANTS = {
    persistent.CHOSEN, persistent.WAITING, persistent.NO_STORE, persistent.POD_GONE,
    volumes.PERSISTENT_VOLUME, starts.NOT_ASKED_FOR, starts.WRONG_PERSISTENT,
    starts.NOT_AVAILABLE, starts.NOT_ALLOWED,
}  # fmt: skip


def reasons() -> set[str]:
    text = (OPERATOR / "persistent.py").read_text(encoding="utf-8")
    return CONSTANTS | set(re.findall(r'_refused\(\s*"(\w+)"', text))


def test_every_reason_stands_on_the_page() -> None:
    assert len(reasons()) >= 14
    assert [reason for reason in sorted(reasons()) if f"`{reason}`" not in PAGE] == []
    files = (OPERATOR / "release.py", CHECKOUT / "common/architect/kube/claimants.py")
    text = "".join(file.read_text(encoding="utf-8") for file in files)
    of_claims = set(re.findall(r'(?:return|reason=) ?"([A-Z]\w+)"', text)) - {"WrongOwner"}
    assert len(of_claims) >= 8
    assert [reason for reason in sorted(of_claims) if f"`{reason}`" not in PAGE] == []


def test_the_role_on_the_page_grants_what_the_operator_asks_for() -> None:
    (text,) = [body for language, body in BLOCKS if language == "yaml"]
    role, binding = yaml.safe_load_all(text)
    (rule,) = role["rules"]
    assert rule["apiGroups"] == [names.GROUP]
    assert rule["resources"] == [PERSISTENT_CHECKPOINTS.plural]
    assert rule["verbs"] == [starts.VERB]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]


def test_the_example_is_one_of_the_counter() -> None:
    directory = CHECKOUT / "examples/01-counter"
    value = yaml.safe_load((directory / "warm.yaml").read_text())
    assert value["kind"] == PERSISTENT_CHECKPOINTS.kind
    assert value["apiVersion"] == PERSISTENT_CHECKPOINTS.api_version
    assert value["metadata"]["name"] in PAGE
    workloads = list(yaml.safe_load_all((directory / "manifest.yaml").read_text()))
    (deployment,) = [w for w in workloads if w["kind"] == "Deployment"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert value["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert persistent.query_of(
        {**value, "metadata": {**value["metadata"], "namespace": "shop"}}, has_store=True
    )


def test_what_an_application_can_do_is_code_that_runs() -> None:
    (text,) = [body for language, body in BLOCKS if language == "python"]
    found: dict[str, object] = {}
    exec(compile(text, "page", "exec"), found)
    renew = found["renew_after_a_start"]
    assert callable(renew)
    found["home"] = "the saved pod"
    renew()
    assert found["home"] != "the saved pod"


@pytest.mark.parametrize("word", ["architect-restorer", "architect.dev/start-from", "lastUsedAt"])
def test_the_page_says_what_things_are_called(word: str) -> None:
    assert word in PAGE
