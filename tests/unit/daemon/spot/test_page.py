"""``/spot/plan`` over HTTP, beside metrics and health."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from architect.core.errors import NodeError
from architect.daemon.metrics import Metrics, Server
from architect.daemon.spot import page
from architect.daemon.spot.inputs import Pod
from architect.daemon.spot.page import Page

MIB = 1 << 20


class Serving:
    """A page on the loopback."""

    def __init__(self, node: Any) -> None:
        self.node = node
        self.page = Page("node1", node.survey, notice=lambda: 30.0)
        self.server = Server(
            Metrics(),
            address=("127.0.0.1", 0),
            alive=lambda: "",
            ready=lambda: "",
            pages={page.PATH: self.page},
        )
        self.server.start()

    def get(self, query: str = "", *, path: str = page.PATH) -> tuple[int, str, str]:
        url = f"http://127.0.0.1:{self.server.port}{path}{query}"
        try:
            with urllib.request.urlopen(url, timeout=60) as found:
                return found.status, found.headers["Content-Type"], found.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers["Content-Type"], error.read().decode()


@pytest.fixture
def serving(node: Any) -> Iterator[Serving]:
    made = Serving(node)
    yield made
    made.server.stop()


def test_people_get_a_table(serving: Serving) -> None:
    serving.node.has("web", 100 * MIB)
    code, kind, text = serving.get()
    assert (code, kind) == (200, "text/plain; charset=utf-8")
    assert text.startswith("node node1: 25 s can be used; its pod (104 MiB) would take ")
    assert "\ndefault/web         0  awake  104 MiB  " in text


def test_programs_get_json(serving: Serving) -> None:
    serving.node.has("web", 100 * MIB)
    serving.node.has("large", 64 << 30)
    serving.node.has("bare", MIB, ownerReferences=[])
    code, kind, text = serving.get("?output=json&deadline=120")
    value = json.loads(text)
    assert (code, kind, value["node"]) == (200, "application/json", "node1")
    assert (value["usableSeconds"], value["isStoreReachable"]) == (115.0, True)
    assert value["needs"]["pods"] == 2
    found = {pod["name"]: pod for pod in value["pods"]}
    assert found["default/web"]["verdict"] == "saved"
    assert 0 < found["default/web"]["bySeconds"] < 115
    assert found["default/large"]["reason"] == "TooLarge"
    assert found["default/large"]["remedy"]["secondsMore"] > 100
    assert (found["default/bare"]["reason"], found["default/bare"]["remedy"]) == (
        "NoController",
        None,
    )


@pytest.mark.parametrize(
    ("query", "word"),
    [
        ("?deadline=soon", "float"),
        ("?deadline=-1", "deadline -1 is not"),
        ("?deadline=nan", "deadline nan is not"),
        ("?deadline=1e9", "deadline 1e9 is not"),
        (f"?deadline={'9' * 50}", "is not a number"),
        ("?output=xml", "output xml is not text or json"),
        ("?node=x", "node is not known"),
    ],
)
def test_what_cannot_be_asked_is_said(serving: Serving, query: str, word: str) -> None:
    code, _, text = serving.get(query)
    assert code == 400
    assert word in text


def test_no_time_is_an_answer(serving: Serving) -> None:
    serving.node.has("web", MIB)
    assert "no time is left" in serving.get("?deadline=0")[2]


def test_what_cannot_be_looked_at_is_said(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> dict[str, Pod]:
        raise NodeError("the disk is gone")

    monkeypatch.setattr(serving.node.survey, "pods", fails)
    code, _, text = serving.get()
    assert code == 503 and "the disk is gone" in text


def test_only_a_few_may_wait(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, gate = threading.Semaphore(0), threading.Event()
    pods = serving.node.survey.pods

    def waits() -> dict[str, Pod]:
        begun.release()
        assert gate.wait(60)
        found: dict[str, Pod] = pods()
        return found

    monkeypatch.setattr(serving.node.survey, "pods", waits)
    codes: list[int] = []
    threads = [
        threading.Thread(target=lambda: codes.append(serving.page("").status))
        for _ in range(page.MOST_WAITING + 3)
    ]
    for thread in threads:
        thread.start()
    assert begun.acquire(timeout=60)
    # Those that may not wait are answered while one is at work.
    while len(codes) < 3:
        threads[0].join(0.01)
    assert codes == [503] * 3
    gate.set()
    for thread in threads:
        thread.join(60)
    assert sorted(codes) == [200] * page.MOST_WAITING + [503] * 3


def test_what_is_not_there_names_what_is(serving: Serving) -> None:
    code, _, text = serving.get(path="/spot")
    assert (code, text) == (404, "see /metrics, /healthz, /readyz, /spot/plan\n")
