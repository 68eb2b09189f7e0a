"""The prompt bench, the blind vote and the race: their handlers, called as plain functions."""

import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from unittest import mock
from unittest.mock import create_autospec

import pytest

from playground.data.split import BY_CHANCE, Parts
from playground.errors import BaseUnavailableError, InputError
from playground.evaluation.votes import agreed
from playground.models.bases import BaseState
from playground.report import charts
from playground.services import build_services
from playground.ui import bench, blind, race, words
from playground.ui.judged import FILE, UPLOAD, Kept
from playground.ui.rows import Source
from playground.verdict.bench import Best, PromptBench, Score, Version
from playground.verdict.judges import Trust
from playground.verdict.judging import JudgingService, JudgingView
from playground.verdict.race import RaceService, RaceView
from playground.verdict.race_store import Entry, Race, picture
from playground.verdict.search import PromptSearch, Rival
from playground.verdict.service import VerdictView
from tests.refused import refused
from tests.services.conftest import SIDES, put_verdict
from tests.ui.conftest import SET, says, stranger, where
from tests.ui.fakes import EVIL, row

# The prompt bench

ENDED = VerdictView("b1", f"Prompt bench: {EVIL}", "DONE", record={"sides": []}, purpose="bench")
LIVE = replace(ENDED, state="MEASURING", record=None, done=3, of=8, message=f"Answering {EVIL}")


BEST = Best(f"Be glad {EVIL}.", 4, f"The best of 2: 21 of 24 {EVIL}.", "v1 + 4 shots")
prompts = pytest.fixture(lambda whole: whole.verdict.bench)
real = pytest.fixture(lambda settings: build_services(settings))
verdict = pytest.fixture(lambda real: put_verdict(real))
ballots = pytest.fixture(lambda whole: whole.verdict.vote)
sheets = pytest.fixture(lambda whole: whole.verdict.label)
fold = pytest.fixture(lambda tab: tab.race)


@pytest.fixture
def benched(services):
    made = create_autospec(PromptBench, instance=True)
    made.versions.return_value, made.newest.return_value, made.best.return_value = [], None, BEST
    made.parts.return_value = Parts((1,), (3, 5), (), 7)
    services.bench, services.search = made, create_autospec(PromptSearch, instance=True)
    services.search.rival.return_value = Rival("hospital <b>", 312.0, 41_000)
    return services


def test_the_box_holds_the_sets_prompt_and_versions_are_kept_listed_with_scores_and_removed(benched, call, prompts):
    prompt = "End with Reviewed by Dr. Sharma."
    for written, source, text in (("", SET, prompt), ("mine", SET, None), (prompt, FILE, "")):
        drawn = call(bench.opened, prompts, text=written, where=where(source))
        assert drawn.get(prompts.text) == text
        assert ("Every row of this file" in str(drawn.get(prompts.error))) == (source == FILE)
    file = benched.data.sets()[0].file
    call(bench.keep, prompts, text="Be glad", where=where())
    benched.bench.keep.assert_called_once_with("Be glad", file, "local")
    scores = (Score(file.name, 4, "json", 0.5, 24, 12, 310.4), Score(file.name, 0, "rouge_l", 0.5, 24, None, 99))
    scores += (Score("other", 0, "json", 1, 3, 3),)
    shown = bench.list_html([Version("v1", f"Be {EVIL}", 1.0, file.name, scores)], file.name)
    says(shown, "rouge_l 0.500 without shots, 99 tokens<br>12 of 24 with 4 shots, 310 tokens", "&lt;img")
    assert "3 of 3" not in shown
    bench.remove(stranger(benched), prompts, picked="v1")
    benched.bench.forget.assert_called_once_with("v1", "somebody")


def test_all_versions_are_scored_on_the_validation_part(benched, call, prompts):
    def score(counts, checks="", place=None):
        given = {"counts": counts, "checks": checks, "max_tokens": 64, "draw": 9}
        call(bench.score, prompts, **given, where=place or where())
        return benched.bench.score.call_args, benched.bench.parts.call_args.args

    file, mine = benched.data.sets()[0].file, Path("mine.csv")
    benched.bench.versions.return_value = [Version("v1", "Be glad.", 1.0, file.name)]
    more = {"owner": "local", "rows": (3, 5), "mapping": None, "max_tokens": 64, "seed": 9}
    drawn = (file, "local", None, 7, 0.0, BY_CHANCE)
    assert score([0, 4], " json \n\n") == (mock.call(file, ["v1"], [0, 4], ["json"], **more), drawn)
    asked, drawn = score([0], place=where(UPLOAD, uploaded=mine, training=Source(mine, mapping={"prompt": "q"})))
    assert (asked.kwargs["mapping"], drawn) == ({"prompt": "q"}, (mine, "local", {"prompt": "q"}, 7, 0.15, BY_CHANCE))
    refused("Every row", score, [0], place=where(FILE))
    benched.bases.now = BaseState("preparing", "Preparing the base", "x")
    refused("not ready", score, [0], error=BaseUnavailableError)


