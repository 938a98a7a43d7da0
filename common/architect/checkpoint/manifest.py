"""The manifest of a checkpoint: whose it is, what it needs, and every file of it by hash.

``manifest.json`` lies beside the files that it names, its *pieces*. It is written last: a directory
without one is no checkpoint. There is one way to write a manifest (:func:`to_bytes`), and the
reader takes nothing else, so that its SHA-256 names the whole checkpoint.

A piece is opaque here: what is in it (an image of CRIU, a packed layer, later a sealed shard) is
the business of who wrote it. It is hashed in segments of :data:`SEGMENT_BYTES`, so that one large
file, which is what a memory image is, can be hashed, fetched and repaired in parallel.

Everything is limited and refused by name, since a manifest may come from another node.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from architect.checkpoint import digests, strict
from architect.core.errors import FormatError
from architect.kube.checkpoints import Gvisor, Owner, Requirements

NAME: Final = "manifest.json"
VERSION: Final = 2
"""In 1 segments had SHA-256."""

SEGMENT_BYTES: Final = 64 * 1024**2
"""Part of a piece with a hash of its own: 16 of them in 1 GiB, and 15 ms of hashing in one."""

MAX_BYTES: Final = 8 * 1024**2
"""Of a manifest: the pieces below with names of 200 characters, and 1 TiB of segments."""

MAX_PIECES: Final = 20_000
"""CRIU writes about five files for a process; a container has a few hundred at the most."""

MAX_PIECE_BYTES: Final = 1024**4
MAX_TOTAL_BYTES: Final = 2 * 1024**4
"""No node that we know holds this much memory in one pod; a sum of larger numbers is an attack."""

MAX_NAME_CHARS: Final = 1024
MAX_CONTAINERS: Final = 100
MAX_FEATURES: Final = 512

MODES: Final = (0o400, 0o500, 0o600, 0o700)
"""Images are secrets: a piece is its owner's alone, and never set-uid."""

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_COMPONENT = r"[A-Za-z0-9_][A-Za-z0-9_.+=@,-]{0,254}"
"""Of a piece's name. No leading dot: neither ``..`` nor a hidden file."""
_PIECE = re.compile(rf"{_COMPONENT}(/{_COMPONENT})*")
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_DIGEST = re.compile(r"[a-z0-9+._-]{1,32}:[0-9a-f]{32,128}")


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One file of the checkpoint."""

    name: str
    """Path below the checkpoint's directory, with ``/``."""
    size: int
    """Bytes."""
    mode: int
    """Permissions, one of :data:`MODES`."""
    hashes: tuple[str, ...]
    """Of each segment in order (:mod:`.digests`); none for an empty file."""


@dataclass(frozen=True, kw_only=True)
class Container:
    """One container of the pod."""

    image_digest: str
    """Of the image that it ran, ``sha256:…``; empty where the engine told none."""
    init_sha256: str | None
    """Of the init to which the processes' image refers; None under gVisor, which needs none."""
    tree: str
    """Directory of the processes' images; at least one piece lies below it. Containers of gVisor
    share that of their sandbox."""
    layer: str | None
    """The piece with the packed writable layer, if it travels."""


@dataclass(frozen=True, kw_only=True)
class About:
    """Everything but the files."""

    id: str
    """Under what it is asked for; a file name."""
    namespace: str
    pod_name: str
    pod_uid: str
    node: str
    """Where it was captured."""
    created: datetime.datetime
    """In whole seconds, UTC."""
    template_hash: str
    owner: Owner | None
    """Who replaces the pod, with its ordinal."""
    containers: Mapping[str, Container]
    requirements: Requirements
    format_version: int
    """Of the images, as in ``status.formatVersion``."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """One checkpoint. Only :func:`make` and :func:`from_bytes` build one that is checked."""

    about: About
    pieces: tuple[Piece, ...]
    """In the order of their names."""

    @property
    def id(self) -> str:
        """Under what the checkpoint is asked for."""
        return self.about.id

    @property
    def sha256(self) -> str:
        """Of its bytes, of which there is one form: the name of exactly this checkpoint."""
        return digest(to_bytes(self))

    @property
    def total_bytes(self) -> int:
        """Size of all pieces."""
        return sum(piece.size for piece in self.pieces)


def make(about: About, pieces: Iterable[Piece]) -> Manifest:
    """Return the manifest, in order and checked. Raises FormatError."""
    manifest = Manifest(
        about=about, pieces=tuple(sorted(pieces, key=lambda p: p.name.encode(errors="replace")))
    )
    return from_bytes(to_bytes(manifest))


def is_id(text: str) -> bool:
    """Whether *text* can be a checkpoint's id."""
    return _ID.fullmatch(text) is not None


