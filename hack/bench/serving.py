"""Lines of JSON between the benchmark and its processes inside nodes: the inner side.

Standard library only: it runs in nodes too.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any

Operation = Callable[..., dict[str, Any]]


def serve(operations: Mapping[str, Operation]) -> None:
    """Answer requests from standard input until it ends.

    ``{"op": NAME, …}`` is answered by ``{"ok": true, …}`` or by ``{"ok": false, "error": TEXT}``.
    """
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"ok": True, **operations[request.pop("op")](**request)}
        except Exception as error:  # noqa: BLE001  # told to the other side, which decides
            print(traceback.format_exc(), file=sys.stderr, flush=True)
            answer = {"ok": False, "error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)
