"""What can be said about the virtual machine without booting it."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from faults import wallclock
from lab import __main__ as lab_command_line
from lab import commands, errors, oci
from lab.progress import SILENT
from lab.pruning import Recorder
from vm import __main__ as command_line
from vm import disk, emulator, guest, job, machine, parts
from vm.suite import CLUSTER, KERNEL, Suite

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
    for port in (guest.OUTPUT, guest.STATUS, guest.FILES):
        assert f"virtserialport,chardev={port.name},name={port.name}" in words
    assert guest.PARTS.name.removeprefix("virtio-") not in " ".join(words)


def test_a_cluster_gets_a_disk_that_the_machine_writes_to(tmp_path: Path) -> None:
    target = tmp_path / "parts.ext4"
    words = machine.command(
        ["qemu"], DISK, job=tmp_path / "j", directory=tmp_path, size=machine.Size(), parts=target
    )
    (drive,) = (word for word in words if word.startswith(f"file={target},"))
    assert "snapshot" not in drive
    assert "readonly" not in drive
    serial = guest.PARTS.name.removeprefix("virtio-")
    assert f"virtio-blk-pci,drive=parts,serial={serial}" in words


def test_a_cluster_is_packed_without_what_its_parts_were_built_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Built(Recorder):
        """Has everything, each a file of its own name."""

        def artefact(self, name: str, **asked: Any) -> Path:
            made = super().artefact(name, **asked)
            (made / "content").mkdir(parents=True, exist_ok=True)
            return made

    def decompress(archive: Path, target: Path) -> None:
        assert archive.parent.parent == cache.root
        target.write_text("an image")

    monkeypatch.setattr(oci, "decompress", decompress)
    cache = Built(tmp_path / "cache")
    packed = {path.name.rpartition("-")[0] for path in parts.needed(cache)}
    for name in ("node-root-forky", "image-architect-daemon-0.1.0", "image-py-3", "image-pause-1"):
        assert name in packed
    for name in ("image-architect-daemon-environment-0.1.0", "image-debian-forky"):
        assert name not in packed
    parts.disk(cache, tmp_path / "parts.ext4")

    def listed(path: str) -> set[str]:
        said = commands.run(["/sbin/debugfs", "-R", f"ls -p {path}", tmp_path / "parts.ext4"])
        names = {line.split("/")[5] for line in said.splitlines() if line.count("/") > 5}
        return names - {".", "..", "lost+found"}

    shelf = f"/{guest.CACHE.relative_to(guest.LAB)}"
    assert listed(shelf) == cache.keys
    filled = {key for key in cache.keys if listed(f"{shelf}/{key}")}
    assert {key.rpartition("-")[0] for key in filled} == packed


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
    for path in (*KERNEL.sample, *CLUSTER.sample, "daemon/Dockerfile", "charts/architect"):
        assert f"checkout/{path}" in names
    assert not [name for name in names if "__pycache__" in name or "_cache/" in name]


@pytest.mark.parametrize("suite", [KERNEL, CLUSTER])
def test_without_a_path_a_sample_runs(suite: Suite) -> None:
    whole = suite.argv(["--", "-k", "x"], patience=2)
    sample = len(suite.sample)
    assert (whole[-sample - 2 : -sample], tuple(whole[-sample:])) == (["-k", "x"], suite.sample)
    one = suite.argv(["--", "-x", "tests/kernel/shim"], patience=2)
    assert one[-2:] == ["-x", "tests/kernel/shim"]
    assert f"--timeout={2 * suite.test_seconds:.0f}" in whole


def test_cluster_tests_run_while_a_cluster_is_up_whose_logs_are_sent_out() -> None:
    words = CLUSTER.argv(["-x"], patience=2)
    assert words[:2] == ["sh", "-c"]
    for look in words[2].split(" && ")[:-1]:
        assert look.startswith("python3 -m lab ")
        lab_command_line.parser().parse_args(look.split()[3:])
    lab = words[words.index("sh", 1) + 1 :]
    run = lab_command_line.parser().parse_args(lab[3:])
    assert (run.command, run.nodes) == ("run", 1)
    assert guest.LOGS in run.logs.parents
    assert lab_command_line.plain(run.argv)[:3] == ["python3", "-m", "pytest"]
    told = CLUSTER.environment(patience=2)
    assert told["ARCHITECT_PATIENCE"] == "2"
    assert Path(told["ARCHITECT_LAB"]) in guest.LOGS.parents
    assert "ARCHITECT_LAB" not in KERNEL.environment(patience=2)
    # Nobody else has that machine's clock.
    assert KERNEL.environment(patience=2)[wallclock.ALLOWED] == "1"


def test_logs_are_kept_where_there_are_some(tmp_path: Path) -> None:
    sent, target = machine.files(tmp_path), tmp_path / "build" / "logs.tar"
    sent.touch()
    command_line.keep(sent, target, progress=SILENT)
    assert not target.exists()
    sent.write_bytes(b"tar")
    command_line.keep(sent, target, progress=SILENT)
    assert target.read_bytes() == b"tar"


def test_the_guests_status_counts_and_not_the_emulators(tmp_path: Path) -> None:
    (tmp_path / "status").write_text("5\n")
    assert machine.result(0, directory=tmp_path, said="", minutes=1) == 5


class Fake(emulator.Emulator):
    """Aborts at first, then is a guest that ends with status 4."""

    @property
    def words(self) -> list[str]:
        script = """
            echo >>"$0/tries"
            [ "$(wc -l <"$0/tries")" -gt 1 ] || kill -ABRT $$
            echo hello
            echo 4 >"$0/status"
        """
        return ["sh", "-c", script, str(self.root)]


def test_an_emulator_that_gives_up_before_the_guest_speaks_is_started_again(tmp_path: Path) -> None:
    status = machine.run(
        Fake(root=tmp_path),
        DISK,
        job=tmp_path / "job.tar",
        directory=tmp_path,
        size=machine.Size(),
        progress=SILENT,
    )
    assert status == 4
    assert len((tmp_path / "tries").read_text()) == 2


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
