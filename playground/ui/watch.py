"""What the page's one timer reads, and the little of it that has to be drawn again.

``memo`` remembers what this tab was sent last. A part that reads the same is skipped: no flicker, no closed fold, and a button that
a person has just pressed is not put back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from playground.ui import curves, demo, library, runs, side, sidebar, verdict_form, verdict_shown, words
from playground.ui.failure import sentence
from playground.ui.readiness import ready
from playground.ui.wiring import Visitor, slot


class Memo(dict[str, Any]):
    """Name of a part -> what was sent last."""

    def fresh(self, name: str, value: Any, update: Any = None) -> Any:
        """``update`` (or the value) where it changed, else nothing."""
        if name in self and self[name] == value:
            return gr.skip()
        self[name] = value
        return value if update is None else update


PACE_S = 2.0
HURRIED_S = 0.5
"""Between two looks, and while the base is on its way: nobody should wait for a button that could be pressed."""


def tick(
    services: Any,
    visitor: Visitor,
    memo: Memo,
    followed: str,
    laid: list[str],
    chosen: str,
    active: str,
    judged: str,
    tuned: str,
    *models: str,
) -> list[Any]:
    """Memo, the base's mark, pill, sidebar (5), ready buttons (4), run card (10), curves (3), demo (5), adapters (1), models and greyed (12), verdict (9), the timer."""
    memo = Memo(memo)
    return [
        memo,
        memo.fresh("mark", ready(services).mark),
        *_device(services, visitor, memo),
        *_readiness(services, memo),
        *_run(services, visitor, memo, followed),
        *_curves(services, visitor, memo, followed, laid or []),
        *_demo(services, visitor, memo),
        *_adapters(services, visitor, memo, chosen, active, models),
        *_verdict(services, visitor, memo, judged, tuned),
        memo.fresh("pace", pace := PACE_S if ready(services).yes else HURRIED_S, gr.Timer(pace, active=True)),
    ]


def _guarded(count: int, memo: Memo, name: str, read: Callable[[], list[Any]]) -> list[Any]:
    """A part whose service fails leaves its place as it was; the error is logged, once, not shown every two seconds."""
    try:
        return read()
    except Exception as error:
        if f"{name}-error" not in memo:
            memo[f"{name}-error"] = sentence(error)
        return [gr.skip()] * count


def _device(services: Any, visitor: Visitor, memo: Memo) -> list[Any]:
    """Pill, device, now, its cancel, waiting, base."""

    def read() -> list[Any]:
        status = services.device.status()
        live = [run for run in services.training.runs(visitor.owner) if run.state in words.LIVE]
        return [
            memo.fresh("pill", services.device.line(visitor.owner)),
            memo.fresh("device", sidebar.device_html(status)),
            memo.fresh("now", sidebar.now_html(live, any(lease["lane"] != "train" for lease in status["leases"]))),
            memo.fresh("now-cancel", bool(live), gr.update(visible=bool(live))),
            memo.fresh("waiting", sidebar.waiting_html(status["queue"])),
            memo.fresh("base", sidebar.base_html(status["base"])),
        ]

    return _guarded(6, memo, "device", read)


def _readiness(services: Any, memo: Memo) -> list[Any]:
    """Ask and the hospital example say why while they cannot be pressed; Play and Send are only greyed."""

    def read() -> list[Any]:
        now = ready(services)
        why = now.words if len(now.words) <= words.SHORT else words.BASE_MISSING
        return [
            memo.fresh(f"ready-{name}", (now.yes, said), gr.update(value=said, interactive=now.yes))
            for name, said in (
                ("ask", words.ASK if now.yes else why),
                ("hospital", words.HERO_ASK if now.yes else why),
                ("play", words.STORY_PLAY),
                ("send", "Send"),
            )
        ]

    return _guarded(4, memo, "ready", read)


