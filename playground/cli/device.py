"""``status``, ``doctor``, ``demo`` and ``serve``."""

from __future__ import annotations

import importlib.metadata
import platform
import time
from argparse import Namespace
from dataclasses import asdict
from typing import Any

from playground.chat.demo import DemoState
from playground.cli.common import Outcome, Progress, call, services_for
from playground.errors import PlaygroundError
from playground.services import Services, build_services
from playground.settings import Settings
from playground.workspace.visitors import Home, HomeTaken

PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "datasets", "pandas", "evaluate", "gradio")


def status(settings: Settings, options: Namespace) -> Outcome:
    """The state of the app that serves this home, or of the device when none does, and what lies on disk. Never imports
    torch."""
    services = build_services(settings)
    state = _state(settings, services)
    disk = services.storage.folders()
    state["disk"] = {"free_bytes": services.storage.free_bytes(), "folders": disk}
    lines = [
        f"{state['device']}: {state['used_bytes'] / 1e9:.1f} of {state['budget_bytes'] / 1e9:.1f} GB in use",
        *[f"  {part['name']}: {part['bytes'] / 1e6:.0f} MB" for part in state["parts"] if part["bytes"]],
        *[f"  running: {lease['label']}" for lease in state["leases"]],
        *[f"  waiting: {item['label']} ({item['position']})" for item in state["queue"]],
        f"Disk: {sum(disk.values()) / 1e9:.1f} GB in {settings.home}, {state['disk']['free_bytes'] / 1e9:.1f} GB free",
        *[f"  {name}: {held / 1e6:.1f} MB" for name, held in disk.items()],
    ]
    return state, "\n".join(lines), 0


def _state(settings: Settings, services: Services) -> dict[str, Any]:
    """As the app that serves this home tells it; where none does, as it is found from here, also while a command works
    in it."""
    try:
        home = Home.take(settings)
    except HomeTaken as taken:
        if taken.url:
            return call(settings, "/internal/status")
        home = None
    try:
        services.training.tick()  # finds the workers that live; runs that another process supervises are left alone
        return services.device.status()
    finally:
        if home is not None:
            home.release()


def doctor(settings: Settings, options: Namespace) -> Outcome:
    """What is here, what is missing and how to mend it; prepares the base unless ``--offline``."""
    services = services_for(settings, options.base)
    progress = Progress()
    missing: list[dict[str, str]] = []
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            missing.append({"what": f"the package {package}", "mend": "pip install -r requirements.txt"})
    base: dict[str, Any] | None = None
    try:
        found = services.bases.resolve(progress.base, offline=options.offline)
        base = {"id": found.id, "path": str(found.path), "fingerprint": found.fingerprint, "licence": found.licence}
    except PlaygroundError as error:
        if not options.offline:
            raise
        missing.append({"what": str(error), "mend": "python -m playground doctor"})
    progress.end()
    device, dtype, threads = _torch()
    found_json = {
        "device": device,
        "dtype": dtype,
        "threads": threads,
        "base": base,
        "versions": versions,
        "missing": missing,
    }
    lines = [
        f"Device: {services.manager.device.name}, computing in {dtype} with {threads} threads",
        (
            f"Memory: {services.manager.device.free_bytes / 1e9:.1f} of {services.manager.device.total_bytes / 1e9:.1f}"
            " GB free"
        ),
        f"Home: {settings.home}",
        f"Base: {base['id']} in {base['path']}, fingerprint {base['fingerprint']}" if base else "Base: not prepared",
        "Packages: " + ", ".join(f"{name} {version}" for name, version in versions.items()),
        *[f"Missing: {item['what']} Mend it with: {item['mend']}" for item in missing],
    ]
    return found_json, "\n".join(lines), 1 if any("package" in item["what"] for item in missing) else 0


def _torch() -> tuple[str, str, int]:
    try:
        import torch

        from playground.engine.load import pick_device
    except ImportError:
        return "unknown", "unknown", 0
    device, dtype = pick_device()
    return str(device), str(dtype).removeprefix("torch."), torch.get_num_threads()


def demo(settings: Settings, options: Namespace) -> Outcome:
    """Train on the hospital examples, then measure base + prompt against the tuned model on rows neither has seen."""
    services = services_for(settings)
    progress = Progress()
    started = time.monotonic()
    home = Home.take_patiently(settings)
    try:
        services.bases.engine(progress.base)
        services.training.start_supervisor()
        state = services.demo.play(lambda now: progress.say(_line(now)))
        progress.end()
    finally:
        services.close()
        home.release()
    seconds = round(time.monotonic() - started, 1)
    rows = [asdict(row) for row in state.table]
    lines = [f"{'':<24}{'format kept':>14}{'tokens in':>12}{'tokens out':>12}{'s a reply':>12}"]
    for row in state.table:
        kept = f"{row.passed} of {row.n}"
        lines.append(
            f"{row.name:<24}{kept:>14}{row.prompt_tokens:>12.0f}{row.completion_tokens:>12.0f}{row.seconds:>12.1f}"
        )
    lines.append(
        f"Held-out rows, computed just now in {seconds:.0f} s. The adapter is {state.adapter}: python -m playground"
        " compare"
    )
    lines.append(
        f'  --side model=base --side model={state.adapter} --ask "Male, 54, chest tightness, BP 150/95, pulse 102."'
    )
    return (
        {"state": state.phase, "run": state.run, "adapter": state.adapter, "seconds": seconds, "rows": rows},
        "\n".join(lines),
        0,
    )


def _line(state: DemoState) -> str:
    now = next((step for step in state.steps if step.state == "now"), None)
    left = f", about {state.seconds_left:.0f} s left" if state.seconds_left else ""
    return f"{now.label}: {now.detail}{left}" if now else "Measuring"


def serve(settings: Settings, options: Namespace) -> Outcome:
    from playground.serve import serve as run

    run(settings)
    return {}, "", 0
