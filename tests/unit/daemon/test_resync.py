from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from architect.api import names
from architect.api.keeper import REASON_ARRIVED, Event, PodState
from architect.daemon import resync, status
from architect.daemon.autoscalers import NOBODY, Counted, Share
from architect.daemon.observation import KeeperPod, Refusal
from architect.daemon.reasons import Kind, Reason
from architect.daemon.resync import PodFacts
from architect.kube.events import EventType

LOW = [{"name": "app", "resources": {"requests": {"cpu": "1m", "memory": "1Ki"}}}]
NOTED = {names.ORIGINAL_REQUESTS: json.dumps({"app": {"cpu": "100m", "memory": "64Mi"}})}
RUNNING = {"status.architect.dev/app": "RUNNING"}
DOWN = {"status.architect.dev/app": "SCALED_DOWN"}
DIVIDED = Counted(by=frozenset({(Share("memory"), "scaler")}))
COUNTED = (NOBODY, DIVIDED, Counted(by=frozenset({(Share("cpu"), "a")})), Counted(unknown="away"))
BUSY = (Reason(kind=Kind.PACKETS, text="3 packets 2s ago", container="app"),)


def keeper(state: PodState, **fields: Any) -> KeeperPod:
    return KeeperPod(uid="uid-web", namespace="default", name="web", state=state, **fields)


def kinds(facts: PodFacts) -> list[str]:
    return [type(a).__name__ for a in resync.plan(facts)]


def awake_condition(reason: str = "Traffic") -> dict[str, Any]:
    return {"conditions": [{"type": names.CONDITION_ASLEEP, "status": "False", "reason": reason}]}


def test_what_is_part_of_a_move_is_told_by_the_move() -> None:
    slept = {"duration_seconds": 0.3, "image_bytes": 1 << 20}
    woke = {"duration_seconds": 0.1, "held_packets": 0}

    def is_told(event: Event, message: dict[str, Any], *, is_leaving: bool = False) -> bool:
        return (
            status.note_of(event, message, pod=None, is_refused=False, is_leaving=is_leaving)
            is not None
        )

    assert is_told(Event.SLEPT, slept)
    assert not is_told(Event.SLEPT, slept, is_leaving=True)
    assert is_told(Event.WOKE, {**woke, "reason": "tcp"}, is_leaving=True)
    assert not is_told(Event.WOKE, {**woke, "reason": REASON_ARRIVED})


def test_a_pod_that_fell_asleep_gets_note_label_resize_condition_and_object(make: Any) -> None:
    facts = PodFacts(pod=make.pod(), keeper=keeper(PodState.ASLEEP))
    plan = resync.plan(facts)
    assert kinds(facts) == ["SetMetadata", "Resize", "SetCondition", "EnsureCheckpoint"]
    first = plan[0]
    assert isinstance(first, resync.SetMetadata)
    assert first.labels == DOWN
    assert json.loads(first.annotations[names.ORIGINAL_REQUESTS] or "") == {
        "app": {"cpu": "100m", "memory": "64Mi"}
    }


def test_a_pod_that_woke_gets_its_requests_before_the_note_goes(make: Any) -> None:
    pod = make.pod(containers=LOW, annotations=NOTED, labels=DOWN)
    facts = PodFacts(pod=pod, keeper=keeper(PodState.AWAKE), has_checkpoint=True, reasons=BUSY)
    assert kinds(facts) == ["Resize", "SetMetadata", "SetCondition", "DropCheckpoint"]
    metadata = resync.plan(facts)[1]
    assert isinstance(metadata, resync.SetMetadata)
    assert metadata.annotations == {names.ORIGINAL_REQUESTS: None}


@pytest.mark.parametrize("state", [PodState.FALLING, PodState.WAKING])
def test_a_pod_between_two_states_is_left_alone(make: Any, state: PodState) -> None:
    assert kinds(PodFacts(pod=make.pod(), keeper=keeper(state))) == []


