"""What the engine of the node has under an image's name, asked over its CRI socket.

A tag says nothing of content: on another node, or a day later, the same name is another image. The
engine's own id of an image is the hash of its configuration, which lists its layers by hash, so two
images of one id have the same files, wherever they came from.

One method of ``runtime.v1.ImageService`` (kubernetes/cri-api, api.proto), and no generated code::

    ImageStatusRequest   { ImageSpec image = 1 }
    ImageSpec            { string image = 1 }
    ImageStatusResponse  { Image image = 1 }
    Image                { string id = 1, repeated string repo_digests = 3 }
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import grpc

from architect.daemon.host import Host

log = logging.getLogger(__name__)

SOCKETS: Final = (
    Path("/run/containerd/containerd.sock"),
    Path("/run/k3s/containerd/containerd.sock"),
    Path("/run/crio/crio.sock"),
)
"""Of containerd, of k3s's and RKE2's, of CRI-O: where they put it by default."""

ANSWER_SECONDS: Final = 2.0
"""It looks up a name. A pod that moves waits for it once."""

MAX_ANSWER_BYTES: Final = 1024**2
METHOD: Final = "/runtime.v1.ImageService/ImageStatus"

_DIGEST: Final = re.compile(r"(?:.*@)?(sha256:[0-9a-f]{64})")


class EngineImages:
    """Of one node. Safe to use from several threads."""

    def __init__(self, host: Host, *, sockets: Iterable[Path] = SOCKETS) -> None:
        self._host = host
        self._sockets = tuple(sockets)

    def ids(self, references: Mapping[str, str]) -> dict[str, str]:
        """Return what images are, by what calls them so in *references*: the engine's own ids.

        An image that the engine does not tell of has the digest that its reference names, if it
        names one, and is left out otherwise.
        """
        found = {}
        for key, (own, digests) in self._ask(references).items():
            if told := own or min(digests, default=""):
                found[key] = told
        return found

    def names(self, references: Mapping[str, str]) -> dict[str, frozenset[str]]:
        """Return all digests by which the engine knows images; none it does not tell of."""
        asked = self._ask(references)
        return {key: digests | {own} for key, (own, digests) in asked.items() if own}

    def _ask(self, references: Mapping[str, str]) -> dict[str, tuple[str, frozenset[str]]]:
        path = next((p for s in self._sockets if (p := self._host.path(s)).is_socket()), None)
        if path is None:
            log.warning(
                "the engine's socket is not among %s: images are not compared",
                ", ".join(map(str, self._sockets)),
            )
        found = {}
        for key, reference in references.items():
            own, digests = "", frozenset(_digests([reference]))
            if path is not None and reference:
                try:
                    own, told = self._status(path, reference)
                    digests |= told
                except (grpc.RpcError, ValueError) as error:
                    said = error.details() if isinstance(error, grpc.Call) else str(error)
                    log.warning("the engine does not say what image %.300s is: %s", reference, said)
            found[key] = own, digests
        return found

    def _status(self, path: Path, reference: str) -> tuple[str, frozenset[str]]:
        # A channel for each question: there are few, and an engine that was restarted is another.
        options = [("grpc.max_receive_message_length", MAX_ANSWER_BYTES)]
        with grpc.insecure_channel(f"unix:{path}", options=options) as channel:
            ask: Any = channel.unary_unary(METHOD)
            raw: bytes = ask(_message(1, _message(1, reference.encode())), timeout=ANSWER_SECONDS)
        image = next((value for number, value in _fields(raw) if number == 1), b"")
        texts = [(number, value.decode()) for number, value in _fields(image) if number in (1, 3)]
        own = next(iter(_digests(text for number, text in texts if number == 1)), "")
        return own, frozenset(_digests(text for number, text in texts if number == 3))


def _digests(texts: Iterable[str]) -> list[str]:
    """Return the digests that *texts* are, or end in; CRI-O's ids lack the algorithm."""
    found = []
    for text in texts:
        if re.fullmatch(r"[0-9a-f]{64}", text):
            found.append(f"sha256:{text}")
        elif match := _DIGEST.fullmatch(text):
            found.append(match[1])
    return found


def _message(number: int, value: bytes) -> bytes:
    """Return a message of one field, of bytes."""
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def _fields(raw: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the fields of a protobuf message that are bytes. Raises ValueError if it is none."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            if at >= len(raw) or shift > 63:
                raise ValueError("the engine's answer is no protobuf message")
            byte = raw[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if not byte & 0x80:
                return value
            shift += 7

    while at < len(raw):
        key = varint()
        match key & 7:
            case 0:
                varint()
                continue
            case 1 | 5 as kind:
                at += 8 if kind == 1 else 4
                continue
            case 2:
                size = varint()
            case _:
                raise ValueError("the engine's answer is no protobuf message")
        if size > len(raw) - at:
            raise ValueError("the engine's answer is cut short")
        yield key >> 3, raw[at : at + size]
        at += size
