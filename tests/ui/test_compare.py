"""The Compare tab's handlers, called as plain functions."""

import re
from dataclasses import replace
from functools import partial

import gradio as gr
import pytest

from playground.chat.compare import Reply, Turn
from playground.errors import BaseUnavailableError, InputError
from playground.models.bases import BaseState
from playground.ui import asking, compare, side, words
from playground.ui.asking import Comparison
from playground.ui.compare import CompareTab
from playground.ui.side import Divider, Log, Setup
from tests.refused import refused
from tests.ui.conftest import examples, says
from tests.ui.fakes import EVIL, card, row

SAMPLING = {"temperature": 0.0, "top_p": 1.0, "max_tokens": 128, "seed": 7}
SCORED = {"check": {"kind": "ends-with", "text": "Dr. Sharma"}}
tab = pytest.fixture(lambda whole: whole.compare)


def sides(**said):
    """What the sides' widgets say, by letter, in the order below; those that are not named are the bare base."""
    names = ("model", "prompt", "shots", "form", "form_text", "think")
    bare = ("base", "", 0, "", "", "")

    def values(*told):
        return dict(zip(names, (*told, *bare[len(told) :]), strict=True)) | {"source": ""}

    return {letter: values(*said.get(letter, ())) for letter in words.LETTERS}


TOLD_AND_TRAINED = sides(A=("base", "Be careful", 0), B=("hospital_reports", "", 0))


@pytest.fixture
def ask(services, call, tab):
    def asked(comparison, question, said=None, handler=asking.ask):
        given = {"comparison": comparison, "question": question, "uploaded": None, "sampling": SAMPLING, **SCORED}
        return call(handler, tab, **given, setups=said or sides())

    return asked


@pytest.fixture
def once(ask, tab):
    """A comparison in which one question was answered."""
    answered = ask(Comparison(), "One")[-1][tab.comparison]
    return answered


def test_both_sides_answer_and_are_scored(services, tab, ask):
    last = ask(Comparison(), "Male, 54.", TOLD_AND_TRAINED)[-1]
    says(last[tab.board], "0 of 1", "1 of 1", "Base + prompt")
    assert last[tab.sides["A"].chat][1]["content"] == '<div class="said">plain</div>'
    assert last[tab.sides["B"].chat][2]["metadata"]["title"] == "49 in · 9 out · 2.4 s · 5e0c"
    asked, histories, question, sampling, owner, session = services.compare.asked[0]
    assert [one.model for one in asked] == ["base", "hospital_reports"]
    assert (asked[0].system_prompt, histories) == ("Be careful", [[], []])
    assert (question, sampling.seed, owner, session) == ("Male, 54.", 7, "local", "tab-1")


def test_a_side_is_held_to_its_form_and_a_broken_one_is_said(services, tab, ask, call):
    ask(Comparison(), "One", sides(A=("base", "", 0, "regex", r"\d+"), B=("base", "", 0, "json")))
    held = services.compare.asked[0][0]
    assert [(one.format, one.label) for one in held] == [(r"regex:\d+", "Base + form"), ("json", "Base + form")]
    with pytest.raises(InputError, match="regular expression"):
        ask(Comparison(), "One", sides(A=("base", "", 0, "regex", "(")))
    services.data.checked = answers = examples(12)
    said = sides(A=("base", "", 0, "regex"))
    said["A"]["source"] = services.data.sets()[0].id
    changed = call(asking.side_changed, tab, letter="A", switched=False, comparison=Comparison(), setups=said, **SCORED)
    pattern = changed[tab.sides["A"].form_text]["value"]
    assert all(re.fullmatch(pattern, one.completion, re.DOTALL) for one in answers.examples)


def test_the_first_question_leaves_for_another_machine_once_that_is_agreed_to(services, tab, ask, once):
    services.compare.leaves = f"what is asked goes to big at elsewhere {EVIL}; USD 2 and 8 a million tokens."
    for handler, again in ((asking.ask, False), (asking.ask_again, True)):
        (asked,) = ask(once, "Two", handler=handler)
        says(asked[tab.leaves], "big at elsewhere", "USD 2 and 8")
        assert (asked[tab.sending]["visible"], asked[tab.leaving].again, tab.question in asked) == (True, again, False)
    assert len(services.compare.asked) == 1, "nothing was asked"
    first, *_, last = ask(once, "Two", handler=partial(asking.send, leaving=asked[tab.leaving]))
    assert (first[tab.sending]["visible"], services.compare.asked[-1][2]) == (False, "One")
    assert len(last[tab.sides["A"].chat]) == 3, "it took the place of the turn that was to be asked again"
    services.compare.leaves = "something else"
    assert tab.leaves in ask(once, "Two", handler=partial(asking.send, leaving=asked[tab.leaving]))[0], "said anew"