def _run(services: Any, visitor: Visitor, memo: Memo, followed: str) -> list[Any]:
    """Followed run, error, card, list, and the buttons: those only when the run or its state is another."""

    def read() -> list[Any]:
        listed = services.training.runs(visitor.owner)
        run = runs.pick(listed, followed)
        key = runs.buttons_key(run, listed)
        if memo.get("run-buttons", "") == key:
            buttons = [gr.skip()] * runs.BUTTONS
        else:
            memo["run-buttons"], buttons = key, runs.buttons(run, listed)
        rows = runs.list_html(listed, run.run if run else "")
        return [gr.skip(), gr.skip(), memo.fresh("run", runs.card_html(run)), memo.fresh("runs", rows, slot(rows)), *buttons]

    return _guarded(4 + runs.BUTTONS, memo, "run", read)


def _curves(services: Any, visitor: Visitor, memo: Memo, followed: str, laid: list[str]) -> list[Any]:
    """Small pictures, the runs that can be laid over, and the picture of those."""

    def read() -> list[Any]:
        listed = services.training.runs(visitor.owner)
        run = runs.pick(listed, followed)
        choices = curves.choices(listed, run, laid)
        return [
            memo.fresh("curves", curves.small_html(run)),
            memo.fresh("to-lay", choices, gr.update(choices=choices)),
            memo.fresh("laid", curves.laid_html(listed, run, laid)),
        ]

    return _guarded(3, memo, "curves", read)


def _demo(services: Any, visitor: Visitor, memo: Memo) -> list[Any]:
    def read() -> list[Any]:
        shown = demo.show(services, visitor)
        return shown if memo.get("demo") != repr(shown) and not memo.update(demo=repr(shown)) else [gr.skip()] * 5

    return _guarded(5, memo, "demo", read)


def _adapters(services: Any, visitor: Visitor, memo: Memo, chosen: str, active: str, models: tuple[str, ...]) -> list[Any]:
    """The library, and every side's choice of models with what cannot be chosen: only when an adapter came, went or changed, or a side's is
    gone."""
    count = len(words.LETTERS)

    def read() -> list[Any]:
        rows = services.adapters.list(visitor.owner)
        shown = memo.fresh("library", library.list_html(rows, chosen, active))
        offered = [(row.card.id, row.card.name, row.usable) for row in rows]
        offered += [(card.id, card.name, True) for card in services.adapters.learning(visitor.owner)]
        known = {"base", *(id for id, _, usable in offered if usable)}
        key = (offered, [model for model in models if model and model not in known])
        if memo.get("offered") == key:
            return [shown, *[gr.skip()] * (2 * count)]
        memo["offered"] = key
        greyed = slot(side.greyed_list(services, visitor))
        return [shown, *side.dropdown_updates(services, visitor, models), *[greyed] * count]

    return _guarded(1 + 2 * count, memo, "adapters", read)


def _verdict(services: Any, visitor: Visitor, memo: Memo, followed: str, tuned: str) -> list[Any]:
    """The shown verdict's head, body, the list, its buttons, and the adapters to choose from. The body is only read when the verdict or its
    state is another: it holds every reply."""

    def read() -> list[Any]:
        views = services.verdicts.views(visitor.owner)
        view = verdict_shown.pick(views, followed)
        key = verdict_shown.key_of(view)
        body, buttons = gr.skip(), [gr.skip()] * verdict_shown.CONTROLS
        if memo.get("verdict-key", ()) != key:
            made = verdict_shown.body(services, visitor, view) if view and view.state not in words.VERDICT_LIVE else ""
            memo["verdict-key"], body, buttons = key, slot(made), verdict_shown.controls(view, made)
        rows = verdict_shown.list_html(views, view.id if view else "")
        choices = side.with_chosen(services, visitor, verdict_form.adapters(services, visitor), tuned)
        return [
            memo.fresh("verdict", verdict_shown.live_html(view)), body, memo.fresh("verdicts", rows, slot(rows)), *buttons,
            memo.fresh("to-judge", choices, gr.update(choices=choices)),
        ]  # fmt: skip

    return _guarded(4 + verdict_shown.CONTROLS, memo, "verdict", read)
