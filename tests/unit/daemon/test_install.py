from __future__ import annotations

import datetime
import hashlib
import json
import os
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest

from architect.api import names
from architect.core.errors import FormatError, NodeError
from architect.daemon import engine, install, standin_certificate
from architect.daemon.containerd import Edit
from architect.daemon.host import BACKUP_SUFFIX, Host
from architect.daemon.install import Layout
from architect.daemon.settings import DaemonSettings, Engine


def bundle(parent: Path, version: str, *, init: bytes = b"init-1") -> Path:
    directory = parent / version
    (directory / "bin").mkdir(parents=True)
    (directory / "lib").mkdir()
    contents = {
        "bin/runc-architect": b"\x7fELF runc",
        "bin/architect-init": init,
        "bin/runsc": b"gvisor",
        "lib/ld-linux.so": b"loader",
        "init.sha256": hashlib.sha256(init).hexdigest().encode() + b"\n",
    }
    for name, data in contents.items():
        (directory / name).write_bytes(data)
    (directory / "bin/runc-architect").chmod(0o755)
    (directory / "lib/loader").symlink_to("ld-linux.so")
    manifest = {
        "version": 1,
        "bundle": version,
        "init_sha256": hashlib.sha256(init).hexdigest(),
        "files": {
            **{n: {"sha256": hashlib.sha256(d).hexdigest()} for n, d in contents.items()},
            "lib/loader": {"link": "ld-linux.so"},
        },
    }
    (directory / "MANIFEST.json").write_text(json.dumps(manifest))
    return directory


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = Layout(
        install=tmp_path / "opt",
        run=tmp_path / "run",
        pods=tmp_path / "pods",
        checkpoints=tmp_path / "checkpoints",
        arrivals=tmp_path / "arrivals",
        requests=tmp_path / "requests",
    )
    (made.run / "containers").mkdir(parents=True)
    made.pods.mkdir()
    return made


def test_a_bundle_is_copied_whole_and_switched_to(tmp_path: Path, layout: Layout) -> None:
    source = bundle(tmp_path / "image", "1.0.0")
    (tmp_path / "image/current").symlink_to("1.0.0")
    assert install.find_bundle(tmp_path / "image") == source
    assert install.install(source, layout) == "1.0.0"
    assert os.readlink(layout.current) == "1.0.0"
    program = layout.current / "bin/runc-architect"
    assert stat.S_IMODE(program.stat().st_mode) == 0o755
    assert os.readlink(layout.current / "lib/loader") == "ld-linux.so"
    sha = hashlib.sha256(b"init-1").hexdigest()
    assert (layout.install / "init" / sha / "init").read_bytes() == b"init-1"
    assert not list(layout.install.glob(".*"))


def test_installing_again_touches_nothing(tmp_path: Path, layout: Layout) -> None:
    source = bundle(tmp_path / "image", "1.0.0")
    install.install(source, layout)
    before = (layout.install / "1.0.0").stat()
    install.install(source, layout)
    after = (layout.install / "1.0.0").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_a_damaged_installation_is_made_anew(tmp_path: Path, layout: Layout) -> None:
    source = bundle(tmp_path / "image", "1.0.0")
    install.install(source, layout)
    (layout.install / "1.0.0/bin/runc-architect").write_bytes(b"half")
    install.install(source, layout)
    assert (layout.install / "1.0.0/bin/runc-architect").read_bytes() == b"\x7fELF runc"


def test_a_bundle_that_is_not_what_its_manifest_says_is_refused(
    tmp_path: Path, layout: Layout
) -> None:
    source = bundle(tmp_path / "image", "1.0.0")
    (source / "bin/runc-architect").write_bytes(b"other")
    with pytest.raises(FormatError, match="not what the manifest says"):
        install.install(source, layout)
    assert not layout.current.exists()
    assert not [p for p in layout.install.iterdir() if p.name != "init"]


def test_gvisors_runtime_comes_and_goes_and_nothing_else_is_touched(
    tmp_path: Path, layout: Layout
) -> None:
    source, runsc = bundle(tmp_path / "image", "1.0.0"), layout.current / "bin/runsc"
    install.install(source, layout)
    before = (layout.install / "1.0.0").stat().st_ino
    assert not runsc.exists()
    for _ in range(2):
        install.install(source, layout, has_gvisor=True)
        assert runsc.read_bytes() == b"gvisor"
        assert stat.S_IMODE(runsc.stat().st_mode) == 0o755
    runsc.write_bytes(b"half")
    install.install(source, layout, has_gvisor=True)
    assert runsc.read_bytes() == b"gvisor"
    (source / "bin/runsc").write_bytes(b"another")
    runsc.unlink()
    with pytest.raises(FormatError, match="not what the manifest says"):
        install.install(source, layout, has_gvisor=True)
    install.install(source, layout)
    assert [p.name for p in runsc.parent.iterdir() if "runsc" in p.name] == []
    assert (layout.install / "1.0.0").stat().st_ino == before


