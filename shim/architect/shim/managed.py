"""The commands that mean something else for a managed container: read, decide, apply.

Each ends in the lower runtime: by execv wherever nothing is left to do afterwards, so that the
engine's process tree, descriptors and signals are what they would be without us.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any, Final, NoReturn

from architect.core.errors import ArchitectError, FormatError, NodeError, Rejected
from architect.shim import cli, engine_log, installation, oci, records
from architect.shim.cli import Call

REGISTER_SECONDS: Final = 1.0
"""The keeper finds the record by itself when it is too busy to answer."""
WAKE_SECONDS: Final = 60.0
"""As long as a restore may take before the command fails; kubelet's own patience is longer."""
REMOVED_SECONDS: Final = 2.0

INIT_TRUE: Final = "--true"
"""Our init's option that does nothing and succeeds."""

_EXEC_FAILED: Final = 255
"""runc's exit status when it cannot start the process of ``exec``."""

_IO_URING_DISABLED = Path("/proc/sys/kernel/io_uring_disabled")
"""Since Linux 6.6; ``2`` denies io_uring to everybody."""


def pass_on(words: list[str] | tuple[str, ...]) -> NoReturn:
    """Become the lower runtime. Raises NodeError if there is none."""
    runtime = str(installation.lower_runtime())
    os.execv(runtime, [runtime, *words])


def create(call: Call) -> NoReturn:
    """``create`` and ``run``: put our init in front of the application and tell the keeper."""
    file = Path(call.bundle) / "config.json"
    try:
        spec = json.loads(file.read_bytes())
    except (OSError, ValueError):
        pass_on(call.words)  # the lower runtime says it in its own words
    if not isinstance(spec, dict) or not records.is_identity(call.container):
        pass_on(call.words)
    found = oci.wanted(spec, container_id=call.container)
    if found is None:
        pass_on(call.words)
    if isinstance(found, oci.Wanted) and not oci.is_ours(spec):
        refused = oci.refusal(
            spec,
            is_host_network=_is_host_network(spec),
            is_executable_found=_is_executable_found(spec, bundle=Path(call.bundle)),
        )
        if refused is not None:
            found = oci.Refused(identity=found.identity, reason=refused[0], message=refused[1])
        elif _is_taken(call):
            found = oci.Refused(
                identity=found.identity,
                reason="IdInUse",
                message=f"container {call.container} exists below another --root",
            )
    if isinstance(found, oci.Refused):
        _note_unmanaged(call, found)
        pass_on(call.words)
    sha, init = installation.init()
    if not oci.is_ours(spec):
        _replace(
            file,
            oci.managed(
                spec,
                init=str(init),
                machine=os.uname().machine,
                denies_io_uring=_denies_io_uring(),
            ),
        )
    records.write(_record(call, spec, found, init_sha=sha))
    _register(call)
    pass_on(call.words)


def exec_(call: Call) -> NoReturn:
    """``exec``: wake the container first, or answer an exec probe without waking it."""
    process: dict[str, Any] | None = None
    argv = list(call.operands[1:])
    if (file := call.options.get("process")) is not None:
        try:
            process = json.loads(Path(file).read_bytes())
            argv = list((process or {}).get("args") or ())
        except (OSError, ValueError):
            pass_on(call.words)
    answer = _wake(call, "exec", argv=argv)
    if not answer.get("probe"):
        pass_on(call.words)
    command = [_init_in_container(), INIT_TRUE]
    if process is None:
        pass_on(cli.with_command(call, command))
    # In memory, so that nothing is left to remove after execv.
    fd = os.memfd_create("process.json", 0)
    os.write(fd, json.dumps({**process, "args": command}).encode())
    pass_on(cli.with_process_file(call, f"/proc/self/fd/{fd}"))


def kill(call: Call) -> NoReturn:
    """``kill``: the application gets the signal, so it must be there. SIGKILL needs nobody."""
    if not call.is_kill_nine:
        from architect.shim import keeper_client

        try:
            keeper_client.ask(
                "kill",
                timeout_seconds=WAKE_SECONDS,
                container=call.container,
                signal=call.signal,
            )
        except ArchitectError as error:
            # Our init keeps the signal for the application; the grace period goes on.
            engine_log.warning(
                call, f"container {call.container} was not woken for {call.signal}: {error}"
            )
    pass_on(call.words)


