"""What gVisor says of itself in an image, and of its sandbox on a command line."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from architect.core.errors import FormatError
from architect.shim.gvisor import image, runsc, saving

SAID = {"runsc_version": "v1", "container_count": "3", "container_specs": "{}"}


def written(directory: Path, raw: bytes, *, magic: bytes = b"gVisorSF") -> Path:
    text = magic + struct.pack("!Q", len(raw)) + raw + b"\0" * 100
    (directory / image.STATE).write_bytes(text)
    return directory


def test_an_image_says_who_wrote_it_and_of_how_many_containers(tmp_path: Path) -> None:
    found = image.read(written(tmp_path, json.dumps(SAID).encode()))
    assert found == image.Metadata(version="v1", containers=3)


@pytest.mark.parametrize(
    ("raw", "magic", "named"),
    [
        (json.dumps(SAID).encode(), b"CRIUCRIU", "not an image of gVisor"),
        (b"{", b"gVisorSF", "cannot be read"),
        (b'{"runsc_version": "v1"}', b"gVisorSF", "container_count"),
        (b'{"runsc_version": "v1", "container_count": "x"}', b"gVisorSF", "cannot be read"),
        (b"[]", b"gVisorSF", "cannot be read"),
    ],
)
def test_what_is_none_is_refused(tmp_path: Path, raw: bytes, magic: bytes, named: str) -> None:
    with pytest.raises(FormatError, match=named):
        image.read(written(tmp_path, raw, magic=magic))


@pytest.mark.parametrize("raw", [b"", b"gVisorSF", b"gVisorSF" + struct.pack("!Q", 1 << 40)])
def test_what_is_cut_or_endless_is_refused(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / image.STATE).write_bytes(raw)
    with pytest.raises(FormatError, match="not an image of gVisor"):
        image.read(tmp_path)


@pytest.mark.parametrize(
    ("cmdline", "platform"),
    [
        (b"runsc-sandbox\0--root=/r\0boot\0id\0", "systrap"),
        (b"runsc-sandbox\0--platform=kvm\0boot\0id\0", "kvm"),
        (b"runsc-sandbox\0-platform=ptrace\0boot\0--platform-device=x\0", "ptrace"),
    ],
)
def test_its_platform_is_on_its_command_line(cmdline: bytes, platform: str) -> None:
    assert saving.platform_in(cmdline) == platform


def test_of_what_runsc_says_the_first_line_counts() -> None:
    said = "restore failed: no such thing\ngoroutine 1:\n\tmain.go:1\n"
    assert runsc.complaint(said) == "restore failed: no such thing"
    assert runsc.complaint("") == "runsc did not say why"
    assert len(runsc.complaint("x" * 5000)) == runsc.MAX_SAID_CHARS
