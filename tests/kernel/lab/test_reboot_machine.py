"""A machine that is rebooted: its disk is as it was, everything else is new."""

from __future__ import annotations

import os
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
    process = machine.popen(["sleep", "1000"])
    before = machine.running_pid
    network = os.stat(machine.network).st_ino
    machine.reboot()
    process.wait(60)
    assert machine.running_pid != before
    assert os.stat(machine.network).st_ino != network
    assert machine.services() == {}
    for path in (*ON_DISK, *IN_MEMORY):
        there = machine.exec(["sh", "-c", '[ -e "$0" ] && echo yes || echo no', path]).strip()
        assert there == ("yes" if path in ON_DISK else "no"), path
    assert "/mnt/disk" not in machine.exec(["cat", "/proc/mounts"])
    # And it works as before.
    machine.start_service("sleeper", ["/usr/bin/sleep", "1000"])
    assert machine.service("sleeper").pid is not None
