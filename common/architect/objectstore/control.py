"""What the operator does in the object store: it lists, and deletes what nobody needs.

``boto3`` is imported when a :class:`Control` is made. Of bodies only checkpoints' manifests pass
here, those of which no node is there any more to tell.
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from architect.cloud import addresses
from architect.cloud.translation import translated
from architect.core.errors import ArchitectError, Rejected
from architect.objectstore import errors
from architect.objectstore.settings import StoreSettings

PAGE_KEYS: Final = 1000
"""Of a page of a listing and of one deletion: S3's limit for both."""

MAX_PAGES: Final = 10_000
"""Of one listing: a store that has no last page must not keep us for ever."""

CONNECT_SECONDS: Final = 5.0
READ_SECONDS: Final = 30.0
"""Between two bytes of an answer; a thousand deletions take a slow store a while."""

ATTEMPTS: Final = 3
"""Of one request, within one call. Whoever calls comes again anyway."""

CONNECTIONS: Final = 4


@dataclass(frozen=True, kw_only=True)
class Listed:
    """One object in a listing."""

    key: str
    """The whole key."""
    size: int
    """Bytes."""
    modified: datetime.datetime
    """By the store's clock."""


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """One object that was asked for."""

    etag: str
    """Of exactly this content, by the store's word."""
    size: int
    """Bytes."""
    body: bytes | None
    """None: it is larger than asked for, or the same as before."""


@dataclass(frozen=True, kw_only=True)
class Undeleted:
    """One object that the store did not delete."""

    key: str
    error: ArchitectError


class Control:
    """One bucket. All methods may be called from any thread, and block.

    Errors are those of :mod:`architect.objectstore.errors`. Raises ConfigError when made with a CA
    file that cannot be used.
    """

    def __init__(self, settings: StoreSettings) -> None:
        import boto3
        import botocore.config

        if settings.is_encrypted:
            addresses.tls_context(settings.ca_file)
        self._settings = settings
        self._client: Any = boto3.session.Session().client(
            "s3",
            region_name=settings.region,
            endpoint_url=settings.url,
            verify=settings.ca_file or None,
            config=botocore.config.Config(
                connect_timeout=CONNECT_SECONDS,
                read_timeout=READ_SECONDS,
                retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
                max_pool_connections=CONNECTIONS,
                s3={"addressing_style": "path" if settings.is_path_style else "virtual"},
                # Newer ones than a store knows would be refused.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )

    def list(self, prefix: str) -> Iterator[Listed]:
        """Yield the objects whose whole keys begin with *prefix*, in order; page by page."""
        what = f"list {self._settings.bucket}/{prefix}"
        for page in self._pages(prefix):
            for item in page.get("Contents", ()):
                try:
                    found = Listed(
                        key=item["Key"], size=int(item["Size"]), modified=item["LastModified"]
                    )
                except (KeyError, ValueError, TypeError) as error:
                    text = f"an entry that is none: {type(error).__name__}"
                    raise errors.unreachable(text, what=what) from error
                if not found.key.startswith(prefix):
                    raise errors.unreachable("a key is not below it", what=what)
                yield found

    def get(self, key: str, *, most: int, unless: str = "") -> Fetched:
        """Return an object of at most *most* bytes, but its body only if its etag is not *unless*.

        What the store says of its size is not believed: no more than *most* is read. Raises as all
        methods, ``NoSuchKey`` if it is not there.
        """
        what = f"get {self._settings.bucket}/{key}"
        with _translated(what):
            answer = self._client.get_object(Bucket=self._settings.bucket, Key=key)
            with contextlib.closing(answer["Body"]) as stream:
                etag, size = str(answer.get("ETag", "")), int(answer["ContentLength"])
                if size > most or (etag and etag == unless):
                    return Fetched(etag=etag, size=size, body=None)
                body = stream.read(most + 1)
        if len(body) != size:
            raise errors.unreachable(f"{len(body)} bytes instead of {size}", what=what)
        return Fetched(etag=etag, size=size, body=body)

    def delete(self, keys: Iterable[str]) -> tuple[Undeleted, ...]:
        """Delete objects by their whole keys; one that is not there counts as deleted.

        Returns those that the store refused to delete. Raises if a request for a thousand of them
        fails as a whole; those before are deleted then.
        """
        left: list[Undeleted] = []
        remaining = iter(keys)
        while batch := tuple(itertools.islice(remaining, PAGE_KEYS)):
            left += self._delete(batch)
        return tuple(left)

    def check(self) -> None:
        """See that the bucket is there and that we may list it."""
        with _translated(f"list {self._settings.bucket}"):
            self._client.list_objects_v2(
                Bucket=self._settings.bucket, Prefix=self._settings.probe_key, MaxKeys=1
            )

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    def _pages(self, prefix: str) -> Iterator[dict[str, Any]]:
        arguments = {"Bucket": self._settings.bucket, "Prefix": prefix, "MaxKeys": PAGE_KEYS}
        what = f"list {self._settings.bucket}/{prefix}"
        for _ in range(MAX_PAGES):
            with _translated(what):
                page = self._client.list_objects_v2(**arguments)
            yield page
            if not page.get("IsTruncated"):
                return
            token = page.get("NextContinuationToken")
            if not token or token == arguments.get("ContinuationToken"):
                raise errors.unreachable("the next page has no token of its own", what=what)
            arguments["ContinuationToken"] = token
        raise errors.unreachable(f"there are more than {MAX_PAGES} pages", what=what)

    def _delete(self, keys: tuple[str, ...]) -> Iterator[Undeleted]:
        bucket = self._settings.bucket
        with _translated(f"delete {len(keys)} objects, from {bucket}/{keys[0]} on"):
            answer = self._client.delete_objects(
                Bucket=bucket, Delete={"Objects": [{"Key": key} for key in keys], "Quiet": True}
            )
        for item in answer.get("Errors", ()):
            key = str(item.get("Key", ""))
            error = errors.named(
                0,
                str(item.get("Code", "")),
                str(item.get("Message", "")),
                what=f"delete {bucket}/{key}",
            )
            if not (isinstance(error, Rejected) and error.reason == errors.NO_SUCH_KEY):
                yield Undeleted(key=key, error=error)


def _translated(what: str) -> contextlib.AbstractContextManager[None]:
    """Raise what botocore does as an error of ours."""
    return translated(
        errors.SAYS, what=what, no_credentials=errors.NO_CREDENTIALS, untrusted=errors.UNTRUSTED
    )
