"""The keeper's control socket against clients that are broken or mean harm: nothing changes."""

from __future__ import annotations

import json
import os
import random
import resource
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from architect.core import wire
from support.runtime import (
    DEADLINE_SECONDS,
    IDLE,
    SYSTEM_PYTHON,
    Container,
    Host,
    spec,
)

GROWTH_LIMIT_BYTES = 96 << 20
"""What the keeper may need while it holds the most that it takes, parsed JSON included."""


@pytest.fixture(scope="module")
def container(shared: Host) -> Iterator[Container]:
    """The container that nothing may happen to."""
    made = shared.container(spec(["sleep", "1000"], annotations=IDLE), has_pipes=True)
    yield made.start()
    assert shared.ask("sleep", made.id)["status"]["state"] == "asleep"
    assert shared.ask("wake", made.id)["status"]["state"] == "awake"
    made.remove()


@pytest.fixture
def keeper(shared: Host, container: Container) -> Iterator[Path]:
    """The keeper's socket; afterwards the keeper is the same and knows the same."""
    before = steady(shared, container)
    yield shared.run_directory / "keeper.sock"
    assert steady(shared, container) == before
    log = (shared.run_directory / "keeper.log").read_text()
    assert "Traceback" not in log, log
    assert log.count("INFO keeper test, pid") == 1, "the keeper was restarted"


def steady(node: Host, container: Container) -> dict[str, Any]:
    told = node.ask("status", container.id)
    return {key: told[key] for key in ("state", "since", "reason", "refused", "containers")}


def connect(path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.connect(str(path))  # before there is a time-out: waits for its turn
    made.settimeout(DEADLINE_SECONDS)
    return made


def frame(body: bytes) -> bytes:
    return struct.pack("!I", len(body)) + body


def request(**fields: Any) -> bytes:
    return wire.encode({"v": 1, **fields})


def answers(connection: socket.socket) -> list[dict[str, Any]]:
    """Return all that is said until the keeper closes."""
    decoder = wire.Decoder()
    found: list[dict[str, Any]] = []
    while True:
        try:
            data = connection.recv(1 << 16)
        except ConnectionResetError:
            return found
        if not data:
            return found
        found += decoder.feed(data)


def one_answer(connection: socket.socket) -> dict[str, Any]:
    decoder = wire.Decoder()
    while data := connection.recv(1 << 16):
        for message in decoder.feed(data):
            return message
    raise AssertionError("closed without an answer")


def keeper_pid(path: Path) -> int:
    with connect(path) as connection:
        connection.sendall(request(op="version"))
        return int(one_answer(connection)["pid"])


def resident_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "frame of 1195725856 bytes"),
        (b"\xff" * 64, "frame of 4294967295 bytes"),
        (struct.pack("!I", (1 << 20) + 1), "longer than 1048576"),
        (frame(b"not json"), "is not JSON"),
        (frame(b"[]"), "holds a list, not an object"),
        (frame(b"\x80\x81"), "is not JSON"),
        (frame(b'{"v": 1, "op": ' + b"1" * 5000 + b"}"), "is not JSON"),
        (frame(b"[" * 500_000), "is not JSON"),
    ],
    ids=["http", "ones", "oversize", "text", "list", "not-utf8", "large-number", "nested"],
)
def test_garbage_gets_a_reason_and_the_end(keeper: Path, sent: bytes, said: str) -> None:
    with connect(keeper) as connection:
        connection.sendall(sent)
        (answer,) = answers(connection)
    assert answer["ok"] is False
    assert said in answer["error"]["message"]


NESTED: list[Any] = []
for _ in range(500):
    NESTED = [NESTED]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"op": 7},
        {"op": "no-such-thing"},
        {"op": "x" * 100_000},
        {"op": "\ud800\x00"},
        {"op": "status"},
        {"op": "status", "pod": NESTED},
        {"op": "status", "pod": "x" * 513},
        {"op": "sleep", "pod": "\ud800", "reason": NESTED},
        {"op": "register", "container": "../../etc/passwd"},
        {"op": "register", "container": "a\x00b"},
        {"op": "removed", "container": "../x"},
        {"op": "forget", "pod": "../../../etc"},
        {"op": "forget", "pod": ".."},
        {"op": "observe", "pods": {"a": 1}},
        {"op": "note", "pod": "x", "why": [NESTED]},
        {"op": "ready", "pod": "x", "containers": []},
        {"op": "check", "pod": 1.5},
        {"op": "settle", "pod": "x", "container": None},
        {"v": 2, "op": "list"},
        {"v": NESTED, "op": "list"},
        {"v": "1" * 500_000, "op": "list"},
        {"op": "list", "id": NESTED},
        {"op": "list", "id": "9" * 1000},
    ],
    ids=lambda fields: "-".join(map(str, fields)) + "-" + str(fields.get("op"))[:8],
)
def test_a_malformed_request_is_refused_by_name_and_the_connection_lives(
    keeper: Path, fields: dict[str, Any]
) -> None:
    with connect(keeper) as connection:
        connection.sendall(wire.encode({"v": 1, **fields}))
        answer = one_answer(connection)
        assert answer["ok"] is False
        assert answer["error"]["message"]
        assert len(json.dumps(answer)) < 2000
        connection.sendall(request(op="version", id=5))
        assert (one_answer(connection)["ok"], keeper_pid(keeper) > 0) == (True, True)


