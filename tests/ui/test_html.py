"""Everything a person or a model wrote comes out as text."""

from __future__ import annotations

import pytest

from playground.services.compare import Reply
from playground.services.demo import DemoRow, DemoState, DemoStep
from playground.ui import chart, demo, figures, html, library, runs, sidebar, transcript
from playground.ui.transcript import Divider, Log, Said
from tests.ui.fakes import EVIL, FakeDevice, row, run_view

REPLY = Reply(text=EVIL, done=True, stamp={"adapter": EVIL, "prompt": {"text": EVIL}}, stamp_id="5e0c")
PIECES = {
    "pill": html.pill(EVIL, "ok"),
    "chips": html.chips([(EVIL, "warn")]),
    "table": html.table((EVIL,), [(EVIL,)], caption=EVIL),
    "pairs": html.pairs([(EVIL, EVIL)]),
    "error": html.error_card(EVIL, EVIL),
    "heading": html.heading(EVIL, EVIL, 1),
    "bar": html.progress(0.5, EVIL),
    "stacked": html.stacked([(EVIL, 1)], 2, EVIL),
    "adapters": library.list_html([row(EVIL, name=EVIL, base=EVIL), row("other", usable=False, reason=EVIL)]),
    "run": runs.card_html(run_view(name=EVIL, message=EVIL, error=EVIL, samples=[(0, EVIL)])),
    "runs": runs.list_html([run_view(run=EVIL, name=EVIL, method=EVIL)], ""),
    "now": sidebar.now_html([run_view(name=EVIL)]),
    "device": sidebar.device_html(FakeDevice().status()),
    "waiting": sidebar.waiting_html([{"position": 1, "label": EVIL, "wait_s": 8}]),
    "demo": demo.view_html(
        DemoState("failed", (DemoStep(EVIL, "now", EVIL),), error=EVIL, table=(DemoRow(EVIL, 0, 1, 1, 1, 1),))
    ),
    "said": "".join(m["content"] for m in transcript.messages(Log(items=(Divider(EVIL), Said(EVIL, REPLY))))),
    "failed side": "".join(m["content"] for m in transcript.messages(Log(items=(Said("q", Reply(error=EVIL, done=True)),)))),
}


@pytest.mark.parametrize("piece", PIECES)
def test_nothing_from_outside_becomes_a_tag(piece: str) -> None:
    assert "<img" not in PIECES[piece]
    assert 'onerror="' not in PIECES[piece]


def test_line_breaks_and_indents_reach_the_page() -> None:
    text = '{\n    "a": 1\n}'
    shown = transcript.messages(Log(items=(Said("q", Reply(text=text, done=True)),)))[1]["content"]
    assert "\n" not in shown
    assert "{&#10;    &quot;a&quot;: 1&#10;}" in shown


def test_a_progress_bar_says_where_it_stands() -> None:
    bar = html.progress(0.62, "Training of mine")
    assert 'role="progressbar"' in bar
    assert 'aria-valuenow="62"' in bar
    assert 'aria-valuenow="100"' in html.progress(3, "past its end")


def test_an_error_is_read_out() -> None:
    assert 'role="alert"' in html.error_card("wrong")


def test_the_chart_waits_for_two_points_and_names_both_lines() -> None:
    assert chart.loss([(1, 2.0)], [], 20) == ""
    drawn = chart.loss([(1, 2.0), (2, 1.5)], [(2, 1.8)], 20)
    assert "training from 2.00 to 1.50" in drawn
    assert 'class="held"' in drawn


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (figures.size(98_000_000), "98 MB"),
        (figures.size(20_400_000_000), "20.4 GB"),
        (figures.size(0), "0 B"),
        (figures.duration(3.5), "3.5 s"),
        (figures.duration(130), "2 min 10 s"),
        (figures.duration(3720), "1 h 2 min"),
        (figures.left(4.4), "4 s left"),
        (figures.about(130), "about 2 min"),
        (figures.count(1_221_120), "1.2 M"),
        (figures.share(1_221_120, 134_515_008), "0.9 %"),
        (figures.rate(0.001), "1e-3"),
        (figures.plural(1, "row"), "1 row"),
    ],
)
def test_figures(said: str, expected: str) -> None:
    assert said == expected
