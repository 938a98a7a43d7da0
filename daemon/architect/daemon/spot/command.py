"""``architect-spot plan [NODE]``: what would be saved of a node if its machine were taken back now.

Each node's daemon knows that of its node, and is asked: in its own pod directly, from elsewhere by
way of the API server, as whoever runs this. Nothing is changed by it.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from architect.core import flags
from architect.core.errors import (
    ArchitectError,
    ConfigError,
    FormatError,
    Rejected,
    Retryable,
    Unavailable,
)
from architect.daemon import settings
from architect.daemon.spot.page import MOST_SECONDS, PATH
from architect.kube.api import Api, JsonObject, open_api
from architect.kube.errors import Forbidden, NotFound
from architect.kube.resources import NODES, PODS, ObjectRef

PROGRAM: Final = "architect-spot"

ADDRESS: Final = f"{settings.ENVIRONMENT_PREFIX}METRICS_ADDRESS"
"""Where the daemon serves, in its container's environment."""
NODE_NAME: Final = settings.DOWNWARD["node_name"]

PORT_NAME: Final = "metrics"
"""Of the daemon's container, in the chart."""

ASK_SECONDS: Final = 30.0
"""For a plan: the daemon makes one after the other."""

_GRANT: Final = (
    "grant it: kubectl create role architect-spot -n {namespace} --verb=get,list "
    "--resource=pods,pods/proxy, and a rolebinding; or ask in its pod: kubectl exec -n {namespace} "
    "{pod} -- architect-spot plan"
)


def main() -> None:
    """Run the command line and exit."""
    sys.exit(run(sys.argv[1:], environment=os.environ))


def run(argv: Sequence[str], *, environment: Mapping[str, str]) -> int:
    """Carry out one command line and return the exit status."""
    arguments = _parser().parse_args(list(argv))
    status = 0
    found: list[Any] = []
    try:
        query = _query(arguments.deadline)
        for node, ask in _askers(arguments, environment, query).items():
            try:
                found.append(_checked(ask()))
            except ArchitectError as error:
                # The others are told all the same.
                print(f"{PROGRAM}: node {node}: {error}", file=sys.stderr)
                status = status or error.exit_code
    except ArchitectError as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return error.exit_code
    _print(found, is_json=arguments.output == "json", is_one=bool(arguments.node))
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=PROGRAM, description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    plan = commands.add_parser(
        "plan",
        help="print who of a node's pods would be saved, by when, and what would help the others",
        description="Print who of a node's pods would be saved, by when, and what would help the "
        "others. In a daemon's pod its daemon is asked; elsewhere you need get and list on pods "
        "and get on pods/proxy in the daemons' namespace.",
    )
    plan.add_argument(
        "node",
        nargs="?",
        default="",
        metavar="NODE",
        help="name of the node (default: in a daemon's pod its own, elsewhere all nodes)",
    )
    plan.add_argument(
        "--deadline",
        default="",
        metavar="SECONDS",
        help="seconds until the machine ends, as 90 or 2m (default: what is left if its end is "
        "announced, else the notice of its cloud)",
    )
    plan.add_argument("--output", choices=("table", "json"), default="table")
    plan.add_argument(
        "--namespace", default="", help="namespace of the daemons (default: all are searched)"
    )
    plan.add_argument(
        "--selector",
        default=settings.DaemonSettings().daemon_selector,
        help="labels of the daemons' pods (default: %(default)s)",
    )
    plan.add_argument(
        "--kubeconfig",
        default="",
        metavar="FILE",
        help="default: $KUBECONFIG; in a pod its ServiceAccount; else ~/.kube/config",
    )
    return parser


def _query(deadline: str) -> dict[str, str]:
    if not deadline:
        return {"output": "json"}
    try:
        seconds = flags.seconds(deadline)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= MOST_SECONDS:
        raise ConfigError(
            f"--deadline {deadline!r:.40} is not seconds or a duration, up to a day",
            hint="120, 30s, 2m",
        )
    return {"output": "json", "deadline": f"{seconds:g}"}


def _askers(
    arguments: argparse.Namespace, environment: Mapping[str, str], query: dict[str, str]
) -> dict[str, _Ask]:
    """Return whom to ask, by node. Raises ArchitectError if the one that is wanted is not there."""
    here, address = environment.get(NODE_NAME, ""), environment.get(ADDRESS, "")
    if here and address and not arguments.kubeconfig and arguments.node in ("", here):
        port = settings.host_port(address)[1]
        return {here: _Here(port, query)}
    api = open_api(
        field_manager=PROGRAM,
        version="1",
        kubeconfig=_kubeconfig(arguments.kubeconfig, environment),
    )
    daemons = _daemons(api, arguments)
    if not arguments.node:
        if not daemons:
            raise Rejected(
                f"no pod has the labels {arguments.selector}",
                reason="NoDaemon",
                hint="is Architect installed? see --namespace and --selector",
            )
        return {node: _There(api, pod, query) for node, pod in sorted(daemons.items())}
    if arguments.node not in daemons:
        raise _not_there(api, arguments.node)
    return {arguments.node: _There(api, daemons[arguments.node], query)}


