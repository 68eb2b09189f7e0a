"""Frozen, hung, or only slow? The clock is handed in; nothing here waits."""

import pytest

from playground.runs.progress import LOOK_S, Patience, Pulse, stall_bound_s
from tests.gpu.conftest import Clock


class Watched:
    """A worker as the supervisor sees it, looked at every half second."""

    def __init__(self, patience: Patience | None = None) -> None:
        self.clock = Clock()
        self.pulse = Pulse(patience, self.clock)
        self.beat: int | None = None
        self.used, self.progress = 0.0, 0

    def pass_s(
        self, seconds: float, *, beats: bool = True, works: bool = True, sleeps: bool = False, every: float = 0.5
    ) -> str:
        """Let time pass; returns the first reason to end it. works: it uses processor time. sleeps: its main thread
        does."""
        end = self.clock.now_s + seconds
        while self.clock.now_s < end:
            self.clock.now_s += every
            if beats:
                self.beat = int(self.clock.now_s // 2)
            self.used += 100 * every if works else 0.2 * every if beats else 0.0  # the beat itself
            if reason := self.pulse.look(self.beat, self.used, sleeps, self.progress):
                return reason
        return ""

    def steps(self, seconds: float, **how: bool) -> "Watched":
        """Twenty signs of progress, so many seconds apart."""
        for _ in range(20):
            self.progress += 1
            assert self.pass_s(seconds, **how) == ""
        return self

    def found_after(self, words: str, **how: bool) -> float:
        """Seconds until it is ended with these words."""
        began = self.clock.now_s
        assert words in self.pass_s(1000.0, **how)
        return self.clock.now_s - began


STILL = {"beats": False, "works": False}
ASLEEP = {"works": False, "sleeps": True}


@pytest.mark.parametrize(
    ("step_s", "how", "words", "least_s", "most_s"),
    [
        pytest.param(3, STILL, "no sign of life", 0, 8, id="frozen, within ten seconds"),
        pytest.param(0, STILL, "no sign of life", 60, 63, id="never comes up, a minute"),
        pytest.param(1, {}, "no progress for 60 s, where 1.0 s are usual", 58, 62, id="beats, but no progress"),
        pytest.param(1, ASLEEP, "nothing at all for 6 s, where 1.0 s are usual", 0, 7, id="waits for ever"),
        pytest.param(0, ASLEEP, "Training hung", 55, 65, id="waits as it loads, a minute"),
        pytest.param(0, {}, "no progress", 890, 910, id="loads"),
    ],
)
def test_who_is_found_and_when(step_s, how, words, least_s, most_s):
    worker = Watched().steps(step_s) if step_s else Watched()
    assert least_s <= worker.found_after(words, **how) <= most_s


@pytest.mark.parametrize(
    "how",
    [
        pytest.param({"beats": False}, id="a library holds up the beat and works"),
        pytest.param({"works": False}, id="it waits for a disk, which is no sleep"),
        pytest.param({"sleeps": True}, id="it waits for threads that work"),
    ],
)
def test_who_is_left_alone(how):
    assert Watched().steps(1).pass_s(50, **how) == ""


def test_neither_a_machine_that_slept_nor_a_looker_that_was_stopped_accuses_the_worker():
    worker = Watched().steps(1)
    worker.clock.now_s += 3600  # both slept; the worker has not beaten yet when it is looked at
    assert worker.pass_s(3, **STILL) == ""
    assert worker.pass_s(10) == ""
    assert worker.pass_s(3 * LOOK_S + 1, beats=False, works=False, every=1000) == ""


def test_slow_steps_that_are_waited_for_asleep_are_allowed():
    """A device that computes 20 seconds a step, while the processor has nothing to do."""
    Watched().steps(20, **ASLEEP).found_after("did nothing at all for 6", **ASLEEP)


def test_what_was_in_the_log_before_is_no_gap():
    worker = Watched(Patience(loading_s=100))
    worker.progress = 500  # a worker that outlived the app: the whole log is read at once
    assert worker.found_after("no progress") > 90


@pytest.mark.parametrize(
    ("gaps", "bound"),
    [([], 900.0), ([1.0, 1.0], 900.0), ([0.1] * 10, 60.0), ([4.0] * 10, 120.0), ([4.0] * 10 + [40.0], 200.0)],
)
def test_the_bound_follows_what_is_usual(gaps, bound):
    assert stall_bound_s(gaps, Patience()) == bound
