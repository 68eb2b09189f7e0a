"""Prompt search, as plain values: which candidate is asked which rows next, who is left in the end, and a prompt that
is written from what counts as right."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from playground.evaluation.checks import SCHEMA, Check
from playground.evaluation.criterion import Criterion, Exact, Fields, Label
from playground.evaluation.form import LooksLike, compact, looks_like, shared_form

BLOCK = 4
"""Rows that a candidate is asked at a time, so that its prompt is read once for all of them."""
FINALISTS = 4
Passed = Mapping[tuple[int, str], float]
"""(row, candidate) -> 1 where its reply passes, below 1 how near it comes; a pair that was not asked, or whose
candidate failed, is not in it."""


def halving(
    tokens: Mapping[str, float], rows: Sequence[int], passed: Passed, left_s: Callable[[], float]
) -> Iterator[list[tuple[int, str]]]:
    """Successive halving (Jamieson and Talwalkar 2016, arXiv:1502.07943), by time: yields (row, candidate) to ask next.

    tokens: candidate -> those of its average request, in the order of asking. rows: in the order of asking. passed: has
    the answers once the next ones are taken. left_s: of the budget. 1. Each round has an equal share of the time
    that is left, and asks everybody in it block after block, as many as fit into it. 2. The first block may take half
    of the time; whom it does not reach is left out. 3. The better half goes on. 4. It ends with one, with no row or
    with no time left.
    """
    alive, done, whole_s = list(tokens), 0, left_s()
    while alive and done < len(rows) and left_s() > 0 and (len(alive) > 1 or not done):  # 4
        end_s, more = left_s() * (1 - 1 / max(1, math.ceil(math.log2(len(alive))))), True  # 1
        while more:
            block, before_s = rows[done : done + BLOCK], left_s()
            if done:
                yield [(row, name) for name in alive for row in block]
            for name in () if done else alive:  # 2
                yield [(row, name) for row in block]
                if left_s() <= whole_s / 2:
                    break
            reached = [name for name in alive if all((row, name) in passed for row in block)]
            alive, done = reached, done + len(block)
            another_s = before_s - left_s() if end_s else 0.0
            more = bool(alive) and done < len(rows) and left_s() > end_s + another_s
        alive = ranked(alive, tokens, rows[:done], passed)[: math.ceil(len(alive) / 2)]  # 3


def worth(name: str, rows: Collection[int], passed: Passed) -> tuple[int, float]:
    """(of these rows how many a candidate passes, how near it comes in all)."""
    values = [passed.get((row, name), 0.0) for row in rows]
    return sum(value >= 1 for value in values), sum(values)


def ranked(names: Collection[str], tokens: Mapping[str, float], rows: Collection[int], passed: Passed) -> list[str]:
    """By how many of these rows pass, most first; of equal ones, by how near they come, then by fewest tokens."""
    return sorted(sorted(names, key=tokens.__getitem__), key=lambda name: worth(name, rows, passed), reverse=True)


def finalists(tokens: Mapping[str, float], passed: Passed) -> list[str]:
    """The few that were asked most rows, best first on these. Where the budget cut the last block off, also those that
    it did not reach and that had passed more than the best one until then; then by the rows that all of them were
    asked. So nobody wins by fewer rows than another had."""
    asked = {name: {row for row, other in passed if other == name} for name in tokens}
    most = max(map(len, asked.values()), default=0)
    last = [name for name, rows in asked.items() if rows and len(rows) == most]
    if not last:
        return []
    leader = ranked(last, tokens, asked[last[0]], passed)[0]
    for name, rows in asked.items():
        if rows and most - BLOCK <= len(rows) < most:
            both = rows & asked[leader]
            if worth(name, both, passed) > worth(leader, both, passed):
                last.append(name)
    common = set.intersection(*(asked[name] for name in last))
    return ranked([name for name in last if common], tokens, common, passed)[:FINALISTS]


_ASKED = {
    "ends-with": "End with “{}” and write nothing after it.",
    "contains": "Write “{}” in it.",
    "max-words": "Write at most {} words.",
}


def written_prompt(criterion: Criterion | None, checks: Sequence[Check], references: Sequence[str]) -> str:
    """An instruction that asks for what is right, for the form that the references share, and for the checks. "" where
    nothing of it is known."""
    form, like, said = shared_form(references), looks_like(references), list[str]()
    if form.startswith(SCHEMA) and isinstance(schema := json.loads(form.removeprefix(SCHEMA)), dict):
        said.append("Answer with JSON only: no code fence, no explanation.")
        if keys := [f'"{name}": {_kind(part)}' for name, part in schema.get("properties", {}).items()]:
            said.append("\n".join(["Use exactly these keys, in this order:", *keys]))
    elif isinstance(criterion, Label):
        return f"Answer with the label only, one of: {', '.join(criterion.labels)}."
    elif isinstance(criterion, Fields):
        lines = [f"{name}: ..." for name in criterion.names]
        said.append("\n".join(["Answer in these lines, in this order, without an explanation:", *lines]))
    elif isinstance(criterion, Exact):
        said.append("Give the answer alone, in as few words as it takes, without an explanation.")
    if isinstance(like, LooksLike):
        parts = [words for words, _ in like.parts if not (said and words.startswith("JSON"))]
        said += [f"The reply: {'; '.join(parts)}."] if parts else []
    there = "\n".join(said)
    more = [one for one in checks if one.kind in _ASKED and one.value not in there]
    return "\n".join([*said, *(_ASKED[one.kind].format(one.value) for one in more)])


def _kind(schema: Any) -> str:
    """A JSON Schema's value in words: ``"high", "low" or "medium"``, ``a text or null``."""
    if values := schema.get("enum"):
        return f"one of {', '.join(map(compact, values))}"
    if parts := schema.get("anyOf"):
        return " or ".join(sorted(map(_kind, parts), key=lambda words: words == "null"))
    names = {"string": "a text", "integer": "a whole number", "number": "a number", "array": "a list"}
    names |= {"object": "an object", "boolean": "true or false"}
    return names.get(str(schema.get("type")), "null")
