"""The command line of the lab."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from lab import (
    artefacts,
    control_plane,
    csi,
    dockerfiles,
    errors,
    gomodules,
    images,
    interrupts,
    prerequisites,
    pruning,
    rootfs,
)
from lab.cache import Cache
from lab.cluster import Cluster
from lab.machine import Machine, MachineSpec
from lab.progress import Progress
from lab.settings import Settings

BUILDS = (
    "all",
    "cluster",
    "node-root",
    "kubernetes",
    "images",
    "architect",
    "native",
    "standalone",
    "helm",
    "versitygw",
    "local-kms",
    "runsc",
    "crictl",
    "containerd",
    "csi",
    "csi-attacher",
    "metrics-server",
)


def parser() -> argparse.ArgumentParser:
    """Return the parser of ``python -m lab``."""
    top = argparse.ArgumentParser(prog="lab", description="The development cluster.")
    sub = top.add_subparsers(dest="command", required=True)
    up = sub.add_parser("up", help="make the cluster be there")
    up.add_argument("--nodes", type=int, default=2)
    sub.add_parser("down", help="remove the cluster and every trace of it")
    whole = sub.add_parser("run", help="run a host command with the cluster up")
    whole.description = (
        "Bring the cluster up, run a command, gather the logs if it fails, and take the cluster "
        "down again unless it was there before."
    )
    whole.add_argument("--nodes", type=int, default=2)
    whole.add_argument("--logs", type=Path, required=True, help="where they go if it fails")
    whole.add_argument("argv", nargs=argparse.REMAINDER)
    sub.add_parser("status", help="say what runs, as JSON")
    shell = sub.add_parser("shell", help="a shell with KUBECONFIG set, or in a node")
    shell.add_argument("node", nargs="?")
    run = sub.add_parser("exec", help="run a command in a node")
    run.add_argument("node")
    run.add_argument("argv", nargs=argparse.REMAINDER)
    for name in ("kubectl", "helm"):
        client = sub.add_parser(name, help=f"{name} as administrator of the cluster")
        client.add_argument("argv", nargs=argparse.REMAINDER)
    reboot = sub.add_parser("reboot", help="end all processes of a node, and boot it again")
    reboot.add_argument("node")
    load = sub.add_parser("load-image", help="import image archives into every node")
    load.add_argument("archive", type=Path, nargs="+")
    build = sub.add_parser("build", help="build into the cache without starting anything")
    # Not `choices`: before Python 3.12 argparse holds the default of "*" against them, as a list.
    build.add_argument(
        "what",
        nargs="*",
        type=artefact_name,
        default=["all"],
        metavar="{" + ",".join(BUILDS) + "}",
    )
    ready = sub.add_parser("prerequisites", help="install what the host needs, and check it")
    which = ready.add_mutually_exclusive_group()
    which.add_argument("--check", action="store_true", help="install nothing")
    which.add_argument("--kernel", action="store_true", help="look at the kernel only")
    sub.add_parser("prune", help="remove artefacts that this checkout has no use for")
    logs = sub.add_parser("logs", help="gather all logs in a directory")
    logs.add_argument("directory", type=Path)
    one = sub.add_parser("machine", help="a machine without Kubernetes")
    actions = one.add_subparsers(dest="action", required=True)
    for action in ("up", "down", "exec", "shell"):
        each = actions.add_parser(action)
        each.add_argument("name")
        if action == "exec":
            each.add_argument("argv", nargs=argparse.REMAINDER)
    return top


def artefact_name(text: str) -> str:
    """Accept the name of something that can be built. Raises ArgumentTypeError."""
    if text not in BUILDS:
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(BUILDS)}")
    return text


def main(words: list[str] | None = None) -> int:
    """Run one command; errors of the lab become a line and exit status 1."""
    arguments = parser().parse_args(words)
    if os.geteuid() != 0 and arguments.command != "prerequisites":
        print("lab: namespaces, mounts and cgroups need root", file=sys.stderr)
        return 1
    interrupts.handle()
    try:
        return dispatch(arguments)
    except errors.LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("lab: interrupted", file=sys.stderr)
        return 130


def dispatch(arguments: argparse.Namespace) -> int:
    settings = Settings.from_environment()
    cluster = Cluster(settings=settings, progress=Progress())
    command = arguments.command
    if command == "up":
        cluster.up(arguments.nodes)
    elif command == "down":
        cluster.down()
    elif command == "run":
        return run_with(cluster, arguments.nodes, plain(arguments.argv), logs=arguments.logs)
    elif command == "status":
        print(json.dumps(cluster.status(), indent=1))
    elif command == "reboot":
        cluster.reboot_node(arguments.node)
    elif command == "shell":
        return shell(cluster, arguments.node)
    elif command == "exec":
        return cluster.node(arguments.node).machine.interact(plain(arguments.argv))
    elif command in ("kubectl", "helm"):
        program = cluster.kubectl_program if command == "kubectl" else artefacts.helm(cluster.cache)
        os.execve(program, [command, *plain(arguments.argv)], cluster.client_environment())
    elif command == "load-image":
        for archive in arguments.archive:
            cluster.load_image(archive)
    elif command == "build":
        build(cluster.cache, arguments.what)
    elif command == "prerequisites" and arguments.kernel:
        prerequisites.ensure_kernel(settings)
    elif command == "prerequisites":
        prerequisites.ensure(settings, progress=cluster.progress, is_check=arguments.check)
    elif command == "prune":
        prune(cluster.cache)
    elif command == "logs":
        cluster.collect_logs(arguments.directory)
    elif command == "machine":
        return single(arguments, settings, cluster.cache)
    return 0


def run_with(cluster: Cluster, nodes: int, argv: list[str], *, logs: Path) -> int:
    """Run *argv* while the cluster is up and return its status; see ``lab run --help``."""
    was_up = cluster.plane.machine.pid is not None
    try:
        cluster.up(nodes)
        status = subprocess.run(argv, check=False).returncode
        if status != 0:
            cluster.collect_logs(logs)
            cluster.progress.say(f"logs of all machines are in {logs}")
    finally:
        if not was_up:
            cluster.down()
    return status


def shell(cluster: Cluster, node: str | None) -> int:  # noqa: RET503 - execve does not return
    """Open a shell in a node, or on the host with kubectl and KUBECONFIG set."""
    if node is not None:
        return cluster.node(node).machine.interact(["/bin/bash"])
    program = os.environ.get("SHELL", "/bin/bash")
    os.execve(program, [program], cluster.client_environment())


def build(cache: Cache, what: list[str]) -> None:
    """Build and print the paths."""
    wanted = set(what)
    if wanted & {"all", "cluster"}:
        print(artefacts.build(cache))
    if "node-root" in wanted:
        print(rootfs.node_root(cache))
    if "kubernetes" in wanted:
        print(artefacts.kubernetes(cache))
    if wanted & {"all", "images"}:
        for image in images.preloaded(cache):
            print(image.name, image.archive)
    if wanted & {"all", "native"}:
        print(dockerfiles.native_programs(cache))
    if wanted & {"all", "standalone"}:
        # What the tests of engines without Kubernetes run on.
        print(rootfs.standalone_root(cache))
        print(images.application(cache).archive)
    if wanted & {"all", "architect"}:
        for image in dockerfiles.architect(cache):
            print(image.name, image.archive)
    if wanted & {"all", "csi"}:
        print(csi.image(cache).archive)
    for tool in gomodules.TOOLS:
        if wanted & {"all", tool.name}:
            print(gomodules.tool(cache, tool))


def prune(cache: Cache) -> None:
    """Remove what is of no use and say what that was."""
    pruned = pruning.prune(cache)
    for name in pruned.names:
        print(name)
    print(f"{len(pruned.names)} removed, {pruned.freed_bytes / 1e9:.1f} GB freed")


def single(arguments: argparse.Namespace, settings: Settings, cache: Cache) -> int:
    """Handle ``lab machine``."""
    target = Machine(arguments.name, settings=settings)
    if target.name == control_plane.MACHINE:
        raise errors.LabError(f"{target.name} belongs to the cluster")
    if arguments.action == "up":
        target.create(MachineSpec(root=rootfs.node_root(cache)))
    elif arguments.action == "down":
        target.destroy()
    elif arguments.action == "exec":
        return target.interact(plain(arguments.argv))
    elif arguments.action == "shell":
        return target.interact(["/bin/bash"])
    return 0


def plain(argv: list[str]) -> list[str]:
    """Drop the ``--`` that separates our options from the command's."""
    return argv[1:] if argv[:1] == ["--"] else argv


if __name__ == "__main__":
    sys.exit(main())
