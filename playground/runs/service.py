"""Training runs from the request to their end, and what the device holds meanwhile."""

from __future__ import annotations

import json
import secrets
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from playground.data.editing import good_rows_jsonl
from playground.db import ENDED, RunRow, RunStore
from playground.errors import BusyError, DiskFullError, InputError, NotFoundError
from playground.gpu.manager import DeviceManager
from playground.library.adapters import AdapterLibrary
from playground.library.bases import label_of
from playground.library.card import RECORD
from playground.methods.method import Method
from playground.models.adapters import live_id
from playground.models.bases import PREFIX, BaseService
from playground.runs import recipe
from playground.runs.cluster import RayWorkers
from playground.runs.planner import Plan, Planner, Resolved
from playground.runs.progress import RunView, ordinal, write_curves
from playground.runs.request import Preset, TrainRequest, presets_for
from playground.runs.runner import Workers
from playground.runs.supervisor import Supervisor
from playground.settings import Settings
from playground.training import processes
from playground.training.failure import DISK, disk_words, reason_of
from playground.training.run_files import marked_step
from playground.training.spec import RunSpec
from playground.workspace.examples import DataService
from playground.workspace.visitors import Home, HomeTaken, Quota

__all__ = ["Plan", "Preset", "TrainRequest", "TrainingService"]

CURVE_BYTES = 1_000_000
"""Room on disk that a file of curves is counted with before it is written."""


