"""How a handler is called, what it may write, and what every answer passes on its way to the page."""

import asyncio
import json
from contextlib import suppress
from dataclasses import replace
from functools import partial
from operator import attrgetter
from types import SimpleNamespace
from unittest.mock import Mock

import gradio as gr
import pytest
from gradio.helpers import special_args

from playground.errors import InputError
from playground.models.bases import BaseState
from playground.services import build_services
from playground.settings import Settings
from playground.ui import page as page_
from playground.ui import sidebar, words
from playground.ui.page import HURRIED_S, Memo, build_page, launch_options
from playground.ui.train import Offers
from playground.ui.wiring import AS_HTML, PICKED, SETTABLE, Choices, Initial, Page, slot
from playground.ui.wiring import listen as listen_
from playground.ui.wiring import unasked as unasked_
from playground.verdict.service import VerdictView
from tests.evaluation.helpers import verdict as made_verdict
from tests.payloads import PAYLOADS
from tests.refused import refused
from tests.ui.conftest import says
from tests.ui.fakes import EVIL, row, run_view

tab = pytest.fixture(lambda blocks: Tab())
listen = pytest.fixture(lambda services, tab: partial(listen_, services, tab, tab.go.click))


class Tab:
    def __init__(self):
        self.name, self.sides, self.other = gr.Textbox(), (gr.Number(), gr.Number()), gr.Button()
        self.kind, self.first = gr.Dropdown(["a"]), gr.Dropdown(["a"], interactive=False)
        self.said, self.count, self.go, self.timer = gr.HTML(), gr.State(0), gr.Button(), gr.Timer()


@pytest.fixture
def blocks():
    with gr.Blocks() as blocks:
        yield blocks


def greet(visit, tab, *, name, sides, said=""):
    if not name:
        raise InputError(f"No name {EVIL}")
    return {tab.said: f"{said}{name} {sides} {visit.session}", tab.count: sum(sides)}


@pytest.mark.parametrize("signs_in", [False, True])
def test_who_signed_in_on_their_own_space_fetches_by_their_own_token(services, signs_in):
    services.settings, chosen = replace(services.settings, sign_in=signs_in), []
    services.bases.choose = lambda *asked: chosen.append(asked)
    with suppress(ImportError, ValueError), gr.Blocks() as page:  # only a Space has what Gradio then looks for
        view = sidebar.SidebarView(services)
        sidebar.wire(services, view, page)
    assert any(isinstance(block, gr.LoginButton) for block in page.blocks.values()) == signs_in
    choose = next(one.fn for one in page.fns.values() if one.fn is not None and one.fn.__name__ == "choose")
    for hers in (gr.OAuthToken("hf_hers", "read-repos", 9e9), None):
        inputs, *_ = special_args(choose, ["owner/gated"], gr.Request(), token=hers)
        assert "hf_hers" not in str(choose(*inputs))
    assert chosen == [("owner/gated", "hf_hers" if signs_in else ""), ("owner/gated", "")]


def test_a_handler_gets_its_values_by_name_and_answers_by_widget(services, tab, listen):
    """What it needs and is not given comes from the tab's widgets of these names."""
    events = [tab.go.click, tab.name.submit]
    wired = listen_(services, tab, events, greet, [tab.count, tab.name, tab.said])
    assert (wired.fn.__name__, wired.fn(None, "Ann", 1, 2)) == ("greet", [3, gr.skip(), "Ann (1, 2) local"])
    given = {"name": tab.name, "sides": {"A": tab.sides}}
    both = listen(lambda *_, given: {tab.said: str(given)}, tab.said, given=given)
    assert both.fn(None, "Ann", 1, 2) == str({"name": "Ann", "sides": {"A": (1, 2)}})
    only = listen(partial(greet, said="Hello "), [tab.said, tab.count], sides=[])
    assert only.fn(None, "Ann") == ["Hello Ann () local", 0]
    refused("nobody", listen, lambda visit, tab, *, nobody: {}, tab.said, error=AttributeError)
    refused("greet writes", listen(greet, tab.said).fn, None, "Ann", 1, 2, error=TypeError)


