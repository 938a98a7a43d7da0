"""The shell blocks of README, examples and three pages, as a reader would type them.

Run as they stand, apart from four kinds: ``make`` goals must exist (CI runs ``make test``),
the chart is installed already, so ``helm install``, ``upgrade`` and ``uninstall`` are dry runs
(``test_zz_chart`` does them), ``docker`` needs an engine, so its build context must be one that
:mod:`demo.pictures` builds, and a ``--watch`` is ended when it has shown a sleeping pod. What a
reader types inside the cluster (``curl``, ``echo … | nc``) runs in a pod.
"""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from architect.api import names
from architect.kube import conditions
from demo import stage
from lab import artefacts, dockerfiles
from lab.cluster import Cluster
from support.tiers import sized
from support.workloads import CURL_REFUSED, eventually, workload

ROOT = dockerfiles.CHECKOUT
COMMAND_SECONDS = 180.0
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CLIENT = "client"
NOT_YET = (6, CURL_REFUSED)
"""curl's: there is no such name; nobody takes the connection."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One command of a page."""

    text: str
    typed: str = ""
    """What the reader types into it: the SQL block that follows."""


def steps(page: Path) -> list[Step]:
    """Return the commands of all ``sh`` blocks of *page*, in order."""
    found: list[Step] = []
    for language, text in FENCE.findall(page.read_text()):
        if language == "sql" and found:
            found[-1] = Step(text=found[-1].text, typed=text)
        if language != "sh":
            continue
        for line in text.replace("\\\n", " ").splitlines():
            if line.strip() and not line.lstrip().startswith("#"):
                found.append(Step(text=line.strip()))
    assert found, f"{page}: no shell block"
    return found


@pytest.fixture
def shell(architect: Cluster, namespace: str, tmp_path: Path) -> Iterator[Mapping[str, str]]:
    """Return the environment of a reader whose current namespace is the test's."""
    config = tmp_path / "kubeconfig"
    shutil.copy(architect.kubeconfig, config)
    environment = {**architect.client_environment(), "KUBECONFIG": str(config)}
    helm = tmp_path / "bin"
    helm.mkdir()
    (helm / "helm").symlink_to(artefacts.helm(architect.cache))
    environment["PATH"] = f"{helm}:{environment['PATH']}"
    subprocess.run(
        ["kubectl", "config", "set-context", "--current", f"--namespace={namespace}"],
        env=environment,
        check=True,
        capture_output=True,
    )
    yield environment


def follow(page: Path, environment: Mapping[str, str]) -> None:
    """Do what *page* says, step by step."""
    for step in steps(page):
        perform(step, environment)


def perform(step: Step, environment: Mapping[str, str]) -> None:
    """Run one command; a failure shows it and what it said."""
    word = step.text.split()[0]
    text = step.text
    if word == "make":
        text = text.replace("make ", "make --dry-run --always-make ", 1)
    elif text.startswith("helm install "):
        text = text.replace("helm install ", "helm template ", 1)
    elif text.startswith(("helm upgrade ", "helm uninstall ")):
        text += " --dry-run"
    elif word == "docker":
        context = ROOT / text.split("#")[0].split()[-1]
        assert (context / "Dockerfile").is_file(), step.text
        return
    elif "--watch" in text:
        watch(text, environment)
        return
    elif word != "kubectl" and word != "helm":
        eventually(lambda: _ask(text, environment), what=f"an answer to: {text}")
        return
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text],
        input=step.typed,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=dict(environment),
        timeout=COMMAND_SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{step.text}\n{done.stdout}{done.stderr}"


def _ask(text: str, environment: Mapping[str, str]) -> bool:
    """Run what a reader types in the cluster; False where its Service is not known there yet.

    A reader is slower than name servers and kube-proxy, which follow what was just made.
    """
    done = subprocess.run(
        ["kubectl", "exec", CLIENT, "--", "sh", "-c", text],
        capture_output=True,
        text=True,
        env=dict(environment),
        timeout=COMMAND_SECONDS,
        check=False,
    )
    assert done.returncode == 0 or done.returncode in NOT_YET, f"{text}\n{done.stdout}{done.stderr}"
    return done.returncode == 0