def test_progress_is_shown_and_what_was_sent_is_left_alone(benched, call, prompts):
    def show(sent=None):
        return call(bench.show, prompts, sent=sent or {}, where=where())

    def buttons(drawn):
        visible = [drawn[one]["visible"] for one in (prompts.score, prompts.stop, prompts.use)]
        return [*visible, drawn[prompts.timer]["active"]]

    benched.bench.newest.return_value = LIVE
    drawn = show()
    says(drawn[prompts.head], "3 of 8")
    assert (buttons(drawn), list(show(drawn[prompts.sent]))) == ([False, True, False, True], [prompts.sent])
    call(bench.stop, prompts, where=where())
    benched.bench.stop.assert_called_once_with("b1", "local")
    benched.bench.newest.return_value = ENDED
    drawn = show(drawn[prompts.sent])
    says(drawn[prompts.head], "The best of 2: 21 of 24")
    assert buttons(drawn) == [True, False, True, False]
    failed = replace(ENDED, state="FAILED", record=None, error=f"Memory ran out {EVIL}.")
    benched.bench.newest.return_value = failed
    says(show()[prompts.head], "Memory ran out &lt;img")


def test_the_best_goes_to_the_form(benched, call, whole):
    prompts, tab = whole.verdict.bench, whole.verdict

    def use(kept=None):
        return call(bench.use, prompts, tab=tab, where=where(kept=kept or Kept()))

    refused("Nothing has been scored", use)
    benched.bench.newest.return_value = ENDED
    drawn = use()
    assert (drawn[tab.fold]["open"], drawn[tab.prompt]) == (True, BEST.text)
    assert drawn[tab.kept].carried == (), "four shots are a side of the form already"
    says(drawn[prompts.error])
    benched.bench.best.return_value = replace(BEST, shots=8)
    (side,) = use(use()[tab.kept])[tab.kept].carried
    assert (side.label, side.shots, side.system_prompt) == ("Base + best prompt + 8 shots", 8, BEST.text)
    benched.bench.best.return_value = replace(BEST, picked=(9, 3, 5, 1))
    (side,) = use()[tab.kept].carried
    assert (side.picked, side.shots_from) == ((9, 3, 5, 1), benched.data.sets()[0].file)


def test_a_search_takes_what_the_form_says_and_shows_its_candidates(benched, call, prompts):
    given = {"text": "Mine", "counts": [0, 2], "checks": "json", "right": "exact", "max_tokens": None, "draw": 7}
    given |= {"server": "", "send": False}
    benched.bench.versions.return_value = [Version("v1", "Be glad.", 1.0)]
    for minutes, form_only, seconds, right in ((1.5, False, 90, ("exact",)), (0, True, None, ())):
        call(bench.find, prompts, **given, minutes=minutes, form_only=form_only, where=where())
        file, texts, counts, checks, budget_s = benched.search.request.call_args.args
        assert (texts, counts, checks) == ({"v1": "Be glad.", "yours": "Mine"}, [0, 2], ("json",))
        assert (file, budget_s) == (benched.data.sets()[0].file, seconds)
        assert benched.search.request.call_args.kwargs["parts"] is benched.bench.parts.return_value
        assert benched.search.request.call_args.kwargs["right"] == right
    assert benched.verdicts.started == [benched.search.request.return_value] * 2
    benched.search.newest.return_value = "b1", mock.Mock(budget_s=60.0)
    call(bench.resume, prompts, minutes=None, send=True, where=where())
    benched.search.resume.assert_called_once_with("b1", 60.0, "local", True)

    score = {"value": 0.75, "low": 0.5, "high": 0.9, "n": 12}
    best = {"side": f"v1 {EVIL}", "passed": 9, "n": 12, "tokens": 88.4, "score": score, "left_out": ""}
    late = {"side": "written", "passed": 0, "n": 0, "tokens": 0, "score": None, "left_out": "the budget ended"}
    found = replace(ENDED, record={"sides": [], "search": {"candidates": [best, late]}})
    benched.bench.newest.return_value = found
    drawn = call(bench.show, prompts, sent={}, where=where())
    says(drawn[prompts.head], "9 of 12", "50 to 90 %", "88", "the budget ended", "&lt;img", BEST.text[:7])
    says(drawn[prompts.rival], "hospital &lt;b&gt; was trained for 5.2 minutes, over 41,000 tokens")
    assert [drawn[one]["visible"] for one in (prompts.find, prompts.resume)] == [True, True]
    benched.bench.newest.return_value = replace(LIVE, unit=" s")
    drawn = call(bench.show, prompts, sent={}, where=where())
    says(drawn[prompts.head], "3 of 8 s")
    assert [drawn[one]["visible"] for one in (prompts.find, prompts.resume)] == [False, False]


