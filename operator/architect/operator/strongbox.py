"""The keys' Secret through a key management service: asked once for each seal, and remembered.

What was opened stays usable while this process lives, whatever becomes of the service: it is asked
when an operator begins to work, and when the Secret changes. A question that failed is not asked
again for :data:`~architect.operator.kms.errors.RETRY_SECONDS`; until then its answer is.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

from architect.core.errors import Rejected, Unavailable
from architect.operator import keyring_form, metrics
from architect.operator.keyring import Keyring
from architect.operator.kms import errors, seal
from architect.operator.kms.seal import Keeper, Seal
from architect.operator.kms.service import DataKey, KeyService
from architect.operator.metrics import Metrics

log = logging.getLogger(__name__)

MAX_REMEMBERED: Final = 16
"""Data keys, and failures. There is one of each seal, and a new seal every 60 days."""

PATIENCE_SECONDS: Final = 30.0
"""For whoever else asks at this moment: longer than an answer may take."""

_MAKE: Final = b""
"""In place of an encrypted data key: that none could be made."""

T = TypeVar("T")


class Strongbox:
    """Reads and writes the form of one Secret. Safe to use from several threads."""

    def __init__(
        self,
        service: KeyService,
        numbers: Metrics,
        *,
        cluster: str,
        namespace: str,
        secret: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._service = service
        self._metrics = numbers
        self._context = seal.context_of(cluster=cluster, namespace=namespace, secret=secret)
        self._where = f"keys in Secret {namespace}/{secret}"
        self._clock = clock
        self._asking = threading.Lock()
        self._opened: dict[bytes, bytes] = {}
        self._failures: dict[bytes, tuple[float, Rejected | Unavailable]] = {}
        self._told: Keeper | None = None

    @property
    def keeper(self) -> Keeper:
        """Who is to seal the keys."""
        return self._service.keeper

    def read(self, raw: bytes) -> Keyring:
        """Return what the Secret holds.

        Raises FormatError for what is damaged, Rejected and Unavailable where the service does not
        open it.
        """
        found = keyring_form.seal_of(raw)
        keyring = keyring_form.from_json(raw, None if found is None else self._open(found))
        self._tell(keyring.keeper)
        return keyring

    def write(self, keyring: Keyring) -> bytes:
        """Return what the Secret is to hold: under a data key of its own, if there is a service.

        Raises Rejected and Unavailable where the service gives none.
        """
        with self._one_at_a_time():
            made = self._ask("make", _MAKE, self._make)
            if made is None:
                return keyring_form.to_json(keyring)
            self._remember(made.seal, made.plain)
        return keyring_form.to_sealed_json(keyring, made.seal, made.plain)

    def _make(self) -> DataKey | None:
        made = self._service.make(self._context)
        # What cannot be opened again must not take the place of what is there. The right to make
        # data keys is not the right to open them.
        if made is not None and self._service.open(made.seal) != made.plain:
            text = f"{made.seal.used_key} opens a data key that it made to another one"
            raise errors.refused(text, errors.NOT_REVERSIBLE)
        return made

    def _open(self, found: Seal) -> bytes:
        if (known := self._known(found)) is not None:
            return known
        with self._one_at_a_time():
            if (known := self._known(found)) is not None:
                return known
            data_key = self._ask("open", found.wrapped, lambda: self._question(found))
            self._remember(found, data_key)
            return data_key

    def _known(self, found: Seal) -> bytes | None:
        is_ours = not seal.difference(found.context, self._context)
        return self._opened.get(found.wrapped) if is_ours else None

    def _question(self, found: Seal) -> bytes:
        said = seal.difference(found.context, self._context)
        # Where there is no service, nothing else of it is set either: that is what is to be said.
        if said and self._service.is_there:
            raise errors.refused(f"sealed for another one: {said}", errors.WRONG_CONTEXT)
        return self._service.open(found)

    @contextlib.contextmanager
    def _one_at_a_time(self) -> Iterator[None]:
        if not self._asking.acquire(timeout=PATIENCE_SECONDS):
            raise self._named(errors.unreachable("no answer yet", what="ask"))
        try:
            yield
        finally:
            self._asking.release()

    def _ask(self, request: str, about: bytes, question: Callable[[], T]) -> T:
        """Ask, or give the answer of shortly before if that was a failure."""
        until, failure = self._failures.get(about, (0.0, None))
        if failure is not None and self._clock() < until:
            raise self._named(failure)
        try:
            answer = question()
        except (Rejected, Unavailable) as error:
            while len(self._failures) >= MAX_REMEMBERED:
                del self._failures[next(iter(self._failures))]
            self._failures[about] = (self._clock() + errors.RETRY_SECONDS, error)
            result = error.reason if isinstance(error, Rejected) else "Unavailable"
            self._count(request, result)
            named = self._named(error)
            log.error("%s", named)
            raise named from error
        self._failures.pop(about, None)
        if answer is not None:
            self._count(request, "done")
        return answer

    def _named(self, error: Rejected | Unavailable) -> Rejected | Unavailable:
        """Return *error* as one about this Secret; a new one, for it is raised again and again."""
        text = f"{self._where}: {error.message}; the Secret is left as it is"
        if isinstance(error, Rejected):
            return Rejected(text, reason=error.reason, hint=error.hint)
        return Unavailable(text, delay_seconds=error.delay_seconds, hint=error.hint)

    def _remember(self, found: Seal, data_key: bytes) -> None:
        while len(self._opened) >= MAX_REMEMBERED:
            del self._opened[next(iter(self._opened))]
        self._opened[found.wrapped] = data_key

    def _count(self, request: str, result: str) -> None:
        self._metrics.add(metrics.KEY_SERVICE, request=request, result=result)

    def _tell(self, keeper: Keeper) -> None:
        is_sealed = bool(keeper.provider) and keeper == self.keeper
        provider = self.keeper.provider or "none"
        self._metrics.set(metrics.KEYS_SEALED, int(is_sealed), provider=provider)
        if keeper != self._told:
            self._told = keeper
            log.info("%s: they are %s", self._where, keeper)
