"""What a person sees of a verdict: every reason finds its figure, every text stays text, the worst cases come first."""

import copy
import csv
import io
import json
import re
from html import unescape
from html.parser import HTMLParser

import pytest

from playground.evaluation.comparison import Questions
from playground.evaluation.cost import Prices
from playground.report import format, report, sections
from playground.report.report import body_html, page_html, parted, word_diff
from playground.report.safe_html import safe_html
from tests.evaluation.helpers import CHECK, EVIL, FOUR, cases, verdict
from tests.payloads import PAYLOADS

VOID = {"meta", "br", "img", "input", "link"}
made = pytest.fixture(lambda: verdict(), scope="module")


class Page(HTMLParser):
    """A page's tags and attributes. They are nested rightly, and none of them runs anything."""

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self._attributes = []
        self._open = []
        self.feed(text)
        assert self._open == []
        assert not any(name.startswith("on") for name, _ in self._attributes)

    def all(self, *names):
        """The values of these attributes."""
        return [value for name, value in self._attributes if name in names and value]

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self._attributes += attrs
        self._open += [tag] if tag not in VOID else []

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag):
        assert self._open.pop() == tag


def in_order(text, words):
    places = [text.index(word) for word in words]
    assert places == sorted(places)


LINES = [{"examples": n, "sides": sides} for n in (6, 9, 40) for sides in (("base",), ("prompt", "tuned"), FOUR)]
ASKED = [{"volume": 2_000_000}, {"budget": 0.0}, {"changes": "weekly"}, {"latency_s": 1.62}, {"latency_s": 0.1}]


@pytest.mark.parametrize("made_of", [*LINES, *({"questions": Questions(**asked)} for asked in ASKED)], ids=str)
def test_any_line_up_can_be_shown_and_every_reason_finds_its_figure(made_of):
    record, rows = verdict(**made_of)
    page = Page(report.page_html(record, rows))
    ids, links = page.all("id"), page.all("href")
    assert len(ids) == len(set(ids))
    assert len(links) == len(record["reasons"]) > 0
    assert {link[1:] for link in links} <= set(ids)


def test_the_page_needs_nothing_else_escapes_every_piece_and_has_its_parts_and_metrics_in_order(made):
    text = report.page_html(*made)
    page = Page(text)
    assert [value for value in page.all("src", "href", "xlink:href") if value[:1] != "#"] == []
    assert not {"script", "img", "link", "iframe", "object"} & set(page.tags)
    assert [words for words in (EVIL, "url(", "@import") if words in text] == []
    assert [words for words in ("prefers-color-scheme: dark", "@media print") if words not in text] == []
    pieces = [report.section(name, *made) for name in report.SECTIONS]
    for piece in pieces:
        assert "<img" not in piece
        Page(piece)
    assert "&lt;img" in "".join(pieces)
    text = report.page_html(*made)
    order = ["Fine-tune.", "Every side by its main metric", "The whole at a glance", "Every metric"]
    order += ["Where the sides differ", "What it costs", "What was forgotten", "How it was measured", "Wilson"]
    in_order(text[text.index("<body>") :], order)
    record, rows = made
    sorted_ = json.loads(json.dumps(record, sort_keys=True))
    assert report.body_html(sorted_, rows) == report.body_html(record, rows)
    order = ["decides", "At most 60 words<", "in every repeat", "Exactly the reference", "BLEU", "Loss of"]
    in_order(report.section("metrics", sorted_), [*order, "Seconds a reply", "Tokens written"])