# The blind vote, on a verdict that lies on disk


@pytest.fixture
def polled(services, real):
    """Real votes on a verdict on disk, a fake judge."""
    services.voting, services.labelling = real.voting, real.labelling
    services.judging = create_autospec(JudgingService, instance=True)
    services.judging.judges.return_value = [("The base", "base"), (f"mine {EVIL}", "mine")]
    return services


def names_in(shown):
    return [side for side in SIDES if side in str(shown)]


def test_no_name_is_on_the_page_before_it_is_asked_for(polled, call, ballots, verdict):
    shown = call(blind.show, ballots, verdict=verdict)
    seen = [shown, call(blind.closed, ballots)]
    assert set(shown) == set(ballots.shown)
    for choice in ("left", "right", "tie", "skip", "left"):
        shown = call(blind.pick, ballots, picked=choice, number=shown[ballots.number], verdict=verdict)
        seen.append(shown)
    seen.append(call(blind.pick, ballots, picked="undo", number=0, verdict=verdict))
    seen += [call(blind.show, ballots, verdict=wrong) for wrong in ("", "../x")]
    values = [list(one.values()) for one in seen]
    assert names_in(values) == []
    says(values)
    says(seen[0][ballots.sheet], "question", "&lt;img")
    assert [one.owner for one in polled.voting.files.read(verdict)] == ["local"] * 4


def test_reveal_says_who_wrote_what_and_takes_the_ballot_away(polled, call, ballots, verdict):
    for n in range(6):
        ballot = polled.voting.next(verdict)
        left, right = ballot.left.endswith("END"), ballot.right.endswith("END")
        picked = "tie" if left == right else "left" if left else "right"
        shown = call(blind.pick, ballots, picked=picked, number=n, verdict=verdict)
    assert shown[ballots.end]["visible"] is True
    found = call(blind.end, ballots, verdict=verdict)
    assert (found[ballots.number], found[ballots.sheet]["visible"]) == (-1, False)
    says(found[ballots.ended], *SIDES, "s votes: 6</h4>", "100 % of 6 votes (61 to 100")
    again = call(blind.show, ballots, verdict=verdict)
    assert names_in(list(again.values())) == [], "who goes on voting does so blindly"
    says(again[ballots.count], "6 votes so far, 11 comparisons left.")
    for n in range(6, 17):
        shown = call(blind.pick, ballots, picked="tie", number=n, verdict=verdict)
    says(shown[ballots.count], "asked everything")
    assert [shown[one]["visible"] for one in (ballots.answers, ballots.undo, ballots.end)] == [False, True, True]


def test_what_cannot_be_done_is_said(polled, call, ballots, verdict):
    says(call(blind.show, ballots, verdict="")[ballots.error], "no verdict to vote on yet")
    refused("no vote yet", call, blind.end, ballots, verdict=verdict)
    refused("is no vote", call, blind.pick, ballots, picked=EVIL, number=0, verdict=verdict)


def test_a_judge_is_chosen_watched_and_stopped(polled, call, ballots, verdict):
    assert call(blind.opened, ballots, number=-1)[ballots.judge]["value"] == "base"
    assert ballots.sheet not in call(blind.opened, ballots, number=0), "an open ballot stays"
    call(blind.let, ballots, verdict=verdict, judge="mine")
    polled.judging.start.assert_called_once_with(verdict, "mine", "local")

    def watched(text, **changes):
        polled.judging.show.return_value = JudgingView(verdict, f"mine {EVIL}", 3, 9, **changes)
        drawn = call(blind.judging, ballots, verdict=verdict, judge="mine")
        says(drawn[ballots.judging], text)
        return [*(drawn[one]["visible"] for one in (ballots.let, ballots.stop)), drawn[ballots.timer]["active"]]

    assert watched("3 of 9 comparisons", live=True) == [False, True, True]
    assert watched("2 answers named neither reply", unread=2, error=f"It stopped {EVIL}.") == [True, False, False]
    call(blind.stop, ballots, verdict=verdict)
    polled.judging.stop.assert_called_once_with(verdict, "local", "judging")
    polled.bases.now = BaseState("preparing", "Preparing the base", "x")
    refused("not ready", call, blind.let, ballots, verdict=verdict, judge="mine", error=BaseUnavailableError)


