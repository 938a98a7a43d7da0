"""Amazon's instance metadata service: tokens, the interruption notice, a role's credentials."""

from __future__ import annotations

import json
import secrets
import time
from typing import Any

from support.cloudmetadata.server import MetadataServer, Reply, Request

TTL = "x-aws-ec2-metadata-token-ttl-seconds"
TOKEN = "x-aws-ec2-metadata-token"
SERVER = {"Server": "EC2ws"}
ACTION = "/latest/meta-data/spot/instance-action"
REBALANCE = "/latest/meta-data/events/recommendations/rebalance"
SCHEDULED = "/latest/meta-data/events/maintenance/scheduled"
ROLES = "/latest/meta-data/iam/security-credentials"


class Imds(MetadataServer):
    """One instance's."""

    def __init__(self, address: str = "127.0.0.1", port: int = 0) -> None:
        self.requires_tokens = True
        """The instance's ``HttpTokens``: requests without a token are refused."""
        self.has_tokens = True
        """Off: there is version 1 only, as where a proxy stands in front."""
        self.is_enabled = True
        """The instance's ``HttpEndpoint``."""
        self.most_ttl_seconds = 21600
        """What tokens live at most, whatever is asked for."""
        self.hop_limit: int | None = None
        """The instance's ``HttpPutResponseHopLimit``: the time to live of a token's packets."""
        self.tokens: dict[str, float] = {}
        """To the moment when they end."""
        self.documents: dict[str, bytes] = {
            "/latest/meta-data/instance-life-cycle": b"spot",
            "/latest/dynamic/instance-identity/document": json.dumps(
                {
                    "accountId": "111122223333",
                    "architecture": "x86_64",
                    "availabilityZone": "eu-west-2a",
                    "instanceId": "i-0123456789abcdef0",
                    "instanceType": "m7i.xlarge",
                    "region": "eu-west-2",
                }
            ).encode(),
            SCHEDULED: b"[]",
        }
        super().__init__(address, port)

    def interrupt(self, action: str = "terminate", *, seconds: float = 120.0) -> float:
        """Announce the end; returns its Unix time by the service's clock."""
        ends = float(int(self.now() + seconds))
        self.documents[ACTION] = json.dumps({"action": action, "time": _iso(ends)}).encode()
        return ends

    def recommend(self) -> None:
        """Recommend to move elsewhere."""
        self.documents[REBALANCE] = json.dumps({"noticeTime": _iso(self.now())}).encode()

    def schedule(self, *events: dict[str, Any]) -> None:
        """Have these be the scheduled events."""
        self.documents[SCHEDULED] = json.dumps(events).encode()

    def withdraw(self) -> None:
        """Take all of it back."""
        self.documents.pop(ACTION, None)
        self.documents.pop(REBALANCE, None)
        self.documents[SCHEDULED] = b"[]"

    def give_role(self, name: str, credentials: dict[str, str]) -> None:
        """Have the instance have a role."""
        self.documents[f"{ROLES}/"] = name.encode()
        self.documents[f"{ROLES}/{name}"] = json.dumps(credentials).encode()

    def expire_tokens(self) -> None:
        """Have no token be good any more, as after a restart of the service."""
        self.tokens.clear()

    def answer(self, request: Request) -> Reply:
        if not self.is_enabled:
            return Reply(status=403, headers=SERVER)
        if request.path == "/latest/api/token":
            return self._token(request)
        if request.method != "GET":
            return Reply(status=405, headers=SERVER)
        token = request.headers.get(TOKEN)
        if token is None:
            if self.requires_tokens and self.has_tokens:
                return Reply(status=401, headers=SERVER)
        elif self.has_tokens and self.tokens.get(token, 0.0) < time.monotonic():
            return Reply(status=401, headers=SERVER)
        found = self.documents.get(request.path)
        if found is None:
            return Reply(status=404, headers=SERVER)
        return Reply(body=found, headers=SERVER)

    def _token(self, request: Request) -> Reply:
        if not self.has_tokens or request.method != "PUT":
            return Reply(status=405, headers=SERVER)
        if "x-forwarded-for" in request.headers:
            return Reply(status=403, headers=SERVER)
        asked = request.headers.get(TTL, "")
        if not asked.isdecimal() or not 1 <= int(asked) <= 21600:
            return Reply(status=400, headers=SERVER)
        seconds = min(int(asked), self.most_ttl_seconds)
        token = secrets.token_urlsafe(40) + "=="
        self.tokens[token] = time.monotonic() + seconds
        headers = {**SERVER, "X-Aws-Ec2-Metadata-Token-Ttl-Seconds": str(seconds)}
        return Reply(body=token.encode(), headers=headers, hop_limit=self.hop_limit)


def _iso(unix: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(unix))
