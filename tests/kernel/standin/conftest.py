from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from architect.shim.standin.tls import Certificate
from lab import gotoolchain
from lab.cache import Cache
from lab.settings import Settings
from support import selfsigned
from support.standin import Namespace, Serving

PROBECLIENT = Path(__file__).parents[2] / "support" / "probeclient"


@pytest.fixture
def netns() -> Iterator[Namespace]:
    namespace = Namespace()
    yield namespace
    namespace.close()


@pytest.fixture
def serving() -> Iterator[Serving]:
    running = Serving()
    yield running
    running.close()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return Certificate(selfsigned.write(tmp_path_factory.mktemp("standin") / "standin.pem"))


@pytest.fixture(scope="session")
def prober() -> Path:
    """The prober built from kubelet's packages; Go's cache makes later builds quick."""
    cache = Cache(Settings.from_environment().cache)
    binary = cache.root / "probeclient" / "probeclient"
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly"}
    subprocess.run(
        ["nice", "go", "build", "-trimpath", "-o", str(binary), "."],
        cwd=PROBECLIENT,
        env=gotoolchain.environment(cache, environment),
        check=True,
        timeout=540,
    )
    return binary


@pytest.fixture
def probe(netns: Namespace, prober: Path) -> Callable[..., tuple[str, str]]:
    """Probe once as kubelet does: (result, output)."""

    def run(
        kind: str,
        port: int,
        *,
        host: str = "127.0.0.1",
        path: str = "/",
        timeout_seconds: float = 60.0,
    ) -> tuple[str, str]:
        where = ["-host", host, "-port", str(port), "-path", path]
        bound = ["-timeout", f"{timeout_seconds}s"]
        found = json.loads(netns.run(str(prober), "-kind", kind, *where, *bound))
        return found["result"], found["output"]

    return run
