#!/usr/bin/python3 -IS
"""``systemctl`` of a machine: what installers call to restart an engine, on its supervisor.

Knows ``start``, ``stop``, ``restart``, ``try-restart``, ``reload-or-restart``, ``is-active`` and
``daemon-reload``; anything else is an error, so that nobody takes it for systemd.
"""

import json
import socket
import sys

SOCKET = "/run/lab/supervisor.sock"
OPS = {
    "start": "start",
    "stop": "stop",
    "restart": "restart",
    "try-restart": "restart",
    "reload-or-restart": "restart",
}


def ask(request: dict[str, str]) -> dict[str, object]:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(60)
        connection.connect(SOCKET)
        with connection.makefile("rw") as stream:
            stream.write(json.dumps(request) + "\n")
            stream.flush()
            return dict(json.loads(stream.readline()))


def main() -> int:
    words = [word for word in sys.argv[1:] if not word.startswith("-")]
    if not words:
        print("systemctl: no verb", file=sys.stderr)
        return 1
    verb, units = words[0], [word.removesuffix(".service") for word in words[1:]]
    if verb == "daemon-reload":
        return 0
    if verb == "is-active":
        services = ask({"op": "status"})["services"]
        assert isinstance(services, dict)
        states = [bool(services.get(unit, {}).get("pid")) for unit in units]
        print("\n".join("active" if state else "inactive" for state in states))
        return 0 if all(states) else 3
    if verb not in OPS:
        print(f"systemctl: verb {verb} is not known on this machine", file=sys.stderr)
        return 1
    for unit in units:
        answer = ask({"op": OPS[verb], "name": unit})
        if "error" in answer:
            print(f"systemctl: {answer['error']}", file=sys.stderr)
            return 5
    return 0


if __name__ == "__main__":
    sys.exit(main())