def test_what_ended_early_is_not_complete_and_what_not_all_sides_answered_is_nowhere_alike_or_apart(made):
    record, _ = made
    assert "not complete" not in report.section("answer", record)
    assert "not complete" not in report.section("answer", {name: record[name] for name in record if name != "state"})
    for state, how in {"STOPPED": "was stopped early", "FAILED": "failed before its end", "X": "has not ended"}.items():
        said = f"This verdict is not complete: it {how}, and rests on the 40 examples that every side had answered."
        assert said in report.section("answer", {**record, "state": state})
    record, _ = verdict(6)
    more, none = {"rows_needed": 1060}, {"rows_needed": None}
    for said, changed in (("; about 43 rows", {}), ("; about 1,060 rows would tell.", more), (".</h2>", none)):
        headline = f'<h2 class="v-headline">Not enough evidence{said}'
        assert headline in report.section("answer", {**record, **changed})
    record, rows = made
    apart, alike = parted(record, rows)
    one, other = alike[0][0]["example"], apart[0][0]["example"]
    some = [row for row in rows if not (row["example"] in (one, other) and row["side"] in ("Base", "Base + prompt"))]
    then_apart, then_alike = parted(record, some)
    assert (len(then_apart), len(then_alike)) == (len(apart) - 1, len(alike) - 1)
    assert {one, other}.isdisjoint(answers[0]["example"] for answers in (*then_apart, *then_alike))


def test_what_was_not_timed_and_what_training_cost_nobody_knows(made):
    record, rows = verdict(12, prices=Prices(device_per_hour=2.0))
    for side in record["sides"][:2]:
        side["cost"] |= {"per_request": None, "items": {}}
    for point in record["cost_curve"]:
        del point["totals"]["Base"], point["totals"]["Base + prompt"]
    costs = report.section("cost", record)
    assert costs.count("not timed") >= 4
    assert costs.count("not known, since not both were timed") == 2
    assert report.section("table", record).count("not timed") == 2
    Page(report.page_html(record, rows))
    record = copy.deepcopy(made[0])
    assert "not known" not in report.section("cost", record)
    record["sides"][3]["training_s"] = 0.0
    record["sides"][3]["cost"] |= {"once": 0.0, "known": False, "items": {"requests": 3.0}}
    costs = report.section("cost", record)
    assert costs.count("no record of what its training cost") == 3
    assert '<td class="n opt">not known</td>' in costs
    assert costs.count('<td class="n opt">none</td>') == 3
    assert "is not known, and not in it" in costs
    assert "cheaper from the first request on" not in costs
    record["sides"][3]["cost"] |= {"known": True}
    assert '<td class="n opt">not known</td>' not in report.section("cost", record)


def test_a_cost_that_could_not_be_weighed_is_not_called_unpaid_and_ids_are_safe_and_different(made):
    record = copy.deepcopy(made[0])
    said = "What Tuned costs is not known in full, so your volume could not be weighed."
    record["reasons"] = [{"text": said, "number": 100, "link": "question|volume"}]
    why = report.section("answer", record)
    assert "Your volume" in why
    assert "Never paid back" not in why
    assert f'id="{format.element_id("question|volume")}"' in report.section("cost", record), "and it leads there"
    ids = {format.element_id(link) for link in ("side|A b|x", "side|a B|x", "side|A-b|x", "")}
    assert len(ids) == 4
    assert all(re.fullmatch(r"[a-z][a-z0-9-]*", one) for one in ids)


def test_figures_are_those_of_the_record_and_what_fits_no_common_scale_is_not_on_the_radar(made):
    record, _ = made
    table = report.section("table", record)
    tuned = record["sides"][3]["metrics"][CHECK]
    assert (tuned["value"], tuned["n"]) == (0.925, 40)
    assert f"{100 * tuned['low']:.0f} to {100 * tuned['high']:.0f}" in table
    assert f'cx="{100 * tuned["value"]:.2f}%"' in table
    assert "paid back after 496 requests" in report.section("cost", record)
    assert "21 → 20 of 40" in report.section("forgetting", record)
    assert report.section("forgetting", {**record, "forgetting": {}}) == ""
    tuned = record["sides"][3]
    (name, first), second = *record["forgetting"].items(), {"loss_after": 3.31, "right_after": 15, "divergence": None}
    drawn = {**tuned, "draws": [{"side": name}, {"side": "s2"}], "spread": [0.9, 1.0], "drawn": "training seeds"}
    found = {**record, "sides": [*record["sides"][:3], drawn], "forgetting": {name: first, "s2": {**first, **second}}}
    seeds = report.section("forgetting", found)
    assert "3.02 → 3.21<small>3.11 to 3.31 by seed</small>" in seeds
    assert "21 → 17.5 of 40<small>15 to 20 by seed</small>" in seeds
    axes = sections.radar_axes(record)
    assert {CHECK, "token_f1", "consistency"} <= set(axes)
    assert not {"bleu", "chrf", "seconds", "loss", "perplexity", "prompt_tokens", "groundedness"} & set(axes)
    two = {**record, "about": {name: record["about"][name] for name in ("token_f1", "bleu", "chrf")}}
    assert report.section("radar", two) == "", "two axes are no radar"


