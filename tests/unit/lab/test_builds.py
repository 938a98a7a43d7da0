from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from lab import artefacts, dockerfiles, errors, gomodules, oci, relay, versions

PUBLISHED = """\
module k8s.io/kubernetes

go 1.26.0

replace (
	k8s.io/api => ./staging/src/k8s.io/api
	k8s.io/client-go => ./staging/src/k8s.io/client-go
)
"""


def test_kubernetes_is_built_with_the_libraries_of_its_own_version() -> None:
    text = gomodules.kubernetes_go_mod(PUBLISHED, "v1.36.3")
    assert "require k8s.io/kubernetes v1.36.3" in text
    assert "\tk8s.io/api => k8s.io/api v0.36.3" in text
    assert "\tk8s.io/client-go => k8s.io/client-go v0.36.3" in text


def test_the_programs_report_their_version() -> None:
    assert "gitMinor=36" in gomodules.kubernetes_flags("v1.36.3")
    assert "version.gitVersion=v1.36.3" in gomodules.kubernetes_flags("v1.36.3")


def test_the_dockerfile_of_gvisors_runtime_builds_what_the_lab_does() -> None:
    text = (dockerfiles.CHECKOUT / "shim/gvisor/Dockerfile").read_text()
    tool = gomodules.RUNSC
    assert f"ARG GVISOR={tool.version}\n" in text
    assert f'"{tool.package}@${{GVISOR}}"' in text
    assert f'-ldflags "{tool.flags.replace(tool.version, "${GVISOR}")}"' in text


def test_what_is_built_without_tags_is_named_as_ever() -> None:
    """The caches of those who have built it stay good."""
    assert gomodules.HELM.tag_options == []
    assert gomodules.CONTAINERD.tag_options == ["-tags", "no_btrfs"]
    assert f"version.Version={versions.CONTAINERD}" in gomodules.CONTAINERD.flags


def test_nodes_get_only_a_containerd_that_is_built() -> None:
    minor = ".".join(versions.CONTAINERD.removeprefix("v").split(".")[:2])
    for wanted in ("", minor):
        artefacts.check_containerd(wanted)
    with pytest.raises(errors.LabError, match=r"'1\.7'"):
        artefacts.check_containerd("1.7")


def test_an_archive_is_consistent_in_its_digests(tmp_path: Path) -> None:
    layer = tmp_path / "layer.tar"
    with tarfile.open(layer, "w") as archive:
        archive.add(__file__, "file")
    target = tmp_path / "image.tar"
    oci.write_archive(target, name="localhost/a:1", layer=layer, command=["/file"])
    with tarfile.open(target) as archive:
        content = {
            member.name: stream.read()
            for member in archive
            if (stream := archive.extractfile(member)) is not None
        }
    (described,) = json.loads(content["index.json"])["manifests"]
    manifest = json.loads(content["blobs/" + described["digest"].replace(":", "/")])
    for name, data in content.items():
        if name.startswith("blobs/sha256/"):
            assert hashlib.sha256(data).hexdigest() == name.removeprefix("blobs/sha256/")
    assert manifest["layers"][0]["digest"] == oci.file_digest(layer)
    config = json.loads(content["blobs/" + manifest["config"]["digest"].replace(":", "/")])
    assert config["rootfs"]["diff_ids"] == [oci.file_digest(layer)]


def test_only_tcp_node_ports_are_carried_to_the_loopback() -> None:
    service = {
        "spec": {
            "ports": [
                {"port": 80, "nodePort": 30080, "protocol": "TCP"},
                {"port": 53, "nodePort": 30053, "protocol": "UDP"},
                {"port": 81},
            ]
        }
    }
    assert relay.node_ports(service) == [30080]
    assert relay.node_ports({"spec": {}}) == []


def test_an_images_layers_are_decompressed_and_its_configuration_stays(tmp_path: Path) -> None:
    layer = tmp_path / "layer.tar"
    with tarfile.open(layer, "w") as archive:
        archive.addfile(tarfile.TarInfo("empty"))
    plain, packed, again = (tmp_path / name for name in ("plain.tar", "packed.tar", "again.tar"))
    oci.write_archive(plain, name="localhost/x:1", layer=layer, command=["a"])
    files = {name: data for name, data in contents(plain).items() if name != "oci-layout"}
    digest = oci.file_digest(layer).partition(":")[2]
    zipped = gzip.compress(files.pop(f"blobs/sha256/{digest}"))
    index = json.loads(files.pop("index.json"))
    described = index["manifests"][0]
    manifest = json.loads(files.pop(f"blobs/sha256/{described['digest'].partition(':')[2]}"))
    name = hashlib.sha256(zipped).hexdigest()
    manifest["layers"][0] |= {
        "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
        "digest": f"sha256:{name}",
        "size": len(zipped),
    }
    blob = json.dumps(manifest).encode()
    described |= {"digest": f"sha256:{hashlib.sha256(blob).hexdigest()}", "size": len(blob)}
    files |= {
        f"blobs/sha256/{name}": zipped,
        f"blobs/{described['digest'].replace(':', '/')}": blob,
        "index.json": json.dumps(index).encode(),
    }
    with tarfile.open(packed, "w") as archive:
        for path, data in files.items():
            entry = tarfile.TarInfo(path)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    oci.decompress(packed, again)
    assert contents(again) == contents(plain)


def test_docker_finds_an_images_layers_by_its_own_list(tmp_path: Path) -> None:
    layer = tmp_path / "layer.tar"
    with tarfile.open(layer, "w") as archive:
        archive.addfile(tarfile.TarInfo("empty"))
    plain, more = tmp_path / "plain.tar", tmp_path / "more.tar"
    oci.write_archive(plain, name="localhost/x:1", layer=layer)
    oci.for_docker(plain, more)
    files = contents(more)
    (listed,) = json.loads(files.pop("manifest.json"))
    assert files == contents(plain)
    assert listed["RepoTags"] == ["localhost/x:1"]
    assert files[listed["Layers"][0]] == layer.read_bytes()
    assert json.loads(files[listed["Config"]])["os"] == "linux"


def contents(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive) as opened:
        files = {entry.name: opened.extractfile(entry) for entry in opened if entry.isfile()}
        return {name: stream.read() for name, stream in files.items() if stream}
