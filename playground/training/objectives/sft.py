"""``sft`` (answers to requests) and ``pretrain`` (raw text): transformers' Trainer over batches and a loss of our own.

Prompts with answers are packed without padding (``fused/llama.py``) where the base's forward pass is written out for
that. Elsewhere prompts are padded on the left and answers on the right, so that all answers begin in the same column
and the language-model head need only run from there on. Raw text comes in blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import Sampler
from transformers import Trainer, TrainingArguments

from playground.data.render import Packed, Rendered
from playground.gpu.device import find_device
from playground.training.dataset import Row
from playground.training.fused.llama import PackedSequenceCollator, fits, packed_loss
from playground.training.objectives import Setup, Writes
from playground.training.processes import own_bytes
from playground.training.spec import RunSpec
from playground.training.trainer import LossTrainer

Collator = Callable[[Sequence[Any]], dict[str, Any]]
IGNORED = -100
WINDOW = 16
"""Batches whose rows are sorted by length together: enough to pad little, few enough to differ by epoch."""


@dataclass(frozen=True)
class AnswerCollator:
    """Builds ``input_ids``, ``attention_mask``, ``position_ids`` [rows, length], ``labels`` [rows, answer length].

    ``labels`` holds the answer columns only (the last ones); padding there is -100. pad_id fills both sides."""

    pad_id: int

    def __call__(self, rows: Sequence[Rendered]) -> dict[str, Any]:
        before = max(len(row.prompt_ids) for row in rows)
        after = max(len(row.completion_ids) for row in rows)
        ids = torch.full((len(rows), before + after), self.pad_id, dtype=torch.long)
        mask = torch.zeros_like(ids)
        labels = torch.full((len(rows), after), IGNORED, dtype=torch.long)
        for index, row in enumerate(rows):
            start, end = before - len(row.prompt_ids), before + len(row.completion_ids)
            ids[index, start:end] = torch.tensor(row.prompt_ids + row.completion_ids)
            mask[index, start:end] = 1
            labels[index, : len(row.completion_ids)] = torch.tensor(row.completion_ids)
            for begin, close in row.read:
                labels[index, begin:close] = IGNORED
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        return {"input_ids": ids, "attention_mask": mask, "position_ids": positions, "labels": labels}


@dataclass(frozen=True)
class TextBlockCollator:
    """Builds ``input_ids``, ``position_ids`` [rows, length] and ``labels`` [rows, length - 1] of packed raw text.

    There is no attention mask: positions that begin anew keep documents (and the padding, a document of its own) apart,
    as transformers reads them. A document's first token has label -100."""

    pad_id: int

    def __call__(self, rows: Sequence[Packed]) -> dict[str, Any]:
        length = max(len(row.ids) for row in rows)
        ids = torch.full((len(rows), length), self.pad_id, dtype=torch.long)
        positions = torch.zeros_like(ids)
        labels = torch.full_like(ids, IGNORED)
        for index, row in enumerate(rows):
            ids[index, : len(row.ids)] = labels[index, : len(row.ids)] = torch.tensor(row.ids)
            for begin, end in pairwise((*row.starts, len(row.ids), length)):
                positions[index, begin:end] = torch.arange(end - begin)
                labels[index, begin : begin + 1] = IGNORED
        return {"input_ids": ids, "position_ids": positions, "labels": labels[:, 1:]}


def collator(objective: str, pad_id: int, model: Any) -> Collator:
    """The batch builder of an objective for this model."""
    if objective == "pretrain":
        return TextBlockCollator(pad_id)
    return PackedSequenceCollator() if fits(model) else AnswerCollator(pad_id)


def answer_loss(model: Any, batch: dict[str, Any], items: Any | None = None) -> torch.Tensor:
    """Mean cross-entropy over the labels, in nats. items: tokens to divide by (over accumulated batches)."""
    labels = batch["labels"]
    if "spans" in batch:
        return packed_loss(model, batch) / (len(labels) if items is None else items)
    logits = model(
        input_ids=batch["input_ids"],
        attention_mask=batch.get("attention_mask"),
        position_ids=batch["position_ids"],
        logits_to_keep=labels.shape[1] + 1,
        use_cache=False,
    ).logits[:, :-1]
    total = torch.nn.functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]).float(), labels.reshape(-1), ignore_index=IGNORED, reduction="sum"
    )
    mean: torch.Tensor = total / (learned_tokens(batch) if items is None else items)
    return mean


def learned_tokens(batch: dict[str, Any]) -> torch.Tensor:
    """How many tokens of a batch count for its loss."""
    count: torch.Tensor = (batch["labels"] != IGNORED).sum()
    return count


def mean_loss(model: Any, rows: Sequence[Any], batch_size: int, collate: Collator) -> float:
    """Mean loss over all tokens with a label of ``rows``, in nats a token; the model's mode is put back."""
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    total, count = 0.0, 0
    with torch.no_grad():
        for start in range(0, len(rows), batch_size):
            batch = {key: value.to(device) for key, value in collate(rows[start : start + batch_size]).items()}
            items = int(learned_tokens(batch))
            total += float(answer_loss(model, batch)) * items
            count += items
    model.train(was_training)
    return total / count


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

    name = "sft"
    row: type[Rendered] | type[Packed] = Rendered

    def trainer(self, setup: Setup) -> Trainer:
        save_memory(setup.model, setup.spec)
        self._collate = collate = collator(self.name, setup.tokenizer.pad_token_id, setup.model)
        arguments, sampler = TrainingArguments(**setup.arguments), None
        if isinstance(collate, AnswerCollator):  # packed sequences have no padding
            lengths = [row.tokens for row in setup.rows]
            sampler = Buckets(lengths, arguments.per_device_train_batch_size, arguments.data_seed or 0)
        columns = {item.name: [getattr(row, item.name) for row in setup.rows] for item in fields(self.row)}
        return LossTrainer(
            loss=answer_loss,
            learned=learned_tokens,
            sampler=sampler,
            model=setup.model,
            args=arguments,
            train_dataset=Dataset.from_dict(columns),
            data_collator=lambda rows: collate([self.row(**row) for row in rows]),
        )

    def measure(self, trainer: Any, rows: Sequence[Row]) -> tuple[float, dict[str, float]]:
        return mean_loss(trainer.model, rows, trainer.args.per_device_train_batch_size, self._collate), {}


class Texts(Answers):
    """The same over every token of raw text."""

    name = "pretrain"
    row = Packed


MADE = {"sft": Answers, "pretrain": Texts}


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
