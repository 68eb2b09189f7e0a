"""A callback that writes the run's events, measures it on held-out rows, and ends it when it gets no better."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from playground.training.checkpoint import mark_complete, prune, score_of, set_score, step_of
from playground.training.events import EventReader, EventWriter
from playground.training.objectives.objective import Objective, Sample, Setup
from playground.training.processes import peak_memory_bytes

EVAL_ROWS = 16
"""Validation rows that are scored at every checkpoint: enough for a curve, cheap enough for two cores."""
SAMPLES = 3
"""Validation prompts that are answered at every checkpoint, always the same."""
QUESTION = 300
"""Characters of a prompt that an event repeats."""


class RunCallback(TrainerCallback):
    """Turns the Trainer's life into events: one a step, one an evaluation, one a complete checkpoint.

    After the run: first_loss, last_loss, last_eval (of the newest weights), figures (first, last), tokens_per_s, step,
    stopped (why it ended early, "" if it did not)."""

    def __init__(
        self, events: EventWriter, objective: Objective, setup: Setup, samples: list[Sample], run_dir: Path
    ) -> None:
        self.events, self.objective, self.setup, self.samples = events, objective, setup, samples
        self.run_dir = run_dir
        self.trainer: Any = None
        self.first_loss: float | None = None
        self.last_loss: float | None = None
        self.last_eval: float | None = None
        self.figures: dict[str, dict[str, float]] = {}
        self.trained_s = 0.0
        self.steps_done = 0
        self.step = 0
        self.stopped = ""
        self.resumed: Path | None = None
        self._tokens_a_row = sum(row.tokens for row in setup.rows) / len(setup.rows)
        self._tokens_seen: list[float] = []
        self._scores: dict[int, float] = {}
        self._started = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.restore(state)

    def restore(self, state: Any) -> None:
        """Restore what a checkpoint has measured, and score it if the worker before was killed ahead of that."""
        if self.resumed is None:
            return
        self.step = step_of(self.resumed)
        logged = [entry for entry in state.log_history if "loss" in entry]
        if logged:
            self.first_loss, self.last_loss = float(logged[0]["loss"]), float(logged[-1]["loss"])
            self.figures = {"first": self._of(logged[0]), "last": self._of(logged[-1])}
        self.last_eval = score_of(self.resumed)
        if self.last_eval is None:
            self.evaluate(self.step, self.resumed)

    def load_scores(self) -> None:
        """The held-out losses that earlier workers measured up to the checkpoint that this one resumes from."""
        if self.resumed is not None:
            for event in EventReader(self.run_dir).read():
                scored = event.get("event") == "eval" and event.get("loss") is not None
                if scored and event["step"] <= step_of(self.resumed):
                    self._scores[event["step"]] = event["loss"]

    @property
    def stopped_improving(self) -> bool:
        """Whether the last ``early_stop`` measurements were all worse than, or as good as, the best before them."""
        patience = self.setup.spec.early_stop
        scores = [self._scores[step] for step in sorted(self._scores)]
        return bool(patience) and len(scores) > patience and min(scores[-patience:]) >= min(scores[:-patience])

    def stop_early(self) -> None:
        """Write the ``stopped`` event."""
        best = min(self._scores, key=lambda step: (self._scores[step], step))
        count = self.setup.spec.early_stop
        times = "once" if count == 1 else f"{count} times in a row"
        self.stopped = (
            f"Stopped at step {self.step}: the held-out loss got no better {times}. It was best at step {best}."
        )
        self.events.write("stopped", step=self.step, best_step=best, message=self.stopped)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._started = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trained_s += time.monotonic() - self._started
        self.steps_done += 1

    @property
    def tokens_per_s(self) -> float | None:
        """What the Trainer counted, where it writes its own replies; else rows times their mean length."""
        if not self.trained_s:
            return None
        if len(self._tokens_seen) > 1:
            return (
                (self._tokens_seen[-1] - self._tokens_seen[0])
                / (len(self._tokens_seen) - 1)
                * self.steps_done
                / self.trained_s
            )
        return self._tokens_a_row * self.trainer.args.per_device_train_batch_size * self.steps_done / self.trained_s

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if not logs or "loss" not in logs:
            return
        self.step = state.global_step
        self.last_loss = float(logs["loss"])
        figures = self._of(logs)
        if self.first_loss is None:
            self.first_loss = self.last_loss
        self.figures = {"first": self.figures.get("first", figures), "last": figures}
        if "completions/mean_length" in logs and "num_tokens" in logs:
            self._tokens_seen.append(float(logs["num_tokens"]))
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
            memory_bytes=peak_memory_bytes(),
            **({"figures": figures} if figures else {}),
        )

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        mark_complete(folder)
        self.events.write("saved", step=state.global_step)
        prune(folder.parent.parent)  # before the next one is written: three on the disk at most
        self.evaluate(state.global_step, folder)
        prune(folder.parent.parent)
        if self.stopped_improving and state.global_step < state.max_steps:
            self.stop_early()
            control.should_training_stop = True

    def evaluate(self, step: int, folder: Path | None = None) -> None:
        """Score the held-out rows and show what is answered; ``folder``: the checkpoint that holds these weights."""
        if not self.setup.validation:
            return
        loss, figures = self.objective.measure(self.trainer, self.setup.validation[:EVAL_ROWS])
        self.last_eval, self._scores[step] = loss, loss if math.isfinite(loss) else math.inf
        figures = self._of(figures)
        self.events.write("eval", step=step, loss=loss, **({"figures": figures} if figures else {}))
        if folder is not None and math.isfinite(loss):
            set_score(folder, loss)
        said = self.objective.answers(self.trainer, self.setup.tokenizer, self.samples)
        for index, (sample, text) in enumerate(zip(self.samples, said, strict=True)):
            self.events.write("sample", step=step, index=index, prompt=sample.question[:QUESTION], text=text)

    def _of(self, logs: Mapping[str, Any]) -> dict[str, float]:
        """The objective's own figures among others; what is not a finite number is left out."""
        found = {name: logs.get(name) for name in self.objective.figures}
        return {
            name: round(float(value), 6)
            for name, value in found.items()
            if isinstance(value, int | float) and math.isfinite(value)
        }
