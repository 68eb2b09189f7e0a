"""``status`` and ``doctor``."""

from __future__ import annotations

import importlib.metadata
import platform
from typing import Any

from playground.cli.common import Progress, services_for
from playground.errors import PlaygroundError
from playground.services.container import Services
from playground.services.home import Home, HomeTaken
from playground.settings import Settings

PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "datasets", "pandas", "evaluate", "gradio")


def status(settings: Settings, options: Any) -> tuple[dict[str, Any], str, int]:
    """The state of the app that serves this home, or of the device when none does, and what lies on disk. Never imports torch."""
    services = Services(settings)
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
    """As the app that serves this home tells it; where none does, as it is found from here, also while a command works in it."""
    try:
        home = Home.take(settings)
    except HomeTaken as taken:
        if taken.url:
            from playground.cli.served import call

            return call(settings, "/internal/status")
        home = None
    try:
        services.training.tick()  # finds the workers that live; runs that another process looks after are left alone
        return services.device.status()
    finally:
        if home is not None:
            home.release()


def doctor(settings: Settings, options: Any) -> tuple[dict[str, Any], str, int]:
    """What is here, what is missing and how to mend it; prepares the base unless told to stay offline."""
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
    found_json = {"device": device, "dtype": dtype, "threads": threads, "base": base, "versions": versions, "missing": missing}
    lines = [
        f"Device: {services.manager.device.name}, computing in {dtype} with {threads} threads",
        f"Memory: {services.manager.device.free_bytes / 1e9:.1f} of {services.manager.device.total_bytes / 1e9:.1f} GB free",
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
