"""What each part's ports give to somebody without credentials: metrics and health, no more."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from lab import errors
from lab.cluster import Cluster
from support import parts
from support.patience import patient
from support.workloads import REQUEST_SECONDS

pytestmark = pytest.mark.concurrent

PORTS = {"daemon": ("http", 9464), "operator": ("http", 8081), "webhook": ("https", 9443)}
STRANGER = Path(parts.__file__).with_name("stranger.py")


def addresses(cluster: Cluster, part: str) -> list[str]:
    """Return the addresses of the part's pods."""
    return cluster.kubectl(
        *("get", "pods", "-n", "architect", "-l", f"app.kubernetes.io/component={part}"),
        *("-o", "jsonpath={.items[*].status.podIP}"),
    ).split()


def curl(cluster: Cluster, *words: str) -> str:
    """Ask from outside the nodes, as any pod could; believe whatever certificate there is."""
    return cluster.in_control_plane(
        ["curl", "-gsSk", "--path-as-is", "-m", f"{REQUEST_SECONDS:g}", *words],
        timeout_seconds=REQUEST_SECONDS + 30,
    )


def status(cluster: Cluster, url: str, *words: str) -> int:
    return int(curl(cluster, "-o", "/dev/null", "-w", "%{http_code}", *words, url))


@pytest.mark.parametrize("part", PORTS)
def test_metrics_and_health_are_read_and_nothing_is_written(architect: Cluster, part: str) -> None:
    scheme, port = PORTS[part]
    found = addresses(architect, part)
    assert found
    for address in found:
        base = f"{scheme}://{address}:{port}"
        assert status(architect, f"{base}/metrics") == 200
        assert status(architect, f"{base}/healthz") == 200
        for path in ("/", "/debug", "/metrics/../../etc/passwd", "/..%2f..%2fetc/passwd"):
            assert status(architect, f"{base}{path}") == 404, path
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            assert status(architect, f"{base}/metrics", "-X", method) in (405, 501), method


def test_the_webhook_decides_for_anybody_and_knows_nothing(architect: Cluster) -> None:
    """It is a function of what it is sent; there is nothing to learn and nothing to change."""
    for address in addresses(architect, "webhook"):
        url = f"https://{address}:9443/mutate"
        assert status(architect, url, "-d", "{}") == 400
        assert status(architect, url) == 405


def test_checkpoints_are_given_to_nobody_without_a_daemons_certificate(architect: Cluster) -> None:
    for address in addresses(architect, "daemon"):
        for scheme in ("https", "http"):
            with pytest.raises(errors.CommandFailed) as caught:
                curl(
                    architect, "--http2-prior-knowledge", f"{scheme}://{address}:{parts.PEER_PORT}/"
                )
            # The connection ends: by an alert, or without a word.
            assert caught.value.status in (16, 18, 35, 52, 55, 56, 92), caught.value


@pytest.mark.parametrize(
    "words",
    ["", "no ticket of ours", "GET / HTTP/1.1\r\nhost: x\r\n\r\n", "\0" * 16],
    ids=["nothing", "noise", "http", "zeros"],
)
def test_bytes_are_given_to_nobody_without_a_ticket(architect: Cluster, words: str) -> None:
    """The port of checkpoints' bytes: whoever shows nothing that was granted is ended, unheard."""
    found = addresses(architect, "daemon")
    assert found
    for address in found:
        told = architect.in_control_plane(
            [sys.executable, STRANGER, "say", "plain", address, str(parts.PEER_DATA_PORT)],
            input=words,
            timeout_seconds=patient(180.0),
        )
        assert json.loads(told) == {"heard": "", "has_ended": True}
        assert status(architect, f"http://{address}:{parts.DAEMON_PORT}/healthz") == 200
