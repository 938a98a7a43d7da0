"""What goes on in a new pod is that pod to itself and to others; who has no successor has none."""

from __future__ import annotations

import base64
import datetime
import json
import math
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import pytest

from architect.daemon.moves.lingering import STAY_SECONDS
from architect.shim.packets.netns import Netns
from lab import release
from lab.cluster import Cluster
from lab.node import Node
from support import moves, parts
from support.callers import ANSWERED, REFUSED, RESET, UNHEARD, Callers
from support.moves import Pod
from support.patience import patient
from support.workloads import (
    Workload,
    apply,
    ask,
    code,
    eventually,
    memory_server,
    pod_template,
    wait_for_service,
    workload,
)

PORT: Final = 8080
GRACE_SECONDS: Final = 60
SILENCE_SECONDS: Final = patient(90.0)
"""In which a peer is to learn its connection's end. TCP itself would take 15 minutes to give one up
that has something to say, and ever for one that has not."""
TALK_SECONDS: Final = 0.1

# Peers


class End(NamedTuple):
    """How a connection ended, as its client saw it."""

    how: str
    at: float
    """Unix seconds."""
    silence: float
    """Seconds since the last thing that the client heard."""


@contextmanager
def connected(node: Node, *addresses: str) -> Iterator[list[socket.socket]]:
    """Connect to each of *addresses* from the network of *node*, and hear an answer of each."""
    with Netns.open(node.machine.network) as netns, ExitStack() as stack:
        made = [
            stack.enter_context(netns.open_socket(socket.AF_INET, socket.SOCK_STREAM))
            for _ in addresses
        ]
        for connection, address in zip(made, addresses, strict=True):
            connection.settimeout(patient(120.0))
            connection.connect((address, PORT))
            assert heard(connection)
        yield made


def heard(connection: socket.socket) -> bool:
    """Ask and read the answer; return False where the connection has ended."""
    connection.sendall(b"GET / HTTP/1.1\r\nHost: pod\r\n\r\n")
    got = b""
    while not got.endswith(b"}\n"):
        data = connection.recv(65536)
        if not data:
            return False
        got += data
    return True


def ended(connection: socket.socket, *, talks: bool) -> End:
    """Return how the connection ends of a client who *talks* all the time, or only listens."""
    last = time.monotonic()
    try:
        while talks and heard(connection):
            last = time.monotonic()
            time.sleep(TALK_SECONDS)
        how = "nothing more" if talks else f"{connection.recv(100)!r}"
    except OSError as error:
        how = type(error).__name__
    return End(how=how, at=time.time(), silence=time.monotonic() - last)


def condition_at(app: Workload, old: Pod, kind: str) -> float:
    """Return when a condition of *old*'s Checkpoint got its status, in whole Unix seconds."""
    found = moves.checkpoint(app, old) or {}
    (text,) = [c["lastTransitionTime"] for c in found["status"]["conditions"] if c["type"] == kind]
    return datetime.datetime.fromisoformat(text).timestamp()


@dataclass
class Lateness:
    """How late this process was run, where it wanted to be."""

    most_seconds: float = 0.0


@contextmanager
def lateness() -> Iterator[Lateness]:
    """Measure it for the ``with`` block."""
    found, is_over = Lateness(), threading.Event()

    def watch() -> None:
        while not is_over.is_set():
            wanted = time.monotonic() + TALK_SECONDS
            is_over.wait(TALK_SECONDS)
            found.most_seconds = max(found.most_seconds, time.monotonic() - wanted)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        is_over.set()
        thread.join()


# The pod itself


def pod_of(token: str) -> dict[str, str]:
    """Return the pod that a service account token is bound to."""
    body = token.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    found: dict[str, str] = claims["kubernetes.io"]["pod"]
    return found


def is_believed(cluster: Cluster, token: str) -> bool:
    """Whether the API server takes the token."""
    review = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "spec": {"token": token},
    }
    said = cluster.kubectl("create", "-o", "json", "-f", "-", input=json.dumps(review))
    return bool(json.loads(said)["status"].get("authenticated"))


TOKEN: Final = "/var/run/secrets/kubernetes.io/serviceaccount/token"
OF_KUBELET: Final = ("/etc/hosts", "/app")
"""What is mounted from a directory of the pod's."""
OF_SANDBOX: Final = ("/etc/hostname", "/etc/resolv.conf")
"""What is mounted from a directory of the sandbox's."""


