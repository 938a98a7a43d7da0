"""The real cluster with this checkout's chart in it, once for all tests of this folder."""

from __future__ import annotations

import fcntl
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import errors, release
from lab.cluster import Cluster
from lab.progress import Progress

HERE = Path(__file__).parent
TEST_SECONDS = 600
"""For a test with what it needs, where it does not say it: several waits, each with a deadline."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each test of this folder the time in which its own deadlines pass."""
    for item in items:
        if item.path.is_relative_to(HERE) and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(TEST_SECONDS))


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    """Attach to the cluster that `make cluster-up` starts."""
    try:
        found = Cluster.attach()
    except errors.LabError as error:
        pytest.fail(f"no development cluster: {error} (hint: make cluster-up)")
    found.progress = Progress()
    return found


@pytest.fixture(scope="session")
def architect(
    cluster: Cluster, tmp_path_factory: pytest.TempPathFactory, worker_id: str
) -> Cluster:
    """Return the cluster with Architect installed and ready on every node.

    ``ARCHITECT_INSTALLED=1`` tests the release that is there instead of installing this checkout's.
    """
    if os.environ.get("ARCHITECT_INSTALLED") != "1":
        # Processes that test side by side have a folder above their own: the first one installs.
        shared = tmp_path_factory.getbasetemp()
        if worker_id != "master":
            shared = shared.parent
        with open(shared / "installed", "a") as mark:
            fcntl.flock(mark, fcntl.LOCK_EX)
            # Of the file, not of this process, which opened it before it had the lock.
            if os.fstat(mark.fileno()).st_size == 0:
                # Nobody is to wait here for what many nodes would have to save on.
                release.install(cluster, values=("daemon.conditionIntervalSeconds=3",))
                mark.write("yes")
    elif not release.is_ready(cluster):
        pytest.fail(f"Architect is not ready:\n{release.diagnosis(cluster)}")
    return cluster


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """Give each test a Kubernetes namespace of its own."""
    yield from _namespace(cluster)


@pytest.fixture(scope="module")
def theme(cluster: Cluster) -> Iterator[str]:
    """Give each module a Kubernetes namespace for the workloads that its tests share."""
    yield from _namespace(cluster)


def _namespace(cluster: Cluster) -> Iterator[str]:
    name = f"test-{uuid.uuid4().hex[:8]}"
    cluster.kubectl("create", "namespace", name)
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")
