from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from architect.api import names
from architect.core.errors import FormatError
from architect.shim import record_files, records
from architect.shim.records import Record, Unmanaged

RECORD = Record(
    id="abc",
    pod="uid",
    namespace="shop",
    pod_name="web-0",
    container="app",
    sandbox_id=None,
    bundle="/b",
    pid_file=None,
    runc_root="/run/runc",
    systemd_cgroup=True,
    runtime="/usr/sbin/runc",
    netns="/var/run/netns/x",
    policy={"version": 1},
    init_sha="00",
    created=1.5,
    hollow=False,
)


@pytest.fixture(autouse=True)
def _own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "CONTAINER_RECORDS", tmp_path / "run/containers")
    monkeypatch.setattr(record_files, "UNMANAGED", tmp_path / "run/unmanaged")


def test_a_record_comes_back_as_it_was_written() -> None:
    records.write(RECORD)
    assert records.read("abc") == RECORD
    assert list(records.identities()) == ["abc"]
    assert records.path("abc").stat().st_mode & 0o777 == 0o600
    assert records.path("abc").parent.stat().st_mode & 0o777 == 0o700


def test_removing_is_repeatable() -> None:
    records.write(RECORD)
    records.remove("abc")
    records.remove("abc")
    assert list(records.identities()) == []
    with pytest.raises(FileNotFoundError):
        records.read("abc")


@pytest.mark.parametrize("identity", ["", "..", "a/b", ".hidden", "-x", "a" * 201, "a\n", "ä"])
def test_an_id_never_leaves_the_directory(identity: str) -> None:
    assert not records.is_identity(identity)
    with pytest.raises(FormatError):
        records.read(identity)
    with pytest.raises(FormatError):
        records.write(dataclasses.replace(RECORD, id=identity))


def test_a_record_of_another_version_or_without_a_field_is_refused() -> None:
    records.write(RECORD)
    fields = json.loads(records.path("abc").read_text())
    records.path("abc").write_text(json.dumps({**fields, "version": 2}))
    with pytest.raises(FormatError, match="version 2"):
        records.read("abc")
    del fields["bundle"]
    records.path("abc").write_text(json.dumps(fields))
    with pytest.raises(FormatError, match="bundle is missing"):
        records.read("abc")


def test_why_a_container_is_unmanaged_is_kept_until_it_is_deleted() -> None:
    note = Unmanaged(
        id="abc",
        pod="uid",
        namespace="shop",
        pod_name="web-0",
        container="app",
        reason="Terminal",
        message="tty",
        created=1.0,
    )
    assert list(records.unmanaged()) == []
    records.write_unmanaged(note)
    assert list(records.unmanaged()) == [note]
    records.remove("abc")
    assert list(records.unmanaged()) == []


def test_a_note_of_another_version_is_told_as_such_and_hides_no_other() -> None:
    note = Unmanaged(
        id="b", pod="u", namespace="", pod_name="", container="c", reason="R", message="m",
        created=1.0,
    )  # fmt: skip
    records.write_unmanaged(note)
    (record_files.UNMANAGED / "a.json").write_text('{"version": 9, "id": "a"}')
    unreadable, readable = records.unmanaged()
    assert (unreadable.id, unreadable.reason) == ("a", records.UNREADABLE)
    assert "a.json" in unreadable.message and "version 9" in unreadable.message
    assert readable == note


def test_what_a_newer_version_added_is_not_ours_to_judge() -> None:
    records.write(RECORD)
    file = records.path("abc")
    file.write_text(json.dumps({**json.loads(file.read_text()), "fromTheNext": True}))
    assert records.read("abc") == RECORD
