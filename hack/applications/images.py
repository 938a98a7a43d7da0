"""The images of the applications, made here: Debian's packages, and one program of Go."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from demo import pictures
from lab import gomodules, images, versions
from lab.cache import Cache
from lab.images import Image
from lab.node import Node

POSTGRESQL: Final = pictures.name_of("postgresql")
VALKEY: Final = pictures.name_of("valkey")
PYTHON: Final = images.PY
SERVERS: Final = "localhost/architect-applications/servers:1"
GO: Final = "localhost/architect-applications/go:1"
SERVER_PACKAGES: Final = (
    *("curl", "gunicorn", "mariadb-client", "mariadb-server", "nginx", "nodejs"),
    *("python3", "python3-uvicorn", "tomcat10"),
)
"""One image for all of them: its base is installed, and brought onto nodes, only once."""
_GO_SOURCE: Final = Path(__file__).parent / "gocounter"


def servers(cache: Cache) -> Image:
    """Return the image with the servers that Debian has."""
    return images.debian(
        cache,
        SERVERS,
        suite=versions.APPLICATION_SUITE,
        packages=SERVER_PACKAGES,
        command=["sleep", "infinity"],
        # The manual pages are left out; Java's package links to some of them all the same.
        options=['--essential-hook=mkdir -p "$1/usr/share/man/man1"'],
    )


def go(cache: Cache) -> Image:
    """Return the image of the Go server: one static program."""
    program = gomodules.own(cache, _GO_SOURCE)

    def build(directory: Path) -> None:
        images.from_files(directory, GO, {"gocounter": program}, entrypoint=["/gocounter"])

    return Image(GO, images.artefact(cache, GO, [program.parent.parent.name], build))


MAKERS: Final[Mapping[str, Callable[[Cache], Image]]] = {
    POSTGRESQL: lambda cache: pictures.build(cache, "postgresql"),
    VALKEY: lambda cache: pictures.build(cache, "valkey"),
    SERVERS: servers,
    GO: go,
}
"""How each is made; Python's every node has from the start."""


def load(cache: Cache, node: Node, name: str) -> None:
    """Build the image *name* and bring it onto *node*, if it is not there already."""
    maker = MAKERS.get(name)
    if maker is None:
        return
    image = maker(cache)
    # By its artefact: the tag is the same from build to build.
    mark = f"{name.rpartition(':')[0]}:{image.archive.parent.name.rpartition('-')[2]}"
    if node.exec(["ctr", "-n", "k8s.io", "images", "list", "-q", f"name=={mark}"]).strip():
        return
    node.load_image(image.archive)
    node.exec(["ctr", "-n", "k8s.io", "images", "tag", "--force", name, mark])
