"""``check``: what a file can train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from playground.cli.arguments import mapping_of
from playground.cli.common import Progress, services_for
from playground.data.check import as_json, as_text
from playground.services.sessions import LOCAL
from playground.settings import Settings


def check(settings: Settings, options: Any) -> tuple[dict[str, Any], str, int]:
    services = services_for(settings, options.base)
    checked = services.data.check(Path(options.file), mapping_of(options.map), LOCAL)
    progress = Progress()
    services.bases.resolve(progress.base)
    progress.end()
    tokens = services.data.tokens(checked, options.max_tokens)
    return as_json(checked, tokens), as_text(checked, tokens), 0
