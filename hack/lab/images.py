"""Container images as OCI archives: those of the lab, and builds of Dockerfiles."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path

from lab import commands, gomodules, oci, rootfs, versions
from lab.cache import Cache

PAUSE = "localhost/pause:1"
PY = "localhost/py:3"
COREDNS = f"localhost/coredns:{versions.COREDNS.removeprefix('v')}"

ARCHIVE = "image.tar"
BUILD_TIMEOUT_SECONDS = 1800.0

PAUSE_SOURCE = r"""
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

/* First process of every pod: holds the namespaces, reaps, ends when told to. */
static void stop(int number) { (void)number; _exit(0); }
static void reap(int number) { (void)number; while (waitpid(-1, 0, WNOHANG) > 0) {} }

int main(void) {
    struct sigaction action = {.sa_handler = stop};
    if (sigaction(SIGINT, &action, 0) || sigaction(SIGTERM, &action, 0)) return 1;
    action.sa_handler = reap;
    action.sa_flags = SA_NOCLDSTOP;
    if (sigaction(SIGCHLD, &action, 0)) return 2;
    for (;;) pause();
}
"""


@dataclass(frozen=True)
class Image:
    """A name and the archive that carries it."""

    name: str
    archive: Path


def pause(cache: Cache) -> Image:
    """Return the image of the pods' first process: one static program."""

    def build(directory: Path) -> None:
        source, program = directory / "pause.c", directory / "pause"
        source.write_text(PAUSE_SOURCE)
        commands.run(["gcc", "-static", "-O2", "-Wall", "-Werror", "-o", program, source])
        from_files(directory, PAUSE, {"pause": program}, entrypoint=["/pause"])

    return Image(PAUSE, artefact(cache, PAUSE, [PAUSE_SOURCE], build))


def coredns(cache: Cache) -> Image:
    """Return the image of the cluster's DNS server: one static program."""
    program = gomodules.tool(cache, gomodules.COREDNS)

    def build(directory: Path) -> None:
        from_files(directory, COREDNS, {"coredns": program}, entrypoint=["/coredns"])

    return Image(COREDNS, artefact(cache, COREDNS, [program.parent.parent.name], build))


def gvisor(cache: Cache, name: str) -> Image:
    """Return the image *name* with gVisor's runtime, as ``shim/gvisor/Dockerfile`` makes it."""
    program = gomodules.tool(cache, gomodules.RUNSC)

    def build(directory: Path) -> None:
        from_files(directory, name, {"out/runsc": program}, entrypoint=["/out/runsc"])

    return Image(name, artefact(cache, name, [program.parent.parent.name], build))


def application(cache: Cache) -> Image:
    """Return the image for test applications: Debian with Python, curl, ip and ps."""
    return debian(
        cache,
        PY,
        suite=versions.APPLICATION_SUITE,
        packages=versions.APPLICATION_PACKAGES,
        command=["sleep", "infinity"],
    )


def base(cache: Cache, suite: str) -> Image:
    """Return ``localhost/debian:SUITE``, the base of Dockerfile builds.

    It has Python already, which our Dockerfiles would install each time.
    """
    return debian(
        cache,
        f"localhost/debian:{suite}",
        suite=suite,
        packages=["ca-certificates", "python3", "python3-venv"],
        command=["bash"],
    )


def preloaded(cache: Cache) -> list[Image]:
    """Return what every node has from the start, built side by side."""
    with futures.ThreadPoolExecutor() as pool:
        return list(pool.map(lambda make: make(cache), (pause, coredns, application)))


def debian(
    cache: Cache,
    name: str,
    *,
    suite: str,
    packages: Sequence[str],
    command: Sequence[str],
    options: Sequence[str] = (),
) -> Image:
    """Return the image *name* of a Debian with *packages*; *options* are further of mmdebstrap."""

    def build(directory: Path) -> None:
        layer = directory / "layer.tar"
        rootfs.bootstrap(layer, suite=suite, packages=packages, options=options)
        oci.write_archive(directory / ARCHIVE, name=name, layer=layer, command=command)
        layer.unlink()

    recipe = [
        suite,
        list(packages),
        list(command),
        rootfs.APT_OPTIONS,
        rootfs.DPKG_OPTIONS,
        oci.FORMAT,
        *options,
    ]
    return Image(name, artefact(cache, name, recipe, build))


def from_files(
    directory: Path, name: str, files: Mapping[str, Path], *, entrypoint: Sequence[str] = ()
) -> None:
    """Write the archive of an image that holds static programs and nothing else."""
    layer = directory / "layer.tar"
    with tarfile.open(layer, "w") as archive:
        for path, source in sorted(files.items()):
            entry = archive.gettarinfo(source, path)
            entry.uid = entry.gid = 0
            entry.uname = entry.gname = ""
            entry.mtime = 0
            entry.mode = 0o755
            with source.open("rb") as stream:
                archive.addfile(entry, stream)
    oci.write_archive(directory / ARCHIVE, name=name, layer=layer, entrypoint=entrypoint)
    layer.unlink()


def artefact(
    cache: Cache,
    name: str,
    recipe: object,
    build: Callable[[Path], None],
    *,
    takes: str = "",
) -> Path:
    """Return the archive of image *name*, built by *build* if it is not in the cache."""
    plain = name.removeprefix("localhost/")
    short, _, tag = plain.partition(":")
    directory = cache.artefact(
        f"image-{short.replace('/', '-')}", version=tag, recipe=recipe, build=build, takes=takes
    )
    return directory / ARCHIVE
