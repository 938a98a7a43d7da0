"""When the key management service is asked, and what becomes of its answers."""

from __future__ import annotations

import json
import logging
import threading
from datetime import UTC, datetime

import pytest

from architect.core.errors import Rejected, Unavailable
from architect.operator import keyring_form, metrics, strongbox
from architect.operator.keyring import Action, Keyring, carry_out
from architect.operator.kms import errors
from architect.operator.kms.service import OpensOnly, SecretAlone
from architect.operator.metrics import Metrics
from architect.operator.strongbox import Strongbox
from support.keyservices import MemoryService, box_of

RING = carry_out(Action.CREATE, None, now=datetime(2030, 1, 1, tzinfo=UTC))
AWAY = errors.unreachable("no route", what="ask")
DENIED = errors.named(400, "AccessDeniedException", "not you", what="ask")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def boxed(
    service: MemoryService | SecretAlone | OpensOnly,
    numbers: Metrics | None = None,
    clock: Clock | None = None,
) -> Strongbox:
    return Strongbox(
        service,
        numbers or Metrics(),
        cluster="blue",
        namespace="architect",
        secret="keys",
        clock=clock or Clock(),
    )


def same(one: Keyring, other: Keyring) -> bool:
    return keyring_form.to_json(one) == keyring_form.to_json(other)


def test_without_a_service_nothing_is_sealed() -> None:
    numbers = Metrics()
    box = boxed(SecretAlone(), numbers)
    raw = box.write(RING)
    assert raw == keyring_form.to_json(RING)
    assert same(box.read(raw), RING)
    assert 'architect_operator_keys_sealed{provider="none"} 0' in numbers.render()
    assert "key_service_requests_total{" not in numbers.render()


def test_what_was_written_is_read_without_a_question() -> None:
    service, numbers = MemoryService(), Metrics()
    box = boxed(service, numbers)
    raw = box.write(RING)
    assert service.asked == ["make", "open"]
    for _ in range(100):
        assert same(box.read(raw), RING)
    assert service.asked == ["make", "open"]
    assert numbers.get(metrics.KEYS_SEALED, provider="memory") == 1
    assert numbers.get(metrics.KEY_SERVICE, request="make", result="done") == 1


def test_another_operator_asks_once_and_then_needs_nobody() -> None:
    service = MemoryService()
    raw = boxed(service).write(RING)
    second = MemoryService(known=service.known)
    box = boxed(second)
    assert same(box.read(raw), RING)
    second.failure = AWAY
    for _ in range(100):
        assert same(box.read(raw), RING)
    assert second.asked == ["open"]


def test_a_failure_is_told_again_and_not_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    service, numbers, clock = MemoryService(), Metrics(), Clock()
    raw = boxed(service).write(RING)
    service.failure, service.asked = AWAY, []
    box = boxed(service, numbers, clock)
    with caplog.at_level(logging.ERROR):
        for _ in range(50):
            with pytest.raises(Unavailable, match="left as it is") as caught:
                box.read(raw)
    assert service.asked == ["open"]
    assert len([r for r in caplog.records if r.name == strongbox.__name__]) == 1
    assert "Secret architect/keys" in str(caught.value)
    assert caught.value.delay_seconds == errors.RETRY_SECONDS
    clock.now += errors.RETRY_SECONDS
    service.failure = DENIED
    with pytest.raises(Rejected) as refused:
        box.read(raw)
    assert refused.value.reason == errors.ACCESS_DENIED
    assert "kms:Decrypt" in refused.value.hint
    service.failure = None
    with pytest.raises(Rejected):
        box.read(raw)
    clock.now += errors.RETRY_SECONDS
    assert same(box.read(raw), RING)
    assert numbers.get(metrics.KEY_SERVICE, request="open", result="Unavailable") == 1
    assert numbers.get(metrics.KEY_SERVICE, request="open", result=errors.ACCESS_DENIED) == 1
    assert numbers.get(metrics.KEY_SERVICE, request="open", result="done") == 1


def test_a_failure_to_make_does_not_keep_from_opening() -> None:
    service = MemoryService()
    raw = boxed(service).write(RING)
    other = MemoryService(known=service.known)
    box = boxed(other)
    other.failure = AWAY
    for _ in range(3):
        with pytest.raises(Unavailable):
            box.write(RING)
    assert other.asked == ["make"]
    other.failure = None
    assert same(box.read(raw), RING)


