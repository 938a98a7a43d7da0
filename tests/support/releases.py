"""Other releases of Architect for clusters with two versions, as changes of this checkout.

What a later release may do without asking (``docs/formats.md``) is what NEXT does everywhere at
once: it has another init, and writes a key more into every file, message and object whose readers
are to leave out what they do not know. FAR is what no earlier release can go on with.
"""

from __future__ import annotations

from typing import Final

from lab.otherrelease import Edit, OtherRelease

MORE: Final = "fromNext"
"""The key that no release knows."""

_MORE: Final = f'"{MORE}": True, '
_KEEPER: Final = "shim/architect/shim/keeper"
_DAEMON: Final = "daemon/architect/daemon"
_CRDS: Final = "charts/architect/templates/crd-architect.dev_"
_FORMAT_VERSION: Final = """\
                formatVersion:
                  type: integer
"""


def _with_more(file: str, before: str, after: str = "") -> Edit:
    """Return the edit that puts the key between *before* and *after*."""
    return Edit(file, f"{before}{after}", f"{before}{_MORE}{after}")


NEXT: Final = OtherRelease(
    version="0.2.0",
    edits=(
        # Another compiler's code, and another text in it.
        Edit("shim/native/Makefile", "-static -Os -s", "-static -O2 -s"),
        Edit("shim/native/init.c", '"architect-init: "', '"architect-init of the next: "'),
        # Files on the node.
        _with_more(f"{_KEEPER}/images.py", '"meta.json", {"version": VERSION, ', "**value"),
        _with_more(f"{_KEEPER}/podstate.py", '"version": VERSION,\n        ', '"namespace"'),
        _with_more("shim/architect/shim/records.py", '{"version": record_files.VERSION, ', "**v"),
        _with_more("shim/architect/shim/luggage.py", '{"version": DATA_VERSION, ', '"volumes"'),
        _with_more(f"{_DAEMON}/moves/depot.py", '{"version": DECISION_VERSION, ', "**asdict"),
        _with_more(f"{_DAEMON}/moves/captures.py", "note, {", '"version": ASLEEP_VERSION'),
        # Between keeper, runtime and daemon.
        _with_more(f"{_KEEPER}/service.py", 'peer.send({"event": event.value, ', "**details"),
        _with_more(f"{_KEEPER}/control.py", 'answer = {"ok": True, ', "**done.result()"),
        _with_more(f"{_DAEMON}/moves/endpoint.py", 'return {"ok": True, ', "**operation"),
        _with_more("common/architect/core/wire.py", '"op": op, ', "**arguments"),
        # Objects.
        Edit(
            "common/architect/kube/checkpoints.py",
            '"formatVersion": capture.format_version,',
            f'"formatVersion": capture.format_version, "{MORE}": True,',
        ),
        *(
            Edit(
                f"{_CRDS}{kind}.yaml",
                _FORMAT_VERSION,
                f"                {MORE}:\n                  type: boolean\n{_FORMAT_VERSION}",
            )
            for kind in ("checkpoints", "persistentcheckpoints")
        ),
    ),
)

FAR: Final = OtherRelease(
    version="0.3.0",
    edits=(
        *NEXT.edits,
        # It saves pods in another format, and reads both.
        Edit(
            "common/architect/kube/checkpoints.py",
            "FORMAT_VERSION: Final = 2",
            "FORMAT_VERSION: Final = 3",
        ),
        Edit(
            f"{_DAEMON}/offers.py",
            "frozenset({checkpoints.FORMAT_VERSION})",
            "frozenset({2, checkpoints.FORMAT_VERSION})",
        ),
        Edit(
            "common/architect/checkpoint/manifest.py",
            '"version": VERSION,',
            '"version": about.format_version,',
        ),
        Edit(
            "common/architect/checkpoint/manifest.py",
            'strict.check_version(value, "manifest", version=VERSION)',
            "strict.check_version("
            'value, "manifest", version=3 if value.get("version") == 3 else 2)',
        ),
        Edit(
            "common/architect/checkpoint/manifest.py",
            'value.take("version", strict.integer(VERSION, VERSION))',
            'value.take("version", strict.integer(2, 3))',
        ),
    ),
    criu=("4.2.1", "5.0.0"),
)