def test_what_a_drain_moves_listens_at_the_new_pods_address_and_is_that_pod(
    architect: Cluster, namespace: str
) -> None:
    addresses = {"fieldRef": {"fieldPath": "status.podIPs"}}
    container = {
        "command": ["python3", "-u", "/app/bound.py"],
        "env": [{"name": "POD_IPS", "valueFrom": addresses}],
    }
    # Until kubelet ends a pod that is saved, and whose successor has not begun.
    spec = {"terminationGracePeriodSeconds": GRACE_SECONDS}
    with workload(architect, namespace, "itself", container=container, spec=spec) as app:
        (old,) = moves.pods(app)
        (elsewhere,) = [n for n in architect.nodes if n.name != old["spec"]["nodeName"]]
        ip = old["status"]["podIP"]
        before = moves.answer(app, old)
        assert before["bound"] == ip
        assert before["files"]["/app/told"] is None
        # kubelet replaces the directory while the application has a file there open.
        patch = json.dumps({"data": {"told": "since"}})
        app.kubectl("patch", "configmap", app.name, "-p", patch)
        app.kubectl("annotate", "pod", old["metadata"]["name"], "example.com/look=now")
        eventually(
            lambda: moves.answer(app, old)["files"]["/app/told"] == "since",
            what="kubelet has written the ConfigMap",
        )
        before = moves.answer(app, old)
        assert before["open"].endswith("/bound.py (deleted)")
        wait_for_service(elsewhere.machine, app.service_ip())
        before = moves.answer(app, old)
        with (
            connected(elsewhere, ip, app.service_ip(), ip, app.service_ip()) as peers,
            Callers(elsewhere, ip) as of_its_address,
            Callers(elsewhere, app.service_ip()) as of_its_service,
            ThreadPoolExecutor() as pool,
            lateness() as late,
        ):
            ends: list[Future[End]] = [
                pool.submit(ended, peer, talks=number < 2) for number, peer in enumerate(peers)
            ]
            begun = time.time()
            with moves.draining(app, old["spec"]["nodeName"]):
                (new,) = moves.ready(app, apart_from=[old])
            wait_for_service(elsewhere.machine, app.service_ip())
            served = time.time()
            eventually(
                lambda: ANSWERED in of_its_service.kinds(served, math.inf),
                what="who calls the Service anew is answered",
            )
            of_peers = [end.result() for end in ends]
        assert moves.ended(app, old)["Restored"] == ("True", "Restored")

        # What this process was not there for in time, it saw later than it was.
        restored = condition_at(app, old, "Restored") + 1 + late.most_seconds
        for number, end in enumerate(of_peers):
            assert end.how == "ConnectionResetError", (number, end)
            assert end.at < restored, "they know it before their pod goes on"
        for end in of_peers[:2]:
            assert end.silence < SILENCE_SECONDS
        assert new["spec"]["nodeName"] == elsewhere.name
        # It stays, and refuses, until its successor runs: nobody has to wait for a time-out.
        gone = min(condition_at(app, old, "Restored"), begun + STAY_SECONDS)
        for callers in (of_its_address, of_its_service):
            print(callers)
            assert callers.kinds(begun, gone) <= {ANSWERED, REFUSED, RESET}, str(callers)
        assert REFUSED in of_its_address.kinds(begun, served), str(of_its_address)
        assert of_its_service.kinds(served, math.inf) <= {ANSWERED, UNHEARD}, str(of_its_service)

        after = moves.answer(app, new)
        assert after["identity"] == before["identity"]
        assert after["count"] > before["count"] + len(of_peers), "each has asked"
        bound = {
            ask(architect, f"http://{f'[{at}]' if ':' in at else at}:{PORT}/")["bound"]
            for at in (address["ip"] for address in new["status"]["podIPs"])
        }
        assert bound == {address["ip"] for address in new["status"]["podIPs"]}
        assert ip not in bound
        wait_for_service(architect.plane.machine, app.service_ip())
        assert ask(architect, f"http://{app.service_ip()}:{PORT}/")["bound"] in bound
        assert app.restarts() == 0

        is_the_new_pod(after, new, before=before)
        assert is_believed(architect, after["files"][TOKEN])
        eventually(
            lambda: not is_believed(architect, before["files"][TOKEN]),
            what="the old pod's token is not taken any more",
        )


def is_the_new_pod(after: dict[str, Any], new: Pod, *, before: dict[str, Any]) -> None:
    """Check what the application itself finds of its pod."""
    name, uid, files = new["metadata"]["name"], new["metadata"]["uid"], after["files"]
    assert after["host"] == name
    assert files["/etc/hostname"].strip() == name
    hosts = [line.split() for line in files["/etc/hosts"].splitlines()]
    assert [new["status"]["podIP"], name] in hosts
    assert files["/etc/resolv.conf"] == before["files"]["/etc/resolv.conf"]
    assert "nameserver" in files["/etc/resolv.conf"]
    assert files["/app/told"] == "since"
    bound_to = pod_of(files[TOKEN])
    assert (bound_to["name"], bound_to["uid"]) == (name, uid)
    assert after["open"].startswith("/dev/"), "what kubelet had removed comes back there"
    assert after["text"] == before["text"]
    for path in OF_KUBELET:
        assert uid in after["mounts"][path], path
    for path in OF_SANDBOX:
        assert after["mounts"][path] != before["mounts"][path], path


