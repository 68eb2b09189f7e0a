"""Labels of a verdict's single replies: is it right, given the question and the known answer. One person's own."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from playground.errors import InputError
from playground.evaluation.values import is_blank
from playground.verdict.files import LABELS, Label, label_files
from playground.verdict.judges import Trust
from playground.verdict.service import VerdictService
from playground.workspace.visitors import LOCAL


class Sheet(NamedTuple):
    """One reply to label, naming no side. number: how many this person labelled before."""

    number: int
    question: str
    reply: str
    reference: str


class Count(NamedTuple):
    """Labels that say right or wrong, those that say neither, and replies that are left."""

    right: int
    wrong: int
    unsure: int
    left: int


class Labelling:
    """Every call names the verdict and its owner; nothing is remembered between calls but the labels."""

    def __init__(self, verdicts: VerdictService) -> None:
        self._verdicts, self.files = verdicts, label_files(verdicts.files)

    def next(self, id: str, owner: str = LOCAL) -> Sheet | None:
        """What to label now; None when everything was. Raises NotFoundError, InputError with nothing to label."""
        rows, mine = self._rows(id, owner), self.files.of(id, owner)
        done = {one.place for one in mine}
        row = next((row for place, row in rows.items() if place not in done), None)
        return Sheet(len(mine), row["question"], row["reply"].strip(), row["reference"]) if row is not None else None

    def label(self, id: str, number: int, choice: str, owner: str = LOCAL) -> None:
        """choice: one of ``LABELS``. number: of its sheet, not answered before. Raises NotFoundError, InputError."""
        if choice not in LABELS:
            raise InputError(f"That is no label. There are: {', '.join(LABELS)}.")
        rows = self._rows(id, owner)

        def make(there: list[Label]) -> Label | None:
            done = [one.place for one in there if one.owner == owner]
            place = next((place for place in rows if place not in done), None)
            return Label(*place, choice, owner, time.time()) if place is not None and number == len(done) else None

        self.files.add(id, make)

    def undo(self, id: str, owner: str = LOCAL) -> None:
        """Take one's last label back; it is asked again. Raises NotFoundError."""
        self._verdicts.show(id, owner)
        self.files.take_back(id, owner)

    def count(self, id: str, owner: str = LOCAL) -> Count:
        """Raises NotFoundError, and InputError with nothing to label."""
        rows, mine = self._rows(id, owner), self.files.of(id, owner)
        right, wrong, unsure = (sum(one.label == label for one in mine) for label in LABELS)
        return Count(right, wrong, unsure, len(rows.keys() - {one.place for one in mine}))

    def labelled(self, id: str, owner: str = LOCAL) -> dict[tuple[int, str], Mapping[str, Any]]:
        """The rows of which this person said whether they are right, by place. Raises NotFoundError, InputError."""
        rows = self._rows(id, owner)
        return {one.place: rows[one.place] for one in self.files.of(id, owner) if one.is_said and one.place in rows}

    def trust(self, id: str, judge: str, owner: str = LOCAL) -> Trust:
        """How far a judge goes with this person on the examples of a verdict. Raises NotFoundError, InputError."""
        record = self._verdicts.show(id, owner).record or {}
        return self._verdicts.judges.trust(self._verdicts.files, judge, owner, str(record.get("file", "")))

    def _rows(self, id: str, owner: str) -> dict[tuple[int, str], dict[str, Any]]:
        """What can be labelled, in this owner's order: one reply of each example, drawn, then the next; of sides that
        say the same to one example the first, and nothing empty. Raises NotFoundError, InputError."""
        view, rng = self._verdicts.show(id, owner), random.Random(f"{id} {owner} labels")
        by_example: dict[int, dict[str, dict[str, Any]]] = {}
        for row in self._verdicts.rows(id, owner) if view.record is not None else ():
            if not is_blank(row["reply"], row["reference"]):
                by_example.setdefault(row["example"], {}).setdefault(row["reply"].strip(), row)
        drawn = [
            (turn, rng.random(), row)
            for _, replies in sorted(by_example.items())
            for turn, row in enumerate(rng.sample(list(replies.values()), len(replies)))
        ]
        if not drawn:
            raise InputError("There is nothing to label yet: it takes a verdict that has ended, with replies in it.")
        drawn.sort(key=lambda one: one[:2])
        return {(row["example"], row["side"]): row for _, _, row in drawn}
