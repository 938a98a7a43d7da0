"""Where the lab keeps things. Nothing else reads the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The lab's two directories, the API server's port on the host's loopback, and patience."""

    cache: Path = Path("/var/cache/architect")
    """Built artefacts, by version; may be deleted at any time the lab is down."""

    state: Path = Path("/var/lib/architect-lab")
    """The running lab. On a disk: an overlay's upper layer and container images do not fit a
    tmpfs, and the product refuses to keep memory images on one."""

    api_port: int = 6443
    """Port of the API server on 127.0.0.1; another free one is taken if this is in use."""

    patience: float = 1.0
    """By what every deadline is multiplied, of the lab as of Kubernetes' nodes and of tests. For
    machines that are much slower than a developer's, such as an emulated one."""

    containerd: str = ""
    """``2.4``: nodes that are made get containerd of the version in ``versions.py``. Empty: the one
    of their Debian."""

    has_audit: bool = False
    """Whether the API server of a new control plane writes down who asks it for what. It costs it
    some time."""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Read ``ARCHITECT_CACHE``, ``ARCHITECT_LAB`` and so on from the environment."""
        env = os.environ if environ is None else environ
        return cls(
            cache=Path(env.get("ARCHITECT_CACHE") or cls.cache),
            state=Path(env.get("ARCHITECT_LAB") or cls.state),
            api_port=int(env.get("ARCHITECT_LAB_API_PORT") or cls.api_port),
            patience=float(env.get("ARCHITECT_PATIENCE") or cls.patience),
            containerd=env.get("ARCHITECT_LAB_CONTAINERD") or cls.containerd,
            has_audit=bool(env.get("ARCHITECT_LAB_AUDIT")),
        )

    @property
    def machines(self) -> Path:
        """One directory per machine."""
        return self.state / "machines"

    @property
    def shared(self) -> Path:
        """What every node sees, as of a disk in the network."""
        return self.state / "shared"
