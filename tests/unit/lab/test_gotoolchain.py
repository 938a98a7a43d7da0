from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from lab import errors, gotoolchain, versions
from lab.cache import Cache

OLD_GO = """\
#!/bin/sh
# An old go that can do the two things that any go can.
if [ "$1" = version ]; then echo "go version go1.19.8 linux/amd64"; exit; fi
[ "$1 $2 $3 $#" = "mod download -json 4" ] || exit 9
root="$GOMODCACHE/golang.org/toolchain@v0"
mkdir -p "$root/bin" "$root/pkg/tool/linux_amd64" "$root/src"
printf '#!/bin/sh\\necho "go version go%s linux/amd64"\\n' VERSION > "$root/bin/go"
echo '#!/bin/sh' > "$root/pkg/tool/linux_amd64/compile"
echo 'module std' > "$root/src/_go.mod"
echo "$4" >> "$LOG"
echo "{\\"Dir\\": \\"$root\\"}"
"""


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("go version go1.26.8 linux/amd64", (1, 26, 8)),
        ("go version go1.19.8 linux/arm64", (1, 19, 8)),
        ("go version go1.27 linux/amd64", (1, 27)),
        ("go version go1.26.1-X:nodwarf5 linux/amd64", (1, 26, 1)),
        ("go version go1.26rc1 linux/amd64", None),
        ("go version devel +abc Mon linux/amd64", None),
    ],
)
def test_versions_are_read_from_what_go_says(said: str, found: tuple[int, ...] | None) -> None:
    assert gotoolchain.parse(said) == found


def program(directory: Path, text: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "go"
    path.write_text(text)
    path.chmod(0o755)
    return path


def test_a_new_enough_go_is_used_as_it_is(tmp_path: Path) -> None:
    program(tmp_path / "bin", f"#!/bin/sh\necho go version go{versions.GO} linux/amd64\n")
    environ = {"PATH": f"{tmp_path / 'bin'}:{os.defpath}"}
    assert gotoolchain.environment(Cache(tmp_path / "cache"), environ) == environ
    assert not (tmp_path / "cache").exists()


def test_an_old_go_fetches_the_one_that_is_needed_once(tmp_path: Path) -> None:
    program(tmp_path / "bin", OLD_GO.replace("VERSION", versions.GO_TOOLCHAIN))
    log = tmp_path / "log"
    environ = {
        "PATH": f"{tmp_path / 'bin'}:{os.defpath}",
        "GOROOT": "/nowhere",
        "LOG": str(log),
    }
    for _ in range(2):
        env = gotoolchain.environment(Cache(tmp_path / "cache"), environ)
        said = subprocess.run(
            ["sh", "-c", "go version"], env=env, capture_output=True, text=True, check=True
        )
        assert versions.GO_TOOLCHAIN in said.stdout
        assert "GOROOT" not in env
    (asked,) = log.read_text().splitlines()
    assert asked.startswith(f"golang.org/toolchain@v0.0.1-go{versions.GO_TOOLCHAIN}.linux-")
    root = Path(env["PATH"].split(":")[0]).parent
    assert os.access(root / "pkg/tool/linux_amd64/compile", os.X_OK)
    assert (root / "src/go.mod").read_text() == "module std\n"


def test_without_any_go_the_error_says_where_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(errors.LabError, match="prerequisites"):
        gotoolchain.environment(Cache(tmp_path / "cache"), {"PATH": str(tmp_path)})
