"""``serve``: the web app, as ``python app.py`` opens it."""

from __future__ import annotations

from typing import Any

from playground.settings import Settings


def serve(settings: Settings, options: Any) -> tuple[dict[str, Any], str, int]:
    from playground.serve import serve as run

    run(settings)
    return {}, "", 0
