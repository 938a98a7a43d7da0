"""Lines in the file of ``--log``, in the forms that runc and crun take for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from architect.shim import cli, engine_log


@pytest.mark.parametrize("prefix", ["", "file:"])
def test_a_line_of_json_is_appended(tmp_path: Path, prefix: str) -> None:
    log = tmp_path / "log"
    log.write_text("{}\n")
    words = ["--log", f"{prefix}{log}", "--log-format", "json", "create", "id1"]
    engine_log.warning(cli.parse(words), 'a "word"')
    _, line = map(json.loads, log.read_text().splitlines())
    assert (line["level"], line["msg"]) == ("warning", 'a "word"')


@pytest.mark.parametrize("target", ["journald:id1", "syslog:id1"])
def test_what_is_no_file_becomes_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    monkeypatch.chdir(tmp_path)
    engine_log.warning(cli.parse(["--log", target, "create", "id1"]), "x")
    assert list(tmp_path.iterdir()) == []
