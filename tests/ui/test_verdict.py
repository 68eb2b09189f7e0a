"""The Verdict tab's handlers, called as plain functions."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import pytest

from playground.chat.compare import Side
from playground.data.example import Repair
from playground.errors import BaseUnavailableError, InputError
from playground.models.bases import BaseState
from playground.ui import verdict as verdict_tab
from playground.ui import verdict_form, verdict_shown, words
from playground.ui.asking import Comparison
from playground.ui.judged import FILE, UPLOAD, Kept
from playground.ui.rows import Source
from playground.verdict.service import VerdictView
from tests.evaluation.helpers import verdict as made_verdict
from tests.refused import refused
from tests.ui.conftest import SET, examples, says, stranger, where
from tests.ui.fakes import EVIL

SETTINGS = {"limit": None, "repeats": 1, "draws": 1, "max_tokens": 96, "temperature": 0, "seed": 7}
SETTINGS |= {"losses": True, "forgetting": False}
TERMS = {"right": "", "bar": 90, "margin": 5, "maximum": None, "form_only": False}
SITUATION = {"volume": None, "changes": "never", "latency": None, "budget": None, "forgets": None, "prices": ""}
ID = "20261124-101500-v1a2b"
tab = pytest.fixture(lambda whole: whole.verdict)


@pytest.fixture
def judged(services):
    record, rows = made_verdict()
    services.verdicts.record, services.verdicts.held = record, rows
    services.verdicts.listed = [VerdictView(ID, f"ward {EVIL}", "DONE", created_s=1.79e9)]
    return services


NOTHING = {"name": "", "column": "", "read": None, "written": None}


def line(**changes):
    there = {"adapter": "hospital_reports", "prompt": "Be careful.", "chosen": [], "offered": {}}
    return there | {"recorded": NOTHING, **changes}


@pytest.fixture
def start(services, call, tab):
    def start(*chosen, checks="json", prompt="Be careful.", **more):
        situation = {**SITUATION, **more.pop("situation", {})}
        said = {"recorded": more.pop("recorded", NOTHING)}
        given = {"line": line(chosen=chosen, prompt=prompt, **said), "checks": checks, "settings": SETTINGS}
        given["terms"] = {**TERMS, **more.pop("terms", {})}
        begin = partial(verdict_form.start, send=more.pop("send", False), leaving=more.pop("leaving", ""))
        return call(begin, tab, where=where(**more), situation=situation, **given)

    return start


def test_another_server_is_offered_and_rows_go_there_once_that_is_agreed_to(services, call, tab, start):
    services.verdicts.servers = (Side("endpoint:big", "Be careful.", name="big"),)
    offered = lined_up(call, tab)[tab.sides]
    assert ("big", "endpoint:big") in offered.choices
    assert "endpoint:big" not in offered.value, "what may cost money is chosen by the person"
    asked = start("base", "endpoint:big")
    assert asked[tab.sending]["visible"]
    assert "6 rows leave for elsewhere." in asked[tab.leaves]
    assert services.verdicts.started == []
    assert start("base", "endpoint:big", send=True, leaving="5 rows")[tab.sending]["visible"], "said anew"
    begun = start("base", "endpoint:big", send=True, leaving=asked[tab.leaving])
    (request,) = services.verdicts.started
    assert (request.send, begun[tab.followed], begun[tab.sending]["visible"]) == (True, "v1", False)
    services.verdicts.servers = ()
    with pytest.raises(InputError, match="not here any more"):
        start("endpoint:big")


def test_replies_of_the_model_of_today_are_a_side_from_a_file_or_a_column(services, call, tab, start):
    source = call(verdict_form.source_chosen, tab, where=where(), prompt="")
    assert source[tab.recorded.column].choices == [("None", ""), ("colour", "colour"), ("size", "size")]
    kept = call(verdict_form.replies, tab, file="today.jsonl", kept=Kept())[tab.kept]
    priced = {**NOTHING, "name": "Today", "read": 2.5, "written": 0}
    said = call(verdict_form.joined, tab, where=where(kept=kept), line=line(recorded=priced))
    says(said[tab.recorded.said], "Replies to 6 of 6 rows.")
    offered = lined_up(call, tab, kept=kept, recorded=priced)[tab.sides]
    assert (offered.choices[-1], "recorded" in offered.value) == (("Today", "recorded"), True)
    start("base", "recorded", kept=kept, recorded=priced)
    side = services.verdicts.started[-1].sides[1]
    assert (side.replies, side.prices, side.column) == (Path("today.jsonl"), (2.5, 0.0), "")
    start("recorded", recorded={**NOTHING, "column": "size"})
    side = services.verdicts.started[-1].sides[0]
    assert (side.replies, side.column, side.label) == (services.data.sets()[0].heldout, "size", "size")
    with pytest.raises(InputError, match="not here any more"):
        start("recorded")
    assert call(verdict_form.joined, tab, where=where(), line=line())[tab.recorded.said]["visible"] is False


@pytest.fixture
def button(services, call, tab):
    def pressed(*sides, source=SET, **more):
        said = {"where": where(source), "line": line(chosen=sides), "settings": SETTINGS | more, "terms": TERMS}
        drawn = call(verdict_form.refresh, tab, **said)
        return drawn[tab.measure]["value"], drawn[tab.measure]["interactive"]

    return pressed


def lined_up(call, tab, *, kept=None, source="", **said):
    return call(verdict_form.lined_up, tab, where=where(source, kept=kept or Kept()), line=line(**said))


def test_the_page_opens_with_a_shipped_set_its_prompt_check_and_adapter(services, call, tab, button):
    first = call(verdict_form.first, tab, where=where("gone"), line=line(adapter="", prompt=""))
    settable = (tab.source, tab.adapter, tab.checks)
    assert [first[one].value for one in settable] == [SET, "hospital_reports", "ends-with:Sharma"]
    assert first[tab.prompt].value.startswith("End with")
    assert "2 held-out rows" in first[tab.facts]["value"]
    keys = ["base", "prompt", "shots", "documents", "tuned"]
    assert list(first[tab.offered]) == keys
    assert first[tab.sides].value == keys, "all of them are chosen at first"
    assert button(*keys) == ("Measure (10 replies)", True)
    assert button(*keys, draws=5) == ("Measure (18 replies)", True), "each draw of the shots asks every row"
    services.verdicts.seen = 1
    assert button(*keys) == ("Measure (5 replies)", True), "what a tuned side may know is left out"
    services.verdicts.seen = 2
    assert button(*keys) == (words.VERDICT_SEEN, False)


def test_the_button_names_what_is_missing(services, button, start):
    assert button() == (words.VERDICT_SIDES, False)
    assert button("base", source=FILE) == (words.VERDICT_EXAMPLES, False)
    services.bases.now = BaseState("preparing", "Preparing the base, 62 of 98 MB", "smollm2-135m")
    assert button("base") == ("Preparing the base, 62 of 98 MB", False)
    refused("not ready yet", start, "base", error=BaseUnavailableError)
    assert services.verdicts.started == []


def test_measure_asks_for_what_was_chosen(services, tab, start):
    said = {"volume": 5000, "changes": "monthly", "latency": 2.5, "budget": 100}
    said |= {"prices": '{"currency": "EUR", "prompt_per_million": 1}'}
    started = start("prompt", "tuned", checks=" json \n\nmax-words:5\n", situation=said)
    assert (started[tab.followed], started[tab.fold]["open"]) == ("v1", False)
    (request,) = services.verdicts.started
    assert [side.label for side in request.sides] == ["Base + prompt", "hospital_reports"]
    assert request.checks == ("json", "max-words:5")
    assert request.rows is None
    assert (request.questions.volume, request.questions.changes, request.prices.currency) == (5000, "monthly", "EUR")
    assert (request.max_tokens, request.seed, request.owner) == (96, 7, "local")
    assert (request.losses, request.forgetting, request.right, request.form_only) == (True, False, (), False)
    assert (request.bar, request.margin, request.maximum) == (0.9, 0.05, None)


def test_what_is_right_is_stated_first_with_rows_as_it_marks_them(services, call, tab, start):
    services.data.checked = examples(40)
    uploaded = Path("mine.csv")
    chosen = call(verdict_form.source_chosen, tab, where=where(UPLOAD, uploaded=uploaded), prompt=None)
    assert chosen[tab.right].value == "exact", "suggested from the answers"

    def stated(**terms):
        said = {**TERMS, **terms}
        given = {
            "where": where(UPLOAD, uploaded=uploaded),
            "line": line(chosen=["base", "tuned"]),
            "settings": SETTINGS,
        }
        return str(call(verdict_form.refresh, tab, **given, terms=said)[tab.stated]["value"])

    page = stated()
    says(page, "6 rows cannot show that anything is right 90% of the time")
    says(page, "About 84 rows would tell in four cases of five")
    assert (page.count("its own answer"), page.count("the next row&#39;s answer")) == (3, 3)
    assert (page.count("✓ right"), page.count("✗ wrong")) == (3, 3)
    assert "rewritten" not in page
    assert "Only the form is looked at" in stated(form_only=True)
    assert "does not say what is right" in stated(right="reads-well")
    assert "cannot be tested" in stated(margin=95)
    start("base", source=UPLOAD, uploaded=uploaded, terms={"right": "exact", "bar": 80, "maximum": 30})
    request = services.verdicts.started[-1]
    assert (request.right, request.bar, request.maximum) == (("exact",), 0.8, 30)
    start("base", source=UPLOAD, uploaded=uploaded, terms={"right": "exact", "form_only": True})
    assert (services.verdicts.started[-1].right, services.verdicts.started[-1].form_only) == ((), True)
    refused("cannot be tested", start, "base", source=UPLOAD, uploaded=uploaded, terms={"bar": 4})


def test_a_reply_is_replayed_examples_are_filtered_and_a_verdict_with_room_is_extended(judged, call, tab):
    def replay(picked):
        return str(call(verdict_shown.replay, tab, picked=picked, followed=ID)[tab.replayed]["value"])

    assert "the same text again" in replay("39|3")
    ((saved, owner, session),) = judged.replay.asked
    assert (saved.stamp["adapter"], owner, session) == ("ward", "local", "tab-1")
    judged.replay.same = False
    says(replay("39|0"), "another text from 4 letters on")
    for wrong in ("39|9", "x|0", "", "39", "4000|0", "39|-1"):
        refused("", replay, wrong)
    whole = call(verdict_shown.shown, tab, followed=ID, fault="")
    assert [whole[one]["visible"] for one in (tab.extend, tab.rejoin)] == [False, False]
    assert whole[tab.fault].visible
    some = call(verdict_shown.filtered, tab, followed=ID, fault="wrong form")[tab.body]["value"]
    assert "among those with a wrong form" in some
    assert call(verdict_shown.filtered, tab, followed=ID, fault="nonsense")[tab.body]["value"]
    judged.verdicts.listed = [replace(judged.verdicts.listed[0], may_grow=True, failed=("Deep",))]
    whole = call(verdict_shown.shown, tab, followed=ID, fault="")
    assert [whole[one]["visible"] for one in (tab.extend, tab.rejoin)] == [True, True]
    for rows in (None, 0):
        assert call(verdict_shown.extend, tab, rows=rows, followed=ID) == {tab.followed: "v1"}
    looked = replace(judged.verdicts.listed[0], look=2)
    assert verdict_shown.key_of(looked) != verdict_shown.key_of(judged.verdicts.listed[0]), "it is drawn again"
    assert judged.verdicts.started == [f"the next None rows of {ID}", f"the next 0 rows of {ID}"]


def test_what_is_wrong_is_said_and_so_is_a_side_that_is_gone_one_without_its_prompt_is_left_out(services, start):
    for sides, checks, prices, told in (
        ([], "json", "", "at least one side"),
        (["nobody's"], "json", "", "at least one side"),
        (["base"], f"reads-well:{EVIL}", "", "not a check"),
        (["base"], "json", "{", "not JSON"),
        (["base"], "json", '{"<img>": 1}', "names"),
    ):
        refused(told, start, *sides, checks=checks, situation={"prices": prices})
    assert services.verdicts.started == []
    services.adapters.rows = []
    for gone in ("tuned", "tuned+documents", "carried:0"):
        for chosen in (["base", gone], [gone]):
            refused("not here any more", start, *chosen)
    assert services.verdicts.started == []
    start("base", "prompt", prompt="")
    assert [side.label for side in services.verdicts.started[0].sides] == ["Base"]


def test_an_upload_is_judged_by_its_test_part_and_not_asked_with_a_shipped_sets_prompt(services, call, tab, start):
    services.data.checked = examples(40)
    uploaded = Path("mine.csv")
    given = {"uploaded": uploaded, "training": Source(uploaded, "mine", mapping={"prompt": "patient"})}
    chosen = call(verdict_form.source_chosen, tab, where=where(UPLOAD, **given), prompt=None)
    assert "6 rows of mine.csv" in chosen[tab.facts]["value"]
    assert "ends-with:Reviewed by A. Person" in chosen[tab.checks].value.splitlines()
    assert tab.prompt not in chosen, "only a shipped set brings a prompt"
    start("base", source=UPLOAD, **given)
    (request,) = services.verdicts.started
    assert len(request.rows) == 6
    assert (request.file, request.mapping, request.examples) == (uploaded, {"prompt": "patient"}, uploaded)
    services.data.checked = examples(12)
    small = call(verdict_form.source_chosen, tab, where=where(UPLOAD, **given), prompt=None)
    assert "has no test part" in small[tab.error]["value"]
    services.data.checked = examples(40)
    shipped, uploaded = services.data.sets()[0], Path("mine.csv")
    for asked, left in ((shipped.system_prompt, ""), ("My own.", None)):
        chosen = call(verdict_form.source_chosen, tab, where=where(UPLOAD, uploaded=uploaded), prompt=asked)
        assert (chosen[tab.prompt].value if tab.prompt in chosen else None) == left
        opened = call(verdict_form.first, tab, where=where(SET, uploaded=uploaded), line=line(prompt=asked))
        assert ("prompt" in opened[tab.offered]) == (left is None), "the side that it makes goes with it"


def test_a_dropped_file_is_judged_by_every_row_read_as_is_chosen_and_mended(services, call, tab, start):
    services.data.checked = examples(8)
    dropped = call(verdict_form.drop, tab, file="held.jsonl", kept=Kept(), uploaded=None)
    assert dropped[tab.source]["value"] == FILE
    start("base", source=FILE, kept=dropped[tab.kept])
    assert services.verdicts.started[0].rows is None
    services.data.checked = examples(0)
    empty = call(verdict_form.source_chosen, tab, where=where(FILE, kept=dropped[tab.kept]), prompt=None)
    assert "no row with a request" in empty[tab.error]["value"]

    def shown(kept, source=FILE):
        return call(verdict_form.readings, tab, kept=kept, source=source)

    plain, able = examples(12), (Repair("end", (1, 2)),)
    kept = call(verdict_form.drop, tab, file="held.csv", kept=Kept(reading={"sheet": "May"}), uploaded=None)[tab.kept]
    services.data.checked = replace(plain, encoding="utf-8")
    assert not any(one["visible"] for one in shown(kept).values()), "nothing is there to choose"
    services.data.checked = InputError("held.csv holds several lists of rows. Choose one.")
    assert shown(kept)[tab.reading["sheet"]]["choices"] == [("May", "May"), ("June", "June")]
    services.data.checked = replace(plain, encoding="cp1250", splits={"train": 2, "test": 1}, repairable=able)
    found = shown(kept)
    assert found[tab.reading["split"]]["choices"] == [("All of them", ""), ("train", "train"), ("test", "test")]
    assert (found[tab.reading["encoding"]]["visible"], found[tab.repair]["visible"]) == (True, True)
    assert not any(one["visible"] for one in shown(kept, SET).values()), "of a dropped file alone"
    chosen = {"encoding": "cp1252", "sheet": None, "split": "test"}
    kept = call(verdict_form.read_otherwise, tab, kept=kept, reading=chosen)[tab.kept]
    kept = call(verdict_form.repair, tab, kept=kept)[tab.kept]
    says(shown(kept)[tab.repair]["value"], "Back to the rows")
    start("base", source=FILE, kept=kept)
    assert services.verdicts.started[-1].mapping == {"encoding": "cp1252", "split": "test", "repair": "rows"}
    assert call(verdict_form.repair, tab, kept=kept)[tab.kept].reading == {"encoding": "cp1252", "split": "test"}


def test_sides_that_were_taken_away_stay_so_and_new_ones_are_chosen(services, call, tab):
    before = dict.fromkeys(("base", "prompt", "shots"), "")
    drawn = lined_up(call, tab, adapter="", chosen=["base"], offered=before)
    offered = drawn[tab.offered]
    assert (drawn[tab.sides].value, list(offered)) == (["base"], ["base", "prompt", "shots"])
    assert lined_up(call, tab, adapter="", offered=offered) == {}, "nothing new: a choice is not drawn over"
    kept = Kept(docs=Path("guide.txt"))
    drawn = lined_up(call, tab, kept=kept, chosen=["base"], offered=offered)
    assert drawn[tab.sides].value == ["base", "documents", "tuned"]
    assert "tuned" not in lined_up(call, tab, adapter="somebody_elses")[tab.sides].value


def test_where_the_answers_share_a_form_a_side_that_is_held_to_it_is_offered(services, call, tab, start):
    services.data.checked = examples(12)
    assert "form" in lined_up(call, tab, source=SET)[tab.sides].value
    start("base", "form")
    held = services.verdicts.started[0].sides[1]
    assert (held.format, held.system_prompt) == ("references", "Be careful.")
    services.data.checked = examples(2)
    assert "form" not in lined_up(call, tab, source=SET)[tab.sides].value
    services.data.checked, mine = examples(40), Path("mine.csv")
    given = where(UPLOAD, uploaded=mine, training=Source(mine, mapping={"completion": "b"}, reading={"split": "train"}))
    assert "form" in call(verdict_form.lined_up, tab, where=given, line=line())[tab.sides].value
    assert services.data.mappings[-1] == {"completion": "b", "split": "train"}, "a file that is read as it was opened"


@pytest.fixture
def carry(services, call, tab):
    def carried(shown, **sides):
        names, base = ("model", "prompt", "shots", "source"), ("base", "", 0, "")
        free = {"form": "", "form_text": ""}
        said = {letter: free | dict(zip(names, sides.get(letter, base), strict=True)) for letter in words.LETTERS}
        given = {"where": where(SET), "line": line(adapter="", prompt="")}
        given |= {"comparison": Comparison(shown=tuple(shown)), "setups": said}
        given["check"] = {"kind": "ends-with", "text": "Sharma"}
        return call(verdict_tab.carry, tab, tabs=gr.Tabs(render=False), **given)

    return carried


def test_compare_brings_its_sides_over(services, tab, carry, start):
    told = ("base", "Be careful.", 0, "hospital_reports")
    drawn = carry("ABC", A=told, B=("hospital_reports", "", 2, "hospital_reports"), C=told)
    kept = drawn[tab.kept]
    assert (drawn[tab.source]["value"], drawn[tab.checks]) == (SET, "ends-with:Sharma")
    assert [side.label for side in kept.carried] == ["Base + prompt", "hospital_reports + 2 shots", "Base + prompt (C)"]
    assert drawn[tab.sides].value == ["carried:0", "carried:1", "carried:2"]
    assert "base" in drawn[tab.offered]
    start(*drawn[tab.sides].value, kept=kept)
    assert services.verdicts.started[0].sides == kept.carried
    (gone,) = carry("A", A=("went_away", "", 2, "a file that is gone"))[tab.kept].carried
    assert (gone.model, gone.label, gone.shots) == ("went_away", "an adapter that is gone", 0), "not the base instead"


@pytest.fixture
def shown(call, tab):
    """What is shown, by the widgets' names: a text, or whether it is visible."""

    def shown(followed=""):
        drawn = call(verdict_shown.shown, tab, followed=followed, fault="")
        names = ("followed", "head", "body", "listing", "stop", "files", "delete", "again")
        return SimpleNamespace(**{name: drawn[getattr(tab, name)] for name in names})

    return shown