def test_the_flags_of_gvisors_runtime_are_written_one_a_line(layout: Layout) -> None:
    layout.install.mkdir()
    install.write_runsc_conf(layout, ["--platform=kvm", "--debug"])
    path = layout.install / names.RUNSC_CONF.name
    assert path.read_text().splitlines()[1:] == ["--platform=kvm", "--debug"]
    before = path.stat().st_mtime_ns
    install.write_runsc_conf(layout, ["--platform=kvm", "--debug"])
    assert path.stat().st_mtime_ns == before
    install.write_runsc_conf(layout, [])
    assert path.read_text().splitlines()[1:] == []


def test_containers_of_gvisor_keep_the_runtime_too(layout: Layout) -> None:
    records = layout.run / "gvisor"
    records.mkdir()
    (records / "box.json").write_text("{}")
    assert (install.gvisor_containers(layout), install.living_containers(layout)) == (1, 1)


def test_containers_that_asked_and_are_not_managed_keep_the_runtime_too(layout: Layout) -> None:
    for name, place in (("a", "containers"), ("b", "unmanaged"), ("a", "unmanaged")):
        (layout.run / place).mkdir(exist_ok=True)
        (layout.run / place / f"{name}.json").write_text("{}")
    assert install.living_containers(layout) == 2


def _change(**fields: Any) -> Any:
    return lambda manifest: manifest | fields


