"""Whoever reaches the webhook's port in a cluster: refused, or ended, and the API server is served.

``unit/webhook/test_abuse.py`` has each bound by itself; here they hold in the pods that the chart
makes, behind the network of a cluster, while the API server asks.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from architect.api import names
from lab.cluster import Cluster
from support import parts
from support.patience import patient
from support.workloads import eventually

# Not beside others: the API server lets pods pass that the webhook has not answered for.

STRANGER: Final = Path(parts.__file__).with_name("stranger.py")
PORT: Final = 9443
SECONDS: Final = patient(180.0)
CROWD: Final = 600
"""More than the webhook has room for (``architect.webhook.crowd``)."""
ROOM: Final = 512
POD: Final[dict[str, Any]] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "asked", "annotations": {names.IDLE: "60s"}},
    "spec": {"containers": [{"name": "app", "image": "localhost/py:3"}]},
}
REVIEW: Final = {
    "apiVersion": "admission.k8s.io/v1",
    "kind": "AdmissionReview",
    "request": {
        "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "operation": "CREATE",
        "namespace": "default",
        "object": POD,
    },
}


@pytest.fixture
def webhooks(architect: Cluster) -> Iterator[dict[str, str]]:
    """Name and address of each of its pods; the same ones answer afterwards, none was restarted."""

    def seen() -> dict[str, tuple[str, int]]:
        return {
            pod["metadata"]["name"]: (
                pod["status"]["podIP"],
                sum(s["restartCount"] for s in pod["status"]["containerStatuses"]),
            )
            for pod in parts.pods(architect, "webhook")
            if "deletionTimestamp" not in pod["metadata"]
        }

    eventually(lambda: parts.webhook_answers(architect), what="the webhook answers")
    before = seen()
    assert before
    yield {name: address for name, (address, _) in before.items()}
    eventually(lambda: parts.webhook_answers(architect), what="the webhook answers as before")
    assert seen() == before


def say(cluster: Cluster, address: str, words: bytes, *, verb: str = "say") -> dict[str, Any]:
    """Say *words* to the webhook, from where any pod could; return what came back."""
    told = cluster.in_control_plane(
        [sys.executable, STRANGER, verb, "tls", address, str(PORT)],
        input=words.decode("ascii"),
        timeout_seconds=SECONDS,
    )
    found: dict[str, Any] = json.loads(told)
    return found


def request(body: bytes, *, path: str = "/mutate", length: int | None = None) -> bytes:
    count = len(body) if length is None else length
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {count}\r\n\r\n"
    return head.encode() + body


def status(told: dict[str, Any]) -> str:
    return str(told["heard"]).partition(" ")[2][:3]


HUGE: Final = 3 * 1024 * 1024 + 1
CHUNKS: Final = (
    b"POST /mutate HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    + (b"100000\r\n" + b" " * 0x100000 + b"\r\n") * 4
)


def test_what_is_huge_is_refused(architect: Cluster, webhooks: dict[str, str]) -> None:
    for address in webhooks.values():
        # It says so at first, and none of it need come.
        assert status(say(architect, address, request(b"", length=HUGE))) == "413"
        # It does not: refused as soon as it is too much, or cut off while it still sends.
        told = say(architect, address, CHUNKS)
        assert status(told) == "413" or told == {"heard": "", "has_ended": True}


def test_what_drips_is_ended(architect: Cluster, webhooks: dict[str, str]) -> None:
    address = next(iter(webhooks.values()))
    for words in (b"POST /mutate HTTP/1.1\r\nx: ", request(b"{", length=1000)):
        told = say(architect, address, words, verb="drip")
        assert told == {"heard": "", "has_ended": True}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (request(b"{}"), "400"),
        (request(b"not JSON"), "400"),
        (request(b"[" * 100_000), "400"),
        (request(json.dumps({**REVIEW, "request": None}).encode()), "400"),
        (request(b"{}", path="/other"), "404"),
        (request(b"{}", path="/mutate/../metrics"), "404"),
        (b"GET /mutate HTTP/1.1\r\nhost: x\r\n\r\n", "405"),
        (b"POST /mutate HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n", "400"),
        (b"POST /mutate HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip\r\n\r\n", "400"),
        (b"POST /mutate HTTP/1.1\r\nx: " + b"y" * 100_000 + b"\r\n\r\n", "400"),
        (b"no HTTP at all\r\n\r\n", "400"),
    ],
    ids=[
        *("empty", "text", "deep", "no-request", "path", "dots", "get", "length", "coding"),
        *("long-head", "noise"),
    ],
)
def test_what_is_malformed_is_refused(
    architect: Cluster, webhooks: dict[str, str], words: bytes, expected: str
) -> None:
    for address in webhooks.values():
        assert status(say(architect, address, words)) == expected


def test_what_is_replayed_has_the_same_answer_and_changes_nothing(
    architect: Cluster, webhooks: dict[str, str]
) -> None:
    """Whoever sends it, to whichever replica; nobody but the API server acts on an answer."""

    def configuration() -> list[str]:
        words = (
            "get",
            "mutatingwebhookconfigurations,validatingwebhookconfigurations,runtimeclass",
        )
        return architect.kubectl(
            *words, "-o", "jsonpath={range .items[*]}{.metadata.uid} {.metadata.generation}|{end}"
        ).split("|")

    before = configuration()
    words = request(json.dumps(REVIEW).encode())
    answers = [
        json.loads(say(architect, address, words)["heard"].partition("\r\n\r\n")[2])
        for _ in range(3)
        for address in webhooks.values()
    ]
    assert all(answer == answers[0] for answer in answers)
    assert answers[0]["response"]["uid"] == REVIEW["request"]["uid"]  # type: ignore[index]
    assert answers[0]["response"]["allowed"] is True
    assert configuration() == before
    listed = architect.kubectl("-n", "default", "get", "pods", "-o", "name").split()
    assert "pod/asked" not in listed


@contextmanager
def crowd(cluster: Cluster, address: str) -> Iterator[subprocess.Popen[str]]:
    """Have :data:`CROWD` connections to *address* that ask nothing."""
    words = ("crowd", address, str(PORT), str(CROWD))
    with subprocess.Popen(
        cluster.plane.machine.in_network(sys.executable, STRANGER, *words),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        try:
            yield process
        finally:
            process.stdin.close()
            process.kill()


def left(process: subprocess.Popen[str]) -> int:
    """Return how many connections of a crowd are open, once all were made."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return int(json.loads(process.stdout.readline())["open"])


def test_a_crowd_does_not_keep_the_api_server_out(
    architect: Cluster, webhooks: dict[str, str]
) -> None:
    with ExitStack() as stack:
        crowds = [stack.enter_context(crowd(architect, one)) for one in webhooks.values()]
        for process in crowds:
            # The oldest had to leave.
            assert 0 < left(process) <= ROOM
        eventually(lambda: parts.webhook_answers(architect), what="the webhook answers meanwhile")
        eventually(lambda: _is_managed(architect), what="a pod is managed meanwhile")
        assert any(left(process) for process in crowds), "the crowd is still there"


def _is_managed(cluster: Cluster) -> bool:
    """Whether a pod that is made now is managed."""
    words = ("-n", "default", "create", "--dry-run=server", "-o", "json", "-f", "-")
    made = json.loads(cluster.kubectl(*words, input=json.dumps(POD)))
    return names.POLICY in made["metadata"].get("annotations", {})
