"""Every text that may come from somebody else says that it is a script; in a real browser it stays a text, and nothing
is fetched."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from playground.db import RunStore
from playground.settings import Settings
from playground.verdict.bench import PromptBook
from playground.verdict.files import VerdictFiles
from playground.verdict.race_store import DONE, Entry, Race, RaceStore
from tests.e2e.conftest import App, open_page, start_app, tab
from tests.engine.conftest import make_lora
from tests.evaluation.helpers import EVIL, verdict
from tests.payloads import PAYLOADS

pytestmark = [pytest.mark.browser]
__all__ = ["make_lora"]
TAGS = (
    "[onerror], [onload], [onclick], [onfocus], img[src*=pwned], iframe, a[href^='javascript:'], body script:not([src])"
)


def poison(home: Path, lora: Path) -> None:
    """Adapters, runs, races, prompts and verdicts, one for each payload, with it in every text field."""
    settings = Settings(home=home)
    runs, races, verdicts = RunStore(settings.database), RaceStore(settings.database), VerdictFiles(home / "verdicts")
    for place, payload in enumerate(PAYLOADS):
        adapter = settings.adapters_dir / f"poisoned{place}"
        shutil.copytree(lora, adapter)
        texts = ("name", "base", "data", "objective", "created", "error", "prompt", "parts", "how")
        (adapter / "run.json").write_text(
            json.dumps({"schema": 1, **dict.fromkeys(texts, payload), "method": f"lora{payload}"[:40]})
        )
        (adapter / "README.md").write_text(payload)
        runs.add(
            run=f"20260101-00000{place}-{place:04x}",
            owner="local",
            name=payload,
            method=payload,
            state="FAILED",
            error=payload,
            created_s=1.0 + place,
            steps=10,
            needs_bytes=1,
        )
        entries = (
            Entry(
                "lora",
                "r1",
                10,
                state="DONE",
                adapter=adapter.name,
                reason=payload,
                figures={"eval_loss": 1.0, "trainable_params": 9},
                loss=[[1, 2.0], [2, 1.0]],
            ),
            Entry(payload, "r2", 10, state=payload, reason=payload),
        )
        races.add(
            Race(
                f"race{place}",
                "local",
                payload,
                payload,
                1.0 + place,
                DONE,
                payload,
                10,
                None,
                entries,
                Entry("", figures={"eval_loss": 2.0}),
                payload,
            )
        )
        PromptBook(home / "prompts").keep(f"Say {payload}")
        record, rows = (
            json.loads(json.dumps(made).replace(json.dumps(EVIL)[1:-1], json.dumps(payload)[1:-1]))
            for made in verdict(8)
        )
        state = verdicts.new("local", payload, {}, 1.0 + place)
        verdicts.save(state.id, record | {"id": state.id}, rows, [])
        verdicts.put(verdicts.state(state.id).__class__(state.id, "local", payload, 1.0 + place, "DONE", payload))


@dataclass
class Watched:
    """A page, and what it did that no text may do."""

    page: Any
    did: list[str] = field(default_factory=list)

    def unfold(self) -> None:
        self.page.evaluate(
            "() => document.querySelectorAll('.label-wrap:not(.open), summary').forEach(fold => fold.click())"
        )

    def check(self, where: str) -> None:
        found = self.page.evaluate(
            f"() => [window.pwned, ...[...document.querySelectorAll(`{TAGS}`)].map(one => one.outerHTML.slice(0, 200))]"
        )
        assert found[0] is None, where
        assert [one for one in found[1:] if "gradio" not in one] == [], where
        assert self.did == [], where


@pytest.fixture(scope="module")
def poisoned(
    tiny_base: Path, make_lora: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[App]:
    home = tmp_path_factory.mktemp("poisoned") / "home"
    home.mkdir()
    poison(home, make_lora(1))
    running = start_app(home, home.parent / "app.log", tiny_base)
    yield running
    running.stop()
    assert "Traceback" not in running.log.read_text(), running.log.read_text()[-4000:]


@pytest.fixture
def watched(poisoned: App, browser: Any) -> Iterator[Watched]:
    context = browser.new_context(viewport={"width": 1280, "height": 860}, reduced_motion="reduce")
    watch = Watched(context.new_page())
    watch.page.set_default_timeout(60_000)
    watch.page.on("dialog", lambda dialog: (watch.did.append(dialog.message), dialog.dismiss()))
    watch.page.on(
        "console", lambda said: watch.did.append(said.text) if "Content Security Policy" in said.text else None
    )
    watch.page.on(
        "request", lambda asked: watch.did.append(asked.url) if _is_foreign(asked.url, poisoned.url) else None
    )
    open_page(watch.page, poisoned)
    yield watch
    context.close()


def _is_foreign(url: str, home: str) -> bool:
    return "pwned" in url.partition("?")[0] or not url.startswith((home, "data:", "blob:"))


def test_adapters(watched: Watched) -> None:
    page = watched.page
    tab(page, "Adapters")
    for place, payload in enumerate(PAYLOADS):
        row = page.locator(f"button[data-id='poisoned{place}']")
        row.wait_for()
        assert payload in row.inner_text(), "a text is shown as it was written"
        row.click()
        page.locator("button[data-id][aria-pressed=true]", has_text=payload[:30]).wait_for()
        page.get_by_role("button", name="Rename", exact=True).click()
    watched.unfold()
    watched.check("adapters")
    tab(page, "Compare")
    page.get_by_label("Model of side A").click()
    page.get_by_role("option", name=PAYLOADS[0][:20]).first.wait_for()
    watched.check("sides")


def test_asked_and_answered(watched: Watched) -> None:
    page = watched.page
    for payload in PAYLOADS:
        page.get_by_placeholder("Ask every side the same thing").fill(payload)
        page.get_by_role("button", name="Ask", exact=True).click()
        page.locator(".sA .said", has_text=payload).first.wait_for()
        page.wait_for_function("() => !document.querySelector('.main-act').disabled", timeout=120_000)
    watched.unfold()
    watched.check("replies")


def test_verdicts_prompts_and_votes(watched: Watched) -> None:
    page = watched.page
    tab(page, "Verdict")
    for payload in PAYLOADS:
        page.locator(".run-list button[data-id]:visible", has_text=payload).first.click()
        page.locator(".verdict-head h2", has_text=payload).wait_for()
        page.locator(".verdict-body .v-answer").wait_for()
        watched.unfold()
        watched.check(payload)
    page.get_by_text(f"Say {PAYLOADS[0]}").first.wait_for()
    page.get_by_role("button", name="Vote on the verdict above").click()
    page.locator(".ballot").wait_for()
    page.get_by_role("button", name="Left is better").click()
    page.get_by_role("button", name="Reveal").click()
    page.locator(".revealed").wait_for()
    watched.check("votes")


def test_files_columns_runs_races_and_storage(watched: Watched, tmp_path: Path) -> None:
    page = watched.page
    tab(page, "Train")
    watched.unfold()
    for payload in PAYLOADS:
        page.locator(".run-list button[data-id]", has_text=payload).first.click()
        page.locator(".run-card h2", has_text=payload).wait_for()
        watched.check(payload)
    file = tmp_path / f"{PAYLOADS[0].replace('/', '_')}.csv"
    with file.open("w", newline="") as out:
        rows = [[f"{payload} {number}", payload, *PAYLOADS] for payload in PAYLOADS for number in range(3)]
        csv.writer(out).writerows([["prompt", "completion", *PAYLOADS], *rows, [PAYLOADS[0], ""]])
    page.locator(".drop input[type=file]").first.set_input_files(str(file))
    page.get_by_text(": 25 rows").first.wait_for()
    watched.unfold()
    watched.check("a file")
    page.get_by_text("Race several methods").wait_for()
    watched.check("races")
    page.locator("#pill").click()
    watched.unfold()
    watched.check("storage")


def test_the_page_runs_under_its_policy_and_what_is_handed_out_may_run_nothing(watched: Watched, poisoned: App) -> None:
    page = watched.page
    policy = page.request.get(poisoned.url).headers["content-security-policy"]
    scripts = next(part for part in policy.split("; ") if part.startswith("script-src"))
    assert "unsafe-inline" not in scripts
    assert "sha256-" in scripts
    assert "frame-ancestors 'self'" in policy
    refused = page.evaluate(
        "() => new Promise(done => { document.addEventListener('securitypolicyviolation', event =>"
        " done(event.effectiveDirective)); const one = document.createElement('div'); one.innerHTML = '<img src=data:,"
        ' onerror="window.pwned=2">\'; document.body.append(one); })'
    )
    assert refused == "script-src-attr"
    assert page.evaluate("() => window.pwned") is None, "had a tag got through, the browser would still not run it"
    for path in ("/status", "/healthz", "/v1/models", "/config"):
        said = page.request.get(poisoned.url + path).headers["content-security-policy"]
        assert "default-src 'none'" in said
        assert "script" not in said
