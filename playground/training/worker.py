"""One training run: ``run(run_dir)`` in this process, or ``python -m playground.training.worker RUN_DIR`` in its own.

The worker appends to events.jsonl, keeps complete checkpoints, publishes the adapter atomically at the end, and can be
killed at any moment. SIGTERM cancels.
"""

from __future__ import annotations

import logging
import os
import resource
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from playground.errors import CancelledError, PlaygroundError, RunFailedError
from playground.training.events import EventWriter
from playground.training.spec import RunSpec


def main() -> int:
    """Entry of the child process: its log goes to worker.log, its events to events.jsonl."""
    signal.signal(signal.SIGTERM, _cancel)
    return run(Path(sys.argv[1]))


def _cancel(number: int, frame: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough; the way out must not be interrupted
    raise CancelledError("The run was cancelled.")


def run(run_dir: Path) -> int:
    """Do the whole run; every outcome is one last event. Returns 0 done, 1 failed or cancelled."""
    events = EventWriter(run_dir)
    started = time.monotonic()
    try:
        spec = RunSpec.read(run_dir)
        events.write("started", pid=os.getpid())
        events.write("state", message="Loading the base")
        events.write("done", **_train(spec, run_dir, events, started))
        return 0
    except CancelledError as error:
        events.write("cancelled", message=str(error))
    except PlaygroundError as error:
        events.write("failed", message=str(error))
    except MemoryError:
        events.write("failed", message=_memory_words(run_dir))
    except Exception as error:  # the log keeps the traceback, the person gets one sentence
        traceback.print_exc()
        memory = "out of memory" in str(error).lower() or "can't allocate memory" in str(error).lower()
        events.write("failed", message=_memory_words(run_dir) if memory else _one_sentence(error))
    finally:
        events.close()
    return 1


def _train(spec: RunSpec, run_dir: Path, events: EventWriter, started: float) -> dict[str, Any]:
    from playground.data.check import check_file
    from playground.data.split import split
    from playground.methods import get_method

    logging.getLogger("transformers").setLevel(logging.ERROR)
    method = get_method(spec.method)
    checked = check_file(Path(spec.file), spec.mapping or None, limit_bytes=spec.limit_bytes)
    if checked.objective != "sft":
        raise RunFailedError(
            f"{spec.data} holds {checked.objective.replace('_', ' ')} rows; supervised training needs prompts with answers."
        )

    from playground.data.tokenizer import load_tokenizer
    from playground.training.loop import train
    from playground.training.model import load_for_training, weights_of
    from playground.training.publish import publish

    tokenizer = load_tokenizer(Path(spec.base_path))
    rows, too_long = _render_all(tokenizer, checked.examples, spec.max_tokens)
    if not rows:
        raise RunFailedError(f"No row of {spec.data} fits {spec.max_tokens} tokens. Raise the limit or shorten the answers.")
    train_examples, held_back = split([example for example in checked.examples if example.row in rows], seed=spec.seed)
    model = load_for_training(Path(spec.base_path), method, spec.rank, spec.seed)
    trained, total = weights_of(model)
    events.write(
        "plan",
        rows_used=len(train_examples),
        rows_held_back=len(held_back),
        rows_bad=len(checked.bad) + too_long,
        trainable_params=trained,
        total_params=total,
    )
    events.write("state", message="Training")
    measured = train(
        model,
        tokenizer,
        [rows[example.row] for example in train_examples],
        [rows[example.row] for example in held_back],
        spec,
        run_dir,
        events,
    )
    events.write("state", message="Saving")
    summary: dict[str, Any] = {
        "rows_used": len(train_examples),
        "rows_bad": len(checked.bad) + too_long,
        "steps": spec.steps,
        "tokens_per_s": round(measured.tokens_per_s or 0.0, 1),
        "loss": {"first": measured.first_loss, "last": measured.last_loss},
        "eval_loss": measured.last_eval,
        "trainable_params": trained,
        "total_params": total,
        "estimated_memory_bytes": spec.estimated_memory_bytes,
    }
    if measured.last_loss is not None and measured.last_loss != measured.last_loss:
        raise RunFailedError("The loss is no longer a number (it diverged). Choose a smaller learning rate and start again.")
    summary["seconds"] = round(time.monotonic() - started, 1)
    summary["peak_memory_bytes"] = peak_memory_bytes()
    summary["adapter"] = publish(model, tokenizer, spec, summary)
    return summary


def _render_all(tokenizer: Any, examples: Any, max_tokens: int) -> tuple[dict[int, Any], int]:
    """Row number -> rendered row, and how many answers are longer than the limit."""
    from playground.data.render import render_example
    from playground.errors import InputError

    rows, too_long = {}, 0
    for example in examples:
        try:
            rows[example.row] = render_example(tokenizer, example, max_tokens)
        except InputError:
            too_long += 1
    return rows, too_long


def peak_memory_bytes() -> int:
    """The process's peak so far: on CUDA what its allocator held, elsewhere the resident set."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_reserved())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _memory_words(run_dir: Path) -> str:
    spec = RunSpec.read(run_dir)
    smaller = "LoRA in place of full fine-tuning" if spec.method == "full" else f"a batch of {max(1, spec.batch_size // 2)} rows"
    return f"The device ran out of memory at {spec.batch_size} rows a step. Try {smaller}, or a shorter limit than {spec.max_tokens} tokens."


def _one_sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno == 28:
        return "The disk is full. Free some space (runs and adapters can be deleted) and resume the run."
    text = str(error).strip().splitlines()[0][:240] if str(error).strip() else "no message"
    return f"Training stopped: {type(error).__name__}: {text}"


if __name__ == "__main__":
    sys.exit(main())
