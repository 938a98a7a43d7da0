"""A spot machine is taken back: eight pods, two minutes, and what of them goes on elsewhere.

The machine is a real end of a node: at its zero no process and no disk of it is left, and nobody is
told. The way to the object store is held to a rate at which not everybody can be saved, so that
there is something to decide; who, is seen before.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Mapping
from concurrent import futures
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from architect.api import names
from demo import counter, network, pictures, spotstory, stage
from demo.errors import DemoError, ProtocolError
from demo.moving import CHECKPOINTS, only
from demo.results import Result
from demo.spotstory import Account, Row
from demo.story import State
from lab import errors as lab_errors
from lab import release, spot, store_faults, waiting
from lab.cluster import Cluster
from lab.node import Node
from lab.spot import Countdown

MEBIBYTE: Final = 1 << 20
LINK: Final = 16 * MEBIBYTE
"""Bytes a second to the object store: 128 Mbit/s."""
WINDOW_SECONDS: Final = 120.0
MANIFEST: Final = stage.EXAMPLES / stage.SPOT / "manifest.yaml"
PODS: Final = 8
SLEEPER: Final = "night"
SCOUT_MEBIBYTES: Final = 48
READY_SECONDS: Final = 300.0
SUCCESSOR_SECONDS: Final = 400.0
"""From the machine's end: it is silent for a minute before Kubernetes takes note."""
DIGEST_SECONDS: Final = 60.0
STEP_SECONDS: Final = 1.0
SAY_SECONDS: Final = 10.0
UNREACHABLE: Final = (OSError, http.client.HTTPException, ProtocolError, DemoError)


@dataclass(kw_only=True)
class Scene:
    """The node that ends, the pods that ran there, and what is known of each."""

    cluster: Cluster
    namespace: str
    node: Node
    before: dict[str, State] = field(default_factory=dict)
    """State by pod uid."""
    pods: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The pods of before, by uid."""
    plan: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What the node said of each by its name, before the notice."""
    began: float = 0.0
    answers: dict[str, tuple[float, State]] = field(default_factory=dict)
    """The first answer of each new pod, by its uid, with seconds from the notice."""

    def living(self) -> list[dict[str, Any]]:
        """Return the example's pods that nobody deletes."""
        path = f"/api/v1/namespaces/{self.namespace}/pods?labelSelector=example%3Dspot"
        found = self.cluster.api.get(path)["items"]
        return [
            p
            for p in found
            if "deletionTimestamp" not in p["metadata"] and p["status"].get("phase") != "Failed"
        ]

    def accounts(self) -> dict[str, Account]:
        """Return what is said of each pod of before, by uid."""
        items = self.cluster.api.get(CHECKPOINTS.format(self.namespace))["items"]
        made = {c["spec"]["podRef"]["uid"]: c for c in items if c["spec"]["trigger"] != "Sleep"}
        return {uid: Account.read(made.get(uid), began=self.began) for uid in self.pods}

    def state(self, address: str, *, path: str = "/state") -> State:
        """Ask a counter at its address."""
        inside = self.cluster.plane.machine.network
        connect = partial(
            network.tcp, inside, address, counter.PORT, timeout_seconds=DIGEST_SECONDS
        )
        connection = counter.Connection(connect)
        try:
            return connection.ask(path)
        finally:
            connection.close()


def show(cluster: Cluster, *, namespace: str = stage.NAMESPACE) -> list[Result]:
    """Go through all of it; the node's place has a new machine afterwards.

    Raises DemoError, LabError.
    """
    if len(cluster.nodes) < 2:
        raise DemoError("one node: there is nowhere to go on")
    count, node = len(cluster.nodes), cluster.nodes[-1]
    scene = Scene(cluster=cluster, namespace=namespace, node=node)
    progress = cluster.progress
    try:
        with ExitStack() as stack:
            with progress.step(f"{node.name} becomes a spot machine, by the metadata service"):
                service = stack.enter_context(spot.metadata(node.machine, "aws"))
                spot.become_known(cluster, node, "aws")
            with progress.step(f"kubectl apply -f examples/{stage.SPOT}, all on {node.name}"):
                begin(scene)
            with progress.step(f"{LINK >> 20} MiB/s to the object store, which the node learns"):
                stack.enter_context(store_faults.limited(node.machine, LINK))
                scout(scene)
            tell_plan(scene)
            with spot.countdown(cluster, node, service, WINDOW_SECONDS) as countdown:
                scene.began = time.time()
                progress.say(f"NOTICE: {node.name} ends in {countdown.left_seconds:.0f} s")
                follow(scene, countdown)
        rows = outcome(scene)
    finally:
        if node.machine.pid is None:
            with progress.step(f"a new machine in the place of {node.name}"):
                cluster.up(count)
                release.install(cluster)
    print(f"\n{spotstory.table(rows)}\n", flush=True)
    for row in rows:
        row.check()
    spotstory.kept(rows)
    return results(scene, rows)


