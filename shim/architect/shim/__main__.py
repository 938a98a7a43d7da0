"""``runc-architect``: runc's command line, with managed containers handled on the way.

The launcher (``shim/native/launcher.c``) comes here only for calls that may mean a managed
container. Whatever goes wrong before the lower runtime has run, the call is passed on to it as it
came: a container that cannot be managed is still a container.
"""

from __future__ import annotations

import sys

from architect.core.errors import ArchitectError
from architect.shim import cli, engine_log, managed


def main() -> None:
    """Carry out ``sys.argv`` and end the process."""
    call = cli.parse(sys.argv[1:])
    try:
        sys.exit(_carry_out(call))
    except (ArchitectError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        # Also what a config.json of an unexpected shape raises: it is the lower runtime's to judge.
        engine_log.warning(
            call, f"{call.command} is passed on as it came: {type(error).__name__}: {error}"
        )
    try:
        managed.pass_on(call.words)
    except (ArchitectError, OSError) as error:
        engine_log.error(call, str(error))
        sys.exit(1)


def _carry_out(call: cli.Call) -> int:
    if call.command in ("create", "run"):
        managed.create(call)
    if call.command in ("exec", "kill", "delete") and managed.is_of(call):
        if call.command == "exec":
            managed.exec_(call)
        if call.command == "kill":
            managed.kill(call)
        return managed.delete(call)
    return managed.pass_on(call.words)


if __name__ == "__main__":
    main()
