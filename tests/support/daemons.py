"""A daemon that is run by a test: what it is told, and where its objects are in the API server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from architect.daemon.settings import DaemonSettings, Engine, SpotProvider

DAEMON_SET = "/apis/apps/v1/namespaces/architect/daemonsets/architect-daemon"
NODE = "/api/v1/nodes/node1"
CHECKPOINT = "/apis/architect.dev/v1alpha1/namespaces/default/checkpoints/web-uid-web"


def config(tmp_path: Path, **fields: Any) -> DaemonSettings:
    """Return settings that neither look at this machine nor take a port that others may want."""
    given: dict[str, Any] = {
        "node_name": "node1",
        "engine": Engine.NONE,
        "bundle": tmp_path / "no-bundle",
        "metrics_address": "127.0.0.1:0",
        "peer_address": "127.0.0.1:0",
        "keeper_timeout_seconds": 60.0,
        "sample_min_seconds": 0.1,
        "condition_interval_seconds": 0.2,
        "free_floor_bytes": 0,
        "spot_provider": SpotProvider.NONE,  # this machine's is not asked
        **fields,
    }
    return DaemonSettings(**given)