def visible(found, *names):
    return [getattr(found, name)["visible"] for name in names]


def test_the_empty_tab_says_what_to_do_and_what_is_measured_is_followed(services, judged, call, shown, tab):
    held, services.verdicts.listed = services.verdicts.listed, []
    found = shown()
    assert (found.followed, words.VERDICT_EMPTY in found.head) == ("", True)
    assert visible(found, "body", "listing") == [False, False]
    services.verdicts.listed = held
    live = VerdictView("v9", f"mine {EVIL}", "MEASURING", 12, 40, f"Answering {EVIL}", 48.0, 1.79e9)
    judged.verdicts.listed.insert(0, live)
    found = shown()
    assert found.followed == "v9", "a reload finds what is measured"
    says(found.head, 'role="progressbar"', 'aria-valuenow="30"', "12 of 40, 48 s left")
    assert visible(found, "body", "stop", "files", "delete", "again") == [False, True, False, False, False]
    call(verdict_shown.stop, tab, followed="v9")
    assert judged.verdicts.stopped == ["v9"]


def test_an_ended_verdict_is_shown_with_its_report(judged, shown):
    found = shown(ID)
    assert found.followed == ID
    says(found.head, f'href="?verdict={ID}"')
    says(found.body, "Fine-tune.", 'data-id="39|', "&lt;img")  # worst first, each with a replay
    says(found.listing, f'data-id="{ID}"', "&lt;img")
    assert visible(found, "stop", "files") == [False, True]
    judged.verdicts.record = None
    assert visible(shown(ID), "body", "files", "delete") == [False, False, True]
    judged.verdicts.listed = [replace(judged.verdicts.listed[0], state="FAILED", error=f"Memory ran out {EVIL}.")]
    says(shown(ID).head, "Memory ran out", 'role="alert"')


