"""OCI image archives written directly: one tar of blobs with one image in it."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import platform
import shutil
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, cast

FORMAT = 2
"""Changes with what is written here, so that archives in the cache are made anew."""

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def write_archive(
    target: Path,
    *,
    name: str,
    layer: Path,
    command: Sequence[str] = (),
    entrypoint: Sequence[str] = (),
    env: Sequence[str] = ("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",),
) -> None:
    """Write an image *name* of one uncompressed *layer* (a tar file) to *target*."""
    digest = file_digest(layer)
    config = _json(
        {
            "architecture": ARCHITECTURES[platform.machine()],
            "os": "linux",
            "config": {"Cmd": list(command), "Entrypoint": list(entrypoint), "Env": list(env)},
            "rootfs": {"type": "layers", "diff_ids": [digest]},
            # One entry per layer: buildah refuses to build on a build on an image without.
            "history": [{"created_by": "lab"}],
        }
    )
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": _descriptor("application/vnd.oci.image.config.v1+json", config),
            "layers": [
                {
                    "mediaType": "application/vnd.oci.image.layer.v1.tar",
                    "digest": digest,
                    "size": layer.stat().st_size,
                }
            ],
        }
    )
    described = _descriptor("application/vnd.oci.image.manifest.v1+json", manifest)
    described["annotations"] = {
        "io.containerd.image.name": name,
        "org.opencontainers.image.ref.name": name,
    }
    with tarfile.open(target, "w") as archive:
        _add(archive, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
        _add(archive, "index.json", _json({"schemaVersion": 2, "manifests": [described]}))
        for blob in (config, manifest):
            _add(archive, _blob_path(_digest(blob)), blob)
        entry = tarfile.TarInfo(_blob_path(digest))
        entry.size = layer.stat().st_size
        with layer.open("rb") as stream:
            archive.addfile(entry, stream)


def decompress(archive: Path, target: Path) -> None:
    """Write the image in *archive* to *target*, with layers that are not compressed.

    A machine that is slow to import it is quicker so. The image's configuration stays: it names
    layers by their content.
    """
    with tarfile.open(archive) as source, tarfile.open(target, "w") as made:
        index = json.load(_open(source, "index.json"))
        (described,) = index["manifests"]
        manifest = json.load(_open(source, _blob_path(described["digest"])))
        config = _open(source, _blob_path(manifest["config"]["digest"])).read()
        digests = json.loads(config)["rootfs"]["diff_ids"]
        for layer, digest in zip(manifest["layers"], digests, strict=True):
            compressed = _open(source, _blob_path(layer["digest"]))
            is_gzip = layer["mediaType"].endswith("+gzip")
            with (
                gzip.open(compressed) if is_gzip else compressed as stream,
                tempfile.TemporaryFile(dir=target.parent) as plain,
            ):
                shutil.copyfileobj(stream, plain)
                entry = tarfile.TarInfo(_blob_path(digest))
                entry.size = plain.tell()
                plain.seek(0)
                made.addfile(entry, plain)
            layer["mediaType"] = layer["mediaType"].removesuffix("+gzip")
            layer |= {"digest": digest, "size": entry.size}
        blob = _json(manifest)
        described |= {"digest": _digest(blob), "size": len(blob)}
        for each in (config, blob):
            _add(made, _blob_path(_digest(each)), each)
        _add(made, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
        _add(made, "index.json", _json(index))


def for_docker(archive: Path, target: Path) -> None:
    """Write the image in *archive* to *target* so that ``docker load`` takes it as well.

    A Docker without containerd's image store looks for its own list of layers.
    """
    with tarfile.open(archive) as source:
        (described,) = json.load(_open(source, "index.json"))["manifests"]
        manifest = json.load(_open(source, _blob_path(described["digest"])))
    config, *layers = (_blob_path(d["digest"]) for d in (manifest["config"], *manifest["layers"]))
    name = described["annotations"]["io.containerd.image.name"]
    shutil.copyfile(archive, target)
    with tarfile.open(target, "a") as made:
        _add(
            made, "manifest.json", _json([{"Config": config, "RepoTags": [name], "Layers": layers}])
        )


def file_digest(path: Path) -> str:
    """Return the digest of a file as OCI writes it."""
    with path.open("rb") as stream:
        return "sha256:" + hashlib.file_digest(stream, "sha256").hexdigest()


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _blob_path(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")


def _descriptor(media_type: str, data: bytes) -> dict[str, object]:
    return {"mediaType": media_type, "digest": _digest(data), "size": len(data)}


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


def _open(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    # None is only for what is no file.
    return cast("IO[bytes]", archive.extractfile(name))


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    archive.addfile(entry, io.BytesIO(data))
