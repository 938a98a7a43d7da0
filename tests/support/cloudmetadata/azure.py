"""Azure's instance metadata service: who the machine is, and scheduled events."""

from __future__ import annotations

import email.utils
import json
from typing import Any

from support.cloudmetadata.server import MetadataServer, Reply, Request

COMPUTE = "/metadata/instance/compute"
EVENTS = "/metadata/scheduledevents"
MACHINE = "aks-spot-12345678-vmss_3"
EVENT_VERSIONS = ("2017-11-01", "2019-01-01", "2019-04-01", "2019-08-01", "2020-07-01")


class AzureImds(MetadataServer):
    """One machine's; its scale set's other machines are in the same document."""

    def __init__(self, address: str = "127.0.0.1", port: int = 0) -> None:
        self.priority: str | None = "Spot"
        self.events: list[dict[str, Any]] = []
        self.incarnation = 1
        self.first_delay_seconds = 0.0
        """Of the first answer, which enables the service."""
        self.acknowledged: list[str] = []
        self._is_enabled = False
        super().__init__(address, port)

    def announce(
        self,
        kind: str = "Preempt",
        *,
        seconds: float = 30.0,
        name: str = "602d9444-d2cd-49c7-8624-8643e7171297",
        resources: tuple[str, ...] = (MACHINE,),
        **fields: Any,
    ) -> float:
        """Add an event; returns the Unix time of its ``NotBefore``, by the service's clock."""
        ends = float(int(self.now() + seconds))
        self.events.append(
            {
                "EventId": name,
                "EventStatus": "Scheduled",
                "EventType": kind,
                "ResourceType": "VirtualMachine",
                "Resources": list(resources),
                "NotBefore": email.utils.formatdate(ends, usegmt=True),
                "Description": "",
                "EventSource": "Platform",
                "DurationInSeconds": -1,
                **fields,
            }
        )
        self.incarnation += 1
        return ends

    def start(self, name: str) -> None:
        """Have an event begin."""
        for event in self.events:
            if event["EventId"] == name:
                event.update(EventStatus="Started", NotBefore="")
                self.incarnation += 1

    def withdraw(self) -> None:
        """Take all of it back."""
        self.events = []
        self.incarnation += 1

    def answer(self, request: Request) -> Reply:
        version = request.query.get("api-version", "")
        if request.headers.get("metadata") != "true" or "x-forwarded-for" in request.headers:
            return _bad("Required metadata header not specified")
        if request.path == COMPUTE and request.method == "GET":
            if version != "2021-02-01" or request.query.get("format") != "json":
                return _bad("api-version is invalid or was not specified in the request.")
            return _json(self._compute())
        if request.path != EVENTS:
            return Reply(status=404)
        if version not in EVENT_VERSIONS:
            return _bad("api-version is invalid or was not specified in the request.")
        if request.method == "POST":
            return self._acknowledge(request)
        if not self._is_enabled:
            self._is_enabled = True
            self.wait(self.first_delay_seconds)
        return _json({"DocumentIncarnation": self.incarnation, "Events": self.events})

    def _compute(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "name": MACHINE,
            "vmId": "13f56399-bd52-4150-9748-7190aae1ff21",
            "vmSize": "Standard_D4s_v5",
            "location": "westeurope",
            "osProfile": {"computerName": "aks-spot-12345678-vmss000003"},
        }
        return found if self.priority is None else {**found, "priority": self.priority}

    def _acknowledge(self, request: Request) -> Reply:
        try:
            names = [str(r["EventId"]) for r in json.loads(request.body)["StartRequests"]]
        except (ValueError, KeyError, TypeError):
            return _bad("malformed")
        if not {*names} <= {e["EventId"] for e in self.events}:
            return _bad("no such event")
        for name in names:
            self.acknowledged.append(name)
            self.start(name)
        return Reply()


def _json(value: Any) -> Reply:
    return Reply(
        body=json.dumps(value).encode(), headers={"Content-Type": "application/json; charset=utf-8"}
    )


def _bad(text: str) -> Reply:
    return Reply(status=400, body=json.dumps({"error": f"Bad request. {text}"}).encode())
