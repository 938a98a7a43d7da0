"""Pods that start from a PersistentCheckpoint: each by a Checkpoint of its own, and once."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from architect.core import identity
from architect.core.errors import Unavailable
from architect.kube import conditions

S3 = {
    "bucket": "checkpoints",
    "key": "default/uid-warm/manifest.json",
    "manifestSha256": "c" * 64,
    "keyID": "0" * 16,
    "wrappedKey": "secret",
}
PATH = "/apis/architect.dev/v1alpha1/namespaces/default/persistentcheckpoints/warm"


class Story:
    """PersistentCheckpoint warm, and pods that name it."""

    def __init__(self, node: Any) -> None:
        self.node = node
        self.retrieved: list[Any] = []
        node.retrieve = self.retrieve

    def retrieve(self, checkpoint: Any, pod: Any, target: Path, **_: Any) -> None:
        self.retrieved.append((checkpoint, pod.uid))
        (target / "containers" / "app" / "image").mkdir(parents=True)

    def pod(self, name: str, **metadata: Any) -> Any:
        value = self.node.pod(name, is_running=False)
        value["metadata"] |= metadata
        policy = json.loads(value["metadata"]["annotations"]["architect.dev/policy"])
        policy |= {"start_from": "warm", "migrate": "false"}
        value["metadata"]["annotations"]["architect.dev/policy"] = json.dumps(policy)
        self.node.cluster.put_pod(value)
        return value

    def source(self, like: Any, **said: str) -> Any:
        told = {"Accepted": "True", "Captured": "True", "Available": "True", **said}
        value = {
            "apiVersion": "architect.dev/v1alpha1",
            "kind": "PersistentCheckpoint",
            "metadata": {"name": "warm", "namespace": "default", "uid": "uid-warm"},
            "spec": {"podName": "web-0"},
            "status": {
                "podRef": {"name": "web-0", "uid": "uid-web-0"},
                "containers": ["app"],
                "templateHash": identity.template_hash(like),
                "templateParts": identity.parts(like),
                "formatVersion": 2,
                "capturedAt": "2030-01-01T00:00:05Z",
                "location": {"s3": dict(S3)},
                "requirements": {
                    "architecture": "amd64",
                    "cpuFeatures": ["avx2"],
                    "criu": "4.2.1",
                },
                "conditions": [
                    {"type": k, "status": v, "reason": "R", "message": ""} for k, v in told.items()
                ],
            },
        }
        self.node.cluster.put(PATH, value)
        return value

    def checkpoint(self, name: str) -> Any:
        for path, value in list(self.node.cluster.objects.items()):
            if path.endswith(f"/checkpoints/{name}-{f'uid-{name}'[:8]}-start"):
                return value
        return None


@pytest.fixture
def story(node: Any) -> Story:
    return Story(node)


def test_it_starts_with_a_checkpoint_of_its_own(story: Story) -> None:
    story.source(story.pod("one"))
    assert story.node.arriving("one")["restore"] is True
    value = story.checkpoint("one")
    assert value["metadata"]["ownerReferences"][0]["uid"] == "uid-one"
    assert value["spec"]["startFrom"] == {"name": "warm", "uid": "uid-warm"}
    assert value["spec"]["podRef"] == {"name": "web-0", "uid": "uid-web-0"}
    assert value["spec"]["trigger"] == "Request"
    claim = value["status"]["claimedBy"]
    assert (claim["uid"], claim["node"]) == ("uid-one", "node1")
    assert value["status"]["location"] == {
        "s3": {k: S3[k] for k in ("bucket", "key", "manifestSha256")}
    }
    assert [uid for _, uid in story.retrieved] == ["uid-one"]
    told = {c["type"] for c in value["status"]["conditions"]}
    assert "Restored" not in told, "nobody else can have it, so nothing is announced"


def test_what_became_of_it_is_said(story: Story) -> None:
    story.source(story.pod("one"))
    assert story.node.arriving("one")["restore"] is True
    story.node.adopt("one")
    story.node.endings.restored("uid-one", pod=story.node.make.pod("one"))
    found = conditions.find(story.checkpoint("one")["status"]["conditions"], "Restored")
    assert found is not None and found["status"] == "True"
    assert story.node.notes[-1] == ("one", "Restored")


def test_ten_start_from_one(story: Story) -> None:
    names = [f"p{n}" for n in range(10)]
    made = [story.pod(name) for name in names]
    story.source(made[0])
    answers: dict[str, Any] = {}

    def come(name: str) -> None:
        answers[name] = story.node.arriving(name)

    threads = [threading.Thread(target=come, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert all(answers[name]["restore"] for name in names)
    assert sorted(uid for _, uid in story.retrieved) == sorted(f"uid-{n}" for n in names)


def test_a_pod_without_a_controller_starts_from_it_too(story: Story) -> None:
    story.source(story.pod("one", ownerReferences=[]))
    assert story.node.arriving("one")["restore"] is True


def test_one_that_is_captured_meanwhile_is_waited_for(story: Story) -> None:
    like = story.pod("one")
    story.source(like, Available="Unknown")
    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.append(story.node.arriving("one")))
    asking.start()
    asking.join(0.7)
    assert asking.is_alive()
    story.source(like)
    asking.join(20)
    assert answers[0]["restore"] is True


def test_one_that_does_not_fit_is_an_event(story: Story) -> None:
    value = story.source(story.pod("one"))
    value["status"]["templateHash"] = "v1:" + "0" * 64
    story.node.cluster.put(PATH, value)
    answer = story.node.arriving("one")
    assert (answer["restore"], answer["reason"]) == (False, "TemplateDiffers")
    assert story.checkpoint("one") is None


def test_a_pod_that_leaves_while_it_waits_claims_nothing(story: Story) -> None:
    story.source(story.pod("one"), Available="Unknown")
    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.append(story.node.arriving("one")))
    asking.start()
    story.node.until(lambda: story.node.arrivals.is_working("uid-one"))
    story.node.arrivals.hand_on(story.node.ref("one"))
    asking.join(20)
    assert answers[0]["reason"] == "Leaving"
    assert story.checkpoint("one") is None


def test_a_daemon_that_comes_after_takes_its_checkpoint_up(story: Story) -> None:
    story.source(story.pod("one"))
    story.node.retrieve = lambda *_, **__: (_ for _ in ()).throw(SystemExit())
    with pytest.raises(SystemExit):
        story.node.arriving("one")
    assert story.checkpoint("one")["status"]["claimedBy"]["uid"] == "uid-one"
    story.node.retrieve = story.retrieve
    story.node.restart()
    assert story.node.arriving("one")["restore"] is True


def test_a_store_that_is_away_makes_it_start_fresh_aloud(story: Story) -> None:
    def away(*_: Any, **__: Any) -> None:
        raise Unavailable("no route to the store")

    story.source(story.pod("one"))
    story.node.retrieve = away
    answer = story.node.arriving("one")
    assert answer["restore"] is False
    assert "no route" in answer["message"]
    found = conditions.find(story.checkpoint("one")["status"]["conditions"], "Failed")
    assert found is not None and found["status"] == "True"
