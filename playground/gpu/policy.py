"""Who is next? Pure: plain values in, a decision out.

1. Two lanes, side by side when memory allows: ``train`` serves one lease at a time, ``chat`` as many as one batch carries
   well, since replies of several people share each pass over the base.
2. Within a lane requests are served in turn by browser session: the session served longest ago comes first, then the
   older request. So nobody waits for more than one reply of every other session.
3. A request is granted when its bytes fit the budget beside what is held. One that fits only when others have finished
   waits, and holds back later ones of its own lane only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

CAPACITY = {"chat": 4, "train": 1}
"""Leases open at once in each lane."""


@dataclass(frozen=True)
class Waiting:
    """A request in the queue. number: rises with every request. needs_bytes: beyond what is already held."""

    number: int
    lane: str
    session: str
    needs_bytes: int


def order(waiting: Sequence[Waiting], last_served: Mapping[str, int]) -> list[Waiting]:
    """The queue in the order of service, both lanes; ``last_served``: session -> number of its last grant.

    A session's first request takes its turn by the session, its later ones follow the other sessions' first.
    """
    seen: dict[tuple[str, str], int] = {}
    keyed = []
    for request in sorted(waiting, key=lambda item: item.number):
        turn = seen.get((request.lane, request.session), 0)
        seen[request.lane, request.session] = turn + 1
        keyed.append((turn, last_served.get(request.session, -1), request.number, request))
    return [item[-1] for item in sorted(keyed, key=lambda item: item[:3])]


def grants(
    waiting: Sequence[Waiting], busy: Mapping[str, int], held_bytes: int, budget_bytes: int, last_served: Mapping[str, int]
) -> list[int]:
    """Numbers of the requests to grant now. ``busy``: lane -> leases open in it. ``held_bytes``: residents and leases."""
    granted: list[int] = []
    taken = dict(busy)
    held = held_bytes
    closed: set[str] = set()
    for request in order(waiting, last_served):
        if taken.get(request.lane, 0) >= CAPACITY[request.lane] or request.lane in closed:
            continue
        if held + request.needs_bytes > budget_bytes:
            closed.add(request.lane)
            continue
        granted.append(request.number)
        taken[request.lane] = taken.get(request.lane, 0) + 1
        held += request.needs_bytes
    return granted
