"""Checkpoints as offers to a new pod: whose memory it is, where it stands, and what does not fit.

Pure: Checkpoints are plain JSON as the API server sends them.

What a node must have is compared as follows. The *architecture* is equal. The *CPU features* that
the checkpoint names are all there: a program that found AVX-512 at its start goes on using it. The
*CRIU* that restores has the major and minor version of the one that dumped, since its images have
no version of their own that tells more. The *format* of the image is one that this version knows.
A *sandbox of gVisor* needs no CRIU, but the very version of runsc that saved it, on its platform.
The *kernel* is recorded and not compared: images hold what any kernel can be asked to do again,
CRIU itself refuses what this one cannot, by name and with the image kept, and nodes are drained
first of all to get a new kernel. What is not recorded is not guessed: such a checkpoint does not
fit.

The *images* of the containers are those that the names in the template stand for at the moment: a
tag may have moved. They are compared by digest, where the engines of both nodes tell it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from architect.core import identity, podspec, releases
from architect.core.errors import FormatError
from architect.core.podspec import Object
from architect.daemon import owners
from architect.kube import checkpoints
from architect.kube.checkpoints import Gvisor, Trigger

MIGRATIONS: Final = frozenset(
    {
        Trigger.EVICTION.value,
        Trigger.DELETION.value,
        Trigger.NODE_SHUTDOWN.value,
        Trigger.SPOT_INTERRUPTION.value,
    }
)
"""Triggers of checkpoints that are for a successor. A sleeping pod's belongs to the pod itself, and
the pod of one that was requested goes on: memory restored from either would be older than what its
pod has done since."""

TEMPLATE_PARTS: Final = "templateParts"
"""Field of the spec that holds :func:`identity.parts`, if the kind has it: for the explanation."""

MISFITS: Final = frozenset(
    {
        "Architecture",
        "CpuFeatures",
        "CriuVersion",
        "FormatVersion",
        "GvisorPlatform",
        "GvisorVersion",
        "ImageDiffers",
        "NoGvisor",
        "RequirementsUnknown",
    }
)
"""Reasons by which a checkpoint that is there does not fit, and might on another node or day. A
template that differs is a wish of the user's."""

MAX_NAMES: Final = 8
"""How many differences a message names."""


class Misfit(NamedTuple):
    """Why a checkpoint is not for a pod or node."""

    reason: str
    """A stable CamelCase word for events, conditions and metrics."""
    message: str


@dataclass(frozen=True, kw_only=True)
class Node:
    """What this node can restore."""

    architecture: str
    """As in the node label ``kubernetes.io/arch``."""
    cpu_features: frozenset[str]
    criu: str
    """Version, such as ``4.2.1``."""
    gvisor: Gvisor | None = None
    """None: pods of gVisor do not run here."""
    format_versions: frozenset[int] = frozenset({checkpoints.FORMAT_VERSION})


@dataclass(frozen=True, kw_only=True)
class Offer:
    """A checkpoint that was taken for a successor."""

    name: str
    uid: str
    resource_version: str
    namespace: str
    pod_uid: str
    pod_name: str
    owner_uid: str
    ordinal: int | None
    template_hash: str
    parts: Mapping[str, str]
    containers: frozenset[str]
    created: int
    """Unix seconds, as is the next."""
    captured: float
    """Infinite while the capture is not finished."""
    claimed_by: str
    """Uid of the pod that has it; empty if none."""
    claimed_by_name: str
    format_version: int | None
    requirements: Object
    conditions: Mapping[str, Object]

    @property
    def age(self) -> tuple[int, float, str, str]:
        """Sorts offers from the one whose pod left first, whatever order they came in."""
        return (self.created, self.captured, self.name, self.uid)

    @property
    def is_available(self) -> bool:
        """Whether it can be restored now."""
        return self._is(checkpoints.AVAILABLE, "True")

    @property
    def is_over(self) -> bool:
        """Whether it was captured and can no longer be restored."""
        return self._is(checkpoints.AVAILABLE, "False") and self._is(checkpoints.CAPTURED, "True")

    @property
    def is_restored(self) -> bool:
        """Whether a pod went on from it."""
        return self._is(checkpoints.RESTORED, "True")

    @property
    def is_failed(self) -> bool:
        """Whether capture or restore failed for good."""
        return self._is(checkpoints.FAILED, "True")

    def told(self, kind: str) -> str:
        """Return reason and message of a condition, for people."""
        condition = self.conditions.get(kind, {})
        said = [str(v) for k in ("reason", "message") if (v := condition.get(k))]
        return ": ".join(said) or kind

    def _is(self, kind: str, status: str) -> bool:
        return self.conditions.get(kind, {}).get("status") == status


