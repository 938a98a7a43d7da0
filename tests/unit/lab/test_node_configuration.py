from __future__ import annotations

import json
import tomllib
from pathlib import Path

from cryptography import x509

from lab import addresses, control_plane, node, sysctls
from lab.pki import Authority
from lab.settings import Settings


def test_containerd_lowers_oom_scores_only_where_it_may() -> None:
    for restricted in (True, False):
        config = tomllib.loads(node.containerd_config(restrict_oom_score=restricted))
        runtime = config["plugins"]["io.containerd.cri.v1.runtime"]
        assert runtime["restrict_oom_score_adj"] is restricted
        assert config["imports"] == ["/etc/containerd/conf.d/*.toml"]
        assert list(runtime["containerd"]["runtimes"]) == ["runc"]


def test_another_containerd_lies_over_the_nodes_own(tmp_path: Path) -> None:
    for name in ("ctr", "containerd"):
        (tmp_path / name).touch()
    binds = node.containerd_binds(tmp_path)
    assert [(b.source, b.target) for b in binds] == [
        (tmp_path / "containerd", "/usr/bin/containerd"),
        (tmp_path / "ctr", "/usr/bin/ctr"),
    ]
    assert node.containerd_binds(None) == ()
    assert Settings.from_environment({}).containerd == ""
    assert Settings.from_environment({"ARCHITECT_LAB_CONTAINERD": "2.4"}).containerd == "2.4"


def test_a_capability_is_read_from_the_bounding_set() -> None:
    assert node.has_capability(24, "Name:\tx\nCapBnd:\t0000000001000000\n")
    assert not node.has_capability(24, "Name:\tx\nCapBnd:\t0000000000800000\n")


def test_pods_get_an_address_of_each_family_from_their_nodes_ranges() -> None:
    where = addresses.of_node(2)
    bridge = json.loads(node.cni_config(where))["plugins"][0]
    assert bridge["ipam"]["ranges"] == [[{"subnet": where.pods_v4}], [{"subnet": where.pods_v6}]]


def test_certificates_satisfy_strict_verification(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "pki")
    pair = authority.issue("a", subject="s", groups=["g"], hosts=["host", "10.0.0.1", "fd00::1"])
    ca = x509.load_pem_x509_certificate(authority.pair.certificate.read_bytes())
    leaf = x509.load_pem_x509_certificate(pair.certificate.read_bytes())
    leaf.verify_directly_issued_by(ca)
    theirs = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    named = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert named.key_identifier == theirs.digest
    assert ca.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    assert pair.key.stat().st_mode & 0o777 == 0o600
    assert authority.issue("a", subject="s") == pair


def test_the_hosts_settings_are_put_back(tmp_path: Path) -> None:
    proc = tmp_path / "proc"
    for name, value in {
        "vm/overcommit_memory": "0",
        "fs/inotify/max_user_instances": "128",
    }.items():
        (proc / name).parent.mkdir(parents=True, exist_ok=True)
        (proc / name).write_text(f"{value}\n")
    record = tmp_path / "record"
    sysctls.prepare(record, proc=proc)
    (proc / "vm/overcommit_memory").write_text("1\n")
    assert (proc / "fs/inotify/max_user_instances").read_text() == "1024"
    sysctls.prepare(record, proc=proc)
    sysctls.restore(record, proc=proc)
    assert (proc / "vm/overcommit_memory").read_text() == "0"
    assert (proc / "fs/inotify/max_user_instances").read_text() == "128"
    assert not record.exists()


def test_a_machine_that_knows_no_patience_has_kubernetes_own_deadlines() -> None:
    assert Settings.from_environment({}).patience == 1
    assert Settings.from_environment({"ARCHITECT_PATIENCE": "2.5"}).patience == 2.5
    assert json.loads(node.kubelet_config())["nodeLeaseDurationSeconds"] == 40
    manager = control_plane.controllers()["kube-controller-manager"]
    assert "--node-monitor-grace-period=50s" in manager


def test_the_api_server_writes_down_who_asks_only_where_that_is_wanted() -> None:
    assert not Settings.from_environment({}).has_audit
    assert Settings.from_environment({"ARCHITECT_LAB_AUDIT": "1"}).has_audit
    plain = control_plane.api_services()["kube-apiserver"]
    audited = control_plane.api_services(has_audit=True)["kube-apiserver"]
    flags = [flag for flag in audited if flag not in plain]
    assert [flag.partition("=")[0] for flag in flags] == ["--audit-policy-file", "--audit-log-path"]
