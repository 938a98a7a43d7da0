"""One value that is kept in a Secret, and renewed in its time; written by compare-and-swap."""

from __future__ import annotations

import base64
import binascii
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Generic, TypeAlias, TypeVar

from architect.core.errors import FormatError, Rejected, Retryable
from architect.kube.api import Api
from architect.kube.errors import AlreadyExists, Conflict, NotFound
from architect.kube.resources import SECRETS, ObjectRef

log = logging.getLogger(__name__)

MAX_STEPS: Final = 10
"""Writes and lost races in one pass, before it is given up until the next."""

Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True)
class Step(Generic[Value]):
    """The next thing to do about a value."""

    name: str
    """For the log, such as ``create``."""
    value: Value
    """What is to be kept afterwards."""


NextStep: TypeAlias = Callable[[Value | None, datetime], Step[Value] | None]
"""What is to be done at a time about the value, or about there being none; None: nothing."""


@dataclass(frozen=True, kw_only=True)
class Form(Generic[Value]):
    """What is kept, and how."""

    what: str
    """For people, such as ``daemons' authority``."""
    key: str
    """Where it stands in the Secret's ``data``."""
    write: Callable[[Value], bytes]
    """Raises Rejected or Retryable where it needs somebody who says no, or nothing."""
    read: Callable[[bytes], Value]
    """Raises FormatError, whose text quotes nothing; and as *write*."""
    next_step: NextStep[Value]
    loss: str = ""
    """What is lost with a value that cannot be read: then it is left alone, for somebody to repair.
    Empty: nothing is, and a new one takes its place."""


class SecretStore(Generic[Value]):
    """Reads the value, and renews it where that is due. Safe to use from several threads."""

    def __init__(
        self,
        api: Api,
        form: Form[Value],
        *,
        namespace: str,
        name: str,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._api = api
        self._form = form
        self._ref = ObjectRef(resource=SECRETS, namespace=namespace, name=name)
        self._clock = clock

    def fetch(self) -> Value:
        """Return the value as it is to be used now; made if there is none.

        Raises Retryable or Rejected if the Secret cannot be read or written. Where the form itself
        cannot be written now, what is there is returned.
        """
        return self._settle(self._form.next_step)

    def _settle(self, next_step: NextStep[Value]) -> Value:
        """Return the value about which *next_step* finds nothing to do any more."""
        for _ in range(MAX_STEPS):
            secret = self._api.find(self._ref)
            known = None if secret is None else self._read(secret)
            step = next_step(known, self._clock())
            if step is None and known is not None:
                return known
            assert step is not None  # where there is nothing, something is to be done
            try:
                raw = self._form.write(step.value)
            except (Rejected, Retryable):
                if known is None:
                    raise
                return known  # who said no was named; what is there serves as well until he helps
            try:
                self._write(secret, raw)
            except (AlreadyExists, Conflict, NotFound):
                log.info("another replica was faster to %s the %s", step.name, self._form.what)
            else:
                log.info("%s: %s", self._form.what, step.name)
        raise Retryable(f"{self._ref} still changes after {MAX_STEPS} attempts")

    def _read(self, secret: dict[str, Any]) -> Value | None:
        key, loss = self._form.key, self._form.loss
        try:
            return self._form.read(base64.b64decode((secret.get("data") or {})[key], validate=True))
        except (KeyError, TypeError, binascii.Error, FormatError) as error:
            said = str(error) if isinstance(error, FormatError) else f"{key} is missing or damaged"
            if loss:
                raise Rejected(
                    f"{self._ref}: {said}; it is left as it is",
                    reason="SecretUnreadable",
                    hint=f"restore the Secret from a backup; or delete it, and lose {loss}",
                ) from error
            log.error("%s: %s; a new one takes its place", self._ref, said)
            return None

    def _write(self, secret: dict[str, Any] | None, raw: bytes) -> None:
        data = {self._form.key: base64.b64encode(raw).decode("ascii")}
        if secret is not None:
            ref = ObjectRef.of(SECRETS, secret)
            version = secret["metadata"]["resourceVersion"]
            self._api.patch(ref, {"data": data}, resource_version=version)
            return
        self._api.create(
            self._ref,
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "type": "Opaque",
                "metadata": {
                    "name": self._ref.name,
                    "namespace": self._ref.namespace,
                    "labels": {
                        "app.kubernetes.io/name": "architect",
                        "app.kubernetes.io/component": "operator",
                    },
                },
                "data": data,
            },
        )
