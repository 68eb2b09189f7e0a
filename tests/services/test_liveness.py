"""Frozen, hung, or only slow? The clock is handed in; nothing here waits."""

from __future__ import annotations

import pytest

from playground.runs.progress import LOOK_S, Patience, Pulse, stall_bound_s
from tests.services.conftest import Clock


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

    def steps(self, seconds: float, **how: bool) -> Watched:
        """Twenty signs of progress, so many seconds apart."""
        for _ in range(20):
            self.progress += 1
            assert self.pass_s(seconds, **how) == ""
        return self

    def found_after(self, words: str, within_s: float = 1000.0, **how: bool) -> float:
        """Seconds until it is ended with these words."""
        began = self.clock.now_s
        assert words in self.pass_s(within_s, **how)
        return self.clock.now_s - began


STILL = {"beats": False, "works": False}
ASLEEP = {"works": False, "sleeps": True}


def test_a_frozen_process_is_found_within_ten_seconds() -> None:
    assert Watched().steps(3).found_after("no sign of life", **STILL) <= 8


def test_a_library_that_holds_up_the_beat_and_works_is_left_alone() -> None:
    assert Watched().steps(1).pass_s(50, beats=False) == ""


def test_a_process_that_never_comes_up_is_given_a_minute() -> None:
    assert 60 <= Watched().found_after("no sign of life", **STILL) <= 63


def test_neither_a_machine_that_slept_nor_a_looker_that_was_stopped_accuses_the_worker() -> None:
    worker = Watched().steps(1)
    worker.clock.now_s += 3600  # both slept; the worker has not beaten yet when it is looked at
    assert worker.pass_s(3, **STILL) == ""
    assert worker.pass_s(10) == ""
    assert worker.pass_s(3 * LOOK_S + 1, beats=False, works=False, every=1000) == ""


def test_a_hung_worker_beats_and_makes_no_progress() -> None:
    took_s = Watched().steps(1).found_after("no progress for 60 s, where 1.0 s are usual")
    assert took_s == pytest.approx(60, abs=2)


def test_a_worker_that_waits_for_ever_is_found_within_ten_seconds() -> None:
    words = "it did nothing at all for 6 s, where 1.0 s are usual"
    assert Watched().steps(1).found_after(words, **ASLEEP) <= 7


def test_waiting_for_a_disk_is_no_sleep_and_waiting_for_threads_that_work_is_not_idle() -> None:
    worker = Watched().steps(1)
    assert worker.pass_s(50, works=False, sleeps=False) == ""
    worker.progress += 1
    assert worker.pass_s(50, works=True, sleeps=True) == ""


def test_slow_steps_that_are_waited_for_asleep_are_allowed() -> None:
    """A device that computes 20 seconds a step, while the processor has nothing to do."""
    Watched().steps(20, **ASLEEP).found_after("did nothing at all for 6", **ASLEEP)


def test_loading_may_take_long_and_wait_for_a_minute() -> None:
    assert 55 <= Watched().found_after("Training hung", **ASLEEP) <= 65
    assert 890 <= Watched().found_after("no progress") <= 910


def test_what_was_in_the_log_before_is_no_gap() -> None:
    worker = Watched(Patience(loading_s=100))
    worker.progress = 500  # a worker that outlived the app: the whole log is read at once
    assert worker.found_after("no progress") > 90


@pytest.mark.parametrize(
    ("gaps", "bound"),
    [([], 900.0), ([1.0, 1.0], 900.0), ([0.1] * 10, 60.0), ([4.0] * 10, 120.0), ([4.0] * 10 + [40.0], 200.0)],
)
def test_the_bound_follows_what_is_usual(gaps: list[float], bound: float) -> None:
    assert stall_bound_s(gaps, Patience()) == bound
