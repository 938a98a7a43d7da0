"""The commands of ``runsc-architect`` that are more than runsc's: see :mod:`architect.shim.gvisor`.

Unlike ``runc-architect``, what goes wrong here cannot be passed on as it came: runsc alone would
leave the engine waiting.
"""

from __future__ import annotations

import sys

from architect.core.errors import ArchitectError
from architect.shim import cli, engine_log
from architect.shim.gvisor import commands, runsc


def main() -> None:
    """Carry out ``sys.argv`` and end the process."""
    call = cli.parse(sys.argv[1:])
    handler = {
        "create": _create,
        "start": commands.start,
        "kill": commands.kill,
        "delete": commands.delete,
    }.get(call.command, runsc.become)
    try:
        sys.exit(handler(call))
    except (ArchitectError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        # Also what a config.json of an unexpected shape raises.
        engine_log.error(call, f"{call.command} of {call.container}: {error}")
        sys.exit(1)


def _create(call: cli.Call) -> int:
    from architect.shim.gvisor import create  # the others are not to pay for it

    return create.create(call)


if __name__ == "__main__":
    main()
