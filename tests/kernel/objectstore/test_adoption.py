"""What a daemon uploaded and told nobody: the operator finds it in a real store, and says it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from architect.api import names
from architect.checkpoint import envelope
from architect.daemon.checkpoint import contents
from architect.daemon.moves import objects
from architect.daemon.vault.store import Store
from architect.kube import checkpoints
from architect.kube.api import Api
from architect.kube.events import Recorder
from architect.kube.resources import CHECKPOINTS, NODES, PODS
from architect.objectstore.control import Control
from architect.operator import metrics
from architect.operator.adopter import Adopter
from architect.operator.metrics import Metrics
from support import checkpointdirs, s3server
from support.issuer import Issuer
from support.memoryserver import MemoryServer
from support.vaults import ID, Vaults

Object = dict[str, Any]

NODE = "node-a"


class Cluster:
    """An API server that has the pod, and knows nothing of what became of it."""

    def __init__(self, directory: Path, server: s3server.Server, store: Store) -> None:
        self.issuer = Issuer()
        self.vaults = Vaults(directory, self.issuer, store, prefix="clusters/one")
        (self.vaults.source / "manifest.json").unlink()
        about = dataclasses.replace(checkpointdirs.about(ID), pod_name="web-0")
        self.vaults.manifest = contents.build(self.vaults.source, about)
        contents.write(self.vaults.source, self.vaults.manifest)
        self.kube = MemoryServer()
        self.numbers = Metrics()
        api = Api(self.kube, field_manager="architect-operator")
        self.control = Control(server.settings)
        self.adopter = Adopter(
            api,
            self.numbers,
            tell=Recorder(api, component="operator", instance="o").record,
            open_bucket=lambda: self.control,
            bucket=s3server.BUCKET,
            prefix="clusters/one",
            authorities=lambda: self.issuer.authorities.trusted,
        )
        owner = {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web", "uid": "o"}
        pod: Object = {
            "metadata": {
                "name": "web-0", "namespace": "default", "uid": ID,
                "annotations": {names.POLICY: "{}"},
                "ownerReferences": [{**owner, "controller": True}],
            },
            "spec": {"nodeName": NODE, "containers": [{"name": "app", "image": "web:1"}]},
            "status": {"phase": "Running"},
        }  # fmt: skip
        self.kube.put(PODS.path(namespace="default", name="web-0"), pod)
        self.kube.put(NODES.path(name=NODE), {"metadata": {"name": NODE}})

    def checkpoint(self) -> Object | None:
        path = CHECKPOINTS.path(namespace="default", name=f"web-0-{ID[:8]}-move")
        found: Object | None = self.kube.objects.get(path)
        return found

    def refusals(self, reason: str) -> float:
        return self.numbers.get(metrics.ADOPTIONS, result=reason)


@pytest.fixture
def cluster(tmp_path: Path, server: s3server.Server, store: Store) -> Iterator[Cluster]:
    made = Cluster(tmp_path, server, store)
    yield made
    made.control.close()


def _path(server: s3server.Server, cluster: Cluster) -> Path:
    return server.root / s3server.BUCKET / cluster.vaults.manifest_key


def test_it_says_what_the_daemon_would_have_said(cluster: Cluster) -> None:
    uploaded = cluster.vaults.upload()
    assert cluster.adopter.adopt({NODE})
    value = cluster.checkpoint()
    assert value is not None
    manifest = cluster.vaults.manifest
    # As the daemon writes it when somebody listens: once it is captured, and once it is stored.
    capture = objects.capture_of(manifest, seconds=None)
    expected = checkpoints.captured_status(dataclasses.replace(capture, peer_id=""))
    del expected["durations"]
    expected |= objects.stored_at(s3server.BUCKET, uploaded)
    status = dict(value["status"])
    said = {c["type"]: (c["status"], c["reason"]) for c in status.pop("conditions")}
    del status["observedGeneration"]
    assert status == expected
    assert said == {
        "Captured": ("True", "Captured"),
        "Available": ("True", "InStore"),
        "Stored": ("True", "Stored"),
    }
    stored = next(c for c in objects.stored(s3server.BUCKET, uploaded) if c.type == "Stored")
    told = next(c for c in value["status"]["conditions"] if c["type"] == "Stored")
    assert told["message"].split(",")[0] == stored.message.split(",")[0], "the same bytes"


def test_half_an_upload_is_nothing(cluster: Cluster, server: s3server.Server) -> None:
    cluster.vaults.upload()
    _path(server, cluster).unlink()
    assert cluster.adopter.adopt({NODE})
    assert cluster.checkpoint() is None


def test_what_was_changed_in_the_store_is_refused(
    cluster: Cluster, server: s3server.Server
) -> None:
    cluster.vaults.upload()
    path = _path(server, cluster)
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b"pages-2", b"pages-3"))
    for _ in range(2):
        assert cluster.adopter.adopt({NODE})
    assert cluster.checkpoint() is None
    assert cluster.refusals("Untrusted") == 1


def test_what_is_too_large_is_not_read(cluster: Cluster, server: s3server.Server) -> None:
    path = _path(server, cluster)
    path.parent.mkdir(parents=True)
    path.touch()
    os.truncate(path, envelope.MAX_BYTES + 1)
    for _ in range(2):
        assert cluster.adopter.adopt({NODE})
    assert cluster.checkpoint() is None
    assert cluster.refusals("TooLarge") == 1


def test_a_store_that_comes_back_is_asked_again(cluster: Cluster, server: s3server.Server) -> None:
    cluster.vaults.upload()
    with server.away():
        assert not cluster.adopter.adopt({NODE})
    assert cluster.adopter.adopt({NODE})
    assert cluster.checkpoint() is not None


def test_a_bucket_that_is_missing_is_no_empty_place(
    cluster: Cluster, server: s3server.Server
) -> None:
    (server.root / s3server.BUCKET).rename(server.root / "elsewhere")
    assert not cluster.adopter.adopt({NODE})