def test_a_failure_is_shown_in_its_place_and_cleared_afterwards(tab, listen):
    def steps(visit, tab, *, name):
        yield {tab.count: 1}
        raise InputError(f"No name {EVIL}")

    def count(visit, tab, *, name):
        return {tab.count: 1 / len(name)}

    wired, cleared = listen(count, tab.count, failure=tab.said, restored={tab.other: "again"}), slot("")
    assert wired.fn(None, "A") == [1.0, gr.skip(), cleared]
    kept, other, said = wired.fn(None, "")
    assert (kept, other) == (gr.skip(), "again")
    says(said, "our side")
    first, last = listen(steps, tab.count, failure=tab.said).fn(None, "")
    assert first == [1, cleared]
    says(last[1], "No name")


def test_the_id_of_a_click_inside_html_comes_by_name_too(tab, listen):
    def pick(visit, tab, *, picked, name):
        return {tab.said: f"{picked} {name}"}

    for wired in (listen(pick, tab.said), listen(pick, tab.said, picked=PICKED)):
        assert wired.fn(None, gr.EventData(None, {"id": 7}), "Ann") == "7 Ann"


def test_what_is_unasked_never_writes_a_widget_that_a_person_can_set(services, blocks, tab):
    def draw(visit, tab, *, updates):
        return dict(updates)

    unasked = partial(unasked_, services, tab)
    for settable in (tab.name, gr.File(), gr.Dataframe(), gr.Checkbox(), gr.Slider()):
        refused("may not write", unasked, tab.timer.tick, draw, [tab.said, settable], error=TypeError)
    outputs = [tab.said, tab.kind, tab.first]
    wired = unasked(tab.timer.tick, draw, outputs, updates=tab.count)
    opening = unasked(blocks.load, draw, outputs, updates=tab.count)
    allowed = {tab.said: "said", tab.kind: Choices(["b"], label="Kind"), tab.first: Initial(["b"], value="b")}
    opened = gr.update(choices=["b"], value="b", interactive=True)
    assert opening.fn(None, allowed) == ["said", gr.update(choices=["b"], label="Kind"), opened]
    for value in ("b", gr.update(value="b"), gr.update(choices=["b"]), None, Initial(["b"], value="b")):
        for listener, widget in ((opening, tab.kind), (wired, tab.first)):
            refused("can be set by a person", listener.fn, None, {widget: value}, error=TypeError)


@pytest.fixture(scope="module")
def page(tiny_base, tmp_path_factory):
    services = build_services(Settings(home=tmp_path_factory.mktemp("home"), base=str(tiny_base)))
    yield build_page(services)
    services.close()


def answer(page, listener, *, bare=False, kinds=SETTABLE, written=attrgetter("value")):
    """What reaches the page where a handler writes the value of every widget of some kinds. bare: no update."""
    values = [gr.skip()] * len(listener.outputs)
    for place, block in enumerate(listener.outputs):
        if isinstance(block, kinds):
            values[place] = written(block) if bare else {"__type__": "update", "value": written(block)}
    return asyncio.run(page.postprocess_data(listener, values[0] if len(values) == 1 else values, None))


def listeners(page, *events):
    return [one for one in page.fns.values() if any(event in events for _, event in one.targets)]


def named(page, name):
    return [one for one in page.fns.values() if one.name == name]


def settable(listener):
    return [(place, block) for place, block in enumerate(listener.outputs) if isinstance(block, SETTABLE)]


def test_no_timer_and_no_opening_nor_what_follows_writes_the_value_of_a_widget_that_a_person_can_set(page):
    written = 0
    for listener in (page.fns[id] for id in page.unasked):
        widgets = settable(listener)
        for bare in (False, True):
            sent = answer(page, listener, bare=bare) if widgets else []
            for place, block in widgets:
                written += 1
                opens = page.unasked[listener._id] and block.interactive is False
                assert ("value" in sent[place]) == opens, (listener.name, block.label)
                assert (sent[place].get("interactive") is True) == opens
    assert written > 60
    names = {page.fns[id].name for id in page.unasked}
    assert {one.name for one in listeners(page, "tick", "load")} <= names
    assert {"preset_times", "refresh", "reread", "relined"} <= names, "what the base's mark sets off, and what follows"
    assert not {"ask", "open_upload", "use_as_side", "set_up_story"} & names, "a person asked for these"


