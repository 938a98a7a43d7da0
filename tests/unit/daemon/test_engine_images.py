"""What an image is, asked of an engine that answers well, badly, late or not at all."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from architect.daemon import engine_images
from architect.daemon.engine_images import METHOD, EngineImages
from architect.daemon.host import Host
from support.criengine import CriEngine, field
from support.patience import patient

OWN, REGISTRYS, OTHER = (f"sha256:{c * 64}" for c in "abc")
SOCKET = Path("/run/engine.sock")


def image(own: str, *digests: str) -> bytes:
    # With a number, a fixed32 and a fixed64 between them, as later versions may have.
    told = field(1, own.encode()) + b"\x20\x96\x01" + b"\x2d\1\2\3\4" + b"\x31\1\2\3\4\5\6\7\x08"
    for digest in digests:
        told += field(3, digest.encode())
    return b"\x0a" + bytes([len(told) & 0x7F | 0x80, len(told) >> 7]) + told


@pytest.fixture(autouse=True)
def _patiently(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_images, "ANSWER_SECONDS", patient(60.0))


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[CriEngine]:
    (tmp_path / "run").mkdir()
    engine = CriEngine(tmp_path / "run/engine.sock", METHOD)
    yield engine
    engine.close()


@pytest.fixture
def images(tmp_path: Path) -> EngineImages:
    return EngineImages(Host(root=tmp_path, is_entered=False), sockets=[SOCKET])


def test_an_image_has_its_own_id_and_the_registries_digests(
    engine: CriEngine, images: EngineImages
) -> None:
    engine.answer = lambda _: image(OWN, f"example.org/app@{REGISTRYS}")
    assert images.names({"app": "app:1"}) == {"app": {OWN, REGISTRYS}}
    assert engine.asked == [field(1, field(1, b"app:1"))]
    assert images.ids({"app": f"example.org/app@{REGISTRYS}"}) == {"app": OWN}


def test_crio_writes_ids_without_their_algorithm(engine: CriEngine, images: EngineImages) -> None:
    engine.answer = lambda _: image(OWN.removeprefix("sha256:"))
    assert images.names({"app": "app:1"}) == {"app": {OWN}}


def test_an_image_that_the_engine_does_not_have_is_not_known(
    engine: CriEngine, images: EngineImages
) -> None:
    assert images.names({"app": "app:1"}) == {}
    assert images.ids({"app": "app:1", "side": f"x@{OTHER}", "none": ""}) == {"side": OTHER}
    assert len(engine.asked) == 3  # nothing is asked about an image without a name


@pytest.mark.parametrize(
    "raw",
    [b"\x0a", b"\x0a\x05abc", b"\xff" * 12, b"\x0b", b"\x0a\x02\x0a\xff", b"\x0a\x03\x0a\x01\xff"],
    ids=["no-size", "short", "number", "group", "short-inside", "no-text"],
)
def test_an_answer_that_is_none_is_told(
    engine: CriEngine, images: EngineImages, raw: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    engine.answer = lambda _: raw
    assert images.names({"app": "app:1"}) == {}
    assert "does not say what image app:1 is" in caplog.text


def test_an_engine_that_refuses_or_hangs_is_told(
    engine: CriEngine,
    images: EngineImages,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(_: bytes) -> bytes:
        raise RuntimeError("no such image")

    engine.answer = refuse
    assert images.ids({"app": f"app@{OTHER}"}) == {"app": OTHER}
    assert "no such image" in caplog.text
    monkeypatch.setattr(engine_images, "ANSWER_SECONDS", 0.1)
    engine.answer = lambda _: time.sleep(1) or b""  # type: ignore[func-returns-value]
    assert images.names({"app": "app:1"}) == {}
    assert "Deadline" in caplog.text


def test_a_node_without_a_known_socket_is_told(
    images: EngineImages, caplog: pytest.LogCaptureFixture
) -> None:
    assert images.names({"app": "app:1"}) == {}
    assert "/run/engine.sock: images are not compared" in caplog.text