def delete(call: Call) -> int:
    """``delete``: the lower runtime first; what it has deleted is forgotten. Return its status."""
    runtime = str(installation.lower_runtime())
    pid = os.posix_spawn(runtime, [runtime, *call.words], os.environ)
    _, wait_status = os.waitpid(pid, 0)
    status = os.waitstatus_to_exitcode(wait_status)
    if (Path(call.root) / call.container).exists():
        return _shell_status(status)  # refused: the container is still there
    from architect.shim import keeper_client

    try:
        keeper_client.ask("removed", timeout_seconds=REMOVED_SECONDS, container=call.container)
    except ArchitectError as error:
        engine_log.warning(call, f"container {call.container} is deleted, unheard: {error}")
    try:
        records.remove(call.container)
    except OSError as error:
        engine_log.warning(call, f"cannot remove the record of {call.container}: {error}")
    return _shell_status(status)


def is_of(call: Call) -> bool:
    """Whether the managed container of *call* is the one with that id below the same ``--root``."""
    if not records.is_identity(call.container):
        return False
    try:
        record = records.read(call.container)
    except FileNotFoundError:
        return (records.UNMANAGED / f"{call.container}.json").exists()
    except FormatError:
        return True  # another version's: the keeper knows, and delete must remove it
    return os.path.realpath(record.runc_root) == os.path.realpath(call.root)


def _wake(call: Call, op: str, **arguments: Any) -> dict[str, Any]:
    from architect.shim import keeper_client

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


def _register(call: Call) -> None:
    from architect.shim import keeper_client

    try:
        keeper_client.ask("register", timeout_seconds=REGISTER_SECONDS, container=call.container)
    except ArchitectError as error:
        engine_log.warning(call, f"container {call.container} starts unregistered: {error}")


def _record(call: Call, spec: oci.Spec, found: oci.Wanted, *, init_sha: str) -> records.Record:
    identity = found.identity
    pid_file = call.options.get("pid-file")
    return records.Record(
        id=call.container,
        pod=identity.pod,
        namespace=identity.namespace,
        pod_name=identity.pod_name,
        container=identity.container,
        sandbox_id=identity.sandbox_id,
        bundle=os.path.realpath(call.bundle),
        pid_file=None if pid_file is None else os.path.realpath(pid_file),
        runc_root=call.root,
        systemd_cgroup=call.has_systemd_cgroup,
        runtime=str(installation.lower_runtime()),
        netns=oci.network_namespace(spec),
        policy=found.policy.to_dict(),
        init_sha=init_sha,
        created=time.time(),
        hollow=False,
    )


def _note_unmanaged(call: Call, refused: oci.Refused) -> None:
    identity = refused.identity
    try:
        records.write_unmanaged(
            records.Unmanaged(
                id=call.container,
                pod=identity.pod,
                namespace=identity.namespace,
                pod_name=identity.pod_name,
                container=identity.container,
                reason=refused.reason,
                message=refused.message,
                created=time.time(),
            )
        )
    except OSError as error:
        engine_log.warning(call, f"cannot note why {call.container} is unmanaged: {error}")


def _replace(file: Path, spec: oci.Spec) -> None:
    from architect.core.files import write_atomic

    mode = file.stat().st_mode & 0o777
    write_atomic(file, json.dumps(spec).encode(), mode=mode, durable=False)


def _is_host_network(spec: oci.Spec) -> bool:
    path = oci.network_namespace(spec)
    if path is None:
        return False  # a new one, or none at all, which the decision sees
    try:
        return os.path.samefile(path, "/proc/self/ns/net")
    except OSError:
        return False  # the lower runtime says what is wrong with it


def _is_executable_found(spec: oci.Spec, *, bundle: Path) -> bool:
    from architect.shim import lookpath

    process = spec.get("process") or {}
    if not process.get("args"):
        return False
    root = Path(str((spec.get("root") or {}).get("path") or "rootfs"))
    tree = lookpath.Tree(bundle / root, spec.get("mounts") or ())
    return lookpath.is_found(tree, process)


def _is_taken(call: Call) -> bool:
    try:
        record = records.read(call.container)
    except (FileNotFoundError, ArchitectError):
        return False
    return record.runc_root != call.root and (Path(record.runc_root) / record.id).exists()


def _denies_io_uring() -> bool:
    try:
        return _IO_URING_DISABLED.read_text().strip() == "2"
    except OSError:
        return False


def _init_in_container() -> str:
    from architect.api import names

    return names.INIT_IN_CONTAINER


def _shell_status(status: int) -> int:
    return 128 - status if status < 0 else status
