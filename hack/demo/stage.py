"""Where the demonstration happens: images on the nodes, examples applied, everything removed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from demo import counter, databases, pictures
from demo.pods import Application
from demo.story import Story
from lab import dockerfiles
from lab.cluster import Cluster

NAMESPACE: Final = "architect-demo"
EXAMPLES: Final = dockerfiles.CHECKOUT / "examples"
DELETE_SECONDS: Final = 180


@dataclass(frozen=True, kw_only=True)
class Example:
    """A directory of ``examples`` and what is shown with it."""

    directory: str
    name: str
    """Of its Deployment, Service, container, label and image."""
    story: Callable[[Application], Story]


ALL: Final = (
    Example(directory="01-counter", name="counter", story=counter.story),
    Example(directory="02-postgresql", name="postgresql", story=databases.postgresql),
    Example(directory="03-valkey", name="valkey", story=databases.valkey),
)
COUNTERS: Final = "04-stateful-counters"
"""The example that only moves: it has the first one's image, and no story of sleep."""
SPOT: Final = "05-spot"
"""The one whose machine is taken back (:mod:`demo.spot`); with the first one's image, too."""


def load_images(cluster: Cluster, examples: Sequence[Example] = ALL) -> None:
    """Build the images of *examples* and bring them onto every node."""
    for example in examples:
        with cluster.progress.step(f"image {pictures.name_of(example.name)}"):
            cluster.load_image(pictures.build(cluster.cache, example.name).archive)


def clear(cluster: Cluster, *, namespace: str = NAMESPACE) -> None:
    """Remove what an earlier run left."""
    cluster.kubectl(
        "delete",
        "namespace",
        namespace,
        "--ignore-not-found",
        f"--timeout={DELETE_SECONDS}s",
        timeout_seconds=DELETE_SECONDS + 30,
    )


def apply(cluster: Cluster, example: Example, *, namespace: str = NAMESPACE) -> Application:
    """Apply an example's manifest and return the application once it is ready."""
    manifest = EXAMPLES / example.directory / "manifest.yaml"
    cluster.kubectl("-n", namespace, "apply", "-f", str(manifest))
    app = Application(cluster=cluster, namespace=namespace, name=example.name)
    app.wait_until_ready()
    app.wait_for_service()
    return app
