"""What 10, 1,000 and 100,000 people need: ``scale.py TRACE`` runs the session manager's policy on recorded arrivals.

TRACE: AzureLLMInferenceTrace_conv.csv of github.com/Azure/AzurePublicDataset (CC BY 4.0): one hour of a chat service,
19,366 requests with prompt and reply lengths. Its gaps are stretched or squeezed to the rate asked for, so its bursts
stay. Every person asks once a minute while at work; each has an adapter, and adapters are asked for by Zipf's law.

1. *One machine*: the real ``DeviceManager`` with a clock that is set, replies at the speed measured on two cores
   (results/engine.json), alone and beside a training run.
2. *Replicas*: servers of one base with ROWS sequences and SLOTS adapters each, and a router: the least loaded, or the
   one whose turn it is by the adapter's name unless that one is full (affinity). The fewest with 95 % of waits under
   WAIT_S are looked for.
3. *Runs*: a queue of workers, one run each; the fewest with 95 % of waits under RUN_WAIT_S.

What is ASSUMED and not measured stands in the result under that name: a card's speed, prices, a run's length there.
Writes results/scale.json. docs/scale.md says what follows.
"""

from __future__ import annotations

import argparse
import csv
import heapq
import json
import random
import statistics
import sys
import zlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from playground.errors import BusyError  # noqa: E402
from playground.gpu.device import Device  # noqa: E402
from playground.gpu.manager import DeviceManager, Request  # noqa: E402

ASKED_S, WAIT_S, RUN_WAIT_S = 60.0, 2.0, 300.0
ROWS, SLOTS, LOAD_S = 32, 16, 0.3
READING = 0.05
"""What a prompt's token costs, as a share of a reply's."""
ASSUMED = {
    "card_tokens_per_s": 2000.0,
    "card_per_hour": 3.0,
    "two_cores_per_hour": 0.1,
    "run_minutes_on_a_card": 3.0,
    "runs_per_person_a_day": 2.0,
    "hours_of_work": 8.0,
    "adapters_per_person": 5.0,
    "adapter_megabytes": 9.8,
    "storage_per_gigabyte_month": 0.023,
    "adapter_load_s": LOAD_S,
}


class Arrival(NamedTuple):
    """at_s: from the start. prompt, reply: tokens. person: who asks, and whose adapter is asked."""

    at_s: float
    prompt: int
    reply: int
    person: int


def recorded(trace: Path, people: int, most: int) -> list[Arrival]:
    """At most ``most`` requests of the trace at the rate of so many people."""
    with trace.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    began = datetime.fromisoformat(rows[0]["TIMESTAMP"][:26])
    times = [(datetime.fromisoformat(row["TIMESTAMP"][:26]) - began).total_seconds() for row in rows]
    stretch = len(rows) / times[-1] / (people / ASKED_S)
    draw = random.Random(people)
    by_rank = [1 / (rank + 1) for rank in range(people)]
    askers = draw.choices(range(people), by_rank, k=min(most, len(rows)))
    return [
        Arrival(at_s * stretch, int(row["ContextTokens"]), min(512, int(row["GeneratedTokens"])), person)
        for at_s, row, person in zip(times, rows, askers, strict=False)
    ]


class Paper(Device):
    """A device with 16 GB, on paper."""

    name = "paper"

    def memory(self) -> tuple[int, int]:
        return 16 << 30, 16 << 30


def spread(waits: Sequence[float]) -> dict[str, float]:
    ordered = sorted(waits)
    return {
        "median": round(statistics.median(ordered), 2),
        "p95": round(ordered[int(0.95 * (len(ordered) - 1))], 2),
        "worst": round(ordered[-1], 1),
    }


def one_machine(arrivals: Sequence[Arrival], speed: Callable[[int], float], share: float) -> dict[str, Any]:
    """speed: tokens a second of all replies together, by how many are written. share: of the cores."""
    now = 0.0
    manager = DeviceManager(Paper(), clock=lambda: now, run=lambda work: work())
    manager.set_resident("base", 600 << 20)
    left: dict[int, tuple[Request, float]] = {}
    came: dict[int, tuple[Request, float, Arrival]] = {}
    waits, refused, written, queue = [], 0, 0, list(reversed(arrivals))
    while queue or left or came:
        each = share * speed(len(left)) / len(left) if left else 1.0
        ends = now + min(tokens for _, tokens in left.values()) / each if left else float("inf")
        until = min(ends, queue[-1].at_s if queue else float("inf"))
        left = {number: (one, tokens - each * (until - now)) for number, (one, tokens) in left.items()}
        now = until
        if queue and queue[-1].at_s <= now:
            arrival = queue.pop()
            try:
                request = manager.request("chat", str(arrival.person), "", 40 << 20, (("base", 0),))
                came[request.number] = (request, now, arrival)
            except BusyError:
                refused += 1
        for number in [number for number, (_, tokens) in left.items() if tokens <= 1e-6]:
            left.pop(number)[0].cancel()
        for number in [number for number, (request, *_) in came.items() if request.lease is not None]:
            request, at_s, arrival = came.pop(number)
            waits.append(now - at_s)
            left[number] = request, arrival.reply + arrival.prompt * READING
            written += arrival.reply
    return {
        "asked": len(arrivals),
        "refused_share": round(refused / len(arrivals), 3),
        "wait_s": spread(waits),
        "tokens_per_s": round(written / now, 1),
    }