def test_a_pod_that_goes_or_is_over_is_left_alone(make: Any) -> None:
    gone = make.pod(deletionTimestamp="2026-01-01T00:00:00Z")
    assert kinds(PodFacts(pod=gone, keeper=keeper(PodState.ASLEEP))) == []
    over = make.pod(status={"phase": "Succeeded"})
    assert kinds(PodFacts(pod=over, keeper=None)) == []


def test_a_pod_that_the_keeper_does_not_know_loses_what_says_asleep(make: Any) -> None:
    assert kinds(PodFacts(pod=make.pod(), keeper=None)) == []
    pod = make.pod(containers=LOW, annotations=NOTED, labels=DOWN)
    assert kinds(PodFacts(pod=pod, keeper=None))[:2] == ["Resize", "SetMetadata"]


def test_labels_of_containers_that_are_no_longer_managed_go(make: Any) -> None:
    pod = make.pod(labels={**RUNNING, "status.architect.dev/old": "RUNNING", "app": "x"})
    (metadata, _) = resync.plan(PodFacts(pod=pod, keeper=keeper(PodState.AWAKE), reasons=BUSY))
    assert isinstance(metadata, resync.SetMetadata)
    assert metadata.labels == {"status.architect.dev/old": None}


def test_a_reason_that_changed_is_written_only_once_in_a_while(make: Any) -> None:
    pod = make.pod(labels=RUNNING, status=awake_condition("Cpu"))
    facts = PodFacts(pod=pod, keeper=keeper(PodState.AWAKE), reasons=BUSY, may_update_reason=False)
    assert kinds(facts) == []
    later = PodFacts(pod=pod, keeper=keeper(PodState.AWAKE), reasons=BUSY)
    assert kinds(later) == ["SetCondition"]
    same = make.pod(labels=RUNNING, status=awake_condition("Traffic"))
    assert kinds(PodFacts(pod=same, keeper=keeper(PodState.AWAKE), reasons=BUSY)) == []


def test_a_failure_is_written_at_once(make: Any) -> None:
    pod = make.pod(labels=RUNNING, status=awake_condition("Cpu"))
    failed = (Reason(kind=Kind.SLEEP_FAILED, text="last sleep failed: Mptcp", container=""),)
    facts = PodFacts(
        pod=pod, keeper=keeper(PodState.AWAKE), reasons=failed, may_update_reason=False
    )
    assert kinds(facts) == ["SetCondition"]


def test_a_refused_increase_keeps_the_note_of_the_originals(make: Any) -> None:
    pod = make.pod(containers=LOW, annotations=NOTED, labels=DOWN)
    facts = PodFacts(pod=pod, keeper=keeper(PodState.AWAKE), reasons=BUSY, is_raising_refused=True)
    (metadata, _) = resync.plan(facts)
    assert isinstance(metadata, resync.SetMetadata)
    assert metadata.annotations == {}


def test_requests_come_back_to_a_pod_that_sleeps_and_others_go(make: Any) -> None:
    """The note is written before anything is lowered, and stays."""
    half = [{"name": "app", "resources": {"requests": {"cpu": "100m", "memory": "1Ki"}}}]
    pod = make.pod(containers=half, annotations=NOTED, labels=DOWN)
    facts = PodFacts(pod=pod, keeper=keeper(PodState.ASLEEP), has_checkpoint=True, counted=DIVIDED)
    up, down, _ = resync.plan(facts)
    assert up == resync.Resize(requests={"app": {"memory": "64Mi"}}, is_lowering=False)
    assert down == resync.Resize(requests={"app": {"cpu": "1m"}}, is_lowering=True)


