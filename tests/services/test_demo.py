"""The built-in story, with a training and a comparison that end at once, and jobs that run when the test says so."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from playground.chat.compare import Reply
from playground.chat.demo import DemoService
from playground.errors import PlaygroundError
from playground.jobs import Jobs
from playground.runs.progress import RunView
from tests.refused import refused

DONE = RunView("r1", "demo", "DONE", "lora", 20, 20, "mine", None, None, 0.0, summary={"rows_used": 9, "seconds": 3.0})
story = pytest.fixture(lambda tmp_path: Story(tmp_path))


class Story:
    """A demo whose training ends with ``view``, and whose sides write ``reply``."""

    def __init__(self, folder):
        heldout = folder / "heldout.jsonl"
        heldout.write_text("\n".join(json.dumps({"prompt": f"q{n}", "completion": f"a {n} END"}) for n in range(20)))
        told = {"system_prompt": "Be brief.", "check": "ends-with:END", "right": ("exact",)}
        shipped = SimpleNamespace(file=heldout, heldout=heldout, **told)
        self.view, self.cancelled = DONE, []
        self.says = {"mine": Reply("a 3 END", True, "", 9, 2), "base": Reply("a", True, "", 9, 2)}
        self.waiting = []
        training = SimpleNamespace(start=lambda request: "r1", show=lambda run, owner: self.view)
        training.cancel = lambda run, owner: self.cancelled.append(run)
        jobs = Jobs(spawn=lambda run, name: self.waiting.append(run))
        parts = (SimpleNamespace(shipped=lambda name: shipped), training, SimpleNamespace(ask_each=self.ask))
        self.demo = DemoService(*parts, jobs)

    def ask(self, side, questions, *others):
        yield [Reply() for _ in questions]
        yield [self.says[side.model] for _ in questions]

    def run(self):
        while self.waiting:
            self.waiting.pop()()


def test_it_trains_and_measures_both_sides_and_in_the_foreground_tells_every_change_and_raises_a_fault(story):
    assert story.demo.state().phase == "idle"
    story.demo.start()
    story.demo.start()
    assert story.demo.state().phase == "training"
    assert len(story.waiting) == 1, "once at a time"
    assert story.demo.state("somebody").phase == "idle"
    story.run()
    state = story.demo.state()
    assert (state.phase, state.adapter, state.progress, state.error) == ("done", "mine", 1.0, "")
    sides = ("Base + prompt", 0, 0, 16), ("Fine-tuned, no prompt", 16, 1, 16)
    assert tuple((row.name, row.passed, row.right, row.n) for row in state.table) == sides
    assert state.steps[2].detail == "Of 16, 16 keep the format, 1 has the right content"
    assert [step.state for step in state.steps] == ["done"] * 3
    story.demo.reset()
    assert story.demo.state().phase == "idle"
    seen = []
    assert story.demo.play(lambda state: seen.append(state.phase)).phase == "done"
    assert (seen[0], seen[-1]) == ("training", "done")
    story.view = replace(DONE, state="FAILED", error="Memory ran out.")
    refused("Memory ran out", story.demo.play, lambda state: None, error=PlaygroundError)


@pytest.mark.parametrize(
    ("view", "phase", "words"),
    [
        (replace(DONE, state="FAILED", error="Memory ran out."), "failed", "Memory ran out."),
        (replace(DONE, state="CANCELLED"), "cancelled", "Stopped. What was measured so far stays on the page."),
        (DONE, "failed", "It is too long."),
    ],
)
def test_what_ends_it_early_is_said(story, view, phase, words):
    story.view, story.says["base"] = view, Reply(done=True, error="It is too long.")
    story.demo.start()
    story.run()
    assert (story.demo.state().phase, story.demo.state().error) == (phase, words)


def test_stopped_while_it_trains_the_run_is_cancelled_and_it_can_be_played_again(story):
    story.view = replace(DONE, state="RUNNING", step=0)
    story.demo.start()
    story.demo.cancel()
    story.run()
    assert (story.demo.state().phase, story.cancelled) == ("cancelled", ["r1"])
    story.view = DONE
    story.demo.start()
    story.demo.reset()
    story.demo.start()
    story.run()
    assert story.demo.state().phase == "done", "the one that was reset changes nothing"
