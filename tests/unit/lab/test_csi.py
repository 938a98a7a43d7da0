from __future__ import annotations

import json
from pathlib import Path

from lab import csi
from lab.cluster import Cluster
from lab.csi import Call, Disk
from lab.settings import Settings


def test_what_was_done_with_a_disk_is_told_once_and_apart_from_what_was_refused(
    tmp_path: Path,
) -> None:
    disk = Disk(name="d", cluster=Cluster(settings=Settings(state=tmp_path)))
    assert (disk.calls(), disk.refusals(), disk.attached_to()) == ([], [], "")
    told = [
        {"call": "ControllerPublishVolume", "node": "node1"},
        {"call": "ControllerPublishVolume", "node": "node2", "refused": "attached to node1"},
        {"call": "NodePublishVolume", "node": "node1"},
        {"call": "NodePublishVolume", "node": "node1"},
        {"call": "NodeUnpublishVolume", "node": "node1"},
        {"call": "NodePublishVolume", "node": "node1"},
    ]
    disk.directory.mkdir(parents=True)
    (disk.directory / "calls").write_text("".join(f"{json.dumps(line)}\n" for line in told))
    assert disk.calls() == [
        Call(name="ControllerPublishVolume", node="node1"),
        Call(name="NodePublishVolume", node="node1"),
        Call(name="NodeUnpublishVolume", node="node1"),
        Call(name="NodePublishVolume", node="node1"),
    ]
    assert disk.refusals() == ["ControllerPublishVolume for node2: attached to node1"]


def test_kubernetes_is_told_that_disks_are_attached() -> None:
    (driver,) = [value for value in csi.objects() if value["kind"] == "CSIDriver"]
    assert driver["metadata"]["name"] == csi.NAME
    assert driver["spec"]["attachRequired"] is True
