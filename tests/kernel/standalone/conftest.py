"""A machine with containerd, Podman and Docker, the runtime installed, and no Kubernetes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import gomodules, images, oci, rootfs
from lab.cache import Cache
from lab.machine import Bind, Machine, MachineSpec
from lab.settings import Settings
from support.engines import CONTAINERD_24, RUNTIME, Ctr, Ctr24, Docker, Engine, Node, Podman
from support.runtime import CHECKOUT, SYSTEM_PYTHON, eventually

CONTAINERD = "/run/containerd/containerd.sock"
BESIDE = "/usr/local/containerd-2.4"
NEXT = f"""
version = 4
root = "/var/lib/containerd-2.4"
state = "{Path(CONTAINERD_24).parent}"
disabled_plugins = ["io.containerd.grpc.v1.cri"]

[plugins.'io.containerd.server.v1.grpc']
  address = "{CONTAINERD_24}"

[plugins.'io.containerd.server.v1.ttrpc']
  address = "{CONTAINERD_24}.ttrpc"
"""
DOCKER = {
    "runtimes": {"runc-architect": {"path": RUNTIME}},
    "live-restore": True,
    # Containers have a network of their own in any case, and nobody asks for more here.
    "bridge": "none",
    "iptables": False,
    "ip6tables": False,
}
ENGINES = (Ctr, Ctr24, Podman, Docker)


@pytest.fixture(scope="session")
def node() -> Iterator[Node]:
    settings = Settings.from_environment()
    cache = Cache(settings.cache)
    machine = Machine(f"standalone-{os.getpid()}", settings=settings)
    programs = gomodules.tool(cache, gomodules.CONTAINERD).parent
    try:
        machine.create(
            MachineSpec(
                root=rootfs.standalone_root(cache),
                binds=(Bind(source=programs, target=BESIDE, readonly=True),),
                files={
                    "/etc/containerd/next.toml": NEXT,
                    "/etc/docker/daemon.json": json.dumps(DOCKER),
                },
            )
        )
        opt = machine.directory / "opt"
        subprocess.run(
            [
                *(SYSTEM_PYTHON, CHECKOUT / "shim/bundle.py", "--output", opt / "architect"),
                *("--version", "test", "--criu", os.environ["ARCHITECT_CRIU"]),
            ],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        shutil.copy(Path(__file__).parents[2] / "support/apps/memory.py", opt)
        oci.for_docker(images.application(cache).archive, opt / "py.tar")
        made = Node(machine)
        machine.start_service("containerd", ["/usr/bin/containerd"])
        # It finds its own shim first.
        machine.start_service(
            "containerd-2.4",
            [f"{BESIDE}/containerd", "--config", "/etc/containerd/next.toml"],
            env={"PATH": f"{BESIDE}:/usr/sbin:/usr/bin:/sbin:/bin"},
        )
        eventually(lambda: made.files(CONTAINERD), what="containerd's socket")
        machine.start_service("docker", ["/usr/sbin/dockerd"])
        eventually(lambda: made.files(CONTAINERD_24), what="the other containerd's socket")
        for client in (Ctr.client, Ctr24.client):
            made.run(*client, "image", "import", "/opt/py.tar")
        made.run("podman", "load", "-q", "-i", "/opt/py.tar")
        eventually(lambda: made.files("/run/docker.sock"), what="Docker's socket")
        made.run("docker", "load", "-q", "-i", "/opt/py.tar")
        yield made
    finally:
        machine.destroy()


@pytest.fixture(params=ENGINES)
def engine(node: Node, request: pytest.FixtureRequest) -> Iterator[Engine]:
    made: Engine = request.param(node, "web")
    yield made
    made.remove()


@pytest.fixture
def podman(node: Node) -> Iterator[Podman]:
    made = Podman(node, "web")
    yield made
    made.remove()


@pytest.fixture
def docker(node: Node) -> Iterator[Docker]:
    made = Docker(node, "web")
    yield made
    made.remove()
