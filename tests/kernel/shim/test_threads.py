"""Threads have pids, too: CRIU's own must not be among them."""

from __future__ import annotations

from collections.abc import Callable

from support.runtime import IDLE, Container, Host, eventually, python, spec

NUMBER = 300
PROGRAM = f"""
import os, signal, threading, time
gate, told = threading.Condition(), []
def live(at):
    global waiting
    mine = threading.get_native_id()
    # Held from one wait to the next: nobody is away when all are called.
    with gate:
        waiting += 1
        while True:
            gate.wait()
            told.append((at, mine == threading.get_native_id()))
            if len(told) == {NUMBER}: os.write(1, b'all told\\n'); told.clear()
waiting = 0
threads = [threading.Thread(target=live, args=(at,)) for at in range({NUMBER})]
for thread in threads: thread.start()
def ask(*_):
    with gate: gate.notify_all()
signal.signal(signal.SIGUSR1, ask)
while waiting < {NUMBER}: time.sleep(0.01)
print('ready')
while True: signal.pause()
"""


def test_a_process_with_very_many_threads_sleeps_and_wakes(
    node: Host, run: Callable[..., Container]
) -> None:
    container = run(spec(python(PROGRAM), annotations=IDLE))
    container.until("ready")
    for times in (1, 2):
        node.runtime("sleep", container.id)
        node.runtime("wake", container.id)
        container.kill("USR1")

        def has_told(wanted: int = times) -> bool:
            return container.output().count("all told") == wanted

        eventually(has_told, what=f"all threads, {times}")