@pytest.mark.parametrize("refused", ["lowering", "raising"])
def test_what_is_refused_in_one_direction_is_done_in_the_other(make: Any, refused: str) -> None:
    half = [{"name": "app", "resources": {"requests": {"cpu": "100m", "memory": "1Ki"}}}]
    facts = PodFacts(
        pod=make.pod(containers=half, annotations=NOTED, labels=DOWN),
        keeper=keeper(PodState.ASLEEP),
        counted=DIVIDED,
        is_lowering_refused=refused == "lowering",
        is_raising_refused=refused == "raising",
    )
    (resizing,) = (a for a in resync.plan(facts) if isinstance(a, resync.Resize))
    assert resizing.is_lowering is (refused == "raising")


def test_a_refused_lowering_is_not_noted(make: Any) -> None:
    facts = PodFacts(pod=make.pod(), keeper=keeper(PodState.ASLEEP), is_lowering_refused=True)
    metadata = resync.plan(facts)[0]
    assert isinstance(metadata, resync.SetMetadata)
    assert metadata.annotations == {}


def test_a_failed_restore_stays_asleep_and_says_so() -> None:
    refused = Refusal(reason="ImageLost", message="no image")
    condition = status.condition(keeper(PodState.FAILED, refused=refused), reasons=())
    assert condition.status.value == "True"
    assert condition.reason == "RestoreFailed"
    assert "no image; the image is kept" in condition.message


def apply(pod: dict[str, Any], plan: tuple[resync.Action, ...]) -> None:
    """Do to the API's object what the actions say."""
    metadata = pod["metadata"]
    for action in plan:
        if isinstance(action, resync.SetMetadata):
            for part, changes in (("labels", action.labels), ("annotations", action.annotations)):
                metadata[part] = {
                    k: v for k, v in {**metadata[part], **changes}.items() if v is not None
                }
        elif isinstance(action, resync.Resize):
            for container in pod["spec"]["containers"]:
                container["resources"]["requests"].update(
                    action.requests.get(container["name"], {})
                )
        elif isinstance(action, resync.SetCondition):
            new = action.condition
            pod["status"]["conditions"] = [
                {"type": new.type, "status": new.status.value, "reason": new.reason}
            ]


@given(
    states=st.lists(st.sampled_from(list(PodState)), min_size=1, max_size=8),
    cuts=st.lists(st.integers(min_value=0, max_value=6), min_size=8, max_size=8),
    cpu=st.sampled_from(["100m", "2", "1m"]),
    counted=st.lists(st.sampled_from(COUNTED), min_size=9, max_size=9),
)
def test_whatever_was_interrupted_the_end_is_true_and_stable(
    make: Any, states: list[PodState], cuts: list[int], cpu: str, counted: list[Counted]
) -> None:
    """Plans cut off anywhere, then one whole plan: nothing is left to do and no request is lost.

    Whatever autoscalers come and go meanwhile.
    """
    from architect.daemon import pods

    before = {"cpu": cpu, "memory": "64Mi"}
    value = make.pod_json(containers=[{"name": "app", "resources": {"requests": dict(before)}}])
    checkpoint = False

    def facts(state: PodState, who: Counted) -> PodFacts:
        pod = pods.read(value)
        assert pod is not None
        return PodFacts(
            pod=pod, keeper=keeper(state), reasons=BUSY, has_checkpoint=checkpoint, counted=who
        )

    steps = zip([*states, PodState.AWAKE], [*cuts[: len(states)], 9], counted, strict=False)
    for state, cut, who in steps:
        plan = resync.plan(facts(state, who))[:cut]
        apply(value, plan)
        for action in plan:
            if isinstance(action, (resync.EnsureCheckpoint, resync.DropCheckpoint)):
                checkpoint = isinstance(action, resync.EnsureCheckpoint)
    assert resync.plan(facts(PodState.AWAKE, NOBODY)) == ()
    assert value["spec"]["containers"][0]["resources"]["requests"] == before
    assert value["metadata"]["labels"] == RUNNING
    assert names.ORIGINAL_REQUESTS not in value["metadata"]["annotations"]


