"""``docs/labels-and-annotations.md``: every example is read, every message is the real one.

The examples of ``docs/migration.md`` are read, too.

Paths on the host and inside containers belong to other pages.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from architect.api import names
from architect.core import vendor_annotations
from architect.core.obstacles import why_unmanageable
from architect.webhook import admission
from architect.webhook.review import Answer, Request

PAGE = Path(__file__).parents[3] / "docs" / "labels-and-annotations.md"
TEXT = PAGE.read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w[\w ]*)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
MIGRATION = (PAGE.parent / "migration.md").read_text(encoding="utf-8")
YAML = [(kind, body, index) for index, (kind, body) in enumerate(BLOCKS) if kind[:4] == "yaml"]


def applied(body: str) -> Answer:
    value: dict[str, Any] = yaml.safe_load(body)
    request = Request(uid="u", kind=value["kind"], operation="CREATE", object=value)
    return admission.mutate(request) if value["kind"] == "Pod" else admission.validate(request)


def test_the_page_has_examples_of_every_kind() -> None:
    assert {kind for kind, _ in BLOCKS} == {"yaml", "yaml refused", "yaml warned", "text"}
    assert len(YAML) >= 14


@pytest.mark.parametrize(("kind", "body", "index"), YAML)
def test_an_example_is_answered_as_the_page_says(kind: str, body: str, index: int) -> None:
    answer = applied(body)
    if kind == "yaml":
        assert (answer.message, answer.warnings) == ("", ())
        assert answer.result == admission.MANAGED
        return
    following, said = BLOCKS[index + 1]
    assert following == "text"
    if kind == "yaml refused":
        assert answer.message == said.strip()
    else:
        assert answer.message == ""
        assert "\n".join(answer.warnings) == said.strip()


@pytest.mark.parametrize("body", re.findall(r"^```yaml\n(.*?)^```$", MIGRATION, re.M | re.S))
def test_an_example_of_the_page_about_migration_is_managed(body: str) -> None:
    answer = applied(body)
    assert (answer.message, answer.warnings) == ("", ())
    assert answer.result == admission.MANAGED


@pytest.mark.parametrize(
    "key",
    [
        value
        for name, value in sorted(vars(names).items())
        if isinstance(value, str) and name.isupper() and not value.startswith("/")
    ],
)
def test_every_name_stands_on_the_page(key: str) -> None:
    assert key in TEXT


@pytest.mark.parametrize("key", [*names.USER_ANNOTATIONS, *vendor_annotations.KEYS])
def test_every_annotation_has_a_row_of_a_table(key: str) -> None:
    assert re.search(rf"^\| `{re.escape(key)}` \|", TEXT, re.MULTILINE)


def test_every_reason_stands_on_the_page() -> None:
    source = Path(why_unmanageable.__code__.co_filename).read_text(encoding="utf-8")
    reasons = set(re.findall(r'Obstacle\(\s*"(\w+)"', source))
    assert len(reasons) > 10
    for reason in reasons:
        assert f"`{reason}`" in TEXT
