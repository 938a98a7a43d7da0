"""What can be said about the virtual machine without booting it."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from lab import errors
from vm import __main__ as command_line
from vm import disk, guest, job, machine

DISK = disk.Disk(root=Path("/c/root.ext4"), kernel=Path("/c/vmlinuz"), initrd=Path("/c/initrd"))


def test_the_disk_is_not_written_to_and_there_is_no_network(tmp_path: Path) -> None:
    words = machine.command(
        ["qemu"], DISK, job=tmp_path / "job.tar", directory=tmp_path, size=machine.Size()
    )
    drives = [words[i + 1] for i, word in enumerate(words) if word == "-drive"]
    assert [("snapshot=on" in each, "readonly=on" in each) for each in drives] == [
        (True, False),
        (False, True),
    ]
    assert words[words.index("-nic") + 1] == "none"
    # The unit on the disk and the guest know the devices by these names.
    assert f"serial={disk.FILES[f'etc/systemd/system/{disk.UNIT}'].split('virtio-')[1][:3]}" in (
        " ".join(words)
    )
    for port in (guest.OUTPUT, guest.STATUS):
        assert f"virtserialport,chardev={port.name},name={port.name}" in words


def test_a_job_holds_the_checkout_without_what_tools_have_written(tmp_path: Path) -> None:
    programs = tmp_path / "out"
    programs.mkdir()
    (programs / "architect-criu").write_bytes(b"elf")
    target = tmp_path / "job.tar"
    job.pack(target, programs=programs, argv=["pytest", "x"], env={"A": "1"})
    with tarfile.open(target) as archive:
        names = archive.getnames()
        asked = archive.extractfile("job.json")
        assert asked is not None
        assert json.loads(asked.read()) == {"argv": ["pytest", "x"], "env": {"A": "1"}}
    for name in ("guest.py", "programs/architect-criu", "checkout/shim/bundle.py"):
        assert name in names
    for path in command_line.SAMPLE:
        assert f"checkout/{path}" in names
    assert not [name for name in names if "__pycache__" in name or "_cache/" in name]


def test_without_a_path_a_sample_runs() -> None:
    whole = command_line.pytest(["--", "-k", "x"], patience=2)
    sample = len(command_line.SAMPLE)
    assert (whole[-sample - 2 : -sample], tuple(whole[-sample:])) == (
        ["-k", "x"],
        command_line.SAMPLE,
    )
    one = command_line.pytest(["--", "-x", "tests/kernel/shim"], patience=2)
    assert one[-2:] == ["-x", "tests/kernel/shim"]
    assert f"--timeout={2 * command_line.TEST_SECONDS:.0f}" in whole


def test_the_guests_status_counts_and_not_the_emulators(tmp_path: Path) -> None:
    (tmp_path / "status").write_text("5\n")
    assert machine.result(0, directory=tmp_path, said="", minutes=1) == 5


@pytest.mark.parametrize(
    ("ended", "why"), [(124, "not finished in 3 min"), (1, "exit status 1"), (-9, "SIGKILL")]
)
def test_a_machine_that_ends_without_a_status_is_an_error(
    tmp_path: Path, ended: int, why: str
) -> None:
    (tmp_path / "status").touch()
    machine.console(tmp_path).write_text("Kernel panic")
    with pytest.raises(errors.LabError, match=f"{why}.*\n.*no such device\n.*Kernel panic"):
        machine.result(ended, directory=tmp_path, said="no such device", minutes=3)
