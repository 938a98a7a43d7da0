"""Pods of gVisor: saved as one sandbox, and what their runtime is told when they start from it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from architect.api import names, saved
from architect.core import identity
from architect.daemon.checkpoint import contents
from architect.daemon.node_facts import NodeFacts
from architect.daemon.pods import read
from architect.kube.checkpoints import Gvisor

HERE = Gvisor(version="v1", platform="systrap")
S3 = {"bucket": "checkpoints", "key": "k", "manifestSha256": "c" * 64, "keyID": "0" * 16}
PATH = "/apis/architect.dev/v1alpha1/namespaces/default/persistentcheckpoints/warm"
OTHER = f"sha256:{'b' * 64}"


class Story:
    """A pod of gVisor, what was saved of it, and pods that start from that."""

    def __init__(self, node: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.node = node
        facts = node.captures._node_facts
        monkeypatch.setattr(type(facts), "gvisor", HERE, raising=False)
        monkeypatch.setattr(node.captures._host, "cued", self.save)
        node.retrieve = self.retrieve
        self.copy = self.saved()

    def save(self, argv: list[str]) -> None:
        """Be the node's runtime that saves a sandbox."""
        into = Path(argv[argv.index("--into") + 1])
        image = into / saved.SANDBOX_IMAGE
        image.mkdir(parents=True)
        (image / "checkpoint.img").write_text("memory")
        meta = {"version": 1, "runsc": HERE.version, "platform": HERE.platform}
        (into / saved.SANDBOX / saved.META).write_text(json.dumps(meta))

    def pod(self, name: str, *, on_failure: str = "fresh", is_running: bool = False) -> Any:
        value = self.node.pod(name, is_running=is_running)
        value["spec"]["runtimeClassName"] = names.RUNTIME_CLASS_GVISOR
        policy = json.loads(value["metadata"]["annotations"][names.POLICY])
        policy |= {"start_from": "warm", "on_restore_failure": on_failure}
        value["metadata"]["annotations"][names.POLICY] = json.dumps(policy)
        self.node.cluster.put_pod(value)
        return value

    def saved(self) -> Any:
        value = self.pod("web-0", is_running=True)
        pod = read(value)
        assert pod is not None and pod.is_gvisor
        return self.node.captures.copy(pod, value, id="pc", template_hash="v1:a").manifest

    def source(self, like: Any, **gvisor: str) -> None:
        conditions = ("Accepted", "Captured", "Available")
        needs = {"architecture": "amd64", "cpuFeatures": ["avx2"]}
        status = {
            "podRef": {"name": "web-0", "uid": "uid-web-0"},
            "containers": ["app"],
            "templateHash": identity.template_hash(like),
            "formatVersion": 2,
            "capturedAt": "2030-01-01T00:00:05Z",
            "location": {"s3": S3},
            "requirements": {**needs, "gvisor": {**dataclasses.asdict(HERE), **gvisor}},
            "conditions": [
                {"type": kind, "status": "True", "reason": "R", "message": ""}
                for kind in conditions
            ],
        }
        self.node.cluster.put(
            PATH,
            {
                "metadata": {"name": "warm", "namespace": "default", "uid": "uid-warm"},
                "spec": {"podName": "web-0"},
                "status": status,
            },
        )

    def retrieve(self, checkpoint: Any, pod: Any, target: Path, **_: Any) -> None:
        (self.node.copies.find("pc")).rename(target)

    def ask(self, name: str, container: str = "") -> Any:
        asked = {"pod": f"uid-{name}", "namespace": "default", "pod_name": name}
        return self.node.arrivals.arriving({**asked, "container": container})

    def image(self, name: str) -> Path:
        found: Path = self.node.state / "arrivals" / f"uid-{name}" / saved.SANDBOX_IMAGE
        return found


@pytest.fixture
def story(node: Any, monkeypatch: pytest.MonkeyPatch) -> Story:
    return Story(node, monkeypatch)