# Jobs and DaemonSets


def evict(app: Workload, pod: Pod) -> None:
    """Evict *pod* as a drain does, and leave its node as it is."""
    name = pod["metadata"]["name"]
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": name, "namespace": app.namespace},
    }
    path = f"/api/v1/namespaces/{app.namespace}/pods/{name}/eviction"
    app.kubectl("create", "--raw", path, "-f", "-", input=json.dumps(eviction))


def index_of(pod: Pod) -> str:
    return str(pod["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"])


def by_index(app: Workload, living: list[Pod]) -> dict[str, str]:
    """Return index → identity in memory."""
    return {index_of(pod): str(moves.answer(app, pod)["identity"]) for pod in living}


@pytest.mark.concurrent
def test_pods_of_an_indexed_job_go_on_by_index_and_their_completion_is_no_move(
    architect: Cluster, namespace: str
) -> None:
    app = Workload(cluster=architect, namespace=namespace, name="indexed")
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": app.name},
        "spec": {
            "completionMode": "Indexed",
            "completions": 2,
            "parallelism": 2,
            "template": pod_template(app.name, [memory_server()], spec={"restartPolicy": "Never"}),
        },
    }
    apply(app, code(app.name), job)
    old = moves.ready(app, 2)
    before = by_index(app, old)
    assert sorted(before) == ["0", "1"]
    for pod in old:
        evict(app, pod)
    new = moves.ready(app, 2, apart_from=old)
    assert by_index(app, new) == before
    came = {index_of(pod): pod["metadata"]["uid"] for pod in new}
    for pod in old:
        assert moves.ended(app, pod)["Restored"] == ("True", "Restored")
        checkpoint = moves.checkpoint(app, pod)
        assert checkpoint is not None
        assert checkpoint["spec"]["trigger"] == "Eviction"
        assert checkpoint["status"]["claimedBy"]["uid"] == came[index_of(pod)]
    for pod in new:
        moves.answer(app, pod, "/exit/0")
    app.kubectl("wait", "--for=condition=complete", f"job/{app.name}", "--timeout=170s")
    assert app.get_json("job", app.name)["status"]["completedIndexes"] == "0,1"
    app.kubectl("delete", "job", app.name, "--cascade=foreground", "--wait=true")
    assert [moves.checkpoint(app, pod) for pod in new] == [None, None]


@pytest.mark.concurrent
def test_a_pod_of_a_daemon_set_gets_its_signal_and_the_nodes_daemon_says_why(
    architect: Cluster, namespace: str
) -> None:
    app = Workload(cluster=architect, namespace=namespace, name="every")
    spec = {
        "selector": {"matchLabels": {"app": app.name}},
        "template": pod_template(app.name, [memory_server()]),
    }
    every = {"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": app.name}}
    apply(app, code(app.name), {**every, "spec": spec})
    old, stays = moves.ready(app, len(architect.nodes))
    before = moves.answer(app, old)
    with moves.said(app, old) as lines:
        app.kubectl("delete", "pod", old["metadata"]["name"], "--wait=false")
    assert lines[-1] == "got TERM"
    living = moves.ready(app, len(architect.nodes), apart_from=[old])
    (new,) = [p for p in living if p["metadata"]["uid"] != stays["metadata"]["uid"]]
    assert new["spec"]["nodeName"] == old["spec"]["nodeName"]
    assert moves.answer(app, new)["identity"] != before["identity"]
    assert moves.checkpoint(app, old) is None
    daemon = parts.daemon_pod(architect, old["spec"]["nodeName"])["metadata"]["name"]
    why = f"DaemonSet: DaemonSet {app.name} replaces its pods on their own nodes"
    told = {
        f"{namespace}/{old['metadata']['name']} gets its signal: {why}",
        f"{namespace}/{new['metadata']['name']} starts fresh: {why}",
    }

    def unsaid() -> set[str]:
        log = architect.kubectl("-n", release.NAMESPACE, "logs", daemon, "--since=10m")
        return {line for line in told if line not in log}

    eventually(lambda: not unsaid(), what="the node's daemon says why")
    app.kubectl("delete", "daemonset", app.name, "--wait=false")
