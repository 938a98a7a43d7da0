"""A node with an engine and nothing else, on which the daemon's image is run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import addresses, dockerfiles, gomodules, images, netns, rootfs
from lab import node as lab_node
from lab.cache import Cache
from lab.machine import Bind, Machine, MachineSpec
from lab.settings import Settings
from support import enginenode
from support.enginenode import EngineNode
from support.runtime import CHECKOUT, SYSTEM_PYTHON, eventually

ENGINE = ("containerd", "containerd-shim-runc-v2", "ctr", "runc")
NETWORK = ("bridge", "host-local", "loopback")
"""Plugins of CNI that pods need: kubelet's and the engine's world, too."""
KEPT = (*ENGINE, *NETWORK, "crictl")
NEXT = "9.0.0"
"""A version that is installed over the image's own."""


@pytest.fixture(scope="session")
def cache() -> Cache:
    return Cache(Settings.from_environment().cache)


@pytest.fixture(scope="session")
def daemon_image(cache: Cache) -> images.Image:
    return next(i for i in dockerfiles.architect(cache) if "/daemon:" in i.name)


@pytest.fixture(scope="session")
def bare(cache: Cache, daemon_image: images.Image) -> Iterator[EngineNode]:
    """A node with the next containerd, of which nothing else is left that could be run."""
    machine = Machine(f"bare-{os.getpid()}", settings=Settings.from_environment())
    restrict = not lab_node.has_capability(lab_node.CAP_SYS_RESOURCE)
    socket = lab_node.CONTAINERD_SOCKET
    programs = gomodules.tool(cache, gomodules.CONTAINERD).parent
    try:
        machine.create(
            MachineSpec(
                root=rootfs.node_root(cache),
                binds=(
                    *lab_node.containerd_binds(programs),
                    Bind(
                        source=gomodules.tool(cache, gomodules.CRICTL),
                        target="/usr/local/bin/crictl",
                        readonly=True,
                    ),
                ),
                files={
                    "/etc/containerd/config.toml": lab_node.containerd_config(
                        restrict_oom_score=restrict
                    ),
                    "/etc/containerd/conf.d/.keep": "",
                    "/etc/cni/net.d/10-lab.conflist": _network(),
                    "/etc/crictl.yaml": f"runtime-endpoint: unix://{socket}\n"
                    f"image-endpoint: unix://{socket}\ntimeout: 120\n",
                },
                sysctls=netns.SYSCTLS,
            )
        )
        shutil.copy(Path(__file__).parents[2] / "support/apps/memory.py", machine.directory / "opt")
        made = EngineNode(machine, image=daemon_image.name)
        enginenode.strip(made.path("/"), kept=KEPT)
        machine.start_service("containerd", ["/usr/bin/containerd"])
        eventually(lambda: made.path(socket).exists(), what="containerd's socket")
        for image in (images.pause(cache), images.application(cache), daemon_image):
            with image.archive.open("rb") as stream:
                words = ["ctr", "-n", "k8s.io", "images", "import", "-"]
                machine.exec(words, stdin=stream, timeout_seconds=180)
        yield made
    finally:
        machine.destroy()


def _network() -> str:
    """Return the pods' network without ports of the node, which are made by calling nft."""
    found = json.loads(lab_node.cni_config(addresses.of_node(1)))
    return json.dumps({**found, "plugins": found["plugins"][:1]})


@pytest.fixture(scope="session")
def next_bundle(bare: EngineNode) -> str:
    """Put a bundle of another version on the node's disk; return the directory."""
    directory = bare.machine.directory / "lib/next-bundle"
    subprocess.run(
        [
            *(SYSTEM_PYTHON, CHECKOUT / "shim/bundle.py", "--output", directory),
            *("--version", NEXT, "--criu", os.environ["ARCHITECT_CRIU"]),
        ],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return "/var/lib/next-bundle"
