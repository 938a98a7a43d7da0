"""An API server's audit log, compared with what our parts may ask."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import rights


def line(right: rights.Right, *, code: int = 200, who: str = "") -> str:
    named, _, sub = right.resource.partition("/")
    resource, _, group = named.partition(".")
    where = {"resource": resource, "apiGroup": group, "subresource": sub}
    return json.dumps(
        {
            "verb": right.verb,
            "user": {"username": who or rights.ACCOUNT + right.part},
            "objectRef": {key: value for key, value in where.items() if value},
            "responseStatus": {"code": code},
        }
    )


def test_all_that_is_granted_and_used_is_no_news(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "audit.log"
    log.write_text("\n".join(map(line, rights.granted())))
    assert rights.main([str(log)]) == 0
    assert capsys.readouterr().out == "never used: 0\nasked for and refused: 0\n"


def test_without_a_file_it_reads_those_of_the_cluster_that_is_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARCHITECT_LAB", str(tmp_path))
    assert rights.main([]) == 2
    assert "ARCHITECT_LAB_AUDIT=1" in capsys.readouterr().out
    logs = tmp_path / "machines" / "control-plane" / "log"
    logs.mkdir(parents=True)
    granted = sorted(rights.granted())
    # The API server puts a log aside that has become large.
    for name, some in (("audit.log", granted[::2]), ("audit-2030-01-01T00.log", granted[1::2])):
        (logs / name).write_text("\n".join(map(line, some)))
    assert rights.main([]) == 0


def test_what_was_never_used_or_only_refused_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    resize = rights.Right(part="daemon", resource="pods/resize", verb="patch")
    sign = rights.Right(part="daemon", resource="events.events.k8s.io", verb="patch")
    assert {resize, sign} <= rights.granted()
    lines = [line(right) for right in rights.granted() - {resize, sign}]
    missing = rights.Right(part="daemon", resource="secrets", verb="get")
    lines += [line(resize, who="system:node:a"), line(missing, code=403), '{"half']
    log = tmp_path / "audit.log"
    log.write_text("\n".join(lines))
    assert rights.main([str(log)]) == 1
    assert capsys.readouterr().out == (
        "never used: 2\n  daemon: patch events.events.k8s.io\n  daemon: patch pods/resize\n"
        "asked for and refused: 1\n  daemon: get secrets\n"
    )