def test_a_thought_is_folded_and_counted_and_its_side_is_asked_for_it(services, tab, ask, call):
    one = side.Exchange("q", Reply(thought=f"Hm {EVIL}", thought_tokens=7, completion_tokens=7))
    fold = Log(items=(one,)).messages()[1]
    assert (fold["metadata"]["title"], fold["metadata"]["status"]) == ("Thinking, 7 tokens", "pending")
    assert (len(Log(items=(one,)).messages()), EVIL in fold["content"]) == (2, False)
    done = replace(one.reply, text="Yes.", completion_tokens=9, done=True, prompt_tokens=5, seconds=1.0)
    _, fold, said, stamp = Log(items=(replace(one, reply=done),)).messages()
    titles = fold["metadata"]["title"], stamp["metadata"]["title"]
    assert titles == ("Thought, 7 tokens", "5 in · 7 thought · 2 out · 1.0 s")
    assert "Yes." in said["content"]
    for where, line in (
        ({"dtype": "float32", "device": "cpu"}, "float32 on cpu"),
        ({"engine": "vLLM 0.32.0 at far", "dtype": None, "device": None}, "vLLM 0.32.0 at far"),
    ):
        shown = Log(items=(replace(one, reply=replace(done, stamp=where)),)).messages()[-1]["content"]
        says(shown, line)
        assert "None on" not in shown
    cut = Log(items=(replace(one, reply=replace(done, text="", cut=True)),)).messages()[2]
    says(cut["content"], "still thinking when the limit ended it")
    wanted = sides(A=("base", "", 0, "", "", "off"), B=("endpoint:far", "", 0, "", "", "on"))
    ask(Comparison(), "One", wanted)
    services.compare.can_think = True
    ask(Comparison(), "One", wanted)
    assert [[one.think for one in asked[0]] for asked in services.compare.asked] == [[None, True], [False, True]]
    given = {"letter": "A", "switched": False, "comparison": Comparison(), "setups": wanted, **SCORED}
    assert call(asking.side_changed, tab, **given)[tab.sides["A"].think]["visible"] is True


def test_a_pane_says_where_in_line_it_waits_and_the_next_turn_sends_the_first(services, tab, ask, once):
    first, waiting, *_, last = ask(once, "Two")
    says(waiting[tab.sides["A"].chat][-1]["content"], "2nd in line, about 8 s")
    assert (first[tab.ask]["visible"], last[tab.ask]["visible"]) == (False, True)
    assert services.compare.asked[1][1][0] == [Turn("One", "plain")]
    last = ask(once, "", handler=asking.ask_again)[-1]
    assert [message["role"] for message in last[tab.sides["A"].chat]] == ["user", "assistant", "assistant"]
    assert services.compare.asked[2][2] == "One", "to ask again replaces the last turn"


def test_another_model_starts_afresh(services, call, tab, ask, once):
    said, view = sides(A=("hospital_reports", "", 0)), tab.sides["A"]
    changed = call(asking.side_changed, tab, letter="A", switched=True, comparison=once, setups=said, **SCORED)
    says(changed[view.chat][-1]["content"], "Now hospital_reports")
    says(changed[tab.board], "not yet")
    says(changed[view.line], "Switched in 0.4 ms, base untouched")
    ask(changed[tab.comparison], "Two", said)
    assert services.compare.asked[-1][1][0] == []
    log = Log().asked("q").answered(None).settled(Setup("a"), "a").settled(Setup("b"), "b")
    assert [type(item) for item in log.items[1:]] == [Divider], "changing back and forth leaves one"


def test_a_failure_is_said_in_words_and_frees_the_box(services, tab, ask, caplog):
    own, others = InputError(f"The queue is full {EVIL}."), ZeroDivisionError("secret detail")
    for error, text in ((own, "The queue is full &lt;img"), (others, words.OUR_SIDE)):
        assert caplog.text == ""
        services.compare.error = error
        last = ask(Comparison(), "One")[-1]
        says(last[tab.error], text)
        assert ("secret" in str(last), last[tab.ask]["visible"]) == (False, True)
    assert "secret detail" in caplog.text


def test_without_a_question_or_a_base_nothing_is_asked(services, ask):
    refused("nothing to ask yet", ask, Comparison(), "  ")
    services.bases.now = BaseState("fetching", "Fetching the base, 62 of 93 MB", "smollm2-135m")
    refused("62 of 93 MB", ask, Comparison(), "Hello", error=BaseUnavailableError)
    assert services.compare.asked == []


