"""On the nodes nothing of what the runtime keeps is open to anybody but root."""

from __future__ import annotations

import pytest

from architect.api import names
from lab.cluster import Cluster
from support.workloads import workload

pytestmark = pytest.mark.concurrent

OPEN_TO_OTHERS = [
    "-ignore_readdir_race",
    "-perm",
    "/077",
    "-not",
    "-type",
    "l",
    "-printf",
    "%M %p\\n",
]


def test_images_records_and_sockets_are_roots_alone(architect: Cluster, theme: str) -> None:
    with workload(architect, theme, "private") as app:
        app.sleep()
        image = names.PODS / app.uid() / "app" / "image"
        assert "pages-1.img" in app.node().exec(["ls", str(image)])
        for node in architect.nodes:
            found = node.exec(["find", str(names.STATE), *OPEN_TO_OTHERS])
            assert found == "", node.name
            found = node.exec(["find", str(names.RUN), "-mindepth", "1", *OPEN_TO_OTHERS])
            assert found == "", node.name
