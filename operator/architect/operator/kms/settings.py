"""Which key management service seals the private keys, with which of its keys.

Credentials are none of ours: the client library finds them, in a file or where it finds those of
the object store, and a program's settings never hold them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from architect.cloud import addresses
from architect.core.errors import ConfigError
from architect.objectstore.options import StoreOptions

PROVIDERS: Final = ("", "aws")

_ARN = re.compile(
    r"arn:aws[a-z-]{0,20}:kms:([A-Za-z0-9-]{1,64}):[0-9]{12}:(?:key|alias)/[A-Za-z0-9/_-]{1,256}"
)
_NAME = re.compile(r"alias/[A-Za-z0-9/_-]{1,250}|[A-Za-z0-9-]{1,128}")
_CLUSTER = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._/-]{0,126}[A-Za-z0-9])?")


@dataclass(frozen=True, kw_only=True)
class KmsSettings:
    """One key of AWS KMS, and how it is reached. Raises ConfigError where a value cannot be."""

    key_id: str
    """Its id, ARN or alias."""

    cluster: str
    """Part of the encryption context, which must be the same for ever."""

    region: str
    """Whose service is asked."""

    endpoint: str = ""
    """``https://host[:port]``; empty: Amazon's, of the region."""

    ca_file: str = ""
    """PEM with the authorities that the server's certificate is of; empty: the system's."""

    credentials_file: str = ""
    """One as AWS's tools have it, with the profile ``default``; empty: where the library finds
    those of the object store."""

    unseal: bool = False
    """Whether what was sealed is to be plain again: the step before there is no service."""

    def __post_init__(self) -> None:
        arn = _ARN.fullmatch(self.key_id)
        checks = (
            (
                "key_id",
                arn or _NAME.fullmatch(self.key_id),
                "a key's id, its ARN or alias/NAME",
            ),
            (
                "cluster",
                _CLUSTER.fullmatch(self.cluster),
                "a name of 1 to 128 letters, digits, ., _, / and -, with a letter or digit at both "
                "ends",
            ),
            *addresses.checks(region=self.region, endpoint=self.endpoint, ca_file=self.ca_file),
            ("region", not arn or arn[1] == self.region, "the region in the key's ARN"),
            (
                "credentials_file",
                not self.credentials_file or Path(self.credentials_file).is_absolute(),
                "an absolute path",
            ),
        )
        addresses.require(self, checks)


@dataclass(frozen=True, kw_only=True)
class KmsOptions(StoreOptions):
    """The part of the operator's settings from which :class:`KmsSettings` come."""

    kms_provider: str = ""
    """``aws``, or empty: the private keys are plain in their Secret."""

    kms_key_id: str = ""
    """Id, ARN or alias of the key under which they are sealed."""

    kms_cluster: str = ""
    """Name of this cluster, for the encryption context. What was sealed under one name opens under
    no other."""

    kms_region: str = ""
    """Empty: that of the key's ARN, or else the object store's."""

    kms_endpoint: str = ""
    """URL of the service; empty: Amazon's, of the region."""

    kms_ca_file: str = ""
    """PEM with the authorities that the service's certificate is of; empty: the system's."""

    kms_credentials_file: str = ""
    """AWS credentials file with the profile ``default``; empty: as for the object store."""

    kms_unseal: bool = False
    """Have the keys plain again, by asking the service once more: the step before provider is
    emptied."""

    @property
    def kms(self) -> KmsSettings | None:
        """The service; None: there is none. Raises ConfigError, which begins with the name."""
        if self.kms_provider not in PROVIDERS:
            raise ConfigError(f"kms_provider: {self.kms_provider!r:.100} is not aws, and not empty")
        if not self.kms_provider:
            return None
        arn = _ARN.fullmatch(self.kms_key_id)
        with addresses.named("kms_"):
            return KmsSettings(
                key_id=self.kms_key_id,
                cluster=self.kms_cluster,
                region=self.kms_region or (arn[1] if arn else self.store_region),
                endpoint=self.kms_endpoint,
                ca_file=self.kms_ca_file,
                credentials_file=self.kms_credentials_file,
                unseal=self.kms_unseal,
            )


HELP: Final[Mapping[str, str]] = {
    "kms_provider": "what seals the keys in their Secret: aws (empty: nothing)",
    "kms_key_id": "id, ARN or alias of the service's key",
    "kms_cluster": "name of this cluster, part of what is sealed",
    "kms_region": "region of the service (empty: that of the key's ARN, or the store's)",
    "kms_endpoint": "URL of the service (empty: Amazon's)",
    "kms_ca_file": "PEM with the authorities of the service's certificate (empty: the system's)",
    "kms_credentials_file": "AWS credentials file (empty: as for the object store)",
    "kms_unseal": "true: have the keys plain in their Secret again",
}
"""For ``--help``, by the setting's name."""
