"""What boto3 raises, as errors of our own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from architect.cloud.answers import Vocabulary, bounded


@contextlib.contextmanager
def translated(
    says: Vocabulary, *, what: str, no_credentials: str, untrusted: str
) -> Iterator[None]:
    """Raise what botocore does as an error of *says*; the last two are its words for those."""
    import botocore.exceptions as known
    import botocore.parsers

    try:
        yield
    except known.ClientError as error:
        answer = error.response
        said = answer.get("Error", {})
        raise says.named(
            int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0),
            str(said.get("Code", "")),
            str(said.get("Message", "")),
            what=what,
        ) from error
    except (
        known.NoCredentialsError,
        known.PartialCredentialsError,
        known.ProfileNotFound,
        known.ConfigParseError,
    ) as error:
        raise says.refused(f"cannot {what}: {error}", no_credentials) from error
    except known.SSLError as error:
        raise says.refused(f"cannot {what}: {bounded(str(error))}", untrusted) from error
    except known.BotoCoreError as error:
        raise says.unreachable(str(error), what=what) from error
    except (
        botocore.parsers.ResponseParserError,
        *(ValueError, KeyError, TypeError, AttributeError, RecursionError),
    ) as error:
        # Of an answer that is not the service's, such as a proxy's page: the parser's own error is
        # of no family, and single values are read by Python's own functions. Its text is not
        # repeated: it may quote the answer, which may hold a key.
        said = f"an answer that is none ({type(error).__name__})"
        raise says.unreachable(said, what=what) from error
