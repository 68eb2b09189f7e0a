"""``adapters``: list, import, export, remove. Never imports torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from playground.errors import InputError
from playground.library.card import AdapterCard
from playground.services.container import Services
from playground.settings import Settings


def adapters(settings: Settings, options: Any) -> tuple[dict[str, Any], str, int]:
    service = Services(settings).adapters
    if options.action == "import":
        card = service.import_file(Path(options.path))
        return {"adapters": [_json(card)]}, f"Imported as {card.id}.", 0
    if options.action == "export":
        if options.format != "peft":
            raise InputError(f"The format {options.format!r} cannot be written yet. There is: peft.")
        folder = service.export_folder(options.id, Path(options.dir))
        return {"adapters": [_json(service.get(options.id))], "folder": str(folder)}, f"Written to {folder}.", 0
    if options.action == "remove":
        card = service.get(options.id)
        service.remove(options.id)
        return {"adapters": [_json(card)]}, f"{card.id} is deleted.", 0
    cards = [row.card for row in service.list()]
    text = "\n".join(_row(card) for card in cards) or "No adapters yet: train one or import a PEFT folder."
    return {"adapters": [_json(card) for card in cards]}, text, 0


def _json(card: AdapterCard) -> dict[str, Any]:
    return {name: getattr(card, name) for name in ("id", "name", "method", "base", "rank", "bytes", "sha256")}


def _row(card: AdapterCard) -> str:
    rank = f"r{card.rank}" if card.rank else ""
    return f"{card.id:<28}  {card.method:<6} {rank:<4}  {card.bytes / 1e6:6.1f} MB  {card.base}"