@pytest.mark.parametrize(
    "change",
    [
        _change(version=2),
        _change(bundle="../1"),
        _change(bundle="current"),
        _change(files={}),
        _change(files={"../x": {"sha256": "0" * 64}}),
        _change(files={"/x": {"sha256": "0" * 64}}),
        _change(files={"x": {"sha256": "00"}}),
        _change(init_sha256="0" * 64),
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused(tmp_path: Path, change: Any) -> None:
    source = bundle(tmp_path / "image", "1.0.0")
    path = source / "MANIFEST.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(FormatError):
        install.read_manifest(source)


@pytest.mark.parametrize("link", ["../../../etc/passwd", "/etc/passwd"])
def test_a_link_that_leaves_the_bundle_is_refused(tmp_path: Path, link: str) -> None:
    source = bundle(tmp_path / "image", "1.0.0")
    path = source / "MANIFEST.json"
    manifest = json.loads(path.read_text())
    manifest["files"]["bin/evil"] = {"link": link}
    path.write_text(json.dumps(manifest))
    with pytest.raises(FormatError, match="leaves the bundle"):
        install.read_manifest(source)


def test_old_versions_stay_while_a_container_or_an_image_needs_their_init(
    tmp_path: Path, layout: Layout
) -> None:
    shas = {}
    for number in ("1", "2", "3", "4", "5", "6"):
        init = f"init-{number}".encode()
        shas[number] = hashlib.sha256(init).hexdigest()
        install.install(bundle(tmp_path / "image", f"{number}.0.0", init=init), layout)
    record = layout.run / "containers/c1.json"
    record.write_text(json.dumps({"init_sha": shas["1"]}))
    images = {
        "2": layout.pods / "uid/app/meta.json",
        "3": layout.checkpoints / "uid/containers/app/meta.json",
        "4": layout.arrivals / "uid/containers/app/meta.json",
        "5": layout.requests / "uid/containers/app/meta.json",
    }
    for number, meta in images.items():
        meta.parent.mkdir(parents=True)
        meta.write_text(json.dumps({"init_sha": shas[number]}))
    install.prune(layout)
    assert {p.name for p in layout.install.glob("[0-9]*")} == {"6.0.0"}
    assert {p.name for p in layout.install.glob("init/*")} == set(shas.values())
    record.unlink()
    for meta in images.values():
        meta.unlink()
    install.prune(layout)
    assert {p.name for p in layout.install.glob("init/*")} == {shas["6"]}
    assert install.living_containers(layout) == 0
    install.remove(layout)
    assert list(layout.install.iterdir()) == []


@pytest.fixture
def unneeded(tmp_path: Path, layout: Layout) -> Path:
    """An init that no version and no image needs."""
    for number in ("1", "2"):
        source = bundle(tmp_path / "image", f"{number}.0.0", init=number.encode())
        install.install(source, layout)
    return layout.install / "init" / hashlib.sha256(b"1").hexdigest()


def test_no_init_goes_while_a_checkpoint_arrives(layout: Layout, unneeded: Path) -> None:
    meta = layout.arrivals / "uid.partial/containers/app/meta.json"
    meta.parent.mkdir(parents=True)
    meta.write_bytes(bytes(290))  # of its size, and nothing in it yet
    install.prune(layout)
    assert unneeded.exists()
    whole = layout.arrivals / "uid"
    (layout.arrivals / "uid.partial").rename(whole)
    with pytest.raises(FormatError, match="no record of a container"):
        install.prune(layout)
    assert unneeded.exists()
    shutil.rmtree(whole)
    assert install.prune(layout) == [unneeded]


@pytest.mark.parametrize("is_listed_before", [True, False])
def test_no_init_goes_while_an_image_moves(
    layout: Layout, unneeded: Path, monkeypatch: pytest.MonkeyPatch, is_listed_before: bool
) -> None:
    """An image that is adopted leaves one place, and is in the other, between two listings."""
    arrived = layout.arrivals / "uid/containers/app/meta.json"
    arrived.parent.mkdir(parents=True)
    arrived.write_text(json.dumps({"init_sha": unneeded.name}))
    adopted = layout.pods / "uid/app"
    adopted.parent.mkdir(parents=True)
    listed = install._records
    looks = 0

    def listing(layout: Layout) -> set[Path]:
        nonlocal looks
        looks += 1
        if looks > 1:
            return listed(layout)
        found = listed(layout)
        arrived.parent.rename(adopted)
        return found if is_listed_before else set()

    monkeypatch.setattr(install, "_records", listing)
    assert unneeded not in install.prune(layout)
    assert install.prune(layout) == []
    assert unneeded.exists()
    shutil.rmtree(adopted)
    assert install.prune(layout) == [unneeded]


def test_an_unreadable_record_keeps_everything(tmp_path: Path, layout: Layout) -> None:
    install.install(bundle(tmp_path / "image", "1.0.0"), layout)
    for text in ("{}", "[]"):
        (layout.run / "containers/c1.json").write_text(text)
        with pytest.raises(FormatError):
            install.prune(layout)


def test_the_lower_runtime_is_the_engines_or_the_one_on_the_path(tmp_path: Path) -> None:
    host = Host(root=tmp_path, is_entered=False)
    with pytest.raises(NodeError, match="neither runc nor crun"):
        install.find_lower_runtime(host, configured="", from_engine="")
    (tmp_path / "usr/sbin").mkdir(parents=True)
    (tmp_path / "usr/sbin/runc").touch()
    found = install.find_lower_runtime(host, configured="", from_engine="")
    assert found == Path("/usr/sbin/runc")
    ours = "/opt/architect/current/bin/runc-architect"
    assert install.find_lower_runtime(host, configured="", from_engine=ours) == found
    with pytest.raises(NodeError, match="does not exist"):
        install.find_lower_runtime(host, configured="/nix/runc", from_engine="")


def test_runtime_conf_is_what_the_runtime_reads(layout: Layout) -> None:
    layout.install.mkdir()
    install.write_runtime_conf(layout, Path("/usr/sbin/runc"))
    lines = (layout.install / "runtime.conf").read_text().splitlines()
    assert "runc=/usr/sbin/runc" in lines


def test_a_file_of_the_host_keeps_its_mode_and_its_first_content(tmp_path: Path) -> None:
    host = Host(root=tmp_path, is_entered=False)
    path = tmp_path / "etc/containerd/config.toml"
    path.parent.mkdir(parents=True)
    path.write_text("one")
    path.chmod(0o600)
    name = Path("/etc/containerd/config.toml")
    host.apply(Edit(path=name, text="two"))
    host.apply(Edit(path=name, text="three"))
    assert path.read_text() == "three"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    backup = path.with_name(path.name + BACKUP_SUFFIX)
    assert backup.read_text() == "one"
    host.apply(Edit(path=name, text=None))
    assert list(path.parent.iterdir()) == []


def test_containerds_files_are_read_with_their_imports_in_order(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    host = Host(root=tmp_path, is_entered=False, proc=tmp_path / "proc")
    directory = tmp_path / "lab/containerd"
    (directory / "conf.d").mkdir(parents=True)
    (directory / "config.toml").write_text('version = 3\nimports = ["conf.d/*.toml"]\n')
    (directory / "conf.d/b.toml").write_text("version = 3\n")
    (directory / "conf.d/a.toml").write_text(
        'version = 3\nimports = ["/lab/containerd/config.toml", "/lab/containerd/c.toml"]\n'
    )
    (directory / "c.toml").write_text("version = 3\n")
    settings = DaemonSettings(
        engine=Engine.CONTAINERD, containerd_config=Path("/lab/containerd/config.toml")
    )
    main, imported = engine.read_containerd(settings, host)
    assert main.path == Path("/lab/containerd/config.toml")
    assert [f.path.name for f in imported] == ["a.toml", "b.toml", "c.toml"]


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (("containerd",), None),
        (("/usr/bin/containerd", "--config", "/a/b.toml"), "/a/b.toml"),
        (("containerd", "--log-level=info", "--config=/a/b.toml"), "/a/b.toml"),
        (
            ("containerd", "-c", "/var/lib/rancher/k3s/config.toml"),
            "/var/lib/rancher/k3s/config.toml",
        ),
        (("containerd", "config", "--config", "/a"), None),
        (("containerd", "--config"), None),
    ],
)
def test_the_configuration_that_containerd_runs_with_is_found(
    argv: tuple[str, ...], expected: str | None
) -> None:
    assert engine.config_option(argv) == (Path(expected) if expected else None)


def test_the_certificate_is_made_once_and_renewed_before_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "state/standin.pem"
    now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    assert standin_certificate.ensure(path, now=now)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    first = path.read_bytes()
    assert not standin_certificate.ensure(path, now=now)
    assert standin_certificate.ensure(path, now=now + datetime.timedelta(days=3400))
    assert path.read_bytes() != first
    path.write_bytes(first[: len(first) // 2])
    assert standin_certificate.ensure(path, now=now)
