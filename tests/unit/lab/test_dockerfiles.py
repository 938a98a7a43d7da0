from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from lab import dockerfiles, errors, pruning

TEXT = """\
# A comment.
ARG BASE=debian
FROM ${BASE} AS build
RUN one
RUN two
FROM ${BASE} AS environment
COPY --from=build /a /a
FROM environment AS unused
FROM environment
COPY --from=build /b /b
COPY code /app
"""


def test_stages_that_are_not_needed_are_left_out() -> None:
    found = dockerfiles.instructions(TEXT, target="environment")
    assert found.splitlines() == [
        "ARG BASE=debian",
        "FROM ${BASE} AS build",
        "RUN one",
        "RUN two",
        "FROM ${BASE} AS environment",
        "COPY --from=build /a /a",
    ]
    assert "unused" not in dockerfiles.instructions(TEXT)
    with pytest.raises(errors.LabError, match="no stage other"):
        dockerfiles.instructions(TEXT, target="other")


def test_a_stage_that_is_built_already_is_replaced_by_its_image() -> None:
    environment = dockerfiles.Stage("localhost/environment:1", Path("/cache/x"))
    build = dockerfiles.Stage("localhost/build:1", Path("/cache/y"))
    found = dockerfiles.instructions(TEXT, built={"environment": environment, "build": build})
    assert found.splitlines() == [
        "ARG BASE=debian",
        "FROM localhost/environment:1",
        "COPY --from=localhost/build:1 /b /b",
        "COPY code /app",
    ]


@pytest.mark.parametrize("part", dockerfiles.CODE)
def test_every_path_that_a_dockerfile_copies_is_in_its_recipe(part: str) -> None:
    copied = set()
    text = (dockerfiles.CHECKOUT / part / "Dockerfile").read_text()
    for line in dockerfiles.instructions(text).splitlines():
        words = line.split()
        if words[0] == "COPY" and not words[1].startswith("--from="):
            copied.update(words[1:-1])
    covered = {*dockerfiles.CODE[part], "common/environment.py", "pyproject.toml"}
    if part == "daemon":
        covered.update(dockerfiles.BUNDLE)
    assert copied == covered


@pytest.mark.parametrize(
    ("changed", "rebuilt"),
    [
        ("webhook/architect/webhook/patch.py", {"webhook"}),
        ("operator/architect/operator/run.py", {"operator"}),
        ("daemon/architect/daemon/planner.py", {"daemon"}),
        ("shim/architect/shim/oci.py", {"daemon", "daemon-bundle"}),
        ("common/architect/kube/client.py", {"operator", "webhook", "daemon"}),
        ("docs/architecture.md", set()),
    ],
)
def test_a_change_rebuilds_only_what_it_is_part_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str, rebuilt: set[str]
) -> None:
    before = keys(tmp_path)
    digest = dockerfiles.digest

    def with_change(context: Path, copies: list[str]) -> str:
        is_covered = any(changed == each or changed.startswith(f"{each}/") for each in copies)
        return digest(context, copies) + ("changed" if is_covered else "")

    monkeypatch.setattr(dockerfiles, "digest", with_change)
    assert {
        key.rpartition(f"-{dockerfiles.version()}-")[0].removeprefix("image-architect-")
        for key in keys(tmp_path) - before
    } == rebuilt


def keys(root: Path) -> set[str]:
    return pruning.wanted_by_checkout(root).keys


def test_the_images_say_the_projects_version() -> None:
    told = tomllib.loads((dockerfiles.CHECKOUT / "pyproject.toml").read_text())["project"]
    for part in dockerfiles.CODE:
        text = (dockerfiles.CHECKOUT / part / "Dockerfile").read_text()
        assert f"ARG VERSION={told['version']}\n" in text