def test_to_ask_again_reads_all_that_to_ask_reads_and_an_answer_that_was_asked_for_passes_as_it_is(page):
    (again,), ask = named(page, "ask_again"), max(named(page, "ask"), key=lambda one: len(one.inputs))
    assert {one._id for one in again.inputs} == {one._id for one in ask.inputs}
    (set_up,) = named(page, "set_up_story")
    assert all("value" in answer(page, set_up)[place] for place, _ in settable(set_up))


def test_no_answer_of_any_listener_brings_a_tag_that_is_not_the_apps_own(page):
    text = "".join(PAYLOADS)
    shows_html = [one for one in page.fns.values() if any(isinstance(block, AS_HTML) for block in one.outputs)]
    assert len(shows_html) > 100

    def written(block):
        return text if isinstance(block, gr.HTML) else [{"role": "assistant", "content": text}]

    seen = set()
    for listener in shows_html:
        assert listener.postprocess, listener.name
        shown = {block._id for block in listener.outputs if isinstance(block, AS_HTML)}
        if shown <= seen:  # each widget once: what it makes of a value does not depend on who sent it
            continue
        seen |= shown
        for bare in (True, False):
            sent = answer(page, listener, bare=bare, kinds=AS_HTML, written=written)
            assert "<" not in str(sent), listener.name
    built = [str(block.value) for block in page.blocks.values() if isinstance(block, AS_HTML) and block.value]
    assert len(built) > 20, "what the page is built with is as safe"
    assert not any("&lt;" in value for value in built)


FIXED = {"What each row is", "Method", "Where bottlenecks stand", "A reply passes when it", "Picture", "Which rows"}
FIXED |= {"Which answers are learned"}
"""Widgets that are read and written, and whose choices stay as they are built."""


def choosing(page):
    """Widgets with choices that one listener writes and one reads, but for those whose choices never change."""
    read = {block._id for one in page.fns.values() for block in one.inputs}
    written = {block._id for one in page.fns.values() for block in one.outputs}
    kinds = (gr.Dropdown, gr.Radio, gr.CheckboxGroup)
    found = [block for block in page.blocks.values() if isinstance(block, kinds) and block._id in read & written]
    return [block for block in found if block.label not in FIXED]


@pytest.mark.parametrize("gone", ["an adapter that went", 7, 0.5])
def test_a_choice_that_is_gone_reaches_its_handler(page, gone):
    assert len(choosing(page)) >= 20
    for block in choosing(page):
        several = isinstance(block, gr.CheckboxGroup) or bool(getattr(block, "multiselect", None))
        given = {**block.constructor_args, "choices": [("Another", "another")], "value": None, "render": False}
        narrowed = type(block)(**given)
        value = [gone] if several else gone
        assert narrowed.preprocess(value) == value, block.label
        assert narrowed.preprocess(None) == ([] if several else None), block.label
        for wrong in ({"a": 1}, [["nested"]], [{}], "text" if several else ["listed"]):
            refused("", narrowed.preprocess, wrong, error=gr.Error)
        assert block.get_block_name() in ("dropdown", "radio", "checkboxgroup"), "the browser knows Gradio's own names"


def test_what_comes_after_an_upload_is_offered_with_its_values_and_the_rest_is_sent_at_once(page):
    offered = named(page, "presets")
    assert len(offered) >= 6
    for one in offered:
        offer, *widgets = one.outputs
        assert [block.label for block in widgets[1:3]] == ["Steps", "Name of the adapter"]
        applied = next(other for other in page.fns.values() if other.trigger_after == one._id)
        assert (applied.fn, applied.inputs[1:]) == (None, [offer, *widgets[:4]])
    with Page() as page:
        box, number, other, button = gr.Textbox(), gr.Number(), gr.Textbox(), gr.Button()
        offers = Offers([button.click], [box, number])

        def answered(visit, tab):
            return {box: gr.update(label="L", value="a"), number: 7, other: "written"}

        services = SimpleNamespace(settings=SimpleNamespace(shared=False))
        offers.then(services, None, button.click(lambda: None), answered, [other])
    handler = next(one.fn for one in page.fns.values() if one.name == "answered")
    offer, *sent = handler(None)
    assert (json.loads(offer), sent) == ({"0": "a", "1": 7}, [gr.update(label="L"), gr.update(), "written"])


