from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from architect.api import names
from architect.core.errors import ConfigError
from architect.daemon import containerd
from architect.daemon.containerd import ConfigFile

BINARY = "/opt/architect/current/bin/runc-architect"
MAIN = Path("/etc/containerd/config.toml")

V2_KUBEADM = """\
# written by hand
version = 2
root = "/var/lib/containerd"
disabled_plugins = []

[plugins]
  [plugins."io.containerd.grpc.v1.cri"]
    sandbox_image = "registry.k8s.io/pause:3.9" # keep
    [plugins."io.containerd.grpc.v1.cri".containerd]
      default_runtime_name = "runc"
      snapshotter = "overlayfs"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes]
        [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
          runtime_type = "io.containerd.runc.v2"
          privileged_without_host_devices = true
          [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
            BinaryName = "/usr/bin/runc"
            SystemdCgroup = true
"""

V3_DEBIAN = """\
version = 3
imports = ["/etc/containerd/conf.d/*.toml"]

[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
  [plugins.'io.containerd.cri.v1.runtime'.containerd]
    default_runtime_name = 'runc'
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
      runtime_type = 'io.containerd.runc.v2'
      [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
        SystemdCgroup = true
"""

V3_PLAIN = V3_DEBIAN.replace('imports = ["/etc/containerd/conf.d/*.toml"]\n', "")

NVIDIA = """\
version = 2
[plugins."io.containerd.grpc.v1.cri".containerd]
  default_runtime_name = "nvidia"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.nvidia]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.nvidia.options]
      BinaryName = "/usr/bin/nvidia-container-runtime"
      SystemdCgroup = true
"""


def handlers(text: str) -> dict[str, Any]:
    plugins = tomllib.loads(text)["plugins"]
    section = plugins.get("io.containerd.cri.v1.runtime") or plugins["io.containerd.grpc.v1.cri"]
    found: dict[str, Any] = section["containerd"]["runtimes"]
    return found


def file_of(edit: containerd.Edit) -> ConfigFile:
    return ConfigFile(path=edit.path, text=edit.text or "")


def only_edit(main: str, *imported: ConfigFile) -> containerd.Edit:
    installed = containerd.install(ConfigFile(path=MAIN, text=main), imported)
    (edit,) = installed.edits
    return edit


def test_version_2_gets_a_block_that_is_like_its_default_handler() -> None:
    edit = only_edit(V2_KUBEADM)
    assert edit.path == MAIN
    assert edit.text is not None
    assert edit.text.startswith(V2_KUBEADM)
    assert handlers(edit.text)["runc-architect"] == {
        "runtime_type": "io.containerd.runc.v2",
        "privileged_without_host_devices": True,
        "pod_annotations": ["architect.dev/*"],
        "options": {"BinaryName": BINARY, "SystemdCgroup": True},
    }
    installed = containerd.install(ConfigFile(path=MAIN, text=V2_KUBEADM))
    assert installed.lower_runtime == "/usr/bin/runc"


def test_version_3_gets_a_drop_in_where_the_main_file_imports_a_directory() -> None:
    edit = only_edit(V3_DEBIAN)
    assert edit.path == Path("/etc/containerd/conf.d/90-architect.toml")
    assert edit.text is not None
    assert tomllib.loads(edit.text)["version"] == 3
    assert handlers(edit.text)["runc-architect"]["options"]["SystemdCgroup"] is True


def test_version_3_without_imports_gets_a_block() -> None:
    edit = only_edit(V3_PLAIN)
    assert edit.path == MAIN
    assert edit.text is not None
    assert set(handlers(edit.text)) == {"runc", "runc-architect"}


def test_version_2_never_gets_a_drop_in_which_would_hide_the_main_files_section() -> None:
    with_imports = V2_KUBEADM.replace(
        "version = 2\n", 'version = 2\nimports = ["/etc/containerd/conf.d/*.toml"]\n'
    )
    assert only_edit(with_imports).path == MAIN


def test_version_2_follows_the_file_that_has_the_last_word() -> None:
    drop_in = ConfigFile(path=Path("/etc/containerd/conf.d/99-nvidia.toml"), text=NVIDIA)
    other = ConfigFile(path=Path("/etc/containerd/conf.d/zz.toml"), text="[debug]\nlevel='info'\n")
    edit = only_edit(V2_KUBEADM, drop_in, other)
    assert edit.path == drop_in.path
    assert edit.text is not None
    found = handlers(edit.text)
    assert found["runc-architect"]["options"] == {"BinaryName": BINARY, "SystemdCgroup": True}


@pytest.mark.parametrize("text", ["", "\n# nothing here\n"])
def test_an_empty_file_becomes_one_that_also_keeps_runc(text: str) -> None:
    edit = only_edit(text)
    assert edit.text is not None
    assert tomllib.loads(edit.text)["version"] == 2
    assert set(handlers(edit.text)) == {"runc", "runc-architect"}
    removed = containerd.remove([ConfigFile(path=MAIN, text=edit.text)])
    assert removed[0].text in (None, text)


def test_a_file_that_says_nothing_of_plugins_gets_its_version_on_top() -> None:
    edit = only_edit("[grpc]\n  address = '/run/containerd/containerd.sock'\n")
    assert edit.text is not None
    content = tomllib.loads(edit.text)
    assert content["version"] == 2
    assert content["grpc"] == {"address": "/run/containerd/containerd.sock"}
    (back,) = containerd.remove([ConfigFile(path=MAIN, text=edit.text)])
    assert back.text == "[grpc]\n  address = '/run/containerd/containerd.sock'\n"


