"""Where the lab keeps things. Nothing else reads the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The two directories of the lab and the port of the API server on the host's loopback."""

    cache: Path = Path("/var/cache/architect")
    """Built artefacts, by version; may be deleted at any time the lab is down."""

    state: Path = Path("/var/lib/architect-lab")
    """The running lab. On a disk: an overlay's upper layer and container images do not fit a
    tmpfs, and the product refuses to keep memory images on one."""

    api_port: int = 6443
    """Port of the API server on 127.0.0.1; another free one is taken if this is in use."""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Read ``ARCHITECT_CACHE``, ``ARCHITECT_LAB`` and ``ARCHITECT_LAB_API_PORT``."""
        env = os.environ if environ is None else environ
        return cls(
            cache=Path(env.get("ARCHITECT_CACHE") or cls.cache),
            state=Path(env.get("ARCHITECT_LAB") or cls.state),
            api_port=int(env.get("ARCHITECT_LAB_API_PORT") or cls.api_port),
        )

    @property
    def machines(self) -> Path:
        """One directory per machine."""
        return self.state / "machines"