def _kubeconfig(given: str, environment: Mapping[str, str]) -> Path | None:
    """Return the file to go by, None: the pod's ServiceAccount."""
    named = given or environment.get("KUBECONFIG", "").split(os.pathsep)[0]
    if named:
        return Path(named)
    if environment.get("KUBERNETES_SERVICE_HOST"):
        return None
    return Path(environment.get("HOME", "/root")) / ".kube" / "config"


def _daemons(api: Api, arguments: argparse.Namespace) -> dict[str, JsonObject]:
    """Return the daemons' pods, by node; of two of one node the one that runs."""
    fields = f"spec.nodeName={arguments.node}" if arguments.node else ""
    try:
        listed = api.list(
            PODS,
            namespace=arguments.namespace or None,
            labels=arguments.selector,
            fields=fields,
        )
    except Forbidden as error:
        raise Rejected(
            f"you may not list the daemons' pods: {error.message}",
            reason="Forbidden",
            hint="with --namespace, list on pods in the daemons' namespace is enough",
        ) from error
    found: dict[str, JsonObject] = {}
    for pod in listed.items:
        node = pod["spec"].get("nodeName")
        if node and (node not in found or _is_running(pod)):
            found[node] = pod
    return found


def _is_running(pod: JsonObject) -> bool:
    is_going = bool(pod["metadata"].get("deletionTimestamp"))
    return (pod.get("status") or {}).get("phase") == "Running" and not is_going


def _not_there(api: Api, node: str) -> Rejected:
    """Return why the daemon of *node* is not found."""
    try:
        if api.find(ObjectRef(resource=NODES, name=node)) is None:
            return Rejected(
                f"there is no node {node}", reason="NoNode", hint="kubectl get nodes names them"
            )
    except ArchitectError:
        # Whoever may not read nodes is told what is known.
        pass
    return Rejected(
        f"no daemon of Architect runs on node {node}",
        reason="NoDaemon",
        hint="is it one that the DaemonSet leaves out, or is --namespace another one?",
    )


class _Here:
    """The daemon beside this process."""

    def __init__(self, port: int, query: Mapping[str, str]) -> None:
        self._port = port
        self._query = query

    def __call__(self) -> Any:
        """Return what it answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=ASK_SECONDS)
        try:
            connection.request("GET", f"{PATH}?{urlencode(self._query)}")
            response = connection.getresponse()
            body = response.read().decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(
                f"the daemon does not answer on port {self._port}: {error}",
                hint="is it starting? its container's log tells",
            ) from error
        finally:
            connection.close()
        if response.status == http.client.NOT_FOUND:
            raise _too_old()
        if response.status != http.client.OK:
            raise Retryable(f"the daemon has no plan: {body.strip():.500}")
        try:
            return json.loads(body)
        except ValueError as error:
            raise FormatError(f"the daemon's answer is no JSON: {body:.200}") from error


class _There:
    """The daemon of another node, or of one seen from outside."""

    def __init__(self, api: Api, pod: JsonObject, query: Mapping[str, str]) -> None:
        self._api = api
        self._pod = pod
        self._query = query

    def __call__(self) -> Any:
        """Return what it answers."""
        pod = ObjectRef.of(PODS, self._pod)
        try:
            return self._api.proxied(
                pod, port=self._port(), path=PATH, query=self._query, timeout_seconds=ASK_SECONDS
            )
        except Forbidden as error:
            raise Rejected(
                f"you may not ask pods by way of the API server: {error.message}",
                reason="Forbidden",
                hint=_GRANT.format(namespace=pod.namespace, pod=pod.name),
            ) from error
        except NotFound as error:
            raise _too_old() from error

    def _port(self) -> int:
        for container in self._pod["spec"]["containers"]:
            for port in container.get("ports") or ():
                if port.get("name") == PORT_NAME:
                    return int(port["containerPort"])
        name = self._pod["metadata"]["name"]
        raise Rejected(f"pod {name} has no port {PORT_NAME}: it is no daemon", reason="NoDaemon")


_Ask = _Here | _There


def _too_old() -> Rejected:
    return Rejected(
        "the daemon there knows no plans, or has just gone",
        reason="NoPlan",
        hint="is it of an older version?",
    )


def _checked(value: Any) -> JsonObject:
    if not isinstance(value, dict) or not isinstance(value.get("table"), str):
        raise FormatError(f"the daemon's answer is no plan: {value!r:.200}")
    return value


def _print(found: Sequence[JsonObject], *, is_json: bool, is_one: bool) -> None:
    if is_json:
        plans = [{k: v for k, v in plan.items() if k != "table"} for plan in found]
        value: Any = plans[0] if is_one and plans else plans
        print(json.dumps(value, indent=2))
        return
    print("\n".join(plan["table"] for plan in found), end="")


if __name__ == "__main__":
    main()
