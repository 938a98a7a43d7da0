"""A node loses its power right after a pod was saved there for its successor.

What is saved waits for no disk (``architect.shim.keeper.moving``). So whatever part of it is there
afterwards, either all of it is what was saved, or its reader notices; and the pod itself, whose
memory may go on elsewhere by then, never gets it back.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from architect.api import saved
from architect.checkpoint import manifest as manifests
from architect.checkpoint.manifest import Manifest
from architect.core.errors import FormatError
from architect.daemon.checkpoint import contents
from architect.daemon.moves.depot import Depot
from architect.shim.keeper import images
from bench import pagecache
from faults import pod as pods
from faults.node import Node
from faults.pod import Pod
from faults.stage import Stage
from support import checkpointdirs

pytestmark = pytest.mark.timeout(300)


def depot_of(node: Node) -> Depot:
    return Depot(
        pods=node.state / "pods",
        checkpoints=node.state / "checkpoints",
        arrivals=node.state / "arrivals",
        uploads=node.state / "uploads",
    )


def save(pod: Pod) -> Manifest:
    """Save *pod* as the daemon does it (``architect.daemon.moves.captures``), and let it go."""
    depot = depot_of(pod.node)
    pod.node.ask("capture", pod=pod.uid, reason="test", patience_seconds=5.0)
    into = depot.begin_departure(pod.uid)
    depot.link_images(pod.uid, ["app"], into=into)
    about = checkpointdirs.about(pod.uid)
    container = dataclasses.replace(about.containers["app"], tree=saved.image("app"), layer=None)
    made = contents.build(into, dataclasses.replace(about, containers={"app": container}))
    contents.write(into, made, is_durable=False)
    pod.node.ask("depart", pod=pod.uid, reason="test")
    depot.finish_departure(pod.uid)
    return made


def only_the_manifest(directory: Path) -> None:
    pagecache.settle([directory / manifests.NAME])


def every_other_file(directory: Path) -> None:
    pagecache.settle(pagecache.files_below(directory)[::2])


MOMENTS: Final[dict[str, Callable[[Path], None]]] = {
    "at-once": lambda _: None,
    "with-its-manifest": only_the_manifest,
    "with-half-of-it": every_other_file,
    # As the keeper does it half a minute later.
    "with-all-of-it": images.sync,
}


def is_taken(node: Node, uid: str, wanted: Manifest) -> bool:
    """Whether what lies on *node* is taken for what was saved, as by who serves or brings it."""
    directory = depot_of(node).departure(uid)
    if directory is None:
        return False
    try:
        found = contents.read(directory)
        if found.sha256 != wanted.sha256:  # what the Checkpoint says
            return False
        contents.verify(directory, found)
    except (FileNotFoundError, FormatError):
        return False
    return True


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("slept", [False, True], ids=["awake", "asleep"])
def test_what_was_saved_is_whole_or_its_loss_is_noticed(
    stage: Stage, moment: str, slept: bool
) -> None:
    with pods.opened(stage.node()) as pod:
        pod.run()
        who = pod.who()
        if slept:
            pod.sleep()
            pod.node.until_safe()
        made = save(pod)
        directory = depot_of(pod.node).departure(pod.uid)
        assert directory is not None
        before = {
            path.relative_to(directory): path.read_bytes()
            for path in pagecache.files_below(directory)
        }
        MOMENTS[moment](directory)
        node = pod.node
        node.disk.copy(node.directory / "after.img")
        node.cut_power()
        pod.move_to(stage.after_power_cut())

        taken = is_taken(pod.node, pod.uid, made)
        assert taken or moment != "with-all-of-it", "what was written is lost"
        if taken:
            found = depot_of(pod.node).departure(pod.uid)
            assert found is not None
            after = {
                path.relative_to(found): path.read_bytes() for path in pagecache.files_below(found)
            }
            assert after == before
        # Its successor may go on with that memory elsewhere.
        assert not pod.returns()
        assert pod.who() != who