def begin(scene: Scene) -> None:
    """Run the example on the node, and visit each pod, some more often than others."""
    cluster = scene.cluster
    with only(cluster, scene.node.name):
        cluster.kubectl("-n", scene.namespace, "apply", "-f", str(MANIFEST))

        def is_there() -> bool:
            return len(living := scene.living()) == PODS and all(map(is_ready, living))

        waiting.until(
            is_there,
            what=f"{PODS} pods are ready",
            timeout_seconds=READY_SECONDS,
            interval_seconds=0.5,
            last_seen=lambda: cluster.kubectl("-n", scene.namespace, "get", "pods", "-o", "wide"),
        )
    scene.pods = {pod["metadata"]["uid"]: pod for pod in scene.living()}
    for number, (uid, pod) in enumerate(scene.pods.items(), start=1):
        if pod["spec"].get("runtimeClassName") != names.RUNTIME_CLASS:
            raise DemoError(f"{pod['metadata']['name']}: the webhook did not see its creation")
        for _ in range(number):
            scene.state(pod["status"]["podIP"], path="/")
        scene.before[uid] = scene.state(pod["status"]["podIP"])


def is_ready(pod: Mapping[str, Any]) -> bool:
    """Whether a pod is Ready."""
    conditions = pod["status"].get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def scout(scene: Scene) -> None:
    """Have one pod leave the node: by what it sends, the node learns how fast its link is.

    No node takes its replacement, or it would go on there at once, and nothing would be sent.
    """
    name = "scout"
    container = {
        "name": name,
        "image": pictures.name_of("counter"),
        "imagePullPolicy": "IfNotPresent",
        "args": [str(SCOUT_MEBIBYTES)],
        "readinessProbe": {"httpGet": {"path": "/healthz", "port": counter.PORT}},
    }
    template = {
        "metadata": {"labels": {"app": name}, "annotations": {names.MIGRATE: "true"}},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": scene.node.name},
            "containers": [container],
        },
    }
    spec = {"selector": {"matchLabels": {"app": name}}, "template": template}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": spec,
    }
    kubectl = partial(scene.cluster.kubectl, "-n", scene.namespace)
    kubectl("apply", "-f", "-", input=json.dumps(deployment))
    kubectl("rollout", "status", f"deploy/{name}", "--timeout=120s", timeout_seconds=150)

    def is_stored() -> bool:
        items = scene.cluster.api.get(CHECKPOINTS.format(scene.namespace))["items"]
        return any(
            c["type"] == "Stored" and c["status"] == "True"
            for item in items
            if item["spec"]["podRef"]["name"].startswith(name)
            for c in (item.get("status") or {}).get("conditions", [])
        )

    nodes = [node.name for node in scene.cluster.nodes]
    kubectl("cordon", *nodes)
    try:
        kubectl("delete", "pods", "-l", f"app={name}", "--wait=false")
        waiting.until(is_stored, what="the scout is in the object store", timeout_seconds=120)
        kubectl("delete", "deployment", name, "--wait=false")
    finally:
        kubectl("uncordon", *nodes)


def tell_plan(scene: Scene) -> None:
    """Wait until who sleeps sleeps, and tell what the node says before anything is announced."""
    label = f"{names.STATUS_LABEL_PREFIX}{SLEEPER}"

    def sleeps() -> bool:
        labels = [p["metadata"]["labels"] for p in scene.living()]
        return any(found.get(label) == names.STATUS_SCALED_DOWN for found in labels)

    waiting.until(sleeps, what=f"{SLEEPER} sleeps", timeout_seconds=120, interval_seconds=0.5)
    told = partial(spot.plan, scene.cluster, scene.node, seconds=WINDOW_SECONDS)
    scene.plan = {pod["name"]: pod for pod in json.loads(told())["pods"]}
    print(f"\n{told(output='text')}", flush=True)


def follow(scene: Scene, countdown: Countdown) -> None:
    """Say what happens, until somebody answers in the place of each pod."""
    say, said, said_at = scene.cluster.progress.say, "", 0.0
    deadline = time.monotonic() + countdown.left_seconds + SUCCESSOR_SECONDS
    is_told_gone = False
    with futures.ThreadPoolExecutor(max_workers=PODS) as pool:
        while len(scene.answers) < PODS or countdown.ended is None:
            if time.monotonic() > deadline:
                raise DemoError(
                    f"{len(scene.answers)} of {PODS} pods answer {SUCCESSOR_SECONDS:g} s after "
                    f"their machine's end\n{diagnosis(scene)}"
                )
            if countdown.ended is not None and not is_told_gone:
                say(f"GONE: of {scene.node.name} there is no process and no disk any more")
                is_told_gone = True
            counts = look(scene, pool)
            text = spotstory.moment(countdown.ends - time.time(), counts, PODS)
            now = time.monotonic()
            if text.partition(":")[2] != said or now - said_at > SAY_SECONDS:
                say(text)
                said, said_at = text.partition(":")[2], now
            time.sleep(STEP_SECONDS)
    countdown.wait()