def test_the_page_has_its_tabs_in_order_and_the_benchs_text_follows_every_choice_of_examples(page):
    tabs = [block.label for block in page.blocks.values() if isinstance(block, gr.Tab)]
    assert tabs == ["Train", "Adapters", "Compare", "Verdict"]
    assert {"theme", "css", "js", "head"} <= set(launch_options())
    follows = [one for one in page.fns.values() if one.name == "opened" and one._id not in page.unasked]
    label = "A version of the prompt"
    texts = [one for one in follows if label in [getattr(block, "label", "") for block in one.outputs]]
    before = {page.fns[one.trigger_after].name for one in texts if one.trigger_after is not None}
    assert before == {"first", "source_chosen", "carry"}, "an upload, a dropped file, the sides of Compare"


@pytest.fixture
def tick(me, whole):
    """One tick; the memo is that of the tick before."""
    memo = Memo()

    def ticked(**changes):
        nonlocal memo
        given = dict.fromkeys(("followed", "chosen", "active", "judged", "fault", "tuned"), "") | {"laid": []}
        models = dict.fromkeys(words.LETTERS, "base")
        drawn = page_.tick(me, whole, memo=memo, **{**given, "models": models, **changes})
        memo = drawn.pop(whole.memo)
        assert set(drawn) <= set(whole.outputs)
        return drawn

    return ticked


def test_the_timer_draws_only_what_changed_and_reads_the_runs_once(services, whole, tick):
    assert (tick()[whole.pill], tick()) == ("Device: idle", {})
    services.training.runs = Mock(return_value=[run_view()])
    drawn = tick()
    assert {whole.training.run, whole.training.listing, whole.training.cancel, whole.device.now} <= set(drawn)
    assert whole.pill not in drawn
    services.training.runs.assert_called_once_with("local")


def test_a_button_says_why_it_cannot_be_pressed(services, whole, tick):
    services.bases.now = BaseState("fetching", "Fetching the base, 62 of 93 MB", "smollm2-135m")
    drawn = tick()
    for button in (whole.compare.ask, whole.compare.hospital):
        assert (drawn[button]["value"], drawn[button]["interactive"]) == ("Fetching the base, 62 of 93 MB", False)
    assert drawn[whole.timer]["value"] == HURRIED_S


def test_a_part_that_fails_leaves_the_others_and_is_logged_once(services, whole, tick, caplog):
    services.device.status = lambda: 1 / 0
    drawn = tick()
    assert whole.pill not in drawn
    says(drawn[whole.training.run], "Nothing is training")
    tick()
    assert caplog.text.count("ZeroDivisionError") == 1


def test_a_choice_that_is_gone_is_said_and_never_written_over(services, whole, tick):
    models = dict.fromkeys(words.LETTERS, "base") | {"B": "hospital_reports"}
    tick(models=models, tuned="hospital_reports")
    services.adapters.rows = [row(id="other")]
    drawn = tick(models=models, tuned="hospital_reports")
    for widget in (whole.compare.sides["B"].model, whole.verdict.adapter):
        assert type(drawn[widget]) is Choices
        assert drawn[widget].choices[-1] == (f"hospital_reports, {words.GONE}", "hospital_reports")


def test_the_replies_of_a_verdict_are_read_once(services, whole, tick):
    services.verdicts.record, services.verdicts.held = made_verdict()
    services.verdicts.listed = [VerdictView("20261124-101500-v1a2b", "ward", "DONE", created_s=1.79e9)]
    says(tick()[whole.verdict.body], "Fine-tune.")
    services.verdicts.show = None
    assert tick() == {}
