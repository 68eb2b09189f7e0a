"""``adapters``: list, import, export, remove. Imports torch to blend only; merging does in a process of its own."""

from __future__ import annotations

import os
from argparse import Namespace
from pathlib import Path
from typing import Any

from playground.cli.arguments import weights_of
from playground.cli.common import Outcome, Progress
from playground.errors import InputError
from playground.library.card import AdapterCard
from playground.services import build_services
from playground.settings import Settings


def adapters(settings: Settings, options: Namespace) -> Outcome:
    service = build_services(settings).adapters
    if options.action == "import":
        card = service.import_file(Path(options.path))
        said = [f"Imported as {card.id}.", *(f"{note[0].upper()}{note[1:]}." for note in card.notes)]
        return {"adapters": [_json(card)], "notes": list(card.notes)}, "\n".join(said), 0
    if options.action == "export":
        if options.format != "peft":
            return _converted(settings, options)
        folder = service.export_folder(options.id, Path(options.dir))
        return {"adapters": [_json(service.get(options.id))], "folder": str(folder)}, f"Written to {folder}.", 0
    if options.action == "blend":
        card = service.blend(weights_of(options.parts), options.how, options.name)
        return {"adapters": [_json(card)]}, f"Blended as {card.id}.", 0
    if options.action == "push":
        token = os.environ.get("HF_TOKEN", "")
        if not token:
            raise InputError("Set HF_TOKEN to a token of yours that may write; it is made in the hub's settings.")
        address = build_services(settings).pusher.push(options.id, options.repo, token, private=not options.public)
        return {"adapters": [_json(service.get(options.id))], "address": address}, f"It is at {address}", 0
    if options.action == "remove":
        card = service.get(options.id)
        service.remove(options.id)
        return {"adapters": [_json(card)]}, f"{card.id} is deleted.", 0
    cards = [row.card for row in service.list()]
    text = "\n".join(_row(card) for card in cards) or "No adapters yet: train one or import a PEFT folder."
    return {"adapters": [_json(card) for card in cards]}, text, 0


def _converted(settings: Settings, options: Namespace) -> Outcome:
    """Merged, or GGUF: into DIR as a folder, or as DIR/ID.gguf."""
    services, target, progress = build_services(settings), Path(options.dir).expanduser().absolute(), Progress()
    if options.format == "gguf":
        target.mkdir(parents=True, exist_ok=True)
        target = target / f"{options.id}.gguf"
    services.bases.resolve(progress.base)
    progress.end()
    for step in services.exporter.export(options.id, options.format, target=target):
        progress.say(step.phase)
    progress.end()
    return {"adapters": [_json(services.adapters.get(options.id))], "folder": str(target)}, f"Written to {target}.", 0


def _json(card: AdapterCard) -> dict[str, Any]:
    return {name: getattr(card, name) for name in ("id", "name", "method", "base", "rank", "bytes", "sha256")}


def _row(card: AdapterCard) -> str:
    rank = f"r{card.rank}" if card.rank else ""
    return f"{card.id:<28}  {card.method:<6} {rank:<4}  {card.bytes / 1e6:6.1f} MB  {card.base}"
