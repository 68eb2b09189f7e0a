"""One training run: ``run(run_dir)`` in this process, or ``python -m playground.training.worker RUN_DIR [DATABASE
ATTEMPT]`` in its own, which can be killed at any moment. SIGTERM cancels.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from playground.db import DatabaseError, enter_run, works_on
from playground.errors import CancelledError, RunFailedError
from playground.gpu.device import accelerator
from playground.gpu.manager import Lanes, use_share
from playground.library.files import write_json
from playground.training import processes
from playground.training.failure import DISK, explain
from playground.training.processes import LOW_MEMORY, RAN_OUT
from playground.training.run_files import (
    LEARNED,
    EventWriter,
    best,
    curve_of,
    drop_torn,
    marked_step,
    publish,
    reserve_disk_full_event,
    write_disk_full_event,
)
from playground.training.spec import WHOLE_BATCH, RunSpec

NOT_MINE = 3  # exit code of a worker that came too late: the run was cancelled, or another worker has it


def main() -> int:
    """Entry of the child process: its log goes to worker.log, its events to events.jsonl."""
    signal.signal(signal.SIGTERM, _cancel)
    run_dir, attempt = Path(sys.argv[1]), int(sys.argv[3]) if len(sys.argv) > 3 else 0
    database, run_id, pid = Path(sys.argv[2]) if len(sys.argv) > 3 and sys.argv[2] else None, run_dir.name, os.getpid()
    parent = os.getppid() if len(sys.argv) > 3 else 0

    def wanted() -> bool:
        """Whether the run lives and this process is its worker. A record that cannot be read proves nothing. On a node
        of a cluster: whether the task lives that began it."""
        with contextlib.suppress(DatabaseError):
            if database is not None:
                return works_on(database, run_id, attempt, pid)
            return not parent or os.getppid() == parent
        return True

    with processes.folder_lock(run_dir, processes.WAIT_S) as held:
        try:
            started_s = processes.started_s(pid) or 0.0
            mine = held and (database is None or enter_run(database, run_id, attempt, pid, started_s))
        except DatabaseError as error:
            print(f"The record of runs cannot be written: {error}", file=sys.stderr)
            return NOT_MINE
        if not mine:
            print("The run is cancelled, ended or in other hands; this worker ends.", file=sys.stderr)
            return NOT_MINE
        heart = processes.Heartbeat(run_dir, wanted)
        heart.start()
        try:
            return run(run_dir, attempt, lanes=Lanes(database.parent) if database else None)
        finally:
            heart.stop()


def _cancel(number: int, frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough; the way out must not be interrupted
    raise CancelledError("The run was cancelled.")


def run(run_dir: Path, attempt: int = 0, stop: Callable[[], bool] = lambda: False, lanes: Lanes | None = None) -> int:
    """Do the whole run; every outcome is one last event. Returns 0 done, 1 failed or cancelled.
    stop: asked after every step, for where no signal can be sent. lanes: where the processor's cores are shared out,
    None = they are all the run's."""
    events: EventWriter | None = None
    spec: RunSpec | None = None
    started = time.monotonic()
    try:
        reserve_disk_full_event(run_dir)
        events = EventWriter(run_dir, stop)
        events.write("started", pid=os.getpid(), attempt=attempt, step=marked_step(run_dir))
        spec = RunSpec.read(run_dir)
        events.write("state", message="Loading the base")
        events.write("done", attempt=attempt, **_train(spec, run_dir, events, started, lanes))
        return 0
    except CancelledError as error:
        _last(run_dir, events, "cancelled", message=str(error), attempt=attempt)
    except Exception as error:  # whatever a library raises: the log keeps the traceback, the person gets one sentence
        with contextlib.suppress(OSError, ValueError):
            traceback.print_exc()
        traceback.clear_frames(error.__traceback__)  # what they hold may be the very memory that is missing
        reason, message = explain(error, spec, run_dir)
        if reason == DISK:
            drop_torn(run_dir)
        _last(run_dir, events, "failed", message=message, reason=reason, attempt=attempt)
    finally:
        if events is not None:
            events.close()
    return 1


def _last(run_dir: Path, events: EventWriter | None, kind: str, **values: Any) -> None:
    """Write the last event; where the log has no room left, into the space that was reserved for it."""
    with contextlib.suppress(OSError):
        if events is not None:
            events.write(kind, **values)
            return
    with contextlib.suppress(OSError):
        write_disk_full_event(run_dir, event=kind, **values)


