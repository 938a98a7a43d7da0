"""The process: its command line, its exit codes and its end."""

from __future__ import annotations

import json
import logging
import os
import signal
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from architect.webhook import __main__ as entry
from architect.webhook import certificates, logs
from architect.webhook.certificates import Action
from architect.webhook.settings import Settings

DEADLINE_SECONDS = 60.0


@pytest.fixture
def tls_dir(tmp_path: Path) -> Path:
    material = certificates.carry_out(
        Action.CREATE, None, now=datetime.now(UTC), dns_names=["localhost"]
    )
    (tmp_path / "tls.crt").write_bytes(material.certificate)
    (tmp_path / "tls.key").write_bytes(material.key)
    (tmp_path / "ca.crt").write_bytes(material.ca_bundle)
    return tmp_path


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "architect.webhook", *map(str, arguments)],
        stderr=subprocess.PIPE,
        text=True,
        env={k: v for k, v in os.environ.items() if not k.startswith("KUBERNETES_")},
    )


@pytest.fixture
def running(tls_dir: Path) -> Iterator[subprocess.Popen[str]]:
    process = start(
        "--host=127.0.0.1",
        "--port=0",
        f"--tls-dir={tls_dir}",
        "--drain-seconds=0.1",
        "--log-format=json",
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=DEADLINE_SECONDS)


def port_of(process: subprocess.Popen[str]) -> int:
    assert process.stderr is not None
    deadline = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < deadline:
        message = json.loads(process.stderr.readline())["message"]
        if message.startswith("listening on port "):
            return int(message.split()[-1])
    raise AssertionError("it does not listen")


def test_it_serves_mounted_certificates_and_ends_in_good_order(
    running: subprocess.Popen[str], tls_dir: Path
) -> None:
    context = ssl.create_default_context(cafile=str(tls_dir / "ca.crt"))
    context.check_hostname = False
    url = f"https://127.0.0.1:{port_of(running)}/readyz"
    with urllib.request.urlopen(url, context=context, timeout=DEADLINE_SECONDS) as response:
        assert response.read() == b"ok\n"
    running.send_signal(signal.SIGTERM)
    _, log = running.communicate(timeout=DEADLINE_SECONDS)
    assert running.returncode == 0
    assert [json.loads(line)["message"] for line in log.splitlines()][-1] == "ended"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--tls-dir=/nonexistent", "--start-seconds=0"], 2, "cannot read /nonexistent/tls.crt"),
        (["--kubeconfig=/nonexistent"], 2, "cannot find the API server"),
        ([], 2, "cannot find the API server"),
        (["--port=99999"], 2, "not a port"),
        (["--sync-seconds=-1"], 2, "not a number of seconds"),
        (["--has-gvisor=yes"], 2, "'yes' is not true or false"),
        (["--unknown"], 2, "unrecognized"),
    ],
)
def test_what_it_cannot_work_with_ends_it_with_a_code_and_a_line(
    arguments: list[str], code: int, said: str
) -> None:
    process = start(*arguments)
    _, log = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == code
    assert said in log
    assert "Traceback" not in log


def test_the_command_line_covers_every_setting_and_keeps_the_defaults() -> None:
    default = Settings()
    assert entry.parse(["--namespace", default.namespace]) == default
    given = entry.parse(
        ["--port=1", "--service-name=s", "--namespace=n", "--mutating-configuration="]
    )
    assert (given.port, given.mutating_configuration) == (1, "")
    assert given.dns_names == ("s", "s.n", "s.n.svc")


def test_the_help_names_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        entry.parse(["--help"])
    assert caught.value.code == 0
    printed = capsys.readouterr().out
    for name in vars(Settings()):
        if name != "keep_alive_seconds":
            assert f"--{name.replace('_', '-')}" in printed


def test_log_lines_are_one_object_each_and_carry_fields() -> None:
    record = logging.LogRecord("a", logging.INFO, "f", 1, "said %s\n", ("\ud800",), None)
    record.fields = {"uid": "u"}
    line = logs.JsonFormatter().format(record)
    assert "\n" not in line
    assert json.loads(line)["uid"] == "u"
    assert logs.TextFormatter().format(record).endswith('uid="u"')
