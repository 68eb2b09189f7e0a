"""transformers' Trainer with our own collator and loss, and a callback that writes the run's events."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from playground.data.pack import Packed
from playground.data.render import Rendered
from playground.training.batch import IGNORED, AnswerCollator, PackedCollator, answer_loss, collator
from playground.training.checkpoint import drop_torn, mark_complete, prune, score_of, set_score, step_of
from playground.training.events import EventWriter
from playground.training.spec import RunSpec

SAMPLE_TOKENS = 64
EVAL_ROWS = 16
"""Validation rows that are scored at every checkpoint: enough for a curve, cheap enough for two cores."""


class AnswerTrainer(Trainer):
    """Loss on the answers' tokens only."""

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
        loss = answer_loss(model, inputs, num_items_in_batch)
        return (loss, None) if return_outputs else loss

    def _get_num_items_in_batch(self, batch_samples: Any, device: Any) -> Any:
        """All answer tokens. The Trainer would leave out each row's first, as if these labels were still to be shifted."""
        return sum((batch["labels"] != IGNORED).sum() for batch in batch_samples).to(device)


class EventCallback(TrainerCallback):
    """Turns the Trainer's life into events: one a step, one an evaluation, one a complete checkpoint."""

    def __init__(self, events: EventWriter, validation_loss: Any, say: Any, tokens_a_row: float, spec: RunSpec) -> None:
        self.events, self.validation_loss, self.say, self.spec = events, validation_loss, say, spec
        self.tokens_a_step = tokens_a_row * spec.batch_size
        self.first_loss: float | None = None
        self.last_loss: float | None = None
        self.last_eval: float | None = None
        self.trained_s = 0.0
        self.steps_done = 0
        self._started = 0.0
        self.resumed: Path | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.take_up(kwargs["model"], state)

    def take_up(self, model: Any, state: Any) -> None:
        """Go on from a checkpoint: what it has measured, and its score if the worker before was killed ahead of that."""
        if self.resumed is None:
            return
        losses = [float(entry["loss"]) for entry in state.log_history if "loss" in entry]
        if losses:
            self.first_loss, self.last_loss = losses[0], losses[-1]
        self.last_eval = score_of(self.resumed)
        if self.last_eval is None:
            self.evaluate(model, step_of(self.resumed), self.resumed)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._started = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trained_s += time.monotonic() - self._started
        self.steps_done += 1

    @property
    def tokens_per_s(self) -> float | None:
        return self.tokens_a_step * self.steps_done / self.trained_s if self.trained_s else None

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if not logs or "loss" not in logs:
            return
        self.last_loss = float(logs["loss"])
        if self.first_loss is None:
            self.first_loss = self.last_loss
        left = (state.max_steps - state.global_step) * self.trained_s / max(1, self.steps_done)
        self.events.write(
            "step",
            step=state.global_step,
            steps=state.max_steps,
            loss=self.last_loss,
            lr=float(logs.get("learning_rate", 0.0)),
            grad_norm=float(logs.get("grad_norm", 0.0)),
            tokens_per_s=round(self.tokens_per_s or 0.0, 1),
            seconds_left=round(left, 1),
        )

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        mark_complete(folder)
        self.events.write("saved", step=state.global_step)
        prune(folder.parent.parent)  # before the next one is written: three on the disk at most
        self.evaluate(kwargs["model"], state.global_step, folder)
        prune(folder.parent.parent)

    def evaluate(self, model: Any, step: int, folder: Path | None = None) -> None:
        """Score the held-out rows; ``folder``: the checkpoint that holds these weights."""
        loss = self.validation_loss(model)
        if loss is not None:
            self.last_eval = loss
            self.events.write("eval", step=step, loss=loss)
            if folder is not None and math.isfinite(loss):
                set_score(folder, loss)
            self.events.write("sample", step=step, text=self.say(model))


def train(
    model: Any,
    tokenizer: Any,
    rows: Sequence[Rendered | Packed],
    validation: Sequence[Rendered | Packed],
    spec: RunSpec,
    run_dir: Path,
    events: EventWriter,
) -> EventCallback:
    """Train ``model`` in place, resuming from the newest complete checkpoint if there is one. Returns what was measured."""
    collate = collator(spec.objective, tokenizer.pad_token_id)
    arguments = TrainingArguments(
        output_dir=str(run_dir / "checkpoints"),
        max_steps=spec.steps,
        per_device_train_batch_size=min(spec.batch_size, len(rows)),
        learning_rate=spec.lr,
        lr_scheduler_type="linear",
        warmup_steps=min(3, spec.steps // 5),
        weight_decay=0.0,
        max_grad_norm=1.0,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=min(spec.save_steps, spec.steps),
        save_total_limit=None,  # prune keeps the newest and the best
        seed=spec.seed,
        data_seed=spec.seed,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        bf16=False,
        optim="adamw_torch",
    )

    def validation_loss(at: Any) -> float | None:
        return mean_loss(at, validation[:EVAL_ROWS], spec.batch_size, collate) if validation else None

    def say(at: Any) -> str:
        return sample_reply(at, tokenizer, validation[0])

    tokens = sum(row.tokens for row in rows) / len(rows)
    callback = EventCallback(events, validation_loss, say, tokens, spec)
    trainer = AnswerTrainer(
        model=model,
        args=arguments,
        train_dataset=list(rows),
        data_collator=collate,
        callbacks=[callback],
    )
    # The loss divides by the batch's answer tokens, as compute_loss is told.
    trainer.model_accepts_loss_kwargs = True
    for printer in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(printer)
    callback.resumed = checkpoint = drop_torn(run_dir)
    if checkpoint is None:
        callback.evaluate(trainer.model, 0)
    elif step_of(checkpoint) >= spec.steps:  # all that was missing is the end; the Trainer would take one step more
        trainer._load_from_checkpoint(str(checkpoint))
        callback.take_up(trainer.model, TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME)))
        return callback
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    return callback


def mean_loss(model: Any, rows: Sequence[Any], batch_size: int, collate: AnswerCollator | PackedCollator) -> float:
    """Mean loss over all tokens with a label of ``rows``, in nats a token; the model's mode is put back."""
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    total, count = 0.0, 0
    with torch.no_grad():
        for start in range(0, len(rows), batch_size):
            batch = {key: value.to(device) for key, value in collate(rows[start : start + batch_size]).items()}
            items = int((batch["labels"] >= 0).sum())
            total += float(answer_loss(model, batch)) * items
            count += items
    model.train(was_training)
    return total / count


def sample_reply(model: Any, tokenizer: Any, row: Rendered | Packed) -> str:
    """What the model answers to a validation row now (raw text: how it goes on): greedy, at most SAMPLE_TOKENS tokens."""
    was_training = model.training
    model.eval()
    ids = torch.tensor([row.prompt_ids], device=next(model.parameters()).device)
    with torch.no_grad():
        out = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=SAMPLE_TOKENS, do_sample=False, use_cache=True
        )
    model.train(was_training)
    return str(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))
