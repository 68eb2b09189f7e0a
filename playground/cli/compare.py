"""``compare`` asks several sides the same thing; ``replay`` repeats a saved reply from its stamp; ``handover`` writes
what another server needs, and asks whether it answers the same."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from contextlib import closing
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from playground.chat.compare import side_as_json
from playground.chat.programs import Saved, all_replies, parse_side, read_saved, together
from playground.cli.common import Outcome, Progress, agreed, call, in_app, owned_or_served, refuse_missing, services_for
from playground.engine.request import Sampling
from playground.errors import InputError, RunFailedError
from playground.services import Services
from playground.settings import Settings
from playground.verdict.handover import Compared, Handover, Step, step_from

FILE_LIMIT_BYTES = 64_000_000
AROUND = 20  # characters shown before and after the first difference


def compare(settings: Settings, options: Namespace) -> Outcome:
    source = Path(options.examples) if options.examples else None
    services, progress = services_for(settings, options.base), Progress()
    best = (lambda: services.search.found(source).side) if source is not None else None
    sides = [side for spec in options.side for side in parse_side(spec, source, best).drawn]
    sampling = Sampling(temperature=options.temperature, max_tokens=options.max_tokens, seed=options.seed)
    refuse_missing(services, sides)
    if sent := agreed(services.compare.leaving(sides), options.send):
        services.compare.agree(sides)
    with owned_or_served(settings) as home:
        if home is None:
            asked = {"sides": [side_as_json(side) for side in sides], "questions": options.ask, "send": sent}
            replies = call(settings, "/internal/compare", {**asked, "sampling": asdict(sampling)})["replies"]
        else:
            if not all(side.is_remote or side.is_other_base for side in sides):
                services.bases.engine(progress.base)
            progress.end()
            told = partial(_written, progress, "Turn", len(options.ask))
            replies = all_replies(services.compare, sides, options.ask, sampling, told)
            progress.end()
    wrong = "\n".join(f"{reply['side']}: {reply['error']}" for reply in replies if reply.get("error"))
    if wrong:
        print(wrong, file=sys.stderr)
    text = "\n\n".join(
        f"[{reply['side']}] {reply['prompt_tokens']} in, {reply['completion_tokens']} out"
        f"{', {} of them thought'.format(reply['thought_tokens']) if reply.get('thought_tokens') else ''}"
        f", {reply['seconds']:.1f} s\n{reply['text']}"
        for reply in replies
        if not reply.get("error")
    )
    return {"replies": replies} | ({"error": wrong} if wrong else {}), text, 1 if wrong else 0


def _written(progress: Progress, what: str, of: int, at: int, tokens: int) -> None:
    progress.say(f"{what} {at + 1} of {of}: {tokens} tokens written")


def replay(settings: Settings, options: Namespace) -> Outcome:
    saved = _read(Path(options.file))
    services, progress = services_for(settings, options.base), Progress()
    with owned_or_served(settings) as home:
        if home is None:
            found = [call(settings, "/internal/replay", {"stamp": one.stamp, "text": one.text}) for one in saved]
        else:
            services.bases.resolve(progress.base)
            for one in saved:
                services.replay.check(one)  # what cannot be the same is refused before anything is loaded
            services.bases.engine(progress.base)
            progress.end()
            written = partial(_written, progress, "Reply", len(saved))
            found = [services.replay.again(one, partial(written, at)) for at, one in enumerate(saved)]
            progress.end()
    return together(found), "\n\n".join(_words(one, result) for one, result in zip(saved, found, strict=True)), 0


def _read(path: Path) -> list[Saved]:
    """Raises InputError when it is no JSON, or holds no stamp."""
    try:
        if path.stat().st_size > FILE_LIMIT_BYTES:
            limit = f"{FILE_LIMIT_BYTES // 1_000_000} MB"
            raise InputError(f"{path} is larger than {limit}. Save the replies to be replayed in a smaller file.")
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        instead = "Name a saved reply, such as what `compare --json` printed."
        raise InputError(f"{path} cannot be read: {error.strerror}. {instead}") from error
    except (ValueError, RecursionError) as error:
        instead = "Save what `compare --json` or /v1 gave, and nothing else."
        raise InputError(f"{path} is not JSON ({error}). {instead}") from error
    return read_saved(value)


def _words(saved: Saved, result: dict[str, Any]) -> str:
    text, at = result["text"], result["first_difference"]
    if result["same"] is None or saved.text is None:
        verdict = f"The file holds no text to compare with. The stamp gives:\n{text}"
    elif result["same"]:
        verdict = f"The same text again, {len(text)} characters."
    else:
        shown = slice(max(0, at - AROUND), at + AROUND)
        first = f"Not the same: character {at + 1} is the first that differs."
        verdict = f"{first}\n  saved: {saved.text[shown]!r}\n  now:   {text[shown]!r}"
    return "\n".join([f"[{saved.name}] {verdict}" if saved.name else verdict, *result["notes"]])


SHOWN = 5
"""Rows that differ, in words; --json has all."""


def handover(settings: Settings, options: Namespace) -> Outcome:
    """Files with --out or without --url; with --url the held-out rows are compared."""
    services, progress = services_for(settings, options.base), Progress()
    files, lines = list[str](), list[str]()
    if options.out or not options.url:
        target = Path(options.out or f"{options.adapter}-{options.to}").expanduser().absolute()
        services.bases.resolve(progress.base)
        told = progress.share("Writing")
        for step in services.exporter.export(options.adapter, options.to, target=target):
            progress.say(step.phase)
            told(step.share)
        progress.end()
        files = sorted(str(file) for file in target.rglob("*") if file.is_file())
        lines = [f"Written to {target}; its README.md says what to run."]
    found: dict[str, Any] = {"files": files, "same": None, "differences": [], "pairs": []}
    if options.url:
        rows = Path(options.rows) if options.rows else None
        asked = Handover(options.adapter, options.url, rows, options.limit)
        compared = _compared(settings, services, asked, progress, agree=options.send)
        about = asdict(compared)
        found |= about
        lines.append(compared.sentence)
        for one in compared.differences[:SHOWN]:
            lines.append(f"row {one['row']}: {one['reason']}\n  ours:   {one['ours']!r}\n  theirs: {one['theirs']!r}")
    return found, "\n".join(lines), 0


def _compared(settings: Settings, services: Services, asked: Handover, progress: Progress, *, agree: bool) -> Compared:
    """Here, or in the app that serves this home."""
    services.bases.resolve(progress.base)
    sent = agreed(services.handover.leaving(asked), agree)
    asked = replace(asked, send=sent)
    with owned_or_served(settings) as home:
        if home is None:
            progress.say("The app that serves this home asks both", always=True)
            step = Step("")
            with closing(in_app(settings, "/internal/handover", asked.as_json(), step_from)) as steps:
                for step in steps:
                    progress.say(step.words)
            progress.end()
            if step.result is None:
                raise RunFailedError(step.error)
            return step.result
        services.bases.engine(progress.base)
        progress.end()
        compared = services.handover.result(asked, lambda step: progress.say(step.words))
        progress.end()
        return compared
