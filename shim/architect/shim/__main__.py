"""``runc-architect``: runc's command line, with managed containers handled on the way.

The launcher (``shim/native/launcher.c``) comes here only for calls that may mean a managed
container. Whatever goes wrong before the lower runtime has run, the call is passed on to it as it
came: a container that cannot be managed is still a container.
"""

from __future__ import annotations

import sys
from typing import Final, NoReturn

from architect.core.errors import ArchitectError
from architect.shim import cli, engine_log, installation

UNEXPECTED_SHAPE: Final = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    OverflowError,
    RecursionError,
)
"""What a config.json raises that is not as the specification says: it is not read with care, since
it is the lower runtime's to judge, and to name what is wrong with it."""


def main() -> None:
    """Carry out ``sys.argv`` and end the process."""
    call = cli.parse(sys.argv[1:], default_root=installation.default_root())
    try:
        sys.exit(_carry_out(call))
    except (ArchitectError, OSError, *UNEXPECTED_SHAPE) as error:
        engine_log.warning(
            call, f"{call.command} is passed on as it came: {type(error).__name__}: {error}"
        )
    try:
        installation.pass_on(call.words)
    except (ArchitectError, OSError) as error:
        engine_log.error(call, str(error))
        sys.exit(1)


def forget(status: int) -> NoReturn:
    """End with *status* once what ``sys.argv`` has deleted is forgotten; the launcher's to call."""
    from architect.shim import commands

    commands.forget(cli.parse(sys.argv[1:], default_root=installation.default_root()))
    sys.exit(status)


def _carry_out(call: cli.Call) -> int:
    # Imported where needed: exec and kill are on the way of every probe and every `kubectl exec`.
    if call.command in ("create", "run"):
        from architect.shim import create

        create.create(call)
    if call.command == "start":
        from architect.shim import arrivals, commands

        if commands.is_of(call):
            return arrivals.start(call)
    if call.command in ("exec", "kill", "delete"):
        from architect.shim import commands

        if commands.is_of(call):
            if call.command == "exec":
                commands.exec_(call)
            if call.command == "kill":
                commands.kill(call)
            return commands.delete(call)
    return installation.pass_on(call.words)


if __name__ == "__main__":
    main()
