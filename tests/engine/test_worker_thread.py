"""The worker thread: what comes in while it ends or is closed is neither lost nor left waiting."""

from __future__ import annotations

import threading

import pytest

from playground.engine.engine import WorkerThread
from playground.errors import BaseUnavailableError

BOUND_S = 10.0


def test_a_job_may_come_while_the_thread_is_about_to_end() -> None:
    """The scheduler's ``idle`` takes a lock that others hold while they post."""
    done, stuck = threading.Event(), []

    def idle() -> None:
        if not stuck:
            posting = threading.Thread(target=compute.post, args=(done.set,), daemon=True)
            posting.start()
            posting.join(BOUND_S)
            stuck.append(posting.is_alive())

    compute = WorkerThread(idle, idle_s=0.0)
    compute.run(lambda: None)
    assert done.wait(BOUND_S)
    assert stuck == [False]


def test_closing_does_what_waits_and_then_the_thread_ends() -> None:
    compute, gate, done = WorkerThread(), threading.Event(), []
    compute.post(gate.wait)
    compute.post(lambda: done.append("waiting"))
    closing = threading.Thread(target=lambda: compute.close(lambda: done.append("last")), daemon=True)
    thread = compute.thread
    closing.start()
    gate.set()
    closing.join(BOUND_S)
    assert done == ["waiting", "last"]
    assert thread is not None
    thread.join(BOUND_S)
    assert not thread.is_alive()
    with pytest.raises(BaseUnavailableError, match="has left memory"):
        compute.run(lambda: None)
    compute.close(lambda: done.append("again"))
    assert done == ["waiting", "last"]


def test_an_error_of_the_last_job_is_told_and_the_thread_ends_all_the_same() -> None:
    compute = WorkerThread()

    def fails() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        compute.close(fails)
    assert compute.closed


def test_the_share_of_cores_is_taken_on_the_computing_thread_before_every_job() -> None:
    said: list[tuple[str, str]] = []
    compute = WorkerThread(before=lambda: said.append(("before", threading.current_thread().name)))
    for job in ("first", "second"):
        compute.run(lambda job=job: said.append((job, threading.current_thread().name)))
    compute.close(lambda: None)
    assert said[:4] == [("before", "compute"), ("first", "compute"), ("before", "compute"), ("second", "compute")]
