"""Every text of somebody else's says that it is a script; in a real browser it stays a text, and nothing is fetched."""

import csv
import json
import shutil
from dataclasses import dataclass
from typing import Any

import pytest

from playground.db import RunStore
from playground.settings import Settings
from playground.verdict.bench import PromptBook
from playground.verdict.files import VerdictFiles
from playground.verdict.race_store import DONE, Entry, Race, RaceStore
from tests.e2e.conftest import press, running, sees, tab, visit
from tests.engine.conftest import make_lora
from tests.evaluation.helpers import EVIL, verdict
from tests.payloads import PAYLOADS

pytestmark = [pytest.mark.browser]
__all__ = ["make_lora"]
FOLDS = ".label-wrap:not(.open), summary"
TAGS = "[onerror], [onload], [onclick], [onfocus], img[src*=pwned], iframe, a[href^='javascript:']"
TAGS += ", body script:not([src])"
PAIRS = [f"{PAYLOADS[one]} {PAYLOADS[other]}" for one, other in ((5, 0), (1, 2), (3, 6), (4, 7))]
"""Each is short enough for a name, and neither half stops the other from breaking out of a tag, a quote or a script."""


def poison(home, lora):
    """Adapters, runs, races, prompts and verdicts, one for each pair of payloads, with it in every text field."""
    settings = Settings(home=home)
    runs, races, verdicts = RunStore(settings.database), RaceStore(settings.database), VerdictFiles(home / "verdicts")
    for place, payload in enumerate(PAIRS):
        adapter = settings.adapters_dir / f"poisoned{place}"
        shutil.copytree(lora, adapter)
        texts = ("name", "base", "data", "objective", "created", "error", "prompt", "parts", "how")
        record = {"schema": 1, **dict.fromkeys(texts, payload), "method": f"lora{payload}"[:40]}
        (adapter / "run.json").write_text(json.dumps(record))
        (adapter / "README.md").write_text(payload)
        run = {"run": f"20260101-00000{place}-{place:04x}", "owner": "local", "state": "FAILED"}
        run |= dict.fromkeys(("name", "method", "error"), payload)
        runs.add(**run, created_s=1.0 + place, steps=10, needs_bytes=1)
        figures, loss = {"eval_loss": 1.0, "trainable_params": 9}, [[1, 2.0], [2, 1.0]]
        good = Entry("lora", "r1", 10, state="DONE", reason=payload, adapter=adapter.name, figures=figures, loss=loss)
        entries = (good, Entry(payload, "r2", 10, state=payload, reason=payload))
        named = (f"race{place}", "local", payload, payload, 1.0 + place, DONE, payload, 10, None)
        races.add(Race(*named, entries, Entry("", figures={"eval_loss": 2.0}), payload))
        PromptBook(home / "prompts").keep(f"Say {payload}")
        evil, said = json.dumps(EVIL)[1:-1], json.dumps(payload)[1:-1]
        record, rows = (json.loads(json.dumps(made).replace(evil, said)) for made in verdict(8))
        state = verdicts.new("local", payload, {}, 1.0 + place)
        verdicts.save(state.id, record | {"id": state.id}, rows, [])
        verdicts.put(verdicts.state(state.id).__class__(state.id, "local", payload, 1.0 + place, "DONE", payload))


@dataclass
class Watched:
    """A page, and what it did that no text may do."""

    page: Any
    did: list[str]

    def unfold(self):
        self.page.evaluate(f"() => document.querySelectorAll(`{FOLDS}`).forEach(fold => fold.click())")

    def check(self, where):
        tags = f"[...document.querySelectorAll(`{TAGS}`)].map(one => one.outerHTML.slice(0, 200))"
        pwned, *found = self.page.evaluate(f"() => [window.pwned, ...{tags}]")
        assert (pwned, [one for one in found if "gradio" not in one], self.did) == (None, [], []), where


@pytest.fixture(scope="module")
def poisoned(tiny_base, make_lora, tmp_path_factory):
    home = tmp_path_factory.mktemp("poisoned") / "home"
    home.mkdir()
    poison(home, make_lora(1))
    with running(home, tiny_base) as app:
        yield app


@pytest.fixture(scope="module")
def watched(poisoned, browser):
    """One page for all: nothing on it is anybody's own."""
    did = []

    def note(text, wrong):
        did.extend([text] if wrong else [])

    def watch(page):
        page.on("dialog", lambda dialog: (did.append(dialog.message), dialog.dismiss()))
        page.on("console", lambda said: note(said.text, "Content Security Policy" in said.text))
        page.on("request", lambda asked: note(asked.url, _is_foreign(asked.url, poisoned.url)))

    with visit(browser, poisoned, before=watch) as page:
        yield Watched(page, did)


