"""The Secret in which the cluster's keys are kept, and the ConfigMap with the public one.

A Secret that cannot be read is never written over: what was encrypted for its keys would be lost,
and somebody may have a backup. So it is with one that is sealed and that nobody opens.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from cryptography import x509

from architect.checkpoint import keys
from architect.kube.api import Api
from architect.kube.errors import AlreadyExists, Conflict, NotFound
from architect.kube.resources import CONFIG_MAPS, ObjectRef
from architect.operator import keyring
from architect.operator.keyring import Action, Keyring
from architect.operator.secret_store import Form, SecretStore, Step
from architect.operator.strongbox import Strongbox
from architect.pki import certificates

log = logging.getLogger(__name__)

KEY: Final = "keys.json"
"""In the Secret."""

CURRENT: Final = "current"
"""In the ConfigMap: the public key as base64."""

AUTHORITIES: Final = "authorities"
"""In the ConfigMap: under which nodes may have sealed checkpoints, as PEM."""


def _form(box: Strongbox) -> Form[Keyring]:
    def next_step(known: Keyring | None, now: datetime) -> Step[Keyring] | None:
        action = keyring.decide(known, now=now, keeper=box.keeper)
        if action is Action.KEEP:
            return None
        return Step(name=action.value, value=keyring.carry_out(action, known, now=now))

    return Form(
        what="checkpoints' keys",
        key=KEY,
        write=box.write,
        read=box.read,
        next_step=next_step,
        loss="every checkpoint in the object store",
    )


def _lesson(known: Keyring | None, today: Sequence[x509.Certificate]) -> Step[Keyring] | None:
    if known is None or (wiser := keyring.learn(known, today)) is known:
        return None
    return Step(name="learn an authority", value=wiser)


class KeyringStore(SecretStore[Keyring]):
    """Reads the keys, and renews them where that is due. Safe to use from several threads."""

    def __init__(
        self,
        api: Api,
        box: Strongbox,
        *,
        namespace: str,
        name: str,
        config_map: str,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        super().__init__(api, _form(box), namespace=namespace, name=name, clock=clock)
        self._config_map = ObjectRef(resource=CONFIG_MAPS, namespace=namespace, name=config_map)

    def publish(self, authorities: Iterable[x509.Certificate]) -> None:
        """See to it that the nodes find the current public key, whoever changed what they find.

        *authorities* are those of today: they are learned, and all that were ever learned are put
        beside the key.

        Raises Retryable or Rejected if Secret or ConfigMap cannot be read or written.
        """
        today = tuple(authorities)
        next_step = self._form.next_step
        known = self._settle(lambda known, now: next_step(known, now) or _lesson(known, today))
        # Even if the Secret could not be written now: the nodes must not wait for that.
        known = keyring.learn(known, today)
        wanted = {
            CURRENT: keys.public_to_text(known.current.public),
            AUTHORITIES: b"".join(map(certificates.to_pem, known.authorities)).decode("ascii"),
        }
        found = self._api.find(self._config_map)
        if found is not None and (found.get("data") or {}).items() >= wanted.items():
            return
        try:
            self._put(wanted, found)
        except (AlreadyExists, Conflict, NotFound):
            log.info("%s was changed meanwhile; it is looked at again", self._config_map)
        else:
            log.info("%s has the current public key", self._config_map)

    def _put(self, data: dict[str, str], found: dict[str, Any] | None) -> None:
        if found is not None:
            ref = ObjectRef.of(CONFIG_MAPS, found)
            version = found["metadata"]["resourceVersion"]
            self._api.patch(ref, {"data": data}, resource_version=version)
            return
        self._api.create(
            self._config_map,
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {
                    "name": self._config_map.name,
                    "namespace": self._config_map.namespace,
                    "labels": {
                        "app.kubernetes.io/name": "architect",
                        "app.kubernetes.io/component": "operator",
                    },
                },
                "data": data,
            },
        )
