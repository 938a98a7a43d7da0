"""An API server's audit log, counted."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

from bench import requests


def line(seconds: float, verb: str, resource: str, *, code: int = 200, who: str = "a/1 x") -> str:
    at = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(seconds=seconds)
    name, _, sub = resource.partition("/")
    return json.dumps(
        {
            **{"stage": "ResponseComplete", "verb": verb, "userAgent": who},
            "requestReceivedTimestamp": at.isoformat(timespec="microseconds").replace(
                "+00:00", "Z"
            ),
            "objectRef": {"resource": name, **({"subresource": sub} if sub else {})},
            "responseStatus": {"code": code},
        }
    )


EVICTIONS = [line(n / 10, "create", "pods/eviction", who="bench/0") for n in range(2)]


def test_requests_are_counted_by_who_asks_for_what_per_pod_that_moved(tmp_path, capsys) -> None:
    log = tmp_path / "audit.log"
    log.write_text(
        "\n".join(
            [
                line(-1, "get", "pods"),
                *EVICTIONS,
                line(1, "patch", "checkpoints/status", code=409),
                line(2, "patch", "checkpoints/status"),
                line(3, "watch", "pods"),
                line(4, "get", "pods"),
                line(100, "get", "pods"),
                '{"half": ',
            ]
        )
    )
    assert requests.main([str(log), "--pods", "2"]) == 0
    said = capsys.readouterr().out
    assert "1 times 2 pods" in said
    assert "| a | patch | checkpoints/status | 1.00 | 0.50 |" in said
    assert "| a | get | pods | 0.50 | 0.00 |" in said
    assert "| all | | | 2.5 | 0.5 |" in said


def test_one_pod_that_leaves_is_no_drain(tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    log.write_text(EVICTIONS[0])
    assert requests.main([str(log), "--pods", "2"]) == 1


def test_each_drain_has_its_own_window() -> None:
    lines = [line(at + n, "create", "pods/eviction") for at in (0, 60) for n in range(2)]
    lines += [line(at, "list", "pods") for at in (5, 50, 61)]
    windows = requests.drains(list(requests.read(lines)), pods=2)
    assert [len(window) for window in windows] == [3, 3]