class TrainingService:
    """One per process. Every process may look, move and cancel; only the home's owner starts queued runs."""

    def __init__(
        self,
        settings: Settings,
        store: RunStore,
        manager: DeviceManager,
        bases: BaseService,
        data: DataService,
        library: AdapterLibrary,
        quota: Quota,
        workers: Workers = processes,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.store, self._data = store, data
        self._settings, self._quota, self._workers, self._bases, self._clock = settings, quota, workers, bases, clock
        self.cluster = workers if isinstance(workers, RayWorkers) else None
        self._home: Home | None = None
        self._planner = Planner(settings, manager, bases, data, store, library, quota, workers)
        self._supervisor = Supervisor(settings, store, manager, self._planner.remedy, workers, clock)

    def methods(self) -> list[Method]:
        return self._planner.methods()

    def presets(self, rows: int) -> list[Preset]:
        return presets_for(rows, gpu=self._planner.gpu)

    def plan(self, request: TrainRequest) -> Plan:
        """What the run will need and whether it can start. Raises InputError."""
        return self._planner.plan(self._planner.resolve(request))

    def recipe(self, request: TrainRequest, kind: str) -> str:
        """The run's settings in a form of ``recipe.KINDS``. Raises InputError."""
        resolved = self._planner.resolve(request)
        return self._recipe(resolved, self._planner.plan(resolved), kind)

    def _recipe(self, resolved: Resolved, plan: Plan, kind: str) -> str:
        def peft_config() -> recipe.PeftConfig | None:
            return resolved.method.peft_config(self._bases.weights(), plan.rank, resolved.request.options)

        return recipe.written(kind, resolved.request, plan, resolved.objective, self._bases.spec, peft_config)

    def bundle(self, request: TrainRequest, kind: str) -> dict[str, str]:
        """The form's file by its name; where it trains elsewhere all that it needs there: the script it launches, the
        rows to learn from and to choose by, and the manifest. The verdict's rows are kept here. Raises InputError."""
        resolved = self._planner.resolve(request)
        plan, checked, parts = self._planner.plan(resolved), resolved.checked, resolved.parts
        text = self._recipe(resolved, plan, kind)
        files = {recipe.KINDS[kind]: text}
        if kind in ("command", "settings"):
            return files
        if kind in recipe.LAUNCHED:
            files[recipe.KINDS["trl"]] = self._recipe(resolved, plan, "trl")
        files[recipe.ROWS] = good_rows_jsonl(checked, parts.train)
        if parts.validation:
            files[recipe.CHOOSING] = good_rows_jsonl(checked, parts.validation)
        kept, numbers = None, frozenset(parts.train)
        if parts.test:
            kept = self._data.held_out_file(checked, parts.test, Path(request.file).name, request.owner)
        spec = self._planner.spec(resolved, plan, "", Path(request.file), self._clock())
        learned = [row for row in checked.usable if row.row in numbers]
        template = str(self._bases.tokenizer().chat_template or "")
        about = recipe.manifest(spec, learned, template, kept, len(parts.test))
        return files | {RECORD: json.dumps(about, indent=1) + "\n"}

    def start(self, request: TrainRequest) -> str:
        """Queue a run; returns its id. Raises InputError where it could never start, DiskFullError."""
        resolved = self._planner.resolve(request)
        checked = resolved.checked
        if checked.bad and request.strict:
            first = checked.bad[0]
            words = f"{len(checked.bad)} rows cannot be used, the first is row {first.row}: {first.reason}"
            raise InputError(f"{words} Fix them, or leave out --strict.")
        plan = self._planner.plan(resolved)
        if plan.blocked:
            raise InputError(plan.blocked)
        now = self._clock()
        run = time.strftime("%Y%m%d-%H%M%S-", time.localtime(now)) + secrets.token_hex(2)
        run_dir = self._settings.runs_dir / run
        try:
            run_dir.mkdir(parents=True)
            file = _copied(Path(request.file), run_dir)
            spec = self._planner.spec(resolved, plan, run, file, now)
            if request.docs is not None:
                spec = replace(spec, docs=request.docs.name, docs_path=str(_copied(request.docs, run_dir, "documents")))
            spec.write(run_dir)
            if spec.limit_memory_bytes:
                (run_dir / processes.LOW_MEMORY).touch()
            values = {name: getattr(spec, name) for name in ("run", "owner", "name", "method", "steps", "created_s")}
            self.store.add(state="QUEUED", needs_bytes=plan.memory_bytes, **values)
        except BaseException as error:
            shutil.rmtree(run_dir, ignore_errors=True)
            if isinstance(error, OSError) and reason_of(error) == DISK:
                raise DiskFullError(disk_words(self._settings.home, plan.disk_bytes)) from error
            raise
        self.tick()
        return run

    def runs(self, owner: str = "local") -> list[RunView]:
        """The person's runs, newest first, as they are now."""
        self.tick()
        return [self._view(row) for row in self._mine(owner)]

    def states(self) -> Counter[str]:
        """How many runs of everybody are in each state."""
        return Counter(row.state for row in self.store.all())

    def show(self, run: str, owner: str = "local") -> RunView:
        """Raises NotFoundError."""
        self.tick()
        return self._view(self._own(run, owner))

    def curves(self, run: str, how: str, owner: str = "local") -> Path:
        """A file in a folder that nobody can guess. how: ``csv`` or ``tensorboard``. Raises InputError."""
        view = self.show(run, owner)
        return write_curves(view, self._quota.room(owner, CURVE_BYTES, "The file of curves"), how)

    def move(self, run: str, to: str | int, owner: str = "local") -> None:
        """Change when a waiting run comes: up, down, first, last, or a place from 1. Where the app is shared it passes
        the owner's own runs only. Raises InputError when it is not waiting."""
        row = self._own(run, owner)
        with self._supervisor.lock:
            self.store.move(run, to, row.owner if self._settings.shared else None)
        self.tick()

    def cancel(self, run: str, owner: str = "local", *, keep: bool = False) -> None:
        """Cancel, at any moment. keep: its newest complete checkpoint becomes an adapter."""
        self._own(run, owner)
        with self._supervisor.lock:
            if self.store.update(run, only_from=("QUEUED",), state="CANCELLED", error="Cancelled before it started."):
                self._supervisor.forget(run)
                return
            values = {"state": "STOPPING", "stopping_s": self._clock(), "keep": int(keep)}
            if self.store.update(run, only_from=("RUNNING",), **values):
                row = self.store.get(run)
                if row.pid is not None and self._workers.is_alive(row.pid, row.pid_started_s):
                    self._workers.stop(row.pid, hard=False)
        self.tick()

    def resume(self, run: str, owner: str = "local") -> None:
        """Queue an ended run again, as the last, from its newest complete checkpoint. Raises InputError."""
        row, run_dir = self._own(run, owner), self._settings.runs_dir / run
        if not (run_dir / "run.json").is_file():
            raise InputError(f"The files of {run} are gone; start it anew.")
        if row.state in ENDED and self._settings.is_visitor(owner):
            spec = RunSpec.read(run_dir)
            left = max(0, spec.steps - marked_step(run_dir))
            if refused := self._quota.run_refused(owner, 0, left, spec.estimated_seconds * left / spec.steps):
                raise InputError(refused)
        with self._supervisor.lock:
            if not self.store.requeue(run, ("FAILED", "CANCELLED"), step=marked_step(run_dir)):
                raise InputError(f"{run} is {row.state}; only a FAILED or CANCELLED run can be resumed.")
            self._supervisor.forget(run)
        self.tick()

    def remove(self, run: str, owner: str = "local") -> None:
        """Delete an ended run with its log and checkpoints; its adapter stays. Raises BusyError while it lives."""
        row = self._own(run, owner)
        with self._supervisor.lock:
            if not self.store.remove(row.run, only_from=ENDED):
                raise BusyError(f"{row.name} has not ended. Cancel it first.")
            self._supervisor.forget(row.run)
        shutil.rmtree(self._settings.runs_dir / row.run, ignore_errors=True)

    def follow(self, run: str, owner: str = "local", poll_s: float = 0.5) -> Iterator[RunView]:
        """Its view until it has ended; takes the place of the process that was to start it where that is gone."""
        while True:
            view = self.show(run, owner)
            if view.state == "QUEUED":
                self.take_over()
            yield view
            if view.state in ENDED:
                return
            time.sleep(poll_s)

    def start_supervisor(self) -> None:
        """This process owns the home: it starts queued runs from now on, whether or not anybody looks."""
        self._supervisor.start()

    def take_over(self) -> bool:
        """Own the home from now on, up to ``close``, if nobody does now. Returns whether this process starts runs."""
        if not self._supervisor.owning:
            try:
                self._home = Home.take(self._settings)
            except HomeTaken:
                return False
            self.start_supervisor()
        return True

    def close(self) -> None:
        """Stop supervising; what trains goes on in its own process."""
        self._supervisor.close()
        if self.cluster is not None:
            self.cluster.close()
        if self._home is not None:
            self._home.release()
            self._home = None

    def tick(self) -> None:
        """Bring every run that has not ended to its true state; start what may start, if this process owns the home."""
        self._supervisor.tick()

    def _view(self, row: RunRow) -> RunView:
        run_dir = self._settings.runs_dir / row.run
        with self._supervisor.lock:
            view = self._supervisor.follow(row.run).log.refresh().view(row)
            if row.state == "QUEUED":
                view.place = self._supervisor.place(row.run) if self.cluster is None else 0
                again = "Memory ran out; it is tried once more. " if row.retried else ""
                line = f"{ordinal(view.place)} in line" if view.place else "Waiting for the device"
                view.message = again + (self.cluster.waiting if self.cluster is not None else line)
            elif row.state == "RUNNING":
                view.live = live_id(row, run_dir)
                if self.cluster is not None:
                    waits, where = self.cluster.place(run_dir)
                    view.state = "QUEUED" if waits else view.state
                    view.message = where if waits else ", ".join(part for part in (view.message, where) if part)
            elif row.state in ("FAILED", "CANCELLED"):
                view.resume_step = marked_step(run_dir)
            return view

    def _mine(self, owner: str) -> list[RunRow]:
        """Newest first."""
        return [row for row in self.store.all() if not self._settings.shared or row.owner == owner]

    def _own(self, run: str, owner: str) -> RunRow:
        """Raises NotFoundError, which names the owner's own runs only."""
        mine = self._mine(owner)
        found = next((row for row in mine if row.run == run), None)
        if found is None:
            there = ", ".join(row.run for row in mine[:5]) or "none yet"
            raise NotFoundError(f"There is no run {run[:80]!r}. The newest are: {there}.")
        return found


def _copied(file: Path, run_dir: Path, name: str = "examples") -> Path:
    """A run's own copy of its examples or documents: one file, or the folder of several."""
    if file.is_dir():
        return Path(shutil.copytree(file, run_dir / name))
    return Path(shutil.copyfile(file, run_dir / f"{name}{''.join(file.suffixes[-2:])[-16:]}"))


class DeviceService:
    """Reads the session manager; changes nothing."""

    def __init__(self, manager: DeviceManager, bases: BaseService, training: TrainingService, shared: bool) -> None:
        self._manager, self._bases, self._training, self._shared = manager, bases, training, shared

    @property
    def free_bytes(self) -> int:
        return self._manager.free_bytes

    def status(self) -> dict[str, Any]:
        """Plain values: bytes, seconds and words; where the app is shared, without the names that people gave."""
        manager, state, loaded = self._manager, self._bases.state(), self._bases.loaded
        residents, leases, public = manager.residents(), manager.leases(), self._public
        parts: list[tuple[str, int, str]] = []
        for one in residents:
            on_top = loaded.adapter_bytes + loaded.cache_bytes if loaded is not None and one.name == state.spec else 0
            name = label_of(one.name.removeprefix(PREFIX))
            parts.append((f"Base {public(name)}", max(0, one.bytes - on_top), "base"))
        if loaded is not None:
            count = len(loaded.attached())
            words = f"{count} {'adapter' if count == 1 else 'adapters'} attached"
            parts += [(words, loaded.adapter_bytes, "adapters"), ("Prefix cache", loaded.cache_bytes, "cache")]
        here = [one for one in leases if not one.card]
        trains, replies = (sum(one.bytes for one in here if (one.lane == "train") == yes) for yes in (True, False))
        parts += [("Replies in flight", replies, "replies"), ("Training", trains, "training")]
        return {
            "device": manager.device.name,
            "precision": self._precision(),
            "precision_measured": self._bases.precision.words,
            "budget_bytes": manager.budget_bytes,
            "used_bytes": manager.used_bytes,
            "cards": [{"name": name, "budget_bytes": of, "used_bytes": used} for name, of, used in manager.cards()],
            "parts": [
                {"name": name, "bytes": held, "kind": kind}
                for name, held, kind in parts
                if held or kind not in ("cache", "training")
            ],
            "residents": [{"name": public(one.name), "bytes": one.bytes, "state": one.state} for one in residents],
            "leases": [
                {"lane": one.lane, "label": public(one.label), "bytes": one.bytes, "card": one.card} for one in leases
            ],
            "queue": [
                {"position": place, "label": public(request.label), "wait_s": round(request.wait_s, 1)}
                for place, request in enumerate(manager.queue(), 1)
            ],
            "cluster": self._cluster(),
            "base": {name: getattr(state, name) for name in ("phase", "message", "fingerprint")}
            | {"id": state.spec, "path": loaded.path if loaded is not None else ""},
        }

    def counts(self) -> dict[str, Any]:
        """What anybody may see where the app is shared: no names."""
        whole = self.status()
        kept = {name: whole[name] for name in ("device", "budget_bytes", "used_bytes")}
        return kept | {name: len(whole[name]) for name in ("residents", "leases", "queue")}

    def line(self, owner: str = "local") -> str:
        state, leases = self._bases.state(), self._manager.leases()
        if state.phase != "ready":
            return "No base" if state.phase == "failed" else state.message
        if any(lease.lane == "train" for lease in leases):
            running = next((run for run in self._training.runs(owner) if run.state == "RUNNING"), None)
            left = running.seconds_left if running else None
            return f"Training, {f'{left:.0f} s' if left < 90 else f'{left / 60:.0f} min'} left" if left else "Training"
        if not leases:
            return "Fetching a base" if self._bases.fetching else "Device: idle"
        waiting = len(self._manager.queue())
        return f"Answering, {waiting} waiting" if waiting else "Answering"

    def _cluster(self) -> dict[str, Any] | None:
        """Where the app is shared, without where it is and what its nodes are called."""
        if self._training.cluster is None:
            return None
        found = self._training.cluster.status()
        unnamed = [{**node, "name": f"Node {place}"} for place, node in enumerate(found["nodes"], 1)]
        hidden = {"address": "", "nodes": unnamed, "message": found["message"] and "It does not answer."}
        return found | (hidden if self._shared else {})

    def _public(self, label: str) -> str:
        """``Training my run`` -> ``Training``, ``full my_model`` -> ``full`` where others would read it."""
        named = self._shared and label.startswith(("Training ", "full "))
        return label.partition(" ")[0] if named else label

    def _precision(self) -> str:
        loaded = self._bases.loaded
        names = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
        return names.get(loaded.where["dtype"] or "", "") if loaded is not None else ""