def test_a_link_opens_only_ones_own(judged, call, tab):
    tabs = gr.Tabs(render=False)
    mine = call(verdict_shown.opened, tab, tabs=tabs, asked=ID)
    assert (mine[tabs]["selected"], mine[tab.followed], mine[tab.fold]["open"]) == ("verdict", ID, False)
    theirs = verdict_shown.opened(stranger(judged), tab, tabs=tabs, asked=ID)
    assert theirs[tab.followed] == ""
    assert "no such verdict of yours" in theirs[tab.shown_error]["value"]
    assert theirs[tab.body]["visible"] is False
    assert tabs not in call(verdict_shown.opened, tab, tabs=tabs, asked="")


def test_other_answers_judge_anew_without_asking_exports_are_made_when_asked_for_and_deleting_asks(judged, call, tab):
    said = {"volume": 2_000_000, "changes": "weekly", "latency": 3, "budget": 10, "forgets": 9.5}
    said |= {"prices": '{"currency": "EUR"}'}
    drawn = call(verdict_shown.again, tab, followed=ID, situation=said, fault="")
    says(drawn[tab.body], "Fine-tune.")
    says(drawn[tab.judged], "nothing was asked again")
    ((questions, prices),) = judged.verdicts.judged
    assert (questions.volume, questions.changes, prices.currency) == (2_000_000, "weekly", "EUR")
    refused("daily", call, verdict_shown.again, tab, followed=ID, situation={**SITUATION, "changes": "daily"}, fault="")
    made = call(verdict_shown.export, tab, how="csv", followed=ID)
    assert made[tab.file]["value"].endswith(f"verdict-{ID}.csv")
    judged.verdicts.record = None
    refused("nothing to export", call, verdict_shown.export, tab, how="html", followed=ID)
    asked = call(verdict_shown.ask_remove, tab, followed=ID)
    assert asked[tab.question]["visible"] is True
    says(asked[tab.ask])
    assert judged.verdicts.removed == []
    left = call(verdict_shown.remove, tab, followed=ID, fault="")
    assert judged.verdicts.removed == [ID]
    says(left[tab.head], words.VERDICT_EMPTY)


def test_files_that_cannot_be_used_are_said_and_an_empty_number_field_is_no_limit(services, call, tab):
    services.data.documents = lambda path, owner: (_ for _ in ()).throw(InputError(f"Not a text {EVIL}."))
    unread = call(verdict_form.documents, tab, file="guide.pdf", kept=Kept(docs=Path("old.txt")))
    assert unread[tab.kept].docs is None
    services.data.checked = InputError(f"Broken {EVIL}.")
    broken = call(verdict_form.source_chosen, tab, where=where(), prompt=None)
    gone = call(verdict_form.source_chosen, tab, where=where("set:x"), prompt=None)
    for drawn, said in ((unread, "&lt;img"), (broken, "&lt;img"), (gone, "no such example set")):
        says(drawn[tab.error], said)
    asked, _ = verdict_form.questions({**SITUATION, "volume": 0, "latency": 0, "budget": 0, "forgets": 0})
    assert (asked.volume, asked.latency_s, asked.budget, asked.forgets) == (None, None, None, None)