def read(value: Object) -> Offer | None:
    """Return a Checkpoint as an offer; None if it is not for a successor, or is being deleted.

    Raises FormatError if it is not a Checkpoint.
    """
    metadata = podspec.fields(value.get("metadata"), "metadata")
    spec = podspec.fields(value.get("spec"), "spec")
    owner = podspec.fields(spec.get("owner"), "spec.owner")
    trigger = podspec.text(spec.get("trigger"), "spec.trigger")
    if trigger not in MIGRATIONS or metadata.get("deletionTimestamp") or not owner:
        return None
    status = podspec.fields(value.get("status"), "status")
    captured = owners.unix_seconds(status.get("capturedAt"))
    pod = podspec.fields(spec.get("podRef"), "spec.podRef")
    claim = podspec.fields(status.get("claimedBy"), "status.claimedBy")
    conditions = podspec.items(status.get("conditions"), "status.conditions")
    return Offer(
        name=_text(metadata, "name"),
        uid=_text(metadata, "uid"),
        resource_version=_text(metadata, "resourceVersion"),
        namespace=_text(metadata, "namespace"),
        pod_uid=_text(pod, "uid"),
        pod_name=_text(pod, "name"),
        owner_uid=_text(owner, "uid"),
        ordinal=_number(owner, "ordinal"),
        template_hash=podspec.text(spec.get("templateHash"), "spec.templateHash") or "",
        parts=podspec.texts(spec.get(TEMPLATE_PARTS), f"spec.{TEMPLATE_PARTS}"),
        containers=frozenset(_names(spec, "containers")),
        created=owners.unix_seconds(metadata.get("creationTimestamp")) or 0,
        captured=math.inf if captured is None else captured,
        claimed_by=_text(claim, "uid") if claim else "",
        claimed_by_name=_text(claim, "name") if claim else "",
        format_version=_number(status, "formatVersion"),
        requirements=podspec.fields(status.get("requirements"), "status.requirements"),
        conditions={str(c.get("type")): c for c in conditions},
    )


def of_persistent(value: Object) -> Offer:
    """Return a captured PersistentCheckpoint as an offer, which nobody has to claim first.

    Raises FormatError if it is none.
    """
    metadata = podspec.fields(value.get("metadata"), "metadata")
    status = podspec.fields(value.get("status"), "status")
    pod = podspec.fields(status.get("podRef"), "status.podRef")
    captured = owners.unix_seconds(status.get("capturedAt"))
    conditions = podspec.items(status.get("conditions"), "status.conditions")
    return Offer(
        name=_text(metadata, "name"),
        uid=_text(metadata, "uid"),
        resource_version=_text(metadata, "resourceVersion"),
        namespace=_text(metadata, "namespace"),
        pod_uid=_text(pod, "uid"),
        pod_name=_text(pod, "name"),
        owner_uid="",
        ordinal=None,
        template_hash=podspec.text(status.get("templateHash"), "status.templateHash") or "",
        parts=podspec.texts(status.get(TEMPLATE_PARTS), f"status.{TEMPLATE_PARTS}"),
        containers=frozenset(_names(status, "containers")),
        created=owners.unix_seconds(metadata.get("creationTimestamp")) or 0,
        captured=math.inf if captured is None else captured,
        claimed_by="",
        claimed_by_name="",
        format_version=_number(status, "formatVersion"),
        requirements=podspec.fields(status.get("requirements"), "status.requirements"),
        conditions={str(c.get("type")): c for c in conditions},
    )


