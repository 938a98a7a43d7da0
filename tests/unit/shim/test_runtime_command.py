from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from architect.api import names
from architect.shim import preflight, record_files, records, runtime_command
from architect.shim.gvisor import records as gvisor
from architect.shim.gvisor.pods import NEVER_SLEEPS
from support.runtime import KeeperDouble

POD = {
    "pod": "uid-1",
    "namespace": "shop",
    "name": "web-0",
    "state": "asleep",
    "since": 0.0,
    "image_bytes": 5 << 20,
    "held_packets": 0,
    "reason": "idle",
    "last_sleep_seconds": 0.12,
    "last_wake_seconds": None,
    "refused": None,
    "containers": {"app": {"id": "abc", "init_pid": None, "state": "asleep", "image_bytes": 0}},
}

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def keeper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KeeperDouble]:
    monkeypatch.setattr(names, "KEEPER_SOCKET", tmp_path / "keeper.sock")
    monkeypatch.setattr(record_files, "UNMANAGED", tmp_path / "unmanaged")
    monkeypatch.setattr(gvisor, "DIRECTORY", tmp_path / "gvisor")
    double = KeeperDouble(tmp_path)
    yield double
    double.close()


@pytest.fixture
def run(
    keeper: KeeperDouble, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    def called(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["architect-runtime", *words])
        with pytest.raises(SystemExit) as ended:
            runtime_command.main()
        code = ended.value.code
        assert isinstance(code, int)
        return code, *capsys.readouterr()

    return called


def failure(code: str, message: str) -> dict[str, Any]:
    error = {"code": code, "message": message, "hint": "look", "reason": "Reason"}
    return {"ok": False, "error": error}


def test_sleep_passes_its_reason_and_patience_on(run: Run, keeper: KeeperDouble) -> None:
    keeper.answers["sleep"] = {"ok": True, "status": POD, "duration_seconds": 0.12}
    code, out, _ = run("sleep", "shop/web-0", "--patience", "1m")
    assert (code, out) == (0, "shop/web-0 is asleep after 120ms\n")
    assert keeper.calls[0] | {"v": 1} == {
        "v": 1,
        "op": "sleep",
        "pod": "shop/web-0",
        "reason": "by hand",
        "patience_seconds": 60.0,
    }


@pytest.mark.parametrize(("kind", "status"), [("rejected", 2), ("failed", 3)])
def test_errors_have_a_text_a_hint_and_an_exit_code(
    run: Run, keeper: KeeperDouble, kind: str, status: int
) -> None:
    keeper.answers["wake"] = failure(kind, "pod 'x' is unknown")
    code, out, err = run("wake", "x")
    assert (code, out) == (status, "")
    assert err == "architect-runtime: pod 'x' is unknown (hint: look)\n"


def test_json_is_the_keepers_answer(run: Run, keeper: KeeperDouble) -> None:
    keeper.answers["status"] = {"ok": True, "status": POD}
    code, out, _ = run("status", "uid-1", "-o", "json")
    assert code == 0
    assert json.loads(out) == POD


def test_status_shows_the_pod_and_its_containers(run: Run, keeper: KeeperDouble) -> None:
    refused = {"reason": "Mptcp", "message": "no", "hint": "look"}
    keeper.answers["status"] = {"ok": True, "status": {**POD, "refused": refused}}
    code, out, _ = run("status", "uid-1")
    assert code == 0
    for text in ("shop/web-0", "Mptcp: no", "hint:", "app        asleep  -     -      abc"):
        assert text in out


def test_the_list_shows_managed_and_unmanaged(run: Run, keeper: KeeperDouble) -> None:
    keeper.answers["list"] = {"ok": True, "pods": [POD]}
    note_of(pod_name="tty-0", reason="Terminal", message="has a terminal")
    code, out, _ = run("list")
    assert code == 0
    assert "shop/web-0  asleep" in out
    assert "shop/tty-0  app        Terminal  has a terminal" in out


def test_why_has_the_processes_looked_at_first(run: Run, keeper: KeeperDouble) -> None:
    keeper.answers["why"] = {"ok": True, "why": ["app: Socket: process 7 has one"]}
    assert run("why", "shop/web-0")[1] == "app: Socket: process 7 has one\n"
    assert keeper.ops() == ["check", "why"]
    keeper.answers["check"] = failure("failed", "the look has failed")
    assert run("why", "shop/web-0")[1] == "app: Socket: process 7 has one\n"


def test_check_of_an_unmanaged_pod_is_its_note(run: Run, keeper: KeeperDouble) -> None:
    keeper.answers["check"] = failure("rejected", "unknown pod")
    assert run("check", "shop/tty-0")[0] == 2
    note_of(pod_name="tty-0", reason="Terminal", message="has a terminal")
    code, out, _ = run("check", "shop/tty-0")
    assert (code, out) == (2, "blocks: app: Terminal: has a terminal\n")


@pytest.mark.parametrize(
    ("state", "is_blocking", "code", "said"),
    [
        ("awake", True, 2, "blocks: app: Mptcp: process 7 (web) has one\n"),
        ("awake", False, 0, "note: app: Mptcp: process 7 (web) has one\n"),
        ("awake", None, 0, "nothing keeps it from sleeping\n"),
        ("asleep", None, 0, "the pod is asleep: nothing to look at\n"),
    ],
)
def test_check_tells_the_keepers_findings(
    run: Run, keeper: KeeperDouble, state: str, is_blocking: bool | None, code: int, said: str
) -> None:
    finding = {
        "container": "app",
        "reason": "Mptcp",
        "message": "process 7 (web) has one",
        "is_blocking": is_blocking,
    }
    keeper.answers["check"] = {
        "ok": True,
        "status": {**POD, "state": state},
        "findings": [] if is_blocking is None else [finding],
    }
    assert run("check", "shop/web-0")[:2] == (code, said)


def test_check_without_a_pod_looks_at_the_node(
    run: Run, keeper: KeeperDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [
        preflight.Check(name="criu", is_good=True, message="Looks good."),
        preflight.Check(name="space", is_good=False, message="none"),
    ]
    monkeypatch.setattr(preflight, "run", lambda: iter(found))
    code, out, _ = run("check")
    assert (code, out) == (2, "criu:   good    Looks good.\nspace:  blocks  none\n")
    assert keeper.calls == []


def test_a_duration_that_cannot_be_read_is_said_so(
    run: Run, keeper: KeeperDouble, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run("sleep", "x", "--patience", "soon")
    assert code == 2
    assert "'soon' is not a duration" in err
    assert keeper.calls == []


def note_of(*, pod_name: str, reason: str, message: str) -> None:
    records.write_unmanaged(
        records.Unmanaged(
            id="other",
            pod="uid-2",
            namespace="shop",
            pod_name=pod_name,
            container="app",
            reason=reason,
            message=message,
            created=0.0,
        )
    )


def test_a_pod_of_gvisor_does_not_sleep_and_the_keeper_is_not_asked(
    run: Run, keeper: KeeperDouble
) -> None:
    record = gvisor.Record(
        sandbox="box",
        pod="uid-2",
        namespace="shop",
        pod_name="safe-0",
        name="app",
        policy=None,
        runsc=["/bin/runsc"],
        root="/run/runsc",
        bundle="/b",
        pid_file=None,
        oom_score=None,
        has_terminal=False,
        is_started=True,
    )
    gvisor.write("c2", record)
    (gvisor.DIRECTORY / "odd.json").write_text('{"version": 99}')
    for pod in ("uid-2", "shop/safe-0", "c2"):
        code, out, _ = run("why", pod)
        assert (code, out) == (0, f"{NEVER_SLEEPS}\n")
    assert keeper.calls == []
    keeper.answers["why"] = {"ok": True, "why": ["app: 3 packets 2s ago"]}
    assert run("why", "shop/web-0")[1] == "app: 3 packets 2s ago\n"
