"""Programs built from Go modules: Kubernetes, helm, CoreDNS, gVisor, and what tests run beside."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lab import commands, errors, gotoolchain, versions
from lab.cache import Cache

BUILD_TIMEOUT_SECONDS = 3600.0
"""Kubernetes takes 9 minutes on two cores."""

KUBERNETES_COMMANDS = (
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kube-proxy",
    "kubelet",
    "kubectl",
)


@dataclass(frozen=True, kw_only=True)
class Tool:
    """A program that builds from one module without replacements, and what is built with it."""

    name: str
    module: str
    package: str
    version: str
    version_variable: str = ""
    """Go variable that the linker sets to the version."""
    also: tuple[str, ...] = ()
    """Packages of further programs of the module, which lie beside it."""
    tags: tuple[str, ...] = ()
    """Go's build tags."""

    @property
    def flags(self) -> str:
        text = "-s -w"
        if self.version_variable:
            text += f" -X {self.version_variable}={self.version}"
        return text

    @property
    def tag_options(self) -> list[str]:
        return ["-tags", ",".join(self.tags)] if self.tags else []


HELM = Tool(
    name="helm",
    module="helm.sh/helm/v4",
    package="helm.sh/helm/v4/cmd/helm",
    version=versions.HELM,
    version_variable="helm.sh/helm/v4/internal/version.version",
)
COREDNS = Tool(
    name="coredns",
    module="github.com/coredns/coredns",
    package="github.com/coredns/coredns",
    version=versions.COREDNS,
)
VERSITYGW = Tool(
    name="versitygw",
    module="github.com/versity/versitygw",
    package="github.com/versity/versitygw/cmd/versitygw",
    version=versions.VERSITYGW,
    version_variable="main.Version",
)
LOCAL_KMS = Tool(
    name="local-kms",
    module="github.com/nsmithuk/local-kms",
    package="github.com/nsmithuk/local-kms",
    version=versions.LOCAL_KMS,
    version_variable="main.Version",
)
RUNSC = Tool(
    name="runsc",
    module="gvisor.dev/gvisor",
    package="gvisor.dev/gvisor/runsc",
    version=versions.GVISOR,
    # It restores what the same version has saved, and no other: so it must know its own.
    version_variable="gvisor.dev/gvisor/runsc/version.version",
)
CRICTL = Tool(
    name="crictl",
    module="sigs.k8s.io/cri-tools",
    package="sigs.k8s.io/cri-tools/cmd/crictl",
    version=versions.CRICTL,
    version_variable="sigs.k8s.io/cri-tools/pkg/version.Version",
)
CONTAINERD = Tool(
    name="containerd",
    module="github.com/containerd/containerd/v2",
    package="github.com/containerd/containerd/v2/cmd/containerd",
    version=versions.CONTAINERD,
    version_variable="github.com/containerd/containerd/v2/version.Version",
    also=(
        "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
        "github.com/containerd/containerd/v2/cmd/ctr",
    ),
    # It would need a C library's headers.
    tags=("no_btrfs",),
)
CSI_ATTACHER = Tool(
    name="csi-attacher",
    module="github.com/kubernetes-csi/external-attacher/v4",
    package="github.com/kubernetes-csi/external-attacher/v4/cmd/csi-attacher",
    version=versions.CSI_ATTACHER,
    version_variable="main.version",
)
METRICS_SERVER = Tool(
    name="metrics-server",
    module="sigs.k8s.io/metrics-server",
    package="sigs.k8s.io/metrics-server/cmd/metrics-server",
    version=versions.METRICS_SERVER,
    version_variable="k8s.io/client-go/pkg/version.gitVersion",
)
TOOLS = (
    *(HELM, COREDNS, VERSITYGW, LOCAL_KMS, RUNSC, CRICTL, CONTAINERD, CSI_ATTACHER),
    METRICS_SERVER,
)
CSI_DRIVER = Path(__file__).parent / "csidriver"
"""A module of our own."""


