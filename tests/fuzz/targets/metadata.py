"""What the metadata services of Amazon, Google and Azure say, or whoever answers in their place."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from typing import Any

from architect.core.errors import FormatError
from architect.daemon.notices import aws, azure, gcp
from architect.daemon.notices.clock import Clock
from architect.daemon.notices.metadata import Answer
from architect.daemon.notices.notice import MAX_SAID_CHARS, Announcement
from fuzz import mutations

MUTATE = mutations.document

MACHINE = "aks-spot-12345678-vmss_3"


def seeds() -> Iterator[bytes]:
    for value in (
        {"action": "terminate", "time": "2017-09-18T08:22:00Z"},
        {"noticeTime": "2020-10-27T08:22:00Z"},
        [
            {
                "NotBefore": "21 Jan 2019 09:00:43 GMT",
                "Code": "system-reboot",
                "EventId": "instance-event-0d59937288b749b32",
                "Description": "scheduled reboot",
                "State": "active",
            }
        ],
        {"instanceId": "i-1", "instanceType": "m5.large", "region": "eu-central-1", "imageId": 1},
        {
            "DocumentIncarnation": 1,
            "Events": [
                {
                    "EventId": "602d9444-d2cd-49c7-8624-8643e7171297",
                    "EventType": "Preempt",
                    "ResourceType": "VirtualMachine",
                    "Resources": [MACHINE],
                    "EventStatus": "Scheduled",
                    "NotBefore": "Mon, 19 Sep 2016 18:29:47 GMT",
                    "Description": "",
                    "EventSource": "Platform",
                    "DurationInSeconds": -1,
                }
            ],
        },
        {"name": MACHINE, "vmSize": "Standard_D2s", "priority": "Spot", "location": "west"},
    ):
        yield json.dumps(value).encode()
    yield b" TRUE \n"
    yield b"TERMINATE_ON_HOST_MAINTENANCE"


def run(data: bytes) -> None:
    answer = Answer(
        url="http://169.254.169.254/x",
        status=200,
        headers={"date": data[:40].decode("latin-1"), "metadata-flavor": "Google"},
        body=data,
    )
    Clock().hear(answer.headers["date"], asked_at=1.0)
    for parse in (
        aws.parse_action,
        aws.parse_rebalance,
        aws.parse_scheduled,
        gcp.parse_maintenance,
        lambda a: gcp.parse_preempted(a, notice_seconds=30.0),
    ):
        for found in _parsed(parse, answer) or ():
            _check(found)
    _parsed(aws.parse_identity, answer)
    _parsed(azure.parse_compute, answer)
    for item in _parsed(azure.parse_document, answer) or ():
        event = _parsed(lambda i: azure.parse_event(i, machine=MACHINE), item)
        if event is not None and event[1] is not None:
            _check(event[1])


def _parsed(parse: Callable[[Any], Any], given: Any) -> Any:
    try:
        return parse(given)
    except FormatError as error:
        assert len(str(error)) < 2000
        return None


def _check(found: Announcement) -> None:
    assert len(found.said) <= MAX_SAID_CHARS
    assert found.said.isprintable()
    assert len(found.id) < 1000
    for number in (found.ends_unix, found.ends_in_seconds):
        assert number is None or math.isfinite(number)
