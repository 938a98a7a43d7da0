"""Which pods need the runtime, asked of an engine that answers, badly, or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from architect.core.errors import NodeError
from architect.daemon import containerd, engine_pods
from architect.daemon.engine_pods import METHOD
from architect.daemon.host import Host
from support.criengine import CriEngine, field

SOCKET = Path("/run/engine.sock")


def pod(handler: str) -> bytes:
    # With an id, a state, and a time between them.
    told = field(1, b"0123") + b"\x18\x00" + b"\x20\x96\x01" + field(7, handler.encode())
    return field(1, told)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[CriEngine]:
    (tmp_path / "run").mkdir()
    engine = CriEngine(tmp_path / "run/engine.sock", METHOD)
    yield engine
    engine.close()


def living(root: Path) -> int:
    host = Host(root=root, is_entered=False)
    return engine_pods.living(host, containerd.OURS, sockets=[SOCKET])


def test_pods_of_our_handlers_are_counted(engine: CriEngine, tmp_path: Path) -> None:
    handlers = ("runc", "runc-architect", "", "runsc-architect", "runc-architect-2")
    engine.answer = lambda _: b"".join(map(pod, handlers))
    assert living(tmp_path) == 2
    assert engine.asked == [field(1, field(2, b""))], "only those that are ready"


def test_a_node_without_pods_has_none(engine: CriEngine, tmp_path: Path) -> None:
    assert living(tmp_path) == 0


def test_without_an_engine_nobody_is_asked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert living(tmp_path) == 0
    assert "only the runtime's own records count" in caplog.text


def test_an_engine_that_does_not_tell_is_no_empty_node(engine: CriEngine, tmp_path: Path) -> None:
    def refuse(_: bytes) -> bytes:
        raise RuntimeError("not now")

    engine.answer = refuse
    with pytest.raises(NodeError, match="not now"):
        living(tmp_path)
    engine.answer = lambda _: b"\x0a\x05abc"
    with pytest.raises(NodeError, match="cut short"):
        living(tmp_path)
