"""Boot the machine, pass on what it says, and wait for its end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lab import commands, errors
from lab.progress import Progress
from vm.disk import Disk
from vm.emulator import Emulator

CONSOLE_BYTES: Final = 4000
"""How much of the console an error carries."""
KILL_SECONDS: Final = 10
BOOTS: Final = 3
"""With several processors QEMU 10 now and then fails an assertion while the guest finds its devices
(``iotlb_to_section``): it has written to no disk by then, and is started again."""

PROCESSOR: Final = "Nehalem,+aes,+pclmulqdq,+sha-ni"
"""An old one, with what makes digests and TLS cheap: those instructions are not emulated."""

KERNEL: Final = (
    *("root=/dev/vda", "rw", "console=ttyS0", "quiet", "panic=5", "systemd.show_status=0"),
    # Costly under emulation, and of no use there.
    *("mitigations=off", "tsc=reliable"),
)


@dataclass(frozen=True, kw_only=True)
class Size:
    """What the machine takes of the host."""

    processors: int = 1
    memory: str = "3G"
    minutes: float = 45.0
    """It is ended after this time, however it goes."""
    accelerator: str = "tcg"


def command(
    emulator: Sequence[str],
    disk: Disk,
    *,
    job: Path,
    directory: Path,
    size: Size,
    parts: Path | None = None,
) -> list[str]:
    """Return QEMU's command line. Nothing is written but files in *directory*, and *parts*.

    What the guest writes to its port ``output`` is on QEMU's standard output.
    """
    drive = "if=none,format=raw"
    work = (
        *("-drive", f"file={parts},{drive},id=parts,cache=unsafe"),
        *("-device", "virtio-blk-pci,drive=parts,serial=parts"),
    )
    return [
        *emulator,
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-nic", "none"),
        *("-machine", "q35", "-accel", size.accelerator, "-cpu", PROCESSOR),
        *("-smp", str(size.processors), "-m", size.memory),
        *("-kernel", str(disk.kernel), "-initrd", str(disk.initrd), "-append", " ".join(KERNEL)),
        *("-drive", f"file={disk.root},{drive},id=root,snapshot=on,cache=unsafe"),
        *("-device", "virtio-blk-pci,drive=root,serial=root"),
        *("-drive", f"file={job},{drive},id=job,readonly=on"),
        *("-device", "virtio-blk-pci,drive=job,serial=job"),
        *(work if parts else ()),
        *("-object", "rng-random,id=random,filename=/dev/urandom"),
        *("-device", "virtio-rng-pci,rng=random"),
        *("-serial", f"file:{console(directory)}"),
        *("-device", "virtio-serial-pci"),
        # Not `stdio`: at the end of its input a port counts as closed, and the guest waits.
        *("-chardev", "file,id=output,path=/dev/stdout"),
        *("-device", "virtserialport,chardev=output,name=output"),
        *("-chardev", f"file,id=status,path={directory / 'status'}"),
        *("-device", "virtserialport,chardev=status,name=status"),
        *("-chardev", f"file,id=files,path={files(directory)}"),
        *("-device", "virtserialport,chardev=files,name=files"),
    ]


def console(directory: Path) -> Path:
    """Return the file with what kernel and systemd say."""
    return directory / "console"


def files(directory: Path) -> Path:
    """Return the file with the logs that the guest sends out, a tar file; empty if it sent none."""
    return directory / "files.tar"


def run(
    emulator: Emulator,
    disk: Disk,
    *,
    job: Path,
    directory: Path,
    size: Size,
    progress: Progress,
    parts: Path | None = None,
) -> int:
    """Boot the machine with *job*, write its output to standard output, return its exit status.

    *parts* is a further disk, which the machine may write to.

    Raises LabError, with the end of the console, if the machine ends without one.
    """
    seconds = size.minutes * 60
    words = [
        # It ends with us, and in time, even if we are killed.
        *("setpriv", "--pdeathsig", "TERM"),
        *("timeout", f"--kill-after={KILL_SECONDS}", f"{seconds:.0f}"),
        *command(emulator.words, disk, job=job, directory=directory, size=size, parts=parts),
    ]
    # The disk's snapshot is a temporary file without a name.
    env = {**os.environ, **emulator.environment, "TMPDIR": str(directory)}
    for boots_left in reversed(range(BOOTS)):
        progress.say(f"virtual machine: 40 s to boot, at most {size.minutes:.0f} min …")
        ended, heard, said = _once(words, env=env)
        if ended != -signal.SIGABRT or heard or not boots_left:
            break
        progress.say(f"virtual machine: the emulator gave up before the guest spoke: {said}")
    return result(ended, directory=directory, said=said, minutes=size.minutes)


def _once(words: Sequence[str], *, env: Mapping[str, str]) -> tuple[int, int, str]:
    """Return how the emulator ended, how many bytes the guest said, and its own complaints."""
    with tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=complaints,
            env=env,
            start_new_session=True,
        )
        try:
            heard = _pass_on(process)
            process.wait()
        finally:
            _end(process)
        complaints.seek(0)
        said = complaints.read()[-CONSOLE_BYTES:].decode(errors="replace").strip()
    return process.returncode, heard, said


def result(ended: int, *, directory: Path, said: str, minutes: float) -> int:
    """Return the status that the guest left in *directory*; raise LabError if there is none.

    *ended* is the status of QEMU below ``timeout``, *said* its complaints.
    """
    status = directory / "status"
    text = status.read_text().strip() if status.exists() else ""
    if text:
        return int(text)
    path = console(directory)
    tail = path.read_bytes()[-CONSOLE_BYTES:].decode(errors="replace") if path.exists() else ""
    why = f"not finished in {minutes:g} min" if ended == 124 else commands.describe_status(ended)
    raise errors.LabError(f"virtual machine: {why}, no result\n{said}\n{tail}".rstrip())


def _pass_on(process: subprocess.Popen[bytes]) -> int:
    assert process.stdout is not None
    heard = 0
    with process.stdout as stream:
        while data := os.read(stream.fileno(), 65536):
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
            heard += len(data)
    return heard


def _end(process: subprocess.Popen[bytes]) -> None:
    """End QEMU if it still runs: an interrupted run leaves none behind."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(KILL_SECONDS)
        except subprocess.TimeoutExpired:
            commands.kill_group(process)
            process.wait()
