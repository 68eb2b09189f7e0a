"""Background jobs with a clock and a spawn of our own: nothing runs until the test says so."""

from collections.abc import Callable

import pytest

from playground.errors import CancelledError, InputError, RunFailedError
from playground.jobs import Jobs, sentence
from tests.refused import refused

threads = pytest.fixture(lambda: Threads())


class Threads:
    """What was to run in another thread, until ``run``."""

    def __init__(self):
        self.now_s, self.waiting = 0.0, list[tuple[str, Callable[[], None]]]()
        self.jobs = Jobs(lambda: self.now_s, lambda run, name: self.waiting.append((name, run)))

    def run(self):
        """Everything that waits, and what follows from it; returns the names."""
        ran = []
        while self.waiting:
            name, run = self.waiting.pop(0)
            ran.append(name)
            run()
        return ran


def test_a_job_is_live_until_its_work_has_ended_and_its_key_is_taken_by_then(threads):
    seen = []
    job = threads.jobs.start("a", lambda job: seen.append(job.live), "The work")
    assert (job.live, threads.jobs.get("a"), threads.jobs.count("a"), job.wait(0)) == (True, job, 1, False)
    assert threads.run() == ["a"]
    assert (job.live, threads.jobs.get("a"), seen, job.error, job.failed) == (False, None, [True], "", False)
    assert (job.wait(0), threads.jobs.wait("a", 0)) == (True, True)
    first = threads.jobs.start("a", lambda job: None, "The work")
    assert threads.jobs.start("a", lambda job: None, "The work") is first
    refused("runs already", threads.jobs.start, "a", lambda job: None, "The work", busy="It runs already.")
    with pytest.raises(InputError, match="runs already"), threads.jobs.here("a", "The work", "It runs already."):
        pass
    assert threads.run() == ["a"], "once"
    with threads.jobs.here("a", "The work", "It runs already.") as job:
        assert threads.jobs.get("a") is job
    assert not job.live


def test_jobs_of_one_turn_run_one_after_another_and_who_is_stopped_before_cleans_up_at_once(threads):
    order = []
    for key in ("a", "b", "c"):
        threads.jobs.start(key, lambda job: order.append(job.key), "The work", turn="ann")
    threads.jobs.start("d", lambda job: order.append(job.key), "The work", turn="bob")
    assert [name for name, _ in threads.waiting] == ["a", "d"], "who waits holds no thread"
    threads.run()
    assert [key for key in order if key != "d"] == ["a", "b", "c"]
    ended = []

    def work(job):
        try:
            job.check("Stopped before it began.")
        finally:
            ended.append(job.key)

    jobs = [threads.jobs.start(key, work, "The work", turn="ann") for key in ("a", "b", "c")]
    jobs[1].stop()
    jobs[1].stop()
    assert [name for name, _ in threads.waiting] == ["a", "b"]
    threads.run()
    assert sorted(ended) == ["a", "b", "c"], "each exactly once"
    assert (jobs[1].error, jobs[1].failed) == ("Stopped before it began.", False)
    assert (jobs[2].error, jobs[2].live) == ("", False)


FAILURES = [
    (RunFailedError("It is full."), "It is full.", True),
    (CancelledError("Enough."), "Enough.", False),
    (OSError(28, "It is full"), "It is full. Free some space on the disk and try again.", True),
    (ValueError("Bearer sk-secret"), "The work stopped (ValueError); the log has the details. Try again.", True),
]


@pytest.mark.parametrize(("error", "words", "failed"), FAILURES)
def test_a_failure_is_a_sentence_and_the_next_one_runs(threads, error, words, failed):
    def work(job):
        raise error

    job = threads.jobs.start("a", work, "The work", turn="ann")
    after = threads.jobs.start("b", lambda job: None, "The work", turn="ann")
    threads.run()
    assert (job.error, job.failed) == (words, failed)
    assert not after.live
    said = [sentence(one, "The judging", "Measure again.") for one in (KeyError("x"), OSError("odd"))]
    assert said[0].endswith("Measure again."), "who knows what to do says it"
    assert said[1] == "odd. Free some space on the disk and measure again."


def test_time_left_follows_the_pace_of_the_phase(threads):
    job = threads.jobs.start("a", lambda job: None, "The work")
    for phase, before in (("Answering", 0), ("Repeating", 12)):
        job.report(phase, before, 24)
        assert job.seconds_left is None, "no pace yet"
        threads.now_s += 10
        job.report(phase, before + 4, 24, "2nd in line")
        assert job.seconds_left == 10 / 4 * (20 - before)
        assert (job.progress.done, job.progress.waiting) == (before + 4, "2nd in line")
    job.report("Scoring", 0, 10, after=0.5)
    threads.now_s += 1
    job.report("Scoring", 1, 10, after=0.5)
    assert job.seconds_left == 14.0, "what comes after is counted"


def test_to_follow_is_to_own(threads):
    job = threads.jobs.start("a", lambda job: job.report("Half", 1, 2), "The work")
    steps = job.follow(poll_s=0)
    assert next(steps).phase == ""
    threads.run()
    assert list(steps) == []
    job = threads.jobs.start("b", lambda job: job.check(), "The work", turn="ann")
    waiting = threads.jobs.start("c", lambda job: job.check(), "The work", turn="ann")
    threads.run()
    assert (job.error, waiting.error) == ("", "")


def test_closing_stops_all_and_waits_for_those_that_look():
    jobs = Jobs()
    look = jobs.start("a", lambda job: job.pause(60) and job.check(), "The work")
    closed = []
    never = jobs.start("b", lambda job: closed.append(job.pause(60)), "The work", interruptible=False)
    jobs.close()
    assert (look.live, look.error) == (False, "Stopped.")
    assert never.stopping
