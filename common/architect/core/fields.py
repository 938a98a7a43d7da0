"""Reading what another version wrote: keys that came later are left out, or have a default."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from architect.core.errors import FormatError

T = TypeVar("T")


def read(kind: type[T], value: Mapping[str, Any], where: object) -> T:
    """Return the dataclass *kind* made of *value*, in which *where* names it.

    What a newer version added is not ours to judge: had it changed what the rest means, the version
    would be another one. What an older one did not know has its default. Raises FormatError if a
    field is missing that has none.
    """
    fields = [field for field in dataclasses.fields(kind) if field.init]  # type: ignore[arg-type]
    missing = [
        field.name
        for field in fields
        if field.name not in value
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise FormatError(f"{where}: {min(missing)} is missing")
    return kind(**{field.name: value[field.name] for field in fields if field.name in value})
