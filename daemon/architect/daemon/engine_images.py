"""What the engine of the node has under an image's name, asked over its CRI socket.

A tag says nothing of content: on another node, or a day later, the same name is another image. The
engine's own id of an image is the hash of its configuration, which lists its layers by hash, so two
images of one id have the same files, wherever they came from.

One method of ``runtime.v1.ImageService``, by :mod:`architect.daemon.cri`::

    ImageStatusRequest   { ImageSpec image = 1 }
    ImageSpec            { string image = 1 }
    ImageStatusResponse  { Image image = 1 }
    Image                { string id = 1, repeated string repo_digests = 3 }
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import grpc

from architect.daemon import cri
from architect.daemon.host import Host

log = logging.getLogger(__name__)

ANSWER_SECONDS: Final = 2.0
"""It looks up a name. A pod that moves waits for it once."""

MAX_ANSWER_BYTES: Final = 1024**2
METHOD: Final = "/runtime.v1.ImageService/ImageStatus"

_DIGEST: Final = re.compile(r"(?:.*@)?(sha256:[0-9a-f]{64})")


class EngineImages:
    """Of one node. Safe to use from several threads."""

    def __init__(self, host: Host, *, sockets: Iterable[Path] = cri.SOCKETS) -> None:
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
        path = cri.find(self._host, self._sockets)
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
                    log.warning(
                        "the engine does not say what image %.300s is: %s",
                        reference,
                        cri.told(error),
                    )
            found[key] = own, digests
        return found

    def _status(self, path: Path, reference: str) -> tuple[str, frozenset[str]]:
        raw = cri.call(
            path,
            METHOD,
            cri.message(1, cri.message(1, reference.encode())),
            timeout_seconds=ANSWER_SECONDS,
            max_answer_bytes=MAX_ANSWER_BYTES,
        )
        image = next((value for number, value in cri.fields(raw) if number == 1), b"")
        texts = [(n, value.decode()) for n, value in cri.fields(image) if n in (1, 3)]
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
