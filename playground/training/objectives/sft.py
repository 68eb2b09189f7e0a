"""``sft`` (answers to requests) and ``pretrain`` (raw text): transformers' Trainer, our loss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import Sampler
from transformers import Trainer, TrainingArguments

from playground.gpu.device import find_device
from playground.training.collator import IGNORED, AnswerCollator, Collator, answer_loss, collator
from playground.training.internals import LossTrainer
from playground.training.objectives.objective import Objective, Row, Setup, Writes
from playground.training.processes import own_bytes
from playground.training.spec import RunSpec

WINDOW = 16
"""Batches whose rows are sorted by length together: enough to pad little, few enough to differ by epoch."""


class Buckets(Sampler[int]):
    """Row numbers of padded rows, ``batch_size`` neighbours of like length a batch; the batches come in random order.
    Every epoch holds each row once and draws anew from (seed, epoch), so a resumed run sees what the uninterrupted one
    would have seen."""

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self._lengths, self._batch_size, self._seed, self._epoch = lengths, batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self._epoch)
        drawn = torch.randperm(len(self._lengths), generator=generator).tolist()
        size, window = self._batch_size, self._batch_size * WINDOW
        full = len(drawn) - len(drawn) % size  # the rows that are left over make the last batch, whatever their lengths
        batches = []
        for start in range(0, full, window):
            part = sorted(drawn[start : min(start + window, full)], key=lambda row: self._lengths[row])
            batches += [part[at : at + size] for at in range(0, len(part), size)]
        for place in torch.randperm(len(batches), generator=generator).tolist():
            yield from batches[place]
        yield from drawn[full:]


class Answers(Writes):
    """Cross-entropy over the tokens that are learned."""

    def __init__(self, name: str) -> None:
        self._name = name

    def trainer(self, setup: Setup) -> Trainer:
        save_memory(setup.model, setup.spec)
        collate = collator(self._name, setup.tokenizer.pad_token_id, setup.model)
        arguments, sampler = TrainingArguments(**setup.arguments), None
        if isinstance(collate, AnswerCollator):  # packed sequences have no padding
            lengths = [row.tokens for row in setup.rows]
            sampler = Buckets(lengths, arguments.per_device_train_batch_size, arguments.data_seed or 0)
        return LossTrainer(
            loss=answer_loss,
            learned=_learned,
            sampler=sampler,
            model=setup.model,
            args=arguments,
            train_dataset=list(setup.rows),
            data_collator=collate,
        )

    def measure(self, trainer: Any, rows: Sequence[Row]) -> tuple[float, dict[str, float]]:
        return mean_loss(trainer.model, rows, trainer.args.per_device_train_batch_size, trainer.data_collator), {}


def _learned(batch: dict[str, Any]) -> torch.Tensor:
    return (batch["labels"] != IGNORED).sum()


def mean_loss(model: Any, rows: Sequence[Any], batch_size: int, collate: Collator) -> float:
    """Mean loss over all tokens with a label of ``rows``, in nats a token; the model's mode is put back."""
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    total, count = 0.0, 0
    with torch.no_grad():
        for start in range(0, len(rows), batch_size):
            batch = {key: value.to(device) for key, value in collate(rows[start : start + batch_size]).items()}
            items = int(_learned(batch))
            total += float(answer_loss(model, batch)) * items
            count += items
    model.train(was_training)
    return total / count


def exceeds(estimated_bytes: int, limit_bytes: int, free_bytes: int) -> bool:
    """Whether a run's estimate goes past its own limit (0 = it has none), or past what is free for it."""
    return estimated_bytes > (min(limit_bytes, free_bytes) if limit_bytes else free_bytes)


def save_memory(model: Any, spec: RunSpec) -> bool:
    """Switch on activation checkpointing where the run would not fit otherwise: a third slower. Returns whether it is
    on.

    Keys and values that stand in a cache before the text cannot be recomputed; such a model stays as it is."""
    held = torch.cuda.memory_reserved() if torch.cuda.is_available() else own_bytes("VmRSS") or 0
    if not exceeds(spec.estimated_memory_bytes, spec.limit_memory_bytes, find_device().free_bytes + held):
        return False
    if getattr(model, "in_cache", False):
        return False
    model.recompute = True
    base = model.get_base_model() if hasattr(model, "peft_config") else model
    if getattr(base, "supports_gradient_checkpointing", False):
        enable = getattr(base, "activation_checkpointing_enable", None) or base.gradient_checkpointing_enable
        enable({"use_reentrant": False})  # its newer name, its older
    return True


def make(name: str) -> Objective:
    return Answers(name)
