"""Frozen, hung, or only slow? The clock is handed in; nothing here waits."""

from __future__ import annotations

import pytest

from playground.runs.progress import LOOK_S, Patience, Pulse, stall_bound_s


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Watched:
    """A worker as the supervisor sees it, looked at every half second."""

    def __init__(self, patience: Patience | None = None) -> None:
        self.clock = Clock()
        self.pulse = Pulse(patience, self.clock)
        self.beat: int | None = None
        self.used = 0.0
        self.progress = 0

    def pass_s(
        self, seconds: float, *, beats: bool = True, works: bool = True, sleeps: bool = False, every: float = 0.5
    ) -> str:
        """Let time pass; returns the first reason to end it. works: it uses processor time. sleeps: its main thread
        does."""
        end = self.clock.now + seconds
        while self.clock.now < end:
            self.clock.now += every
            if beats:
                self.beat = int(self.clock.now // 2)
            if works:
                self.used += 100 * every
            elif beats:
                self.used += 0.2 * every  # the beat itself
            if reason := self.pulse.look(self.beat, self.used, sleeps, self.progress):
                return reason
        return ""


def test_a_frozen_process_is_found_within_ten_seconds() -> None:
    worker = Watched()
    assert worker.pass_s(60) == ""
    frozen_at = worker.clock.now
    assert "no sign of life" in worker.pass_s(60, beats=False, works=False)
    assert worker.clock.now - frozen_at <= 8


def test_a_library_that_holds_up_the_beat_and_works_is_left_alone() -> None:
    worker = Watched()
    worker.pass_s(10)
    assert worker.pass_s(120, beats=False, works=True) == ""


def test_a_process_that_never_comes_up_is_given_a_minute() -> None:
    worker = Watched()
    began = worker.clock.now
    assert "no sign of life" in worker.pass_s(200, beats=False, works=False)
    assert 60 <= worker.clock.now - began <= 63


def test_a_machine_that_slept_does_not_accuse_its_worker() -> None:
    worker = Watched()
    worker.pass_s(20)
    worker.clock.now += 3600  # both slept; the worker has not beaten yet when it is looked at
    assert worker.pass_s(3, beats=False, works=False) == ""
    assert worker.pass_s(10) == ""


def test_a_looker_that_was_stopped_itself_counts_one_look_only() -> None:
    worker = Watched()
    worker.pass_s(20)
    assert worker.pass_s(3 * LOOK_S + 1, beats=False, works=False, every=1000) == ""


def test_a_hung_worker_beats_and_makes_no_progress() -> None:
    worker = Watched()
    for _ in range(20):
        worker.progress += 1
        assert worker.pass_s(1) == ""
    hung_at = worker.clock.now
    reason = worker.pass_s(600)
    assert "no progress for 60 s, where 1.0 s are usual" in reason
    assert worker.clock.now - hung_at == pytest.approx(60, abs=2)


def test_a_worker_that_waits_for_ever_is_found_within_ten_seconds() -> None:
    worker = Watched()
    for _ in range(20):
        worker.progress += 1
        assert worker.pass_s(1) == ""
    hung_at = worker.clock.now
    assert "it did nothing at all for 6 s, where 1.0 s are usual" in worker.pass_s(60, works=False, sleeps=True)
    assert worker.clock.now - hung_at <= 7


def test_waiting_for_a_disk_is_no_sleep_and_waiting_for_threads_that_work_is_not_idle() -> None:
    worker = Watched()
    for _ in range(20):
        worker.progress += 1
        worker.pass_s(1)
    assert worker.pass_s(50, works=False, sleeps=False) == ""
    worker.progress += 1
    assert worker.pass_s(50, works=True, sleeps=True) == ""


def test_slow_steps_that_are_waited_for_asleep_are_allowed() -> None:
    """A device that computes 20 seconds a step, while the processor has nothing to do."""
    worker = Watched()
    for _ in range(20):
        worker.progress += 1
        assert worker.pass_s(20, works=False, sleeps=True) == ""
    assert "did nothing at all for 6" in worker.pass_s(200, works=False, sleeps=True)


def test_loading_may_wait_for_a_minute() -> None:
    worker = Watched()
    assert worker.pass_s(55, works=False, sleeps=True) == ""
    assert "Training hung" in worker.pass_s(10, works=False, sleeps=True)


def test_loading_may_take_long() -> None:
    worker = Watched()
    assert worker.pass_s(890) == ""
    assert "no progress" in worker.pass_s(20)


def test_what_was_in_the_log_before_is_no_gap() -> None:
    worker = Watched(Patience(loading_s=100))
    worker.progress = 500  # a worker that outlived the app: the whole log is read at once
    assert worker.pass_s(90) == ""
    assert "no progress" in worker.pass_s(20)


@pytest.mark.parametrize(
    ("gaps", "bound"),
    [([], 900.0), ([1.0, 1.0], 900.0), ([0.1] * 10, 60.0), ([4.0] * 10, 120.0), ([4.0] * 10 + [40.0], 200.0)],
)
def test_the_bound_follows_what_is_usual(gaps: list[float], bound: float) -> None:
    assert stall_bound_s(gaps, Patience()) == bound
