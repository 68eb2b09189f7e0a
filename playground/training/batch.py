"""Rows -> one batch, and its loss. Prompts with answers are laid end to end (``flat.py``) where the base's forward pass is written out
for that (``lean.py``). Elsewhere prompts are padded on the left and answers on the right, so that all answers begin in the same column
and the language-model head need only run from there on. Packed raw text is one block."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

from playground.data.pack import Packed
from playground.data.render import Rendered
from playground.training.flat import FlatCollator
from playground.training.lean import fits, flat_loss

Collator = Callable[[Sequence[Any]], dict[str, Any]]
IGNORED = -100


@dataclass(frozen=True)
class AnswerCollator:
    """Builds ``input_ids``, ``attention_mask``, ``position_ids`` [rows, length], ``labels`` [rows, answer length].

    ``labels`` holds the answer columns only (the last ones); padding there is -100. pad_id fills both sides.
    """

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
class PackedCollator:
    """Builds ``input_ids``, ``position_ids`` [rows, length] and ``labels`` [rows, length - 1] of packed raw text.

    There is no attention mask: positions that begin anew keep documents (and the padding, a document of its own) apart, as
    transformers reads them. A document's first token has label -100.
    """

    pad_id: int

    def __call__(self, rows: Sequence[Packed]) -> dict[str, Any]:
        length = max(len(row.ids) for row in rows)
        ids = torch.full((len(rows), length), self.pad_id, dtype=torch.long)
        positions = torch.zeros_like(ids)
        labels = torch.full_like(ids, IGNORED)
        for index, row in enumerate(rows):
            ids[index, : len(row.ids)] = labels[index, : len(row.ids)] = torch.tensor(row.ids)
            bounds = (*row.starts, len(row.ids), length)
            for begin, end in pairwise(bounds):
                positions[index, begin:end] = torch.arange(end - begin)
                labels[index, begin : begin + 1] = IGNORED
        return {"input_ids": ids, "position_ids": positions, "labels": labels[:, 1:]}


def collator(objective: str, pad_id: int, model: Any) -> Collator:
    """The batch builder of an objective for this model."""
    if objective == "pretrain":
        return PackedCollator(pad_id)
    return FlatCollator() if fits(model) else AnswerCollator(pad_id)


def answer_loss(model: Any, batch: dict[str, Any], items: Any | None = None) -> torch.Tensor:
    """Mean cross-entropy over the tokens that have a label, in nats. ``items``: tokens to divide by (over accumulated batches)."""
    labels = batch["labels"]
    if "spans" in batch:
        return flat_loss(model, batch) / (items if items is not None else len(labels))
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
    return total / (items if items is not None else (labels != IGNORED).sum())