def test_the_manifest_of_one_says_what_runsc_saved_it(story: Story) -> None:
    about = story.copy.about
    assert (about.requirements.gvisor, about.requirements.criu) == (HERE, "")
    (container,) = about.containers.values()
    assert (container.init_sha256, container.tree) == (None, saved.SANDBOX_IMAGE)
    directory = story.node.copies.find("pc")
    assert contents.read(directory) == story.copy
    contents.verify(directory, story.copy)


def test_its_sandbox_asks_first_and_then_each_of_its_containers(story: Story) -> None:
    story.source(story.pod("one"))
    assert story.ask("one")["restore"] is True
    assert story.ask("one", "app")["restore"] is True
    story.image("one").rename(story.image("one").with_name("used"))
    story.node.endings.restored("uid-one", pod=story.node.make.pod("one"))
    assert story.node.notes[-1] == ("one", "Restored")
    assert story.node.files() == ["arrivals/uid-one.json"]
    assert story.ask("one")["restore"] is False, "a second sandbox starts fresh"


def test_a_container_whose_image_was_not_here_yet_is_compared_later(story: Story) -> None:
    story.source(story.pod("one"))
    assert story.ask("one")["restore"] is True
    story.node.images.digests["app:1"] = OTHER
    answer = story.ask("one", "app")
    assert (answer["restore"], answer["reason"]) == (False, "ImageDiffers")
    assert OTHER in answer["message"]


@pytest.mark.parametrize(
    ("gvisor", "reason"),
    [({"version": "v0"}, "GvisorVersion"), ({"platform": "kvm"}, "GvisorPlatform")],
)
def test_another_runsc_or_platform_does_not_restore_it(
    story: Story, gvisor: dict[str, str], reason: str
) -> None:
    story.source(story.pod("one"), **gvisor)
    answer = story.ask("one")
    assert (answer["restore"], answer["reason"]) == (False, reason)
    assert story.node.notes[-1] == ("one", "RestoreFailed")


def test_a_node_without_gvisor_restores_none(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(story.node.captures._node_facts), "gvisor", None)
    story.source(story.pod("one"))
    assert story.ask("one")["reason"] == "NoGvisor"


def test_one_that_must_not_start_without_it_is_held_until_somebody_lets_it_go(
    story: Story,
) -> None:
    value = story.pod("one", on_failure="fail")
    story.source(value)
    story.node.watched("one")
    assert story.ask("one")["restore"] is True
    story.node.arrivals.hold("uid-one", reason="RestoreFailed", message="it is damaged")
    for _ in range(2):
        answer = story.ask("one")
        assert (answer["restore"], answer["hold"]) == (False, True)
        assert answer["message"] == "it is damaged"
    assert story.image("one").is_dir(), "it is kept"
    value["metadata"]["labels"] = {names.FRESH: "true"}
    story.node.cluster.put_pod(value)
    answer = story.ask("one")
    assert (answer["restore"], answer["hold"]) == (False, False)


def test_what_none_of_its_containers_has_taken_is_given_back(story: Story) -> None:
    story.source(story.pod("one"))
    assert story.ask("one")["restore"] is True
    assert story.node.depot.is_untouched("uid-one")
    assert story.node.arrivals.hand_on(story.node.ref("one"))
    assert not story.image("one").exists()


@pytest.mark.parametrize(
    ("conf", "found"),
    [
        (None, HERE),
        ("# flags\n--ignore-cgroups\n", HERE),
        ("--platform=kvm\n", Gvisor(version="v1", platform="kvm")),
    ],
)
def test_what_restores_it_is_read_from_the_installed_runsc(
    tmp_path: Path, conf: str | None, found: Gvisor
) -> None:
    class Host:
        def run(self, argv: list[str], **_: Any) -> str:
            assert argv[1:] == ["--version"]
            return "runsc version v1\nspec: 1.1.0\n"

        def read(self, path: Path) -> str | None:
            assert path == names.RUNSC_CONF
            return conf

    assert NodeFacts(Host(), current=tmp_path).gvisor == found  # type: ignore[arg-type]
