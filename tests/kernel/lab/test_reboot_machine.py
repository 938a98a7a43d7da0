"""A machine that is rebooted: its disk is as it was, everything else is new."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from lab import rootfs
from lab.cache import Cache
from lab.machine import Machine, MachineSpec
from lab.settings import Settings

ON_DISK = ("/etc/kept", "/var/lib/kept", "/opt/kept")
IN_MEMORY = ("/run/lost", "/tmp/lost", "/dev/shm/lost")


@pytest.fixture
def machine() -> Iterator[Machine]:
    settings = Settings.from_environment()
    made = Machine(f"reboot-{os.getpid()}", settings=settings)
    made.create(MachineSpec(root=rootfs.node_root(Cache(settings.cache))))
    yield made
    made.destroy()


def test_the_disk_stays_and_nothing_else(machine: Machine) -> None:
    machine.exec(["touch", *ON_DISK, *IN_MEMORY])
    machine.exec(["sh", "-c", "mkdir /mnt/disk && mount -t tmpfs none /mnt/disk"])
    machine.start_service("sleeper", ["/usr/bin/sleep", "1000"])
    process = machine.popen(["sh", "-c", "echo there; exec sleep 1000"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"there\n"
    before = machine.running_pid
    # Held: the number of one that has ended goes to the next one that anybody makes.
    with open(machine.network) as network:
        machine.reboot()
        process.communicate(timeout=60)
        assert machine.running_pid != before
        assert os.stat(machine.network).st_ino != os.fstat(network.fileno()).st_ino
    assert machine.services() == {}
    for path in (*ON_DISK, *IN_MEMORY):
        there = machine.exec(["sh", "-c", '[ -e "$0" ] && echo yes || echo no', path]).strip()
        assert there == ("yes" if path in ON_DISK else "no"), path
    assert "/mnt/disk" not in machine.exec(["cat", "/proc/mounts"])
    # And it works as before.
    machine.start_service("sleeper", ["/usr/bin/sleep", "1000"])
    assert machine.service("sleeper").pid is not None
