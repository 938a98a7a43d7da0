"""Every example works as its README says, in the real cluster."""

from __future__ import annotations

import dataclasses

import pytest

from demo import drain, stage, warm
from demo.stage import EXAMPLES, Example
from lab.cluster import Cluster
from support.tiers import sized


@pytest.fixture(scope="module")
def stocked(architect: Cluster) -> Cluster:
    stage.load_images(architect)
    return architect


@pytest.mark.concurrent
def test_every_directory_with_a_manifest_is_shown() -> None:
    found = {path.parent.name for path in EXAMPLES.glob("*/manifest.yaml")}
    assert found == {stage.COUNTERS, stage.SPOT, *(example.directory for example in stage.ALL)}


@pytest.mark.concurrent
@pytest.mark.timeout(900)
@pytest.mark.parametrize("example", stage.ALL, ids=lambda example: example.directory)
def test_the_example_sleeps_by_itself_and_wakes_with_its_state(
    example: Example, stocked: Cluster, namespace: str
) -> None:
    application = stage.apply(stocked, example, namespace=namespace)
    story = example.story(application)
    # The other ways to wake it are those of test_main_path, and the demonstration's.
    story = dataclasses.replace(story, wakes=story.wakes[: sized(1, len(story.wakes))])
    found = {result.name.partition(": ")[2]: result.value for result in story.run()}
    assert found["memory asleep"] < found["memory awake"]


@pytest.mark.timeout(900)
@pytest.mark.long
def test_drained_examples_go_on_with_memory_and_files(stocked: Cluster, namespace: str) -> None:
    for example in stage.ALL:
        # The story loads what is to be found again; its sessions do not outlive a drain.
        example.story(stage.apply(stocked, example, namespace=namespace)).close()
    found = [result.name for result in drain.show(stocked, namespace=namespace)]
    for name in ("counter", "counters-0", "counters-1", "valkey", "postgresql"):
        assert f"{name}: drained awake, first answer" in found
    assert "counter: drained asleep, first answer" in found
    # As `make demo` goes on.
    warmed = [result.name for result in warm.show(stocked, namespace=namespace)]
    assert warmed == ["warm start: saved", f"warm start: from 1 to {warm.REPLICAS} replicas"]
