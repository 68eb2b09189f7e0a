"""Only the tags that this app writes stay tags."""

from html import unescape

import pytest

from playground.report.report import body_html, page_html
from playground.report.safe_html import safe_html
from tests.evaluation.helpers import cases, verdict
from tests.payloads import PAYLOADS


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
