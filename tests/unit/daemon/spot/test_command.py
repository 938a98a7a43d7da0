"""``architect-spot``: beside a daemon, and through an API server that proxies to real ones."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from architect.daemon.metrics import Metrics, Server
from architect.daemon.spot import command, page
from architect.daemon.spot.page import Page

MIB = 1 << 20


class Cluster:
    """An API server with nodes, daemons' pods, and a proxy to what they serve."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.nodes: set[str] = set()
        self.pods: list[dict[str, Any]] = []
        self.ports: dict[str, int] = {}
        """Pod to where it is served here."""
        self.forbidden: set[str] = set()
        """Of ``list``, ``proxy`` and ``nodes``."""
        self.asked: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                code, body = outer.answer(self.path)
                self.send_response(code)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def kubeconfig(self) -> str:
        value = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {
                    "name": "c",
                    "cluster": {"server": f"http://127.0.0.1:{self.http.server_address[1]}"},
                }
            ],
            "users": [{"name": "u", "user": {"token": "t"}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
        file = self.path / "kubeconfig"
        file.write_text(yaml.safe_dump(value))
        return str(file)

    def adds(self, node: str, *, port: int, phase: str = "Running", **container: Any) -> None:
        self.nodes.add(node)
        name = f"architect-daemon-{len(self.pods)}"
        ports = [{"name": "peer", "containerPort": 9465}, {"name": "metrics", "containerPort": 9}]
        self.pods.append(
            {
                "metadata": {"namespace": "architect", "name": name, "uid": name},
                "spec": {"nodeName": node, "containers": [{"ports": ports, **container}]},
                "status": {"phase": phase},
            }
        )
        self.ports[name] = port

    def answer(self, path: str) -> tuple[int, bytes]:
        parts = urlsplit(path)
        query = {k: v[0] for k, v in parse_qs(parts.query).items()}
        self.asked.append(path)
        words = parts.path.strip("/").split("/")
        if words[-1] == "pods":
            return self._list(words, query)
        if words[2] == "nodes":
            if "nodes" in self.forbidden:
                return _status(403, "Forbidden", "nodes is forbidden")
            is_there = words[3] in self.nodes
            found = {"metadata": {"name": words[3], "uid": "n"}}
            return (200, _json(found)) if is_there else _status(404, "NotFound", "not found")
        name, _, port = words[5].replace("%3A", ":").partition(":")
        assert (words[4], port, words[6]) == ("pods", "9", "proxy")
        if "proxy" in self.forbidden:
            return _status(403, "Forbidden", 'cannot get resource "pods/proxy"')
        url = f"http://127.0.0.1:{self.ports[name]}/{'/'.join(words[7:])}?{parts.query}"
        try:
            with urllib.request.urlopen(url, timeout=60) as found:
                return found.status, found.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()
        except OSError:
            return _status(503, "ServiceUnavailable", "connection refused")

    def _list(self, words: list[str], query: dict[str, str]) -> tuple[int, bytes]:
        if "list" in self.forbidden and "namespaces" not in words:
            return _status(403, "Forbidden", "pods is forbidden at the cluster scope")
        assert query["labelSelector"] == (
            "app.kubernetes.io/name=architect,app.kubernetes.io/component=daemon"
        )
        node = query.get("fieldSelector", "").removeprefix("spec.nodeName=")
        items = [p for p in self.pods if node in ("", p["spec"]["nodeName"])]
        return 200, _json({"items": items, "metadata": {"resourceVersion": "1"}})


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def _status(code: int, reason: str, message: str) -> tuple[int, bytes]:
    return code, _json({"kind": "Status", "code": code, "reason": reason, "message": message})


class Running:
    """The command, and what it printed."""

    def __init__(self, cluster: Cluster, port: int, capsys: Any) -> None:
        self.cluster, self.port, self.capsys = cluster, port, capsys
        self.environment: dict[str, str] = {}
        self.out = self.err = ""

    def __call__(self, *argv: str, is_remote: bool = True) -> int:
        given = ("--kubeconfig", self.cluster.kubeconfig()) if is_remote else ()
        status = command.run(["plan", *argv, *given], environment=self.environment)
        self.out, self.err = self.capsys.readouterr()
        return status


@pytest.fixture
def port(node: Any) -> Iterator[int]:
    node.has("web", 100 * MIB)
    server = Server(
        Metrics(),
        address=("127.0.0.1", 0),
        alive=lambda: "",
        ready=lambda: "",
        pages={page.PATH: Page("node1", node.survey, notice=lambda: 30.0)},
    )
    server.start()
    yield server.port
    server.stop()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    yield made
    made.http.shutdown()
    made.http.server_close()


@pytest.fixture
def spot(cluster: Cluster, port: int, capsys: Any) -> Running:
    return Running(cluster, port, capsys)


def beside(spot: Running, port: int | None = None) -> None:
    """Have it run in a daemon's pod."""
    address = f"0.0.0.0:{spot.port if port is None else port}"
    spot.environment |= {"NODE_NAME": "node1", "ARCHITECT_METRICS_ADDRESS": address}


def test_beside_a_daemon_it_asks_that_one(spot: Running) -> None:
    beside(spot)
    for argv in ((), ("node1",)):
        assert spot(*argv, is_remote=False) == 0
        assert spot.out.startswith("node node1: 25 s can be used; its pod (104 MiB) would take ")
        assert spot.out.endswith(" s\n") and "default/web" in spot.out
    assert spot.cluster.asked == []


def test_json_has_no_table(spot: Running) -> None:
    beside(spot)
    assert spot("node1", "--output", "json", "--deadline", "2m", is_remote=False) == 0
    value = json.loads(spot.out)
    assert (value["node"], value["usableSeconds"]) == ("node1", 115.0)
    assert "table" not in value
    assert spot("--output", "json", is_remote=False) == 0
    assert [plan["node"] for plan in json.loads(spot.out)] == ["node1"]


def test_from_elsewhere_it_asks_through_the_api_server(spot: Running) -> None:
    spot.cluster.adds("node1", port=spot.port)
    assert spot("node1", "--deadline", "35") == 0
    assert spot.out.startswith("node node1: 30 s can be used")
    assert "/pods/architect-daemon-0%3A9/proxy/spot/plan?" in spot.cluster.asked[-1]
    # The file may be named by the environment as well.
    spot.environment["KUBECONFIG"] = f"{spot.cluster.kubeconfig()}:/nowhere"
    assert spot("node1", is_remote=False) == 0


def test_in_a_daemons_pod_another_node_is_asked_through_the_api_server(spot: Running) -> None:
    beside(spot)
    spot.cluster.adds("node2", port=spot.port)
    spot.environment["KUBECONFIG"] = spot.cluster.kubeconfig()
    assert spot("node2", is_remote=False) == 0
    assert spot.cluster.asked


def test_without_a_node_all_are_asked_and_one_that_fails_hides_no_other(spot: Running) -> None:
    spot.cluster.adds("node2", port=1)
    spot.cluster.adds("node1", port=spot.port)
    spot.cluster.adds("node3", port=spot.port)
    assert spot() == 4
    assert spot.out.count("25 s can be used") == 2
    assert "\n\nnode node1" in spot.out  # one table behind the other
    assert spot.err.startswith("architect-spot: node node2: cannot ask ")


def test_of_two_daemons_of_a_node_the_one_that_runs_is_asked(spot: Running) -> None:
    spot.cluster.adds("node1", port=spot.port)
    spot.cluster.adds("node1", port=1, phase="Failed")
    assert spot("node1") == 0


@pytest.mark.parametrize(
    ("argv", "forbidden", "texts"),
    [
        (("node9",), (), ["there is no node node9", "kubectl get nodes"]),
        (("node2",), (), ["no daemon of Architect runs on node node2"]),
        (("node9",), ("nodes",), ["no daemon of Architect runs on node node9"]),
        (("node1",), ("list",), ["you may not list the daemons' pods", "--namespace"]),
        (
            ("node1",),
            ("proxy",),
            [
                "you may not ask pods by way of the API server",
                "kubectl create role architect-spot -n architect --verb=get,list "
                "--resource=pods,pods/proxy",
                "kubectl exec -n architect architect-daemon-0 -- architect-spot plan",
            ],
        ),
        (("node1", "--deadline", "soon"), (), ["--deadline 'soon' is not seconds"]),
        (("node1", "--deadline", "-1"), (), ["--deadline '-1' is not seconds"]),
    ],
)
def test_what_is_in_the_way_is_named(
    spot: Running, argv: tuple[str, ...], forbidden: tuple[str, ...], texts: list[str]
) -> None:
    spot.cluster.adds("node1", port=spot.port)
    spot.cluster.nodes.add("node2")
    spot.cluster.forbidden.update(forbidden)
    assert spot(*argv) == 2
    assert spot.out == ""
    for text in texts:
        assert text in spot.err
    assert "ServiceAccount's ClusterRole" not in spot.err


def test_with_the_namespace_less_is_needed(spot: Running) -> None:
    spot.cluster.adds("node1", port=spot.port)
    spot.cluster.forbidden.add("list")
    assert spot("node1", "--namespace", "architect") == 0


def test_without_architect_there_is_nobody_to_ask(spot: Running) -> None:
    assert spot() == 2
    assert "is Architect installed?" in spot.err


def test_a_pod_without_the_port_is_no_daemon(spot: Running) -> None:
    spot.cluster.adds("node1", port=spot.port, ports=[])
    assert spot("node1") == 2
    assert "has no port metrics" in spot.err


def test_a_daemon_of_before_and_one_that_does_not_answer_are_told_apart(
    spot: Running, capsys: Any
) -> None:
    server = Server(Metrics(), address=("127.0.0.1", 0), alive=lambda: "", ready=lambda: "")
    server.start()
    try:
        beside(spot, server.port)
        assert spot(is_remote=False) == 2
        assert "of an older version?" in spot.err
        spot.cluster.adds("node1", port=server.port)
        assert spot("node1") == 2
        assert "of an older version?" in spot.err
    finally:
        server.stop()
    beside(spot, 1)  # nobody's port, unlike one that was given back
    assert spot(is_remote=False) == 4
    assert "the daemon does not answer" in spot.err


def test_without_any_way_to_a_cluster_it_says_so(spot: Running, tmp_path: Path) -> None:
    spot.environment["HOME"] = str(tmp_path / "nobody")
    assert spot(is_remote=False) == 2
    assert "cannot find the API server" in spot.err
    spot.environment["KUBERNETES_SERVICE_HOST"] = "10.0.0.1"
    assert spot(is_remote=False) == 2