# Labels of single replies, on the same verdict


def test_replies_are_labelled_by_key_or_button_and_taken_back(polled, call, sheets, verdict):
    shown = call(blind.show, sheets, verdict=verdict)
    assert set(shown) == set(sheets.shown)
    says(shown[sheets.sheet], "question", "Known to be right", "Backspace takes the last label back")
    seen = [shown]
    for picked in ("right", "wrong", "unsure", "wrong"):
        shown = call(blind.pick, sheets, picked=picked, number=shown[sheets.number], verdict=verdict)
        seen.append(shown)
    says(shown[sheets.count], "3 of 50 labelled</b>: 1 right, 2 wrong; 1 you could not tell. 13 replies left")
    shown = call(blind.pick, sheets, picked="undo", number=shown[sheets.number], verdict=verdict)
    assert shown[sheets.sheet] == seen[3][sheets.sheet], "the same reply is asked again"
    assert names_in([list(one.values()) for one in seen]) == []
    for number in range(3, 17):
        shown = call(blind.pick, sheets, picked="right", number=number, verdict=verdict)
        seen.append(shown)
    assert "&lt;img" in str(seen), "their order is the verdict's own, which one comes first is not known"
    says(shown[sheets.count], "You have labelled all there are")
    assert [shown[one]["visible"] for one in (sheets.sheet, sheets.answers, sheets.undo)] == [False, False, True]
    says(call(blind.show, sheets, verdict="")[sheets.error], "no verdict with replies to label yet")
    refused("is no label", call, blind.pick, sheets, picked=EVIL, number=0, verdict=verdict)


def test_a_judge_beside_the_labels_says_how_far_it_goes(polled, call, sheets, verdict):
    drawn = call(blind.opened, sheets, number=-1)
    assert drawn[sheets.judge]["value"] == "base"
    call(blind.let, sheets, verdict=verdict, judge="mine")
    polled.judging.mark.assert_called_once_with(verdict, "mine", "local")

    def watched(counts, view, *texts):
        polled.judging.show.return_value = view
        near = agreed([True] * counts[0] + [False] * counts[1], [True] * counts[0] + [False] * counts[1])
        polled.judging.trust.return_value = Trust("mine", f"mine {EVIL}", near, 2, (f"ward {EVIL}",), True)
        drawn = call(blind.judging, sheets, verdict=verdict, judge="mine")
        says(drawn[sheets.judging], *texts)
        return [*(drawn[one]["visible"] for one in (sheets.let, sheets.stop)), drawn[sheets.timer]["active"]]

    live = JudgingView(verdict, "mine", 3, 9, live=True)
    assert watched((10, 5), live, "3 of 9 replies", "15 of 50 labels", "2 more are not marked") == [False, True, True]
    ended = JudgingView(verdict, "mine", 9, 9, unread=2, error=f"It stopped {EVIL}.")
    texts = ("2 answers of it said neither", "it may say what is right", "<code>judge:mine</code>", "ward &lt;img")
    assert watched((40, 20), ended, *texts) == [True, False, False]
    call(blind.stop, sheets, verdict=verdict)
    polled.judging.stop.assert_called_once_with(verdict, "local", "marking")


# The race

FORGOT = {"loss_before": 3.0, "loss_after": 3.2, "tokens": 90, "divergence": 0.11}
FORGOT |= {"right_before": 20, "right_after": 18, "questions": 40}
FIGURES = {"eval_loss": 0.5, "trainable_params": 2_442_240, "bytes": 9_800_000, "seconds": 61.0}
DONE = {"adapter": "mine", "passed": 15, "asked": 16, "measured_s": 9.0, "loss": [[1, 3.0], [2, 2.5]]}
GOOD = Entry("lora", "r1", 20, state="DONE", forgot=FORGOT, figures=FIGURES, **DONE)
BAD = Entry("ia3", "r2", 20, state="FAILED", reason=f"Memory ran out {EVIL}.")
BASE = Entry("", passed=0, asked=16, eval_loss=[[0, 3.1]])


def race_view(state="MEASURING", *entries):
    live = state == "MEASURING"
    named = ("race1", "local", f"rows {EVIL}", "rows.jsonl", 1.0, state, f"ends-with:{EVIL}", 20, None)
    one = Race(*named, entries or (GOOD, BAD), BASE, f"Measuring LoRA {EVIL}" if live else "")
    return RaceView(one, 90.0 if live else None, 1, 2)


