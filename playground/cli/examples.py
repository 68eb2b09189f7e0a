"""``check``: what a file can train."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from playground.cli.arguments import mapping_of
from playground.cli.common import Progress, services_for
from playground.data.check import as_json, as_text
from playground.data.split import split
from playground.services.sessions import LOCAL
from playground.services.training import TrainRequest
from playground.settings import Settings

_PATIENCE_S = 2.0  # a shorter step says nothing of its progress


def check(settings: Settings, options: Any) -> tuple[dict[str, Any], str, int]:
    services = services_for(settings, options.base)
    file, progress = Path(options.file), Progress()
    checked = services.data.check(file, mapping_of(options.map), LOCAL, _told(progress, "Reading"))
    progress.end()
    services.bases.resolve(progress.base)
    progress.end()
    tokens = services.data.tokens(checked, options.max_tokens, tell=_told(progress, "Counting tokens"))
    progress.end()
    advice = services.data.advice(checked, tokens)
    seed = TrainRequest(file).seed
    parts = split(checked.usable, seed, test=services.data.test_share(file))
    return as_json(checked, tokens, advice, parts.as_record()), as_text(checked, tokens, advice), 0


def _told(progress: Progress, what: str) -> Callable[[float], None]:
    """Says how far a step has come, once it has taken longer than anybody waits without a word."""
    began = 0.0

    def tell(share: float) -> None:
        nonlocal began
        began = began or time.monotonic()  # the first word comes when the step begins
        if time.monotonic() - began > _PATIENCE_S:
            progress.say(f"{what}, {share:.0%}")

    return tell
