"""What a program is told about the object store: the same flags for every part that uses it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from architect.cloud import addresses
from architect.objectstore.settings import StoreSettings


@dataclass(frozen=True, kw_only=True)
class StoreOptions:
    """The part of a program's settings from which :class:`StoreSettings` come."""

    store_bucket: str = ""
    """The bucket of the object store that saved pods lie in; empty: there is none."""

    store_endpoint: str = ""
    """URL of the store; empty: Amazon's, of the region."""

    store_region: str = "us-east-1"
    """What requests are signed for. Stores that have no regions take this one."""

    store_prefix: str = ""
    """What all keys begin with, such as ``cluster-1``; empty: nothing."""

    store_path_style: bool = True
    """Whether the bucket stands in the URL's path, which every store knows, or in its host name."""

    store_ca_file: str = ""
    """PEM with the authorities that the store's certificate is of; empty: the system's."""

    @property
    def store(self) -> StoreSettings | None:
        """The object store; None: there is none. Raises ConfigError, which begins with the name."""
        if not self.store_bucket:
            return None
        with addresses.named("store_"):
            return StoreSettings(
                bucket=self.store_bucket,
                endpoint=self.store_endpoint,
                region=self.store_region,
                prefix=self.store_prefix,
                is_path_style=self.store_path_style,
                ca_file=self.store_ca_file,
            )


HELP: Final[Mapping[str, str]] = {
    "store_bucket": "bucket of the object store (empty: none)",
    "store_endpoint": "URL of the object store (empty: Amazon's)",
    "store_region": "region that requests to the store are signed for",
    "store_prefix": "what all keys in the bucket begin with",
    "store_path_style": "true: the bucket stands in the URL's path; false: in its host name",
    "store_ca_file": "PEM with the authorities of the store's certificate (empty: the system's)",
}
"""For ``--help``, by the setting's name."""