def test_nothing_is_sealed_by_who_does_not_open_it() -> None:
    service = MemoryService()

    class Forgetful(MemoryService):
        def open(self, seal: object) -> bytes:
            return b"\0" * 32

    with pytest.raises(Rejected) as caught:
        boxed(Forgetful()).write(RING)
    assert caught.value.reason == errors.NOT_REVERSIBLE

    class MayOnlyMake(MemoryService):
        def open(self, seal: object) -> bytes:
            raise DENIED

    with pytest.raises(Rejected) as caught:
        boxed(MayOnlyMake()).write(RING)
    assert caught.value.reason == errors.ACCESS_DENIED
    assert service.asked == []


def test_a_seal_of_another_place_is_named_and_nobody_is_asked() -> None:
    service = MemoryService()
    raw = boxed(service).write(RING)
    service.asked, numbers = [], Metrics()
    for box, said in (
        (
            box_of(service, numbers, cluster="red", secret="keys"),
            "cluster is 'blue', and here 'red'",
        ),
        (box_of(service, namespace="n", secret="keys"), "namespace is 'architect', and here 'n'"),
        (box_of(service, secret="other"), "secret is 'keys', and here 'other'"),
    ):
        with pytest.raises(Rejected, match=said) as caught:
            box.read(raw)
        assert caught.value.reason == errors.WRONG_CONTEXT
    assert service.asked == []
    assert numbers.get(metrics.KEY_SERVICE, request="open", result=errors.WRONG_CONTEXT) == 1


def test_what_is_sealed_needs_a_service() -> None:
    raw = boxed(MemoryService()).write(RING)
    # As the chart starts an operator without one: the cluster has no name then either.
    numbers = Metrics()
    with pytest.raises(Rejected, match="sealed by memory, key one") as caught:
        box_of(SecretAlone(), numbers, cluster="", secret="keys").read(raw)
    assert caught.value.reason == errors.NOT_CONFIGURED
    assert "objectStore.kms" in caught.value.hint
    assert numbers.get(metrics.KEY_SERVICE, request="open", result=errors.NOT_CONFIGURED) == 1


def test_the_way_back_opens_and_seals_nothing() -> None:
    service = MemoryService()
    raw = boxed(service).write(RING)
    box = boxed(OpensOnly(service))
    assert same(box.read(raw), RING)
    assert box.write(RING) == keyring_form.to_json(RING)


def test_each_writing_has_a_data_key_of_its_own() -> None:
    service = MemoryService()
    box = boxed(service)
    first, second = (json.loads(box.write(RING))["seal"]["dataKey"] for _ in range(2))
    assert first != second


def test_what_is_remembered_is_bounded() -> None:
    service, clock = MemoryService(), Clock()
    box = boxed(service, clock=clock)
    written = [box.write(RING) for _ in range(3 * strongbox.MAX_REMEMBERED)]
    assert len(box._opened) == strongbox.MAX_REMEMBERED
    service.failure = AWAY
    for raw in written[: 2 * strongbox.MAX_REMEMBERED]:
        with pytest.raises(Unavailable):
            box.read(raw)
    assert len(box._failures) == strongbox.MAX_REMEMBERED
    assert same(box.read(written[-1]), RING)


def test_those_that_ask_together_ask_once() -> None:
    service = MemoryService()
    raw = boxed(service).write(RING)
    asked, may_answer = threading.Event(), threading.Event()

    class Slow(MemoryService):
        def open(self, seal: object) -> bytes:
            self.asked.append("open")
            asked.set()
            assert may_answer.wait(60)
            return next(iter(service.known.values()))

    slow = Slow()
    box = boxed(slow)
    threads = [threading.Thread(target=box.read, args=(raw,)) for _ in range(5)]
    for thread in threads:
        thread.start()
    assert asked.wait(60)
    may_answer.set()
    for thread in threads:
        thread.join(60)
    assert slow.asked == ["open"]


def test_nobody_waits_for_ever_for_another_ones_question(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strongbox, "PATIENCE_SECONDS", 0.01)
    service = MemoryService()
    box = boxed(service)
    raw = boxed(service).write(RING)
    with box._asking, pytest.raises(Unavailable, match="no answer yet"):
        box.read(raw)
    assert same(box.read(raw), RING)
