"""Training runs: planned, queued, started as processes of their own, followed, cancelled, resumed."""

from __future__ import annotations

import contextlib
import math
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from playground.data.example import Checked
from playground.errors import BusyError, InputError, NotFoundError, PlaygroundError
from playground.gpu.manager import DeviceManager, Lease, Request
from playground.methods import all_methods, get_method
from playground.methods.method import Method
from playground.services import processes
from playground.services.bases import BaseService
from playground.services.data import DataService
from playground.services.progress import RunLog, RunView
from playground.services.store import ENDED, RunRow, RunStore
from playground.services.words import ordinal
from playground.settings import Settings
from playground.training.estimate import Estimate, estimate
from playground.training.publish import keep_checkpoint
from playground.training.spec import OBJECTIVES, RunSpec

QUICK_STEPS = 20
KILL_AFTER_S = 10.0
TICK_S = 0.5


@dataclass(frozen=True)
class TrainRequest:
    """What a person asks for; None = the method's default. file: the examples. mapping: role -> column, where corrected."""

    file: Path
    name: str = ""
    method: str = "lora"
    objective: str = "sft"
    base: str | None = None
    steps: int | None = None
    epochs: float | None = None
    lr: float | None = None
    rank: int | None = None
    batch_size: int = 8
    max_tokens: int = 2048
    seed: int = 7
    save_steps: int = 10
    mapping: dict[str, str] | None = None
    strict: bool = False
    owner: str = "local"


@dataclass(frozen=True)
class Plan:
    """What a run will be: counts of weights and rows, seconds, bytes. blocked: why it cannot start, "" if it can."""

    trainable_params: int
    total_params: int
    seconds: float
    memory_bytes: int
    free_bytes: int
    disk_bytes: int
    rows: int
    steps: int
    lr: float
    rank: int
    blocked: str = ""


@dataclass(frozen=True)
class Preset:
    """How much time to give a run. steps: optimiser steps. seconds: an estimate for LoRA on this machine, 0 = unknown."""

    name: str
    label: str
    steps: int


@dataclass
class _Followed:
    """What this process holds for a run: its log, and its place in the device's queue or its lease."""

    log: RunLog
    request: Request | None = None
    lease: Lease | None = None


