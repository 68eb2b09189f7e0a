"""Rendered examples -> one batch. Prompts are padded on the left and answers on the right, so that all answers begin in the
same column and the language-model head need only run from there on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from playground.data.render import Rendered

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
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        return {"input_ids": ids, "attention_mask": mask, "position_ids": positions, "labels": labels}


def answer_loss(model: Any, batch: dict[str, Any], items: Any | None = None) -> torch.Tensor:
    """Mean cross-entropy over the answers' tokens, in nats. ``items``: tokens to divide by (over accumulated batches)."""
    labels = batch["labels"]
    logits = model(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        position_ids=batch["position_ids"],
        logits_to_keep=labels.shape[1] + 1,
        use_cache=False,
    ).logits[:, :-1]
    total = torch.nn.functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]).float(), labels.reshape(-1), ignore_index=IGNORED, reduction="sum"
    )
    return total / (items if items is not None else (labels != IGNORED).sum())
