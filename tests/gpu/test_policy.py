from __future__ import annotations

from playground.gpu.policy import Waiting, grants, order

GB = 10**9


def chat(number: int, session: str, needs: int = 1) -> Waiting:
    return Waiting(number, "chat", session, needs)


def numbers(waiting: list[Waiting]) -> list[int]:
    return [item.number for item in waiting]


def test_sessions_take_turns() -> None:
    queue = [chat(1, "a"), chat(2, "a"), chat(3, "a"), chat(4, "b"), chat(5, "c")]
    assert numbers(order(queue, {})) == [1, 4, 5, 2, 3]


def test_who_was_served_longest_ago_comes_first() -> None:
    assert numbers(order([chat(7, "a"), chat(8, "b")], {"a": 6, "b": 2})) == [8, 7]


def test_each_lane_has_its_capacity_and_both_run_side_by_side() -> None:
    queue = [*[chat(number, str(number)) for number in range(1, 7)], Waiting(7, "train", "a", 2), Waiting(8, "train", "b", 2)]
    assert sorted(grants(queue, {}, 0, GB, {})) == [1, 2, 3, 4, 7]
    assert sorted(grants(queue, {"chat": 3, "train": 1}, 0, GB, {})) == [1]


def test_what_does_not_fit_waits_and_does_not_hold_up_the_other_lane() -> None:
    queue = [Waiting(1, "train", "a", 8 * GB), chat(2, "b", GB)]
    assert grants(queue, {}, 4 * GB, 10 * GB, {}) == [2]
    assert grants(queue, {}, 1 * GB, 10 * GB, {}) == [1, 2]
    assert grants(queue, {}, 2 * GB, 10 * GB, {}) == [1]
