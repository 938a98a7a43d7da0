"""Everything that a cluster is made of, from the cache or built into it."""

from __future__ import annotations

from concurrent import futures
from dataclasses import dataclass
from pathlib import Path

from lab import errors, gomodules, images, rootfs, versions
from lab.cache import Cache
from lab.images import Image


@dataclass(frozen=True, kw_only=True)
class Artefacts:
    """Paths of what was built."""

    node_root: Path
    kubernetes: Path
    versitygw: Path
    containerd: Path | None
    """Directory of another containerd than the root file system's; None: that one is used."""
    preloaded: tuple[Image, ...]
    """Images that every node has from the start."""

    @property
    def coredns(self) -> Image:
        return next(image for image in self.preloaded if image.name == images.COREDNS)


def build(cache: Cache, *, containerd: str = "") -> Artefacts:
    """Return everything, building what is missing side by side.

    *containerd* is the minor version that nodes are to have; empty: their Debian's. Raises LabError
    if it is none of these.
    """
    check_containerd(containerd)
    with futures.ThreadPoolExecutor() as pool:
        root = pool.submit(rootfs.node_root, cache)
        programs = pool.submit(kubernetes, cache)
        object_store = pool.submit(versitygw, cache)
        preloaded = pool.submit(images.preloaded, cache)
        engine = pool.submit(gomodules.tool, cache, gomodules.CONTAINERD) if containerd else None
        return Artefacts(
            node_root=root.result(),
            kubernetes=programs.result(),
            versitygw=object_store.result(),
            containerd=engine.result().parent if engine else None,
            preloaded=tuple(preloaded.result()),
        )


def check_containerd(wanted: str) -> None:
    """Raise LabError unless nodes can have that minor version of containerd."""
    known = ".".join(versions.CONTAINERD.removeprefix("v").split(".")[:2])
    if wanted not in ("", known):
        raise errors.LabError(
            f"ARCHITECT_LAB_CONTAINERD is {wanted!r}", hint=f"{known}, or nothing for Debian's"
        )


def kubernetes(cache: Cache) -> Path:
    """Return the directory with kubectl, kubelet and the control plane."""
    return gomodules.kubernetes(cache)


def helm(cache: Cache) -> Path:
    """Return the path of helm."""
    return gomodules.tool(cache, gomodules.HELM)


def versitygw(cache: Cache) -> Path:
    """Return the path of the S3 server for tests."""
    return gomodules.tool(cache, gomodules.VERSITYGW)


def local_kms(cache: Cache) -> Path:
    """Return the path of the key management service for tests."""
    return gomodules.tool(cache, gomodules.LOCAL_KMS)


def metrics_server(cache: Cache) -> Path:
    """Return the path of what `kubectl top` and autoscalers ask."""
    return gomodules.tool(cache, gomodules.METRICS_SERVER)
