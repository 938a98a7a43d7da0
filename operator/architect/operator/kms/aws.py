"""AWS KMS, and services that speak its protocol.

``boto3`` is imported when it is first asked, which a replica that only waits never does.
"""

from __future__ import annotations

import contextlib
import logging
import re
import threading
from collections.abc import Mapping
from typing import Any, Final

from architect.cloud import addresses
from architect.cloud.translation import translated
from architect.core.errors import ConfigError
from architect.operator.kms import errors
from architect.operator.kms.seal import Keeper, Seal
from architect.operator.kms.service import DataKey
from architect.operator.kms.settings import KmsSettings

log = logging.getLogger(__name__)

PROVIDER: Final = "aws"

CONNECT_SECONDS: Final = 3.0
READ_SECONDS: Final = 5.0
"""Between two bytes of an answer. KMS answers within tens of milliseconds; an asking thread is one
that claims wait for."""

ATTEMPTS: Final = 2
"""Of one request, within one call. So a call ends within about 20 s. Whoever calls comes again."""

DATA_KEY_BYTES: Final = 32
"""AES-256."""

MAX_WRAPPED_BYTES: Final = 6144
"""KMS's limit for what it decrypts."""

_KEY_ARN = re.compile(r"(arn:[a-z-]+:kms:)([A-Za-z0-9-]+)(:[0-9]+:key/(?:mrk-)?[A-Za-z0-9-]+)")


class Aws:
    """One key of KMS. All methods may be called from any thread, and block.

    Raises Rejected and Unavailable of :mod:`architect.operator.kms.errors`.
    """

    is_there = True

    def __init__(self, settings: KmsSettings) -> None:
        self._settings = settings
        self._keeper = Keeper(provider=PROVIDER, key=settings.key_id)
        self._lock = threading.Lock()
        self._made: Any = None

    @property
    def keeper(self) -> Keeper:
        """The configured key."""
        return self._keeper

    def make(self, context: Mapping[str, str]) -> DataKey:
        """Have a data key made. Needs ``kms:GenerateDataKey``."""
        what = f"have a data key made with {self._settings.key_id}"
        with _translated(what):
            answer = self._client.generate_data_key(
                KeyId=self._settings.key_id, KeySpec="AES_256", EncryptionContext=dict(context)
            )
            plain, wrapped, used = answer["Plaintext"], answer["CiphertextBlob"], answer["KeyId"]
        if (
            not _is_bytes(plain, DATA_KEY_BYTES, DATA_KEY_BYTES)
            or not _is_bytes(wrapped, 1, MAX_WRAPPED_BYTES)
            or not isinstance(used, str)
            or not _KEY_ARN.fullmatch(used)
        ):
            raise errors.unreachable("an answer that is none", what=what)
        seal = Seal(keeper=self._keeper, used_key=used, context=dict(context), wrapped=wrapped)
        return DataKey(plain=plain, seal=seal)

    def open(self, seal: Seal) -> bytes:
        """Have the data key of *seal* decrypted. Needs ``kms:Decrypt``."""
        if seal.keeper.provider != PROVIDER:
            raise errors.refused(
                f"it is {seal.keeper}, and {PROVIDER} is set", errors.OTHER_PROVIDER
            )
        key = key_in(self._settings.region, seal.used_key)
        what = f"have the data key decrypted with {key}"
        with _translated(what):
            plain = self._client.decrypt(
                CiphertextBlob=seal.wrapped, KeyId=key, EncryptionContext=dict(seal.context)
            )["Plaintext"]
        if not _is_bytes(plain, DATA_KEY_BYTES, DATA_KEY_BYTES):
            raise errors.unreachable("an answer that is none", what=what)
        return bytes(plain)

    @property
    def _client(self) -> Any:
        with self._lock:
            if self._made is None:
                self._made = self._make_client()
            return self._made

    def _make_client(self) -> Any:
        import boto3
        import botocore.config
        import botocore.session

        # At DEBUG it tells whole answers: data keys, and credentials of roles.
        logging.getLogger("botocore.parsers").setLevel(logging.INFO)
        settings = self._settings
        if settings.endpoint.startswith("http:"):
            log.warning(
                "data keys cross the network as they are: %s is no https", settings.endpoint
            )
        if settings.ca_file:
            try:
                addresses.tls_context(settings.ca_file)
            except ConfigError as error:
                raise errors.refused(error.message, errors.UNTRUSTED) from error
        session = botocore.session.Session()
        if settings.credentials_file:
            # A profile that is named goes before the environment, which has the object store's.
            session = botocore.session.Session(profile="default")
            session.set_config_variable("credentials_file", settings.credentials_file)
        # Of every client of this session: credentials of a role are asked for by another one.
        session.set_default_client_config(
            botocore.config.Config(
                connect_timeout=CONNECT_SECONDS,
                read_timeout=READ_SECONDS,
                retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
                max_pool_connections=1,
            )
        )
        return boto3.session.Session(botocore_session=session).client(
            "kms",
            region_name=settings.region,
            endpoint_url=settings.endpoint or None,
            verify=settings.ca_file or None,
        )


def key_in(region: str, arn: str) -> str:
    """Return the key *arn* as the service of *region* calls it.

    A key that is in several regions (``mrk-…``) has an ARN in each, and opens in each what it
    sealed in another: that is what people have such keys for.
    """
    match = _KEY_ARN.fullmatch(arn)
    if match is None or "/mrk-" not in match[3]:
        return arn
    return f"{match[1]}{region}{match[3]}"


def _is_bytes(value: Any, least: int, most: int) -> bool:
    return isinstance(value, bytes) and least <= len(value) <= most


def _translated(what: str) -> contextlib.AbstractContextManager[None]:
    """Raise what botocore does as an error of ours."""
    return translated(
        errors.SAYS, what=what, no_credentials=errors.NO_CREDENTIALS, untrusted=errors.UNTRUSTED
    )
