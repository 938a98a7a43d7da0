"""Where the records of containers lie, without reading what is in them.

Apart from :mod:`.records` so that ``exec`` and ``kill`` need not import what describes a record.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from architect.api import names
from architect.core.errors import FormatError

VERSION: Final = 1
UNMANAGED: Final = names.RUN / "unmanaged"

_IDENTITY = re.compile(r"[A-Za-z0-9_+][A-Za-z0-9_.+-]{0,199}")
"""runc's own rule for ids, bounded, without a leading dot or hyphen: it becomes a file name."""


def is_identity(text: str) -> bool:
    """Whether *text* can be the id of a container of ours."""
    return _IDENTITY.fullmatch(text) is not None


def path(identity: str) -> Path:
    """Return where the record of container *identity* lies. Raises FormatError."""
    return names.CONTAINER_RECORDS / _file_name(identity)


def unmanaged_path(identity: str) -> Path:
    """Return where it says why container *identity* is unmanaged. Raises FormatError."""
    return UNMANAGED / _file_name(identity)


def remove(identity: str) -> None:
    """Remove what is known of *identity*; unknown ids are ignored."""
    path(identity).unlink(missing_ok=True)
    unmanaged_path(identity).unlink(missing_ok=True)


def _file_name(identity: str) -> str:
    if not is_identity(identity):
        raise FormatError(f"{identity!r:.80} is not a container id")
    return f"{identity}.json"
