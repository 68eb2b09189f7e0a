"""What a run leaves in its folder: events, checkpoints, and the adapter that a finished run or a kept checkpoint
becomes. Needs no torch.

Events are one JSON object a line of ``events.jsonl``, written by the worker alone. Kinds: ``started`` (pid, attempt,
step), ``state`` (message), ``plan`` (rows, weights), ``step`` (step, loss, lr, grad_norm, tokens_per_s, seconds_left,
memory_bytes: the peak so far, figures: the objective's own by name), ``eval`` (step, loss, figures), ``sample`` (step,
index of the held-out prompt, prompt, text), ``saved`` (step), ``stopped`` (step, best_step, message: the run got no
better), and one last ``done``, ``failed`` or ``cancelled``.

A checkpoint is complete or ignored: a marker with every file's size and SHA-256 is written last, atomically. Two stay:
the newest, to go on from, and the best by held-out loss. An older one goes only once a newer one is complete.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from playground.errors import CancelledError, InputError
from playground.library.adapters import AdapterLibrary
from playground.library.card import CONFIG, tidied
from playground.library.files import write_json
from playground.methods import get_method
from playground.training.spec import RunSpec

MARKER = "complete.json"
SCORE = "score.json"
STATE = "trained.safetensors"
"""The weights that are trained, where the adapter's file does not hold them. No part of an adapter."""
LEARNED = "learned.json"
"""Hashes of the rows that a run trains on, for the record of whatever adapter comes of it."""
PRIVATE = (
    *("base_path", "file", "adapters_dir", "shipped_dir", "start_path", "docs_path", "reward_files"),
    *("limit_bytes", "limit_memory_bytes", "disk_bytes", "estimated_seconds", "rows", "tokens_p95", "answer_max"),
)
"""What an adapter's run.json does not repeat: paths on this machine, and what only the plan was made from."""

EVENTS = "events.jsonl"
LAST = ("done", "failed", "cancelled")
POINTS = 24  # so many points of either loss an adapter's record keeps; the first and the last always
MESSAGE_MAX = 1200  # characters; four bytes each at most, so that it always fits
DISK_FULL_FILE = "last_word.json"
RESERVED_BYTES = 4096


class EventWriter:
    """Appends events; each is one write to the file, so a killed worker loses none that it wrote.
    stop: asked after every step; where it says so, that step raises CancelledError."""

    def __init__(self, run_dir: Path, stop: Callable[[], bool] = lambda: False) -> None:
        """Raises OSError."""
        self._stop = stop
        path = run_dir / EVENTS
        self._torn = path.exists() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
        self._file = -1

    def write(self, kind: str, **values: Any) -> None:
        """Numbers that are not finite become null. Raises OSError when the disk is full; the next event then closes
        what was torn."""
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
        record = {"event": kind, "time_s": round(time.time(), 3)} | finite
        left = (json.dumps(record, ensure_ascii=False) + "\n").encode()
        if self._torn:  # a killed worker's last line, or our own: close it, so that this one stays whole
            left = b"\n" + left
        while left:
            self._torn = True
            left = left[os.write(self._file, left) :]
        self._torn = False
        if kind == "step" and self._stop():
            raise CancelledError("The run was cancelled.")


