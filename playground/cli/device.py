"""``status``, ``doctor``, ``demo``, ``serve``, ``endpoints`` and ``adapters``. Looking never imports torch; blending
does."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from argparse import Namespace
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from playground.chat.demo import DemoState
from playground.cli.common import Outcome, Progress, call, services_for, weights_of
from playground.errors import EndpointError, InputError, PlaygroundError
from playground.library.adapters import AdapterCard
from playground.models.vllm_engine import look_at
from playground.plain import and_left, plural
from playground.services import Services, build_services
from playground.settings import Settings
from playground.workspace.visitors import WAIT_S, Home, HomeTaken

LOOK_S = 5.0
"""How long the first look at a cluster may take."""
PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "datasets", "pandas", "evaluate", "gradio")


def status(settings: Settings, options: Namespace) -> Outcome:
    """The state of the app that serves this home, or of the device when none does, and what lies on disk."""
    services = build_services(settings)
    state, folders, free = _state(settings, services), services.storage.folders(), services.storage.free_bytes()
    state["disk"] = {"free_bytes": free, "folders": folders}
    lines = [
        f"{state['device']}: {state['used_bytes'] / 1e9:.1f} of {state['budget_bytes'] / 1e9:.1f} GB in use",
        *[f"  {part['name']}: {part['bytes'] / 1e6:.0f} MB" for part in state["parts"] if part["bytes"]],
        *[
            f"Card {at}: {one['name']}: {one['used_bytes'] / 1e9:.1f} of {one['budget_bytes'] / 1e9:.1f} GB in use"
            for at, one in enumerate(state["cards"][1:], 2)
        ],
        *[f"  running: {lease['label']}" for lease in state["leases"]],
        *[f"  waiting: {item['label']} ({item['position']})" for item in state["queue"]],
        *_cluster(state.get("cluster")),
        *_engine(settings, state),
        f"Disk: {sum(folders.values()) / 1e9:.1f} GB in {settings.home}, {free / 1e9:.1f} GB free",
        *[f"  {name}: {held / 1e6:.1f} MB" for name, held in folders.items()],
    ]
    return state, "\n".join(lines), 0


def _engine(settings: Settings, found: dict[str, Any]) -> list[str]:
    """The server that computes replies, where that is not this process; noted in ``found``, too."""
    if not settings.engine:
        return []
    answers, words = look_at(settings.engine)
    found["engine"] = {"address": settings.engine, "answers": answers, "message": words}
    return [f"Engine: {words}"]


def _cluster(state: dict[str, Any] | None) -> list[str]:
    """Where runs train, where that is not here."""
    if state is None:
        return []
    if state["message"] or not state["nodes"]:
        return [f"Cluster {state['address']}: {state['message'] or 'it has not answered yet'}"]
    used = " and ".join(
        f"{state['used'].get(kind, 0):g} of {state[kind]:g} {kind.upper().replace('S', 's')}"
        for kind in ("cpus", "gpus")
        if state[kind]
    )
    lost = f", {state['lost']} lost" if state["lost"] else ""
    nodes = [f"  {node['name']}: {node['cpus']:g} CPUs, {node['gpus']:g} GPUs" for node in state["nodes"]]
    return [f"Cluster {state['address']}: {used} in use, nodes: {len(nodes)}{lost}", *nodes]


def _state(settings: Settings, services: Services) -> dict[str, Any]:
    """As the app that serves this home tells it, or as it is found from here, also while a command works in it."""
    try:
        home = Home.take(settings)
    except HomeTaken as taken:
        if taken.url:
            return call(settings, "/internal/status")
        home = None
    try:
        if services.training.cluster is not None:
            services.training.cluster.status(LOOK_S)
        services.training.tick()  # finds the workers that live; runs that another process supervises are left alone
        return services.device.status()
    finally:
        if home is not None:
            home.release()


def doctor(settings: Settings, options: Namespace) -> Outcome:
    """What is here, what is missing and how to mend it; prepares the base unless ``--offline``."""
    services, progress = services_for(settings, options.base), Progress()
    missing: list[dict[str, str]] = []
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            missing.append({"what": f"the package {package}", "mend": "pip install -r requirements.txt"})
    code = 1 if missing else 0
    base: dict[str, Any] | None = None
    try:
        found = services.bases.resolve(progress.base, offline=options.offline)
        base = {"id": found.id, "path": str(found.path), "fingerprint": found.fingerprint, "licence": found.licence}
    except PlaygroundError as error:
        if not options.offline:
            raise
        missing.append({"what": str(error), "mend": "python -m playground doctor"})
    progress.end()
    here, precision = services.manager.device, services.bases.precision
    computing = _torch(precision.of(Path(base["path"])) if base else settings.precision)
    about: dict[str, Any] = {}
    if (ray := services.training.cluster) is not None:
        about |= {"cluster": ray.status(LOOK_S), "storage": ray.storage()}
    stored = about.get("storage")
    lines = [
        f"Device: {here.name}, computing in {computing['dtype']} with {plural(computing['threads'], 'thread')}",
        *([f"Precision: {precision.words}"] if precision.words else []),
        f"Memory: {here.free_bytes / 1e9:.1f} of {here.total_bytes / 1e9:.1f} GB free",
        f"Home: {settings.home}",
        f"Base: {base['id']} in {base['path']}, fingerprint {base['fingerprint']}" if base else "Base: not prepared",
        *_engine(settings, about),
        *_cluster(about.get("cluster")),
        *([f"Storage {stored['address']}: {stored['fault'] or 'it takes files'}"] if stored else []),
        "Packages: " + ", ".join(f"{name} {version}" for name, version in versions.items()),
        *[f"Missing: {item['what']} Mend it with: {item['mend']}" for item in missing],
    ]
    code = code or int(not about.get("engine", {"answers": True})["answers"] or bool(stored and stored["fault"]))
    return {**computing, **about, "base": base, "versions": versions, "missing": missing}, "\n".join(lines), code


def _torch(precision: str) -> dict[str, Any]:
    try:
        import torch

        from playground.engine.load import pick_device
    except ImportError:
        return {"device": "unknown", "dtype": "unknown", "threads": 0}
    device, dtype = pick_device(precision)
    return {"device": str(device), "dtype": str(dtype).removeprefix("torch."), "threads": torch.get_num_threads()}


def demo(settings: Settings, options: Namespace) -> Outcome:
    """Train on the hospital examples, then measure base + prompt against the tuned model on rows neither has seen."""
    services, progress, started = services_for(settings), Progress(), time.monotonic()
    home = Home.take(settings, WAIT_S)
    try:
        services.bases.engine(progress.base)
        services.training.start_supervisor()
        state = services.demo.play(lambda now: progress.say(_line(now)))
        progress.end()
    finally:
        services.close()
        home.release()
    seconds = round(time.monotonic() - started, 1)
    lines = [f"{'':<24}{'format kept':>14}{'content right':>15}{'tokens in':>12}{'tokens out':>12}{'s a reply':>12}"]
    for row in state.table:
        figures = f"{row.prompt_tokens:>12.0f}{row.completion_tokens:>12.0f}{row.seconds:>12.1f}"
        counts = f"{f'{row.passed} of {row.n}':>14}{f'{row.right} of {row.n}':>15}"
        lines.append(f"{row.name:<24}{counts}{figures}")
    ask = f"The adapter is {state.adapter}: python -m playground compare"
    lines.append(f"Held-out rows, computed just now in {seconds:.0f} s. {ask}")
    asked = "Male, 54, chest tightness, BP 150/95, pulse 102."
    lines.append(f'  --side model=base --side model={state.adapter} --ask "{asked}"')
    found = {"state": state.phase, "run": state.run, "adapter": state.adapter, "seconds": seconds}
    return found | {"rows": [asdict(row) for row in state.table]}, "\n".join(lines), 0


def _line(state: DemoState) -> str:
    now = next((step for step in state.steps if step.state == "now"), None)
    return f"{now.label}: {now.detail}{and_left(state.seconds_left)}" if now else "Measuring"


def serve(settings: Settings, options: Namespace) -> Outcome:
    from playground.serve import serve as run

    run(settings)
    return {}, "", 0


def endpoints(settings: Settings, options: Namespace) -> Outcome:
    """Which servers may answer, whether they can be reached, and at what price; ``test`` asks one for a word, and
    ``remove`` forgets one."""
    services, found, lines = build_services(settings), [], []
    there = services.endpoints
    if options.action == "remove":
        gone = there.remove(options.name)
        return {"removed": gone.name}, f"{gone.name} ({gone.label}) is removed; what it answered stays.", 0
    for one in [there.get(options.name)] if options.action == "test" else there.all():
        prices = {name: value for name, value in asdict(one).items() if name.endswith("_per_million")}
        about: dict[str, Any] = {"name": one.name, "url": one.url, "model": one.model, "prices": prices}
        wrong, said = "", "reachable"
        if options.action == "test":
            try:
                reply = services.client.test(one)
            except EndpointError as error:
                wrong = str(error)
            else:
                about |= {"text": reply.state.text} | reply.stamp
                said = f"answered in {reply.state.seconds:.1f} s: {reply.state.text!r}"
        else:
            wrong = services.client.probe(one)
        found.append(about | {"reachable": not wrong} | ({"error": wrong} if wrong else {}))
        lines.append(f"{one.name:<20}  {one.label}, {one.price_words}: {wrong or said}")
    failed = options.action == "test" and not found[0]["reachable"]
    none = "No endpoints yet: endpoints.toml in the home names them, a table each: [NAME], then url and model."
    return {"endpoints": found}, "\n".join(lines) or none, int(failed)


def adapters(settings: Settings, options: Namespace) -> Outcome:
    """List, import, export, blend, push or remove."""
    services = services_for(settings, getattr(options, "base", None))
    service, found = services.adapters, dict[str, Any]()
    match options.action:
        case "import":
            progress = Progress()
            card = service.import_named(options.path, partial(_fetched, progress, options.path))
            progress.end()
            found, back = {"notes": list(card.notes)}, services.handover.returned(card)
            notes = [*card.notes, *(back.words if back is not None else ())]
            said = "\n".join([f"Imported as {card.id}.", *(f"{note[0].upper()}{note[1:]}." for note in notes)])
            if back is not None and back.held_out is not None:
                found |= {"returned": list(back.words), "held_out": str(back.held_out), "verdict": back.verdict}
                said += f"\nJudge it on those: {back.verdict}"
        case "export":
            folder = _exported(services, options)
            card, found, said = service.get(options.id), {"folder": str(folder)}, f"Written to {folder}."
        case "blend":
            card = service.blend(weights_of(options.parts), options.how, options.name)
            said = f"Blended as {card.id}."
        case "push":
            if not (token := os.environ.get("HF_TOKEN", "")):
                raise InputError("Set HF_TOKEN to a token of yours that may write; it is made in the hub's settings.")
            address = services.pusher.push(options.id, options.repo, token, private=not options.public)
            card, found, said = service.get(options.id), {"address": address}, f"It is at {address}"
        case "remove":
            card = service.get(options.id)
            service.remove(card.id)
            said = f"{card.id} is deleted."
        case _:
            cards = [row.card for row in service.list()]
            said = "\n".join(map(_row, cards)) or "No adapters yet: train one or import a PEFT folder."
            return {"adapters": [_json(card) for card in cards]}, said, 0
    return {"adapters": [_json(card)], **found}, said, 0


def _fetched(progress: Progress, name: str, phase: str, done: int, total: int) -> None:
    so_far = f", {done / 1e6:.1f} of {total / 1e6:.1f} MB" if total else ""
    progress.say(f"{phase.capitalize()} {name}{so_far}")


def _exported(services: Services, options: Namespace) -> Path:
    """As a PEFT folder; merged into DIR as a folder; GGUF as DIR/ID.gguf."""
    target, progress = Path(options.dir), Progress()
    if options.format == "peft":
        return services.adapters.export_folder(options.id, target)
    target = target.expanduser().absolute()
    if options.format == "gguf":
        target.mkdir(parents=True, exist_ok=True)
        target /= f"{options.id}.gguf"
    services.bases.resolve(progress.base)
    progress.end()
    for step in services.exporter.export(options.id, options.format, target=target):
        progress.say(step.phase)
    progress.end()
    return target


def _json(card: AdapterCard) -> dict[str, Any]:
    return {name: getattr(card, name) for name in ("id", "name", "method", "base", "rank", "bytes", "sha256")}


def _row(card: AdapterCard) -> str:
    rank = f"r{card.rank}" if card.rank else ""
    return f"{card.id:<28}  {card.method:<6} {rank:<4}  {card.bytes / 1e6:6.1f} MB  {card.base}"
