"""Every example works as its README says, in the real cluster."""

from __future__ import annotations

import pytest

from demo import stage
from demo.stage import EXAMPLES, Example
from lab.cluster import Cluster


@pytest.fixture(scope="module")
def stocked(architect: Cluster) -> Cluster:
    stage.load_images(architect)
    return architect


def test_every_directory_with_a_manifest_is_shown() -> None:
    found = {path.parent.name for path in EXAMPLES.glob("*/manifest.yaml")}
    assert found == {example.directory for example in stage.ALL}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("example", stage.ALL, ids=lambda example: example.directory)
def test_the_example_sleeps_by_itself_and_wakes_with_its_state(
    example: Example, stocked: Cluster, namespace: str
) -> None:
    application = stage.apply(stocked, example, namespace=namespace)
    story = example.story(application)
    found = {result.name.partition(": ")[2]: result.value for result in story.run()}
    assert found["memory asleep"] < found["memory awake"]
