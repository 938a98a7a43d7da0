"""Daemons, which outlive the leader of their session, through more than one sleep."""

from __future__ import annotations

from collections.abc import Callable

from support.runtime import IDLE, Container, Host, children, python, spec

DAEMON = """
import os, time
if not os.fork():
    os.setsid()
    if not os.fork():
        time.sleep(1000)
    os._exit(0)
os.wait()
print('ready', flush=True)
time.sleep(1000)
"""


def test_a_daemon_is_of_the_application_after_a_wake(
    node: Host, run: Callable[..., Container]
) -> None:
    container = run(spec(python(DAEMON), annotations=IDLE))
    container.until("ready")
    for _ in range(2):
        (root,) = children(container.pid)
        assert len(list(children(root))) == 2
        assert node.ask("check", container.id)["findings"] == []
        node.runtime("sleep", container.id)
        assert list(children(container.pid)) == [], "somebody was left awake"
        node.runtime("wake", container.id)
