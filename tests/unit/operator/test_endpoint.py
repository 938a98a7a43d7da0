from __future__ import annotations

import urllib.error
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from architect.operator import metrics
from architect.operator.endpoint import Endpoint
from architect.operator.metrics import Metrics


def get(port, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.mark.parametrize("host", ["127.0.0.1", "::"])
def test_health_says_what_is_wrong(host):
    wrong = {"health": "", "readiness": "no lease"}
    with Endpoint(
        (host, 0),
        numbers=Metrics(),
        health=lambda: wrong["health"],
        readiness=lambda: wrong["readiness"],
    ) as endpoint:
        assert get(endpoint.port, "/healthz") == (200, "ok\n")
        assert get(endpoint.port, "/readyz") == (503, "no lease\n")
        wrong["health"] = "stuck"
        assert get(endpoint.port, "/healthz") == (503, "stuck\n")
        assert get(endpoint.port, "/other")[0] == 404


def test_metrics_are_what_prometheus_reads():
    numbers = Metrics()
    numbers.add(metrics.ACTIONS, action='a"\\\n', result="done")
    numbers.add(metrics.ACTIONS, 2, action="b", result="done")
    numbers.set(metrics.LEADER, 1)
    families = {f.name: f for f in text_string_to_metric_families(numbers.render())}
    actions = {s.labels["action"]: s.value for s in families["architect_operator_actions"].samples}
    assert actions == {'a"\\\n': 1, "b": 2}
    assert families["architect_operator_leader"].samples[0].value == 1
    assert all(f.documentation for f in families.values())
