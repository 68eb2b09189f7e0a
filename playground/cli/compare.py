"""``compare`` asks several sides the same thing; ``replay`` repeats a saved reply from its stamp."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from functools import partial
from pathlib import Path
from typing import Any

from playground.chat.compare import all_replies, parse_side
from playground.chat.replay import Saved, read_saved, together
from playground.cli.common import Outcome, Progress, ask_app, owned_or_served, replay_in_app, services_for
from playground.engine.request import Sampling
from playground.errors import InputError
from playground.settings import Settings


def compare(settings: Settings, options: Namespace) -> Outcome:
    sides = [parse_side(spec, Path(options.examples) if options.examples else None) for spec in options.side]
    sampling = Sampling(temperature=options.temperature, max_tokens=options.max_tokens, seed=options.seed)
    services = services_for(settings, options.base)
    for side in sides:
        if side.model != "base":
            services.adapters.get(side.model)  # a wrong id is refused before anything is loaded
    progress = Progress()
    with owned_or_served(settings) as home:
        if home is None:
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
        f"[{reply['side']}] {reply['prompt_tokens']} in, {reply['completion_tokens']} out, {reply['seconds']:.1f}"
        f" s\n{reply['text']}"
        for reply in replies
        if not reply.get("error")
    )
    return {"replies": replies} | ({"error": wrong} if wrong else {}), text, 1 if wrong else 0


FILE_LIMIT_BYTES = 64_000_000
AROUND = 20
"""Characters shown before and after the first difference."""


def replay(settings: Settings, options: Namespace) -> Outcome:
    saved = _read(Path(options.file))
    services = services_for(settings, options.base)
    progress = Progress()
    with owned_or_served(settings) as home:
        if home is None:
            found = [replay_in_app(settings, one) for one in saved]
        else:
            services.bases.resolve(progress.base)
            for one in saved:
                services.replay.check(one)  # what cannot be the same is refused before anything is loaded
            services.bases.engine(progress.base)
            progress.end()
            found = [
                services.replay.again(one, partial(_written, progress, at, len(saved)))
                for at, one in enumerate(saved, 1)
            ]
            progress.end()
    return together(found), "\n\n".join(_words(one, result) for one, result in zip(saved, found, strict=True)), 0


def _written(progress: Progress, at: int, of: int, tokens: int) -> None:
    progress.say(f"Reply {at} of {of}: {tokens} tokens written")


def _read(path: Path) -> list[Saved]:
    """Raises InputError when it is no JSON, or holds no stamp."""
    try:
        if path.stat().st_size > FILE_LIMIT_BYTES:
            raise InputError(
                f"{path} is larger than {FILE_LIMIT_BYTES // 1_000_000} MB. Save the replies to be replayed in a"
                " smaller file."
            )
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"{path} cannot be read: {error.strerror}. Name a saved reply, such as what `compare --json` printed."
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path} is not JSON ({error}). Save what `compare --json` or /v1 gave, and nothing else."
        ) from error
    return read_saved(value)


def _words(saved: Saved, result: dict[str, Any]) -> str:
    text, at = result["text"], result["first_difference"]
    if result["same"] is None:
        verdict = f"The file holds no text to compare with. The stamp gives:\n{text}"
    elif result["same"]:
        verdict = f"The same text again, {len(text)} characters."
    else:
        start, end = max(0, at - AROUND), at + AROUND
        verdict = f"Not the same: character {at + 1} is the first that differs.\n  saved: {saved.text[start:end]!r}\n  now:   {text[start:end]!r}"  # type: ignore[index]
    return "\n".join([f"[{saved.name}] {verdict}" if saved.name else verdict, *result["notes"]])