def test_stopping_keeps_what_had_arrived_and_copying_gives_all_of_it(services, call, tab, ask):
    midway = ask(Comparison(), "One")[2][tab.comparison]
    stopped = call(asking.stop, tab, comparison=midway, **SCORED)
    says(stopped[tab.sides["A"].chat][1]["content"], "pla", words.STOPPED)
    says(stopped[tab.board], "not yet")
    services.compare.texts = (f"  a\n{EVIL}",)
    whole = ask(Comparison(), "One")[-1][tab.comparison]
    copied = call(asking.copy_text, tab, letter="A", comparison=whole)
    assert copied == {tab.clipboard: f"  a\n{EVIL}"}, "the raw text"


def test_the_page_opens_on_the_story(services, call, tab):
    services.adapters.rows.append(row("other", usable=False, reason="trained on another base"))
    opened = call(asking.opening, tab, uploaded=None)
    first, second = tab.sides["A"], tab.sides["B"]
    assert opened[tab.comparison].logs["A"].setup.prompt.startswith("End with")
    values = [opened[one].value for one in (tab.kind, tab.text, first.model, second.model)]
    assert values == ["ends-with", "Sharma", "base", "hospital_reports"]
    assert "other" not in [value for _, value in opened[first.model].choices]
    says(opened[first.greyed], "trained on another base")
    services.data.sets = lambda: []
    with gr.Blocks() as page:
        tab, uploaded = CompareTab(), gr.State()
        bare = compare.wire_opening(services, tab, page.load, uploaded)
    outputs = next(one.outputs for one in page.fns.values() if one.name == "opening")
    drawn = dict(zip(outputs, bare.fn(None, None), strict=True))
    says(drawn[tab.error], "No example set ships")
    assert drawn[tab.add]["interactive"] is True


def test_sides_come_and_go_and_an_adapter_is_put_on_side_b(services, call, tab, once):
    drawn = call(asking.add_side, tab, comparison=Comparison(), **SCORED)
    comparison = drawn[tab.comparison]
    assert (comparison.shown, drawn[tab.sides["C"].column]["visible"]) == (("A", "B", "C"), True)
    for letter, left in (("A", ("B", "C")), ("B", ("C",)), ("C", ("C",))):
        comparison = call(asking.remove_side, tab, letter=letter, comparison=comparison, **SCORED)[tab.comparison]
        assert comparison.shown == left, "one side always stays"
    given = {"tabs": gr.Tabs(render=False), "comparison": once, "setups": TOLD_AND_TRAINED, **SCORED}
    used = call(asking.use_as_side, tab, adapter="hospital_reports", **given)
    second = tab.sides["B"]
    assert (used[second.model]["value"], used[second.prompt], used[second.shots]) == ("hospital_reports", "", 0)
    assert used[given["tabs"]]["selected"] == "compare"
    assert "value" not in used[tab.sides["A"].model], "only its choices"
    assert call(asking.use_as_side, tab, adapter="", **given) == {}
    assert call(asking.use_as_side, tab, adapter="gone", **given)[second.model]["value"] == "base"


def test_shots_come_from_ids_never_from_paths_and_another_base_is_offered_as_a_model(services, me):
    found = [side.shots_file(services, source, None) for source in ("/etc/passwd", "hospital_reports")]
    assert found == [None, services.data.folder / "rows.jsonl"]
    services.bases.beside = (card("base:owner/large", name="owner/large", kind="base"),)
    assert ("owner/large · another base", "base:owner/large") in side.model_choices(services, ())
    setup = side.Setup("base:owner/large", "Be brief.")
    assert side.name_of(setup, side.labels(me)) == "owner/large + prompt"
    assert words.WHOLE_MODEL in side.switch_html(me, setup)


def test_a_side_that_learned_becomes_its_adapter_when_the_run_ends(services, me):
    def offered(chosen):
        return side.with_chosen(me, side.model_choices(services, side.usable(me)), chosen)

    services.adapters.learns = (card("live-r1"),)
    assert ("live-r1 · LoRA r8", "live-r1") in offered("live-r1")
    services.adapters.learns, services.adapters.became_ = (), {"live-r1": "hospital_reports"}
    ended, gone, base = (offered(model) for model in ("live-r1", "gone", "base"))
    assert ended[-1] == (f"hospital_reports · LoRA r8, {words.TRAINED}", "live-r1")
    assert gone[-1] == (f"gone, {words.GONE}", "gone")
    assert base == ended[:-1] == gone[:-1]
    plain = {**{"model": "live-r1", "prompt": "", "shots": 0, "source": ""}, **{"form": "regex", "form_text": r"\d+"}}
    asked = side.read_setups(me, {"A": plain, "B": {**plain, "model": "gone"}})
    assert (asked["A"].model, asked["B"].model) == ("hospital_reports", "gone")
    assert asked["A"].format == r"regex:\d+"
    free = side.read_setups(me, {"A": {**plain, "form_text": ""}})["A"]
    assert (free.format, side.name_of(asked["A"], {}).endswith(" + form")) == ("", True)