def kubernetes(cache: Cache) -> Path:
    """Return the directory with the commands of Kubernetes."""
    flags = kubernetes_flags(versions.KUBERNETES)

    def build(directory: Path) -> None:
        work = directory / "module"
        work.mkdir()
        packages = [f"k8s.io/kubernetes/cmd/{name}" for name in KUBERNETES_COMMANDS]
        module = f"k8s.io/kubernetes@{versions.KUBERNETES}"
        found = json.loads(_go(cache, "mod", "download", "-json", module, cwd=work))
        text = Path(found["GoMod"]).read_text()
        (work / "go.mod").write_text(kubernetes_go_mod(text, versions.KUBERNETES))
        _go(cache, "mod", "tidy", cwd=work)
        arguments = ["-trimpath", "-ldflags", flags, "-o", f"{directory / 'bin'}/", *packages]
        _go(cache, "build", *arguments, cwd=work)
        shutil.rmtree(work)

    artefact = cache.artefact(
        "kubernetes",
        version=versions.KUBERNETES,
        recipe=[KUBERNETES_COMMANDS, flags],
        build=build,
        takes="about 10 min on two cores, once",
    )
    return artefact / "bin"


def tool(cache: Cache, wanted: Tool) -> Path:
    """Return the path of a built program."""

    def build(directory: Path) -> None:
        work = directory / "module"
        work.mkdir()
        (work / "go.mod").write_text(f"module {wanted.name}-build\n\ngo {versions.GO}\n")
        packages = (wanted.package, *wanted.also)
        _go(cache, "get", "-tool", *(f"{p}@{wanted.version}" for p in packages), cwd=work)
        options = ["-trimpath", "-ldflags", wanted.flags, *wanted.tag_options]
        _go(cache, "build", *options, "-o", f"{directory / 'bin'}/", *packages, cwd=work)
        shutil.rmtree(work)

    artefact = cache.artefact(
        wanted.name,
        version=wanted.version,
        recipe=[wanted.package, wanted.flags, *wanted.also, *wanted.tags],
        build=build,
        takes="about 3 min on two cores, once",
    )
    return artefact / "bin" / wanted.name


def own(cache: Cache, source: Path) -> Path:
    """Return the path of a program whose module is in this checkout, with its own go.sum."""
    name = source.name

    def build(directory: Path) -> None:
        target = directory / "bin" / name
        _go(
            cache, "build", "-mod=readonly", "-trimpath", "-ldflags=-s -w", "-o", target, cwd=source
        )

    content = {path.name: path.read_text() for path in sorted(source.iterdir())}
    artefact = cache.artefact(name, version=f"go{versions.GO}", recipe=content, build=build)
    return artefact / "bin" / name


def kubernetes_flags(version: str) -> str:
    """Return the linker flags that make the programs report *version*."""
    package = "k8s.io/component-base/version"
    minor = version.split(".")[1]
    return (
        f"-s -w -X {package}.gitVersion={version} -X {package}.gitMajor=1"
        f" -X {package}.gitMinor={minor} -X k8s.io/client-go/pkg/version.gitVersion={version}"
    )


def kubernetes_go_mod(published: str, version: str) -> str:
    """Return a go.mod that builds the commands, from the one published with *version*.

    Inside the Kubernetes source tree the ``k8s.io`` libraries are directories; from outside, each
    needs a replacement by the module of the matching version.
    """
    go = re.search(r"(?m)^go (\S+)", published)
    if go is None:
        raise errors.LabError(f"k8s.io/kubernetes {version}: go.mod has no go line")
    library = "v0." + version.removeprefix("v1.")
    staging = re.findall(r"(k8s\.io/[\w./-]+) => \./staging", published)
    lines = ["module tools", "", f"go {go[1]}", "", f"require k8s.io/kubernetes {version}", ""]
    lines += ["replace (", *(f"\t{name} => {name} {library}" for name in staging), ")", ""]
    lines += ["tool (", *(f"\tk8s.io/kubernetes/cmd/{c}" for c in KUBERNETES_COMMANDS), ")", ""]
    return "\n".join(lines)


def go_environment(environ: Mapping[str, str], cache_root: Path) -> dict[str, str]:
    """Return the environment of the go command.

    Static programs; a go.mod that is completed as needed; no stamps of a version control system
    that is not there. The caches of Go stay where the user has them, or in ours if the user has
    no home. ``GOTOOLCHAIN=auto``: a module may ask for a newer go than ours.
    """
    env = {**environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=mod -buildvcs=false"}
    env.setdefault("GOTOOLCHAIN", "auto")
    env.setdefault("HOME", str(cache_root / "go-home"))
    return env


def _go(cache: Cache, *arguments: str | Path, cwd: Path) -> str:
    env = gotoolchain.environment(cache, go_environment(os.environ, cache.root))
    # Long builds leave the machine usable.
    return commands.run(
        ["nice", "go", *arguments], cwd=cwd, env=env, timeout_seconds=BUILD_TIMEOUT_SECONDS
    )
