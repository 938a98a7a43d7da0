"""The Secret in which the daemons' authority is kept.

One that cannot be read is replaced: the daemons get certificates of the new one within hours.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from architect.kube.api import Api
from architect.operator import authority
from architect.operator.authority import Action, Authorities
from architect.operator.secret_store import Form, SecretStore, Step

KEY: Final = "authorities.json"


def _next_step(known: Authorities | None, now: datetime) -> Step[Authorities] | None:
    action = authority.decide(known, now=now)
    if action is Action.KEEP:
        return None
    return Step(name=action.value, value=authority.carry_out(action, known, now=now))


FORM: Final = Form(
    what="daemons' authority",
    key=KEY,
    write=authority.to_json,
    read=authority.from_json,
    next_step=_next_step,
)


class AuthorityStore(SecretStore[Authorities]):
    """Reads the authority, and renews it where that is due. Safe to use from several threads."""

    def __init__(
        self,
        api: Api,
        *,
        namespace: str,
        name: str,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        super().__init__(api, FORM, namespace=namespace, name=name, clock=clock)