class EventReader:
    """Reads what has come since the last call; a half-written last line waits for its end."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / EVENTS
        self._offset = 0

    def read(self) -> list[dict[str, Any]]:
        try:
            with self._path.open("rb") as handle:
                handle.seek(self._offset)
                block = handle.read()
        except FileNotFoundError:
            return []
        whole = block[: block.rfind(b"\n") + 1]
        self._offset += len(whole)
        events = []
        for line in whole.splitlines():
            with suppress(ValueError):  # a line torn by a kill, closed by the resumed worker's first line
                events.append(json.loads(line))
        return events


def curve_of(run_dir: Path) -> dict[str, list[list[float]]]:
    """``{"training": [[step, loss], ...], "held_out": [...]}``, over all attempts; {} before any measurement."""
    found: dict[str, dict[int, float]] = {"training": {}, "held_out": {}}
    for event in EventReader(run_dir).read():
        name = {"step": "training", "eval": "held_out"}.get(event.get("event", ""))
        if name and event.get("loss") is not None:
            found[name][event["step"]] = round(event["loss"], 4)
    curves = {name: [[*point] for point in sorted(points.items())] for name, points in found.items() if points}
    for name, points in curves.items():
        if len(points) > POINTS:
            curves[name] = [points[round(place * (len(points) - 1) / (POINTS - 1))] for place in range(POINTS)]
    return curves


def reserve_disk_full_event(run_dir: Path) -> None:
    """Take the space for a worker's last event. Raises OSError when there is none."""
    with (run_dir / DISK_FULL_FILE).open("wb") as handle:
        handle.write(b" " * RESERVED_BYTES)
        handle.flush()
        os.fsync(handle.fileno())


def write_disk_full_event(run_dir: Path, *, message: str = "", **event: object) -> None:
    """Overwrite the reserved space in place; nothing is allocated. Raises OSError."""
    text = json.dumps(event | {"message": message[:MESSAGE_MAX]}, ensure_ascii=False).encode()
    with (run_dir / DISK_FULL_FILE).open("r+b") as handle:
        handle.write(text[:RESERVED_BYTES].ljust(RESERVED_BYTES))


def read_disk_full_event(run_dir: Path, attempt: int) -> dict[str, Any] | None:
    """The last event that the worker of this attempt wrote there, None if it had no need to."""
    try:
        event = json.loads((run_dir / DISK_FULL_FILE).read_bytes().strip() or b"null")
    except (OSError, ValueError):
        return None
    return event if isinstance(event, dict) and event.get("attempt") == attempt else None


def mark_complete(folder: Path) -> None:
    """Write the marker of a checkpoint whose files are all there, and flush both to disk."""
    files = {}
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file.name not in (MARKER, SCORE):
            with file.open("rb") as handle:
                sha256 = hashlib.file_digest(handle, "sha256").hexdigest()
                files[str(file.relative_to(folder))] = {"bytes": file.stat().st_size, "sha256": sha256}
                os.fsync(handle.fileno())
    write_json(folder / MARKER, files)


def is_complete(folder: Path) -> bool:
    """Whether the marker is there and every file is as it says."""
    try:
        files = json.loads((folder / MARKER).read_text())
        for name, expected in files.items():
            if (folder / name).stat().st_size != expected["bytes"]:
                return False
            with (folder / name).open("rb") as handle:
                if hashlib.file_digest(handle, "sha256").hexdigest() != expected["sha256"]:
                    return False
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return bool(files)


def newest_complete(run_dir: Path) -> Path | None:
    return next((folder for folder in reversed(_folders(run_dir)) if is_complete(folder)), None)


def marked_step(run_dir: Path) -> int:
    """The step from which a run would resume, 0 = its start. Looks at markers only: cheap."""
    return max(map(step_of, _marked(run_dir)), default=0)


def step_of(folder: Path) -> int:
    """``checkpoint-40`` -> 40."""
    return int(folder.name.rpartition("-")[2])


def set_score(folder: Path, eval_loss: float) -> None:
    """Remember a checkpoint's held-out loss, in nats a token."""
    write_json(folder / SCORE, {"eval_loss": eval_loss})


