"""Everything a person or a model wrote comes out as text."""

from functools import partial

import pytest

from playground.chat.compare import Reply
from playground.chat.demo import DemoRow, DemoState, DemoStep
from playground.library.adapters import read_card
from playground.models.adapters import AdapterRow
from playground.report import charts
from playground.report.safe_html import safe_html
from playground.ui import adapters, bench, compare, html, race, runs, side, sidebar, verdict_shown
from playground.ui.side import Divider, Exchange, Log
from playground.verdict.bench import Score, Version
from playground.verdict.race import RaceView
from playground.verdict.race_store import Entry, Race
from playground.verdict.service import VerdictView
from tests.library.conftest import adapter as write_adapter
from tests.payloads import PAYLOADS
from tests.ui.conftest import says
from tests.ui.fakes import EVIL, STATUS, row, run_view


def raced(evil):
    entries = (Entry(evil, evil, 10, state=evil, reason=evil, adapter=evil, figures={"eval_loss": 1.0}),)
    return RaceView(Race("r", "local", evil, evil, 1.0, evil, evil, 10, None, entries, message=evil), None, 1, 1)


def verdict_view(evil, state="FAILED"):
    return VerdictView("20261124-101500-v1a2b", evil, state, message=evil, error=evil)


def pieces(evil):
    """Everything that is shown, with one text in every place where a text of somebody else's may stand."""
    piece = partial(html.piece, "pieces")
    reply = Reply(text=evil, done=True, stamp={"adapter": evil, "prompt": {"text": evil}}, stamp_id="5e0c")
    failed, step = Exchange("q", Reply(error=evil, done=True)), DemoStep(evil, "now", evil)
    demo = DemoState("failed", (step,), error=evil, table=(DemoRow(evil, 0, 0, 1, 1, 1, 1),))
    version = Version("v1", evil, 1.0, evil, (Score(evil, 0, evil, 0.5, 8, 100.0),))
    messages = Log(items=(Divider(evil), Exchange(evil, reply), failed)).messages()
    return {
        "pill": piece("pill")(evil, "ok"),
        "chips": piece("chips")([(evil, "warn")]),
        "table": piece("table")((evil,), [(evil,)], caption=evil),
        "pairs": piece("pairs")([(evil, evil)]),
        "error": html.error_card(evil, evil),
        "heading": html.heading(evil, evil, 1),
        "bar": html.progress(0.5, evil),
        "stacked": piece("stacked")([(evil, 1)], 2, evil),
        "race": race.head_html(raced(evil)) + race.table_html(raced(evil)),
        "versions of a prompt": bench.list_html([version], evil),
        "verdicts": verdict_shown.list_html([verdict_view(evil)], ""),
        "a verdict": "".join(verdict_shown.live_html(verdict_view(evil, one)) for one in ("FAILED", "MEASURING")),
        "score board": side.board([("A", evil, Log())], "contains", evil, lambda *_: False),
        "no rows": adapters.list_html([row(evil, rows=0, trained_on=evil, method=evil, objective=evil)]),
        "adapters": adapters.list_html([row(evil, name=evil, base=evil), row("other", usable=False, reason=evil)]),
        "run": runs.card_html(run_view(name=evil, message=evil, error=evil, samples=[(0, evil)])),
        "runs": runs.list_html([run_view(run=evil, name=evil, method=evil)], ""),
        "now": sidebar.now_html([run_view(name=evil)]),
        "device": sidebar.device_html(STATUS),
        "waiting": sidebar.waiting_html([{"position": 1, "label": evil, "wait_s": 8}]),
        "demo": compare.story_html(demo, False),
        "transcript": "".join(one["content"] for one in messages),
    }


@pytest.mark.parametrize("payload", [EVIL, *PAYLOADS])
def test_nothing_from_outside_becomes_a_tag(payload):
    for name, piece in pieces(payload).items():
        assert "<" not in payload or payload not in piece, name
        own = safe_html(piece).count("&lt;") == piece.count("&lt;")
        assert own, f"{name}: all its tags are the app's own, and all their attributes"


FIELDS = "name method base base_fingerprint owner data objective rank rows_used created_s"


@pytest.mark.parametrize("payload", PAYLOADS)
def test_every_field_of_an_imported_record_is_shown_as_text(tmp_path, payload):
    for field in FIELDS.split():
        folder = write_adapter(tmp_path / field, run={"schema": 1, field: payload})
        shown = adapters.list_html([AdapterRow(read_card(folder), True, False, payload)])
        assert "<" not in payload or payload not in shown, field
        assert safe_html(shown).count("&lt;") == shown.count("&lt;"), field


def test_line_breaks_reach_the_page_and_figures_are_read_out():
    text = '{\n    "a": 1\n}'
    shown = Log(items=(Exchange("q", Reply(text=text, done=True)),)).messages()[1]["content"]
    assert "\n" not in shown
    assert "{&#10;    &#34;a&#34;: 1&#10;}" in shown
    says(html.progress(0.62, "Training of mine"), 'role="progressbar"', 'aria-valuenow="62"')
    says(html.progress(3, "past its end"), 'aria-valuenow="100"')
    says(html.error_card("wrong"), 'role="alert"')
    assert charts.loss([(1, 2.0)], [], 20) == "", "a chart waits for two points"
    says(charts.loss([(1, 2.0), (2, 1.5)], [(2, 1.8)], 20), "training from 2.00 to 1.50", 'class="held"')
    read = [html.size(98_000_000), html.size(20_400_000_000), html.size(0), html.plural(1, "row"), html.rate(0.001)]
    assert read == ["98 MB", "20.4 GB", "0 B", "1 row", "1e-3"]
    read = [html.duration(3.5), html.duration(130), html.duration(3720), html.left(4.4), html.about(130)]
    assert read == ["3.5 s", "2 min 10 s", "1 h 2 min", "4 s left", "about 2 min"]
    assert [html.count(1_221_120), html.share(1_221_120, 134_515_008)] == ["1.2 M", "0.9 %"]
