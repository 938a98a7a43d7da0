"""Inits that travel with pods: by their hash, and nothing else by their name."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from architect.api import saved
from architect.core.errors import FormatError, NodeError
from architect.daemon import inits
from architect.daemon.inits import Inits

INIT = b"\x7fELF of another version"
SHA = hashlib.sha256(INIT).hexdigest()


def refers(checkpoint: Path, container: str, sha: str) -> None:
    meta = checkpoint / saved.container(container) / saved.META
    meta.parent.mkdir(parents=True)
    meta.write_text(json.dumps({"version": 1, "init_sha": sha}))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint of a node that has the init."""
    there = tmp_path / "there"
    (there / SHA).mkdir(parents=True)
    (there / SHA / "init").write_bytes(INIT)
    made = tmp_path / "checkpoint"
    refers(made, "app", SHA)
    refers(made, "side", SHA)
    Inits(there).put_into(made, [SHA, SHA])
    return made


def test_an_init_that_is_not_here_comes_with_the_pod(checkpoint: Path, tmp_path: Path) -> None:
    here = Inits(tmp_path / "here")
    here.take_from(checkpoint)
    installed = tmp_path / "here" / SHA / "init"
    assert installed.read_bytes() == INIT
    assert installed.stat().st_mode & 0o777 == 0o755
    # What is here is used, whatever comes.
    (checkpoint / saved.init(SHA)).unlink()
    here.take_from(checkpoint)


def test_what_is_not_what_its_name_says_is_not_installed(checkpoint: Path, tmp_path: Path) -> None:
    piece = checkpoint / saved.init(SHA)
    piece.unlink()
    piece.write_bytes(INIT + b" and more")
    with pytest.raises(FormatError, match="is not that"):
        Inits(tmp_path / "here").take_from(checkpoint)
    assert not (tmp_path / "here" / SHA / "init").exists()


def test_one_that_is_too_large_is_not_read_on(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inits, "MAX_BYTES", 4)
    with pytest.raises(FormatError, match="is not that"):
        Inits(tmp_path / "here").take_from(checkpoint)


def test_an_init_that_nobody_has_is_named(checkpoint: Path, tmp_path: Path) -> None:
    other = "a" * 64
    refers(checkpoint, "late", other)
    with pytest.raises(NodeError, match="init aaaaaaaaaaaa is not on this node") as caught:
        Inits(tmp_path / "here").take_from(checkpoint)
    assert caught.value.reason == "NoInit"
    with pytest.raises(NodeError, match="is not on this node") as caught:
        Inits(tmp_path / "here").put_into(checkpoint, [other])
    assert caught.value.reason == "NoInit"


@pytest.mark.parametrize("sha", ["", "../../etc/cron.d/x", "A" * 64, None])
def test_a_hash_that_is_none_is_refused(checkpoint: Path, tmp_path: Path, sha: str | None) -> None:
    refers(checkpoint, "evil", sha)  # type: ignore[arg-type]
    with pytest.raises(FormatError, match="no SHA-256 of an init"):
        Inits(tmp_path / "here").take_from(checkpoint)
