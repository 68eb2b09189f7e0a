"""The prompt bench's handlers, called as plain functions."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from playground.errors import BaseUnavailableError, InputError, NotFoundError
from playground.models.bases import BaseState
from playground.ui import bench
from playground.ui.bench import BenchView
from playground.ui.page import WholePage
from playground.ui.rows import Source
from playground.ui.verdict_form import FILE, UPLOAD, Kept
from playground.ui.wiring import Visitor
from playground.verdict.bench import Best, Score, Version
from playground.verdict.service import VerdictView
from tests.ui.conftest import Call
from tests.ui.fakes import EVIL, FakeServices

SET = "set:hospital_reports"
ENDED = VerdictView("b1", f"Prompt bench: {EVIL}", "DONE", record={"sides": []}, purpose="bench")
LIVE = replace(ENDED, state="MEASURING", record=None, done=3, of=8, message=f"Answering {EVIL}")


BEST = Best(f"Be glad {EVIL}.", 4, f"The best of 2: 21 of 24 {EVIL}.", "v1 + 4 shots")


@dataclass
class FakeBench:
    kept: list[Version] = field(default_factory=list)
    last: VerdictView | None = None
    found: Best = BEST
    scored: list[tuple[Any, ...]] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)

    def keep(self, text: str, file: Path, owner: str) -> Version:
        if not text:
            raise InputError(f"There is no text in this prompt {EVIL}.")
        self.kept.append(Version(f"v{len(self.kept) + 1}", text, 1.0, file.name))
        return self.kept[-1]

    def versions(self, file: Path, owner: str) -> list[Version]:
        return self.kept if owner == "local" else []

    def forget(self, id: str, owner: str) -> None:
        if owner != "local" or id not in [one.id for one in self.kept]:
            raise NotFoundError("There is no version of that name.")
        self.kept = [one for one in self.kept if one.id != id]

    def rows(self, file: Path, owner: str, mapping: Any, seed: int, test: float) -> tuple[int, ...]:
        self.drawn = (file.name, seed, test)
        return (3, 5)

    def score(self, *asked: Any, **more: Any) -> str:
        self.scored.append((*asked, more))
        return "b1"

    def newest(self, file: Path, owner: str) -> VerdictView | None:
        return self.last

    def stop(self, id: str, owner: str) -> None:
        self.stopped.append(id)

    def best(self, id: str, owner: str) -> Best:
        return self.found


@pytest.fixture
def benched(services: FakeServices) -> Any:
    services.bench = FakeBench()  # type: ignore[attr-defined]
    return services


def where(source: str = SET, **changes: Any) -> Any:
    given = {"kept": Kept(), "uploaded": None, "training": Source(), "seed": 7, "test": 15}
    return {"source": source, **given, **changes}


@pytest.fixture
def view(whole: WholePage) -> BenchView:
    return whole.verdict.bench


def test_the_box_holds_the_sets_prompt_until_somebody_writes_another(benched: Any, call: Call, view: BenchView) -> None:
    prompt = "End with Reviewed by Dr. Sharma."
    for written, source, text in (("", SET, prompt), ("mine", SET, None), (prompt, FILE, "")):
        drawn = call(bench.opened, view, text=written, where=where(source))
        assert drawn.get(view.text) == text
        assert ("Every row of this file" in str(drawn.get(view.error))) == (source == FILE)


def test_versions_are_kept_listed_with_their_scores_and_removed(benched: Any, call: Call, view: BenchView) -> None:
    call(bench.keep, view, text=f"Be {EVIL}", where=where())
    with pytest.raises(InputError):
        call(bench.keep, view, text="", where=where())
    name = benched.data.sets()[0].file.name
    scores = (Score(name, 4, "json", 0.5, 24, 12, 310.4), Score(name, 0, "rouge_l", 0.5, 24, None, 99))
    scores += (Score("other", 0, "json", 1, 3, 3),)
    benched.bench.kept = [replace(benched.bench.kept[0], scores=scores)]
    shown = bench.list_html(benched.bench.kept, name)
    assert "rouge_l 0.500 without shots, 99 tokens<br>12 of 24 with 4 shots, 310 tokens" in shown
    assert "3 of 3" not in shown
    assert "<img" not in shown
    assert "&lt;img" in shown
    for id in ("v9", EVIL):
        with pytest.raises(NotFoundError):
            call(bench.remove, view, picked=id)
    with pytest.raises(NotFoundError):
        bench.remove(benched, Visitor("somebody", "x"), view, picked="v1")
    call(bench.remove, view, picked="v1")
    assert benched.bench.kept == []


def test_all_versions_are_scored_on_the_validation_part(benched: Any, call: Call, view: BenchView) -> None:
    def score(counts: list[int], checks: str = "", place: Any = None) -> None:
        given = {"counts": counts, "checks": checks, "max_tokens": 64, "draw": 9}
        call(bench.score, view, **given, where=place or where())

    call(bench.keep, view, text="Be glad.", where=where())
    score([0, 4], " json \n\n")
    file = benched.data.sets()[0].file
    more = {"owner": "local", "rows": (3, 5), "mapping": None, "max_tokens": 64, "seed": 9}
    assert benched.bench.scored == [(file, ["v1"], [0, 4], ["json"], more)]
    assert benched.bench.drawn == (file.name, 7, 0.0)
    mine = Path("mine.csv")
    score([0], place=where(UPLOAD, uploaded=mine, training=Source(mine, mapping={"prompt": "q"})))
    assert benched.bench.drawn == ("mine.csv", 7, 0.15)
    assert benched.bench.scored[-1][-1]["mapping"] == {"prompt": "q"}
    with pytest.raises(InputError, match="Every row"):
        score([0], place=where(FILE))
    benched.bases.now = BaseState("preparing", "Preparing the base", "x")
    with pytest.raises(BaseUnavailableError, match="not ready"):
        score([0])


def test_progress_is_shown_and_what_was_sent_is_left_alone(benched: Any, call: Call, view: BenchView) -> None:
    def show(sent: Any = None) -> Any:
        return call(bench.show, view, sent=sent or {}, where=where())

    def buttons(drawn: Any) -> list[bool]:
        return [drawn[one]["visible"] for one in (view.score, view.stop, view.use)] + [drawn[view.timer]["active"]]

    benched.bench.last = LIVE
    drawn = show()
    assert "3 of 8" in drawn[view.head]["value"]
    assert "<img" not in drawn[view.head]["value"]
    assert buttons(drawn) == [False, True, False, True]
    assert list(show(drawn[view.sent])) == [view.sent]
    call(bench.stop, view, where=where())
    assert benched.bench.stopped == ["b1"]
    benched.bench.last = ENDED
    drawn = show(drawn[view.sent])
    assert "The best of 2: 21 of 24" in drawn[view.head]["value"]
    assert "<img" not in drawn[view.head]["value"]
    assert buttons(drawn) == [True, False, True, False]
    benched.bench.last = replace(ENDED, state="FAILED", record=None, error=f"Memory ran out {EVIL}.")
    assert "Memory ran out &lt;img" in show()[view.head]["value"]


def test_the_best_goes_to_the_form(benched: Any, call: Call, whole: WholePage) -> None:
    view, tab = whole.verdict.bench, whole.verdict

    def use(kept: Kept | None = None) -> Any:
        return call(bench.use, view, tab=tab, where=where(kept=kept or Kept()))

    with pytest.raises(InputError, match="Nothing has been scored"):
        use()
    benched.bench.last = ENDED
    drawn = use()
    assert drawn[tab.fold]["open"] is True
    assert drawn[tab.prompt] == benched.bench.found.text
    assert drawn[tab.kept].carried == (), "four shots are a side of the form already"
    assert "<img" not in drawn[view.error]["value"]
    benched.bench.found = replace(benched.bench.found, shots=8)
    (side,) = use(use()[tab.kept])[tab.kept].carried
    assert (side.label, side.shots, side.system_prompt) == ("Base + best prompt + 8 shots", 8, benched.bench.found.text)
