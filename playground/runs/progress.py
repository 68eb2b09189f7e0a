"""A run as a person sees it, from its record and its event log; its curves as CSV or a TensorBoard event file."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playground.db import RunRow
from playground.errors import InputError
from playground.training.events import LAST, EventReader

CURVES = ("lr", "grad_norm", "tokens_per_s", "memory_bytes")


@dataclass
class RunView:
    """state: QUEUED RUNNING STOPPING DONE FAILED CANCELLED. loss, eval_loss: (step, value). samples: (step, text) of
    the first prompt.
    replies: of each held-out prompt its text and (step, text). figures: the objective's own, as they were last.
    curves: (step, value) of lr, grad_norm, tokens_per_s and memory_bytes (peak). stopped: why it ended early, "" = it
    did not.

    message: what it is doing, in words. seconds_left: an estimate, None before the first step. summary: the figures of
    a done run.
    live: what it is called as a side while it trains, "" = not yet.
    place: among the runs that wait, from 1; 0 = it does not. resume_step: where a failed or cancelled run would go on;
    0 = at its start.
    """

    run: str
    name: str
    state: str
    method: str
    step: int
    steps: int
    adapter: str | None
    error: str | None
    pid: int | None
    created_s: float
    loss: list[tuple[int, float]] = field(default_factory=list)
    eval_loss: list[tuple[int, float]] = field(default_factory=list)
    samples: list[tuple[int, str]] = field(default_factory=list)
    replies: list[tuple[str, list[tuple[int, str]]]] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    curves: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    stopped: str = ""
    tokens_per_s: float | None = None
    seconds_left: float | None = None
    message: str = ""
    summary: dict[str, Any] = field(default_factory=dict)
    place: int = 0
    resume_step: int = 0
    live: str = ""


class RunLog:
    """Follows one run's events and keeps what they add up to."""

    def __init__(self, run_dir: Path) -> None:
        self._reader = EventReader(run_dir)
        self.attempt: int | None = None
        self.step = 0
        self.loss: dict[int, float] = {}
        self.eval_loss: dict[int, float] = {}
        self.replies: dict[int, tuple[str, dict[int, str]]] = {}
        self.figures: dict[str, float] = {}
        self.curves: dict[str, dict[int, float]] = {name: {} for name in CURVES}
        self.stopped = ""
        self.tokens_per_s: float | None = None
        self.seconds_left: float | None = None
        self.message = ""
        self.last: dict[str, Any] | None = None
        self.events = 0

    def refresh(self) -> RunLog:
        """Take in what was written since the last call."""
        for event in self._reader.read():
            kind = event.get("event")
            self.events += 1
            if kind == "started":  # a new attempt: what it repeats replaces what was there
                self.last, self.seconds_left, self.message, self.stopped = None, None, "", ""
                self.attempt, self.step = event.get("attempt"), event.get("step", 0)
            elif kind == "state":
                self.message = event["message"]
            elif kind == "step":
                self.step = event["step"]
                self.loss[event["step"]] = event["loss"]
                self.tokens_per_s, self.seconds_left = event["tokens_per_s"], event["seconds_left"]
                for name, curve in self.curves.items():
                    if event.get(name) is not None:
                        curve[event["step"]] = event[name]
                self.figures = event.get("figures", {})
            elif kind == "eval":
                self.eval_loss[event["step"]] = event["loss"]
            elif kind == "sample":
                _, said = self.replies.setdefault(event.get("index", 0), (event.get("prompt", ""), {}))
                said[event["step"]] = event["text"]
            elif kind == "stopped":
                self.stopped = event["message"]
            elif kind in LAST:
                self.last = event
        return self

    def last_of(self, attempt: int) -> dict[str, Any] | None:
        """How this attempt ended, as its worker said; None if it did not. What an earlier one said does not count."""
        return self.last if self.last is not None and self.last.get("attempt", attempt) == attempt else None

    def step_of(self, row: RunRow) -> int:
        """How far a run is: its worker's word, or the record's while the worker of its newest attempt has said
        nothing."""
        return self.step if row.state in ("RUNNING", "STOPPING") and self.attempt == row.attempt else row.step

    def view(self, row: RunRow) -> RunView:
        """The run's record and its log in one value."""
        replies = [(prompt, sorted(said.items())) for _, (prompt, said) in sorted(self.replies.items())]
        return RunView(
            **{name: getattr(row, name) for name in _OF_THE_RECORD},
            step=self.step_of(row),
            loss=_measured(self.loss),
            eval_loss=_measured(self.eval_loss),
            samples=list(replies[0][1]) if replies else [],
            replies=replies,
            figures=dict(self.figures),
            curves={name: sorted(curve.items()) for name, curve in self.curves.items() if curve},
            stopped=self.stopped,
            tokens_per_s=self.tokens_per_s,
            seconds_left=self.seconds_left if row.state == "RUNNING" else None,
            message=self.message,
        )


_OF_THE_RECORD = ("run", "name", "state", "method", "steps", "adapter", "error", "pid", "created_s", "summary")


def _measured(points: Mapping[int, float | None]) -> list[tuple[int, float]]:
    return [(step, value) for step, value in sorted(points.items()) if value is not None]


FORMATS = ("csv", "tensorboard")


def series(view: RunView) -> dict[str, Sequence[tuple[int, float]]]:
    """Every curve of a run by the name that loggers use: ``train/loss``, ``eval/loss``, ``train/lr`` ..."""
    named = {"train/loss": view.loss, "eval/loss": view.eval_loss} | {
        f"train/{name}": curve for name, curve in view.curves.items()
    }
    return {name: curve for name, curve in named.items() if curve}


def write_curves(view: RunView, folder: Path, how: str) -> Path:
    """Write them below ``folder`` and return the file. Raises InputError for another format, or a run that has none
    yet."""
    if how not in FORMATS:
        raise InputError(f"Curves can be written as {' or '.join(FORMATS)}; {how!r} is neither.")
    curves = series(view)
    if not curves:
        raise InputError(f"{view.name} has no curves yet: they come with its first steps.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return _csv(curves, folder / f"{view.run}.csv") if how == "csv" else _events(curves, folder / view.run)
    except OSError as error:
        raise InputError(
            f"The curves cannot be written to {folder}: {error.strerror or error}. Name another folder."
        ) from error


def _csv(curves: Mapping[str, Sequence[tuple[int, float]]], file: Path) -> Path:
    """One line a step; empty where nothing was measured."""
    by_step: dict[int, dict[str, float]] = {}
    for name, curve in curves.items():
        for step, value in curve:
            by_step.setdefault(step, {})[name] = value
    partial = file.with_name(f".{file.name}")
    with partial.open("w", newline="", encoding="utf-8") as out:
        table = csv.DictWriter(out, ["step", *curves])
        table.writeheader()
        table.writerows({"step": step, **values} for step, values in sorted(by_step.items()))
    os.replace(partial, file)
    return file


def _events(curves: Mapping[str, Sequence[tuple[int, float]]], folder: Path) -> Path:
    from tensorboardX import SummaryWriter

    for old in folder.glob("events.out.tfevents.*"):
        old.unlink()
    with SummaryWriter(str(folder)) as writer:
        for name, curve in curves.items():
            for step, value in curve:
                writer.add_scalar(name, value, step)
    return next(folder.glob("events.out.tfevents.*"))
