"""Who is next, and who must leave memory for it? Pure: plain values in, a decision out.

1. Three lanes, side by side when memory allows: ``train`` serves one lease at a time, ``chat`` as many as one batch
   carries well, since replies of several people share each pass over the base. Batches of long jobs (verdicts, benches,
   judging, races) have a lane of their own, ``measure``, one at a time: they take no place from a chat, and jobs of
   several sessions alternate batch by batch.
2. Within a lane requests are served in turn by browser session: the session served longest ago comes first, then the
   older request. So nobody waits for more than one reply of every other session.
3. A request is granted when its bytes, and those of its resident if that is not in memory, fit the budget beside what
   is held. Waiters for the same resident share one load.
4. Where they do not fit, residents that nobody uses leave, the longest idle first, if that makes room; the request is
   granted once they have gone. A resident in use never leaves.
5. Where that is not enough the request waits, and holds back later ones of its own lane.
6. Where there are several cards, chat stays on the first. A training run takes the first other card that trains nothing
   and has room, each with a budget of its own; only where there is none the first card, by the rules above.
7. A request that PATIENCE grants have passed by, and that waits only for short work, is urgent: it comes first and
   holds back everything that would use memory beside it. A training run is not short work, so nothing is held back for
   its sake.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

CAPACITY = {"chat": 4, "measure": 1, "train": 1}
"""Leases open at once in each lane."""
PATIENCE = 8
LOADING, READY, UNLOADING = "LOADING", "READY", "UNLOADING"
Wanted = tuple[tuple[str, int], ...]
"""Models by name, with their bytes."""


@dataclass(frozen=True)
class Waiting:
    """A request in the queue. number: rises with every request. needs_bytes: for the work itself, without the models
    that it works on. passed: grants of others since it came."""

    number: int
    lane: str
    session: str
    needs_bytes: int
    residents: Wanted = ()
    passed: int = 0


@dataclass(frozen=True)
class Held:
    """An open lease: its lane, the bytes of its work, the names of the residents it uses, the card it is on, 0 = the
    first."""

    lane: str
    bytes: int
    residents: tuple[str, ...] = ()
    card: int = 0


@dataclass(frozen=True)
class Resident:
    """A model in memory. idle_since_s: when its last lease closed. evictable: it can be loaded again by itself."""

    name: str
    bytes: int
    state: str = READY
    idle_since_s: float = 0.0
    evictable: bool = False

    @property
    def stays(self) -> bool:
        """Whether it cannot be unloaded, not even when nobody uses it."""
        return self.state == READY and not self.evictable

    @property
    def leaving(self) -> bool:
        return self.state == UNLOADING


@dataclass(frozen=True)
class Decision:
    """Requests to grant now, in this order, and residents to unload now. cards: request -> card, where it is not the
    first."""

    grant: tuple[int, ...] = ()
    evict: tuple[str, ...] = ()
    cards: Mapping[int, int] = field(default_factory=dict)


def order(waiting: Sequence[Waiting], last_served: Mapping[str, int]) -> list[Waiting]:
    """The queue in the order of service, all lanes: urgent requests by age, then every session's first, its second ...
    last_served: session -> number of its last grant."""
    by_age, turns = sorted(waiting, key=lambda item: item.number), Counter[tuple[str, str]]()
    keyed = []
    for request in (item for item in by_age if item.passed < PATIENCE):
        keyed.append(
            (turns[request.lane, request.session], last_served.get(request.session, -1), request.number, request)
        )
        turns[request.lane, request.session] += 1
    return [*(item for item in by_age if item.passed >= PATIENCE), *(item[-1] for item in sorted(keyed))]


def decide(
    waiting: Sequence[Waiting],
    held: Sequence[Held],
    residents: Sequence[Resident],
    budget_bytes: int,
    last_served: Mapping[str, int],
    other_cards: Sequence[int] = (),
) -> Decision:
    """What to do now. Call it again whenever something has changed: a grant may have to wait for an eviction to end.
    other_cards: the budget of each card after the first."""
    cards = _free_cards(held, other_cards)
    held, placed = [lease for lease in held if not lease.card], dict[int, int]()
    there = {resident.name: resident for resident in residents}
    used = {name for lease in held for name in lease.residents}
    taken = {lane: sum(lease.lane == lane for lease in held) for lane in CAPACITY}
    free = budget_bytes - sum(lease.bytes for lease in held) - sum(resident.bytes for resident in residents)
    granted: list[int] = []
    closed: set[str] = set()
    for request in order(waiting, last_served):
        card = next((at for at, room in cards.items() if request.needs_bytes <= room), 0)
        if card and request.lane == "train" and request.lane not in closed and not request.residents:
            granted.append(request.number)
            placed[request.number] = card
            del cards[card]
            continue
        if taken[request.lane] >= CAPACITY[request.lane] or request.lane in closed:
            continue
        wanted = {name for name, _ in request.residents}
        absent = [(name, size) for name, size in request.residents if name not in there]
        needs = request.needs_bytes + sum(size for _, size in absent)
        if any(there[name].leaving for name in wanted & set(there)):
            closed.add(request.lane)
            continue
        if needs <= free:
            granted.append(request.number)
            taken[request.lane] += 1
            free -= needs
            used |= wanted
            there |= {name: Resident(name, size, LOADING) for name, size in absent}
            continue
        chosen, room = [], free + sum(resident.bytes for resident in there.values() if resident.leaving)
        for resident in sorted(idle(there.values(), used | wanted), key=lambda item: (item.idle_since_s, item.name)):
            if room >= needs:
                break
            chosen.append(resident.name)
            room += resident.bytes
        if room >= needs:
            return Decision(tuple(granted), tuple(chosen), placed)  # what comes after waits until these have gone
        closed.add(request.lane)
        if request.passed >= PATIENCE and needs <= budget_bytes - _held_for_long(wanted, there, held):
            closed.update(CAPACITY)
    return Decision(tuple(granted), cards=placed)


def _free_cards(held: Sequence[Held], budgets: Sequence[int]) -> dict[int, int]:
    """Bytes that are free on each card after the first that trains nothing."""
    busy = {lease.card for lease in held if lease.lane == "train"}
    return {card: budget for card, budget in enumerate(budgets, 1) if card not in busy}


def _held_for_long(wanted: Collection[str], there: Mapping[str, Resident], held: Sequence[Held]) -> int:
    """Bytes that stay taken when all leases but the training run's have closed and what may leave has left."""
    training = [lease for lease in held if lease.lane == "train"]
    kept = {name for lease in training for name in lease.residents} | set(wanted)
    staying = sum(one.bytes for one in there.values() if one.name in kept or not one.evictable)
    return staying + sum(lease.bytes for lease in training)


def threads_of(lane: str, cores: int, busy: Collection[str]) -> int:
    """Threads that ``lane`` may use: one a core where no other lane is busy, else its part of them. Of an odd number
    training has the larger half: a decode step waits for memory more than for a core."""
    if not set(busy) - {lane}:
        return cores
    return max(1, cores // 2 if lane == "chat" else cores - cores // 2)


def idle(residents: Iterable[Resident], used: Collection[str]) -> list[Resident]:
    """Residents that may leave: none of those in ``used``."""
    return [one for one in residents if one.evictable and one.state == READY and one.name not in used]
