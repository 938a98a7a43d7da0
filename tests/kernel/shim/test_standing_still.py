"""What goes on and what stands still for a process that sleeps: clocks and timers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from support.runtime import IDLE, Container, Host, eventually, python, spec

ASLEEP_SECONDS = 3.0

PROGRAM = """
import ctypes, json, signal, struct, time
libc = ctypes.CDLL(None, use_errno=True)
CLOCKS = {'realtime': 0, 'monotonic': 1, 'boottime': 7, 'cpu': 2}
libc.timerfd_settime.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p]

def timer(clock, *, at=0.0, after=0.0):
    fd = libc.timerfd_create(clock, 0)
    value = struct.pack('qqqq', 0, 0, int(at or after), 0)
    assert libc.timerfd_settime(fd, 1 if at else 0, value, None) == 0
    return fd

def left(fd):
    value = ctypes.create_string_buffer(32)
    assert libc.timerfd_gettime(fd, value) == 0
    seconds, nanoseconds = struct.unpack('qq', value.raw[16:])
    return seconds + nanoseconds / 1e9

timers = {
    'after, by the monotonic clock': timer(1, after=500),
    'at a monotonic time': timer(1, at=time.monotonic() + 500),
    'after, by the wall clock': timer(0, after=500),
    'at a time of the wall clock': timer(0, at=time.time() + 500),
}
signal.setitimer(signal.ITIMER_REAL, 500)

def now():
    values = {name: time.clock_gettime(number) for name, number in CLOCKS.items()}
    values['uptime'] = float(open('/proc/uptime').read().split()[0])
    values |= {name: -left(fd) for name, fd in timers.items()}
    values['alarm'] = -signal.getitimer(signal.ITIMER_REAL)[0]
    return values

before = now()
print('ready', flush=True)
while True:
    time.sleep(0.01)
    after = now()
    if after['realtime'] - before['realtime'] > 2:
        passed = {name: after[name] - before[name] for name in after}
        print(json.dumps({'since': before['realtime'], 'passed': passed}), flush=True)
    before = after
"""


def test_the_wall_clock_alone_goes_on(node: Host, run: Callable[..., Container]) -> None:
    container = run(spec(python(PROGRAM), annotations=IDLE))
    container.until("ready")
    node.runtime("sleep", container.id)
    slept_at = time.time()
    time.sleep(ASLEEP_SECONDS)
    node.runtime("wake", container.id)

    def passed_asleep() -> dict[str, float] | None:
        """What passed from its last look before the sleep to its first one after it.

        It tells as well of where it had no processor for long.
        """
        whole, _, _ = container.output().rpartition("\n")
        for told in map(json.loads, whole.splitlines()[1:]):
            if told["since"] <= slept_at < told["since"] + told["passed"]["realtime"]:
                return dict(told["passed"])
        return None

    passed = eventually(passed_asleep, what="what passed while it slept")
    realtime = passed.pop("realtime")
    assert realtime >= ASLEEP_SECONDS
    # It was asleep for so long at least, however long it took to fall asleep and to wake: timers at
    # a time go on during some of that.
    most = realtime - ASLEEP_SECONDS / 2
    went_on = {name: seconds for name, seconds in passed.items() if seconds > most}
    assert went_on == {}, (most, passed)
