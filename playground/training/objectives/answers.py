"""Learning to write what the rows say: ``sft`` (answers to requests) and ``pretrain`` (raw text). transformers' Trainer, our loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import Trainer, TrainingArguments

from playground.training.batch import IGNORED, AnswerCollator, Collator, answer_loss, collator
from playground.training.buckets import Buckets
from playground.training.objectives.objective import Objective, Setup, Writes
from playground.training.objectives.rows import Row
from playground.training.recompute import save_memory


class AnswerTrainer(Trainer):
    """Loss on the answers' tokens only. Rows that are padded share their batches with rows as long as they are."""

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
        loss = answer_loss(model, inputs, num_items_in_batch)
        return (loss, None) if return_outputs else loss

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        rows: Any = self.train_dataset if train_dataset is None else train_dataset
        if not isinstance(self.data_collator, AnswerCollator):
            return super()._get_train_sampler(train_dataset)  # rows laid end to end, and packed ones, have no padding
        lengths = [row.tokens for row in rows]
        return Buckets(lengths, self.args.per_device_train_batch_size, self.args.data_seed or 0)

    def _get_num_items_in_batch(self, batch_samples: Any, device: Any) -> Any:
        """All answer tokens. The Trainer would leave out each row's first, as if these labels were still to be shifted."""
        return sum((batch["labels"] != IGNORED).sum() for batch in batch_samples).to(device)


class Answers(Writes):
    """Cross-entropy over the tokens that are learned."""

    def __init__(self, name: str) -> None:
        self._name = name

    def trainer(self, setup: Setup) -> Trainer:
        save_memory(setup.model, setup.spec)
        trainer = AnswerTrainer(
            model=setup.model,
            args=TrainingArguments(**setup.arguments),
            train_dataset=list(setup.rows),
            data_collator=collator(self._name, setup.tokenizer.pad_token_id, setup.model),
        )
        # The loss divides by the batch's answer tokens, as compute_loss is told.
        trainer.model_accepts_loss_kwargs = True
        return trainer

    def measure(self, trainer: Any, rows: Sequence[Row]) -> tuple[float, dict[str, float]]:
        return mean_loss(trainer.model, rows, trainer.args.per_device_train_batch_size, trainer.data_collator), {}


def mean_loss(model: Any, rows: Sequence[Any], batch_size: int, collate: Collator) -> float:
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


def make(name: str) -> Objective:
    return Answers(name)