def test_bytes_by_chance_change_nothing(keeper: Path) -> None:
    chance = random.Random(20261128)
    whole = request(op="list") + request(op="sleep", pod="nobody") + request(op="subscribe")
    for _ in range(200):
        data = bytearray(whole)
        for _ in range(chance.randrange(1, 8)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        with connect(keeper) as connection:
            connection.sendall(data[: chance.randrange(1, len(data))])
            connection.shutdown(socket.SHUT_WR)
            for answer in answers(connection):
                assert isinstance(answer.get("ok", False), bool)


def test_half_messages_of_many_are_bounded(keeper: Path) -> None:
    pid = keeper_pid(keeper)
    before = resident_bytes(pid)
    half = struct.pack("!I", 1 << 20) + b"{" * ((1 << 20) - 1)
    with ExitStack() as stack:
        made = [stack.enter_context(connect(keeper)) for _ in range(100)]
        for connection in made:
            with suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(half)
            # After each: 100 MiB in all, and somebody else is served all the same.
            assert keeper_pid(keeper) == pid
        assert resident_bytes(pid) - before < GROWTH_LIMIT_BYTES
        told = 0
        for connection in made:
            connection.setblocking(False)
            with suppress(BlockingIOError):
                assert "half sent" in one_answer(connection)["error"]["message"]
                told += 1
    assert 60 < told < 90


def test_whoever_never_reads_is_not_listened_to(keeper: Path) -> None:
    pid = keeper_pid(keeper)
    before = resident_bytes(pid)
    many = request(op="list") * 20_000
    with ExitStack() as stack:
        for _ in range(8):
            connection = stack.enter_context(connect(keeper))
            connection.setblocking(False)
            sent = 0
            try:
                while sent < len(many):
                    sent += connection.send(many[sent:])
            except BlockingIOError:
                pass
            assert sent < len(many), "the keeper has taken everything"
        assert keeper_pid(keeper) == pid
        assert resident_bytes(pid) - before < GROWTH_LIMIT_BYTES
    # One that reads late gets every answer.
    with connect(keeper) as connection:
        connection.settimeout(DEADLINE_SECONDS)
        connection.sendall(b"".join(request(op="version", id=n) for n in range(500)))
        decoder = wire.Decoder()
        seen: list[int] = []
        while len(seen) < 500:
            seen += [message["id"] for message in decoder.feed(connection.recv(1 << 16))]
        assert seen == list(range(500))


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """More than the usual 1024 for what the test itself opens."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4096), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_descriptors")
def test_thousands_of_idle_connections_keep_nobody_out(keeper: Path) -> None:
    pid = keeper_pid(keeper)
    with ExitStack() as stack:
        subscribed = stack.enter_context(connect(keeper))
        subscribed.sendall(request(op="subscribe"))
        assert one_answer(subscribed)["subscribed"]
        idle = [stack.enter_context(connect(keeper)) for _ in range(2000)]
        assert keeper_pid(keeper) == pid
        assert len(os.listdir(f"/proc/{pid}/fd")) < 400
        # The oldest idle ones were told why they had to go; the newest can still ask.
        assert answers(idle[0])[0]["error"]["reason"] == "Idle"
        idle[-1].sendall(request(op="version"))
        assert one_answer(idle[-1])["ok"] is True
        subscribed.setblocking(False)
        with pytest.raises(BlockingIOError):
            subscribed.recv(1)


def test_only_root_is_answered(shared: Host, keeper: Path) -> None:
    ask = (
        "import os, socket, sys\n"
        "os.setgroups([]); os.setgid(1000); os.setuid(1000)\n"
        "s = socket.socket(socket.AF_UNIX)\n"
        "try: s.connect('/run/architect/keeper.sock')\n"
        "except PermissionError: print('not even connected'); sys.exit()\n"
        "print(s.recv(4096))\n"
    )
    assert shared.call(SYSTEM_PYTHON, "-c", ask).stdout == "not even connected\n"
    # Should modes ever be wrong, the kernel still says who is there.
    shared.call("chmod", "755", "/run/architect")
    shared.call("chmod", "666", "/run/architect/keeper.sock")
    said = shared.call(SYSTEM_PYTHON, "-c", ask).stdout
    assert "uid 1000 may not control the keeper" in said
    shared.call("chmod", "600", "/run/architect/keeper.sock")
    shared.call("chmod", "700", "/run/architect")