def test_what_the_choice_fails_at_comes_first_and_only_what_has_a_stamp_can_be_replayed(made):
    record, rows = made
    found = parted(record, rows)[0]
    tuned = record["chosen_side"]
    values = [next(row["metrics"]["pass"] for row in answers if row["side"] == tuned) for answers in found]
    assert (values, values[0]) == (sorted(values), 0.0)
    assert all(len({row["metrics"]["pass"] for row in answers}) > 1 for answers in found)
    assert [row["side"] for row in found[0]] == [side["side"] for side in record["sides"]]
    shown_, alike = report.section("differences", record, rows, only=3).split('<details class="v-alike">')
    assert shown_.count('class="v-example"') == 3
    assert "The first 3 are shown" in shown_
    apart, same = parted(record, rows)
    assert len(apart) + len(same) == record["examples"]
    assert alike.count('class="v-example"') == min(3, len(same)) > 0, "every reply can be read"
    nothing = report.section("differences", {**record, "main_metric": None}, rows, replay=True)
    assert "They do not" in nothing
    assert nothing.count('class="v-example"') == record["examples"]
    record, rows = made
    assert "data-id" not in report.section("differences", record, rows)
    without = [row | ({"stamp": None} if row["side"] == "Base" else {}) for row in rows]
    shown = report.section("differences", record, without, only=1, replay=True)
    apart, alike = shown.split('<details class="v-alike">')
    buttons = re.findall(r'data-id="([^"]+)"', apart)
    assert len(buttons) == len(re.findall(r'data-id="([^"]+)"', alike)) == 3
    number = parted(record, rows)[0][0][0]["example"]
    assert buttons == [f"{number}|1", f"{number}|2", f"{number}|3"]


def test_words_are_compared_crumbs_are_not_and_the_rows_open_in_a_sheet_without_running_anything(made):
    assert word_diff("a b c d", "a b c d") == [("same", "a b c d")]
    changed = [("same", "Rest "), ("del", "today"), ("ins", "now"), ("same", ". Signed")]
    assert word_diff("Rest today. Signed", "Rest now. Signed") == changed
    mixed = word_diff("The dog should see a vet soon.", "Plan: rest for a week.\nSigned by Dr. A")
    assert [how for how, _ in mixed].count("del") == 1
    assert word_diff("word " * 2000, "x") == [("same", "word " * 2000)], "too long to compare: shown as it is"
    record, rows = made
    silent = [row | {"reply": "  ", "reference": EVIL} for row in rows]
    assert "<i>Nothing at all.</i> <ins>&lt;img" in report.section("differences", record, silent)
    _record, rows = made
    text = report.rows_csv(rows)
    read = list(csv.DictReader(io.StringIO(text.removeprefix("\ufeff"))))
    assert len(read) == len(rows) == 160
    first = next(row for row in read if row["example"] == "6")
    assert first["reference"].startswith("'=Findings")
    assert float(read[-1][CHECK]) in (0.0, 1.0)
    assert {"example", "side", "reply", "reference", "prompt_tokens", "token_f1"} <= set(read[0])
    assert list(read[0]).count("prompt_tokens") == 1


