"""The Debian mirror of this host, read from apt's own configuration."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from lab import errors

RELEASES = frozenset(
    [
        "bullseye",
        "bookworm",
        "trixie",
        "forky",
        "duke",
        "sid",
        "oldstable",
        "stable",
        "testing",
        "unstable",
    ]
)


def debian_mirror(texts: Iterable[str]) -> str | None:
    """Return the first archive in apt's source files *texts* that carries Debian itself.

    Both formats are read: deb822 stanzas and one line per source. Security and third-party
    archives have other suites.
    """
    for text in texts:
        for uris, suites, components in _sources(text):
            if "main" in components and RELEASES.intersection(suites):
                return uris[0]
    return None


def host_mirror(apt: Path = Path("/etc/apt")) -> str:
    """Return the mirror that this host's apt uses.

    Raises LabError if it uses none.
    """
    files = [apt / "sources.list", *sorted((apt / "sources.list.d").glob("*"))]
    found = debian_mirror(path.read_text() for path in files if path.is_file())
    if found is None:
        raise errors.LabError(
            f"no Debian archive in {apt}",
            hint="add a source with a Debian suite and the component main",
        )
    return found


def _sources(text: str) -> Iterable[tuple[list[str], list[str], list[str]]]:
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    for line in lines:
        match = re.match(r"deb\s+(?:\[[^]]*\]\s+)?(\S+)\s+(\S+)\s+(.+)", line)
        if match:
            yield [match[1]], [match[2]], match[3].split()
    for stanza in re.split(r"\n\s*\n", "\n".join(lines)):
        fields = {
            key.lower(): value.split()
            for key, value in re.findall(r"(?m)^([A-Za-z-]+):((?:.|\n[ \t])*)", stanza)
        }
        is_enabled = fields.get("enabled") != ["no"]
        if is_enabled and fields.get("uris") and "deb" in fields.get("types", ()):
            yield fields["uris"], fields.get("suites", []), fields.get("components", [])
