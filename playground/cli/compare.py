"""``compare``: ask several sides the same thing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from playground.cli.common import Progress, owned_or_served, services_for
from playground.engine.request import Sampling
from playground.services.replies import all_replies
from playground.services.sides import parse_side
from playground.settings import Settings


def compare(settings: Settings, options: Any) -> tuple[dict[str, Any], str, int]:
    sides = [parse_side(spec, Path(options.examples) if options.examples else None) for spec in options.side]
    sampling = Sampling(temperature=options.temperature, max_tokens=options.max_tokens, seed=options.seed)
    services = services_for(settings, options.base)
    for side in sides:
        if side.model != "base":
            services.adapters.get(side.model)  # a wrong id is told before anything is loaded
    progress = Progress()
    with owned_or_served(settings) as home:
        if home is None:
            from playground.cli.served import ask_app

            replies = ask_app(settings, sides, options.ask, sampling)
        else:
            services.bases.engine(progress.base)
            progress.end()
            of = len(options.ask)
            replies = all_replies(
                services.compare,
                sides,
                options.ask,
                sampling,
                lambda turn, tokens: progress.say(f"Turn {turn + 1} of {of}: {tokens} tokens written"),
            )
            progress.end()
    failed = [reply for reply in replies if reply.get("error")]
    wrong = "\n".join(f"{reply['side']}: {reply['error']}" for reply in failed)
    if wrong:
        print(wrong, file=sys.stderr)
    text = "\n\n".join(
        f"[{reply['side']}] {reply['prompt_tokens']} in, {reply['completion_tokens']} out, {reply['seconds']:.1f} s\n{reply['text']}"
        for reply in replies
        if not reply.get("error")
    )
    return {"replies": replies} | ({"error": wrong} if wrong else {}), text, 1 if wrong else 0
