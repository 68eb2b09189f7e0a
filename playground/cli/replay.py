"""``replay``: a saved reply once more, from its stamp."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from playground.cli.common import Progress, owned_or_served, services_for
from playground.errors import InputError
from playground.services.replay import Saved, read_saved, together
from playground.settings import Settings

FILE_LIMIT_BYTES = 64_000_000
AROUND = 20
"""Characters shown before and after the first difference."""


def replay(settings: Settings, options: Any) -> tuple[dict[str, Any], str, int]:
    saved = _read(Path(options.file))
    services = services_for(settings, options.base)
    progress = Progress()
    with owned_or_served(settings) as home:
        if home is None:
            from playground.cli.served import replay_in_app

            found = [replay_in_app(settings, one) for one in saved]
        else:
            services.bases.resolve(progress.base)
            for one in saved:
                services.replay.check(one)  # what cannot be the same is told before anything is loaded
            services.bases.engine(progress.base)
            progress.end()
            of = len(saved)
            found = [
                services.replay.again(one, lambda tokens, at=at: progress.say(f"Reply {at} of {of}: {tokens} tokens written"))  # type: ignore[misc]
                for at, one in enumerate(saved, 1)
            ]
            progress.end()
    return together(found), "\n\n".join(_words(one, result) for one, result in zip(saved, found, strict=True)), 0


def _read(path: Path) -> list[Saved]:
    """Raises InputError when it is no JSON, or holds no stamp."""
    try:
        if path.stat().st_size > FILE_LIMIT_BYTES:
            raise InputError(
                f"{path} is larger than {FILE_LIMIT_BYTES // 1_000_000} MB. Save the replies to be replayed in a smaller file."
            )
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"{path} cannot be read: {error.strerror}. Name a saved reply, such as what `compare --json` printed."
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON ({error}). Save what `compare --json` or /v1 gave, and nothing else.") from error
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