def template_misfit(
    offer: Offer,
    *,
    template_hash: str,
    parts: Mapping[str, str],
    containers: frozenset[str],
    images: Mapping[str, frozenset[str]],
) -> Misfit | None:
    """Return how the pod's template differs from that of the pod that was saved; None if not.

    Images are compared where both are known.
    """
    theirs, ours = offer.template_hash, template_hash
    if theirs != ours:
        versions = [identity.hash_version(text) for text in (theirs, ours)]
        if versions[0] != versions[1]:
            return Misfit(
                "TemplateHashVersion",
                f"its template hash is of version {versions[0] or 'none'}, here it is "
                f"{versions[1]}: another version of Architect took it",
            )
        named = identity.differences(offer.parts, parts) if offer.parts else ()
        what = _listed(named) or f"hash {theirs:.15} instead of {ours:.15}"
        return Misfit("TemplateDiffers", f"the pod's template differs: {what}")
    if offer.containers != containers:
        what = _listed(sorted(offer.containers ^ containers))
        return Misfit("ContainersDiffer", f"other containers are managed: {what}")
    ran = podspec.texts(offer.requirements.get("images"), "requirements.images")
    found = (image_misfit(name, ran=ran[name], here=images.get(name)) for name in sorted(ran))
    return next((misfit for misfit in found if misfit is not None), None)


def image_misfit(name: str, *, ran: str, here: frozenset[str] | None) -> Misfit | None:
    """Return how the image that a container *ran* differs from what its name is here; None if not.

    None, or what the engine does not tell (*here* is None, *ran* is empty), is not compared.
    """
    if not ran or here is None or ran in here:
        return None
    return Misfit(
        "ImageDiffers",
        f"container {name} ran image {ran:.71}, and here its name is that of "
        f"{_listed(sorted(here))}",
    )


def node_misfit(offer: Offer, node: Node) -> Misfit | None:
    """Return what this node lacks to restore the offer; None if it can.

    While the capture is in progress only what is known is compared.
    """
    needs, is_final = offer.requirements, offer.is_available
    version = offer.format_version
    if version is None:
        if is_final:
            return _unknown("the version of its format")
    elif version not in node.format_versions:
        known = _listed([str(v) for v in sorted(node.format_versions)])
        return Misfit("FormatVersion", f"its format is version {version}, this node knows {known}")
    architecture = podspec.text(needs.get("architecture"), "requirements.architecture")
    if architecture is None:
        if is_final:
            return _unknown("its architecture")
    elif architecture != node.architecture:
        return Misfit("Architecture", f"it is of {architecture}, this node is {node.architecture}")
    features = frozenset(_names(needs, "cpuFeatures"))
    if not features:
        if is_final:
            return _unknown("the CPU features it needs")
    elif lacking := sorted(features - node.cpu_features):
        return Misfit("CpuFeatures", f"this node's CPU lacks {_listed(lacking)}")
    if gvisor := podspec.fields(needs.get("gvisor"), "requirements.gvisor"):
        return _gvisor_misfit(_text(gvisor, "version"), _text(gvisor, "platform"), node.gvisor)
    criu = podspec.text(needs.get("criu"), "requirements.criu")
    if criu is None:
        if is_final:
            return _unknown("the CRIU that took it")
    elif not releases.are_equal(criu, node.criu):
        return Misfit(
            "CriuVersion",
            f"CRIU {criu:.40} took it, this node has {node.criu:.40}: the major and minor version "
            "must be equal",
        )
    return None


def _gvisor_misfit(version: str, platform: str, here: Gvisor | None) -> Misfit | None:
    if here is None:
        return Misfit("NoGvisor", "gVisor took it, which does not run on this node")
    if version != here.version:
        return Misfit(
            "GvisorVersion",
            f"runsc {version:.80} took it, this node has {here.version:.80}: both must be equal",
        )
    if platform != here.platform:
        return Misfit(
            "GvisorPlatform",
            f"it is of gVisor's platform {platform:.32}, this node's is {here.platform:.32}",
        )
    return None


def _unknown(what: str) -> Misfit:
    return Misfit("RequirementsUnknown", f"{what} is not recorded")


def _listed(found: Iterable[str]) -> str:
    """Return names for people, the first few of them."""
    names = [name[:100] for name in found]
    more = len(names) - MAX_NAMES
    return ", ".join(names[:MAX_NAMES]) + (f" and {more} more" if more > 0 else "")


def _text(value: Object, key: str) -> str:
    text = podspec.text(value.get(key), key)
    if text is None:
        raise FormatError(f"{key} is empty")
    return text


def _number(value: Object, key: str) -> int | None:
    number = value.get(key)
    if number is not None and (isinstance(number, bool) or not isinstance(number, int)):
        raise FormatError(f"{key} {number!r:.40} is not a whole number")
    return number


def _names(value: Object, key: str) -> list[str]:
    found = value.get(key)
    if found is None:
        return []
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise FormatError(f"{key} is not a list of names")
    return found