def _ran_out(run_dir: Path) -> bool:
    """Whether memory has run out in this run once."""
    try:
        return (run_dir / LOW_MEMORY).read_text() == RAN_OUT
    except OSError:
        return False


def _train(spec: RunSpec, run_dir: Path, events: EventWriter, started: float, lanes: Lanes | None) -> dict[str, Any]:
    """Returns what the run's last event says. Imports are here: the worker answers to cancel before the libraries are
    loaded, and the file is read without them."""
    from playground.data.check import check_file
    from playground.methods import get_method

    logging.getLogger("transformers").setLevel(logging.ERROR)
    method = get_method(spec.method)
    checked = check_file(Path(spec.file), spec.mapping or None, limit_bytes=spec.limit_bytes)

    from playground.data.render import load_tokenizer
    from playground.training.model import limit_memory, peak_memory_bytes, precision, weights_of
    from playground.training.objectives import Setup, get_objective
    from playground.training.trainer import arguments_of, prepare, take_best, train

    objective = get_objective(spec.objective)
    limit_memory(spec.limit_memory_bytes)
    tokenizer = load_tokenizer(Path(spec.base_path))
    data = prepare(spec, checked, tokenizer)
    write_json(run_dir / LEARNED, data.learned)
    model = objective.load(spec, method)
    if lanes is not None:
        share_cores(model, lanes)
    trained, total = weights_of(model)
    weights = {"trainable_params": trained, "total_params": total}
    used = {"rows_used": data.rows_used, "rows_bad": data.rows_bad}
    events.write("plan", **used, rows_held_back=data.rows_held_back, **weights)
    ran_out = _ran_out(run_dir)
    if ran_out and spec.objective not in WHOLE_BATCH and spec.batch_size % (2 * spec.accumulate) == 0:
        spec = replace(spec, accumulate=2 * spec.accumulate)
    saves = f"Training with less memory: activations are computed twice, a step in parts ({spec.accumulate})"
    events.write("state", message=saves if ran_out else "Training")
    arguments, a_step = arguments_of(spec, len(data.train), run_dir), min(spec.batch_size, len(data.train))
    setup = Setup(model, tokenizer, data.train, data.validation, spec, arguments, ran_out)
    measured = train(setup, objective, data, run_dir, events)
    if measured.last_loss is not None and measured.last_loss != measured.last_loss:
        raise RunFailedError(precision().diverged)
    events.write("state", message="Saving")
    kept = take_best(measured, run_dir)
    if "ref" in getattr(model, "peft_config", {}):
        model.delete_adapter("ref")  # TRL's reference, a copy of what the run began with
    good, peak, planned = best(run_dir), peak_memory_bytes(), spec.estimated_memory_bytes
    summary: dict[str, Any] = {
        "objective": spec.objective,
        **used,
        "steps": measured.step,
        **({"epochs": round(measured.step * a_step / len(data.train), 2)} if spec.objective != "grpo" else {}),
        "tokens_per_s": round(measured.tokens_per_s or 0.0, 1),
        "loss": {"first": measured.first_loss, "last": measured.last_loss},
        "eval_loss": measured.last_eval,
        **weights,
        "estimated_memory_bytes": planned,
        "kept_step": kept,
        **({"figures": measured.figures} if measured.figures.get("last") else {}),
        **({"stopped": measured.stopped} if measured.stopped else {}),
        **({"best": {"step": good[0], "eval_loss": good[1]}} if good else {}),
        "seconds": round(time.monotonic() - started, 1),
        "peak_memory_bytes": peak,
        "memory_ratio": round(planned / peak, 3) if peak and planned else None,
    }
    if signal.getsignal(signal.SIGTERM) is _cancel:
        # a cancel comes too late: an adapter that is in the library belongs to a run that is done
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    record = summary | data.learned | {"curve": curve_of(run_dir)}
    return summary | {"adapter": publish(model, tokenizer, spec, record)}


def share_cores(model: Any, lanes: Lanes) -> None:
    """Before every forward pass enter the ``train`` lane and use the threads that it may use then; nothing on a GPU.
    Every forward pass begins with the input embeddings: a step's, an evaluation's, and each token's of a sample."""
    if accelerator() != "cpu":
        return

    def share(module: Any, given: Any) -> None:
        lanes.enter("train")
        use_share(lanes, "train")

    model.get_input_embeddings().register_forward_pre_hook(share)


if __name__ == "__main__":
    sys.exit(main())
