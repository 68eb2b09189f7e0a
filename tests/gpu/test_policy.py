"""Who is next and who must leave, from plain values. Bytes are counted in thousands: 1 is next to nothing."""

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

K = 1000


def chat(number, session="", needs=1):
    return Waiting(number, "chat", session or str(number), needs)


def train(number, needs, passed=0):
    return Waiting(number, "train", str(number), needs, passed=passed)


def on(number, resident, size=2 * K, passed=0):
    return Waiting(number, "chat", str(number), 1, ((resident, size),), passed)


def idle(name, size, since_s=0.0, state="READY"):
    return Resident(name, size, state, since_s, evictable=True)


LATE = Waiting(3, "chat", "a", 1, passed=PATIENCE)
ORDERS = {
    "sessions take turns": ([chat(n, session) for n, session in enumerate("aaabc", 1)], {}, [1, 4, 5, 2, 3]),
    "who was served longest ago comes first": ([chat(7, "a"), chat(8, "b")], {"a": 6, "b": 2}, [8, 7]),
    "who was passed by too often is first of all": ([chat(1, "b"), chat(2, "c"), LATE], {"a": 9}, [3, 1, 2]),
}


@pytest.mark.parametrize("name", ORDERS)
def test_the_order_of_service(name):
    waiting, served, found = ORDERS[name]
    assert [item.number for item in order(waiting, served)] == found


def test_a_run_takes_the_first_other_card_with_room_and_chat_stays_on_the_first():
    runs = [train(1, 6 * K), train(2, 3 * K), train(3, 3 * K), train(4, K), chat(5)]
    decided = decide(runs, [], [], 10 * K, {}, [4 * K, 8 * K])
    assert (decided.grant, dict(decided.cards)) == ((1, 2, 3, 5), {1: 2, 2: 1}), "the third goes beside chat"
    held = [Held("train", 6 * K, card=2), Held("train", 9 * K)]
    decided = decide([train(7, 3 * K), train(8, 3 * K), chat(9, needs=K)], held, [], 10 * K, {}, [4 * K, 8 * K])
    assert (decided.grant, dict(decided.cards)) == ((7, 9), {7: 1}), "what another card holds is not the first's"


BUSY, USED = [Held("chat", 1)] * 3, [Held("chat", 1, ("base",))]
RUN_OR_CHAT = [train(1, 8 * K), chat(2, needs=K)]
BIG, FULL = on(1, "full", 6 * K, PATIENCE), [idle("young", 3 * K, 9), idle("old", 3 * K, 1)]
URGENT, PATIENT, BASE = train(1, 7 * K, PATIENCE), train(1, 7 * K), [idle("base", 2 * K)]
BOTH = Waiting(1, "chat", "a", 1, (("base", 2 * K), ("base:other", 3 * K)))
ANNA, BEN = Waiting(5, "measure", "a", 1), Waiting(4, "measure", "b", 1)
CASES = {
    "each lane has its capacity and both run side by side": [
        ([*map(chat, range(1, 7)), train(7, 2), train(8, 2)], [], [], K, (1, 2, 3, 4, 7)),
        ([*map(chat, range(1, 7)), train(8, 2)], [*BUSY, Held("train", 1)], [], K, (1,)),
    ],
    "what does not fit waits and does not hold up the other lane": [
        (RUN_OR_CHAT, [], [Resident("base", 4 * K)], 10 * K, (2,)),
        (RUN_OR_CHAT, [], [Resident("base", 1 * K)], 10 * K, (1, 2)),
        (RUN_OR_CHAT, [], [Resident("base", 2 * K)], 10 * K, (1,)),
    ],
    "waiters for the same model share one load, and another model does not fit": [
        ([on(1, "base"), on(2, "base"), on(3, "other")], [], [], 4 * K - 1, (1, 2)),
        ([on(2, "base")], USED, [Resident("base", 2 * K, LOADING)], 2 * K + 2, (2,)),
    ],
    "the longest idle leaves and only as many as needed": [
        ([on(1, "new", 3 * K)], [], FULL, 8 * K, ("old",)),
        ([on(1, "new", 7 * K)], [], FULL, 8 * K, ("old", "young")),
    ],
    "a model in use never leaves and neither does one that cannot come back": [
        ([on(1, "new", 3 * K)], USED, [idle("base", 3 * K), Resident("fixed", 3 * K)], 8 * K, ())
    ],
    "nothing is loaded into memory that is still being freed, and what leaves comes back once it has gone": [
        ([on(1, "new", 3 * K)], [], [idle("old", 6 * K, 0, UNLOADING)], 8 * K, ()),
        ([on(1, "old", 6 * K)], [], [idle("old", 6 * K, 0, UNLOADING)], 80 * K, ()),
    ],
    "training takes the place of an idle base and chat waits for its end": [
        ([PATIENT], [], BASE, 8 * K, ("base",)),
        ([PATIENT], [], [], 8 * K, (1,)),
        ([on(2, "base")], [Held("train", 7 * K)], [], 8 * K, ()),
    ],
    "an urgent request holds back short work that would keep it waiting": [
        ([URGENT, on(2, "base")], USED, BASE, 8 * K, ()),
        ([PATIENT, on(2, "base")], USED, BASE, 8 * K, (2,)),
    ],
    "nothing is held back or unloaded for one that waits for a run to end": [
        ([BIG, chat(2)], [Held("train", 4 * K)], [], 8 * K, ()),
        ([BIG, train(2, 1)], [Held("chat", 4 * K)], [], 8 * K, ()),
        ([BIG, chat(3)], [Held("train", 8 * K - 1)], [], 8 * K, ()),
    ],
    "a batch on two bases waits for both, and what neither is leaves for them": [
        ([BOTH], USED, BASE, 5 * K + 2, (1,)),
        ([BOTH], [], [*BASE, idle("old", 3 * K)], 6 * K, ("old",)),
        ([BOTH, on(2, "base")], [], [idle("base", 2 * K), Resident("fixed", 3 * K)], 6 * K, ()),
    ],
    "long jobs take no place from a chat": [([ANNA, BEN, chat(6)], [Held("measure", 1), *BUSY], [], K, (6,))],
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_decided(name):
    """A case ends with the numbers that are granted, or the names that must leave."""
    for waiting, held, residents, budget, found in CASES[name]:
        decision = decide(waiting, held, residents, budget, {})
        assert (*sorted(decision.grant), *decision.evict) == found, (waiting, held)


def test_batches_of_long_jobs_alternate():
    assert decide([ANNA, BEN], BUSY, [], K, {"a": 1, "b": 3}) == Decision((5,)), "whose turn is longest ago"
    assert decide([ANNA, BEN], BUSY, [], K, {"a": 3, "b": 1}) == Decision((4,))


THREADS = [(1, "chat train", 1, 1), (2, "", 2, 2), (2, "chat", 2, 1), (2, "train", 1, 2), (3, "chat train", 1, 2)]
THREADS += [(4, "chat", 4, 2), (16, "", 16, 16), (16, "chat train", 8, 8)]


@pytest.mark.parametrize(("cores", "busy", "chat", "train"), THREADS)
def test_threads_of_both_lanes_fit_the_cores_while_both_compute(cores, busy, chat, train):
    lanes = set(busy.split())
    assert (threads_of("chat", cores, lanes), threads_of("train", cores, lanes)) == (chat, train)
