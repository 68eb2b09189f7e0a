"""``demo``: the built-in story in the terminal."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

from playground.cli.common import Progress, services_for
from playground.services.demo import DemoState
from playground.services.home import Home
from playground.settings import Settings


def demo(settings: Settings, options: Any) -> tuple[dict[str, Any], str, int]:
    """Train on the hospital examples, then measure base + prompt against the tuned model on rows neither has seen."""
    services = services_for(settings)
    progress = Progress()
    started = time.monotonic()
    home = Home.take_patiently(settings)
    try:
        services.bases.engine(progress.base)
        services.training.start_supervisor()
        state = services.demo.play(lambda now: progress.say(_line(now)))
        progress.end()
    finally:
        services.close()
        home.release()
    seconds = round(time.monotonic() - started, 1)
    rows = [asdict(row) for row in state.table]
    lines = [f"{'':<24}{'format kept':>14}{'tokens in':>12}{'tokens out':>12}{'s a reply':>12}"]
    for row in state.table:
        kept = f"{row.passed} of {row.n}"
        lines.append(f"{row.name:<24}{kept:>14}{row.prompt_tokens:>12.0f}{row.completion_tokens:>12.0f}{row.seconds:>12.1f}")
    lines.append(
        f"Held-out rows, computed just now in {seconds:.0f} s. The adapter is {state.adapter}: python -m playground compare"
    )
    lines.append(f'  --side model=base --side model={state.adapter} --ask "Male, 54, chest tightness, BP 150/95, pulse 102."')
    return (
        {"state": state.phase, "run": state.run, "adapter": state.adapter, "seconds": seconds, "rows": rows},
        "\n".join(lines),
        0,
    )


def _line(state: DemoState) -> str:
    now = next((step for step in state.steps if step.state == "now"), None)
    left = f", about {state.seconds_left:.0f} s left" if state.seconds_left else ""
    return f"{now.label}: {now.detail}{left}" if now else "Measuring"