def _is_foreign(url, home):
    return "pwned" in url.partition("?")[0] or not url.startswith((home, "data:", "blob:"))


def test_adapters(watched):
    page = watched.page
    tab(page, "Adapters")
    for place, payload in enumerate(PAIRS):
        row = page.locator(f"button[data-id='poisoned{place}']")
        row.wait_for()
        assert payload in row.inner_text(), "a text is shown as it was written"
        row.click()
        page.locator("button[data-id][aria-pressed=true]", has_text=payload[:30]).wait_for()
        press(page, "Rename", exact=True)
    watched.unfold()
    watched.check("adapters")
    tab(page, "Compare")
    page.get_by_label("Model of side A").click()
    page.get_by_role("option", name=PAIRS[0][:20]).first.wait_for()
    watched.check("sides")


def test_asked_and_answered(watched):
    page = watched.page
    for payload in (PAIRS[0], " ".join(PAIRS[1:])):
        page.get_by_placeholder("Ask every side the same thing").fill(payload)
        press(page, "Ask", exact=True)
        page.locator(".sA .said", has_text=payload).first.wait_for()
        page.wait_for_function("() => !document.querySelector('.main-act').disabled", timeout=120_000)
    watched.unfold()
    watched.check("replies")


def test_verdicts_prompts_and_votes(watched):
    page = watched.page
    tab(page, "Verdict")
    for payload in PAIRS:
        page.locator(".run-list button[data-id]:visible", has_text=payload).first.click()
        page.locator(".verdict-head h2", has_text=payload).wait_for()
        page.locator(".verdict-body .v-answer").wait_for()
        watched.unfold()
        watched.check(payload)
    sees(page, f"Say {PAIRS[0]}")
    press(page, "Vote on the verdict above")
    page.locator(".ballot").wait_for()
    press(page, "Left is better")
    press(page, "Reveal")
    page.locator(".revealed").wait_for()
    watched.check("votes")


def test_files_columns_runs_races_and_storage(watched, tmp_path):
    page = watched.page
    tab(page, "Train")
    watched.unfold()
    for payload in PAIRS:
        page.locator(".run-list button[data-id]", has_text=payload).first.click()
        page.locator(".run-card h2", has_text=payload).wait_for()
        watched.check(payload)
    file = tmp_path / f"{PAYLOADS[0].replace('/', '_')}.csv"
    with file.open("w", newline="") as out:
        rows = [[f"{payload} {number}", payload, *PAYLOADS] for payload in PAYLOADS for number in range(3)]
        csv.writer(out).writerows([["prompt", "completion", *PAYLOADS], *rows, [PAYLOADS[0], ""]])
    page.locator(".drop input[type=file]").first.set_input_files(str(file))
    sees(page, ": 25 rows")
    watched.unfold()
    watched.check("a file")
    page.get_by_text("Race several methods").wait_for()
    watched.check("races")
    page.locator("#pill").click()
    watched.unfold()
    watched.check("storage")


def test_replies_are_labelled_with_the_keyboard_on_a_narrow_page(watched):
    page = watched.page
    page.set_viewport_size({"width": 390, "height": 860})
    page.reload()
    tab(page, "Verdict")
    page.locator(".verdict-body .v-answer").wait_for()
    page.locator("button.label-wrap", has_text="Label replies").click()
    press(page, "Label the replies of the verdict above")
    page.locator(".ballot:focus").wait_for()
    page.locator(".v-answer").wait_for(state="hidden")
    for key, told in (
        ("1", "1 of 50 labelled: 1 right, 0 wrong"),
        ("2", "2 of 50 labelled: 1 right, 1 wrong"),
        ("3", "1 you could not tell"),
        ("Backspace", "2 of 50 labelled: 1 right, 1 wrong."),
    ):
        page.keyboard.press(key)
        page.locator("p[role=status]", has_text=told).wait_for()
        page.locator(".ballot:focus").wait_for()
    press(page, "Wrong", exact=True)
    page.locator("p[role=status]", has_text="3 of 50 labelled: 1 right, 2 wrong").wait_for()
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 390
    watched.check("labels")
    press(page, "Done for now")
    page.locator(".verdict-body .v-answer").wait_for()


def test_the_browser_itself_refuses_a_script_in_a_tag(watched):
    """Had a tag got through, it would still not run."""
    refused = watched.page.evaluate(
        "() => new Promise(done => { document.addEventListener('securitypolicyviolation', event =>"
        " done(event.effectiveDirective)); const one = document.createElement('div'); one.innerHTML = '<img src=data:,"
        ' onerror="window.pwned=2">\'; document.body.append(one); })'
    )
    assert (refused, watched.page.evaluate("() => window.pwned")) == ("script-src-attr", None)
