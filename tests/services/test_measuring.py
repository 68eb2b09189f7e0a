"""What a verdict keeps of its sides when one of them fails after the answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from playground.chat.compare import Side
from playground.errors import AdapterError
from playground.evaluation.forgetting import Forgetting
from playground.evaluation.verdict import Answered
from playground.jobs import Jobs
from playground.verdict.answers import Item, Progress
from playground.verdict.files import VerdictFiles
from playground.verdict.losses import Recalling
from playground.verdict.measuring import Measuring, Work
from playground.verdict.request import VerdictRequest

A, B = Side("base", name="A"), Side("base", "Be brief.", name="B")


def answered(row: int, side: str) -> Answered:
    return Answered(row, side, "q", "p", "r", "r", 1, 1, None, None)


class FakeAnswering:
    """Two sides, two rows; B fails in one phase, after its first row is known."""

    def __init__(self, fails_in: str = "", items: tuple[Item, ...] = ()) -> None:
        self.fails_in, self.items = fails_in, items

    def prepare(self, request: Any) -> list[Item]:
        return list(self.items)

    def answers(self, request: Any, items: Any, session: str, failed: dict[str, str]) -> Iterator[Progress]:
        yield Progress("Answering", 4, 4, tuple(answered(row, side) for row in (1, 2) for side in "AB"))

    def repeats(self, request: Any, items: Any, session: str, failed: dict[str, str]) -> Iterator[Progress]:
        yield from self._steps("repeats", ("x", "y"), failed)

    def timings(self, request: Any, items: Any, session: str, failed: dict[str, str]) -> Iterator[Progress]:
        yield from self._steps("seconds", 0.5, failed)

    def _steps(self, what: str, value: Any, failed: dict[str, str]) -> Iterator[Progress]:
        yield Progress(what, 1, 4, what=what, known={(1, "A"): value})
        if what == self.fails_in:
            yield Progress(what, 2, 4, what=what, known={(2, "A"): value, (1, "B"): value})
            failed["B"] = "It cannot go on."
            yield Progress(what, 4, 4, what=what, known={(2, "B"): value})
        elif "B" in failed:
            yield Progress(what, 4, 4, what=what, known={(2, "A"): value})
        else:
            yield Progress(what, 4, 4, what=what, known=dict.fromkeys(((2, "A"), (1, "B"), (2, "B")), value))


def measured(folder: Path, answering: FakeAnswering, forgetting: Any = None, **changes: Any) -> Work:
    files = VerdictFiles(folder)
    work = Work(files.new("local", "verdict", {}, 0.0))
    request = VerdictRequest(folder / "rows.jsonl", (A, B), losses=False, refusals=False, **changes)
    with Jobs().here("verdict", "The verdict", "") as job:
        Measuring(answering, forgetting, files).run(work, request, job)  # type: ignore[arg-type]
    return work


@pytest.mark.parametrize("phase", ["repeats", "seconds"])
def test_a_side_that_fails_late_is_left_out_and_the_other_keeps_what_is_known_of_it(phase: str, tmp_path: Path) -> None:
    work = measured(tmp_path, FakeAnswering(phase), repeats=2, forgetting=False)
    assert set(work.answers) == {(1, "A"), (2, "A")}
    assert all(one.repeats == ("x", "y") and one.seconds == 0.5 for one in work.answers.values())


def test_forgetting_goes_on_without_an_adapter_that_fails(tmp_path: Path) -> None:
    class Fails:
        def measure(self, cards: Any, session: str) -> Iterator[Any]:
            if any(card.id == "bad" for card in cards):
                raise AdapterError("It overflows.")
            yield Recalling(1, 1, "", tuple(Forgetting(1.0, 1.1, 10, 5, 4, 10, 0.1, "") for _ in cards))

    cards = [SimpleNamespace(id="good"), SimpleNamespace(id="bad")]
    items = tuple(Item(None, side, card, "p", (), ()) for side, card in zip((A, B), cards, strict=True))  # type: ignore[arg-type]
    work = measured(tmp_path, FakeAnswering("", items), Fails())
    assert list(work.forgotten) == ["A"]
    assert len(work.answers) == 4