@pytest.mark.parametrize("main", [V2_KUBEADM, V3_PLAIN, V2_KUBEADM.rstrip("\n"), NVIDIA])
def test_installing_twice_changes_nothing_and_removal_restores_the_text(main: str) -> None:
    edit = only_edit(main)
    assert edit.text is not None
    after = ConfigFile(path=MAIN, text=edit.text)
    assert containerd.install(after).edits == ()
    (back,) = containerd.remove([after])
    assert back.text is not None
    assert back.text.rstrip("\n") == main.rstrip("\n")


def test_the_drop_in_is_idempotent_and_removed_as_a_whole() -> None:
    edit = only_edit(V3_DEBIAN)
    assert edit.text is not None
    drop_in = ConfigFile(path=edit.path, text=edit.text)
    assert containerd.install(ConfigFile(path=MAIN, text=V3_DEBIAN), [drop_in]).edits == ()
    (removed,) = containerd.remove([ConfigFile(path=MAIN, text=V3_DEBIAN), drop_in])
    assert removed == containerd.Edit(path=edit.path, text=None)


def test_a_changed_default_handler_is_followed() -> None:
    edit = only_edit(V2_KUBEADM)
    assert edit.text is not None
    changed = edit.text.replace("SystemdCgroup = true\n", "SystemdCgroup = false\n", 1)
    again = only_edit(changed)
    assert again.text is not None
    assert handlers(again.text)["runc-architect"]["options"]["SystemdCgroup"] is False
    assert again.text.count(containerd.BEGIN) == 1


def test_a_block_that_moved_elsewhere_is_taken_out_of_its_old_place() -> None:
    edit = only_edit(V3_PLAIN)
    assert edit.text is not None
    now_importing = edit.text.replace(
        "version = 3\n", 'version = 3\nimports = ["/etc/containerd/conf.d/*.toml"]\n'
    )
    installed = containerd.install(ConfigFile(path=MAIN, text=now_importing))
    by_path = {e.path: e.text for e in installed.edits}
    assert containerd.BEGIN not in (by_path[MAIN] or "")
    assert containerd.BEGIN in (by_path[Path("/etc/containerd/conf.d/90-architect.toml")] or "")


@pytest.mark.parametrize(
    ("main", "said"),
    [
        ("version = 2\n[plugins\n", "is not TOML"),
        ('[plugins.cri]\nsandbox_image = "x"\n', "version 1"),
        ('disabled_plugins = ["cri"]\n', "version 1"),
        ('version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n', "disables"),
        ('version = "3"\n', "version '3'"),
        ("version = 2\nimports = 3\n", "imports"),
        (
            'version = 2\n[plugins]\n"io.containerd.grpc.v1.cri" = {containerd = {}}\n',
            "cannot be added to",
        ),
        (f"version = 3\n{containerd.BEGIN}\n", "no end"),
        (
            "version = 3\n[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes."
            "runc-architect]\nruntime_type = 'io.containerd.runc.v2'\n",
            "otherwise",
        ),
    ],
)
def test_what_cannot_be_edited_is_refused_with_its_reason(main: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        file = ConfigFile(path=MAIN, text=main)
        containerd.import_patterns(file)
        containerd.install(file)


def test_a_handler_that_a_node_image_brought_is_left_alone() -> None:
    prepared = V3_PLAIN + (
        "[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc-architect]\n"
        "runtime_type = 'io.containerd.runc.v2'\npod_annotations = ['architect.dev/*']\n"
        "[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc-architect.options]\n"
        f"BinaryName = '{BINARY}'\n"
    )
    assert containerd.install(ConfigFile(path=MAIN, text=prepared)).edits == ()


def test_a_dump_is_compared_without_our_handler() -> None:
    edit = only_edit(V3_PLAIN)
    assert edit.text is not None
    assert containerd.handlers_of(edit.text) == {names.RUNTIME_CLASS}
    assert containerd.handlers_of(V3_PLAIN) == frozenset()
    assert containerd.without_handlers(edit.text) == containerd.without_handlers(V3_PLAIN)


@pytest.mark.parametrize("main", [V2_KUBEADM, V3_PLAIN, V3_DEBIAN, NVIDIA, ""])
def test_the_handler_of_gvisor_comes_and_goes_beside_the_other(main: str) -> None:
    (both,) = containerd.install(ConfigFile(path=MAIN, text=main), wanted=containerd.OURS).edits
    assert both.text is not None
    assert containerd.handlers_of(both.text) == set(containerd.OURS)
    found = handlers(both.text)
    for name in containerd.OURS:
        assert found[name]["options"].pop("BinaryName") == f"/opt/architect/current/bin/{name}"
    assert found[names.RUNTIME_CLASS] == found[names.RUNTIME_CLASS_GVISOR]
    before = [] if both.path == MAIN else [ConfigFile(path=MAIN, text=main)]
    now = [*before, file_of(both)]
    assert containerd.install(now[0], now[1:], wanted=containerd.OURS).edits == ()
    (one,) = containerd.install(now[0], now[1:]).edits
    assert one.text is not None
    assert containerd.handlers_of(one.text) == {names.RUNTIME_CLASS}
    assert one == only_edit(main)
    (none,) = containerd.remove(now)
    assert (none.text or "").rstrip("\n") == (main.rstrip("\n") if both.path == MAIN else "")


def test_a_handler_of_gvisor_that_somebody_configured_is_not_touched() -> None:
    theirs = V3_PLAIN + (
        "[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runsc-architect]\n"
        "runtime_type = 'io.containerd.runsc.v1'\n"
    )
    main = ConfigFile(path=MAIN, text=theirs)
    with pytest.raises(ConfigError, match="configures runsc-architect otherwise"):
        containerd.install(main, wanted=containerd.OURS)
    assert len(containerd.install(main).edits) == 1