class TrainingService:
    """One per process. Every process may look and cancel; only the home's owner (``start_supervisor``) starts queued runs."""

    def __init__(
        self,
        settings: Settings,
        manager: DeviceManager,
        bases: BaseService,
        data: DataService,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings, self._manager, self._bases, self._data, self._clock = settings, manager, bases, data, clock
        self.store = RunStore(settings.database)
        self._followed: dict[str, _Followed] = {}
        self._lock = threading.RLock()
        self._stop = threading.Event()
        self._supervisor: threading.Thread | None = None

    # -- before a run --------------------------------------------------------------------------------------------

    def methods(self) -> list[Method]:
        return list(all_methods().values())

    def presets(self, rows: int, batch_size: int = 8) -> list[Preset]:
        """Quick look, Good and Thorough: a fixed look, then two and four times through the data, within reason."""
        good = min(max(2 * QUICK_STEPS, math.ceil(1.5 * rows / batch_size)), 150)
        thorough = min(max(2 * good, math.ceil(4 * rows / batch_size)), 500)
        return [
            Preset("quick", "Quick look", QUICK_STEPS),
            Preset("good", "Good", good),
            Preset("thorough", "Thorough", thorough),
        ]

    def plan(self, request: TrainRequest) -> Plan:
        """What the run will need and whether it can start. Raises InputError for a file or a setting that cannot be used."""
        method, checked, steps = self._settled(request)
        needs = self._estimate(request, method, checked, steps)
        rank = self._rank(request, method)
        blocked = ""
        budget = self._manager.budget_bytes
        if needs.memory_bytes > budget:
            blocked = f"{method.label} needs {needs.memory_bytes / 1e9:.1f} GB; the budget is {budget / 1e9:.1f} GB. "
            blocked += "Choose LoRA." if method.rank is None else "Choose a smaller batch."
        free_disk = shutil.disk_usage(self._existing_home()).free
        if needs.disk_bytes * 4 > free_disk:
            blocked = f"The run writes about {needs.disk_bytes * 4 / 1e9:.1f} GB; {free_disk / 1e9:.1f} GB of disk are free. Free some space."
        return Plan(
            needs.trainable_params, needs.total_params, needs.seconds, needs.memory_bytes, self._manager.free_bytes,
            needs.disk_bytes, len(checked.examples), steps, self._rate(request, method), rank, blocked,
        )  # fmt: skip

    # -- a run ---------------------------------------------------------------------------------------------------

    def start(self, request: TrainRequest) -> str:
        """Queue a run; returns its id. Raises InputError or OutOfMemoryError when it could never start."""
        method, checked, steps = self._settled(request)
        if checked.bad and request.strict:
            first = checked.bad[0]
            raise InputError(
                f"{len(checked.bad)} rows cannot be used, the first is row {first.row}: {first.reason} Fix them, or leave out --strict."
            )
        plan = self.plan(request)
        if plan.blocked:
            raise InputError(plan.blocked)
        base = self._bases.resolve()
        now = self._clock()
        run = time.strftime("%Y%m%d-%H%M%S-", time.localtime(now)) + secrets.token_hex(2)
        run_dir = self._settings.runs_dir / run
        run_dir.mkdir(parents=True)
        try:
            file = Path(shutil.copyfile(request.file, run_dir / f"examples{''.join(Path(request.file).suffixes[-2:])}"))
            name = request.name.strip() or Path(request.file).stem
            spec = RunSpec(
                run=run, name=name[:80], method=method.name, objective=request.objective, base=base.id, base_path=str(base.path),
                base_fingerprint=base.fingerprint, file=str(file), data=Path(request.file).name,
                adapters_dir=str(self._settings.adapters_dir), shipped_dir=str(self._settings.shipped_adapters_dir),
                steps=steps, lr=plan.lr, rank=plan.rank, batch_size=request.batch_size, max_tokens=request.max_tokens,
                seed=request.seed, save_steps=request.save_steps, owner=request.owner, created_s=now,
                mapping=dict(request.mapping or {}), limit_bytes=self._settings.upload_limit_bytes,
                estimated_memory_bytes=plan.memory_bytes,
            )  # fmt: skip
            spec.write(run_dir)
            self.store.add(
                run=run, owner=request.owner, name=name[:80], method=method.name, state="QUEUED", created_s=now, steps=steps,
                needs_bytes=plan.memory_bytes,
            )  # fmt: skip
        except BaseException:
            shutil.rmtree(run_dir, ignore_errors=True)
            raise
        self.tick()
        return run

    def runs(self, owner: str = "local") -> list[RunView]:
        """The person's runs, newest first, as they are now."""
        self.tick()
        return [self._view(row) for row in self.store.all() if self._visible(row, owner)]

    def show(self, run: str, owner: str = "local") -> RunView:
        """Raises NotFoundError."""
        self.tick()
        return self._view(self._own(run, owner))

    def cancel(self, run: str, owner: str = "local", *, keep: bool = False) -> None:
        """Cancel at any moment. keep: its newest complete checkpoint becomes an adapter. A run that has ended stays as it is."""
        row = self._own(run, owner)
        with self._lock:
            if self.store.update(run, only_from=("QUEUED",), state="CANCELLED", error="Cancelled before it started."):
                self._release(run)
                return
            if self.store.update(run, only_from=("RUNNING",), state="STOPPING", stopping_s=self._clock(), keep=int(keep)):
                pid = self.store.get(run).pid
                if pid is not None and processes.is_alive(pid, row.pid_started_s):
                    processes.stop(pid, hard=False)
        self.tick()

    def resume(self, run: str, owner: str = "local") -> None:
        """Queue a failed or cancelled run again; it goes on from its newest complete checkpoint. Raises InputError."""
        row = self._own(run, owner)
        if not (self._settings.runs_dir / run / "run.json").is_file():
            raise InputError(f"The files of {run} are gone; start it anew.")
        if not self.store.update(
            run, only_from=("FAILED", "CANCELLED"), state="QUEUED", error=None, pid=None, stopping_s=None, keep=0
        ):
            raise InputError(f"{run} is {row.state}; only a FAILED or CANCELLED run can be resumed.")
        with self._lock:
            self._followed.pop(run, None)
        self.tick()

    def follow(self, run: str, owner: str = "local", poll_s: float = 0.5) -> Iterator[RunView]:
        """The run's view again and again until it has ended; for the command line."""
        while True:
            view = self.show(run, owner)
            yield view
            if view.state in ENDED:
                return
            time.sleep(poll_s)

    # -- supervision ---------------------------------------------------------------------------------------------

    def start_supervisor(self) -> None:
        """This process owns the home: it starts queued runs from now on, whether or not anybody looks."""
        self._supervisor = threading.Thread(target=self._supervise, name="runs", daemon=True)
        self._supervisor.start()

    def close(self) -> None:
        self._stop.set()

    def _supervise(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(Exception):  # a disk hiccup must not end supervision; the next tick tries again
                self.tick()
            self._stop.wait(TICK_S)

    def tick(self) -> None:
        """Bring every run that has not ended to its true state; start what may start, if this process owns the home."""
        with self._lock:
            for row in self.store.active():
                if row.state == "QUEUED":
                    if self._supervisor is not None:
                        self._start_when_granted(row)
                else:
                    self._look_after(row)

    def _start_when_granted(self, row: RunRow) -> None:
        followed = self._follow(row.run)
        if followed.request is None and followed.lease is None:
            try:
                followed.request = self._manager.request("train", row.owner, f"Training {row.name}", row.needs_bytes)
            except BusyError:
                return  # the device's queue is full; the run keeps its place in ours
            except PlaygroundError as error:
                self.store.update(row.run, only_from=("QUEUED",), state="FAILED", error=str(error))
                return
        if followed.request is not None and (lease := followed.request.wait(0)) is not None:
            followed.request, followed.lease = None, lease
            if self.store.update(row.run, only_from=("QUEUED",), state="RUNNING", pid=None):
                pid, start = processes.start_worker(self._settings.runs_dir / row.run)
                self.store.update(row.run, pid=pid, pid_started_s=start)
            else:
                self._release(row.run)

    def _look_after(self, row: RunRow) -> None:
        run_dir = self._settings.runs_dir / row.run
        followed = self._follow(row.run)
        alive = processes.is_alive(row.pid, row.pid_started_s)
        log = followed.log.refresh()
        if alive and followed.lease is None:  # a worker that outlived the process that started it
            followed.lease = self._manager.adopt("train", row.owner, f"Training {row.name}", row.needs_bytes)
        if log.step > row.step:
            self.store.update(row.run, step=log.step)
        if alive:
            if row.state == "STOPPING" and row.stopping_s and self._clock() - row.stopping_s > KILL_AFTER_S and row.pid:
                processes.stop(row.pid, hard=True)
            return
        last = log.last or {}
        if last.get("event") == "done":
            summary = {key: value for key, value in last.items() if key not in ("event", "time_s", "adapter")}
            self.store.update(
                row.run, state="DONE", adapter=last["adapter"], step=row.steps, pid=None, error=None, summary=summary
            )
            shutil.rmtree(run_dir / "checkpoints", ignore_errors=True)
        elif row.state == "STOPPING" or last.get("event") == "cancelled":
            adapter = keep_checkpoint(run_dir) if row.keep else None
            error = "Cancelled; the newest checkpoint was kept." if adapter else "Cancelled."
            self.store.update(row.run, state="CANCELLED", adapter=adapter, error=error, pid=None)
        elif last.get("event") == "failed":
            self.store.update(row.run, state="FAILED", error=last["message"], pid=None)
        else:
            words = processes.last_words(run_dir)
            error = (
                "The training process was killed or died"
                + (f" ({words})" if words else "")
                + ". Resume it, or start with a smaller batch."
            )
            self.store.update(row.run, state="FAILED", error=error, pid=None)
        self._release(row.run)

    def _release(self, run: str) -> None:
        followed = self._followed.get(run)
        if followed is None:
            return
        if followed.request is not None:
            followed.request.cancel()
        if followed.lease is not None:
            followed.lease.close()
        followed.request = followed.lease = None

    def _follow(self, run: str) -> _Followed:
        if run not in self._followed:
            self._followed[run] = _Followed(RunLog(self._settings.runs_dir / run))
        return self._followed[run]

    # -- inside --------------------------------------------------------------------------------------------------

    def _view(self, row: RunRow) -> RunView:
        with self._lock:
            followed = self._follow(row.run)
            view = followed.log.refresh().view(row)
            if row.state == "QUEUED":
                place = followed.request.position if followed.request else 0
                view.message = f"{ordinal(place)} in line" if place else "Waiting for the device"
            return view

    def _visible(self, row: RunRow, owner: str) -> bool:
        return not self._settings.shared or row.owner == owner

    def _own(self, run: str, owner: str) -> RunRow:
        row = self.store.get(run)
        if not self._visible(row, owner):
            raise NotFoundError(f"There is no run {run[:80]!r}.")
        return row

    def _settled(self, request: TrainRequest) -> tuple[Method, Checked, int]:
        method = get_method(request.method)
        if request.objective not in OBJECTIVES:
            raise InputError(f"The objective {request.objective!r} cannot be trained yet. There is: {', '.join(OBJECTIVES)}.")
        if request.base is not None and request.base != self._bases.spec:
            raise InputError(f"The base in use is {self._bases.spec}. Choose {request.base} as the base first.")
        checked = self._data.check(request.file, request.mapping)
        if checked.objective != "sft":
            kind = checked.objective.replace("_", " ")
            raise InputError(
                f"{Path(request.file).name} holds {kind} rows. Supervised training needs a column of prompts and one of answers."
            )
        if request.steps is not None:
            return method, checked, request.steps
        if request.epochs is not None:
            return method, checked, max(1, math.ceil(request.epochs * len(checked.examples) / request.batch_size))
        return method, checked, QUICK_STEPS

    def _rank(self, request: TrainRequest, method: Method) -> int:
        return 0 if method.rank is None else (request.rank or method.rank)

    def _rate(self, request: TrainRequest, method: Method) -> float:
        return request.lr or method.learning_rate

    def _estimate(self, request: TrainRequest, method: Method, checked: Checked, steps: int) -> Estimate:
        tokens = self._data.tokens(checked, request.max_tokens)
        longest = min(tokens.p95, request.max_tokens)
        measured = [
            row.summary.get("tokens_per_s") for row in self.store.all() if row.method == method.name and row.state == "DONE"
        ]
        return estimate(
            self._bases.weights(), method, rank=self._rank(request, method), steps=steps, batch_size=request.batch_size,
            tokens_p95=longest, tokens_mean=float(tokens.median), answer_max=longest // 2,
            tokens_per_s=next((float(speed) for speed in measured if speed), None),
        )  # fmt: skip

    def _existing_home(self) -> Path:
        self._settings.home.mkdir(parents=True, exist_ok=True)
        return self._settings.home
