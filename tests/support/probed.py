"""Containers that kubelet asks in each way it has, by ``/app/probed.py``."""

from __future__ import annotations

from typing import Any, Final

from support.patience import patient
from support.workloads import memory_server

STRICT: Final = {
    "periodSeconds": round(patient(2)),
    "failureThreshold": 1,
    "timeoutSeconds": round(patient(30)),
}
"""One that is answered wrongly fails at once; one whose node stands still has time."""

STARTS: Final = round(patient(120))
"""Seconds, one attempt in each."""


def containers(**fields: Any) -> list[dict[str, Any]]:
    """Return containers, each with *fields*, whose probes are all kinds: HTTP, HTTPS, gRPC, TCP and
    commands.
    """
    return [
        _container(
            "web",
            {"http": 8080, "https": 8443},
            fields,
            readinessProbe={"httpGet": {"port": 8080, "path": "/ready"}},
            livenessProbe={"httpGet": {"port": 8443, "path": "/alive", "scheme": "HTTPS"}},
        ),
        _container(
            "rpc",
            {"grpc": 9090, "tcp": 9091},
            fields,
            readinessProbe={"grpc": {"port": 9090}},
            livenessProbe={"tcpSocket": {"port": 9091}},
        ),
        _container(
            "job",
            {"tcp": 9092},
            fields,
            readinessProbe={"exec": {"command": ["test", "-f", "/app/probed.py"]}},
            livenessProbe={"exec": {"command": ["sh", "-c", "kill -0 1"]}},
        ),
    ]


def _container(
    name: str, ports: dict[str, int], fields: dict[str, Any], **probes: Any
) -> dict[str, Any]:
    """Return a container that is probed often and given up at the first failure."""
    words = [f"{kind}={port}" for kind, port in ports.items()]
    first = next(iter(ports.values()))
    strict: dict[str, Any] = {key: {**probe, **STRICT} for key, probe in probes.items()}
    return memory_server(
        name,
        command=["python3", "-u", "/app/probed.py", *words],
        ports=[{"containerPort": port} for port in ports.values()],
        startupProbe={"tcpSocket": {"port": first}, "periodSeconds": 1, "failureThreshold": STARTS},
        **strict,
        **fields,
    )