def test_events_tell_durations_reasons_and_what_stays_reserved(make: Any) -> None:
    slept = {"duration_seconds": 0.123, "reason": "idle for 60 s", "image_bytes": 64 << 20}
    note = status.note_of(
        Event.SLEPT, slept, pod=make.pod(status={"qosClass": "Guaranteed"}), is_refused=False
    )
    assert note is not None
    assert note.reason == "Slept"
    assert note.text.startswith("asleep after 123ms (idle for 60 s), 64.0 MiB on disk; the pod is")
    note = status.note_of(Event.SLEPT, slept, pod=make.pod(), is_refused=False, counted=DIVIDED)
    assert note is not None
    assert note.text.endswith(
        "on disk; its requests for memory stay, since what it uses is divided"
        " by them: HorizontalPodAutoscaler scaler"
    )
    back = status.of_returned_requests(make.pod(), DIVIDED)
    assert back.reason == "RequestsKept"
    assert back.text.endswith("HorizontalPodAutoscaler scaler")
    away = Counted(unknown="x" * 2000)
    note = status.note_of(Event.SLEPT, slept, pod=make.pod(), is_refused=False, counted=away)
    assert note is not None
    assert len(note.text) == status.MAX_NOTE_CHARS
    blocked = {"needed_bytes": 3 << 30, "available_bytes": 1 << 30}
    note = status.note_of(Event.WAKE_BLOCKED, blocked, pod=None, is_refused=False)
    assert note is not None
    assert note.event_type is EventType.WARNING
    assert "3072.0 MiB, the node has 1024.0 MiB" in note.text


def test_a_sleep_that_is_tried_again_is_no_event() -> None:
    busy = {"reason": "Busy", "message": "a request is unanswered", "lost": []}
    assert status.note_of(Event.SLEEP_FAILED, busy, pod=None, is_refused=False) is None
    assert status.note_of(Event.SLEEP_FAILED, busy, pod=None, is_refused=True) is not None
    full = {**busy, "reason": "NoSpace"}  # somebody has to make room
    assert status.note_of(Event.SLEEP_FAILED, full, pod=None, is_refused=False) is not None
    lost = {**busy, "lost": ["app"]}
    note = status.note_of(Event.SLEEP_FAILED, lost, pod=None, is_refused=False)
    assert note is not None
    assert "app" in note.text


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("tcp packet from 10.0.0.7", "packet"),
        ("exec", "exec"),
        ("a signal", "signal"),
        ("asked", "command"),
        ("daemon: asleep longer than 60 s", "daemon"),
    ],
)
def test_reasons_of_wakes_become_a_few_metric_labels(reason: str, kind: str) -> None:
    assert status.wake_kind(reason) == kind


@pytest.mark.parametrize(
    ("said", "reason", "text", "failure"),
    [
        ({"status": 0, "duration_seconds": 0.25, "message": "ok"}, "HookRan", "after 250ms", None),
        (
            {"status": 3, "duration_seconds": 0.25, "message": "no such host"},
            "HookFailed",
            "status 3 after 250ms: no such host; the application goes on",
            "Failed",
        ),
        (
            {"status": 137, "duration_seconds": 60, "message": "", "is_late": True},
            "HookFailed",
            "killed after 1m00s, its limit; the application goes on",
            "Late",
        ),
        (
            {"reason": "HookNotRun", "message": "cannot run runc"},
            "HookFailed",
            "did not run: HookNotRun: cannot run runc; the application goes on",
            "HookNotRun",
        ),
    ],
)
def test_how_a_hook_ended_is_told(
    said: dict[str, Any], reason: str, text: str, failure: str | None
) -> None:
    message = {"container": "app", **said}
    note = status.note_of(Event.HOOK, message, pod=None, is_refused=False)
    assert note is not None
    assert note.reason == reason
    assert note.text.startswith("architect.dev/after-restore of container app ")
    assert note.text.endswith(text)
    if failure is not None:
        assert status.hook_failure(message) == failure