def watch(text: str, environment: Mapping[str, str]) -> None:
    """Run a ``kubectl get --watch`` until a line of it tells of a sleeping pod."""
    process = subprocess.Popen(
        ["bash", "-c", f"exec {text}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=ROOT,
        env=dict(environment),
    )
    assert process.stdout is not None
    seen = b""
    deadline = time.monotonic() + COMMAND_SECONDS
    try:
        while b"SCALED_DOWN" not in seen:
            left = deadline - time.monotonic()
            assert left > 0, f"{text}: nothing sleeps:\n{seen.decode()}"
            if select.select([process.stdout], [], [], left)[0]:
                more = os.read(process.stdout.fileno(), 65536)
                assert more, f"{text}: ended:\n{seen.decode()}"
                seen += more
    finally:
        process.kill()
        process.communicate()


@pytest.mark.concurrent
def test_the_readme(architect: Cluster, namespace: str, shell: Mapping[str, str]) -> None:
    with workload(architect, namespace, "web"):
        follow(ROOT / "README.md", shell)


@pytest.mark.concurrent
def test_the_operations_page(architect: Cluster, namespace: str, shell: Mapping[str, str]) -> None:
    follow(ROOT / "docs" / "operations.md", shell)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_migration_page(
    architect: Cluster, namespace: str, shell: Mapping[str, str], request: pytest.FixtureRequest
) -> None:
    _prepare_examples(architect, namespace)
    request.addfinalizer(lambda: architect.kubectl("uncordon", "-l", names.NODE_READY_LABEL))
    follow(ROOT / "docs" / "migration.md", shell)
    eventually(
        lambda: any(c["spec"]["trigger"] == "Eviction" for c in _restored(architect, namespace)),
        what="the drained pod's Checkpoint says that it went on",
    )


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_page_on_persistent_checkpoints(
    architect: Cluster, namespace: str, shell: Mapping[str, str]
) -> None:
    _prepare_examples(architect, namespace)
    follow(ROOT / "docs" / "persistent-checkpoints.md", shell)
    # The page deletes what the pods started from; these stay with the pods.
    eventually(
        lambda: len([c for c in _restored(architect, namespace) if "startFrom" in c["spec"]]) >= 3,
        what="three pods have started from it",
    )


def _restored(cluster: Cluster, namespace: str) -> list[dict[str, Any]]:
    """Return the Checkpoints from which a pod went on."""
    listed = cluster.kubectl("-n", namespace, "get", "checkpoints", "-o", "json")
    return [c for c in json.loads(listed)["items"] if conditions.is_true(c, "Restored")]


@pytest.mark.concurrent
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "directory",
    sized(
        [stage.ALL[0].directory],
        ["", stage.COUNTERS, *(example.directory for example in stage.ALL)],
    ),
    ids=lambda d: d or "all",
)
def test_the_examples_page(
    directory: str, architect: Cluster, namespace: str, shell: Mapping[str, str]
) -> None:
    _prepare_examples(architect, namespace)
    follow(stage.EXAMPLES / directory / "README.md", shell)


def _prepare_examples(cluster: Cluster, namespace: str) -> None:
    stage.load_images(cluster)
    cluster.kubectl("-n", namespace, "apply", "-f", "-", input=json.dumps(_client()))
    eventually(lambda: _phase(cluster, namespace) == "Running", what="the client's pod is running")


def _client() -> dict[str, object]:
    container = {
        "name": CLIENT,
        "image": "localhost/py:3",
        "imagePullPolicy": "Never",
        "command": ["sleep", "infinity"],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": CLIENT},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 0},
    }


def _phase(cluster: Cluster, namespace: str) -> str:
    query = "jsonpath={.status.phase}"
    return cluster.kubectl("-n", namespace, "get", "pod", CLIENT, "-o", query)
