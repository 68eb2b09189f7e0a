"""Learning from pairs of answers: ``dpo`` (Rafailov et al. 2023, arXiv:2305.18290) and ``orpo`` (Hong et al. 2024,
arXiv:2403.07691); from single answers that were found good or bad: ``kto`` (Ethayarajh et al. 2024, arXiv:2402.01306).
And TRL's trainers as this project uses them.

Rows reach TRL as our renderer's token ids, so that what is trained on is what is asked later; TRL would render and
tokenise prompt and answer in its own way. Nothing is sent anywhere, and no model card is written beside the
checkpoints.
"""

from __future__ import annotations

import contextlib
import logging
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from datasets import Dataset
from transformers import Trainer
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

from playground.errors import RunFailedError
from playground.training.objectives import Marked, Pair, Row, Setup, Writes, collated

logging.getLogger("trl").setLevel(logging.ERROR)

FIGURES = ("rewards/accuracies", "rewards/margins", "rewards/chosen", "rewards/rejected")
FEWEST = 2
"""Rows in a batch of kto: an answer is compared with another row's."""
HEAVIEST = 10.0
"""How much more than the other kind one kind of kto's answers may weigh."""


class Tokenised:
    """Mixed in before one of TRL's trainers: rows are token ids already."""

    def _prepare_dataset(self, dataset: Any, *rest: Any) -> Any:
        return dataset

    def _send_telemetry(self) -> None:
        """TRL would send its makers the kind of model and data."""

    def create_model_card(self, *rest: Any, **named: Any) -> None:
        """The card is ours, and written once, when the adapter is published."""


def build(
    trainer: Callable[..., Any],
    config: Callable[..., Any],
    setup: Setup,
    rows: list[dict[str, Any]],
    *,
    copied: bool = False,
    arguments: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Any:
    """One of TRL's trainers. copied: see ``_given_model``; arguments: of the trainer; settings: of its config."""
    # TRL computes the forward pass twice to save memory unless told otherwise
    own = {"gradient_checkpointing": False, "disable_dropout": True}
    with _given_model(setup, copied=copied):
        return trainer(
            model=setup.model,
            args=config(**{**setup.arguments, **own, **settings}),
            train_dataset=Dataset.from_list(rows) if type(rows) is list else rows,  # orpo's stand in for a data set
            processing_class=setup.tokenizer,
            **(arguments or {}),
        )


@contextlib.contextmanager
def _given_model(setup: Setup, *, copied: bool) -> Iterator[None]:
    """While a trainer is built that compares with a reference: the model stays as it was made.

    1. TRL lays a copy of every adapter beside it as its reference. That is right for one that has learned already
       (``copied``); for a new one the reference is the base, reached by switching the adapter off, and a copy of some
       kinds would change the base's weights.
    2. It turns the trained weights of a 4-bit base into bf16, which many processors compute a hundred times slower.
    """
    model = setup.model
    weights = dict(model.named_parameters())
    before = {name: weight.data for name, weight in weights.items() if weight.requires_grad}
    replaced = hasattr(model, "peft_config") and not copied
    if replaced:
        model.add_adapter = lambda *rest, **named: None
        model.get_parameter = lambda name: torch.empty_like(weights[name.replace(".ref.", ".default.")])
    try:
        yield
    finally:
        if replaced:
            del model.add_adapter, model.get_parameter
    for name, weight in model.named_parameters():
        if name in before:
            weight.data = before[name]


def measured_loss(trainer: Any, rows: Sequence[dict[str, Any]], names: Sequence[str]) -> tuple[float, dict[str, float]]:
    """The mean loss over ``rows``, and the named figures that the trainer logged on the way."""
    total = 0.0
    with evaluating(trainer):
        for batch, count in batches(trainer, rows):
            total += float(trainer.compute_loss(trainer.model, batch)) * count
    logged = trainer._metrics["eval"]
    found = {name: sum(logged[name]) / len(logged[name]) for name in names if logged.get(name)}
    logged.clear()  # the trainer would mix it into a later evaluation
    return total / len(rows), found


@contextlib.contextmanager
def evaluating(trainer: Any) -> Iterator[None]:
    """Dropout off, no gradients; the model's mode is put back."""
    was_training = trainer.model.training
    trainer.model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        trainer.model.train(was_training)


def batches(trainer: Any, rows: Sequence[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], int]]:
    """Collated rows on the model's device, and how many there are in each batch."""
    size = trainer.args.per_device_train_batch_size
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        yield collated(trainer, part), len(part)


class _DPO(Tokenised, DPOTrainer):
    pass


class Dpo(Writes):
    """The better answer becomes likelier than the other one, measured from where the model began."""

    figures: tuple[str, ...] = FIGURES

    def trainer(self, setup: Setup) -> Trainer:
        copied = bool(setup.spec.start)
        made: Trainer = build(_DPO, DPOConfig, setup, as_pairs(setup.rows), max_length=None, copied=copied)
        return made

    def measure(self, trainer: Any, rows: Sequence[Row]) -> tuple[float, dict[str, float]]:
        return measured_loss(trainer, as_pairs(rows), FIGURES)


