"""``architect-runtime``: ask the node's keeper, without the API server.

A pod is named by ``namespace/name``, by its name where that is unique, by its uid, or by a
container's id. Exit codes are those of :mod:`architect.core.errors`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from architect.api import names
from architect.core import durations
from architect.core.errors import ArchitectError
from architect.core.wire import Client

SLEEP_SECONDS: Final = 700.0
"""Longer than the keeper's own bound for a dump or restore."""

Answer = dict[str, Any]


def main() -> None:
    """Run the command and exit."""
    sys.exit(run(sys.argv[1:]))


def run(words: list[str]) -> int:
    """Run the command and return its exit code."""
    options = _parser().parse_args(words)
    try:
        with Client(options.socket, timeout_seconds=options.timeout) as client:
            if options.verb == "events":
                return _events(client, options)
            answer = client.call(options.verb, **_arguments(options))
    except ArchitectError as error:
        print(f"architect-runtime: {options.verb}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    if options.output == "json":
        answer.pop("ok")
        print(json.dumps(answer, indent=2))
    else:
        print(_TEXTS[options.verb](answer))
    return 0


def _arguments(options: argparse.Namespace) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    if options.verb in ("sleep", "wake", "status", "why"):
        arguments["pod"] = options.pod
    if options.verb in ("sleep", "wake"):
        arguments["reason"] = "architect-runtime"
    if options.verb == "sleep":
        arguments["patience_seconds"] = options.patience
        arguments["force"] = options.force
    return arguments


def _events(client: Client, options: argparse.Namespace) -> int:
    client.call("subscribe")
    while True:
        event = client.receive()
        if options.output == "json":
            print(json.dumps(event), flush=True)
        else:
            who = f"{event.get('namespace', '')}/{event.get('name', event.get('pod', ''))}"
            rest = event.get("message") or event.get("reason") or ""
            print(f"{_clock(event.get('at'))} {event['event']:13} {who} {rest}", flush=True)


def _version_text(answer: Answer) -> str:
    return f"keeper {answer['version']}, pid {answer['pid']}, since {_clock(answer['started'])}"


def _list_text(answer: Answer) -> str:
    rows: list[tuple[str, ...]] = [
        ("POD", "STATE", "FOR", "IMAGE", "LAST SLEEP", "LAST WAKE", "REASON")
    ]
    rows += [_row(pod) for pod in answer["pods"]]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    return "\n".join(
        "  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[-1]]).rstrip()
        for row in rows
    )


def _row(pod: Answer) -> tuple[str, ...]:
    def took(key: str) -> str:
        value = pod.get(key)
        return "-" if value is None else durations.render(value)

    return (
        f"{pod['namespace']}/{pod['name']}" if pod["name"] else pod["pod"][:12],
        pod["state"],
        durations.render(max(0.0, time.time() - pod["since"])),
        f"{pod['image_bytes'] / (1 << 20):.1f} MiB" if pod["image_bytes"] else "-",
        took("last_sleep_seconds"),
        took("last_wake_seconds"),
        pod["refused"]["message"] if pod.get("refused") else pod["reason"],
    )


def _status_text(answer: Answer) -> str:
    return _list_text({"pods": [answer["status"]]})


def _why_text(answer: Answer) -> str:
    return "\n".join(answer["why"])


_TEXTS: Final[dict[str, Callable[[Answer], str]]] = {
    "version": _version_text,
    "list": _list_text,
    "status": _status_text,
    "sleep": _status_text,
    "wake": _status_text,
    "why": _why_text,
}


def _clock(at: Any) -> str:
    seconds = at if isinstance(at, (int, float)) else 0
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(seconds))


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("-o", "--output", choices=("table", "json"), default="table")
    common.add_argument("--socket", type=Path, default=names.KEEPER_SOCKET, help="%(default)s")
    common.add_argument(
        "--timeout", type=float, default=SLEEP_SECONDS, metavar="SECONDS", help="%(default)s"
    )
    parser = argparse.ArgumentParser(
        prog="architect-runtime", description="Ask and command the keeper of this node's pods."
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, text: str, *, has_pod: bool = True) -> argparse.ArgumentParser:
        made = verbs.add_parser(name, help=text, description=text, parents=[common])
        if has_pod:
            made.add_argument("pod", help="namespace/name, name, uid, or a container's id")
        return made

    asleep = verb("sleep", "put a pod to sleep now")
    asleep.add_argument(
        "--patience",
        type=float,
        default=2.0,
        metavar="SECONDS",
        help="how long to wait for its conversations to come to rest (%(default)s)",
    )
    asleep.add_argument(
        "--force", action="store_true", help="try again what failed for a lasting reason"
    )
    verb("wake", "wake a pod now")
    verb("status", "show one pod")
    verb("why", "say why a pod is not sleeping, or why it sleeps")
    verb("list", "show all managed pods of this node", has_pod=False)
    verb("events", "follow what happens", has_pod=False)
    verb("version", "show the keeper's version", has_pod=False)
    return parser