@pytest.fixture
def raced(services):
    services.race = create_autospec(RaceService, instance=True)
    services.race.races.return_value, services.race.start.return_value = [race_view()], "race1"
    services.adapters.rows = [row(id="mine")]
    return services


SOURCE = Source(Path("rows.jsonl"), "rows", "rows", leave_out=("duplicate",), good=2)
FORM = {"source": SOURCE, "check": " json ", "form": {"batch_size": 4, "max_tokens": 512, "seed": 9}}


def test_what_was_sent_is_left_alone_and_a_refresh_takes_up_a_race_that_lives(raced, call, fold):
    shown = call(race.show, fold, race="race1", sent={}, which="score")
    assert set(shown) | {fold.fold} == set(fold.shown)
    assert (shown[fold.race], shown[fold.timer]["active"]) == ("race1", True)
    again = call(race.show, fold, race="race1", sent=shown[fold.sent], which="score")
    assert set(again) == {fold.race, fold.sent}
    other = call(race.show, fold, race="race1", sent=shown[fold.sent], which="loss")
    says(other[fold.plot], "polyline")
    opened = call(race.opened, fold, race="", which="score")
    assert (opened[fold.fold]["open"], opened[fold.race]) == (True, "race1"), "a refresh takes up a race that lives"
    call(race.cancel, fold, race="")
    raced.race.cancel.assert_called_once_with("race1", "local")
    raced.race.races.return_value = [race_view("DONE")]
    opened = call(race.opened, fold, race="", which="score")
    assert fold.fold not in opened, "one that is over waits in its fold"
    assert opened[fold.timer]["active"] is False
    raced.race.races.return_value = []
    none = call(race.show, fold, race="", sent={}, which="score")
    assert [none[one]["visible"] for one in (fold.start, fold.cancel)] == [True, False]
    assert none[fold.timer]["active"] is False


def test_a_race_is_started_with_the_forms_settings_and_a_row_of_it_becomes_a_side(raced, call, fold):
    started = call(race.start, fold, methods=["lora", "ia3"], kind="minutes", amount=2.5, **FORM)
    assert started == {fold.race: "race1"}
    ((request,), _) = raced.race.start.call_args
    assert (request.methods, request.minutes, request.steps) == (("lora", "ia3"), 2.5, None)
    assert (request.batch_size, request.max_tokens, request.seed, request.leave_out) == (4, 512, 9, ("duplicate",))
    with pytest.raises(InputError, match=words.TRAIN_EMPTY):
        call(race.start, fold, methods=["lora"], kind="steps", amount=20, **FORM | {"source": Source()})
    raced.race.start.assert_called_once()
    assert call(race.side_of, fold, picked="mine", race="race1") == {fold.chosen: "mine"}
    for wrong in ("somebody_elses", "", "../x"):
        chosen = call(race.side_of, fold, picked=wrong, race="race1")
        assert chosen[fold.chosen] == ""
        says(chosen[fold.error], "not here any more")
    raced.adapters.rows = []
    assert call(race.side_of, fold, picked="mine", race="race1")[fold.chosen] == ""


def test_the_table_names_figures_reasons_and_a_way_to_a_side_and_labels_of_the_picture_keep_apart(raced):
    table = race.table_html(race_view())
    says(table, "<td>Base, untrained</td>", "15 of 16", "2,442,240", "+0.20", "18 of 40, was 20", "Memory ran out")
    assert table.count("Use as a side</button>") == 1, "what made no adapter has no button"
    says(table + race.head_html(race_view()), "&lt;img")
    sizes = (("lora", 1000), ("dora", 1001), ("qlora", 1002), ("ia3", 1003), ("full", 10**8))
    entries = [replace(GOOD, method=name, figures={"eval_loss": 0.5, "trainable_params": n}) for name, n in sizes]
    drawn = picture(entries, BASE, False)
    assert drawn.count("<circle") == 5
    assert 'class="limit"' in drawn
    same = charts.scatter([charts.Dot(str(n), 1, 1) for n in range(5)], None)
    heights = sorted(float(at) for at in re.findall(r'<text class="name" x="[^"]*" y="([^"]*)"', same))
    assert len(heights) == 5
    assert all(b - a > 11.9 for a, b in pairwise(heights))
    assert picture([BAD], BASE, False) == ""
    assert "Held-out loss, lower is better. LoRA 0.500." in picture([GOOD], BASE, False)