def as_pairs(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """As TRL's collator for pairs takes them."""
    return [
        {"prompt_ids": r.prompt_ids, "chosen_ids": r.chosen.completion_ids, "rejected_ids": r.rejected.completion_ids}
        for r in rows
        if isinstance(r, Pair)
    ]


class _ORPO(Tokenised, ORPOTrainer):
    """ORPO's NLL part is taken over prompt and answer, as TRL computes it."""

    def tokenize_row(self, feature: Any, model: Any = None) -> Any:
        """Rows come with their tokens; the prompt's are not learned in the part about odds."""
        prompt = feature["prompt_ids"]
        row: dict[str, Any] = {"prompt_input_ids": prompt, "prompt_attention_mask": [1] * len(prompt)}
        for side in ("chosen", "rejected"):
            ids = prompt + feature[f"{side}_ids"]
            row[f"{side}_input_ids"], row[f"{side}_attention_mask"] = ids, [1] * len(ids)
            row[f"{side}_labels"] = [-100] * len(prompt) + feature[f"{side}_ids"]
        return row


class _Rows(list[Any]):
    """ORPO's trainer maps its rows three times: twice for what is done already, once to ``tokenize_row``."""

    def map(self, function: Any, **named: Any) -> _Rows:
        return _Rows(function(row) for row in self) if getattr(function, "__name__", "") == "tokenize_row" else self


class Orpo(Writes):
    """Fine-tuning on the better answer, with a price on the odds of the other one; no reference model."""

    figures: tuple[str, ...] = (*FIGURES, "nll_loss", "log_odds_ratio")

    def trainer(self, setup: Setup) -> Trainer:
        rows, longest = _Rows(as_pairs(setup.rows)), setup.spec.max_tokens
        made: Trainer = build(_ORPO, ORPOConfig, setup, rows, max_length=longest)
        return made

    def measure(self, trainer: Any, rows: Sequence[Row]) -> tuple[float, dict[str, float]]:
        total = 0.0
        sums = dict.fromkeys(self.figures, 0.0)
        with evaluating(trainer):
            for batch, count in batches(trainer, [trainer.tokenize_row(row) for row in as_pairs(rows)]):
                loss, figures = trainer.get_batch_loss_metrics(trainer.model, batch, "eval")
                total += float(loss) * count
                for name in sums:
                    sums[name] += figures[f"eval_{name}"] * count
        return total / len(rows), {name: value / len(rows) for name, value in sums.items()}


class _KTO(Tokenised, KTOTrainer):
    pass


class Kto(Writes):
    """Good answers become likelier, bad ones less likely, each against the drift of the batch."""

    figures: tuple[str, ...] = ("rewards/chosen", "rewards/rejected", "rewards/margins", "kl")

    def trainer(self, setup: Setup) -> Trainer:
        rows = [row for row in setup.rows if isinstance(row, Marked)]
        if len(rows) < FEWEST:
            raise RunFailedError(
                f"kto compares answers within a batch and needs {FEWEST} rows; there is {len(rows)}. Add rows."
            )
        size = max(FEWEST, setup.arguments["per_device_train_batch_size"])
        random.Random(setup.spec.seed).shuffle(rows)  # the trainer takes them in order: each names its neighbour
        good = sum(row.good for row in rows)
        options = {"per_device_train_batch_size": size, "max_length": None, **_weights(good, len(rows) - good)}
        copied = bool(setup.spec.start)
        made: Trainer = build(_KTO, KTOConfig, setup, as_marked(rows, size), copied=copied, **options)
        return made

    def measure(self, trainer: Any, rows: Sequence[Row]) -> tuple[float, dict[str, float]]:
        marked = as_marked([row for row in rows if isinstance(row, Marked)], trainer.args.per_device_train_batch_size)
        return measured_loss(trainer, marked, self.figures)


def _weights(good: int, bad: int) -> dict[str, Any]:
    """What the two kinds weigh, so that neither is drowned out by the other (equation 8: a ratio from 1 to 4/3)."""
    if not good or not bad:
        return {}
    return {
        "desirable_weight": min(HEAVIEST, max(1.0, bad / good)),
        "undesirable_weight": min(HEAVIEST, max(1.0, good / bad)),
    }


def as_marked(rows: Sequence[Marked], size: int) -> list[dict[str, Any]]:
    """As TRL's collator takes them, in batches of ``size``: each row carries the answer of the one before it in its
    batch, the first that of the last, for the drift (KL) of the batch. A batch of one borrows from the row before."""
    made: list[dict[str, Any]] = []
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        for place, row in enumerate(part):
            other = part[place - 1] if len(part) > 1 else rows[start - 1]
            ids = {"completion_ids": row.answer.completion_ids, "KL_completion_ids": other.answer.completion_ids}
            made.append({"prompt_ids": row.prompt_ids, **ids, "label": row.good})
    return made


MADE = {"dpo": Dpo, "orpo": Orpo, "kto": Kto}
