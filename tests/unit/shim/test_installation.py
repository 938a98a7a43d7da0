"""What is known of the lower runtime by its name."""

from __future__ import annotations

from pathlib import Path

import pytest

from architect.core.errors import NodeError
from architect.shim import installation


@pytest.mark.parametrize(
    ("name", "directory", "expected"),
    [
        ("runc", None, "/run/runc"),
        ("runc", "/run/user/0", "/run/runc"),
        ("crun", None, "/run/crun"),
        ("crun", "", "/run/crun"),
        ("crun-1.23", "/run/user/0", "/run/user/0/crun"),
    ],
)
def test_without_root_its_state_is_where_it_puts_it(
    monkeypatch: pytest.MonkeyPatch, name: str, directory: str | None, expected: str
) -> None:
    monkeypatch.setattr(installation, "lower_runtime", lambda: Path("/usr/bin", name))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    if directory is not None:
        monkeypatch.setenv("XDG_RUNTIME_DIR", directory)
    assert installation.default_root() == expected


def executable(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o755)
    return path


def test_runc_is_preferred_and_crun_will_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first, second = tmp_path / "sbin", tmp_path / "bin"
    monkeypatch.setattr(installation, "SEARCH", (first, second))
    monkeypatch.setattr(installation, "version_directory", lambda: tmp_path / "architect/1")
    configuration = tmp_path / "architect/runtime.conf"
    with pytest.raises(NodeError, match="no runc or crun found") as caught:
        installation.lower_runtime()
    assert f"{configuration}: runc=/path" in str(caught.value)
    crun = executable(first / "crun")
    assert installation.lower_runtime() == crun
    runc = executable(second / "runc")
    assert installation.lower_runtime() == runc
    configuration.parent.mkdir()
    configuration.write_text(f"# a comment\nrunc={crun}\n")
    assert installation.lower_runtime() == crun


def test_without_any_runtime_the_call_is_still_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> Path:
        raise NodeError("no runc found", reason="NoRuntime")

    monkeypatch.setattr(installation, "lower_runtime", none)
    assert installation.default_root() == "/run/runc"
