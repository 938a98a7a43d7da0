"""Annotations: what they say, and what is said when they cannot be read."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from architect.api import names
from architect.api.policy import (
    Migrate,
    OnRestoreFailure,
    Policy,
    PolicyError,
    Probe,
    ProbeKind,
    Storage,
    WakeOn,
)
from architect.core import annotations as annotation_reading
from architect.core import vendor_annotations
from architect.core.annotations import AnnotationErrors, AppContainer, policy_from_annotations

HTTP = Probe(kind=ProbeKind.HTTP, port=8080)
APP = AppContainer(name="app", probes=(HTTP,))
DB = AppContainer(name="db")
BOTH = (APP, DB)
VENDOR = names.VENDOR_PREFIX


def policy(given_annotations: dict[str, str], *containers: AppContainer) -> Policy:
    found = policy_from_annotations(given_annotations, containers or (APP,))
    assert found is not None
    return found


def errors(given_annotations: dict[str, str], *containers: AppContainer) -> tuple[str, ...]:
    with pytest.raises(AnnotationErrors) as caught:
        policy_from_annotations(given_annotations, containers or (APP,))
    return caught.value.messages


def warnings(given_annotations: dict[str, str], *containers: AppContainer) -> tuple[str, ...]:
    return annotation_reading.read(given_annotations, containers or (APP,)).warnings


def test_a_pod_without_annotations_is_not_opted_in() -> None:
    assert policy_from_annotations({}, BOTH) is None
    assert policy_from_annotations({"example.com/idle": "x"}, BOTH) is None


def test_an_idle_time_alone_manages_every_app_container_with_the_defaults() -> None:
    found = policy({names.IDLE: "60s"}, *BOTH)
    assert set(found.containers) == {"app", "db"}
    app = found.containers["app"]
    assert (app.idle_seconds, app.warmup_seconds) == (60.0, 0.0)
    assert (app.wake_on, app.shadow_ports, app.probes) == (WakeOn.PACKETS, (), (HTTP,))
    assert (found.migrate, found.on_restore_failure) == (Migrate.ALWAYS, OnRestoreFailure.FRESH)
    assert (found.start_from, found.priority) == (None, None)


def test_every_key_is_read() -> None:
    found = policy(
        {
            names.IDLE: " 1h30m ",
            names.MIGRATE: "eviction",
            names.MOVE_ASLEEP: "false",
            names.CONTAINERS: "app, db",
            names.WAKE_ON: "connections",
            names.WARMUP: "2m",
            names.SHADOW_PORTS: "9100, 9090,9100",
            names.ON_RESTORE_FAILURE: "retry",
            names.PRIORITY: "-7",
            names.AFTER_RESTORE: '["/bin/refresh", "-a", ""]',
            names.STORAGE: "object-store",
        },
        *BOTH,
    )
    db = found.containers["db"]
    assert (db.idle_seconds, db.warmup_seconds) == (5400.0, 120.0)
    assert (db.wake_on, db.shadow_ports) == (WakeOn.CONNECTIONS, (9090, 9100))
    assert (found.migrate, found.on_restore_failure) == (Migrate.EVICTION, OnRestoreFailure.RETRY)
    assert (found.priority, found.storage) == (-7, Storage.OBJECT_STORE)
    assert found.move_asleep is False
    assert db.after_restore == ("/bin/refresh", "-a", "")


def test_values_per_container_hold_for_those_they_name() -> None:
    found = policy(
        {
            names.IDLE: '{"app": "60s", "db": "never"}',
            names.WAKE_ON: '{"db": "exec"}',
            names.SHADOW_PORTS: '{"app": [9090, 9091], "db": "9100"}',
            names.AFTER_RESTORE: '{"db": ["kill", "-HUP", "1"]}',
        },
        *BOTH,
    )
    assert found.containers["app"].after_restore == ()
    assert found.containers["db"].after_restore == ("kill", "-HUP", "1")
    app, db = found.containers["app"], found.containers["db"]
    assert (app.idle_seconds, db.idle_seconds) == (60.0, None)
    assert (app.wake_on, db.wake_on) == (WakeOn.PACKETS, WakeOn.EXEC)
    assert (app.shadow_ports, db.shadow_ports) == ((9090, 9091), (9100,))


def test_migration_alone_opts_in_without_sleep() -> None:
    found = policy({names.MIGRATE: "true"})
    assert found.containers["app"].idle_seconds is None
    assert policy_from_annotations({names.MIGRATE: "false"}, BOTH) is None


def test_a_pod_sleeps_on_where_it_moves_to_unless_told_otherwise() -> None:
    plain = policy({names.IDLE: "60s"})
    assert plain.move_asleep is True
    assert policy({names.IDLE: "60s", names.MOVE_ASLEEP: "true"}) == plain
    assert "move_asleep" not in plain.to_dict(), "an earlier version reads it, too"
    awake = policy({names.IDLE: "60s", names.MOVE_ASLEEP: "false"})
    assert Policy.from_json(awake.to_json()) == awake != plain
    with pytest.raises(PolicyError, match="move_asleep"):
        Policy.from_dict({**awake.to_dict(), "move_asleep": "false"})
    for unmoved in ({names.MIGRATE: "false"}, {names.START_FROM: "warm"}):
        given = {names.IDLE: "60s", names.MOVE_ASLEEP: "true", **unmoved}
        assert warnings(given) == (f"{names.MOVE_ASLEEP} has no effect: the pod does not move",)


def test_of_a_policy_that_a_newer_version_follows_holds_what_is_known() -> None:
    given = policy({names.IDLE: "60s"})
    newer = {**given.to_dict(), "quiet_hours": "22-6"}
    newer["containers"] = {n: {**c, "wake_slowly": True} for n, c in newer["containers"].items()}
    assert Policy.from_dict(newer, is_followed=True) == given
    with pytest.raises(PolicyError, match="unknown key 'quiet_hours'"):
        Policy.from_dict(newer)
    with pytest.raises(PolicyError, match="version 2"):
        Policy.from_dict({**newer, "version": 2}, is_followed=True)
    for key, broken in (("containers", []), ("containers", {"app": 1}), ("migrate", "sometimes")):
        with pytest.raises(PolicyError):
            Policy.from_dict({**newer, key: broken}, is_followed=True)


def test_a_hook_of_a_pod_that_does_not_move_is_warned_about() -> None:
    hook = {names.AFTER_RESTORE: '["refresh"]'}
    (warning,) = warnings({names.IDLE: "60s", names.MIGRATE: "false", **hook})
    assert warning == f"{names.AFTER_RESTORE} has no effect: the pod does not move"
    assert warnings({names.IDLE: "60s", **hook}) == ()
    assert warnings({names.START_FROM: "warm", **hook}) == ()


def test_where_a_pod_lies_that_does_not_move_is_warned_about() -> None:
    (warning,) = warnings(
        {names.IDLE: "60s", names.MIGRATE: "false", names.STORAGE: "object-store"}
    )
    assert warning == f"{names.STORAGE} has no effect: the pod does not move"
    # It is no source of a PersistentCheckpoint then.
    assert warnings({names.IDLE: "60s", names.MIGRATE: "false", names.STORAGE: "node"}) == ()
    assert warnings({names.IDLE: "60s", names.STORAGE: "object-store"}) == ()


@pytest.mark.parametrize("storage", [None, *Storage])
def test_a_policy_without_storage_is_read_by_earlier_versions(storage: Storage | None) -> None:
    made = Policy(storage=storage)
    assert ("storage" in made.to_dict()) is (storage is not None)
    assert Policy.from_json(made.to_json()) == made
    with pytest.raises(PolicyError, match="storage"):
        Policy.from_dict({"version": 1, "storage": "tape"})


def test_a_persistent_checkpoint_opts_in_and_is_the_only_source_of_state() -> None:
    assert policy({names.START_FROM: "warm"}).start_from == "warm"
    assert policy({names.START_FROM: "warm"}).migrate is Migrate.NEVER
    both = {names.START_FROM: "warm", names.MIGRATE: "true"}
    assert policy(both).migrate is Migrate.NEVER


def test_a_pod_that_starts_from_a_persistent_checkpoint_is_told_that_it_does_not_move() -> None:
    assert warnings({names.START_FROM: "warm"}) == ()
    assert warnings({names.START_FROM: "warm", names.MIGRATE: "false"}) == ()
    for value in ("true", "eviction"):
        (warning,) = warnings({names.START_FROM: "warm", names.MIGRATE: value})
        assert warning.startswith(f"{names.MIGRATE} has no effect beside {names.START_FROM}")
        assert "PersistentCheckpoint warm" in warning


@pytest.mark.parametrize("number", [-(2**31), -1, 0, 1_000_000_000])
def test_a_priority_is_one_that_a_priority_class_of_a_user_may_have(number: int) -> None:
    found = policy({names.IDLE: "60s", names.PRIORITY: str(number)})
    assert found.priority == number
    assert Policy.from_json(found.to_json()) == found


@pytest.mark.parametrize("value", ["7", 7.0, True, [7], -(2**31) - 1, 1_000_000_001])
def test_a_policy_with_another_priority_is_none(value: object) -> None:
    with pytest.raises(PolicyError, match=r"priority: .* is not an integer from -2147483648 to 1"):
        Policy.from_dict({"version": 1, "priority": value})


def test_a_priority_of_a_pod_that_is_never_saved_is_warned_about() -> None:
    assert warnings({names.IDLE: "60s", names.PRIORITY: "7"}) == ()
    assert warnings({names.MIGRATE: "eviction", names.PRIORITY: "0"}) == ()
    for unmoved in ({names.MIGRATE: "false"}, {names.START_FROM: "warm"}):
        (warning,) = warnings({names.IDLE: "60s", names.PRIORITY: "0", **unmoved})
        assert warning == f"{names.PRIORITY} has no effect: the pod does not move"


def test_a_pod_that_must_not_move_is_told_nothing_about_it() -> None:
    assert warnings({names.IDLE: "60s", names.MIGRATE: "false"}) == ()


def test_keys_without_an_opt_in_are_said_to_have_no_effect() -> None:
    reading = annotation_reading.read({names.WAKE_ON: "exec", names.MIGRATE: "false"}, BOTH)
    assert reading.policy is None
    assert reading.warnings == (
        "architect.dev/wake-on has no effect without one of architect.dev/idle, "
        "architect.dev/migrate, architect.dev/start-from",
    )


def test_keys_without_an_opt_in_are_read_all_the_same() -> None:
    (said,) = errors({names.WAKE_ON: "touch"})
    assert said.startswith('architect.dev/wake-on: "touch" cannot be read; allowed: packets, ')


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        (names.IDLE, "60", "a duration such as 90s"),
        (names.IDLE, "", "never"),
        (names.IDLE, "-1s", "a duration"),
        (names.IDLE, "8761h", "at most 8760h"),
        (names.IDLE, "٣s", "a duration"),
        (names.IDLE, "9" * 400 + "h", "a duration"),
        (names.IDLE, "null", "a duration"),
        (names.IDLE, '{"app": 60}', "a duration"),
        (names.IDLE, '{"app": null}', "a duration"),
        (names.IDLE, '{"app": "60s"', "a JSON object keyed by container name"),
        (names.IDLE, '{"app": "1s", "app": "2s"}', "a JSON object keyed by container name"),
        (names.IDLE, '{"a":' * 5000, "a JSON object keyed by container name"),
        (names.MIGRATE, "True", "true, eviction, false"),
        (names.MIGRATE, '{"app": "true"}', "true, eviction, false"),
        (names.CONTAINERS, "", "a comma list of app containers"),
        (names.CONTAINERS, "app,,app", "a comma list of app containers"),
        (names.CONTAINERS, "app,app", "each once"),
        (names.WAKE_ON, "packet", "packets, connections, exec"),
        (names.WARMUP, "never", "a duration"),
        (names.SHADOW_PORTS, "0", "ports from 1 to 65535"),
        (names.SHADOW_PORTS, "65536", "ports from 1 to 65535"),
        (names.SHADOW_PORTS, "http", "ports from 1 to 65535"),
        (names.SHADOW_PORTS, '{"app": [true]}', "ports from 1 to 65535"),
        (names.SHADOW_PORTS, '{"app": []}', "ports from 1 to 65535"),
        (names.ON_RESTORE_FAILURE, "ignore", "fresh, retry, fail"),
        (names.START_FROM, "", "the name of a PersistentCheckpoint"),
        (names.START_FROM, "Warm_1", "the name of a PersistentCheckpoint"),
        (names.START_FROM, "a" * 254, "the name of a PersistentCheckpoint"),
        (
            names.START_FROM,
            "shop/warm",
            "the name of a PersistentCheckpoint in the pod's namespace",
        ),
        (names.START_FROM, "../warm", "the name of a PersistentCheckpoint"),
        (names.START_FROM, "warm,hot", "the name of a PersistentCheckpoint"),
        (names.MOVE_ASLEEP, "yes", "true, false"),
        (names.AFTER_RESTORE, "/bin/refresh", "a JSON list of the words of a command"),
        (names.AFTER_RESTORE, "[]", "a JSON list of the words of a command"),
        (names.AFTER_RESTORE, '[""]', "a JSON list of the words of a command"),
        (names.AFTER_RESTORE, '["a", 7]', "a JSON list of the words of a command"),
        (names.AFTER_RESTORE, '["a\\u0000b"]', "a JSON list of the words of a command"),
        (names.AFTER_RESTORE, "[" * 5000, "a JSON list of the words of a command"),
        (names.AFTER_RESTORE, '{"app": "refresh"}', "a JSON list of the words of a command"),
        (names.STORAGE, "s3", "node, object-store"),
        (names.STORAGE, "Node", "node, object-store"),
        (names.STORAGE, '{"app": "node"}', "node, object-store"),
        (names.RUNTIME, "crun", "runc, runsc"),
        (names.PRIORITY, "1_000", "an integer"),
        (names.PRIORITY, "+1", "an integer"),
        (names.PRIORITY, "1.0", "an integer"),
        (names.PRIORITY, "٣", "an integer"),
        (names.PRIORITY, "", "an integer"),
        (names.PRIORITY, "1000000001", "from -2147483648 to 1000000000"),
        (names.PRIORITY, "-2147483649", "from -2147483648 to 1000000000"),
        (names.PRIORITY, "9" * 400, "from -2147483648 to 1000000000"),
        (names.PRIORITY, '{"app": 1}', "an integer"),
        (names.PRIORITY, "high", "an integer"),
    ],
)
def test_what_cannot_be_read_names_key_value_and_what_is_allowed(
    key: str, value: str, allowed: str
) -> None:
    (said,) = errors({names.IDLE: "60s", key: value})
    assert said.startswith(f"{key}: ")
    head, _, tail = said.partition("; allowed: ")
    assert allowed in tail
    assert len(said) < 500
    if len(value) < 30 and not value.startswith("{"):
        assert json.dumps(value) in head


def test_all_that_is_wrong_is_said_at_once() -> None:
    found = errors(
        {
            names.IDLE: '{"app": "soon", "web": "60s"}',
            names.MIGRATE: "maybe",
            names.CONTAINERS: "app,nobody",
            names.PRIORITY: "high",
            "architect.dev/wakeon": "exec",
        },
        *BOTH,
    )
    assert len(found) == 6
    assert [text.split(":")[0] for text in found] == [
        "architect.dev/wakeon",
        names.CONTAINERS,
        names.IDLE,
        names.IDLE,
        names.MIGRATE,
        names.PRIORITY,
    ]


def test_unknown_containers_are_errors_and_known_ones_are_listed() -> None:
    (said,) = errors({names.IDLE: '{"web": "60s"}'}, *BOTH)
    assert said == (
        'architect.dev/idle: "web" is not an app container of the pod; allowed: app, db '
        "(init containers are never managed)"
    )


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("architect.dev/idel", names.IDLE),
        ("architect.dev/wakeon", names.WAKE_ON),
        ("architect.dev/shadow-port", names.SHADOW_PORTS),
        ("architect.dev/startFrom", names.START_FROM),
    ],
)
def test_an_unknown_key_is_an_error_with_the_nearest_known_one(key: str, nearest: str) -> None:
    (said,) = errors({key: "x"})
    assert f'{key}: "x" has an unknown key, did you mean {nearest}?' in said
    assert all(known in said for known in names.USER_ANNOTATIONS)


def test_keys_that_we_write_are_no_errors_and_labels_are_named_as_such() -> None:
    assert policy_from_annotations({names.POLICY: "x", names.ORIGINAL_REQUESTS: "x"}, BOTH) is None
    (said,) = errors({names.FRESH: "true"})
    assert said == "architect.dev/fresh is a label: it means nothing as an annotation"


def test_every_key_of_ours_is_a_users_or_ours_or_no_annotation() -> None:
    known = {
        *names.USER_ANNOTATIONS,
        *annotation_reading.WRITTEN_BY_US,
        *annotation_reading.LABELS_ONLY,
    }
    known.add(names.CONDITION_ASLEEP)
    known.update((names.UNINSTALL, names.UNINSTALLED))  # of the DaemonSet and of nodes
    known.update((names.INTERRUPTION, names.OUT_OF_SERVICE, names.SPOT_NEEDS))  # of nodes
    known.add(names.OUT_OF_SERVICE)  # of nodes, by the operator
    known.update((names.DAEMON_SIGNER, names.OWNER_LABEL, names.PIN))  # of Checkpoints
    spelled = {
        value
        for value in vars(names).values()
        if isinstance(value, str) and value.startswith(f"{names.GROUP}/")
    }
    assert spelled == known


def test_odd_and_legal_values_are_warned_about() -> None:
    assert "sleeps 0s after its last activity" in warnings({names.IDLE: "0s"})[0]
    assert "container db has no idle time" in warnings({names.IDLE: '{"app": "60s"}'}, *BOTH)[0]
    (said,) = warnings({names.IDLE: '{"app": "1m", "db": "1m"}', names.CONTAINERS: "app"}, *BOTH)
    assert said == "architect.dev/idle: container db is not managed, its value has no effect"
    assert "neither sleeps" in warnings({names.IDLE: "never", names.MIGRATE: "false"})[0]
    assert warnings({names.IDLE: "60s"}) == ()
    assert warnings({names.IDLE: "never"}) == ()


def test_the_runtime_comes_from_the_annotation_or_from_a_class_of_ours() -> None:
    def chosen(given_annotations: dict[str, str], present: str | None) -> str:
        return annotation_reading.read(
            {names.IDLE: "never", **given_annotations}, (APP,), runtime_class=present
        ).runtime_class

    assert chosen({}, None) == names.RUNTIME_CLASS
    assert chosen({names.RUNTIME: "runsc"}, None) == names.RUNTIME_CLASS_GVISOR
    assert chosen({}, names.RUNTIME_CLASS_GVISOR) == names.RUNTIME_CLASS_GVISOR
    assert chosen({names.RUNTIME: "runsc"}, "kata") == names.RUNTIME_CLASS_GVISOR
    with pytest.raises(AnnotationErrors, match="agrees with the pod's runtimeClassName"):
        chosen({names.RUNTIME: "runc"}, names.RUNTIME_CLASS_GVISOR)


def test_a_gvisor_pod_neither_sleeps_by_itself_nor_moves() -> None:
    reading = annotation_reading.read(
        {names.IDLE: "60s", names.MIGRATE: "true", names.RUNTIME: "runsc"}, (APP,)
    )
    assert reading.policy is not None
    assert reading.policy.containers["app"].idle_seconds is None
    assert reading.policy.migrate is Migrate.NEVER
    assert reading.warnings == (
        f"{names.IDLE} has no effect: a gVisor pod does not sleep by itself",
        f"{names.MIGRATE} has no effect: a gVisor pod does not move",
    )


def test_what_a_gvisor_pod_does_not_have_is_named_unless_it_is_switched_off() -> None:
    asked = {names.RUNTIME: "runsc", names.START_FROM: "warm"}
    idle = {names.CONTAINERS: "app", names.WAKE_ON: "exec", names.WARMUP: "5s"}
    reading = annotation_reading.read(
        {**asked, **idle, names.SHADOW_PORTS: "9090", names.MIGRATE: "eviction"}, BOTH
    )
    assert [text.partition(" ")[0] for text in reading.warnings] == [
        *idle,
        names.SHADOW_PORTS,
        names.MIGRATE,
    ]
    assert reading.policy is not None
    assert set(reading.policy.containers) == {"app", "db"}, "a sandbox is saved as a whole"
    off = {names.IDLE: "never", names.MIGRATE: "false"}
    assert annotation_reading.read({**asked, **off}, BOTH).warnings == ()


# The vendor's family.


def test_the_vendors_managed_containers_have_the_vendors_defaults() -> None:
    found = policy({f"{VENDOR}managed-containers": '["app"]'}, *BOTH)
    assert set(found.containers) == {"app"}
    app = found.containers["app"]
    assert (app.idle_seconds, app.warmup_seconds, app.wake_on) == (60.0, 0.0, WakeOn.EXEC)
    assert found.migrate is Migrate.ALWAYS


def test_the_vendors_keys_are_translated_exactly() -> None:
    found = policy(
        {
            f"{VENDOR}managed-containers": '["app", "db"]',
            f"{VENDOR}scaledown-durations": '{"app": "30s"}',
            f"{VENDOR}initial-scaledown-delays": '{"app": "90s", "db": "48h"}',
            f"{VENDOR}network-monitor": '{"app": "packets", "db": "connections"}',
            f"{VENDOR}shadow-ports": '{"mappings": [{"containerName": "app", "appPort": 8080, '
            '"shadowPort": 9090}]}',
            f"{VENDOR}start-from-persistent-checkpoint": "warm",
        },
        *BOTH,
    )
    app, db = found.containers["app"], found.containers["db"]
    assert (app.idle_seconds, db.idle_seconds) == (30.0, 60.0)
    assert (app.warmup_seconds, db.warmup_seconds) == (90.0, 86400.0)
    assert (app.wake_on, db.wake_on) == (WakeOn.PACKETS, WakeOn.CONNECTIONS)
    assert (app.shadow_ports, db.shadow_ports) == ((9090,), ())
    assert found.start_from == "warm"


def test_the_vendors_start_from_is_the_only_source_too() -> None:
    key = f"{VENDOR}start-from-persistent-checkpoint"
    given = {f"{VENDOR}managed-containers": '["app"]', key: "warm"}
    assert (policy(given).start_from, policy(given).migrate) == ("warm", Migrate.NEVER)
    assert warnings(given) == ()


def test_probes_of_the_vendors_proxy_are_led_to_the_applications_port() -> None:
    probes = (
        Probe(kind=ProbeKind.HTTP, port=9080),
        HTTP,
        Probe(kind=ProbeKind.EXEC, argv=("true",)),
    )
    reading = annotation_reading.read(
        {
            f"{VENDOR}managed-containers": '["app"]',
            f"{VENDOR}health-check-proxy": '{"mappings": [{"containerName": "app", '
            '"appPort": 8080, "shadowPort": 9080}]}',
        },
        (AppContainer(name="app", probes=probes),),
    )
    assert reading.policy is not None
    assert reading.policy.containers["app"].probes == probes[1:]
    assert reading.probe_ports == {"app": {9080: 8080}}
    assert "its probes are led to port 8080" in reading.warnings[0]


def test_the_vendors_whole_pod_runs_under_gvisor() -> None:
    reading = annotation_reading.read({f"{VENDOR}managed-pod": "true"}, BOTH)
    assert reading.runtime_class == names.RUNTIME_CLASS_GVISOR
    assert reading.policy is not None
    assert set(reading.policy.containers) == {"app", "db"}
    assert reading.policy.migrate is Migrate.NEVER


def test_the_vendors_keys_of_sleep_mean_nothing_for_the_whole_pod() -> None:
    given = {f"{VENDOR}scaledown-durations": '{"app": "30s"}'}
    given |= {f"{VENDOR}network-monitor": '{"app": "packets"}'}
    reading = annotation_reading.read({f"{VENDOR}managed-pod": "true", **given}, BOTH)
    assert [text.partition(" ")[0] for text in reading.warnings] == list(given)
    assert reading.policy is not None
    assert {c.idle_seconds for c in reading.policy.containers.values()} == {None}
    assert reading.policy.containers["app"].wake_on is WakeOn.EXEC


def test_a_pod_that_is_not_managed_as_a_whole_is_managed_by_its_containers() -> None:
    reading = annotation_reading.read(
        {f"{VENDOR}managed-pod": "false", f"{VENDOR}managed-containers": '["app"]'}, BOTH
    )
    assert reading.runtime_class == names.RUNTIME_CLASS
    assert reading.policy is not None
    assert reading.policy.containers["app"].idle_seconds == 60.0
    assert annotation_reading.read({f"{VENDOR}managed-pod": "false"}, BOTH).policy is None


def test_without_managed_containers_the_vendors_keys_have_no_effect() -> None:
    reading = annotation_reading.read({f"{VENDOR}scaledown-durations": '{"app": "30s"}'}, BOTH)
    assert reading.policy is None
    assert any("no container of the pod is managed" in text for text in reading.warnings)


def test_an_unknown_key_of_the_vendor_is_ignored_with_a_warning() -> None:
    reading = annotation_reading.read(
        {f"{VENDOR}managed-containers": '["app"]', f"{VENDOR}managed-container": "x"}, BOTH
    )
    assert reading.policy is not None
    assert f"{VENDOR}managed-container is not known and ignored" in reading.warnings[0]


MAPPING = '{"containerName": "app", "appPort": %d, "shadowPort": %d}'


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("managed-containers", "app", "a JSON list"),
        ("managed-containers", '{"app": true}', "a JSON list"),
        ("managed-containers", '["app", "app"]', "each once"),
        ("managed-containers", '["web"]', "app, db"),
        ("managed-containers", "[1]", "a JSON list"),
        ("managed-containers", "null", "a JSON list"),
        ("managed-pod", "yes", "true, false"),
        ("scaledown-durations", "30s", "a JSON object"),
        ("scaledown-durations", '{"app": "never"}', "a duration"),
        ("scaledown-durations", '{"web": "30s"}', "app, db"),
        ("initial-scaledown-delays", '{"app": 90}', "24h"),
        ("network-monitor", '{"app": "exec"}', "packets, connections"),
        ("network-monitor", '{"app": {}}', "packets, connections"),
        ("network-monitor", '{"app": []}', "packets, connections"),
        ("health-check-proxy", "{}", "mappings"),
        ("health-check-proxy", '{"mappings": {}}', "mappings"),
        ("health-check-proxy", '{"mappings": [{"containerName": "app"}]}', "shadowPort"),
        ("health-check-proxy", '{"mappings": [' + MAPPING % (8080, 0) + "]}", "shadowPort"),
        (
            "health-check-proxy",
            '{"mappings": [' + MAPPING % (8080, 9080) + "," + MAPPING % (8081, 9080) + "]}",
            "one appPort",
        ),
        (
            "shadow-ports",
            '{"mappings": [' + MAPPING % (8080, 9080) + "," + MAPPING % (9080, 9081) + "]}",
            "is not a shadowPort too",
        ),
        ("start-from-persistent-checkpoint", "A", "PersistentCheckpoint"),
    ],
)
def test_what_cannot_be_read_of_the_vendors_says_so(key: str, value: str, said: str) -> None:
    (message,) = errors({f"{VENDOR}managed-containers": '["app"]', VENDOR + key: value}, *BOTH)[:1]
    assert message.startswith(f"{VENDOR}{key}: ")
    assert said in message


def test_the_vendors_two_ways_to_manage_exclude_each_other() -> None:
    (said,) = errors({f"{VENDOR}managed-containers": '["app"]', f"{VENDOR}managed-pod": "true"})
    assert "cannot stand on one pod" in said


def test_both_families_on_one_pod_are_an_error_that_names_both() -> None:
    found = errors({names.IDLE: "soon", f"{VENDOR}managed-containers": "x"})
    assert "architect.dev/idle and architect.loopholelabs.io/managed-containers cannot" in found[0]
    assert len(found) == 3


# Anything at all.

KEYS = st.sampled_from([*names.USER_ANNOTATIONS, *vendor_annotations.KEYS]) | st.text(
    max_size=20
).map(lambda tail: f"{names.GROUP}/{tail}")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["app", "db", "mappings", "containerName", "appPort", "shadowPort"])
            | st.text(max_size=5),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
).map(json.dumps)
VALUES = (
    JSON
    | st.text(max_size=30)
    | st.sampled_from(
        ["60s", "never", "0s", "true", "eviction", "app", "app,db", "9090", "runsc", "exec", "1"]
    )
)


@given(st.dictionaries(KEYS, VALUES, max_size=6))
def test_any_annotations_give_a_policy_that_survives_its_json_or_errors_that_name_keys(
    given_annotations: dict[str, str],
) -> None:
    try:
        reading = annotation_reading.read(given_annotations, BOTH)
    except AnnotationErrors as error:
        assert error.messages
        for message in error.messages:
            assert "architect." in message
            assert message.isprintable()
        return
    if reading.policy is not None:
        assert Policy.from_json(reading.policy.to_json()) == reading.policy
        assert set(reading.policy.containers) <= {"app", "db"}
        assert reading.policy.containers
