from __future__ import annotations

import pytest

from architect.shim import cli

GLOBAL = ["--root", "/run/r", "--log", "/l.json", "--log-format", "json", "--systemd-cgroup"]


def test_containerds_create_is_understood() -> None:
    call = cli.parse([*GLOBAL, "create", "--bundle", "/b", "--pid-file", "/b/init.pid", "id1"])
    assert (call.command, call.container, call.bundle, call.root) == (
        "create",
        "id1",
        "/b",
        "/run/r",
    )
    assert call.options["pid-file"] == "/b/init.pid"
    assert call.has_systemd_cgroup
    assert call.global_options["log"] == "/l.json"


@pytest.mark.parametrize(
    "words",
    [
        ["create", "-b", "/b", "id1"],
        ["create", "-bundle", "/b", "id1"],
        ["create", "--bundle=/b", "--no-pivot", "id1"],
        ["--debug", "create", "--bundle", "/b", "--", "id1"],
        ["--root=/x", "run", "--detach", "--preserve-fds", "2", "--bundle", "/b", "id1"],
    ],
)
def test_every_spelling_of_an_option_is_understood(words: list[str]) -> None:
    call = cli.parse(words)
    assert (call.bundle, call.container) == ("/b", "id1")


def test_without_options_runcs_defaults_hold() -> None:
    call = cli.parse(["create", "id1"])
    assert (call.bundle, call.root, call.has_systemd_cgroup) == (".", "/run/runc", False)
    assert cli.parse(["kill", "id1"]).signal == "SIGTERM"


@pytest.mark.parametrize("words", [[], ["--version"], ["--root", "/r"], ["--root"], ["kill"]])
def test_incomplete_calls_have_no_container(words: list[str]) -> None:
    assert cli.parse(words).container == ""


@pytest.mark.parametrize(
    ("signal", "expected"),
    [("9", True), ("KILL", True), ("sigkill", True), ("15", False), ("SIGTERM", False)],
)
def test_sigkill_is_recognised_in_every_form(signal: str, expected: bool) -> None:
    assert cli.parse(["kill", "--all", "id1", signal]).is_kill_nine is expected


def test_an_execs_own_words_are_not_options() -> None:
    call = cli.parse(["exec", "-t", "--env", "A=1", "id1", "sh", "-p", "x"])
    assert call.operands == ("id1", "sh", "-p", "x")
    assert "process" not in call.options


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["exec", "-p", "/p", "-d", "id1"], ["exec", "--process", "/new", "-d", "id1"]),
        (["exec", "--process=/p", "id1"], ["exec", "--process=/new", "id1"]),
        (
            ["--log", "l", "exec", "--pid-file", "--process", "--process", "/p", "id1"],
            ["--log", "l", "exec", "--pid-file", "--process", "--process", "/new", "id1"],
        ),
    ],
)
def test_only_the_process_file_is_replaced(words: list[str], expected: list[str]) -> None:
    assert cli.with_process_file(cli.parse(words), "/new") == expected


def test_only_the_command_is_replaced() -> None:
    call = cli.parse(["exec", "-t", "id1", "sh", "-c", "x"])
    assert cli.with_command(call, ["a", "--b"]) == ["exec", "-t", "id1", "a", "--b"]


def test_crun_has_more_options_with_values() -> None:
    call = cli.parse(["--log-level", "debug", "create", "-f", "other.json", "-b", "/b", "id1"])
    assert (call.command, call.container, call.bundle) == ("create", "id1", "/b")
    assert call.options["config"] == "other.json"


def test_without_root_the_lower_runtimes_own_is_meant() -> None:
    assert cli.parse(["state", "id1"], default_root="/run/crun").root == "/run/crun"
    assert cli.parse(["--root", "/r", "state", "id1"], default_root="/run/crun").root == "/r"