def replicas(arrivals: Sequence[Arrival], count: int, *, affinity: bool) -> dict[str, Any]:
    """So many servers of ROWS sequences, each written at a fixed share of the card's speed."""
    rows: list[list[float]] = [[] for _ in range(count)]
    slots: list[OrderedDict[int, None]] = [OrderedDict() for _ in range(count)]
    waits, loads = [], 0
    for one in arrivals:
        mine = zlib.crc32(str(one.person).encode()) % count
        for place in rows:
            while place and place[0] <= one.at_s:
                heapq.heappop(place)
        near = affinity and len(rows[mine]) < ROWS
        chosen = mine if near else min(range(count), key=lambda place: len(rows[place]))
        starts = one.at_s if len(rows[chosen]) < ROWS else heapq.heappop(rows[chosen])
        if absent := one.person not in slots[chosen]:
            loads += 1
            if len(slots[chosen]) == SLOTS:
                slots[chosen].popitem(last=False)
        slots[chosen][one.person] = None
        slots[chosen].move_to_end(one.person)
        starts += LOAD_S * absent
        waits.append(starts - one.at_s)
        tokens = one.reply + one.prompt * READING
        heapq.heappush(rows[chosen], starts + tokens / (ASSUMED["card_tokens_per_s"] / ROWS))
    return {"replicas": count, "wait_s": spread(waits), "loads_share": round(loads / len(arrivals), 3)}


def fewest(holds: Callable[[int], bool], least: int = 1) -> int:
    """The smallest count that holds, by doubling and halving; it holds for all larger ones."""
    high = least
    while not holds(high):
        least, high = high + 1, high * 2
    while least < high:
        middle = (least + high) // 2
        least, high = (least, middle) if holds(middle) else (middle + 1, high)
    return least


def runs(people: int, workers: int) -> float:
    """95 % of runs wait at most so many seconds; Poisson arrivals over a day's work."""
    draw, day = random.Random(7), ASSUMED["hours_of_work"] * 3600
    ends, waits, at_s = [0.0] * workers, [], 0.0
    rate = people * ASSUMED["runs_per_person_a_day"] / day
    while (at_s := at_s + draw.expovariate(rate)) < day:
        starts = max(at_s, heapq.heappop(ends))
        waits.append(starts - at_s)
        heapq.heappush(ends, starts + 60 * ASSUMED["run_minutes_on_a_card"] * draw.uniform(0.5, 1.5))
    return spread(waits)["p95"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trace", type=Path)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "scale.json")
    options = parser.parse_args()
    measured = json.loads((HERE / "results" / "engine.json").read_text(encoding="utf-8"))["tokens_per_s"]
    one, four = measured["ours_one_row"], measured["ours"]

    def speed(rows: int) -> float:
        return float(one + (four - one) * (min(rows, 4) - 1) / 3)

    found: dict[str, Any] = {"command": "python benchmarks/scale.py TRACE", "assumed": ASSUMED, "one_machine": {}}
    found["measured"] = {"tokens_per_s_one_row": one, "tokens_per_s_four_rows": four}
    for people in (5, 10, 20, 40):
        arrivals = recorded(options.trace, people, 1000)
        found["one_machine"][str(people)] = {
            name: one_machine(arrivals, speed, share) for name, share in (("alone", 1.0), ("beside_a_run", 0.45))
        }
    found["replicas"], found["runs"] = {}, {}
    for people in (10, 1_000, 100_000):
        arrivals = recorded(options.trace, people, 19_366)
        need = sum(arrival.reply + arrival.prompt * READING for arrival in arrivals) / arrivals[-1].at_s
        least = max(1, int(need / ASSUMED["card_tokens_per_s"]))
        arms = {}
        for name, near in (("least_loaded", False), ("affinity", True)):

            def enough(count: int, near: bool = near, arrivals: Sequence[Arrival] = arrivals) -> bool:
                return bool(replicas(arrivals, count, affinity=near)["wait_s"]["p95"] <= WAIT_S)

            arms[name] = replicas(arrivals, fewest(enough, least), affinity=near)
        workers = fewest(lambda count, people=people: runs(people, count) <= RUN_WAIT_S)  # type: ignore[misc]
        stored = people * ASSUMED["adapters_per_person"] * ASSUMED["adapter_megabytes"] / 1000
        cards = arms["affinity"]["replicas"] + workers
        found["replicas"][str(people)] = arms
        found["runs"][str(people)] = {
            "workers": workers,
            "adapters_gigabytes": round(stored, 1),
            "cards_cost_per_person_and_hour": round(cards * ASSUMED["card_per_hour"] / people, 4),
            "storage_cost_per_month": round(stored * ASSUMED["storage_per_gigabyte_month"], 2),
        }
    options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({name: found[name] for name in ("one_machine", "replicas", "runs")}, indent=1))


if __name__ == "__main__":
    main()
