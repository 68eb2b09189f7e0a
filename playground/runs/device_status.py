"""What the device holds, who uses it and who waits: for the sidebar, the command line and /status alike."""

from __future__ import annotations

from typing import Any

from playground.gpu.manager import DeviceManager
from playground.library.bases import label_of
from playground.models.bases import BaseService
from playground.runs.service import TrainingService


class DeviceService:
    """Reads the session manager; changes nothing."""

    def __init__(
        self, manager: DeviceManager, bases: BaseService, training: TrainingService, shared: bool = False
    ) -> None:
        self._manager, self._bases, self._training, self._shared = manager, bases, training, shared

    def status(self) -> dict[str, Any]:
        """Plain values: bytes, seconds and words; where the app is shared, without the names that people gave."""
        manager, state = self._manager, self._bases.state()
        residents, leases = manager.residents(), manager.leases()
        loaded = self._bases.loaded
        parts: list[dict[str, Any]] = []

        def part(name: str, held: int, kind: str) -> None:
            parts.append({"name": name, "bytes": held, "kind": kind})

        for one in residents:
            on_top = loaded.adapter_bytes + loaded.cache_bytes if loaded is not None and one.name == state.spec else 0
            part(f"Base {self._public(label_of(one.name))}", max(0, one.bytes - on_top), "base")
        if loaded is not None:
            count = len(loaded.attached())
            part(f"{count} {'adapter' if count == 1 else 'adapters'} attached", loaded.adapter_bytes, "adapters")
            if loaded.cache_bytes:
                part("Prefix cache", loaded.cache_bytes, "cache")
        for training, name, kind in ((False, "Replies in flight", "replies"), (True, "Training", "training")):
            held = sum(lease.bytes for lease in leases if (lease.lane == "train") == training)
            if held or not training:
                part(name, held, kind)
        return {
            "device": manager.device.name,
            "precision": self._precision(),
            "budget_bytes": manager.budget_bytes,
            "used_bytes": manager.used_bytes,
            "parts": parts,
            "residents": [
                {"name": self._public(one.name), "bytes": one.bytes, "state": one.state} for one in residents
            ],
            "leases": [
                {"lane": lease.lane, "label": self._public(lease.label), "bytes": lease.bytes} for lease in leases
            ],
            "queue": [
                {"position": place, "label": self._public(request.label), "wait_s": round(request.wait_s, 1)}
                for place, request in enumerate(manager.queue(), 1)
            ],
            "base": {
                "id": state.spec,
                "phase": state.phase,
                "message": state.message,
                "fingerprint": state.fingerprint,
                "path": loaded.path if loaded is not None else "",
            },
        }

    def counts(self) -> dict[str, Any]:
        """What anybody may see where the app is shared: no names."""
        whole = self.status()
        kept = {name: whole[name] for name in ("device", "budget_bytes", "used_bytes")}
        return kept | {name: len(whole[name]) for name in ("residents", "leases", "queue")}

    def line(self, owner: str = "local") -> str:
        """The status in one line."""
        state = self._bases.state()
        if state.phase == "failed":
            return "No base"
        if state.phase != "ready":
            return state.message
        leases = self._manager.leases()
        if any(lease.lane == "train" for lease in leases):
            running = next((run for run in self._training.runs(owner) if run.state == "RUNNING"), None)
            left = running.seconds_left if running else None
            return f"Training, {_duration(left)} left" if left else "Training"
        waiting = len(self._manager.queue())
        if leases:
            return f"Answering, {waiting} waiting" if waiting else "Answering"
        return "Device: idle"

    def _public(self, label: str) -> str:
        """``Training my run`` -> ``Training``, ``full my_model`` -> ``full`` where others would read it."""
        named = self._shared and label.startswith(("Training ", "full "))
        return label.partition(" ")[0] if named else label

    def _precision(self) -> str:
        loaded = self._bases.loaded
        names = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
        return names.get(str(loaded.loaded.dtype).removeprefix("torch."), "") if loaded is not None else ""


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
