from __future__ import annotations

import pytest

from playground.gpu.policy import (
    LOADING,
    PATIENCE,
    UNLOADING,
    Decision,
    Held,
    Resident,
    Waiting,
    decide,
    order,
    threads_of,
)

GB = 10**9


def chat(number: int, session: str, needs: int = 1) -> Waiting:
    return Waiting(number, "chat", session, needs)


def numbers(waiting: list[Waiting]) -> list[int]:
    return [item.number for item in waiting]


def on(number: int, resident: str, needs: int = 1, size: int = 2 * GB, lane: str = "chat", passed: int = 0) -> Waiting:
    return Waiting(number, lane, str(number), needs, ((resident, size),), passed)


def test_sessions_take_turns() -> None:
    queue = [chat(1, "a"), chat(2, "a"), chat(3, "a"), chat(4, "b"), chat(5, "c")]
    assert numbers(order(queue, {})) == [1, 4, 5, 2, 3]


def test_who_was_served_longest_ago_comes_first() -> None:
    assert numbers(order([chat(7, "a"), chat(8, "b")], {"a": 6, "b": 2})) == [8, 7]


def test_who_was_passed_by_too_often_comes_first_of_all() -> None:
    late = Waiting(3, "chat", "a", 1, passed=PATIENCE)
    assert numbers(order([chat(1, "b"), chat(2, "c"), late], {"a": 9})) == [3, 1, 2]


def test_each_lane_has_its_capacity_and_both_run_side_by_side() -> None:
    queue = [
        *[chat(number, str(number)) for number in range(1, 7)],
        Waiting(7, "train", "a", 2),
        Waiting(8, "train", "b", 2),
    ]
    assert sorted(decide(queue, [], [], GB, {}).grant) == [1, 2, 3, 4, 7]
    held = [*[Held("chat", 1)] * 3, Held("train", 1)]
    assert sorted(decide(queue, held, [], GB, {}).grant) == [1]


def test_what_does_not_fit_waits_and_does_not_hold_up_the_other_lane() -> None:
    queue = [Waiting(1, "train", "a", 8 * GB), chat(2, "b", GB)]
    for there, granted in ((4, (2,)), (1, (1, 2)), (2, (1,))):
        assert decide(queue, [], [Resident("base", there * GB)], 10 * GB, {}).grant == granted


def test_waiters_for_the_same_model_share_one_load() -> None:
    queue = [on(1, "base"), on(2, "base"), on(3, "other")]
    assert decide(queue, [], [], 4 * GB - 1, {}).grant == (1, 2), (
        "the second costs nothing more; another model does not fit"
    )
    loading = [Resident("base", 2 * GB, LOADING)]
    assert decide([on(2, "base")], [Held("chat", 1, ("base",))], loading, 2 * GB + 2, {}).grant == (2,)


def test_the_longest_idle_leaves_and_only_as_many_as_needed() -> None:
    there = [
        Resident("young", 3 * GB, idle_since_s=9, evictable=True),
        Resident("old", 3 * GB, idle_since_s=1, evictable=True),
    ]
    assert decide([on(1, "new", size=3 * GB)], [], there, 8 * GB, {}) == Decision((), ("old",))
    assert decide([on(1, "new", size=7 * GB)], [], there, 8 * GB, {}) == Decision((), ("old", "young"))


def test_a_model_in_use_never_leaves_and_neither_does_one_that_cannot_come_back() -> None:
    there = [Resident("used", 3 * GB, evictable=True), Resident("fixed", 3 * GB)]
    assert decide([on(1, "new", size=3 * GB)], [Held("chat", 1, ("used",))], there, 8 * GB, {}) == Decision()


def test_nothing_is_loaded_into_memory_that_is_still_being_freed() -> None:
    leaving = [Resident("old", 6 * GB, UNLOADING, evictable=True)]
    assert decide([on(1, "new", size=3 * GB)], [], leaving, 8 * GB, {}) == Decision()
    assert decide([on(1, "old", size=6 * GB)], [], leaving, 80 * GB, {}) == Decision(), "it comes back once it has gone"


def test_training_takes_the_place_of_an_idle_base_and_chat_waits_for_its_end() -> None:
    base = [Resident("base", 2 * GB, evictable=True)]
    run = Waiting(1, "train", "a", 7 * GB)
    assert decide([run], [], base, 8 * GB, {}) == Decision((), ("base",))
    assert decide([run], [], [], 8 * GB, {}).grant == (1,)
    assert decide([on(2, "base")], [Held("train", 7 * GB)], [], 8 * GB, {}) == Decision()


def test_an_urgent_request_holds_back_short_work_that_would_keep_it_waiting() -> None:
    base = [Resident("base", 2 * GB, evictable=True)]
    run = Waiting(1, "train", "a", 7 * GB, passed=PATIENCE)
    held = [Held("chat", 1, ("base",))]
    assert decide([run, on(2, "base")], held, base, 8 * GB, {}) == Decision(), (
        "the open reply ends, then the run starts"
    )
    patient = Waiting(1, "train", "a", 7 * GB)
    assert decide([patient, on(2, "base")], held, base, 8 * GB, {}).grant == (2,)


def test_nothing_is_held_back_for_one_that_waits_for_a_run_to_end() -> None:
    big = on(1, "full", size=6 * GB, passed=PATIENCE)
    assert decide([big, chat(2, "b")], [Held("train", 4 * GB)], [], 8 * GB, {}).grant == ()
    assert decide([big, Waiting(2, "train", "b", 1)], [Held("chat", 4 * GB)], [], 8 * GB, {}).grant == ()
    assert decide([big, Waiting(3, "chat", "c", 1)], [Held("train", 8 * GB - 1)], [], 8 * GB, {}).evict == ()


def test_batches_of_long_jobs_alternate_and_take_no_place_from_a_chat() -> None:
    anna, ben, chatting = Waiting(5, "measure", "a", 1), Waiting(4, "measure", "b", 1), chat(6, "c")
    held = [Held("measure", 1), *[Held("chat", 1)] * 3]
    assert decide([anna, ben, chatting], held, [], GB, {}).grant == (6,)
    assert decide([anna, ben], held[1:], [], GB, {"a": 1, "b": 3}).grant == (5,), "whose turn is longest ago"
    assert decide([anna, ben], held[1:], [], GB, {"a": 3, "b": 1}).grant == (4,)


@pytest.mark.parametrize(
    ("cores", "busy", "chat", "train"),
    [
        (1, {"chat", "train"}, 1, 1),
        (2, set(), 2, 2),
        (2, {"chat"}, 2, 1),
        (2, {"train"}, 1, 2),
        (2, {"chat", "train"}, 1, 1),
        (3, {"chat", "train"}, 1, 2),
        (4, {"chat"}, 4, 2),
        (4, {"chat", "train"}, 2, 2),
        (16, set(), 16, 16),
        (16, {"chat", "train"}, 8, 8),
    ],
)
def test_threads_of_both_lanes_fit_the_cores_while_both_compute(
    cores: int, busy: set[str], chat: int, train: int
) -> None:
    assert (threads_of("chat", cores, busy), threads_of("train", cores, busy)) == (chat, train)
