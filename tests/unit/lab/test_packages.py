from __future__ import annotations

import pytest

from lab import errors, mirror, rootfs

DEB822 = """\
Types: deb
# a comment
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main

Types: deb
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main
"""


def test_the_mirror_is_the_archive_of_debian_itself() -> None:
    others = "deb https://apt.example tool-bookworm main\n"
    assert mirror.debian_mirror([others, DEB822]) == "http://mirror.example/debian"


def test_the_format_of_one_line_per_source_is_read_too() -> None:
    line = "deb [signed-by=/k.gpg] http://mirror.example/debian trixie main contrib\n"
    assert mirror.debian_mirror([line]) == "http://mirror.example/debian"


def test_sources_that_are_switched_off_do_not_count() -> None:
    assert mirror.debian_mirror([DEB822.replace("Types: deb", "Types: deb\nEnabled: no")]) is None


def test_installed_packages_are_read_from_dpkgs_status() -> None:
    status = (
        "Package: runc\nStatus: install ok installed\nVersion: 1.3.6+ds1-1\n\n"
        "Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n"
    )
    assert rootfs.installed_packages(status) == {"runc": "1.3.6+ds1-1"}


@pytest.mark.parametrize(
    ("version", "numbers"), [("2.1.9+ds1-1", (2, 1, 9)), ("1:5.10-2", (5, 10)), ("1.26", (1, 26))]
)
def test_versions_are_compared_by_their_leading_numbers(
    version: str, numbers: tuple[int, ...]
) -> None:
    assert rootfs.upstream_version(version) == numbers


def test_an_old_or_missing_package_is_named() -> None:
    rootfs.check_minimum({"containerd": "2.1.9"}, {"containerd": "2.1"})
    with pytest.raises(errors.LabError, match=r"containerd 1\.7 < 2\.1.*runc missing"):
        rootfs.check_minimum({"containerd": "1.7"}, {"containerd": "2.1", "runc": "1.2"})