def look(scene: Scene, pool: futures.ThreadPoolExecutor) -> dict[str, int]:
    """Ask the new pods that have an address; return how many pods are how far."""
    try:
        accounts = scene.accounts().values()
        living = scene.living()
    except lab_errors.LabError:
        return dict.fromkeys(spotstory.COUNTED, 0)
    new = [
        pod
        for pod in living
        if pod["metadata"]["uid"] not in scene.pods
        and pod["status"].get("podIP")
        and pod["metadata"]["uid"] not in scene.answers
    ]
    for pod, state in zip(new, pool.map(partial(first_answer, scene), new), strict=True):
        if state is not None:
            scene.answers[pod["metadata"]["uid"]] = (time.time() - scene.began, state)
    identities = {state["identity"] for _, state in scene.answers.values()}
    return {
        "captured": sum(a.captured is not None for a in accounts),
        "stored": sum(a.stored is not None for a in accounts),
        "will start anew": sum(bool(a.refused) for a in accounts),
        "go on elsewhere": sum(s["identity"] in identities for s in scene.before.values()),
    }


def first_answer(scene: Scene, pod: Mapping[str, Any]) -> State | None:
    """Return what a new pod says, if it does already."""
    try:
        return scene.state(pod["status"]["podIP"])
    except UNREACHABLE:
        return None


def outcome(scene: Scene) -> list[Row]:
    """Return what became of each pod, by the order in which the node ranked them."""
    accounts = scene.accounts()
    by_identity = {state["identity"]: (at, state) for at, state in scene.answers.values()}
    strangers = {
        uid: found
        for uid, found in scene.answers.items()
        if found[1]["identity"] not in {s["identity"] for s in scene.before.values()}
    }
    apps = {p["metadata"]["uid"]: p["metadata"]["labels"]["app"] for p in scene.living()}
    rows = []
    for uid, pod in scene.pods.items():
        name = pod["metadata"]["name"]
        before = scene.before[uid]
        app = pod["metadata"]["labels"]["app"]
        found = by_identity.get(before["identity"])
        if found is None:  # whoever began anew in its place
            taken = next((u for u in strangers if apps.get(u) == app), None)
            found = strangers.pop(taken) if taken is not None else None
        at, after = found or (None, {})
        said = scene.plan.get(f"{scene.namespace}/{name}")
        rows.append(
            Row(
                pod=name,
                priority=0 if said is None else int(said["priority"]),
                planned="–" if said is None else spotstory.planned(said),
                account=accounts[uid],
                went_on=at,
                before=before,
                after=after,
            )
        )
    order = list(scene.plan)
    rank = {name.partition("/")[2]: place for place, name in enumerate(order)}
    return sorted(rows, key=lambda row: rank.get(row.pod, len(order)))


def results(scene: Scene, rows: list[Row]) -> list[Result]:
    """Return the figures for programs."""
    where = f"{PODS} pods, {LINK >> 20} MiB/s to the object store, {WINDOW_SECONDS:.0f} s"
    stored = [row.account.stored for row in rows if row.account.stored is not None]
    figures = [
        ("saved", float(len(stored)), "pods", "in the object store before the machine's end"),
        (
            "said not to be saved",
            float(sum(bool(row.account.refused) for row in rows)),
            "pods",
            "they began anew, with the reason in their Checkpoint",
        ),
        ("notice to the last one stored", max(stored, default=0.0), "s", "as the Checkpoints say"),
        (
            "notice to the last answer",
            max((row.went_on or 0.0 for row in rows), default=0.0),
            "s",
            "of a pod in another's place",
        ),
    ]
    return [
        Result(name=f"spot: {name}", value=round(value, 2), unit=unit, conditions=f"{where}; {how}")
        for name, value, unit, how in figures
    ]


def diagnosis(scene: Scene) -> str:
    """Return what a person would look at first."""
    said = []
    for words in (
        ("get", "pods", "-o", "wide"),
        ("get", "checkpoints", "-o", "wide"),
        ("get", "events", "--sort-by=.lastTimestamp"),
    ):
        try:
            said.append(scene.cluster.kubectl("-n", scene.namespace, *words).strip()[-4000:])
        except lab_errors.LabError as error:
            said.append(str(error))
    return "\n".join(said)