def test_the_cost_section_says_where_its_prices_are_made_up_and_how_long_a_prompt_may_be():
    def costs(prices, sides=FOUR):
        return report.section("cost", verdict(prices=prices, sides=sides)[0])

    made_up, own = costs(Prices()), costs(Prices(prompt_per_million=2.0))
    device = costs(Prices(currency="EUR", device_per_hour=2.0, tuned_prompt_per_million=0.3))
    for words in ("The prices are made up", "made-up examples", "Total cost in USD at example prices"):
        assert words in made_up
    assert "1,000 requests, example prices" in made_up
    hosted = costs(Prices(hosting_per_month=30.0, prompt_per_million=2.0, cached_per_million=0.1))
    assert "360.00 USD" in hosted
    assert "at the price of cached ones" in hosted
    for words in ("made up", "made-up examples", "at example prices"):
        assert words not in own + device
    for words in ("seconds an answer takes", "0.3 EUR", "How long a prompt may be"):
        assert words in device
    assert "How long a prompt may be" not in costs(Prices(), ("base", "prompt"))


def test_the_ladder_shows_the_bar_fields_stand_side_by_side_and_guards_have_a_place(made):
    record, _ = made
    table = report.section("table", record)
    in_order(table, ["Form", "Content", "Base", "Base + prompt", "Base + 4 shots", "ward", "your bar, 80 %"])
    assert "Cut off" not in table, "no reply was"
    assert table.count('class="bar"') == len(record["sides"])
    assert 'class="margin" x="70.00%" width="10.00%"' in table
    before = report.section("table", {**record, "ladder": []})
    assert "your bar" not in before, "a record from before there was a bar"
    assert 'class="bar"' not in before
    record, _ = made
    fields = report.section("fields", record)
    in_order(fields, ["Findings", "Plan"])
    assert fields.count("<td") == 2 * len(record["sides"])
    assert report.section("fields", {**record, "about": {"pass": record["about"]["pass"]}}) == ""
    measured = report.section("measured", record)
    in_order(measured, ["What is right", "Findings, Plan right", "80 % of rows, 10 points", "What limits the answer"])
    assert "This base only" in measured


@pytest.mark.parametrize(("fault", "metric", "value"), [(name, *of) for name, of in report.FAULTS.items()])
def test_examples_are_found_by_what_is_wrong(made, fault, metric, value):
    record, rows = made
    rows = [row | {"metrics": {**row["metrics"], "cut_off": float(row["example"] in (3, 9))}} for row in rows]
    found = {row["example"] for row in rows if row["metrics"].get(metric) == value}
    shown = report.section("differences", record, rows, fault=fault)
    assert 0 < len(found) < 40 or fault != "reply cut off"
    assert shown.count('class="v-example"') == len(found)
    assert fault in shown


@pytest.mark.parametrize(("html", "safe"), cases("html"))
def test_a_tag_of_ours_stays_and_every_other_is_text(html, safe):
    assert safe_html(html) == safe


@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize(
    "around", ["{}", "<p>{}</p>", '<p class="{}">x</p>', "<p class={}>x</p>", "<svg><title>{}</title></svg>"]
)
def test_a_text_that_nobody_escaped_runs_nothing(payload, around):
    safe = safe_html(around.format(payload))
    assert safe_html(safe) == safe
    for tag in ("<img", "<script", "<iframe", "<svg onload", "<b onclick"):
        assert tag not in safe.replace("&lt;", "")
    assert "pwned" in unescape(safe) or "pwned" not in payload


@pytest.mark.parametrize("piece", cases("unclosed"))
@pytest.mark.parametrize("end", ["", ">", '">'])
def test_what_is_never_closed_takes_no_longer_than_other_text(piece, end):
    """Each of some took minutes: read to its end once for every piece."""
    safe = safe_html(piece * 20_000 + end)
    assert safe_html(safe) == safe
    assert len(safe) >= 20_000 * len(piece)


def test_a_whole_report_loses_nothing():
    record, rows = verdict(8)
    body = body_html(record, rows, replay=True)
    safe = safe_html(body)
    assert safe.count("&lt;") == body.count("&lt;")
    assert (safe.count("<"), safe.count(">"), len(safe)) == (body.count("<"), body.count(">"), len(safe_html(safe)))
    assert "<svg viewbox=" in page_html(record, rows)