def score_of(folder: Path) -> float | None:
    """A checkpoint's held-out loss, None = it has not been measured."""
    try:
        return float(json.loads((folder / SCORE).read_text())["eval_loss"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def best(run_dir: Path) -> tuple[int, float] | None:
    """(step, held-out loss) of the best checkpoint there is; the older one where two are equal."""
    scored = [(score, step_of(folder)) for folder in _marked(run_dir) if (score := score_of(folder)) is not None]
    return (min(scored)[1], min(scored)[0]) if scored else None


def drop_torn(run_dir: Path) -> Path | None:
    """Remove what was left behind the newest complete checkpoint; returns that one, or None."""
    newest = newest_complete(run_dir)
    for folder in _folders(run_dir):
        if newest is None or step_of(folder) > step_of(newest) or not (folder / MARKER).is_file():
            shutil.rmtree(folder, ignore_errors=True)
    return newest


def prune(run_dir: Path) -> None:
    """Keep the newest complete checkpoint and the best one; call it when a new one has been marked."""
    best_step = (best(run_dir) or (0, 0.0))[0]
    for folder in _marked(run_dir)[:-1]:
        if step_of(folder) != best_step:
            shutil.rmtree(folder, ignore_errors=True)


def _folders(run_dir: Path) -> list[Path]:
    found = [folder for folder in run_dir.glob("checkpoints/checkpoint-*") if folder.name.rpartition("-")[2].isdigit()]
    return sorted(found, key=step_of)


def _marked(run_dir: Path) -> list[Path]:
    return [folder for folder in _folders(run_dir) if (folder / MARKER).is_file()]


def publish(model: Any, tokenizer: Any, spec: RunSpec, summary: dict[str, Any]) -> str:
    """Save a trained model's adapter (or the whole model) beside the library and move it in. Returns its id."""
    with staged(spec) as (library, staging):
        model.save_pretrained(staging)
        (staging / STATE).unlink(missing_ok=True)
        if get_method(spec.method).whole:
            tokenizer.save_pretrained(staging)
        return _finish(library, staging, spec, summary)


def find_published(run_dir: Path) -> tuple[str, dict[str, Any]] | None:
    """(id, its record) of the adapter a run made to its end, for a worker that was killed before it could say so."""
    try:
        spec = RunSpec.read(run_dir)
    except InputError:
        return None
    for file in Path(spec.adapters_dir).glob("[!.]*/run.json"):
        with suppress(OSError, ValueError):
            record = json.loads(file.read_text())
            if isinstance(record, dict) and record.get("run") == spec.run and "peak_memory_bytes" in record:
                return file.parent.name, record
    return None


def keep_checkpoint(run_dir: Path) -> str | None:
    """Publish a run's newest complete checkpoint; the adapter's id, or None when there is none."""
    checkpoint = newest_complete(run_dir)
    if checkpoint is None:
        return None
    spec = RunSpec.read(run_dir)
    summary: dict[str, Any] = {"steps": step_of(checkpoint), "curve": curve_of(run_dir)}
    with suppress(OSError, ValueError):
        summary |= json.loads((run_dir / LEARNED).read_text())
    wanted = [(checkpoint, "adapter_config.json"), (checkpoint, "adapter_model.safetensors")]
    if get_method(spec.method).whole:
        wanted = [(checkpoint, name) for name in ("config.json", "generation_config.json", "model*")]
        wanted += [(Path(spec.base_path), name) for name in ("*token*", "chat_template*")]
    with staged(spec) as (library, staging):
        for file in [file for folder, name in wanted for file in folder.glob(name)]:
            shutil.copyfile(file, staging / file.name)
        return _finish(library, staging, spec, summary)


@contextmanager
def staged(spec: RunSpec) -> Iterator[tuple[AdapterLibrary, Path]]:
    """(the run's library, a folder beside it that is gone afterwards)."""
    library = AdapterLibrary(Path(spec.adapters_dir), Path(spec.shipped_dir))
    staging = library.staging()
    try:
        yield library, staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _finish(library: AdapterLibrary, staging: Path, spec: RunSpec, summary: dict[str, Any]) -> str:
    """Add the record and the model card to the weights, and move the whole into the library. Returns its id."""
    if (staging / CONFIG).is_file():
        tidied(staging, base_model_name_or_path=spec.base)  # PEFT writes the base's folder on this machine there
    record = {key: value for key, value in asdict(spec).items() if key not in PRIVATE}
    record |= summary | {"kind": "full" if get_method(spec.method).whole else "peft", "created_s": time.time()}
    (staging / "run.json").write_text(json.dumps(record, indent=1))
    return library.publish(staging, library.reserve_id(spec.name, spec.owner)).id
