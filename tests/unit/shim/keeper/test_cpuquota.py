"""Which quotas are lifted, and that they are back whatever happens."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from architect.api import names
from architect.shim.keeper import cpuquota, images

POD = "1d7d0a3c-9a4f-4c2e-8f57-6f1f0c6a1b2c"


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(names, "STATE", tmp_path)
    monkeypatch.setattr(names, "PODS", tmp_path / "pods")
    images.pod_directory(POD).mkdir(parents=True)
    return tmp_path


class Node:
    """cgroup files: a slice with a quota, the pod in it, the container in that."""

    def __init__(self, root: Path, *, version: int, pod_name: str) -> None:
        self.file, self.none = ("cpu.cfs_quota_us", "-1") if version == 1 else ("cpu.max", "max")
        self.rest = "" if version == 1 else " 100000"
        self.slice = root / "tenants.slice"
        self.pod = self.slice / pod_name
        self.container = self.pod / "c0ffee"
        self.container.mkdir(parents=True)
        self.set(self.slice, "50000")
        self.set(self.pod, "20000")
        self.set(self.container, "10000")
        self.directories: Mapping[str, Path] = {"cpu" if version == 1 else "": self.container}

    def set(self, directory: Path, quota: str) -> None:
        (directory / self.file).write_text(quota + self.rest + "\n")

    def quotas(self) -> list[str]:
        return [
            (each / self.file).read_text().split()[0]
            for each in (self.slice, self.pod, self.container)
        ]


@pytest.fixture(
    params=[(1, f"pod{POD}"), (2, f"kubepods-burstable-pod{POD.replace('-', '_')}.slice")],
    ids=["v1", "v2"],
)
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Node:
    version, name = request.param
    return Node(tmp_path / "cgroup", version=version, pod_name=name)


def record() -> Path:
    return images.pod_directory(POD) / cpuquota.FILE


def test_the_containers_and_the_pods_quota_are_lifted_and_no_other(node: Node) -> None:
    with cpuquota.lifted(POD, [node.directories]):
        assert node.quotas() == ["50000", node.none, node.none]
        assert record().exists()
    assert node.quotas() == ["50000", "20000", "10000"]
    assert not record().exists()


def test_above_a_container_without_a_pod_nothing_is_touched(node: Node) -> None:
    images.pod_directory("c0ffee").mkdir()
    with cpuquota.lifted("c0ffee", [node.directories]):
        assert node.quotas() == ["50000", "20000", node.none]


def test_they_are_back_after_a_failure(node: Node) -> None:
    with pytest.raises(RuntimeError), cpuquota.lifted(POD, [node.directories]):
        raise RuntimeError
    assert node.quotas() == ["50000", "20000", "10000"]


def test_what_the_engine_writes_meanwhile_stays(node: Node) -> None:
    with cpuquota.lifted(POD, [node.directories]):
        node.set(node.container, "15000")
    assert node.quotas() == ["50000", "20000", "15000"]


def test_a_killed_keepers_successor_puts_them_back(node: Node) -> None:
    killed = cpuquota.lifted(POD, [node.directories])
    killed.__enter__()  # nothing is unwound before all is looked at
    assert node.quotas() == ["50000", node.none, node.none]
    cpuquota.recover()
    assert node.quotas() == ["50000", "20000", "10000"]
    assert not record().exists()
    killed.__exit__(None, None, None)


def test_a_cgroup_that_is_gone_is_no_matter(node: Node) -> None:
    with cpuquota.lifted(POD, [node.directories]):
        (node.container / node.file).unlink()
    assert (node.pod / node.file).read_text().split()[0] == "20000"
    assert not record().exists()


def test_without_a_quota_nothing_is_written(node: Node) -> None:
    for directory in (node.pod, node.container):
        node.set(directory, node.none)
    with cpuquota.lifted(POD, [node.directories]):
        assert not record().exists()


def test_a_record_of_another_version_is_told_and_left(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    record().write_text('{"version": 99}')
    cpuquota.recover()
    assert record().exists()
    assert "version 99" in caplog.text
