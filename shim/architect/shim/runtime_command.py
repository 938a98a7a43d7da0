"""``architect-runtime``: what a node's administrator asks the keeper, on the node.

POD is a uid, ``namespace/name`` or a name that one managed pod of the node has; of a stand-alone
container its id, or at least 12 first characters of it. Exit codes are those of
:mod:`architect.core.errors`: 0 done, 2 refused and nothing changed, 3 failed, 4 nobody answers.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any, Final

from architect.api import names
from architect.core import wire
from architect.core.errors import ArchitectError, NodeError, Rejected, Unavailable
from architect.core.wire import Client
from architect.shim import installation, keeper_client, records, tables

QUICK_SECONDS: Final = 10.0
"""For what the keeper answers from memory."""
CHECK_SECONDS: Final = 60.0
"""For a look at each process of a pod."""
NICENESS: Final = 10
"""Of the process that looks."""
REFUSED_STATUS: Final = 2
"""Exit status of ``check`` where something keeps pods from sleeping."""
TRANSITION_SECONDS: Final = 660.0
"""The keeper gives up on a dump or a restore after 600 s; its answer must arrive."""

QUIET_SECONDS: Final = 7 * 86400.0
"""How long ``events`` waits for one."""


def main() -> None:
    """Carry out ``sys.argv`` and end the process."""
    options = _parse(sys.argv[1:])
    try:
        sys.exit(options.run(options))
    except ArchitectError as error:
        print(f"architect-runtime: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, BrokenPipeError):
        sys.exit(130)


def _sleep(options: argparse.Namespace) -> int:
    answer = keeper_client.ask(
        "sleep",
        timeout_seconds=TRANSITION_SECONDS,
        pod=options.pod,
        reason=options.reason,
        patience_seconds=options.patience,
    )
    return _show(options, answer, lambda: tables.transition(answer))


def _wake(options: argparse.Namespace) -> int:
    answer = keeper_client.ask(
        "wake", timeout_seconds=TRANSITION_SECONDS, pod=options.pod, reason=options.reason
    )
    return _show(options, answer, lambda: tables.transition(answer))


def _status(options: argparse.Namespace) -> int:
    answer = keeper_client.ask("status", timeout_seconds=QUICK_SECONDS, pod=options.pod)
    return _show(options, answer["status"], lambda: tables.status(answer["status"]))


def _list(options: argparse.Namespace) -> int:
    pods = keeper_client.ask("list", timeout_seconds=QUICK_SECONDS)["pods"]
    notes = [vars(note) for note in records.unmanaged()]
    value = {"pods": pods, "unmanaged": notes}
    return _show(options, value, lambda: tables.listing(pods, notes))


def _why(options: argparse.Namespace) -> int:
    from architect.shim.gvisor import pods
    from architect.shim.gvisor import records as gvisor

    if gvisor.is_of_pod(options.pod):
        answer: dict[str, Any] = {"why": [pods.NEVER_SLEEPS]}
    else:
        # What keeps it from being dumped is looked for anew: the keeper remembers the last look.
        with contextlib.suppress(Rejected, NodeError):
            keeper_client.ask("check", timeout_seconds=CHECK_SECONDS, pod=options.pod)
        answer = keeper_client.ask("why", timeout_seconds=QUICK_SECONDS, pod=options.pod)
    return _show(options, answer, lambda: "\n".join(answer["why"]) or "nothing keeps it awake")


def _check(options: argparse.Namespace) -> int:
    if options.pod is None:
        return _check_node(options)
    from architect.shim.inspection import findings

    notes = [
        note
        for note in records.unmanaged()
        if options.pod in (note.pod, note.id, f"{note.namespace}/{note.pod_name}")
    ]
    found = [vars(findings.of_unmanaged(note)) for note in notes]
    state = ""
    try:
        answer = keeper_client.ask("check", timeout_seconds=CHECK_SECONDS, pod=options.pod)
    except Unavailable:
        raise
    except ArchitectError:
        # The keeper knows managed pods only; the notes are then the whole answer.
        if not notes:
            raise
    else:
        state = answer["status"]["state"]
        found += answer["findings"]
    value = {"pod": options.pod, "state": state, "findings": found}
    _show(options, value, lambda: tables.findings(state, found))
    return REFUSED_STATUS if any(finding["is_blocking"] for finding in found) else 0


def _inspect(options: argparse.Namespace) -> int:
    from architect.shim.inspection import containers
    from architect.shim.keeper import survey

    os.nice(NICENESS)  # a pod that is looked at, and all others, come first
    found = [
        vars(finding)
        for container in survey.of_pod(options.pod)
        for finding in containers.of_container(container)
    ]
    if options.output == "json":
        print(json.dumps({"findings": found}))  # one line, for the keeper
        return 0
    return _show(options, found, lambda: tables.findings("", found))


def _check_node(options: argparse.Namespace) -> int:
    from architect.shim import preflight

    checks = [vars(check) for check in preflight.run()]
    _show(options, {"checks": checks}, lambda: tables.checks(checks))
    is_bad = any(check["is_blocking"] and not check["is_good"] for check in checks)
    return REFUSED_STATUS if is_bad else 0


def _events(options: argparse.Namespace) -> int:
    with keeper_client.connect(timeout_seconds=QUIET_SECONDS) as client:
        client.call("subscribe")
        while True:
            event = client.receive()
            line = json.dumps(event) if options.output == "json" else tables.event(event)
            print(line, flush=True)


def _save_files(options: argparse.Namespace) -> int:
    from architect.shim import luggage
    from architect.shim.gvisor import pods, saving

    if options.on_cue and not sys.stdin.readline():
        return 0  # nobody wants it any more
    if (pod := pods.find(options.pod)) is not None:
        size = saving.save(pod, options.into)
        return _show(options, {"bytes": size}, lambda: f"{size} bytes")
    mounts = [luggage.Mount(volume=v, container=c, path=p) for v, c, p in options.volume]
    size = luggage.save(options.pod, options.into, mounts)
    return _show(options, {"bytes": size}, lambda: f"{size} bytes")


def _try_gvisor(options: argparse.Namespace) -> int:
    from architect.shim.gvisor import trial

    found = trial.flags(options.flags)
    return _show(options, {"flags": list(found)}, lambda: " ".join(["a container runs", *found]))


def _check_volumes(options: argparse.Namespace) -> int:
    from architect.shim import luggage

    try:
        try:
            luggage.check_kept(options.pod)
        except OSError as error:  # of a network's file system, say: nothing is known of the volume
            raise NodeError(str(error), reason="VolumeUnknown", errno=error.errno) from error
    except ArchitectError as error:
        if options.output != "json":
            raise
        print(json.dumps(wire.failure(error)))
        return error.exit_code
    return _show(options, {"ok": True}, lambda: "the volumes hold what the pod's memory knows")


def _version(options: argparse.Namespace) -> int:
    value: dict[str, Any] = {"bundle": installation.version_directory().resolve().name}
    value["runtime"] = str(installation.lower_runtime())
    try:
        # Asking for a version must not start anything.
        with Client(names.KEEPER_SOCKET, timeout_seconds=QUICK_SECONDS) as client:
            value["keeper"] = client.call("version")["version"]
    except Unavailable:
        value["keeper"] = None
    return _show(options, value, lambda: tables.pairs(value))


def _show(options: argparse.Namespace, value: Any, table: Any) -> int:
    print(json.dumps(value, indent=1) if options.output == "json" else table())
    return 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="architect-runtime",
        description="Ask this node's keeper about sleeping and running pods.",
        epilog="exit codes: 0 done, 2 refused or wrong, 3 failed, 4 nobody answers",
    )
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("-o", "--output", choices=("table", "json"), default="table")
    pod = argparse.ArgumentParser(add_help=False)
    pod.add_argument("pod", metavar="POD", help="uid, namespace/name, name, or a container's id")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, run: Any, text: str, *, needs_pod: bool = True) -> argparse.ArgumentParser:
        parents = [shared, pod] if needs_pod else [shared]
        command = commands.add_parser(name, parents=parents, help=text, description=text)
        command.set_defaults(run=run)
        return command

    sleep = add("sleep", _sleep, "put a pod to sleep now")
    sleep.add_argument("--reason", default="by hand")
    sleep.add_argument(
        *("--patience", "-p"),
        type=_seconds,
        default=10.0,
        metavar="DURATION",
        help="how long open conversations may take to come to rest (10s)",
    )
    wake = add("wake", _wake, "wake a pod")
    wake.add_argument("--reason", default="by hand")
    add("status", _status, "what a pod does, and its containers")
    add("why", _why, "why a pod is awake")
    text = "what keeps a pod from sleeping, or any on this node; exit 2 if something does"
    check = add("check", _check, text, needs_pod=False)
    check.add_argument("pod", metavar="POD", nargs="?", help="without it the node is checked")
    text = "what /proc shows of a pod's processes; what the keeper does for `check`"
    add("inspect", _inspect, text)
    add("list", _list, "every managed pod of this node, and what is not managed", needs_pod=False)
    add("events", _events, "follow sleeps, wakes and failures until interrupted", needs_pod=False)
    text = "pack what a sleeping pod's containers wrote; what the daemon does before a pod moves"
    save = add("save-files", _save_files, text)
    save.add_argument("--into", type=Path, required=True, metavar="DIRECTORY")
    save.add_argument(
        "--volume",
        nargs=3,
        action="append",
        default=[],
        metavar=("NAME", "CONTAINER", "PATH"),
        help="a volume that goes along by itself, and where a container has it: told what it holds",
    )
    text = "begin at the first line of the standard input, do nothing if it ends before"
    save.add_argument("--on-cue", action="store_true", help=text)
    text = "run a container under gVisor, and say with which flags of runsc that works"
    attempt = add("try-gvisor", _try_gvisor, text, needs_pod=False)
    text = "flags to try, behind --; without any they are found out"
    attempt.add_argument("flags", nargs="*", metavar="FLAG", help=text)
    text = "whether volumes were written since; what the keeper does before a pod that came wakes"
    add("check-volumes", _check_volumes, text)
    add("version", _version, "versions of the bundle, the keeper and the runtime", needs_pod=False)
    return parser.parse_args(arguments)


def _seconds(text: str) -> float:
    from architect.core.durations import parse

    try:
        return parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
