"""The Verdict tab's handlers, called as plain functions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from playground.data.example import Checked, Example, Message
from playground.errors import InputError
from playground.services.bases import BaseState
from playground.services.verdicts import VerdictView
from playground.ui import compare, train, verdict, verdict_form, verdict_shown, watch, words
from playground.ui.asking import Comparison
from playground.ui.source import Source
from playground.ui.verdict_form import FILE, UPLOAD, Kept
from playground.ui.watch import Memo
from playground.ui.wiring import Page, Visitor
from tests.evaluation.verdicts import verdict as made_verdict
from tests.ui.fakes import EVIL, FakeServices, row

SET = "set:hospital_reports"
SETTINGS = (None, 1, 96, 0, 7, True, False)
SITUATION = (None, "never", None, None, "")
STRANGER = Visitor("somebody", "tab-2")
ID = "20261124-101500-v1a2b"


def examples(count: int, ending: str = "Reviewed by A. Person") -> Checked:
    rows = tuple(
        Example((Message("user", f"question {n}"), Message("assistant", f"answer {n}. {ending}")), n) for n in range(1, count + 1)
    )
    return Checked("prompt-completion", "sft", count, rows)


@pytest.fixture
def judged(services: FakeServices) -> FakeServices:
    record, rows = made_verdict()
    services.verdicts.record, services.verdicts.held = record, rows
    services.verdicts.listed = [VerdictView(ID, f"ward {EVIL}", "DONE", created_s=1.79e9)]
    return services


def asked(
    source: str = SET, kept: Kept | None = None, uploaded: Path | None = None, training: Source | None = None
) -> tuple[Any, ...]:
    return source, kept or Kept(), uploaded, training or Source(), 7, 15


def start(
    services: FakeServices, me: Visitor, *, sides: list[str], checks: str = "json", situation: Any = SITUATION, **more: Any
) -> Any:
    return verdict_form.start(
        services, me, *asked(**more), sides, *SETTINGS, "hospital_reports", "Be careful.", checks, *situation
    )  # fmt: skip


def test_the_page_opens_with_a_shipped_set_its_prompt_check_and_adapter(services: FakeServices, me: Visitor) -> None:
    source, adapter = verdict_form.opening(services, me, None, Kept(), None)
    assert source["value"] == SET
    assert adapter["value"] == "hospital_reports"
    facts, error, prompt, checks, _ = verdict_form.source_chosen(services, me, *asked())
    assert "2 held-out rows" in facts["value"]
    assert error["visible"] is False
    assert prompt.startswith("End with")
    assert checks == "ends-with:Sharma"
    sides, offered = verdict_form.lined_up(services, me, "hospital_reports", prompt, Kept(), [], {}, SET)
    assert list(offered) == ["base", "prompt", "shots", "documents", "tuned"]
    assert sides["value"] == list(offered), "all of them are chosen at first"
    button, _ = verdict_form.refresh(services, me, *asked(), offered, *SETTINGS)
    assert (button["value"], button["interactive"]) == ("Measure (10 replies)", True)


def test_the_button_names_what_is_missing(services: FakeServices, me: Visitor) -> None:
    button, _ = verdict_form.refresh(services, me, *asked(), [], *SETTINGS)
    assert (button["value"], button["interactive"]) == (words.VERDICT_SIDES, False)
    button, _ = verdict_form.refresh(services, me, *asked(FILE), ["base"], *SETTINGS)
    assert button["value"] == words.VERDICT_EXAMPLES
    services.bases.now = BaseState("preparing", "Preparing the base, 62 of 98 MB", "smollm2-135m")
    button, _ = verdict_form.refresh(services, me, *asked(), ["base"], *SETTINGS)
    assert button["value"] == "Preparing the base, 62 of 98 MB"
    error = start(services, me, sides=["base"])[1]
    assert "not ready yet" in error["value"]
    assert services.verdicts.started == []


def test_measure_asks_for_what_was_chosen(services: FakeServices, me: Visitor) -> None:
    situation = (5000, "monthly", 2.5, 100, '{"currency": "EUR", "prompt_per_million": 1}')
    made, error, fold = start(services, me, sides=["prompt", "tuned"], checks=" json \n\nmax-words:5\n", situation=situation)
    assert (made, error["visible"], fold["open"]) == ("v1", False, False)
    (request,) = services.verdicts.started
    assert [side.label for side in request.sides] == ["Base + prompt", "hospital_reports"]
    assert request.checks == ("json", "max-words:5")
    assert request.rows is None
    assert (request.questions.volume, request.questions.changes, request.prices.currency) == (5000, "monthly", "EUR")
    assert (request.max_tokens, request.seed, request.owner) == (96, 7, "local")
    assert (request.losses, request.forgetting) == (True, False)


@pytest.mark.parametrize(
    ("sides", "checks", "prices", "says"),
    [
        ([], "json", "", "at least one side"),
        (["nobody's"], "json", "", "at least one side"),
        (["base"], f"reads-well:{EVIL}", "", "not a check"),
        (["base"], "json", "{", "not JSON"),
        (["base"], "json", f'{{"{EVIL}": 1}}'.replace('="', "='").replace(')">', ")'>"), "names"),
    ],
)
def test_what_is_wrong_is_said_where_it_was_asked(
    services: FakeServices, me: Visitor, sides: list[str], checks: str, prices: str, says: str
) -> None:
    made, error, _ = start(services, me, sides=sides, checks=checks, situation=(None, "never", None, None, prices))
    assert made == gr.skip()
    assert says in error["value"].replace("&quot;", '"')
    assert "<img" not in error["value"]
    assert services.verdicts.started == []


def test_a_side_that_was_chosen_and_is_gone_is_said_and_one_without_its_prompt_is_left_out(
    services: FakeServices, me: Visitor
) -> None:
    for gone in ("tuned", "tuned+documents", "carried:0"):
        services.adapters.rows = []
        made, error, _ = start(services, me, sides=["base", gone])
        assert made == gr.skip()
        assert words.VERDICT_GONE in error["value"]
        assert words.VERDICT_GONE in start(services, me, sides=[gone])[1]["value"]
    assert services.verdicts.started == []
    asked_ = (*asked(), ["base", "prompt"], *SETTINGS, "hospital_reports", "", "json", *SITUATION)
    made, error, _ = verdict_form.start(services, me, *asked_)
    assert (made, error["visible"]) == ("v1", False)
    assert [side.label for side in services.verdicts.started[0].sides] == ["Base"]


def test_an_upload_is_judged_by_its_test_part(services: FakeServices, me: Visitor) -> None:
    services.data.checked = examples(40)
    uploaded = Path("mine.csv")
    training = Source(uploaded, "mine", mapping={"prompt": "patient"})
    facts, _, _, checks, _ = verdict_form.source_chosen(services, me, *asked(UPLOAD, uploaded=uploaded, training=training))
    assert "6 rows of mine.csv" in facts["value"]
    assert "ends-with:Reviewed by A. Person" in checks.splitlines()
    start(services, me, sides=["base"], source=UPLOAD, uploaded=uploaded, training=training)
    (request,) = services.verdicts.started
    assert request.rows is not None
    assert len(request.rows) == 6
    assert (request.file, request.mapping, request.examples) == (uploaded, {"prompt": "patient"}, uploaded)
    services.data.checked = examples(12)
    error = verdict_form.source_chosen(services, me, *asked(UPLOAD, uploaded=uploaded))[1]
    assert "has no test part" in error["value"]


def test_a_dropped_file_is_judged_by_every_row(services: FakeServices, me: Visitor) -> None:
    services.data.checked = examples(8)
    kept, source, error = verdict_form.drop(services, me, "held.jsonl", Kept(), None)
    assert (source["value"], error["visible"]) == (FILE, False)
    start(services, me, sides=["base"], source=FILE, kept=kept)
    assert services.verdicts.started[0].rows is None
    services.data.checked = examples(0)
    assert "no row with a request" in verdict_form.source_chosen(services, me, *asked(FILE, kept))[1]["value"]


def test_sides_that_were_taken_away_stay_so_and_new_ones_are_chosen(services: FakeServices, me: Visitor) -> None:
    sides, offered = verdict_form.lined_up(
        services, me, "", "p", Kept(), ["base"], dict.fromkeys(("base", "prompt", "shots"), ""), ""
    )
    assert (sides["value"], list(offered)) == (["base"], ["base", "prompt", "shots"])
    assert verdict_form.lined_up(services, me, "", "p", Kept(), [], offered, "")[0] == gr.skip(), (
        "nothing new: a choice is not drawn over"
    )
    kept = Kept(docs=Path("guide.txt"))
    sides, _ = verdict_form.lined_up(services, me, "hospital_reports", "p", kept, ["base"], offered, "")
    assert sides["value"] == ["base", "documents", "tuned"]
    sides, _ = verdict_form.lined_up(services, me, "somebody_elses", "p", Kept(), [], {}, "")
    assert "tuned" not in sides["value"]


def test_compare_brings_its_sides_over(services: FakeServices, me: Visitor) -> None:
    setups = ("base", "Be careful.", 0, "hospital_reports", "hospital_reports", "", 2, "hospital_reports") + (
        "base",
        "Be careful.",
        0,
        "",
    ) * 4
    comparison = Comparison(shown=("A", "B", "C"))
    tabs, kept, source, checks, sides, offered, _ = verdict_form.carry(
        services, me, Kept(), None, "", "", "", comparison, "ends-with", "Sharma", *setups
    )
    assert tabs["selected"] == "verdict"
    assert source["value"] == SET
    assert checks == "ends-with:Sharma"
    assert [side.label for side in kept.carried] == ["Base + prompt", "hospital_reports + 2 shots", "Base + prompt (C)"]
    assert sides["value"] == ["carried:0", "carried:1", "carried:2"]
    start(services, me, sides=sides["value"], kept=kept)
    assert services.verdicts.started[0].sides == kept.carried
    assert "base" in offered


def test_a_side_of_compare_whose_adapter_is_gone_is_not_the_base_instead(services: FakeServices, me: Visitor) -> None:
    setups = ("went_away", "", 2, "a file that is gone") * 6
    kept = verdict_form.carry(services, me, Kept(), None, SET, "", "", Comparison(shown=("A",)), "json", "", *setups)[1]
    assert [(one.model, one.label, one.shots) for one in kept.carried] == [("went_away", "an adapter that is gone", 0)]


def test_every_place_is_filled(judged: FakeServices, me: Visitor) -> None:
    with gr.Blocks() as page:
        tab = verdict.build(judged)
        training = train.build(judged)
        sides = compare.build(judged)
        tabs = gr.Tabs()
        verdict.wire(judged, page, tabs, tab, training, gr.State(""))
        verdict.wire_carry(judged, tabs, tab, sides, training)
    assert len(verdict_shown.shown(judged, me, "")) == len(tab.shown)
    assert len(verdict_shown.opened(judged, me, ID)) == len(tab.shown) + 2
    judged.verdicts.listed = []
    assert len(verdict_shown.shown(judged, me, "")) == len(tab.shown)
    assert len(verdict_shown.remove(judged, me, "")) == len(tab.shown)


def test_the_benchs_text_follows_every_choice_of_examples_that_a_person_makes(judged: FakeServices) -> None:
    with Page() as page:
        tab = verdict.build(judged)
        training = train.build(judged)
        sides = compare.build(judged)
        tabs = gr.Tabs()
        verdict.wire(judged, page, tabs, tab, training, gr.State(""))
        verdict.wire_carry(judged, tabs, tab, sides, training)
    asked_ = [
        one for one in page.fns.values() if one.name == "opened" and tab.bench.text in one.outputs and one._id not in page.unasked
    ]
    before = {page.fns[one.trigger_after].name for one in asked_ if one.trigger_after is not None}
    assert before == {"first", "source_chosen", "carry"}, "an upload, a dropped file, the sides of Compare"


def test_the_empty_tab_says_what_to_do(services: FakeServices, me: Visitor) -> None:
    followed, _, head, body, listed, *_ = verdict_shown.shown(services, me, "")
    assert followed == ""
    assert words.VERDICT_EMPTY in head
    assert (body["visible"], listed["visible"]) == (False, False)


def test_while_it_measures(judged: FakeServices, me: Visitor) -> None:
    live = VerdictView("v9", f"mine {EVIL}", "MEASURING", 12, 40, f"Answering {EVIL}", 48.0, 1.79e9)
    judged.verdicts.listed.insert(0, live)
    followed, _, head, body, _listed, stop, files, delete, _, again = verdict_shown.shown(judged, me, "")
    assert followed == "v9", "a refresh finds what is measured"
    assert 'role="progressbar"' in head
    assert 'aria-valuenow="30"' in head
    assert "12 of 40, 48 s left" in head
    assert "<img" not in head
    assert (body["visible"], stop["visible"], files["visible"], delete["visible"], again["visible"]) == (
        False,
        True,
        False,
        False,
        False,
    )
    assert verdict_shown.stop(judged, me, "v9")["visible"] is False
    assert judged.verdicts.stopped == ["v9"]


def test_an_ended_verdict_is_shown_with_its_report(judged: FakeServices, me: Visitor) -> None:
    followed, error, head, body, listed, stop, files, *_ = verdict_shown.shown(judged, me, ID)
    assert (followed, error["visible"]) == (ID, False)
    assert f'href="?verdict={ID}"' in head
    assert "Fine-tune." in body["value"]
    assert 'data-id="39|' in body["value"], "worst first, each with a replay"
    assert f'data-id="{ID}"' in listed["value"]
    assert (stop["visible"], files["visible"]) == (False, True)
    for shown in (head, body["value"], listed["value"]):
        assert "<img" not in shown
        assert "&lt;img" in shown or shown is head
    judged.verdicts.record = None
    _, _, head, body, _, _, files, delete, _, _ = verdict_shown.shown(judged, me, ID)
    assert (body["visible"], files["visible"], delete["visible"]) == (False, False, True)


def test_a_link_opens_only_ones_own(judged: FakeServices, me: Visitor) -> None:
    tabs, followed, error, *_, fold = verdict_shown.opened(judged, me, ID)
    assert (tabs["selected"], followed, error["visible"], fold["open"]) == ("verdict", ID, False, False)
    tabs, followed, error, _, body, *_ = verdict_shown.opened(judged, STRANGER, ID)
    assert followed == ""
    assert "no such verdict of yours" in error["value"]
    assert body["visible"] is False
    assert verdict_shown.opened(judged, me, "")[0] == gr.skip()
    assert verdict_shown.follow(judged, STRANGER, ID)[0] == ""


def test_ids_of_another_do_nothing(judged: FakeServices) -> None:
    verdict_shown.remove(judged, STRANGER, ID)
    verdict_shown.stop(judged, STRANGER, ID)
    assert (judged.verdicts.removed, judged.verdicts.stopped) == ([], [])
    assert verdict_shown.export(judged, STRANGER, "html", ID)[0]["value"] is None
    assert "alert" in verdict_shown.replay(judged, STRANGER, "39|3", ID)["value"]
    assert judged.replay.asked == []
    again = verdict_shown.again(judged, STRANGER, ID, *SITUATION)
    assert judged.verdicts.judged == []
    assert again[0] == gr.skip()


def test_deleting_asks(judged: FakeServices, me: Visitor) -> None:
    question, asked_, _ = verdict_shown.ask_remove(judged, me, ID)
    assert question["visible"] is True
    assert "<img" not in asked_
    assert judged.verdicts.removed == []
    shown = verdict_shown.remove(judged, me, ID)
    assert judged.verdicts.removed == [ID]
    assert words.VERDICT_EMPTY in shown[2]


def test_exports_are_made_when_asked_for(judged: FakeServices, me: Visitor) -> None:
    file, error = verdict_shown.export(judged, me, "csv", ID)
    assert file["value"].endswith(f"verdict-{ID}.csv")
    assert error["visible"] is False
    judged.verdicts.record = None
    file, error = verdict_shown.export(judged, me, "html", ID)
    assert "nothing to export" in error["value"]


def test_other_answers_judge_anew_without_asking(judged: FakeServices, me: Visitor) -> None:
    body, said = verdict_shown.again(judged, me, ID, 2_000_000, "weekly", 3, 10, '{"currency": "EUR"}')
    assert "Fine-tune." in body["value"]
    assert "nothing was asked again" in said["value"]
    ((questions, prices),) = judged.verdicts.judged
    assert (questions.volume, questions.changes, prices.currency) == (2_000_000, "weekly", "EUR")
    body, said = verdict_shown.again(judged, me, ID, None, "daily", None, None, "")
    assert body == gr.skip()
    assert "daily" in said["value"]


def test_a_reply_is_replayed_from_its_stamp(judged: FakeServices, me: Visitor) -> None:
    said = verdict_shown.replay(judged, me, "39|3", ID)["value"]
    assert "the same text again" in said
    assert "<img" not in said
    ((saved, owner, session),) = judged.replay.asked
    assert (saved.stamp["adapter"], owner, session) == ("ward", "local", "tab-1")
    judged.replay.same = False
    said = verdict_shown.replay(judged, me, "39|0", ID)["value"]
    assert "another text from 4 letters on" in said
    assert "<img" not in said
    for wrong in ("39|9", "x|0", "", "39", "4000|0"):
        assert "alert" in verdict_shown.replay(judged, me, wrong, ID)["value"]


def test_the_timer_draws_what_changed_and_reads_the_replies_once(judged: FakeServices, me: Visitor) -> None:
    memo = Memo()
    first = watch._verdict(judged, me, memo, "", "hospital_reports")
    assert "Fine-tune." in first[1]["value"]
    judged.verdicts.show = None  # type: ignore[method-assign,assignment]
    assert watch._verdict(judged, me, memo, "", "hospital_reports") == [gr.skip()] * len(first)
    judged.adapters.rows = [row(id="other")]
    offered = watch._verdict(judged, me, memo, "", "hospital_reports")[-1]
    assert offered["choices"][-1] == (f"hospital_reports, {words.GONE}", "hospital_reports"), (
        "what is chosen stays, and is said to be gone"
    )
    assert "value" not in offered


def test_a_verdict_that_failed_says_why(judged: FakeServices, me: Visitor) -> None:
    judged.verdicts.record = None
    judged.verdicts.listed = [replace(judged.verdicts.listed[0], state="FAILED", error=f"Memory ran out {EVIL}.")]
    head = verdict_shown.shown(judged, me, ID)[2]
    assert "Memory ran out" in head
    assert 'role="alert"' in head
    assert "<img" not in head


def test_a_text_that_cannot_be_looked_things_up_in_is_refused(services: FakeServices, me: Visitor) -> None:
    kept, error = verdict_form.documents(services, me, "guide.pdf", Kept())
    assert kept.docs is None
    assert error["visible"]


def test_a_set_that_is_not_there_is_said(services: FakeServices, me: Visitor) -> None:
    services.data.checked = InputError(f"Broken {EVIL}.")
    error = verdict_form.source_chosen(services, me, *asked())[1]
    assert "<img" not in error["value"]
    assert "no such example set" in verdict_form.source_chosen(services, me, *asked("set:x"))[1]["value"]
