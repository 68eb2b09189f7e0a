"""A run's curves as files that other tools read: CSV (spreadsheets, ``trackio.import_csv``) or a TensorBoard event file."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from playground.errors import InputError
from playground.services.progress import RunView

FORMATS = ("csv", "tensorboard")


def series(view: RunView) -> dict[str, Sequence[tuple[int, float]]]:
    """Every curve of a run by the name that loggers use: ``train/loss``, ``eval/loss``, ``train/lr`` ..."""
    named = {"train/loss": view.loss, "eval/loss": view.eval_loss} | {
        f"train/{name}": curve for name, curve in view.curves.items()
    }
    return {name: curve for name, curve in named.items() if curve}


def write_curves(view: RunView, folder: Path, how: str) -> Path:
    """Write them below ``folder`` and return the file. Raises InputError for another format, or a run that has none yet."""
    if how not in FORMATS:
        raise InputError(f"Curves can be written as {' or '.join(FORMATS)}; {how!r} is neither.")
    curves = series(view)
    if not curves:
        raise InputError(f"{view.name} has no curves yet: they come with its first steps.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return _csv(curves, folder / f"{view.run}.csv") if how == "csv" else _events(curves, folder / view.run)
    except OSError as error:
        raise InputError(f"The curves cannot be written to {folder}: {error.strerror or error}. Name another folder.") from error


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