def is_namespace(text: str) -> bool:
    """Whether *text* can be a checkpoint's namespace."""
    return _LABEL.fullmatch(text) is not None


def is_piece_name(name: str) -> bool:
    """Whether *name* can be a piece's."""
    return len(name) <= MAX_NAME_CHARS and _PIECE.fullmatch(name) is not None and name != NAME


def segments_of(size: int) -> int:
    """Return how many hashes a piece of *size* bytes has."""
    return -(-size // SEGMENT_BYTES)


def digest(raw: bytes) -> str:
    """Return the SHA-256 that names a checkpoint, of its manifest's bytes."""
    return hashlib.sha256(raw).hexdigest()


def to_bytes(manifest: Manifest) -> bytes:
    """Return the one representation."""
    return strict.canonical(_value(manifest))


def _value(manifest: Manifest) -> dict[str, Any]:
    about, needs = manifest.about, manifest.about.requirements
    owner, gvisor = about.owner, needs.gvisor
    return {
        "version": VERSION,
        "id": about.id,
        "namespace": about.namespace,
        "pod": {"name": about.pod_name, "uid": about.pod_uid},
        "node": about.node,
        "created": strict.to_time(about.created),
        "identity": {
            "templateHash": about.template_hash,
            "owner": owner
            and {
                "apiVersion": owner.api_version,
                "kind": owner.kind,
                "name": owner.name,
                "uid": owner.uid,
                "ordinal": owner.ordinal,
            },
        },
        "containers": {
            name: {
                "imageDigest": c.image_digest,
                "initSha256": c.init_sha256,
                "tree": c.tree,
                "layer": c.layer,
            }
            for name, c in about.containers.items()
        },
        "requirements": {
            "architecture": needs.architecture,
            "cpuFeatures": list(needs.cpu_features),
            "kernel": needs.kernel,
            "criu": needs.criu,
            "formatVersion": about.format_version,
            # No key for others: what they are is read by earlier versions.
            **({} if gvisor is None else {"gvisor": dataclasses.asdict(gvisor)}),
        },
        "segmentBytes": SEGMENT_BYTES,
        "pieces": [
            {"name": p.name, "size": p.size, "mode": p.mode, digests.NAME: list(p.hashes)}
            for p in manifest.pieces
        ],
    }


def from_bytes(raw: bytes) -> Manifest:
    """Read a manifest, from whomever. Raises FormatError with what is wrong."""
    value = strict.parse(raw, "manifest", most=MAX_BYTES)
    strict.check_version(value, "manifest", version=VERSION)
    manifest = _manifest(strict.Object(value, "manifest"))
    strict.check_form(_value(manifest), raw, "manifest")
    return manifest


def _manifest(value: strict.Object) -> Manifest:
    value.take("version", strict.integer(VERSION, VERSION))
    value.take("segmentBytes", strict.integer(SEGMENT_BYTES, SEGMENT_BYTES))
    pod = value.take("pod", strict.Object)
    identity = value.take("identity", strict.Object)
    needs = value.take("requirements", strict.Object)
    about = About(
        id=value.take("id", strict.matching(_ID)),
        namespace=value.take("namespace", strict.matching(_LABEL)),
        pod_name=pod.take("name", strict.text(253)),
        pod_uid=pod.take("uid", strict.text(64)),
        node=value.take("node", strict.text(253)),
        created=value.take("created", strict.time),
        template_hash=identity.take("templateHash", strict.text(128)),
        owner=identity.take("owner", _owner),
        containers=value.take("containers", _containers),
        requirements=Requirements(
            architecture=needs.take("architecture", strict.text(32)),
            cpu_features=needs.take("cpuFeatures", strict.list_of(strict.text(64), MAX_FEATURES)),
            kernel=needs.take("kernel", strict.text(128, least=0)),
            criu=needs.take("criu", strict.text(64, least=0)),
            gvisor=needs.take_if_there("gvisor", _gvisor),
        ),
        format_version=needs.take("formatVersion", strict.integer(1, 2**31 - 1)),
    )
    pieces = value.take("pieces", strict.list_of(_piece, MAX_PIECES))
    for item in (pod, identity, needs, value):
        item.end()
    manifest = Manifest(about=about, pieces=pieces)
    _check_pieces(manifest)
    return manifest


def _check_pieces(manifest: Manifest) -> None:
    names = [piece.name for piece in manifest.pieces]
    known = set(names)
    if names != sorted(names):
        raise FormatError("manifest.pieces are not in the order of their names")
    if len(known) != len(names):
        raise FormatError("manifest.pieces has two of one name")
    directories = {
        "/".join(parts[:n]) for parts in (x.split("/") for x in names) for n in range(1, len(parts))
    }
    if both := known & directories:
        raise FormatError(f"manifest.pieces: {min(both)!r} is a file and a directory")
    if NAME in directories:
        raise FormatError(f"manifest.pieces: {NAME!r} is the manifest's own name")
    if manifest.total_bytes > MAX_TOTAL_BYTES:
        raise FormatError(
            f"manifest.pieces: {manifest.total_bytes} bytes in all, more than {MAX_TOTAL_BYTES}"
        )
    is_gvisor = manifest.about.requirements.gvisor is not None
    for name, container in manifest.about.containers.items():
        if (container.init_sha256 is None) != is_gvisor:
            raise FormatError(f"manifest.containers.{name}.initSha256: gVisor alone has none")
        if container.tree not in directories:
            raise FormatError(f"manifest.containers.{name}.tree holds no piece")
        if container.layer is not None and container.layer not in known:
            raise FormatError(f"manifest.containers.{name}.layer is no piece")


def _piece(value: Any, where: str) -> Piece:
    item = strict.Object(value, where)
    name = item.take("name", _piece_name)
    where = f"manifest.pieces {name}"
    size = item.take("size", strict.integer(0, MAX_PIECE_BYTES))
    piece = Piece(
        name=name,
        size=size,
        mode=item.take("mode", _mode),
        hashes=item.take(digests.NAME, strict.list_of(digests.form, segments_of(size))),
    )
    item.end()
    if len(piece.hashes) != segments_of(size):
        raise FormatError(f"{where}: {len(piece.hashes)} hashes for {size} bytes")
    return piece


def _piece_name(value: Any, where: str) -> str:
    if not isinstance(value, str) or not is_piece_name(value):
        raise FormatError(f"{where}: {value!r:.200} is not the name of a piece")
    return value


def _mode(value: Any, where: str) -> int:
    if isinstance(value, bool) or value not in MODES:
        raise FormatError(f"{where}: {value!r:.50} is not one of {[oct(m) for m in MODES]}")
    return int(value)


def _containers(value: Any, where: str) -> dict[str, Container]:
    if not isinstance(value, dict) or not 1 <= len(value) <= MAX_CONTAINERS:
        raise FormatError(f"{where} is no object of 1 to {MAX_CONTAINERS} containers")
    found = {}
    for name, raw in value.items():
        if not _LABEL.fullmatch(name):
            raise FormatError(f"{where}: {name!r:.100} is not a container's name")
        item = strict.Object(raw, f"{where}.{name}")
        found[name] = Container(
            image_digest=item.take("imageDigest", _optional_digest),
            init_sha256=item.take(
                "initSha256", lambda v, w: None if v is None else strict.sha256(v, w)
            ),
            tree=item.take("tree", _piece_name),
            layer=item.take("layer", lambda v, w: None if v is None else _piece_name(v, w)),
        )
        item.end()
    return found


def _gvisor(value: Any, where: str) -> Gvisor:
    item = strict.Object(value, where)
    gvisor = Gvisor(
        version=item.take("version", strict.text(128)),
        platform=item.take("platform", strict.text(32)),
    )
    item.end()
    return gvisor


def _optional_digest(value: Any, where: str) -> str:
    return "" if value == "" else strict.matching(_DIGEST)(value, where)


def _owner(value: Any, where: str) -> Owner | None:
    if value is None:
        return None
    item = strict.Object(value, where)
    owner = Owner(
        api_version=item.take("apiVersion", strict.text(253)),
        kind=item.take("kind", strict.text(63)),
        name=item.take("name", strict.text(253)),
        uid=item.take("uid", strict.text(64)),
        ordinal=item.take(
            "ordinal", lambda v, w: None if v is None else strict.integer(0, 2**31 - 1)(v, w)
        ),
    )
    item.end()
    return owner
