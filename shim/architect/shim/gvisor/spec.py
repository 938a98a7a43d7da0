"""What is read from and changed in the config.json of a container of gVisor. Pure."""

from __future__ import annotations

from typing import Any, Final

from architect.api import names
from architect.api.policy import Policy, PolicyError
from architect.shim import oci

Spec = dict[str, Any]

_HINT: Final = "dev.gvisor.spec.mount.architect-shm."
_SHM: Final = "/dev/shm"


def sandbox_of(spec: Spec) -> str | None:
    """Return the id of the sandbox that the container joins; None: it is a sandbox's root."""
    annotations = spec.get("annotations") or {}
    if oci.first(annotations, names.CRI_CONTAINER_TYPE) != "container":
        return None
    return oci.first(annotations, names.CRI_SANDBOX_ID)


def policy_of(spec: Spec) -> Policy | None:
    """Return what the pod's owner wants; None: nothing, or what cannot be read.

    The webhook wrote it, for a pod of an engine of Kubernetes.
    """
    annotations = spec.get("annotations") or {}
    text = annotations.get(names.POLICY)
    if text is None or oci.first(annotations, names.CRI_CONTAINER_TYPE) is None:
        return None
    try:
        return Policy.from_json(text)
    except PolicyError:
        return None


def has_terminal(spec: Spec) -> bool:
    """Whether its stdio is a terminal, which goes to the engine by a socket of its own."""
    return bool((spec.get("process") or {}).get("terminal"))


def oom_score(spec: Spec) -> int | None:
    """Return what the container asks for as ``oom_score_adj``."""
    score = (spec.get("process") or {}).get("oomScoreAdj")
    return score if isinstance(score, int) else None


def prepared(spec: Spec) -> Spec:
    """Return *spec* as runsc is to have it.

    ``/dev/shm``: engines bind one directory of the host into all containers of a pod. Inside gVisor
    it must be a tmpfs, or shared memory is none; the root says that it is one for all of them.

    ``oomScoreAdj``: runsc fails where it may not set it, as without CAP_SYS_RESOURCE; it is set by
    us, as far as that goes.
    """
    changed = {**spec, "process": {**(spec.get("process") or {})}}
    changed["process"].pop("oomScoreAdj", None)
    mounts = [dict(mount) for mount in spec.get("mounts") or ()]
    shared = next(
        (m for m in mounts if m.get("destination") == _SHM and m.get("type") == "bind"), None
    )
    if shared is None:
        return changed
    # Some engines mount both; one would hide the other.
    kept = [m for m in mounts if m is shared or m.get("destination") != _SHM]
    source = shared.get("source")
    shared["type"] = "tmpfs"
    shared["options"] = [o for o in shared.get("options") or () if o not in ("bind", "rbind")]
    changed["mounts"] = kept
    if sandbox_of(spec) is None:
        hints = {"source": source, "type": "tmpfs", "share": "pod", "options": "rw"}
        changed["annotations"] = {
            **(spec.get("annotations") or {}),
            **{f"{_HINT}{key}": value for key, value in hints.items()},
        }
    return changed
