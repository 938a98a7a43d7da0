"""``python -m architect.shim.layers``: pack, apply and check archives by command line.

::

    pack  KIND DIRECTORY   archive to standard output
    apply KIND DIRECTORY   archive from standard input
    check KIND             archive from standard input, read strictly to its end

KIND is ``layer`` or ``volume``. The last line on standard error is the summary, or the error, as
JSON. Exit codes are those of :mod:`architect.core.errors`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict, fields
from pathlib import Path

from architect.core.errors import ArchitectError
from architect.shim.layers.apply import apply
from architect.shim.layers.archive import Kind, Limits, Summary
from architect.shim.layers.pack import pack
from architect.shim.layers.reader import Reader


def main() -> None:
    """Carry out ``sys.argv`` and end the process."""
    options = _parse(sys.argv[1:])
    try:
        print(json.dumps(asdict(_run(options))), file=sys.stderr)
    except ArchitectError as error:
        reason = getattr(error, "reason", type(error).__name__)
        print(json.dumps({"reason": reason, "error": str(error)}), file=sys.stderr)
        sys.exit(error.exit_code)


def _run(options: argparse.Namespace) -> Summary:
    limits = Limits(**{field.name: getattr(options, field.name) for field in fields(Limits)})
    if options.command == "pack":
        return pack(options.directory, sys.stdout.fileno(), kind=options.kind, limits=limits)
    if options.command == "check":
        reader = Reader(sys.stdin.fileno(), kind=options.kind, limits=limits)
        for _ in reader:
            pass
        return reader.summary
    target = os.open(options.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return apply(
            sys.stdin.fileno(),
            target,
            kind=options.kind,
            limits=limits,
            are_devices_allowed=options.devices,
        )
    finally:
        os.close(target)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="architect.shim.layers", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("command", choices=("pack", "apply", "check"))
    parser.add_argument("kind", type=Kind, metavar="KIND")
    parser.add_argument("directory", type=Path, metavar="DIRECTORY", nargs="?")
    parser.add_argument("--devices", action="store_true", help="apply: make device nodes")
    for field in fields(Limits):
        parser.add_argument(
            f"--{field.name.replace('_', '-')}", type=int, default=getattr(Limits(), field.name)
        )
    options = parser.parse_args(arguments)
    if (options.directory is None) != (options.command == "check"):
        parser.error("DIRECTORY is for pack and apply")
    return options


if __name__ == "__main__":
    main()
