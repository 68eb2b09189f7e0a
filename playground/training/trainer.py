"""A checked file -> tokenised training and validation rows; the training loop over them: one Trainer, made by the
objective, with the settings that all of them share; and the callback that writes the run's events."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from transformers import PrinterCallback, TrainerCallback, TrainerState
from transformers.trainer import TRAINER_STATE_NAME

from playground.data.example import Checked, Example, Judged, Message, Passage, Preference, PromptOnly, question_of
from playground.data.render import LAST, Rendered, answer_by_answer, pack, render_asked, render_example
from playground.data.retrieval import add_passages, read_documents
from playground.data.split import MOST_HASHED, MOST_VALIDATION, hashes_of, part, split
from playground.errors import InputError, RunFailedError
from playground.library.card import read_run, united
from playground.methods import get_method
from playground.training.model import optimiser_name, peak_memory_bytes, precision
from playground.training.objectives import Marked, Objective, Pair, Row, Sample, Setup
from playground.training.run_files import (
    EventReader,
    EventWriter,
    best,
    drop_torn,
    mark_complete,
    prune,
    score_of,
    set_score,
    step_of,
)
from playground.training.spec import OBJECTIVES, RunSpec, rows_a_step

EVAL_ROWS = 16  # validation rows that are scored at every checkpoint: enough for a curve, cheap enough for two cores
SAMPLES = 3  # validation prompts that are answered at every checkpoint, always the same
QUESTION = 300  # characters of a prompt that an event repeats
Source = Example | Preference | Judged | Passage | PromptOnly


@dataclass(frozen=True)
class TrainingData:
    """train, validation: what the training loop reads. rows_*: rows of the person's file. learned: the record's
    hashes of the rows that are trained on. questions: what each of the validation rows asks, for a person;
    empty for raw text."""

    train: Sequence[Row]
    validation: Sequence[Row]
    rows_used: int
    rows_held_back: int
    rows_bad: int
    learned: dict[str, Any]
    questions: Sequence[str] = ()


def prepare(spec: RunSpec, checked: Checked, tokenizer: Any) -> TrainingData:
    """Raises RunFailedError when the file holds another kind of rows, or none that fits."""
    holds = OBJECTIVES[spec.objective]
    if checked.objective not in holds:
        kind, needs = checked.objective.replace("_", " "), " or ".join(holds).replace("_", " ")
        raise RunFailedError(f"{spec.data} holds {kind} rows; {spec.objective} needs {needs} rows.")
    documents = read_documents(Path(spec.docs_path)) if spec.docs_path else None
    left_out = set(spec.left_out)
    usable: list[Source] = [row for row in checked.usable if row.row not in left_out]
    tokenised: dict[int, list[Row]] = {}
    if spec.objective != "pretrain":
        for source in usable:
            asked = add_passages(source, documents) if documents and isinstance(source, Example) else source
            with suppress(InputError):  # its answer is longer than the limit
                tokenised[source.row] = rows_of(tokenizer, asked, spec)
        usable = [row for row in usable if row.row in tokenised]
    if not usable:
        words = f"No row of {spec.data} fits {spec.max_tokens} tokens. Raise the limit or shorten the answers."
        raise RunFailedError(words)
    validation, test = spec.split.get("validation"), spec.split.get("test", [])
    if validation is None:
        validation = split(usable, spec.seed, test=0).validation
    held = {*validation, *test}
    train_rows = [row for row in usable if row.row not in held]
    if not train_rows:
        words = f"{spec.data}: every row is held back and none is left to train on. Hold back fewer, or add rows."
        raise RunFailedError(words)
    validation_rows = part(usable, validation)
    validation_rows = validation_rows[
        :: max(1, math.ceil(len(validation_rows) / MOST_VALIDATION))
    ]  # a file's own has more

    def tokens(rows: Sequence[Source]) -> Sequence[Row]:
        if spec.objective == "pretrain":
            passages = [row for row in rows if isinstance(row, Passage)]
            return pack(tokenizer, passages, spec.max_tokens, together=not get_method(spec.method).virtual)
        return [one for row in rows for one in tokenised[row.row]]

    return TrainingData(
        train=tokens(train_rows),
        validation=tokens(validation_rows),
        rows_used=len(train_rows),
        rows_held_back=len(usable) - len(train_rows),
        rows_bad=checked.rows - len(usable) - len(left_out),
        learned=_learned(train_rows, spec),
        questions=[question_of(row.prompt) for row in validation_rows for _ in tokenised.get(row.row, ())],
    )


def _learned(rows: Sequence[Source], spec: RunSpec) -> dict[str, Any]:
    """Hashes of these rows and of those that the adapter which the run begins with was trained on. ``rows_known`` is
    False where that is not all."""
    own: dict[str, Any] = hashes_of(rows) | {"rows_known": len(rows) <= MOST_HASHED}
    return united([own, read_run(Path(spec.start_path))]) if spec.start_path else own


def rows_of(tokenizer: Any, source: Source, spec: RunSpec) -> list[Row]:
    """What ``source`` gives the objective of ``spec``: one row, or two for ``kto`` where the file holds pairs.
    Each is at most ``spec.max_tokens`` long: the prompt's start goes, the answer stays. Raises InputError when an
    answer alone is longer."""

    def answered(prompt: tuple[Message, ...], answer: str) -> Rendered:
        return render_example(tokenizer, Example((*prompt, Message("assistant", answer)), source.row), spec.max_tokens)

    if isinstance(source, Example):
        parts = answer_by_answer(tokenizer, source, spec.turns)
        return [
            render_example(tokenizer, one, spec.max_tokens, LAST if len(parts) > 1 else spec.turns) for one in parts
        ]
    if isinstance(source, PromptOnly):
        return [render_asked(tokenizer, source)]
    if isinstance(source, Judged):
        return [Marked(answered(source.prompt, source.completion), source.good)]
    if isinstance(source, Passage):
        return []
    chosen, rejected = (answered(source.prompt, answer) for answer in (source.chosen, source.rejected))
    kept = min(len(chosen.prompt_ids), len(rejected.prompt_ids))
    pair = Pair(_cut(chosen, kept), _cut(rejected, kept))
    return [Marked(pair.chosen, True), Marked(pair.rejected, False)] if spec.objective == "kto" else [pair]


def _cut(row: Rendered, kept: int) -> Rendered:
    """The row with the last ``kept`` tokens of its prompt."""
    gone = len(row.prompt_ids) - kept
    return row if not gone else replace(row, prompt_ids=row.prompt_ids[gone:], cut=row.cut + gone)


def train(setup: Setup, objective: Objective, data: TrainingData, run_dir: Path, events: EventWriter) -> RunCallback:
    """Train the model in place, from the newest complete checkpoint if there is one. Returns what was measured."""
    spec, trainer = setup.spec, objective.trainer(setup)
    callback = RunCallback(trainer, events, objective, setup, _samples(data), run_dir)
    trainer.add_callback(callback)
    trainer.remove_callback(PrinterCallback)
    checkpoint = callback.resumed
    if checkpoint is None:
        callback.evaluate(0)
    elif step_of(checkpoint) >= spec.steps or callback.stopped_improving:
        # only the end was missing; the Trainer would go on
        trainer._load_from_checkpoint(str(checkpoint))  # the weights, without the optimiser
        callback.on_train_begin(None, TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME)), None)
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
    callback.trainer._load_from_checkpoint(str(run_dir / "checkpoints" / f"checkpoint-{found[0]}"))
    callback.last_eval = found[1]
    return found[0]


def arguments_of(spec: RunSpec, rows: int, run_dir: Path) -> dict[str, Any]:
    """TrainingArguments of every Trainer, TRL's too."""
    method, a_step, used = get_method(spec.method), min(rows_a_step(spec.objective, spec.batch_size), rows), precision()
    return {
        "output_dir": str(run_dir / "checkpoints"),
        "max_steps": spec.steps,
        "per_device_train_batch_size": -(-a_step // spec.accumulate),
        "gradient_accumulation_steps": min(spec.accumulate, a_step),
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
        "use_cpu": used.device == "cpu",
        "dataloader_pin_memory": used.device == "cuda",
        **used.arguments(),
        "optim": optimiser_name(method),
    }


def _samples(data: TrainingData) -> list[Sample]:
    """The first few validation rows, each question once; of raw text the first few rows."""
    found: dict[str, Sample] = {}
    for place, row in enumerate(data.validation):
        question = data.questions[place] if place < len(data.questions) else ""
        found.setdefault(question or str(place), Sample(question, row))
    return list(found.values())[:SAMPLES]


@dataclass(eq=False)
class RunCallback(TrainerCallback):
    """Turns the Trainer's life into events (one a step, one an evaluation, one a complete checkpoint), measures it on
    held-out rows, and ends it when it gets no better.
    resumed: the checkpoint that the run goes on from. After the run: first_loss, last_loss, last_eval (of the newest
    weights), figures (first, last), tokens_per_s, step, stopped (why it ended early, "" if it did not)."""

    trainer: Any
    events: EventWriter
    objective: Objective
    setup: Setup
    samples: list[Sample]
    run_dir: Path
    first_loss: float | None = None
    last_loss: float | None = None
    last_eval: float | None = None
    figures: dict[str, dict[str, float]] = field(default_factory=dict)
    trained_s: float = 0.0
    steps_done: int = 0
    step: int = 0
    stopped: str = ""
    _tokens_seen: list[float] = field(default_factory=list)
    _scores: dict[int, float] = field(default_factory=dict)
    _started: float = 0.0

    def __post_init__(self) -> None:
        """Removes torn checkpoints, and reads the held-out losses that earlier workers measured up to ``resumed``."""
        self._tokens_a_row = sum(row.tokens for row in self.setup.rows) / len(self.setup.rows)
        self.resumed = drop_torn(self.run_dir)
        reached = step_of(self.resumed) if self.resumed is not None else -1
        for event in EventReader(self.run_dir).read():
            if event.get("event") == "eval" and event.get("loss") is not None and event["step"] <= reached:
                self._scores[event["step"]] = event["loss"]

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
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

    @property
    def stopped_improving(self) -> bool:
        """Whether the last ``early_stop`` measurements were all worse than, or as good as, the best before them."""
        patience = self.setup.spec.early_stop
        scores = [self._scores[step] for step in sorted(self._scores)]
        return bool(patience) and len(scores) > patience and min(scores[-patience:]) >= min(scores[:-patience])

    def stop_early(self) -> None:
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
        args = self.trainer.args
        a_step = self._tokens_a_row * float(args.per_device_train_batch_size * args.gradient_accumulation_steps)
        if (counted := len(self._tokens_seen) - 1) > 0:
            a_step = (self._tokens_seen[-1] - self._tokens_seen[0]) / counted
        return a_step * self.steps_done / self.trained_s

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
        prune(self.run_dir)  # before the next one is written: three on the disk at most
        self.evaluate(state.global_step, folder)
        prune(self.run_dir)
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
