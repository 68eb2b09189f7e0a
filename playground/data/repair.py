"""Rows that are easily mended, and rows that teach nothing: what is done to their turns, or would be, and to which."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from playground.data.example import Example, Message, Repair, Row
from playground.data.markup import read_markup
from playground.data.tools import TOOL

BLANK, DUPLICATE = "blank", "duplicate"
_FILLED = ("prompt", "input", "completion", "messages", "chosen", "rejected", "text")
"""Roles of which one at least holds something in a row that is not blank."""
Turns = tuple[Message, ...]
Mend = Callable[[Turns], Turns]


def mended(turns: Turns) -> tuple[Turns, list[str]]:
    """(the turns as they can be trained on, the kinds of repair that this took).

    1. ``markup``: a template's marks inside a turn; the first turn may mark a system prompt, too. 2. ``join``:
    neighbours of one role, unless one of two answers is masked. 3. ``greeting``: the assistant's words before the first
    question are read, not learned. 4. ``end``: what stands after the last answer.
    """
    kinds: dict[str, None] = {}
    apart: list[Message] = []
    for place, turn in enumerate(turns):
        marked = read_markup(turn.content)
        if marked and marked[-1][0] == turn.role and (len(marked) == 1 or place == 0):  # 1
            kinds["markup"] = None
            apart += [Message(role, said) for role, said in marked[:-1]]
            turn = replace(turn, content=marked[-1][1])
        last = apart[-1] if apart else None
        if last is not None and last.role == turn.role != TOOL and last.learned == turn.learned:  # 2
            kinds["join"] = None
            said, thought = (
                "\n\n".join(filter(None, two)) for two in ((last.content, turn.content), (last.thought, turn.thought))
            )
            apart[-1] = replace(last, content=said, thought=thought)
        else:
            apart.append(turn)
    asked = next((place for place, turn in enumerate(apart) if turn.role == "user"), len(apart))
    for place, turn in enumerate(apart[:asked]):
        if turn.role == "assistant" and turn.learned:  # 3
            kinds["greeting"] = None
            apart[place] = replace(turn, learned=False)
    answered = max((place for place, turn in enumerate(apart) if turn.role == "assistant"), default=0)
    if asked < answered < len(apart) - 1:  # 4
        kinds["end"] = None
        del apart[answered + 1 :]
    return tuple(apart), [*kinds]


def is_blank(record: Mapping[str, Any], mapping: Mapping[str, str]) -> bool:
    """Whether a row holds nothing to learn from, whatever stands beside that. mapping: role -> column."""
    held = (record.get(column) for role, column in mapping.items() if role in _FILLED)
    return not any(value.strip() if isinstance(value, str) else value not in (None, [], {}) for value in held)


class Mender:
    """Mends one row after another, and keeps what it did to which."""

    def __init__(self) -> None:
        self._rows: dict[str, list[int]] = {}
        self.before: list[str] = []  # texts of the last row's turns as they were, empty where nothing was done to them

    def row(self, number: int, build: Callable[[Mend], Row]) -> Row:
        """The row that is built of mended turns. Raises Unusable as ``build`` does."""
        kinds: list[str] = []

        def mend(turns: Turns) -> Turns:
            found, did = mended(turns)
            kinds.extend(did)
            self.before += [turn.content for turn in turns if did]
            return found

        self.before = []
        row = build(mend)
        for kind in dict.fromkeys(kinds):
            self.add(kind, number)
        return row

    def add(self, kind: str, row: int) -> None:
        self._rows.setdefault(kind, []).append(row)

    def look(self, row: Row) -> None:
        """At a row that can be used as it is, but may hold a template's marks."""
        if "markup" in mended(row.messages if isinstance(row, Example) else row.prompt)[1]:
            self.add("markup", row.row)

    def found(self) -> tuple[Repair, ...]:
        return tuple(Repair(kind, tuple(self._rows[kind])) for kind in Repair.WORDS if kind in self._rows)
