"""The prompt bench's handlers, called as plain functions."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from playground.errors import InputError, NotFoundError
from playground.services.bases import BaseState
from playground.services.bench_best import Best
from playground.services.prompts import Score, Version
from playground.services.verdicts import VerdictView
from playground.ui import bench
from playground.ui.source import Source
from playground.ui.verdict_form import FILE, UPLOAD, Kept
from playground.ui.wiring import Visitor
from tests.ui.fakes import EVIL, FakeServices

SET = "set:hospital_reports"
ENDED = VerdictView("b1", f"Prompt bench: {EVIL}", "DONE", record={"sides": []}, purpose="bench")
LIVE = replace(ENDED, state="MEASURING", record=None, done=3, of=8, message=f"Answering {EVIL}")


@dataclass
class FakeBench:
    kept: list[Version] = field(default_factory=list)
    last: VerdictView | None = None
    found: Best = field(default_factory=lambda: Best(f"Be glad {EVIL}.", 4, f"The best of 2: 21 of 24 {EVIL}.", "v1 + 4 shots"))
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


def where(
    source: str = SET, kept: Kept | None = None, uploaded: Path | None = None, training: Source | None = None
) -> tuple[Any, ...]:
    return source, kept or Kept(), uploaded, training or Source(), 7, 15


def test_the_box_holds_the_sets_prompt_until_somebody_writes_another(benched: Any, me: Visitor) -> None:
    prompt, error, *shown = bench.opened(benched, me, "", {}, *where())
    assert prompt == "End with Reviewed by Dr. Sharma."
    assert error["visible"] is False
    with gr.Blocks():
        view = bench.build()
    assert len(shown) == len(view.shown)
    assert bench.opened(benched, me, "mine", {}, *where())[0] == gr.skip()
    _, error, *shown = bench.opened(benched, me, prompt, {}, *where(FILE))
    assert "Every row of this file is judged by" in error["value"]
    assert len(shown) == len(view.shown)


def test_versions_are_kept_listed_with_their_scores_and_removed(benched: Any, me: Visitor) -> None:
    assert bench.keep(benched, me, f"Be {EVIL}", *where())["visible"] is False
    assert "<img" not in bench.keep(benched, me, "", *where())["value"]
    name = benched.data.sets()[0].file.name
    scores = (
        Score(name, 4, "json", 0.5, 24, 12, 310.4),
        Score(name, 0, "rouge_l", 0.5, 24, None, 99),
        Score("other", 0, "json", 1, 3, 3),
    )
    benched.bench.kept = [replace(benched.bench.kept[0], scores=scores)]
    shown = bench.list_html(benched.bench.kept, name)
    assert "rouge_l 0.500 without shots, 99 tokens<br>12 of 24 with 4 shots, 310 tokens" in shown
    assert "3 of 3" not in shown
    assert "<img" not in shown
    assert "&lt;img" in shown
    for visitor, id in ((Visitor("somebody", "x"), "v1"), (me, "v9"), (me, EVIL)):
        assert bench.remove(benched, visitor, id)["visible"] is True
    assert bench.remove(benched, me, "v1")["visible"] is False
    assert benched.bench.kept == []


def test_all_versions_are_scored_on_the_validation_part(benched: Any, me: Visitor) -> None:
    bench.keep(benched, me, "Be glad.", *where())
    assert bench.score(benched, me, [0, 4], " json \n\n", 64, 9, *where())["visible"] is False
    file = benched.data.sets()[0].file
    assert benched.bench.scored == [
        (file, ["v1"], [0, 4], ["json"], "local", (3, 5), {"mapping": None, "max_tokens": 64, "seed": 9})
    ]
    assert benched.bench.drawn == (file.name, 7, 0.0)
    mine = Path("mine.csv")
    bench.score(benched, me, [0], "", None, None, *where(UPLOAD, uploaded=mine, training=Source(mine, mapping={"prompt": "q"})))
    assert benched.bench.drawn == ("mine.csv", 7, 0.15)
    assert benched.bench.scored[-1][-1]["mapping"] == {"prompt": "q"}
    assert "Every row" in bench.score(benched, me, [0], "", 64, 9, *where(FILE))["value"]
    benched.bases.now = BaseState("preparing", "Preparing the base", "x")
    assert "not ready" in bench.score(benched, me, [0], "", 64, 9, *where())["value"]


def test_progress_is_shown_and_what_was_sent_is_left_alone(benched: Any, me: Visitor) -> None:
    benched.bench.last = LIVE
    shown = bench.show(benched, me, {}, *where())
    drawn, _, head, score, stop, use, timer = shown
    assert "3 of 8" in head["value"]
    assert "<img" not in head["value"]
    assert (score["visible"], stop["visible"], use["visible"], timer.active) == (False, True, False, True)
    assert bench.show(benched, me, drawn, *where())[1:] == [gr.skip()] * 6
    assert bench.stop(benched, me, *where())["visible"] is False
    assert benched.bench.stopped == ["b1"]
    benched.bench.last = ENDED
    _, _, head, score, stop, use, timer = bench.show(benched, me, drawn, *where())
    assert "The best of 2: 21 of 24" in head["value"]
    assert "<img" not in head["value"]
    assert (score["visible"], stop["visible"], use["visible"], timer.active) == (True, False, True, False)
    benched.bench.last = replace(ENDED, state="FAILED", record=None, error=f"Memory ran out {EVIL}.")
    assert "Memory ran out &lt;img" in bench.show(benched, me, {}, *where())[2]["value"]


def test_the_best_goes_to_the_form(benched: Any, me: Visitor) -> None:
    assert "Nothing has been scored" in bench.use(benched, me, *where())[2]["value"]
    benched.bench.last = ENDED
    prompt, kept, said, fold = bench.use(benched, me, *where())
    assert fold["open"] is True
    assert prompt == benched.bench.found.text
    assert kept.carried == (), "four shots are a side of the form already"
    assert "<img" not in said["value"]
    benched.bench.found = replace(benched.bench.found, shots=8)
    for _ in range(2):
        _, kept, _, _ = bench.use(benched, me, *where(kept=kept))
    (side,) = kept.carried
    assert (side.label, side.shots, side.system_prompt) == ("Base + best prompt + 8 shots", 8, benched.bench.found.text)
