"""The training loop: one Trainer, made by the objective, with the settings that all of them share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, ProgressCallback, TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils import is_torch_tf32_available

from playground.methods import get_method
from playground.training.callbacks import SAMPLES, RunCallback
from playground.training.checkpoint import best, drop_torn, step_of
from playground.training.dataset import TrainingData
from playground.training.estimate import rows_a_step
from playground.training.events import EventWriter
from playground.training.internals import load_weights
from playground.training.model import optimiser_name
from playground.training.objectives.objective import Objective, Sample, Setup
from playground.training.spec import RunSpec


def train(
    model: Any,
    tokenizer: Any,
    objective: Objective,
    data: TrainingData,
    spec: RunSpec,
    run_dir: Path,
    events: EventWriter,
) -> RunCallback:
    """Train ``model`` in place, resuming from the newest complete checkpoint if there is one. Returns what was
    measured.

    At the end ``model`` holds the best weights by held-out loss, which may be those of an earlier checkpoint."""
    setup = Setup(model, tokenizer, data.train, data.validation, spec, _arguments(spec, len(data.train), run_dir))
    trainer = objective.trainer(setup)
    asked = [*data.questions, *[""] * len(data.validation)]
    samples = [Sample(question, row) for question, row in zip(asked, data.validation, strict=False)]
    callback = RunCallback(events, objective, setup, _distinct(samples), run_dir)
    callback.trainer = trainer
    trainer.add_callback(callback)
    for printer in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(printer)
    callback.resumed = checkpoint = drop_torn(run_dir)
    callback.load_scores()
    if checkpoint is None:
        callback.evaluate(0)
    elif (
        step_of(checkpoint) >= spec.steps or callback.stopped_improving
    ):  # only the end was missing; the Trainer would go on
        load_weights(trainer, checkpoint)
        callback.restore(TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME)))
        if callback.stopped_improving and callback.step < spec.steps:
            callback.stop_early()
        return callback
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    return callback


def take_best(callback: RunCallback, run_dir: Path) -> int:
    """Give the model the weights of its best checkpoint, if that is better than the newest. Returns their step."""
    found = best(run_dir)
    if found is None or callback.last_eval is None or found[1] >= callback.last_eval:
        return callback.step
    load_weights(callback.trainer, run_dir / "checkpoints" / f"checkpoint-{found[0]}")
    callback.last_eval = found[1]
    return found[0]


def _arguments(spec: RunSpec, rows: int, run_dir: Path) -> dict[str, Any]:
    """TrainingArguments of every Trainer, TRL's too."""
    method = get_method(spec.method)
    return {
        "output_dir": str(run_dir / "checkpoints"),
        "max_steps": spec.steps,
        "per_device_train_batch_size": min(rows_a_step(spec.objective, spec.batch_size), rows),
        "learning_rate": spec.lr,
        "lr_scheduler_type": "linear",
        "warmup_steps": min(3, spec.steps // 5),
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "steps",
        "save_steps": min(spec.save_steps, spec.steps),
        "save_total_limit": None,  # prune keeps the newest and the best
        "seed": spec.seed,
        "data_seed": spec.seed,
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "use_cpu": not torch.cuda.is_available(),
        "dataloader_pin_memory": torch.cuda.is_available(),
        "bf16": False,
        "tf32": True if method.whole and is_torch_tf32_available() else None,  # a whole model is in fp32
        "optim": optimiser_name(method),
    }


def _distinct(samples: list[Sample]) -> list[Sample]:
    """The first few, each question once; of raw text the first few rows."""
    found: dict[str, Sample] = {}
    for place, sample in enumerate(samples):
        found.setdefault(sample.question or str(place), sample)
    return list(found.values())[:SAMPLES]
