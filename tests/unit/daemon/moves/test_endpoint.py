"""The daemon's socket answers what it understands and says what it does not."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from architect.api import daemon as protocol
from architect.core import clocks, wire
from architect.core.errors import NodeError, Rejected, Unavailable
from architect.core.wire import text
from architect.daemon.moves.endpoint import Arguments, Endpoint


def echo(arguments: Arguments) -> Arguments:
    return {"pod": text(arguments, "pod")}


def broken(_: Arguments) -> Arguments:
    raise NodeError("the disk is full", reason="NoSpace")


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    endpoint = Endpoint(tmp_path / "daemon.sock", {"echo": echo, "broken": broken})
    endpoint.start()
    yield tmp_path / "daemon.sock"
    endpoint.close()


def client(path: Path) -> wire.Client:
    return wire.Client(path, timeout_seconds=60)


def test_an_operation_is_called_with_its_arguments(path: Path) -> None:
    with client(path) as asking:
        assert asking.call("echo", pod="uid-1")["pod"] == "uid-1"
        assert asking.call("echo", pod="uid-2")["pod"] == "uid-2"


def test_failures_are_told_and_the_connection_stays(path: Path) -> None:
    with client(path) as asking:
        with pytest.raises(Rejected, match="known are broken, echo"):
            asking.call("unknown")
        with pytest.raises(Rejected, match="'pod' is NoneType"):
            asking.call("echo")
        with pytest.raises(NodeError, match="disk is full") as caught:
            asking.call("broken")
        assert caught.value.reason == "NoSpace"
        assert asking.call("echo", pod="x")["pod"] == "x"


def test_garbage_ends_the_connection_with_an_error(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as raw:
        raw.settimeout(60)
        raw.connect(str(path))
        raw.sendall(b"\xff\xff\xff\xff garbage")
        (answer,) = wire.Decoder().feed(raw.recv(65536))
        assert answer["ok"] is False
        assert raw.recv(100) == b""


def test_only_root_reaches_it(path: Path) -> None:
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_second_daemon_takes_the_socket_over(path: Path) -> None:
    second = Endpoint(path, {"echo": lambda _: {"pod": "second"}})
    second.start()
    with client(path) as asking:
        assert asking.call("echo", pod="x")["pod"] == "second"
    second.close()
    with pytest.raises(Unavailable):
        client(path)


def test_its_own_end_is_no_trouble(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, eventually: Callable[..., None]
) -> None:
    endpoint = Endpoint(tmp_path / "daemon.sock", {})
    endpoint.start()
    endpoint.close()
    eventually(lambda: all(thread.name != "moves" for thread in threading.enumerate()))
    assert "nobody can ask" not in caplog.text


def test_one_that_ends_says_that_another_one_will_come(tmp_path: Path) -> None:
    path, left = tmp_path / "daemon.sock", tmp_path / protocol.LEFT
    endpoint = Endpoint(path, {})
    endpoint.start()
    assert not left.exists()
    endpoint.close()
    # By the machine's clock, which nobody sets.
    assert abs(clocks.boot_seconds() - float(left.read_text())) < 60
    assert left.stat().st_mode & 0o777 == 0o600
    endpoint.start()
    assert not left.exists()
    endpoint.close(is_for_good=True)
    assert not left.exists()
