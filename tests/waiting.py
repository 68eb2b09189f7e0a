"""Waiting for what another thread or process does: by looking again, within a bound."""

import threading
import time

_ran_s = [0.0]


def _beat():
    last = time.monotonic()
    while True:
        time.sleep(0.02)
        now = time.monotonic()
        _ran_s[0] += min(now - last, 1.0)
        last = now


threading.Thread(target=_beat, daemon=True).start()


def clock():
    """Seconds in which this machine really ran: a virtual one may be stopped for minutes, with all that is on it."""
    return _ran_s[0]


def wait_for(holds, what="as it should be", within_s=180.0, every_s=0.02):
    """What ``holds`` answers, once that is true; fails with ``what`` when it is not in time."""
    end = clock() + within_s
    while not (found := holds()):
        assert clock() < end, f"after {within_s:.0f} s: not {what}"
        time.sleep(every_s)
    return found
