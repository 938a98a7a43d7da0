"""``exec``, ``kill`` and ``delete`` of a managed container.

Each ends in the lower runtime, by execv wherever nothing is left to do afterwards, so that the
engine's process tree, descriptors and signals are what they would be without us.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final, NoReturn

from architect.api import names
from architect.api.keeper import PodState
from architect.core import files
from architect.core.errors import ArchitectError, FormatError, NodeError, Rejected
from architect.shim import cli, engine_log, installation, keeper_client, record_files
from architect.shim.cli import Call

WAKE_SECONDS: Final = 60.0
"""As long as a restore may take before the command fails; kubelet's own patience is longer."""
REMOVED_SECONDS: Final = 2.0

INIT_TRUE: Final = "--true"
"""Our init's option that does nothing and succeeds."""

_EXEC_FAILED: Final = 255
"""runc's exit status when it cannot start the process of ``exec``."""


def exec_(call: Call) -> NoReturn:
    """``exec``: wake the container first, or answer an exec probe without waking it."""
    process: dict[str, Any] | None = None
    argv = list(call.operands[1:])
    if (file := call.options.get("process")) is not None:
        try:
            process = json.loads(Path(file).read_bytes())
            argv = list((process or {}).get("args") or ())
        except (OSError, ValueError):
            installation.pass_on(call.words)
    answer = _wake(call, "exec", argv=argv)
    if not answer.get("probe"):
        installation.pass_on(call.words)
    command = [names.INIT_IN_CONTAINER, INIT_TRUE]
    if process is None:
        installation.pass_on(cli.with_command(call, command))
    # In memory, so that nothing is left to remove after execv.
    fd = os.memfd_create("process.json", 0)
    os.write(fd, json.dumps({**process, "args": command}).encode())
    installation.pass_on(cli.with_process_file(call, f"/proc/self/fd/{fd}"))


def kill(call: Call) -> NoReturn:
    """``kill``: the application gets the signal, so it must be there. SIGKILL needs nobody."""
    if not call.is_kill_nine:
        _tell_daemon(call)
        try:
            answer = keeper_client.ask(
                "kill",
                timeout_seconds=WAKE_SECONDS,
                container=call.container,
                signal=call.signal,
            )
            if answer.get("state") == PodState.CAPTURED.value:
                os._exit(0)  # its successor goes on; here it was ended without the signal
        except ArchitectError as error:
            # Our init keeps the signal for the application; the grace period goes on.
            engine_log.warning(
                call, f"container {call.container} was not woken for {call.signal}: {error}"
            )
    installation.pass_on(call.words)


def _tell_daemon(call: Call) -> None:
    """Let the daemon save the pod first if this is its end and a successor will come."""
    # Only here: exec, on the way of every probe, needs none of it.
    from architect.api import daemon
    from architect.api.policy import Migrate
    from architect.shim import daemon_client

    try:
        record = files.read_json(record_files.path(call.container), version=record_files.VERSION)
        policy = record.get("policy") or {}
        if policy.get("migrate") == Migrate.NEVER.value or not record.get("namespace"):
            return
        daemon_client.ask(
            daemon.LEAVING,
            timeout_seconds=daemon.LEAVING_SECONDS,
            is_awaited=lambda: _is_being_saved(record["pod"]),
            pod=record["pod"],
            namespace=record["namespace"],
            pod_name=record["pod_name"],
            container=record["container"],
        )
    except (ArchitectError, OSError, KeyError, AttributeError) as error:
        engine_log.warning(call, f"container {call.container} is not saved: {error}")


def _is_being_saved(pod: str) -> bool:
    """Whether a daemon had begun to save the pod: it is frozen, and the next one goes on."""
    from architect.shim.keeper import podstate

    try:
        return podstate.read(pod).is_leaving
    except (ArchitectError, OSError):
        return False


def delete(call: Call) -> int:
    """``delete``: the lower runtime first; what it has deleted is forgotten. Return its status.

    Of most containers the launcher does the same without an interpreter.
    """
    runtime = str(installation.lower_runtime())
    pid = os.posix_spawn(runtime, [runtime, *call.words], os.environ)
    _, wait_status = os.waitpid(pid, 0)
    status = os.waitstatus_to_exitcode(wait_status)
    if not (Path(call.root) / call.container).exists():  # else it was refused
        forget(call)
    return _shell_status(status)


def forget(call: Call) -> None:
    """Let go of what is known of a container that the lower runtime has deleted."""
    if record_files.path(call.container).exists():
        try:
            keeper_client.ask("removed", timeout_seconds=REMOVED_SECONDS, container=call.container)
        except ArchitectError as error:
            engine_log.warning(call, f"container {call.container} is deleted, unheard: {error}")
    try:
        record_files.remove(call.container)
    except OSError as error:
        engine_log.warning(call, f"cannot remove the record of {call.container}: {error}")


def is_of(call: Call) -> bool:
    """Whether the managed container of *call* is the one with that id below the same ``--root``."""
    if not record_files.is_identity(call.container):
        return False
    try:
        record = files.read_json(record_files.path(call.container), version=record_files.VERSION)
    except FileNotFoundError:
        return record_files.unmanaged_path(call.container).exists()
    except FormatError:
        return True  # another version's: the keeper knows, and delete must remove it
    return os.path.realpath(str(record.get("runc_root"))) == os.path.realpath(call.root)


def _wake(call: Call, op: str, **arguments: Any) -> dict[str, Any]:
    try:
        return keeper_client.ask(
            op, timeout_seconds=WAKE_SECONDS, container=call.container, **arguments
        )
    except (Rejected, NodeError) as error:
        engine_log.error(
            call,
            f"exec failed: container {call.container} is asleep and cannot be woken: {error}",
        )
        os._exit(_EXEC_FAILED)
    except ArchitectError as error:
        # The container runs; whether its application sleeps is unknown.
        engine_log.warning(call, f"exec without the keeper, the application may sleep: {error}")
        os.write(2, f"architect: the application may be asleep: {error}\n".encode())
        return {}


def _shell_status(status: int) -> int:
    return 128 - status if status < 0 else status
