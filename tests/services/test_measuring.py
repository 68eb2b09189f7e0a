"""What a verdict keeps of its sides when one of them fails after the answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from playground.errors import AdapterError
from playground.evaluation.scored import Answered
from playground.services.answering import Item, Progress
from playground.services.measuring import Measuring, Work
from playground.services.sides import Side
from playground.services.verdict_files import VerdictFiles
from playground.services.verdict_request import VerdictRequest

A, B = Side("base", name="A"), Side("base", "Be brief.", name="B")


def answered(row: int, side: str) -> Answered:
    return Answered(row, side, "q", "p", "r", "r", 1, 1, None, None)


class FakeAnswering:
    """Two sides, two rows; B fails in one phase, after it was told of its first row."""

    def __init__(self, fails_in: str) -> None:
        self.fails_in = fails_in

    def prepare(self, request: Any) -> list[Item]:
        return []

    def answers(self, request: Any, items: Any, session: str, failed: dict[str, str]) -> Iterator[Progress]:
        yield Progress("Answering", 4, 4, tuple(answered(row, side) for row in (1, 2) for side in "AB"))

    def repeats(self, request: Any, items: Any, session: str, failed: dict[str, str]) -> Iterator[Progress]:
        yield from self._told("repeats", ("x", "y"), failed)

    def timings(self, request: Any, items: Any, session: str, failed: dict[str, str]) -> Iterator[Progress]:
        yield from self._told("seconds", 0.5, failed)

    def _told(self, what: str, value: Any, failed: dict[str, str]) -> Iterator[Progress]:
        yield Progress(what, 1, 4, what=what, known={(1, "A"): value})
        if what == self.fails_in:
            yield Progress(what, 2, 4, what=what, known={(2, "A"): value, (1, "B"): value})
            failed["B"] = "It cannot go on."
            yield Progress(what, 4, 4, what=what, known={(2, "B"): value})
        elif "B" in failed:
            yield Progress(what, 4, 4, what=what, known={(2, "A"): value})
        else:
            yield Progress(what, 4, 4, what=what, known=dict.fromkeys(((2, "A"), (1, "B"), (2, "B")), value))


@pytest.mark.parametrize("phase", ["repeats", "seconds"])
def test_a_side_that_fails_late_is_left_out_and_the_other_keeps_what_is_known_of_it(phase: str, tmp_path: Path) -> None:
    files = VerdictFiles(tmp_path)
    work = Work(files.new("local", "verdict", {}, 0.0))
    request = VerdictRequest(tmp_path / "rows.jsonl", (A, B), repeats=2, losses=False, forgetting=False, refusals=False)
    Measuring(FakeAnswering(phase), None, files).run(work, request)  # type: ignore[arg-type]
    assert set(work.answers) == {(1, "A"), (2, "A")}
    assert all(one.repeats == ("x", "y") and one.seconds == 0.5 for one in work.answers.values())


def test_forgetting_goes_on_without_an_adapter_that_fails(tmp_path: Path) -> None:
    class Card:
        def __init__(self, id: str) -> None:
            self.id = id

    class Fails:
        def measure(self, cards: Any, session: str) -> Iterator[Any]:
            if any(card.id == "bad" for card in cards):
                raise AdapterError("It overflows.")
            from playground.evaluation.forgetting import Forgetting
            from playground.services.forgetting import Recalling

            yield Recalling(1, 1, "", tuple(Forgetting(1.0, 1.1, 10, 5, 4, 10, 0.1, "") for _ in cards))

    class Prepared(FakeAnswering):
        def prepare(self, request: Any) -> list[Item]:
            return [Item(None, side, Card(id), "p", (), ()) for side, id in ((A, "good"), (B, "bad"))]  # type: ignore[arg-type]

    files = VerdictFiles(tmp_path)
    work = Work(files.new("local", "verdict", {}, 0.0))
    request = VerdictRequest(tmp_path / "rows.jsonl", (A, B), losses=False, refusals=False)
    Measuring(Prepared(""), Fails(), files).run(work, request)  # type: ignore[arg-type]
    assert list(work.forgotten) == ["A"]
    assert len(work.answers) == 4
